"""Compares logits."""

import numpy as np

# Attention in float32, so that the kernels under test are the only rounding.
FLOAT_ATTENTION = ("-fa", "off", "-ctk", "f32", "-ctv", "f32")


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    """Sum of squared errors over sum of squared expected values, in float64."""
    expected = expected.astype(np.float64)
    return float(np.square(found - expected).sum() / np.square(expected).sum())
