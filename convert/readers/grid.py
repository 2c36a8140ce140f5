"""Grid: what is known of a quantized layer before its codes are read. And what all affine formats share of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...common.format import GROUPS, symmetric_zero
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import Checkpoint, TensorInfo

Q8_BITS, Q8_GROUP = 8, 32
# What is_known_group accepts, for messages.
KNOWN_GROUPS = f"{', '.join(map(str, GROUPS))}, a multiple of one of them, or -1"
# A ternary layer has 2 bits, of which code 0 is left free: its weights are code - TERNARY_ZERO, times a scale.
TERNARY_BITS = 2
TERNARY_ZERO = symmetric_zero(TERNARY_BITS) // 16
_IN_BLOCK = re.compile(r"\.layers\.\d+\.")


@dataclass(frozen=True, eq=False)
class Grid:
    """The integer grid of one layer: the `bits` and `group` of its QuantLinear, and whether that has zero-points.

    tensor_scale  with group 0: what all weights of the layer are multiplied by
    column_order  int [K], or None for the identity: column i of the QuantLinear belongs to input column_order[i]
    """

    bits: int
    group: int
    asymmetric: bool
    tensor_scale: float | None = None
    column_order: np.ndarray | None = None

    @property
    def name(self) -> str:
        """For people and for tmac.source: `w2g64 asymmetric`."""
        if not self.group:
            return f"w{self.bits} one scale per tensor"
        return f"w{self.bits}g{self.group} {'asymmetric' if self.asymmetric else 'symmetric'}"

    def weights(self, linear: QuantLinear) -> np.ndarray:
        """What rows of the layer mean: float32 [M, K], the columns in the order of the inputs."""
        weights = linear.dequantize()
        if self.tensor_scale is not None:
            weights *= np.float32(self.tensor_scale)
        if self.column_order is None:
            return weights
        ordered = np.empty_like(weights)
        ordered[:, self.column_order] = weights
        return ordered


def in_block(module: str) -> bool:
    """Whether a layer is part of one of the model's blocks, and not what comes before or after all of them."""
    return bool(_IN_BLOCK.search(module))


def is_known_group(size: int) -> bool:
    """Whether the layout keeps groups of `size` columns exactly: multiples of its own, and -1 for one per row."""
    return size == -1 or (size > 0 and size % GROUPS[0] == 0)


def stored_group(columns: int, per_scale: int, bits: int) -> int:
    """The group of the QuantLinear for a format with one scale per `per_scale` columns.

    The largest of the layout that divides it and the columns; for 8 bits that of ggml's Q8_0. `per_scale` itself if
    none does: such a layer has no place in the layout.
    """
    groups = (Q8_GROUP,) if bits == Q8_BITS else reversed(GROUPS)
    return next((group for group in groups if per_scale % group == columns % group == 0), per_scale)


def in_stored_groups(
    codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int, per_scale: int
) -> QuantLinear:
    """The layer whose scales fp16 and zeros are [M, ceil(K / per_scale)]: in its stored_group, by repeating them."""
    columns = codes.shape[1]
    group = stored_group(columns, per_scale, bits)

    def spread(values: np.ndarray) -> np.ndarray:
        repeated = np.repeat(values, per_scale // group, axis=1)[:, : -(-columns // group)]
        return np.ascontiguousarray(repeated)

    return QuantLinear(codes, spread(scales), None if zeros is None else spread(zeros), bits, group)


def column_order(where: str, found: np.ndarray, per_scale: int) -> np.ndarray | None:
    """The inputs in the order of their groups, int64 [K]; None if they are in it. `found` has the group of each.

    Raises ConvertError, beginning with `where`, unless every group has as many inputs as it would have in that order.
    """
    expected = np.arange(len(found)) // per_scale
    if np.array_equal(found, expected):
        return None
    groups = int(expected[-1]) + 1
    outside = np.flatnonzero((found < 0) | (found >= groups))
    if outside.size:
        raise ConvertError(
            f"{where} has input {outside[0]} in group {found[outside[0]]}, expected one of 0 to {groups - 1}",
            "the file is damaged, or its group_size is not that of config.json",
        )
    counts, wanted = np.bincount(found, minlength=groups), np.bincount(expected, minlength=groups)
    wrong = np.flatnonzero(counts != wanted)
    if wrong.size:
        raise ConvertError(
            f"{where} reorders the inputs (act-order) and has {counts[wrong[0]]} in group {wrong[0]}, expected "
            f"{wanted[wrong[0]]}",
            "groups of different sizes have no place in the layout; use a checkpoint without act-order",
        )
    return np.argsort(found, kind="stable")


def check_stored_shape(checkpoint: Checkpoint, name: str, rows: int, columns: int) -> None:
    """Raises ConvertError unless tensor `name`, two integers, is the shape that the architecture gives its layer."""
    info = checkpoint.info(name, ("I64", "I32"), (2,))
    found = checkpoint.read(name).tolist()
    if found != [rows, columns]:
        raise ConvertError(
            f"{info.file}: tensor {name} says {found[0]} x {found[1]}, expected {rows} x {columns}",
            "the tensors and config.json (sizes) do not belong together",
        )


def exact_halves(info: TensorInfo, name: str, scales: np.ndarray) -> np.ndarray:
    """`scales` as fp16 without any change. Raises ConvertError, naming tensor `name` in its file, if that cannot be."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = scales.astype(np.float16)
    # Written so that what is not a number is wrong too.
    exact = np.isfinite(halves) & (halves.astype(scales.dtype) == scales)
    if not exact.all():
        raise ConvertError(
            f"{info.file}: tensor {name} ({info.dtype}) has scales not exact in fp16 (first: {scales[~exact][0]:.9g}), "
            "expected fp16 values",
            "T-MAC stores fp16 scales and never rounds them silently; quantize again with float16 as the dtype",
        )
    return halves


def exact_zeros(info: TensorInfo, name: str, points: np.ndarray, bits: int, hint: str) -> np.ndarray | None:
    """Zero-points, floats [M, G], in 4.4 fixed point: uint8, or uint16 for 8 bits; None if they are symmetric.

    Raises ConvertError, naming tensor `name` in its file and the first zero-point that is no multiple of 1/16 in range.
    """
    limit = (16 << max(4, bits)) - 1
    with np.errstate(invalid="ignore"):
        sixteenths = points.astype(np.float64) * 16
    # Written so that infinities and what is not a number are wrong too.
    fits = (np.rint(sixteenths) == sixteenths) & (sixteenths >= 0) & (sixteenths <= limit)
    if not fits.all():
        row, group = np.argwhere(~fits)[0]
        raise ConvertError(
            f"{info.file}: tensor {name} gives output {row}, group {group} the zero-point {points[row, group]:.9g}, "
            f"expected a multiple of 1/16 from 0 to {limit / 16}",
            hint,
        )
    if (sixteenths == symmetric_zero(bits)).all():
        return None
    return sixteenths.astype(np.uint16 if bits == Q8_BITS else np.uint8)
