"""What decoders of ggml's blocks share."""

from __future__ import annotations

import numpy as np

# The arrays of a QuantLinear (linear.py) by name, with a row for each block instead of each row of the matrix.
Decoded = dict[str, np.ndarray]


def halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """fp16 [n, 1]: the number that lies in each block at byte `at`."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float16)
