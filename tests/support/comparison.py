"""Compares logits."""

import numpy as np

# Attention in float32, so that the kernels under test are the only rounding.
FLOAT_ATTENTION = ("-fa", "off", "-ctk", "f32", "-ctv", "f32")

# How far logits of a tiny random model may be from those of the same weights in floats. Without AMX prompts round
# activations to 8 bits, as llama.cpp does with these weights in Q8_0: that has 3.4e-4 with a tiny Llama, and 6.8e-3
# with a tiny Qwen3.5, whose random delta nets make more of it (T-MAC on a Zen 5: 2.1e-4, and up to 2.9e-3).
ROUNDED, ROUNDED_DELTA_NETS = 1e-3, 6.8e-3


def rounding_limit(architecture: str) -> float:
    """The limit for a model of this architecture of llama.cpp."""
    return ROUNDED_DELTA_NETS if architecture in ("qwen35", "qwen35moe", "qwen3next") else ROUNDED


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    """Sum of squared errors over sum of squared expected values, in float64."""
    expected = expected.astype(np.float64)
    return float(np.square(found - expected).sum() / np.square(expected).sum())
