"""Test matrices and the two models that kernels are held against: exact integers and float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tmac.convert.checkpoint import QuantLinear
from tmac.convert.layout import pack
from tmac.kernels.spec import WeightType
from tmac.kernels.native import Tables


@dataclass(frozen=True)
class Matrix:
    """One packed matrix, the codes it was packed from and float64 W[M, K]."""

    linear: QuantLinear
    packed: np.ndarray
    weights: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.linear.codes.shape


def zero_points(linear: QuantLinear) -> np.ndarray:
    """Zero-points float64 [M, K / group]."""
    if linear.zeros is None:
        return np.full(linear.scales.shape, 0.5 if linear.bits == 1 else 2.0 ** (linear.bits - 1))
    return linear.zeros / 16.0


def make(
    weight_type: WeightType, rows: int, cols: int, rng: np.random.Generator, codes: np.ndarray | None = None
) -> Matrix:
    """Random scales and zero-points (every 4.4 value); random codes where none are given."""
    groups = cols // weight_type.group
    if codes is None:
        codes = rng.integers(0, 1 << weight_type.bits, (rows, cols))
    scales = (rng.choice([-1, 1], (rows, groups)) * rng.uniform(0.001, 0.1, (rows, groups))).astype(np.float16)
    zeros = rng.integers(0, 256, (rows, groups)).astype(np.uint8) if weight_type.zeros else None
    linear = QuantLinear(codes.astype(np.uint8), scales, zeros, weight_type.bits, weight_type.group)
    centred = linear.codes.astype(np.float64) - np.repeat(zero_points(linear), weight_type.group, axis=1)
    return Matrix(linear, pack(linear), centred * np.repeat(scales.astype(np.float64), weight_type.group, axis=1))


def entries_of(tables: Tables) -> np.ndarray:
    """Signed table entries int64 [K / 4, 16]."""
    return tables.entries.astype(np.int64) - 128


def integer_sums(linear: QuantLinear, tables: Tables) -> np.ndarray:
    """sum_b 2^b * (sum of looked-up signed entries) per row and table group of 32 columns: int64 [M, K / 32]."""
    rows, cols = linear.codes.shape
    entries = entries_of(tables)
    quads = linear.codes.reshape(rows, cols // 4, 4)
    total = np.zeros((rows, cols // 4), np.int64)
    for plane in range(linear.bits):
        nibble = ((quads >> plane & 1) << np.arange(4)).sum(axis=2)
        total += entries[np.arange(cols // 4), nibble] << plane
    return total.reshape(rows, cols // 32, 8).sum(axis=2)


def model_of_tables(linear: QuantLinear, tables: Tables) -> np.ndarray:
    """What exact arithmetic makes of the same rounded tables: float64 [M]."""
    half_scale, sums = tables.half_scale.astype(np.float64), tables.sum.astype(np.float64)
    per_group = linear.group // 32
    looked_up = (integer_sums(linear, tables) * half_scale).reshape(len(linear.codes), -1, per_group).sum(axis=2)
    sum_x = sums.reshape(-1, per_group).sum(axis=1)
    half_max_code = 0.5 * ((1 << linear.bits) - 1)
    return ((looked_up + (half_max_code - zero_points(linear)) * sum_x) * linear.scales.astype(np.float64)).sum(axis=1)
