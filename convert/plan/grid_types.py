"""The storage of a quantized layer by its grids: which T-MAC type means the same, and the tensors that go beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...common.format import (
    MINIMA,
    ORDER_SUFFIX,
    SCALE_SUFFIX,
    SYMMETRIC,
    ZEROS,
    TmacType,
    can_hold,
    ternary_type,
    type_of,
    why_not,
)
from ..architectures.part import Kind, Part
from ..errors import ConvertError
from ..readers.grid import Q8_BITS, Q8_GROUP, TERNARY_BITS, Grid
from ..sources.ggml_types import Q2_0
from ..write.tensors import OutputTensor, value_tensor


def tmac_type(part: Part, grids: list[Grid], folder: Path) -> tuple[TmacType | None, str]:
    """The type for a layer on these grids (several: experts); or None and, unless Q8_0 holds it exactly, the reason.

    With minima or zero-points if one of the experts has them; a ternary type if all are ternary and one fits.
    Raises ConvertError for experts of different bits or groups.
    """
    kinds = {(grid.bits, grid.group) for grid in grids}
    if len(kinds) > 1:
        names = " and ".join(sorted({grid.name for grid in grids}))
        raise ConvertError(
            f"{folder}: {part.source} has experts in {names}, "
            "expected the same bits and group in all experts of a layer",
            "the GGUF has one tensor of one type for all of them",
        )
    bits, group = kinds.pop()
    if bits == Q8_BITS:
        is_held = all(fits_q8_0(part, grid) for grid in grids)
        return None, "" if is_held else "has 8-bit weights that q8_0 cannot hold; stored as f16, rounded"
    if part.kind is Kind.HEAD and not group:
        return None, "is stored as f16, rounded: llama.cpp multiplies no output head by a scale"
    if all(grid.ternary for grid in grids) and (kind := ternary_type(*part.shape, group)):
        return kind, ""
    if why := why_not(*part.shape, group):
        return None, unholdable(part, why)
    kind = (
        MINIMA if any(grid.minima for grid in grids) else ZEROS if any(grid.asymmetric for grid in grids) else SYMMETRIC
    )
    return type_of(bits, group, kind), ""


def unholdable(part: Part, why: str) -> str:
    """The note on a layer of a shape that the layout does not hold."""
    rows, columns = part.shape
    return f"({rows} x {columns}) is stored as f16, rounded: {why}"


def nothing_fits(source: Path, reasons: list[str]) -> ConvertError:
    """What --quantize raises for a model of which no layer has a shape that the layout holds."""
    return ConvertError(
        f"{source}: no layer can be quantized freshly{': ' * bool(reasons)}{'; '.join(reasons)}",
        "every type needs rows in multiples of 32; for other columns, --quantize with a smaller group",
    )


def fits_q8_0(part: Part, grid: Grid) -> bool:
    """Whether Q8_0 stores the layer without rounding."""
    shape_fits = grid.bits == Q8_BITS and grid.group == Q8_GROUP and part.shape[1] % Q8_GROUP == 0
    return shape_fits and not grid.asymmetric and grid.column_order is None


def fits_q2_0(part: Part, grid: Grid) -> bool:
    """Whether Q2_0 stores the layer without rounding: symmetric 2 bits, in groups of its own or of several."""
    shape_fits = (
        grid.bits == TERNARY_BITS and grid.group > 0 and grid.group % Q2_0.block == part.shape[1] % Q2_0.block == 0
    )
    return shape_fits and not grid.asymmetric and grid.column_order is None


def is_kept_in_head(part: Part, grid: Grid) -> bool:
    """Whether an output head on this grid is stored without rounding."""
    has_tmac_type = grid.bits != Q8_BITS and grid.group > 0 and can_hold(*part.shape, grid.group)
    return has_tmac_type or fits_q8_0(part, grid)


def scale_tensor(part: Part, grids: list[Grid]) -> OutputTensor:
    """The scales of whole tensors: float32 [1], or one per expert. Each grid has one: their group is 0."""
    scales = [grid.tensor_scale for grid in grids]
    return value_tensor(f"{part.target}{SCALE_SUFFIX}", np.array(scales, np.float32))


def order_tensor(part: Part, grids: list[Grid]) -> OutputTensor:
    """Which input each column belongs to (act-order): int32 [K], for experts [experts, K]."""
    identity = np.arange(part.shape[1])
    orders = [identity if grid.column_order is None else grid.column_order for grid in grids]
    order = np.array(orders, np.int32)
    return value_tensor(f"{part.target}{ORDER_SUFFIX}", order if part.expert_sources else order[0])
