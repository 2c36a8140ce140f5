"""The answer of llama.cpp's converter as an architecture and a model for the planner.

What becomes of a tensor is decided by its name in the GGUF and by what the converter asks for: F32 where it does, the
linear layers of llama.cpp's graphs in T-MAC's types, the embedding and the head as the user chooses, all else as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import gguf
import numpy as np

from ..architectures.part import Kind, Part
from ..errors import ConvertError
from ..plan.from_checkpoint import CheckpointLayer, CheckpointModel
from ..plan.layer import Context
from ..sources.checkpoint import Checkpoint, TensorInfo
from ..sources.folded import Folded
from ..sources.linear_names import HEAD_NAME, dimensions_of_linear
from ..write.tensors import F16, F32, OutputTensor
from .answer import Answer, Output
from .heads import lost_head, missing_head
from .rearranged import WEIGHT, Quantized, RearrangedCheckpoint, RearrangedReader

EMBEDDING_NAME = "token_embd.weight"
TOKENS_KEY = gguf.Keys.Tokenizer.LIST
# Small matrices that say what a delta net forgets: rounding errors would stay in its state.
_GATES = re.compile(r"blk\.\d+\.ssm_(alpha|beta|ba)\.weight")
# A tensor of a numbered block, and not of what sees, hears, or drafts.
_TEXT_BLOCK = re.compile(r"(?:(?:model|language_model|text_model|transformer)\.)*(?:layers|blocks|h)\.(\d+)\.")
# Keys that a conversion sets itself, and those that the converter takes from names of folders.
_OWN = {
    gguf.Keys.General.ARCHITECTURE,
    gguf.Keys.General.ALIGNMENT,
    gguf.Keys.General.FILE_TYPE,
    gguf.Keys.General.QUANTIZATION_VERSION,
    gguf.Keys.General.NAME,
    gguf.Keys.General.BASENAME,
    gguf.Keys.General.FINETUNE,
    gguf.Keys.General.VERSION,
    gguf.Keys.General.ORGANIZATION,
}


class UpstreamArchitecture:
    """See Architecture: names and shapes as the converter gives them."""

    rotation = None

    def __init__(self, answer: Answer, parts: list[Part], notes: list[str]):
        self.name = answer.architecture
        self.vocab_size = len(answer.header.metadata.get(TOKENS_KEY, ()))
        self.notes = notes
        self._answer, self._parts = answer, parts
        names = {part.tensor for part in parts}
        self.tied_head = HEAD_NAME not in names and EMBEDDING_NAME in names
        # Where the converter writes no head, it is not known whether the graph could have one of its own.
        self.head_is_embedding = self.tied_head

    def parts(self) -> Iterator[Part]:
        yield from self._parts
        if self.tied_head:
            embedding = next(part for part in self._parts if part.tensor == EMBEDDING_NAME)
            yield Part(Kind.HEAD, embedding.source, HEAD_NAME.removesuffix(WEIGHT), embedding.shape)

    def packed_metadata(self) -> list[bytes]:
        return [record for key, record in self._answer.header.records.items() if key not in _OWN]

    def constants(self) -> dict[str, np.ndarray]:
        return {}

    def is_redundant(self, name: str) -> bool:
        return False

    def is_draft(self, name: str) -> bool:
        return False

    def rotate(self, folded: Folded) -> None:
        raise ConvertError(
            f"{folded}: rotated weights are not supported for {self.name}, expected one of the families that T-MAC has "
            "itself",
            "look for a GGUF of this model",
        )

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """All of it is copied (packed_metadata)."""


class UpstreamLayer(CheckpointLayer):
    """A layer that the checkpoint may have quantized where T-MAC has no type for it, or transposed."""

    def fallback(self) -> OutputTensor:
        sources, checkpoint = self.part.sources, self._checkpoint
        why = next(filter(None, map(checkpoint.rounded, sources)), "")
        if self.kind is Kind.KEPT and (why or any(map(self._reader.has, sources))):
            # llama.cpp's graphs read some of these in ways that are made for F32 alone.
            self.note("is quantized in the checkpoint; stored as f32, exactly: T-MAC has no low-bit type at this place")
            return self.as_stock(F32)
        if why:
            self.note(f"{why}; stored as f16, rounded")
            return self.as_stock(F16)
        return super().fallback()


class UpstreamModel(CheckpointModel):
    """The LayerSource of a checkpoint that llama.cpp's converter arranges. `raw`: tensors in their final form."""

    def __init__(
        self,
        checkpoint: RearrangedCheckpoint,
        reader: RearrangedReader,
        architecture: UpstreamArchitecture,
        raw: list[OutputTensor],
        refusals: list[ConvertError],
    ):
        super().__init__(checkpoint, reader, architecture)
        self._raw, self._refusals = raw, refusals

    def constants(self) -> list[OutputTensor]:
        return [*super().constants(), *self._raw]

    def layers(self, context: Context) -> Iterator[UpstreamLayer]:
        for tensor in self._raw:
            context.add_origin(tensor.type_name, tensor.name.removesuffix(WEIGHT))
        for part in self.architecture.parts():
            self._used.update(self._names(part))
            yield UpstreamLayer(self, part, context)

    def check_complete(self, context: Context) -> None:
        if self._refusals:
            raise self._refusals[0]
        super().check_complete(context)


