// The rotation of activations with AVX-512.
#include "isa/avx512.h"

#include "rotation/transform.h"
