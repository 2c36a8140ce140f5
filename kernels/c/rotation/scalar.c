// The rotation of activations in plain C.
#include "isa/scalar.h"

#include "rotation/transform.h"
