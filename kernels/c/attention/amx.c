// Attention with AMX: AVX-512, and tiles for many rows.
#include "isa/amx.h"

#include <float.h>
#include <math.h>

#define STREAM_ROWS 4
#define V_VECTORS(rows) ((rows) <= 2 ? 8 : 4)
#define TILE_ROWS 4
#define TILE_VECTORS 4
#define TILES_OF_AMX
#include "attention/attend.h"
