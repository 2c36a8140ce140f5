"""What llama.cpp's own converter would be given of a checkpoint, without running it: for `tmac inspect`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from gguf import GGMLQuantizationType

from ...common.errors import TmacError
from ..architectures.part import Kind, Part
from ..plan.grid_types import tmac_type
from ..readers.native import NativeReader
from ..readers.reader import Reader
from ..readers.sampled import form, looked_at
from ..sources.checkpoint import Checkpoint
from ..sources.gguf_header import TensorEntry
from ..write.tensors import stock_bytes
from .prepare import (
    byte_level_tokenizer,
    known_pre_tokenizer,
    refuse_changed_floats,
    refuse_rotated,
    refuse_small_floats,
)

# What stands for a layer that gets no type of T-MAC's.
F16, Q8_0 = GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0


@dataclass
class Outlook:
    """`layers`: the quantized layers by their names in the checkpoint, in the types that they would get.

    grids  the layers of those that were looked at, by what they are quantized to
    """

    layers: list[TensorEntry] = field(default_factory=list)
    grids: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: list[TmacError] = field(default_factory=list)


def outlook(checkpoint: Checkpoint, reader: Reader) -> Outlook:
    """Looks at the scales of one layer of each name and form: the others of a model are quantized alike."""
    found = Outlook(
        notes=["layers are shown by their names in the checkpoint; llama.cpp's converter gives them others"]
    )
    if isinstance(reader, NativeReader):
        found.notes = [
            f"{reader.method} weights keep their type of ggml, and llama.cpp's own kernels compute with them: "
            "T-MAC's tables need an even grid, and make them no faster"
        ]
    try:
        refuse_rotated(checkpoint)
        if byte_level_tokenizer(checkpoint.folder) and known_pre_tokenizer(checkpoint.folder) is None:
            found.notes.append(
                "T-MAC does not know the pre-tokenizer of tokenizer.json; only a conversion tells if llama.cpp does"
            )
        if isinstance(reader, NativeReader):
            return found
        refuse_changed_floats(checkpoint, reader)
        refuse_small_floats(checkpoint)
        shapes = reader.shapes()
    except TmacError as refusal:
        found.refusals.append(refusal)
        return found
    seen: dict[Hashable, tuple[int, str, int] | None] = {}
    for module, shape in shapes.items():
        alike = form(checkpoint, reader, module, shape)
        if alike not in seen:
            seen[alike] = _type_of(checkpoint, reader, module, shape, found)
        if (kind := seen[alike]) is not None:
            type_id, name, nbytes = kind
            found.layers.append(TensorEntry(module, shape, type_id, name, 0, nbytes))
    found.notes.append(looked_at(len(shapes), len(seen)))
    return found


def _type_of(
    checkpoint: Checkpoint, reader: Reader, module: str, shape: tuple[int, int], found: Outlook
) -> tuple[int, str, int] | None:
    """Number and name of the type, and the bytes; None, with a refusal, if there would be none."""
    part = Part(Kind.LINEAR, module, module, shape)
    try:
        grid = reader.grid(module, *shape)
        kind, why = tmac_type(part, [grid], checkpoint.folder)
    except TmacError as refusal:
        found.refusals.append(refusal)
        return None
    found.grids.setdefault(grid.name, []).append(module)
    if kind is None:
        if why:
            found.notes.append(f"{module} {why}")
        stock = F16 if why else Q8_0
        return int(stock), stock.name.lower(), stock_bytes(shape, stock)
    return kind.id, kind.ggml_name, kind.nbytes(*shape)
