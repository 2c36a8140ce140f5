"""A checkpoint folder as lazy tensors, and QuantLinear, the one type between the stages of a conversion.

Comes in: config.json and safetensors files (one, or shards named by an index). Goes out: tensors, read one at a
time. Headers are checked completely when the folder is opened; no tensor byte is read before it is asked for.
Source: the safetensors format description, https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class QuantLinear:
    """One linear layer W[M, K] (M outputs, K inputs) on an integer grid.

    W[m, k] = scales[m, k // group] * (codes[m, k] - zeros[m, k // group] / 16)

    codes   uint8 [M, K], each below 2**bits
    scales  float16 [M, K / group]
    zeros   uint8 [M, K / group], 4.4 fixed point (16 = 1.0); None for the symmetric grid, whose zero-point is
            0.5, 2, 4 or 8 for 1, 2, 3 or 4 bits
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    bits: int
    group: int

    def dequantize(self) -> np.ndarray:
        """W as float32 [M, K]. Exact: a product of 11 and at most 8 significant bits."""
        symmetric = 0.5 if self.bits == 1 else float(1 << (self.bits - 1))
        zeros = np.float32(symmetric) if self.zeros is None else self.zeros[..., None] * np.float32(1 / 16)
        grouped = self.codes.reshape(len(self.codes), -1, self.group).astype(np.float32)
        return ((grouped - zeros) * self.scales[..., None].astype(np.float32)).reshape(self.codes.shape)

    def take_rows(self, order: np.ndarray) -> QuantLinear:
        """The same layer with row i taken from row order[i]; codes, scales and zeros move together."""
        zeros = None if self.zeros is None else self.zeros[order]
        return QuantLinear(self.codes[order], self.scales[order], zeros, self.bits, self.group)
