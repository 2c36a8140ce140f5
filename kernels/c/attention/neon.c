// Attention with NEON: 32 registers of 4 floats.
#include "isa/neon.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define STREAM_ROWS 2
#define V_VECTORS(rows) ((rows) == 1 ? 16 : 8)
#define TILE_ROWS 6
#define TILE_VECTORS 4
#include "attention/attend.h"