def model_of(checkpoint: Checkpoint, quantized: Quantized, answer: Answer, aside: list[str]) -> UpstreamModel:
    """What the planner needs, from the answer. `aside` are tensors that the converter was not shown."""
    view = RearrangedCheckpoint(checkpoint, quantized)
    parts, raw, refusals = [], [], []
    for output in answer.outputs:
        if output.refused:
            refusals.append(_refusal(checkpoint, output))
        elif output.matrices:
            parts.append(_part(checkpoint, view, output))
        elif output.kind in ("F32", "F16", "BF16", "Q8_0"):
            parts.append(_computed(view, output, answer))
        else:
            raw.append(_raw(output, answer))
    notes = [*_notes(answer.unused, aside), *_factor_notes(quantized, answer)]
    if (left_out := _left_out(quantized, answer)) is not None:
        refusals.append(
            ConvertError(
                f"{checkpoint.folder}: llama.cpp's converter leaves out {left_out}, a quantized layer of a block of "
                "the text model, expected it to use all of them",
                "the model would be computed without it; please report this, unless its makers say so",
            )
        )
    refusals += filter(None, (lost_head(checkpoint, quantized, answer), missing_head(checkpoint, answer)))
    architecture = UpstreamArchitecture(answer, parts, notes)
    return UpstreamModel(view, RearrangedReader(view), architecture, raw, refusals)


def _refusal(checkpoint: Checkpoint, output: Output) -> ConvertError:
    return ConvertError(
        f"{checkpoint.folder}: llama.cpp's converter {output.refused} to make {output.name}, expected rows and columns "
        "that only change their places",
        "such a layer cannot stay quantized; use a checkpoint that has it in floats",
    )


def _part(checkpoint: Checkpoint, view: RearrangedCheckpoint, output: Output) -> Part:
    target = output.name.removesuffix(WEIGHT)
    experts = len(output.shape) > 2
    sources = [f"{output.name}#{number}" if experts else output.name for number in range(len(output.matrices))]
    shape = output.shape[-2:]
    for source, matrix in zip(sources, output.matrices):
        view.add(source, shape, matrix)
    is_quantized = any(map(view.is_quantized, sources))
    order = _column_order(checkpoint, view, output, sources) if is_quantized else None
    kind = _kind(output)
    suffix = WEIGHT if output.name.endswith(WEIGHT) else ""
    options: dict[str, Any] = {"tensor_scale": False, "names": (WEIGHT, suffix)}
    if order is not None:
        options["column_order"] = lambda: order
    part = Part(kind, sources[0], target, shape, expert_sources=tuple(sources) if experts else (), **options)
    assert part.full_shape == output.shape, f"{output.name}: {part.full_shape}, {output.shape}"
    return part


