"""What the readers of affine formats share: W = scale * (code - zero-point) or scale * code + minimum, by groups.

A reader says which tensors a layer has, checks them, and unpacks scales, zero-points and codes. From that AffineReader
makes the Grid and the QuantLinear: in the layout's groups, symmetric if all zero-points are the symmetric one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.format import GROUPS, ZERO_UNITS, symmetric_zero
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import Checkpoint
from .grid import Q8_BITS, Q8_GROUP, Grid

# Smaller numbers have fewer digits in fp16.
SMALLEST_NORMAL = 2.0**-14
# The largest error of a minimum that is rounded to fp16, as a share of a step of the codes: half a unit in the last
# place of a minimum of up to 16 steps, as 4 bits have. HQQ's own arithmetic in fp16 rounds weights by as much.
MOST_OF_A_STEP = 2.0**-7
# The largest change of a scale that may be rounded, as a share of the largest scale of the layer.
TINY = 2.0**-12


@dataclass(frozen=True, eq=False)
class AffineLayer:
    """All of a layer of N outputs and K inputs but its codes, in the groups of the checkpoint's format.

    per_scale  inputs per scale
    scales     float16 [N, ceil(K / per_scale)]
    zeros      as QuantLinear.zeros, in the shape of `scales`; None: all are the symmetric one, or there are minima
    minima     as QuantLinear.minima, in the shape of `scales`; None: there are none
    order      as Grid.column_order
    ternary    as Grid.ternary
    """

    bits: int
    per_scale: int
    scales: np.ndarray
    zeros: np.ndarray | None
    order: np.ndarray | None = None
    ternary: bool = False
    minima: np.ndarray | None = None


class AffineReader(ABC):
    """A Reader of layers that are AffineLayers.

    mark   the tensor of a layer that shows that it is quantized
    parts  all tensors that a layer may have, the codes first
    """

    method: str
    activations = None
    mark: str
    parts: tuple[str, ...]

    def __init__(self, checkpoint: Checkpoint, file: Path):
        self._checkpoint, self._file = checkpoint, file
        self._counts: dict[str, dict[str, int]] = {}
        # Layer -> the largest error of a minimum, in steps of its codes.
        self._rounded: dict[str, float] = {}

    @abstractmethod
    def _layer(self, module: str, rows: int, columns: int) -> AffineLayer:
        """Checks shapes and dtypes of all tensors of the layer, and reads all but the codes. Raises ConvertError."""

    def _half_scales(self, module: str, name: str, stored: np.ndarray | None = None) -> np.ndarray:
        """exact_scales, but rounded, with a note, where fp16 has fewer digits and that is nothing beside the others.

        Raises ConvertError for any other value that is not exact in fp16.
        """
        scales = self._checkpoint.read(name) if stored is None else stored
        if scales.dtype == np.float16:
            return exact_scales(self._checkpoint, name, scales)
        with np.errstate(over="ignore", invalid="ignore"):
            halves = scales.astype(np.float16)
            error = np.abs(halves.astype(np.float64) - scales.astype(np.float64))
            largest = np.abs(scales).max(initial=0)
            small = (np.abs(scales) < SMALLEST_NORMAL) & (error > 0) & (error <= largest * TINY)
        if not small.any():
            return exact_scales(self._checkpoint, name, scales)
        self._note(
            "{count} scales are below the normal range of fp16 and were rounded to its steps of 6e-8; the change is "
            "below 1/4000 of the largest scale of their layer (first layer: {first})",
            module,
            int(np.count_nonzero(small)),
        )
        return exact_scales(self._checkpoint, name, np.where(small, halves.astype(scales.dtype), scales))

    @abstractmethod
    def _codes(self, module: str, rows: int, columns: int, layer: AffineLayer) -> np.ndarray:
        """uint8 [N, K], in the order that `layer` says. The tensors are those that `_layer` has checked."""

    def has(self, module: str) -> bool:
        return f"{module}.{self.mark}" in self._checkpoint

    def names(self, module: str) -> list[str]:
        return present(self._checkpoint, module, self.parts)

    def shapes(self) -> dict[str, tuple[int, int]]:
        names = (name.rpartition(".") for name in self._checkpoint.tensors)
        modules = dict.fromkeys(module for module, _, _ in names if self.has(module))
        return {module: self._shape_of(module) for module in modules}

    def _shape_of(self, module: str) -> tuple[int, int]:
        """Rows and columns of one layer, as `shapes` has them."""
        raise ConvertError(
            f"{self._file}: layer {module} is quantized with {self.method}, whose tensors do not say how many inputs "
            "it has, expected a format that does",
            "use a GPTQ, AWQ, AutoRound or compressed-tensors checkpoint of this model",
        )

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads all but the codes. Raises ConvertError as `read` does, for everything but codes."""
        layer = self._layer(module, rows, columns)
        if not layer.scales.any():
            self._note(
                "{count} layers are zero throughout (first: {first}); if the model's makers did not mean that, its "
                "quantization went wrong",
                module,
            )
        group = stored_group(columns, layer.per_scale, layer.bits)
        has_minima = layer.minima is not None
        return Grid(
            layer.bits,
            group,
            has_minima or layer.zeros is not None,
            column_order=layer.order,
            ternary=layer.ternary,
            minima=has_minima,
        )

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer as QuantLinear of `rows` outputs and `columns` inputs, these in the order that the grid says.

        A group that the layout does not have is split into some that it has, by repeating scale and zero-point.
        Raises ConvertError for wrong shapes or dtypes, scales that fp16 cannot hold exactly, zero-points that are not
        stored well enough (see `_offsets`), and what else the format's own reader refuses.
        """
        layer = self._layer(module, rows, columns)
        codes = self._codes(module, rows, columns, layer)
        group = stored_group(columns, layer.per_scale, layer.bits)

        def spread(values: np.ndarray) -> np.ndarray:
            repeated = np.repeat(values, layer.per_scale // group, axis=1)[:, : -(-columns // group)]
            return np.ascontiguousarray(repeated)

        zeros = None if layer.zeros is None else spread(layer.zeros)
        minima = None if layer.minima is None else spread(layer.minima)
        return QuantLinear(codes, spread(layer.scales), zeros, layer.bits, group, minima=minima)

    def _offsets(
        self, module: str, name: str, points: np.ndarray, scales: np.ndarray, minima: np.ndarray, bits: int
    ) -> dict[str, np.ndarray | None]:
        """Zero-points `points`, float [N, G], as AffineLayer has them: `zeros` if all are sixteenths, else `minima`.

        scales: as they are stored, float16; minima: what is added to each weight of a group, float64; both [N, G].
        Minima are rounded to fp16, with a note that says by how much. Raises ConvertError, naming tensor `name`, for
        what is not a number or is rounded by more than MOST_OF_A_STEP.
        """
        if (zeros := exact_zeros(points, bits)) is not None:
            return {"zeros": unless_symmetric(zeros, bits)}
        with np.errstate(over="ignore", invalid="ignore"):
            halves = minima.astype(np.float16)
            error = np.abs(halves.astype(np.float64) - minima)
            steps = np.abs(scales.astype(np.float64))
        # Where the scale is next to nothing beside the layer's others, so is the error.
        bad = ~(error <= np.maximum(MOST_OF_A_STEP * steps, TINY * steps.max(initial=0)))
        if bad.any():
            row, group = np.argwhere(bad)[0]
            raise ConvertError(
                f"{self._checkpoint.info(name).file}: tensor {name} gives output {row}, group {group} the minimum "
                f"{minima[row, group]:.9g} at a scale of {scales[row, group]:.9g}, expected a multiple of the scale by "
                f"sixteenths, or an fp16 number within 1/{round(1 / MOST_OF_A_STEP)} of the scale",
                "T-MAC stores minima as fp16 and never changes a model by more than that; use a GPTQ or AWQ checkpoint",
            )
        largest = np.divide(error, steps, out=np.zeros_like(error), where=steps > 0).max(initial=0)
        if largest:
            self._rounded[module] = largest
        return {"zeros": None, "minima": halves}

    def notes(self) -> list[str]:
        notes = [
            text.format(count=sum(by_layer.values()), first=min(by_layer)) for text, by_layer in self._counts.items()
        ]
        if self._rounded:
            worst = max(self._rounded, key=self._rounded.get)
            notes.append(
                f"the minima of {len(self._rounded)} layers were rounded to fp16, by at most "
                f"{self._rounded[worst]:.2g} of a step of the codes (in {worst})"
            )
        return notes

    def _note(self, text: str, module: str, count: int = 1) -> None:
        """Notes `text` of a layer, once however often it is read. {count} is the sum over layers, {first} the first."""
        self._counts.setdefault(text, {})[module] = count

    def _note_other_zeros(self, setting: str, module: str) -> None:
        """The values decide whether a layer is symmetric, not the `setting` that says so."""
        self._note(
            f"the settings say {setting}, but {{count}} layers have other zero-points (first: {{first}}); they were "
            "kept as they are",
            module,
        )


def present(checkpoint: Checkpoint, module: str, parts: tuple[str, ...]) -> list[str]:
    """The names of those of a layer's tensors that the checkpoint has."""
    return [name for part in parts if (name := f"{module}.{part}") in checkpoint]


