// The rotation of activations with AVX2.
#include "isa/avx2.h"

#include "rotation/transform.h"
