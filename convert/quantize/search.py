"""The search for the best codes, scale and zero-point of each group of float weights, weighted by importance.

In: a float matrix, a T-MAC type, the importance of each input. Out: QuantLinear and its error. For each group of
columns the search minimizes sum(importance * (W - W')**2) over these candidates:

1. the range of the group, rounded plainly;
2. grids on which the weights may lie already;
3. narrower ranges, which clip the largest weights;
4. alternately the least-squares grid for the best codes, and the best codes on that grid.

Each candidate is judged by what would be stored (fp16 scales, zero-points in sixteenths), and the best is kept. So the
result is never worse than plain rounding, and weights that lie on a grid of the type come back exactly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from ...common.format import TmacType, symmetric_zero
from ..errors import ConvertError
from ..linear import LARGEST_HALF, QuantLinear

_LARGEST_ZERO = 255
# Weights per block: about five temporaries of 4 bytes per weight have to fit a second-level cache.
_BLOCK_WEIGHTS = 1 << 16
# Weights to give to `quantize` at a time: enough blocks for all threads; 64 MB as float32.
SLAB_WEIGHTS = 1 << 24
_REFINEMENTS = 3
# Fractions of a group's range to try, by bits: the fewer the codes, the more clipping pays. Symmetric grids shrink as a
# whole; with zero-points each end shrinks by itself. Found by experiment on normal and heavy-tailed weights.
_SHRINKS = {
    1: (0.3, 0.45, 0.6, 0.75, 0.9),
    2: (0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    3: (0.6, 0.7, 0.8, 0.9),
    4: (0.7, 0.8, 0.9),
}
_END_SHRINKS = {
    1: (0.15, 0.25, 0.4, 0.65),
    2: (0.4, 0.55, 0.7, 0.9),
    3: (0.6, 0.73, 0.85, 0.97),
    4: (0.76, 0.86, 0.93, 1.0),
}
_TRIT_SHRINKS = (0.25, 0.33, 0.42, 0.52, 0.65, 0.8)
# The least importance, relative to the mean: with 0 the weights of an input would be arbitrary.
_LEAST_IMPORTANCE = 1e-6


@dataclass(frozen=True)
class Deviation:
    """Sums of squares of the errors and of the weights, plain and weighted by importance."""

    error: float = 0.0
    square: float = 0.0
    weighted_error: float = 0.0
    weighted_square: float = 0.0

    def __add__(self, other: Deviation) -> Deviation:
        return Deviation(
            self.error + other.error,
            self.square + other.square,
            self.weighted_error + other.weighted_error,
            self.weighted_square + other.weighted_square,
        )

    @property
    def relative(self) -> float:
        """Relative RMS error: RMS of the errors / RMS of the weights."""
        return float(np.sqrt(self.error / self.square)) if self.square else 0.0

    @property
    def weighted(self) -> float:
        """The same, weighted by importance."""
        return float(np.sqrt(self.weighted_error / self.weighted_square)) if self.weighted_square else 0.0


def quantize(
    weights: np.ndarray, kind: TmacType, importance: np.ndarray | None = None, where: str = "the matrix"
) -> tuple[QuantLinear, Deviation]:
    """Quantizes float [M, K] to the type `kind`, whose group divides K; returns the result and its error.

    `importance`, float32 [K], is the mean square of each input; None: all count the same. Raises ConvertError, whose
    message begins with `where`, for weights that are infinite, not a number or beyond fp16.
    """
    rows, columns = weights.shape
    groups = columns // kind.group
    linear = QuantLinear(
        codes=np.empty((rows, columns), np.uint8),
        scales=np.empty((rows, groups), np.float16),
        zeros=np.empty((rows, groups), np.uint8) if kind.asymmetric else None,
        bits=kind.bits,
        group=kind.group,
        ternary=kind.ternary,
    )
    factors = None if importance is None else _factors(importance).reshape(groups, kind.group)

    def work(block: slice) -> Deviation:
        values = weights[block].astype(np.float32).reshape(-1, groups, kind.group)
        # The comparison is false for what is not a number.
        if not (np.abs(values) <= LARGEST_HALF).all():
            raise ConvertError(
                f"{where} has values that are not a number or beyond {LARGEST_HALF:g}, "
                "expected finite ones that fp16 has",
                "the checkpoint is damaged; download it again, or ask its maker",
            )
        search = _Search(values, kind, factors)
        codes = search.run()
        linear.codes[block] = codes.reshape(-1, columns)
        linear.scales[block] = search.scales
        if linear.zeros is not None:
            linear.zeros[block] = search.zeros
        return search.deviation(codes)

    blocks = list(_blocks(rows, columns))
    if len(blocks) == 1:
        return linear, work(blocks[0])
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return linear, sum(threads.map(work, blocks), Deviation())


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK_WEIGHTS // columns)
    return (slice(start, start + step) for start in range(0, rows, step))


def _factors(importance: np.ndarray) -> np.ndarray:
    """float32 [K] of mean 1 and none zero."""
    wide = importance.astype(np.float64)
    if not wide.any():
        return np.ones(importance.shape, np.float32)
    return np.maximum(wide / wide.mean(), _LEAST_IMPORTANCE).astype(np.float32)


@dataclass
class _Search:
    """The best grids so far for the groups of a block of rows.

    values   float32 [M, groups, group]
    factors  float32 [groups, group], or None
    scales   fp16, zeros uint8, errors float32: [M, groups]
    """

    values: np.ndarray
    kind: TmacType
    factors: np.ndarray | None
    scales: np.ndarray = field(init=False)
    zeros: np.ndarray = field(init=False)
    errors: np.ndarray = field(init=False)

    def __post_init__(self):
        shape = self.values.shape[:2]
        self.bottom, self.top = int(self.kind.ternary), 2**self.kind.bits - 1
        self.scales = np.zeros(shape, np.float16)
        self.zeros = np.zeros(shape, np.uint8)
        self.errors = np.full(shape, np.inf, np.float32)

    def run(self) -> np.ndarray:
        """Finds the grids and returns the codes on them, float32 like values."""
        for scales, zeros in self._asymmetric_grids() if self.kind.asymmetric else self._symmetric_grids():
            self._try(scales, zeros)
        refine = self._regression if self.kind.asymmetric else self._best_scales
        for _ in range(_REFINEMENTS):
            self._try(*refine(self._nearest(self.scales, self.zeros)))
        return self._nearest(self.scales, self.zeros)

    def deviation(self, codes: np.ndarray) -> Deviation:
        """The error of these codes on the grids found."""
        error = self._error(codes.copy(), self.scales, self.zeros)
        square = np.square(error).sum(dtype=np.float64), np.square(self.values).sum(dtype=np.float64)
        if self.factors is None:
            return Deviation(*map(float, (*square, *square)))
        weighted = (np.square(part).sum(axis=0, dtype=np.float64) for part in (error, self.values))
        return Deviation(*map(float, (*square, *((part * self.factors).sum() for part in weighted))))

    def _symmetric_grids(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scales that put the value of the largest magnitude a given number of steps from zero.

        A grid has one step more below zero than above, so that value goes below; on a narrower range it may be better
        to clip either side. A ternary grid has one step on each side.
        """
        at = np.abs(self.values).argmax(axis=2)[..., None]
        extremes = np.take_along_axis(self.values, at, axis=2)[..., 0]
        below = symmetric_zero(self.kind.bits) / 16
        zeros = np.full(extremes.shape, symmetric_zero(self.kind.bits), np.uint8)
        if self.kind.ternary:
            for shrink in (1, *_TRIT_SHRINKS):
                yield extremes * np.float32(shrink), zeros
            return
        yield extremes / -below, zeros
        # With fewer steps than these every grid is part of one with twice as many.
        for steps in range(int(below) // 2, int(below)):
            yield extremes / steps, zeros
        for shrink in _SHRINKS[self.kind.bits]:
            yield extremes * (shrink / -below), zeros
            yield extremes * (shrink / below), zeros

    def _asymmetric_grids(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Grids from the least to the largest value (or to zero, if all have one sign), and narrower ones.

        A grid reaches from -z to 2**bits - 1 - z steps, z at most 255 sixteenths. Where all values are positive, a
        negative scale mirrors the grid.
        """
        low, high = self.values.min(axis=2), self.values.max(axis=2)
        below, above = np.minimum(low, 0), np.maximum(high, 0)
        scales = _halves((above - below) / self.top)
        yield scales, _sixteenths(np.rint(_ratio(-below, scales)))
        yield scales, _sixteenths(_ratio(-below, scales))
        for first, last in product(_END_SHRINKS[self.kind.bits], repeat=2):
            scales = _halves((above * last - below * first) / self.top)
            yield scales, _sixteenths(_ratio(-below * first, scales))
        one_sided, turned = (low > 0) | (high < 0), low > 0
        # With fewer steps every grid is part of one with twice as many, unless that takes a zero-point out of range.
        for steps in range(1 if one_sided.any() else self.top // 2 + 1, self.top + 1):
            scales = _halves(np.where(turned, low - high, high - low) / steps)
            yield scales, _sixteenths(_ratio(np.where(turned, high, -low), np.abs(scales)))
        if one_sided.any():
            farthest = np.where(turned, -high, -low)
            yield farthest * np.float32(16 / _LARGEST_ZERO), np.full(low.shape, _LARGEST_ZERO, np.uint8)
            yield np.where(low == high, low, 0), np.zeros(low.shape, np.uint8)

    def _best_scales(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least squares over the scale, for these codes."""
        codes -= _steps(self.zeros)
        return _ratio(self._sum(self.values * codes), self._sum(np.square(codes))), self.zeros

    def _regression(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least squares over scale and zero-point, for these codes: the regression line of value on code."""
        total = self._sum(np.ones_like(codes))
        mean_code, mean_value = self._sum(codes) / total, self._sum(self.values) / total
        codes -= mean_code[..., None]
        slopes = _ratio(self._sum(codes * self.values), self._sum(np.square(codes)))
        scales = np.where(slopes == 0, self.scales, _halves(slopes))
        return scales, _sixteenths(mean_code - _ratio(mean_value, scales))

    def _try(self, scales: np.ndarray, zeros: np.ndarray) -> None:
        """Keeps these grids for the groups where they beat the best so far."""
        scales = _halves(scales)
        error = self._error(self._nearest(scales, zeros), scales, zeros)
        if self.factors is None:
            errors = np.einsum("mgk,mgk->mg", error, error)
        else:
            errors = self._sum(np.square(error, out=error))
        better = errors < self.errors
        np.copyto(self.errors, errors, where=better)
        np.copyto(self.scales, scales, where=better)
        np.copyto(self.zeros, zeros, where=better)

    def _nearest(self, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
        """The codes, as float32, with the nearest values on these grids."""
        codes = self.values * _ratio(np.float32(1), scales)[..., None]
        codes += _steps(zeros)
        np.rint(codes, out=codes)
        return np.clip(codes, self.bottom, self.top, out=codes)

    def _error(self, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
        """What is stored minus the values; overwrites the codes."""
        codes -= _steps(zeros)
        codes *= scales[..., None].astype(np.float32)
        codes -= self.values
        return codes

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """float32 [M, groups]: the sums over the columns of each group, weighted by importance."""
        if self.factors is None:
            return values.sum(axis=2)
        return np.einsum("mgk,gk->mg", values, self.factors)


def _steps(zeros: np.ndarray) -> np.ndarray:
    """Zero-points of [M, groups] in steps, float32 [M, groups, 1]."""
    return zeros[..., None] * np.float32(1 / 16)


def _halves(scales: np.ndarray) -> np.ndarray:
    """The nearest fp16 numbers that are finite."""
    return np.clip(scales, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)


def _sixteenths(zeros: np.ndarray) -> np.ndarray:
    """Zero-points in steps -> 4.4 fixed point, uint8; those above the range become its end.

    Those below zero are raised by whole steps until they are not: this only moves the codes.
    """
    zeros = np.where(zeros < 0, zeros - np.floor(zeros), zeros)
    return np.minimum(np.rint(zeros * 16), _LARGEST_ZERO).astype(np.uint8)


def _ratio(numerator: np.ndarray | np.float32, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator as float32, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(denominator.shape, np.float32), where=denominator != 0)
