// Steps: how many units the entries of some tables stand for. Gives: step_for.
#pragma once

#include "activations/vector.h"

// 1..TMAC_LARGEST_STEP: how many units the entries of a group stand for, when the block's largest sum takes the largest
// step.
TMAC_INLINE int step_for(float top, float steps_per_value) {
    const int step = (int) ceilf(top * steps_per_value);
    return step < 1 ? 1 : step > TMAC_LARGEST_STEP ? TMAC_LARGEST_STEP : step;
}
