"""Grid: what is known of a quantized layer before its codes are read. And which groups the layout keeps exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...common.format import GROUPS, TERNARY, ZERO_UNITS, symmetric_zero
from ..linear import QuantLinear

# ggml's Q8_0, the type of layers with 8 bits.
Q8_BITS, Q8_GROUP = 8, 32
# What is_known_group accepts, for messages.
KNOWN_GROUPS = f"{', '.join(map(str, GROUPS))}, a multiple of one of them, or -1"
# A ternary weight is code - TERNARY_ZERO, times a scale; code 0 is not used.
TERNARY_BITS = TERNARY.bits
TERNARY_ZERO = symmetric_zero(TERNARY_BITS) // ZERO_UNITS
_IN_BLOCK = re.compile(r"(?:^|\.)layers\.\d+\.")


@dataclass(frozen=True, eq=False)
class Grid:
    """The integer grid of one layer: `bits` and `group` of its QuantLinear, whether it has zero-points or minima.

    tensor_scale  with group 0: the one scale of all weights of the layer
    column_order  int [K]: column i of the QuantLinear belongs to input column_order[i]; None: they are in order
    ternary       no code is 0: with 2 bits and no zero-points, all weights are -1, 0 or +1 times a scale
    minima        what it stores are fp16 minima, because the zero-points are no sixteenths
    """

    bits: int
    group: int
    asymmetric: bool
    tensor_scale: float | None = None
    column_order: np.ndarray | None = None
    ternary: bool = False
    minima: bool = False

    @property
    def name(self) -> str:
        """For people and for tmac.source: `w2g64 asymmetric`."""
        if not self.group:
            return f"w{self.bits} one scale per tensor"
        kind = "asymmetric with minima" if self.minima else "asymmetric" if self.asymmetric else "symmetric"
        return f"w{self.bits}g{self.group} {kind}"

    def weights(self, linear: QuantLinear) -> np.ndarray:
        """The weights of `linear`, some rows of the layer: float32 [M, K], columns in the order of the inputs."""
        weights = linear.dequantize()
        if self.tensor_scale is not None:
            weights *= np.float32(self.tensor_scale)
        if self.column_order is None:
            return weights
        ordered = np.empty_like(weights)
        ordered[:, self.column_order] = weights
        return ordered


def in_block(module: str) -> bool:
    """Whether a layer is part of one of the model's blocks; embedding and output head are not."""
    return bool(_IN_BLOCK.search(module))


def is_known_group(size: int) -> bool:
    """Whether the layout keeps groups of `size` columns exactly: multiples of its own, and -1 (one per row)."""
    return size == -1 or (size > 0 and size % GROUPS[0] == 0)