def _column_order(
    checkpoint: Checkpoint, view: RearrangedCheckpoint, output: Output, sources: list[str]
) -> np.ndarray | None:
    orders = [view.matrix(source).columns for source in sources if view.is_quantized(source)]
    if any(not np.array_equal(orders[0], order) for order in orders[1:]):
        raise ConvertError(
            f"{checkpoint.folder}: the experts of {output.name} have their inputs in different orders, expected one",
            "please report this: no model of llama.cpp's was known to do so",
        )
    if orders[0] is not None and len(orders) < len(sources):
        floats = next(source for source in sources if not view.is_quantized(source))
        raise ConvertError(
            f"{checkpoint.folder}: llama.cpp has the inputs of {output.name} in another order, and "
            f"{view.matrix(floats).runs[0].tensor} is not quantized, expected all its experts quantized",
            "use a checkpoint that has all experts quantized, or all in floats",
        )
    return orders[0]


def _kind(output: Output) -> Kind:
    """Of a tensor of two or three dimensions. Those that are asked for in F32 are read when they are written."""
    if output.name == EMBEDDING_NAME:
        return Kind.EMBEDDING
    if output.name == HEAD_NAME:
        return Kind.HEAD
    if _GATES.fullmatch(output.name):
        return Kind.GATE
    if output.kind == "F32":
        return Kind.ROUTER
    return Kind.LINEAR if dimensions_of_linear(output.name) == len(output.shape) else Kind.KEPT


def _computed(view: RearrangedCheckpoint, output: Output, answer: Answer) -> Part:
    """A tensor with values of its own; of three dimensions each matrix is a layer, as of experts.

    It stays F32, also where the converter asks for F16: so stored, a tiny Gemma 3n gave NaN for all logits.
    """
    target = output.name.removesuffix(WEIGHT)
    suffix = output.name.removeprefix(target)
    info = TensorInfo(answer.values, "F32", output.shape, output.start, output.nbytes)
    if len(output.shape) not in (2, 3):
        view.add_values(output.name, info)
        return Part(Kind.PARAMETER, target, target, output.shape, names=(suffix, suffix))
    shape = output.shape[-2:]
    experts = len(output.shape) == 3
    sources = [f"{output.name}#{number}" for number in range(output.shape[0])] if experts else [output.name]
    nbytes = output.nbytes // max(1, len(sources))
    for number, source in enumerate(sources):
        view.add_values(source + WEIGHT, replace(info, shape=shape, start=info.start + number * nbytes, nbytes=nbytes))
    of_experts = tuple(sources) if experts else ()
    return Part(_kind(output), sources[0], target, shape, expert_sources=of_experts, names=(WEIGHT, suffix))


def _raw(output: Output, answer: Answer) -> OutputTensor:
    """A tensor in a type of ggml that the checkpoint has (MXFP4, NVFP4), or of whole numbers."""
    kind = gguf.GGMLQuantizationType[output.kind]
    load = partial(np.fromfile, answer.values, np.uint8, output.nbytes, offset=output.start)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert prod(output.shape) // block * size == output.nbytes
    return OutputTensor(output.name, output.shape, int(kind), kind.name.lower(), output.nbytes, load)


def _left_out(quantized: Quantized, answer: Answer) -> str | None:
    """The first quantized layer in a block of the text model that no tensor is made of."""
    blocks = answer.header.metadata.get(f"{answer.architecture}.block_count", 0)
    for name in answer.unused:
        found = _TEXT_BLOCK.match(name) if name in quantized.shapes else None
        if found and int(found[1]) < blocks:
            return name
    return None


def _notes(unused: list[str], aside: list[str]) -> list[str]:
    notes = ["the model was arranged by llama.cpp's own converter"]
    if unused:
        notes.append(f"{_first(unused)} are no part of what llama.cpp computes (such as images); left out")
    if aside:
        notes.append(f"{_first(aside)} are for activations, caches or angles, which llama.cpp has in floats; left out")
    return notes


def _factor_notes(quantized: Quantized, answer: Answer) -> list[str]:
    """Which layers are multiplied by numbers; how exactly is known when their scales are read."""
    found = [
        output.name
        for output in answer.outputs
        if any(
            matrix.factors is not None and any(run.tensor in quantized.shapes for run in matrix.runs)
            for matrix in output.matrices
        )
    ]
    if not found:
        return []
    return [f"{_first(found)}: llama.cpp has constants of the model in these layers; their weights were multiplied"]


def _first(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
