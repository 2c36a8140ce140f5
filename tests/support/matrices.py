"""Test matrices, and the two models that kernels are compared with: exact integers and float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tmac.common.format import LEVEL_RANGES, TmacType
from tmac.convert.linear import QuantLinear
from tmac.convert.write.layout import pack
from tmac.kernels.activations import Activations


@dataclass(frozen=True)
class Matrix:
    """One packed matrix, the codes it was packed from and float64 W[M, K]."""

    linear: QuantLinear
    packed: np.ndarray
    weights: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.linear.codes.shape


# Precision -> the form of prepared activations that its GEMV kernels read; those of ternary weights.
FORM = {"rounded": "tables", "fast": "tables", "exact": "exact_tables"}
TRITS_FORM = {"rounded": "trits", "exact": "exact_trits"}
# Of 128 columns of ternary weights: triples, tables in memory, and lines of four triples, each with a step.
TRIPLES, TRIT_TABLES, TRIT_LINES = 43, 48, 11


def lowest_code(weight_type: TmacType) -> int:
    """The codes of a type are this one to 2^bits - 1."""
    return int(weight_type.ternary)


def unit_linear(weight_type: TmacType, codes: np.ndarray) -> QuantLinear:
    """Codes with scale 1 and any zero-points or minima, for activations whose sums count as 0."""
    rows, cols = codes.shape
    groups = cols // weight_type.group if weight_type.group else 0
    scales = np.ones((rows, cols // 256 if weight_type.has_levels else groups), np.float16)
    factors = {"scales": scales, "zeros": np.full((rows, groups), 37, np.uint8) if weight_type.asymmetric else None}
    if weight_type.has_minima:
        factors["minima"] = np.full(scales.shape, 3, np.float16)
    if weight_type.has_levels:
        factors["levels"] = np.ones((rows, groups), np.int8)
        if weight_type.has_minima:
            factors["minimum_levels"] = np.full((rows, groups), 5, np.uint8)
    return with_factors(weight_type, codes, factors)


def with_factors(weight_type: TmacType, codes: np.ndarray, factors: dict[str, np.ndarray | None]) -> QuantLinear:
    """The QuantLinear of a type: codes, and all other arrays by their names."""
    kind = {"bits": weight_type.bits, "group": weight_type.group, "ternary": weight_type.ternary}
    return QuantLinear(codes=codes.astype(np.uint8), **kind, **factors)


def by_column(linear: QuantLinear, per_group: np.ndarray) -> np.ndarray:
    return np.repeat(per_group, linear.group or linear.codes.shape[1], axis=1)


def zero_points(linear: QuantLinear) -> np.ndarray:
    """Zero-points float64 [M, groups], one group for a tensor-scale matrix; 0 with minima."""
    if linear.zeros is None:
        middle = 0.5 if linear.bits == 1 else 2.0 ** (linear.bits - 1)
        return np.full(scales_of(linear).shape, middle if linear.minima is None else 0)
    return linear.zeros / 16.0


def scales_of(linear: QuantLinear) -> np.ndarray:
    """Scales float64 [M, groups], with levels their products; 1 for a tensor-scale matrix."""
    if not linear.group:
        return np.ones((len(linear.codes), 1))
    return _of_groups(linear, linear.scales, linear.levels)


def minima_of(linear: QuantLinear) -> np.ndarray:
    """What each weight of a group has added: float64 [M, groups]; 0 without minima."""
    if linear.minima is None:
        return np.zeros_like(scales_of(linear))
    minima = _of_groups(linear, linear.minima, linear.minimum_levels)
    return minima if linear.levels is None else -minima


def _of_groups(linear: QuantLinear, values: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    exact = values.astype(np.float64)
    return exact if levels is None else np.repeat(exact, 256 // linear.group, axis=1) * levels


def random_factors(weight_type: TmacType, rows: int, cols: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random scales, zero-points (every 4.4 value), minima and levels (every value), as QuantLinear has them."""
    groups = cols // weight_type.group if weight_type.group else 0

    def halves(count: int) -> np.ndarray:
        return (rng.choice([-1, 1], (rows, count)) * rng.uniform(0.001, 0.1, (rows, count))).astype(np.float16)

    scales = halves(cols // 256 if weight_type.has_levels else groups)
    factors = {"scales": scales, "zeros": None}
    if weight_type.asymmetric:
        factors["zeros"] = rng.integers(0, 256, (rows, groups)).astype(np.uint8)
    if weight_type.has_minima:
        factors["minima"] = halves(scales.shape[1])
    if weight_type.has_levels:
        lowest, top = LEVEL_RANGES[weight_type.bits]
        factors["levels"] = rng.integers(lowest, top + 1, (rows, groups)).astype(np.int8)
        if weight_type.has_minima:
            factors["minimum_levels"] = rng.integers(0, top + 1, (rows, groups)).astype(np.uint8)
    return factors


def make(
    weight_type: TmacType, rows: int, cols: int, rng: np.random.Generator, codes: np.ndarray | None = None
) -> Matrix:
    """Random factors; random codes where none are given."""
    if codes is None:
        codes = rng.integers(lowest_code(weight_type), 1 << weight_type.bits, (rows, cols))
    return matrix_of(with_factors(weight_type, codes, random_factors(weight_type, rows, cols, rng)))


# Zero, the smallest and the largest subnormal number, the smallest normal one, one and the largest, as fp16.
EXTREME_HALVES = (0, 2.0**-24, 2.0**-14 - 2.0**-24, 2.0**-14, 1, 65504)


def extreme(weight_type: TmacType, rows: int, cols: int, rng: np.random.Generator) -> Matrix:
    """The lowest and the highest codes, zero-points and levels; of scales and minima every pair of EXTREME_HALVES, a
    pair for each row, of both signs.
    """
    factors = random_factors(weight_type, rows, cols, rng)
    lowest, top = LEVEL_RANGES.get(weight_type.bits, (0, 0))
    ends = {"zeros": (0, 255), "levels": (lowest, 0, top), "minimum_levels": (0, top)}
    for name, values in factors.items():
        if name in ends and values is not None:
            factors[name] = rng.choice(ends[name], values.shape).astype(values.dtype)
    count = len(EXTREME_HALVES)
    for name, index in (("scales", np.arange(rows) % count), ("minima", np.arange(rows) // count % count)):
        if name in factors:
            halves = np.array(EXTREME_HALVES)[index, None] * rng.choice([-1, 1], factors[name].shape)
            factors[name] = halves.astype(np.float16)
    codes = rng.choice([lowest_code(weight_type), (1 << weight_type.bits) - 1], (rows, cols))
    return matrix_of(with_factors(weight_type, codes, factors))


def matrix_of(linear: QuantLinear) -> Matrix:
    centred = linear.codes.astype(np.float64) - by_column(linear, zero_points(linear))
    weights = centred * by_column(linear, scales_of(linear)) + by_column(linear, minima_of(linear))
    return Matrix(linear, pack(linear), weights)


def entries_of(tables: Activations) -> np.ndarray:
    """Signed table entries int64 [K / 4, 16]; of ternary weights [K / 128, 48, 16]."""
    if is_of_trits(tables):
        signed = tables.entries.view(np.int8).astype(np.int64)
        if tables.entries.ndim == 5:
            signed = signed[:, :, 0] + 4 * signed[:, :, 1]
        return signed.reshape(-1, TRIT_TABLES, 16)[: len(tables.scale)]
    if tables.entries.ndim == 2:
        return tables.entries.view(np.int8).astype(np.int64)
    low, high = tables.entries[:, 0].astype(np.int64), tables.entries[:, 1].copy().view(np.int8).astype(np.int64)
    return (low + 256 * high).reshape(-1, 16)


def looked_up(linear: QuantLinear, tables: Activations) -> np.ndarray:
    """The signed entries that the rows look up for each plane: int64 [bits, M, K / 4]."""
    rows, cols = linear.codes.shape
    entries = entries_of(tables)
    quads = linear.codes.reshape(rows, cols // 4, 4)
    nibbles = [((quads >> plane & 1) << np.arange(4)).sum(axis=2) for plane in range(linear.bits)]
    return np.stack([entries[np.arange(cols // 4), nibble] for nibble in nibbles])


def sums_of_triples(linear: QuantLinear, tables: Activations) -> np.ndarray:
    """What the rows look up for each triple of columns, negative ones subtracted: int64 [M, K / 128, 48]."""
    rows, cols = linear.codes.shape
    trits = np.zeros((rows, cols // 128, 3 * TRIT_TABLES), np.int64)
    trits[..., :128] = linear.codes.reshape(rows, -1, 128).astype(np.int64) - 2
    triples = trits.reshape(rows, -1, TRIT_TABLES, 3) @ [1, 3, 9]
    entries = entries_of(tables)
    blocks, places = np.ogrid[: entries.shape[0], :TRIT_TABLES]
    found = np.where(triples < 0, -1, 1) * entries[blocks, places, np.abs(triples)]
    return np.where(np.arange(TRIT_TABLES) < TRIPLES, found, 0)


def sums_of_x(linear: QuantLinear, prepared: Activations) -> np.ndarray:
    """The sum of x over each weight group: float64 [groups]."""
    sums = prepared.half_sum if linear.group == 16 else prepared.sum
    return sums.astype(np.float64).reshape(scales_of(linear).shape[1], -1).sum(axis=1)


def integer_sums(linear: QuantLinear, tables: Activations, precision: str, quads: int = 8) -> np.ndarray:
    """sum_b 2^b * (sum of looked-up signed entries), per row and `quads` quads: int64 [M, K / 32] by default.

    Ternary: the sum of looked-up entries, per row and line of four triples: int64 [M, 11 K / 128].
    Fast: entries j and j + 4 of the eight of a group are averaged, rounding up, then j and j + 2. The results count
    four times, less 2 each, by which they are too large on average.
    """
    if linear.ternary:
        lines = sums_of_triples(linear, tables).reshape(len(linear.codes), -1, TRIT_TABLES // 4, 4).sum(axis=3)
        return lines[..., :TRIT_LINES].reshape(len(lines), -1)
    found = looked_up(linear, tables)
    found = found.reshape(*found.shape[:2], -1, quads)
    if precision == "fast":
        found = (found[..., :4] + found[..., 4:] + 1) >> 1
        found = 4 * ((found[..., :2] + found[..., 2:] + 1) >> 1) - 2
    return np.tensordot(1 << np.arange(linear.bits), found.sum(axis=3), axes=1)


def steps_of(tables: Activations) -> np.ndarray:
    """The step of each table group: int64 [K / 32]; of ternary weights [11 K / 128]. 1 for exact tables."""
    if is_of_trits(tables):
        blocks = len(tables.scale)
        steps = tables.steps[..., 0] if tables.steps.size else np.ones((blocks, 16))
        return steps.reshape(blocks, 16)[:, :TRIT_LINES].reshape(-1).astype(np.int64)
    return tables.steps[:, 0, 0].astype(np.int64) if tables.steps.size else np.ones(tables.sum.size, np.int64)


def is_of_trits(tables: Activations) -> bool:
    return tables.entries.ndim >= 4 and tables.entries.shape[1] % (TRIT_TABLES // 4) == 0


def scale_by_group(tables: Activations) -> np.ndarray:
    """The factor of a table group's integer sum: float64 [K / 32]; of ternary weights [11 K / 128]."""
    if is_of_trits(tables):
        return np.repeat(tables.scale.astype(np.float64), TRIT_LINES) * steps_of(tables)
    return np.repeat(tables.scale.astype(np.float64), 4)[: tables.sum.size] * steps_of(tables)


def model_of_tables(linear: QuantLinear, tables: Activations, precision: str) -> np.ndarray:
    """W x in exact arithmetic from the same tables: float64 [M]."""
    groups, is_halved = scales_of(linear).shape[1], linear.group == 16
    looked_up = integer_sums(linear, tables, precision, 4 if is_halved else 8)
    looked_up = looked_up * np.repeat(scale_by_group(tables), 2 if is_halved else 1)
    looked_up = looked_up.reshape(len(linear.codes), groups, -1).sum(axis=2)
    sum_x = sums_of_x(linear, tables)
    half_max_code = 0.5 * ((1 << linear.bits) - 1)
    if not linear.ternary:
        looked_up = looked_up + (half_max_code - zero_points(linear)) * sum_x
    y = (looked_up * scales_of(linear)).sum(axis=1) + minima_of(linear) @ sum_x
    return y * tables.output_scale if precision == "exact" else y


def model_of_int8(linear: QuantLinear, rounded: Activations) -> np.ndarray:
    """W x in exact arithmetic from the same int8 activations, before output_scale: float64 [M]."""
    x = rounded.entries.view(np.int8).astype(np.float64) * np.repeat(rounded.scale.astype(np.float64), 32)
    weights = linear.codes * by_column(linear, scales_of(linear))
    return weights @ x + (minima_of(linear) - zero_points(linear) * scales_of(linear)) @ sums_of_x(linear, rounded)


def magnitude_of_int8(linear: QuantLinear, rounded: Activations) -> np.ndarray:
    """The sum of the magnitudes of all terms of model_of_int8: float64 [M]."""
    x = np.abs(rounded.entries.view(np.int8).astype(np.float64)) * np.repeat(rounded.scale.astype(np.float64), 32)
    weights = linear.codes * by_column(linear, np.abs(scales_of(linear)))
    offsets = np.abs(minima_of(linear)) + zero_points(linear) * np.abs(scales_of(linear))
    return weights @ x + offsets @ np.abs(sums_of_x(linear, rounded))
