// Attention in plain C.
#include "isa/scalar.h"

#include <float.h>

#define STREAM_ROWS 1
#define V_VECTORS(rows) 32
#define TILE_ROWS 4
#define TILE_VECTORS 4
#include "attention/attend.h"
