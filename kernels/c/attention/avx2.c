// Attention with AVX2: 16 registers of 8 floats.
#include "isa/avx2.h"

#include <float.h>
#include <math.h>

#define STREAM_ROWS 2
#define V_VECTORS(rows) ((rows) == 1 ? 8 : 4)
#define TILE_ROWS 6
#define TILE_VECTORS 2
#include "attention/attend.h"
