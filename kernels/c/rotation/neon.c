// The rotation of activations with NEON.
#include "isa/neon.h"

#include "rotation/transform.h"
