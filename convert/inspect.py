"""What is in a GGUF file, or what a checkpoint folder would become: data, and text for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from .gguf_header import Header, TensorEntry, read_gguf_header
from .pipeline import read, source_of
from .repack import plan
from .report import human_size, render_table, render_totals, total_by_type
from .writer import SOURCE_KEY, OutputTensor


@dataclass(frozen=True)
class Inspection:
    """The facts of one model, one line each, its tensors, and what a user should know of them."""

    facts: list[tuple[str, str]]
    tensors: list[TensorEntry] | list[OutputTensor]
    notes: list[str] = field(default_factory=list)

    def render(self) -> str:
        """Facts and notes, then one line per tensor, then totals per type."""
        rows = [("tensor", "type", "shape", "bits per weight", "size")]
        rows += [
            (
                tensor.name,
                tensor.type_name,
                " x ".join(map(str, tensor.shape)),
                f"{8 * tensor.nbytes / max(1, prod(tensor.shape)):.4g}",
                human_size(tensor.nbytes),
            )
            for tensor in self.tensors
        ]
        totals = total_by_type((tensor.type_name, prod(tensor.shape), tensor.nbytes) for tensor in self.tensors)
        facts = [f"{name}: {value}" for name, value in self.facts]
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([*facts, *notes, "", render_table(rows), "", render_totals(totals)])


def inspect_gguf(path: Path) -> Inspection:
    """Looks into a GGUF file of T-MAC or of anyone. Raises ConvertError as read_gguf_header does."""
    header = read_gguf_header(path)
    return Inspection([("file", str(path)), *_gguf_facts(header)], header.tensors)


def inspect_checkpoint(folder: Path) -> Inspection:
    """What each layer of the checkpoint in `folder` becomes with the default options. Raises ConvertError."""
    model = read(Path(folder))
    planned = plan(model.checkpoint, model.reader, model.architecture)
    facts = [
        ("folder", str(folder)),
        ("architecture", model.architecture.name),
        ("quantization", source_of(model, planned)),
    ]
    return Inspection(facts, planned.tensors, planned.notes)


def _gguf_facts(header: Header) -> list[tuple[str, str]]:
    version = header.layout_version
    return [
        ("architecture", str(header.metadata.get("general.architecture", "not given"))),
        ("T-MAC layout", "none" if version is None else f"version {version}"),
        ("quantization", str(header.metadata.get(SOURCE_KEY, "not given"))),
    ]
