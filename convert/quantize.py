"""Fresh quantization of float weights to the T-MAC 4-bit grid, for an output head that the checkpoint has in floats."""

from __future__ import annotations

import numpy as np

from .checkpoint import QuantLinear

W4_BITS, W4_GROUP = 4, 32
# Candidates around the scale that maps the largest magnitude to -8: smaller ones clip it, larger ones round coarser.
_SCALE_FACTORS = np.linspace(0.8, 1.15, 15, dtype=np.float32)


def quantize_w4(weights: np.ndarray) -> QuantLinear:
    """Rounds float32 [M, K] (K a multiple of 32) to symmetric 4-bit codes in groups of 32.

    Of 15 scales per group, the one with the least squared error is kept; the error is that of the fp16 scale.
    """
    groups = weights.astype(np.float32).reshape(-1, W4_GROUP)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], axis=1)
    best_error = np.full((len(groups), 1), np.inf, np.float32)
    best_scale = np.zeros((len(groups), 1), np.float16)
    best_codes = np.full(groups.shape, 8, np.uint8)
    for factor in _SCALE_FACTORS:
        scale = (largest * (factor / -8)).astype(np.float16)
        inverse = np.divide(1, scale, out=np.zeros(scale.shape, np.float32), where=scale != 0, dtype=np.float32)
        steps = np.clip(np.rint(groups * inverse), -8, 7)
        error = np.square(steps * scale.astype(np.float32) - groups).sum(axis=1, keepdims=True)
        better = error < best_error
        np.copyto(best_error, error, where=better)
        np.copyto(best_scale, scale, where=better)
        np.copyto(best_codes, (steps + 8).astype(np.uint8), where=better)
    rows = len(weights)
    return QuantLinear(best_codes.reshape(weights.shape), best_scale.reshape(rows, -1), None, W4_BITS, W4_GROUP)
