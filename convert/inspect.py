"""What is in a GGUF file, or what a checkpoint folder would become: data, and text for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TypeVar

from ..common import tables
from ..common.errors import TmacError, printable_line
from ..common.format import SOURCE_KEY, TYPES_BY_ID
from .architectures import architecture_for
from .pipeline import open_checkpoint
from .plan.from_checkpoint import CheckpointModel
from .plan.from_gguf import GgufModel
from .plan.planner import Plan, plan
from .readers import reader_for
from .readers.native import native_reader
from .readers.sampled import sampled
from .report import human_size, render_totals, total_by_type
from .sources.checkpoint import Checkpoint
from .sources.gguf_header import Header, TensorEntry, kinds_of, read_gguf_header
from .sources.gguf_model import GgufSource
from .sources.rotation import Rotation, read_rotation
from .tokenizer import read_vocabulary
from .upstream.models import goes_upstream, name_of
from .upstream.outlook import outlook
from .write.tensors import OutputTensor

# How many layers are named of each grid but the most common one.
SHOWN_LAYERS = 3


@dataclass(frozen=True)
class Inspection:
    """What is known of one model: facts by name, tensors, notes for the user, and what a conversion would refuse.

    `becomes` has for each tensor the type that a conversion gives it; it is empty where there is nothing to convert.
    """

    facts: list[tuple[str, str]]
    tensors: list[TensorEntry] | list[OutputTensor]
    notes: list[str] = field(default_factory=list)
    refusals: list[TmacError] = field(default_factory=list)
    becomes: list[str] = field(default_factory=list)

    def render(self) -> str:
        """Facts, notes and refusals, then one line per tensor, then totals per type."""
        heads = ["tensor", "type", "shape", "bits per weight", "size"]
        rows = [
            (
                printable_line(tensor.name),
                tensor.type_name,
                " x ".join(map(str, tensor.shape)),
                f"{8 * tensor.nbytes / max(1, prod(tensor.shape)):.4g}",
                human_size(tensor.nbytes),
            )
            for tensor in self.tensors
        ]
        if self.becomes:
            heads.append("tmac convert")
            rows = [(*row, kind) for row, kind in zip(rows, self.becomes)]
        totals = total_by_type((tensor.type_name, prod(tensor.shape), tensor.nbytes) for tensor in self.tensors)
        facts = [f"{name}: {value}" for name, value in self.facts]
        notes = [f"note: {note}" for note in self.notes]
        refusals = [f"refused: {refusal.message}; {refusal.hint}" for refusal in self.refusals]
        shown = ["", tables.render(heads, rows, heads[:1]), "", render_totals(totals)] if self.tensors else []
        return "\n".join([*map(printable_line, (*facts, *notes, *refusals)), *shown])


def inspect_gguf(path: Path) -> Inspection:
    """Looks into a GGUF file of T-MAC or of anyone, and says what a conversion would make of the latter.

    Raises ConvertError as read_gguf_header does.
    """
    header = read_gguf_header(path)
    facts = [("file", str(path)), *_gguf_facts(header)]
    refusals: list[TmacError] = []
    if any(tensor.type_id in TYPES_BY_ID for tensor in header.tensors):
        facts += _rotation_facts(_attempt(refusals, lambda: _rotation_of(path, header)))
        return Inspection(facts, header.tensors, [], refusals)
    source = _attempt(refusals, lambda: GgufSource(Path(path), whole=False))
    facts += _rotation_facts(source.rotation) if source else []
    planned = _attempt(refusals, lambda: plan(GgufModel(source))) if source else None
    if planned is None:
        return Inspection(facts, header.tensors, [], refusals)
    becomes = [tensor.type_name for tensor in planned.tensors] if planned.origins else []
    return Inspection(facts, header.tensors, planned.notes, refusals, becomes)


def inspect_checkpoint(folder: Path) -> Inspection:
    """What each layer of the checkpoint in `folder` becomes with the default options, and all that would be refused.

    Raises ConvertError only where there is nothing to look at: no config.json, or weight files that are damaged.
    """
    checkpoint = open_checkpoint(Path(folder))
    if goes_upstream(checkpoint):
        return _inspect_upstream(checkpoint)
    refusals: list[TmacError] = []
    reader = _attempt(refusals, lambda: reader_for(checkpoint))
    architecture = _attempt(refusals, lambda: architecture_for(checkpoint))
    facts = [("folder", str(folder)), *_weight_facts(checkpoint)]
    notes: list[str] = []
    planned = None
    if architecture:
        facts += [("architecture", architecture.name), *_rotation_facts(architecture.rotation)]
        embedding, size = next(architecture.parts()), architecture.vocab_size
        if reader:
            model = CheckpointModel(checkpoint, sampled(checkpoint, reader), architecture)
            planned = plan(model, collects_refusals=True)
            has_rows = any(tensor.name == f"{embedding.target}.weight" for tensor in planned.tensors)
        else:
            found = checkpoint.tensors.get(f"{embedding.source}.weight")
            has_rows = found is not None and found.shape == embedding.shape
        # The number of rows is what the configuration says. Without a tensor that has them it may be any number.
        if has_rows:
            vocabulary = _attempt(refusals, lambda: read_vocabulary(checkpoint.folder, checkpoint.config, size))
            notes += vocabulary.notes if vocabulary else []
    if planned:
        facts += [("quantization", planned.source), *_grid_facts(planned)]
        return Inspection(facts, planned.tensors, [*planned.notes, *notes], [*refusals, *planned.refusals])
    if reader:
        facts.append(("quantization", reader.method))
    return Inspection(facts, [], notes, refusals)


def _inspect_upstream(checkpoint: Checkpoint) -> Inspection:
    refusals: list[TmacError] = []
    facts = [
        ("folder", str(checkpoint.folder)),
        *_weight_facts(checkpoint),
        ("architecture", f"{name_of(checkpoint.config)}, by llama.cpp's own converter (tmac build --all-models)"),
    ]
    reader = native_reader(checkpoint) or _attempt(refusals, lambda: reader_for(checkpoint))
    if reader is None:
        return Inspection(facts, [], [], refusals)
    found = outlook(checkpoint, reader)
    facts.append(("quantization", f"{reader.method} {', '.join(sorted(found.grids))}".strip()))
    return Inspection(
        facts, found.layers, [*found.notes, *checkpoint.notes(), *reader.notes()], [*refusals, *found.refusals]
    )


T = TypeVar("T")


def _attempt(refusals: list[TmacError], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except TmacError as refusal:
        refusals.append(refusal)
        return None


def _weight_facts(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    infos = checkpoint.tensors.values()
    files, nbytes = len({info.file for info in infos}), sum(info.nbytes for info in infos)
    dtypes = ", ".join(sorted({info.dtype for info in infos}))
    return [("weights", f"{len(infos)} tensors ({dtypes}), {human_size(nbytes)}, files: {files}")]


def _grid_facts(planned: Plan) -> list[tuple[str, str]]:
    """The grids, the most common first; of the others the first layers by name."""
    grids = sorted(planned.origins.items(), key=lambda item: (-len(item[1]), item[0]))
    facts = [(grid, f"{len(layers)} layers") for grid, layers in grids[:1]]
    for grid, layers in grids[1:]:
        more = f" and {len(layers) - SHOWN_LAYERS} more" if len(layers) > SHOWN_LAYERS else ""
        facts.append((grid, f"{len(layers)} layers: {', '.join(layers[:SHOWN_LAYERS])}{more}"))
    return facts


def _rotation_of(path: Path, header: Header) -> Rotation | None:
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    return read_rotation(path, header.metadata, kinds_of(header.records), shapes, whole=False)


def _rotation_facts(rotation: Rotation | None) -> list[tuple[str, str]]:
    return [("rotation", str(rotation))] if rotation else []


def _gguf_facts(header: Header) -> list[tuple[str, str]]:
    version = header.layout_version
    return [
        ("architecture", str(header.metadata.get("general.architecture", "not given"))),
        ("T-MAC layout", "none" if version is None else f"version {version}"),
        ("quantization", str(header.metadata.get(SOURCE_KEY, "not given"))),
    ]