def columns_per_scale(group_size: int, columns: int) -> int:
    """`group_size` itself; -1, in all formats, is one scale per row."""
    return columns if group_size == -1 else group_size


def stored_group(columns: int, per_scale: int, bits: int) -> int:
    """The group of the QuantLinear for a format with one scale per `per_scale` columns.

    The largest of the layout that divides `per_scale` and `columns`; for 8 bits that of Q8_0. `per_scale` itself if
    none does: the layout cannot hold such a layer.
    """
    groups = (Q8_GROUP,) if bits == Q8_BITS else reversed(GROUPS)
    return next((group for group in groups if per_scale % group == columns % group == 0), per_scale)


def column_order(where: str, found: np.ndarray, per_scale: int) -> np.ndarray | None:
    """The order that sorts inputs by group, int64 [K]; None if they are sorted. `found`, int [K], has their groups.

    Raises ConvertError, beginning with `where`, unless every group has as many inputs as it would have if sorted.
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


def exact_scales(checkpoint: Checkpoint, name: str, stored: np.ndarray | None = None) -> np.ndarray:
    """Tensor `name`, or `stored`, the part of it that is used, as float16 without any change.

    Raises ConvertError if one of its values is not exact in fp16.
    """
    scales = checkpoint.read(name) if stored is None else stored
    if scales.dtype == np.float16 and np.isfinite(scales).all():
        return scales
    with np.errstate(over="ignore", invalid="ignore"):
        halves = scales.astype(np.float16)
    # The comparison is false for what is not a number.
    exact = np.isfinite(halves) & (halves.astype(scales.dtype) == scales)
    if not exact.all():
        info = checkpoint.info(name)
        raise ConvertError(
            f"{info.file}: tensor {name} ({info.dtype}) has scales not exact in fp16 (first: {scales[~exact][0]:.9g}), "
            "expected fp16 values",
            "T-MAC stores fp16 scales and never rounds them silently; quantize again with float16 as the dtype",
        )
    return halves


def whole_zeros(zeros: np.ndarray, bits: int) -> np.ndarray | None:
    """Zero-points that are whole numbers, as AffineLayer.zeros has them: None if all are the symmetric one."""
    if (zeros == symmetric_zero(bits) // ZERO_UNITS).all():
        return None
    return zeros.astype(np.uint16 if bits == Q8_BITS else np.uint8) * ZERO_UNITS


def exact_zeros(points: np.ndarray, bits: int) -> np.ndarray | None:
    """Zero-points, floats [N, G], in sixteenths, float64; None unless all are multiples of 1/16 in range."""
    limit = (ZERO_UNITS << max(4, bits)) - 1
    with np.errstate(invalid="ignore"):
        units = points.astype(np.float64) * ZERO_UNITS
    # The comparisons are false for what is not a number, and one of them for infinities.
    fits = (np.rint(units) == units) & (units >= 0) & (units <= limit)
    return units if fits.all() else None


def unless_symmetric(units: np.ndarray, bits: int) -> np.ndarray | None:
    """Zero-points in 4.4 fixed point in the dtype of QuantLinear, None if all are the symmetric one."""
    if (units == symmetric_zero(bits)).all():
        return None
    return units.astype(np.uint16 if bits == Q8_BITS else np.uint8)
