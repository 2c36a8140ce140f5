// Attention with AVX-512: 32 registers of 16 floats.
#include "isa/avx512.h"

#include <float.h>
#include <math.h>

#define STREAM_ROWS 4
#define V_VECTORS(rows) ((rows) <= 2 ? 8 : 4)
#define TILE_ROWS 6
#define TILE_VECTORS 4
#include "attention/attend.h"
