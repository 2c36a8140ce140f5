"""Grid: what is known of a quantized layer before its codes are read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """The integer grid of one layer: the `bits` and `group` of its QuantLinear, and whether that has zero-points."""

    bits: int
    group: int
    asymmetric: bool
