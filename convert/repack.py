"""Layers of the checkpoint -> tensors of the GGUF: which storage type each gets.

Comes in: a checkpoint with its reader and architecture. Goes out: a Plan of lazy tensors. Planning reads only small
tensors (zero-points, scales, biases); codes and float weights are read when the writer asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ..common.format import ORDER_SUFFIX, TmacType, can_hold, type_of, why_not
from .architectures import Architecture
from .architectures.part import Kind, Part
from .checkpoint import FLOAT_DTYPES, Checkpoint, QuantLinear, row_blocks
from .errors import ConvertError
from .notes import Notes
from .quantize import SLAB_WEIGHTS, quantize
from .readers import Reader
from .readers.grid import Q8_BITS, Q8_GROUP, Grid
from .storage import (
    Q8_0,
    encode_floats,
    encode_q8_0,
    finite,
    stacked,
    stock_bytes,
    stock_tensor,
    tmac_tensor,
    value_tensor,
)
from .writer import OutputTensor

EMBEDDING_TYPES = {
    "q8_0": Q8_0,
    "f16": GGMLQuantizationType.F16,
    "q4_0": GGMLQuantizationType.Q4_0,
}
# The type that this head gets, by its name in fresh.py.
TMAC_HEAD, TMAC_HEAD_TYPE = "tmac_w4", "w4g32"
_HEAD_KIND = type_of(4, 32, False)
HEAD_TYPES = (*EMBEDDING_TYPES, TMAC_HEAD)
# Layers the checkpoint left in floats stay in the type they have, so that nothing is lost.
SAME_TYPE = {
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
    "F32": GGMLQuantizationType.F32,
}


@dataclass
class Plan:
    """The tensors of the GGUF in file order, the layers on each grid by its name, and notes for the user.

    `refusals` stays empty, unless the plan was made to look at what a conversion would refuse.
    """

    tensors: list[OutputTensor] = field(default_factory=list)
    grids: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: list[ConvertError] = field(default_factory=list)


def check_types(embedding: str, head: str) -> None:
    """Raises ConvertError unless `embedding` is one of EMBEDDING_TYPES and `head` one of HEAD_TYPES."""
    for option, value, known in (("embedding", embedding, EMBEDDING_TYPES), ("head", head, HEAD_TYPES)):
        if value not in known:
            raise ConvertError(f"{option} type {value!r} is unknown", f"choose one of: {', '.join(known)}")


def plan(
    checkpoint: Checkpoint,
    reader: Reader,
    architecture: Architecture,
    *,
    embedding: str = "q8_0",
    head: str = "q8_0",
    collects_refusals: bool = False,
) -> Plan:
    """Decides the storage of every layer.

    `embedding` is one of EMBEDDING_TYPES, `head` one of HEAD_TYPES. Raises ConvertError for a missing, misshapen or
    unexpected tensor and for a grid that the layout cannot keep exactly; with `collects_refusals` such a layer is left
    out, and the error goes into the plan.
    """
    planner = _Planner(checkpoint, reader, architecture, embedding, head)
    return planner.run(collects_refusals)


class _Planner:
    def __init__(self, checkpoint: Checkpoint, reader: Reader, architecture: Architecture, embedding: str, head: str):
        check_types(embedding, head)
        self.checkpoint, self.reader, self.architecture = checkpoint, reader, architecture
        self.embedding, self.head = embedding, head
        self.used: set[str] = set()
        self.plan = Plan()
        self.notes = Notes()

    def run(self, collects_refusals: bool) -> Plan:
        for name, values in self.architecture.constants().items():
            self.plan.tensors.append(value_tensor(name, values))
        for part in self.architecture.parts():
            self.used.update(self._names(part))
            with self._collecting(collects_refusals):
                self.plan.tensors += list(self._tensors(part))
        with self._collecting(collects_refusals):
            self._check_all_used()
            self._check_any_quantized()
        self.plan.notes = [*self.architecture.notes, *self.notes.lines(), *self.reader.notes()]
        return self.plan

    @contextmanager
    def _collecting(self, collects_refusals: bool) -> Iterator[None]:
        try:
            yield
        except ConvertError as refusal:
            if not collects_refusals:
                raise
            self.plan.refusals.append(refusal)

    def _names(self, part: Part) -> Iterator[str]:
        """The tensors of the checkpoint that `part` is made of, or should be."""
        for source in part.sources:
            yield from self.reader.names(source) if self.reader.has(source) else [f"{source}.weight"]
            yield f"{source}.bias"

    def _tensors(self, part: Part) -> Iterator[OutputTensor]:
        if part.kind is Kind.NORM:
            yield self._small_tensor(part, "weight")
        elif part.kind is Kind.ROUTER:
            yield self._router_tensor(part)
        elif part.kind is Kind.EMBEDDING:
            yield self._embedding_tensor(part)
        elif part.kind is Kind.HEAD:
            yield from self._head_tensors(part)
        else:
            yield from self._linear_tensors(part)
        yield from self._bias_tensors(part)

    def _embedding_tensor(self, part: Part) -> OutputTensor:
        """Embeddings are read by row, for which T-MAC's types have no place: a quantized one is stored in another."""
        kind = EMBEDDING_TYPES[self.embedding]
        if not self.reader.has(part.source):
            return self._float_tensor(part, kind)
        name = kind.name.lower()
        self.notes.add(f"is quantized in the checkpoint, and read by row; stored as {name}, rounded", part.target)
        return self._rounded_tensor(part, self._grids(part), kind)

    def _router_tensor(self, part: Part) -> OutputTensor:
        if not self.reader.has(part.source):
            return self._float_tensor(part, GGMLQuantizationType.F32)
        self.notes.add("is quantized in the checkpoint, and chooses experts; stored as f32, exactly", part.target)
        return self._rounded_tensor(part, self._grids(part), GGMLQuantizationType.F32)

    def _head_tensors(self, part: Part) -> Iterator[OutputTensor]:
        """A tied head is left to llama.cpp (it uses the embedding), unless its type differs or only it is exact."""
        is_exact = self._is_exact(part)
        if self.architecture.tied_head and self.head == self.embedding and not is_exact:
            self.notes.add("the output head is the embedding (tied), stored once")
        elif self.architecture.head_is_embedding:
            self.notes.add(
                f"the output head is the embedding, stored once as {self.embedding}: llama.cpp's "
                f"{self.architecture.name} graph has no place for another"
            )
        elif self.reader.has(part.source):
            if is_exact:
                self.notes.add("the output head is quantized in the checkpoint and was kept so")
            yield from self._linear_tensors(part)
        elif self.head != TMAC_HEAD:
            yield self._float_tensor(part, EMBEDDING_TYPES[self.head])
        elif not can_hold(*part.shape, _HEAD_KIND.group):
            yield self._float_tensor(part, GGMLQuantizationType.F16)
            self._note_unholdable(part, _HEAD_KIND.group)
        else:
            self.notes.add("the output head was freshly quantized to 4 bits; the checkpoint has it in floats")
            yield self._fresh_w4_tensor(part)

    def _is_exact(self, part: Part) -> bool:
        """Whether the head is quantized, and stored without rounding."""
        if not self.reader.has(part.source):
            return False
        grid = self.reader.grid(part.source, *part.shape)
        has_tmac_type = grid.bits != Q8_BITS and grid.group > 0 and can_hold(*part.shape, grid.group)
        return has_tmac_type or _fits_q8_0(part, grid)

    def _linear_tensors(self, part: Part) -> Iterator[OutputTensor]:
        if not any(self.reader.has(source) for source in part.sources):
            self._refuse_fused_experts(part)
            kind = self._same_type(part)
            self.notes.add(f"is not quantized in the checkpoint; kept as {kind.name}", part.target)
            yield self._float_tensor(part, kind)
            return
        grids = self._grids(part)
        kind = self._common_type(part, grids)
        if kind is not None:
            reads = [partial(self._read, part, source) for source in part.sources]
            yield tmac_tensor(f"{part.target}.weight", part.full_shape, kind, reads)
            yield from self._companions(part, grids)
        elif all(_fits_q8_0(part, grid) for grid in grids):
            yield self._exact_q8_0_tensor(part)
        else:
            yield self._rounded_tensor(part, grids, GGMLQuantizationType.F16)

    def _same_type(self, part: Part) -> GGMLQuantizationType:
        """The type that a layer in floats has; F32, which holds all, if its experts have different ones."""
        names = [f"{source}.weight" for source in part.sources]
        dtypes = {self.checkpoint.info(name, FLOAT_DTYPES, part.shape).dtype for name in names}
        return SAME_TYPE[dtypes.pop()] if len(dtypes) == 1 else GGMLQuantizationType.F32

    def _refuse_fused_experts(self, part: Part) -> None:
        """transformers 5 computes with one tensor of all experts, and can store them so."""
        if not part.expert_sources:
            return
        place = part.source.rpartition(".")[0]
        fused = next((name for name in self.checkpoint.tensors if name.startswith(f"{place}.gate_up_proj")), None)
        if fused:
            raise ConvertError(
                f"{self.checkpoint.tensors[fused].file}: tensor {fused} holds the experts of a layer in one, expected "
                f"one module for each, such as {part.sources[0]}",
                "look for a checkpoint with one module for every expert; transformers stores them so by default",
            )

    def _grids(self, part: Part) -> list[Grid]:
        quantized = [source for source in part.sources if self.reader.has(source)]
        if len(quantized) < len(part.sources):
            other = next(source for source in part.sources if source not in quantized)
            raise ConvertError(
                f"{self.checkpoint.folder}: layer {other} is not quantized, but {quantized[0]} is, expected the same "
                "of all experts of a layer",
                "the GGUF has one tensor of one type for all of them",
            )
        grids = [self.reader.grid(source, *part.shape) for source in quantized]
        for name in sorted({grid.name for grid in grids}):
            self.plan.grids.setdefault(name, []).append(part.target)
        return grids

    def _common_type(self, part: Part, grids: list[Grid]) -> TmacType | None:
        """The type of the tensor, None if T-MAC has none for it; experts without zero-points take those of others."""
        kinds = {(grid.bits, grid.group) for grid in grids}
        if len(kinds) > 1:
            names = " and ".join(sorted({grid.name for grid in grids}))
            raise ConvertError(
                f"{self.checkpoint.folder}: {part.source} has experts in {names}, "
                "expected the same bits and group in all experts of a layer",
                "the GGUF has one tensor of one type for all of them",
            )
        bits, group = kinds.pop()
        if bits == Q8_BITS:
            if not all(_fits_q8_0(part, grid) for grid in grids):
                self.notes.add("has 8-bit weights that q8_0 cannot hold; stored as f16, rounded", part.target)
            return None
        if part.kind is Kind.HEAD and not group:
            self.notes.add("is stored as f16, rounded: llama.cpp multiplies no output head by a scale", part.target)
            return None
        if not can_hold(*part.shape, group):
            self._note_unholdable(part, group)
            return None
        return type_of(bits, group, any(grid.asymmetric for grid in grids))

    def _companions(self, part: Part, grids: list[Grid]) -> Iterator[OutputTensor]:
        """What goes beside a T-MAC tensor: its scale, if it has one for all, and the order of its columns."""
        scales = [grid.tensor_scale for grid in grids if grid.tensor_scale is not None]
        if scales and not part.tensor_scale:
            raise ConvertError(
                f"{self.checkpoint.folder}: layer {part.sources[0]} has one scale for all its weights, expected one "
                "for every group",
                f"llama.cpp would not multiply by it at this place of the {self.architecture.name} architecture",
            )
        if scales and part.scales_bias and f"{part.source}.bias" in self.checkpoint:
            if self._small_values(part, "bias").any():
                raise ConvertError(
                    f"{self.checkpoint.folder}: layer {part.source} has a bias and one scale for all its weights, "
                    "expected one for every group",
                    "llama.cpp would multiply the bias by the scale at this place",
                )
        if scales:
            yield value_tensor(f"{part.target}.scale", np.array(scales, np.float32))
        if any(grid.column_order is not None for grid in grids):
            identity = np.arange(part.shape[1])
            orders = [identity if grid.column_order is None else grid.column_order for grid in grids]
            order = np.array(orders, np.int32)
            self.notes.add("has its columns in the order of quantization (act-order)", part.target)
            yield value_tensor(f"{part.target}{ORDER_SUFFIX}", order if part.expert_sources else order[0])

    def _read(self, part: Part, source: str) -> QuantLinear:
        linear = self.reader.read(source, *part.shape)
        return linear if part.row_order is None else linear.take_rows(part.row_order())

    def _exact_q8_0_tensor(self, part: Part) -> OutputTensor:
        def load() -> np.ndarray:
            return np.stack([encode_q8_0(self._read(part, source)) for source in part.sources])

        self.notes.add("has 8-bit weights, kept exactly as q8_0", part.target)
        return stock_tensor(f"{part.target}.weight", part.full_shape, Q8_0, load)

    def _rounded_tensor(self, part: Part, grids: list[Grid], kind: GGMLQuantizationType) -> OutputTensor:
        """A quantized layer in a type of ggml that may not hold its values exactly."""
        kind = self._fitting(part, kind)

        def load() -> np.ndarray:
            rows = part.shape[0]
            out = np.empty((len(part.sources), rows, stock_bytes(part.shape, kind) // rows), np.uint8)
            for matrix, source, grid in zip(out, part.sources, grids):
                where = f"{self.checkpoint.info(self.reader.names(source)[0]).file}: layer {source}"
                linear = self._read(part, source)
                for block in row_blocks(*part.shape):
                    weights = grid.weights(linear.take_rows(block))
                    encoded = np.ascontiguousarray(encode_floats(where, weights, kind)).view(np.uint8)
                    matrix[block] = encoded.reshape(len(weights), -1)
            return out

        return stock_tensor(f"{part.target}.weight", part.full_shape, kind, load)

    def _note_unholdable(self, part: Part, group: int) -> None:
        rows, columns = part.shape
        why = why_not(rows, columns, group)
        self.notes.add(f"({rows} x {columns}) is stored as f16, rounded: {why}", part.target)

    def _fitting(self, part: Part, kind: GGMLQuantizationType) -> GGMLQuantizationType:
        if part.shape[-1] % GGML_QUANT_SIZES[kind][0] == 0:
            return kind
        why = f"its {part.shape[-1]} columns do not fill {kind.name.lower()} blocks"
        self.notes.add(f"is stored as f16: {why}", part.target)
        return GGMLQuantizationType.F16

    def _float_tensor(self, part: Part, kind: GGMLQuantizationType) -> OutputTensor:
        places = {source: self._float_source(part, f"{source}.weight") for source in part.sources}
        kind = self._fitting(part, kind)

        def load() -> np.ndarray:
            # One row of bytes per row of weights. Never held twice: a head can be 1 GB.
            rows = part.shape[0]
            out = np.empty((len(places), rows, stock_bytes(part.shape, kind) // rows), np.uint8)
            target_rows = np.arange(rows) if part.row_order is None else np.argsort(part.row_order())
            for matrix, (source, where) in zip(out, places.items()):
                for rows_read, block in self.checkpoint.blocks(f"{source}.weight"):
                    encoded = np.ascontiguousarray(encode_floats(where, block, kind)).view(np.uint8)
                    matrix[target_rows[rows_read]] = encoded.reshape(len(block), -1)
            return out

        return stock_tensor(f"{part.target}.weight", part.full_shape, kind, load)

    def _float_source(self, part: Part, name: str) -> str:
        """The place of float tensor `name` for messages. Raises ConvertError if it has not the shape of the part."""
        return f"{self.checkpoint.info(name, FLOAT_DTYPES, part.shape).file}: tensor {name}"

    def _fresh_w4_tensor(self, part: Part) -> OutputTensor:
        name = f"{part.source}.weight"
        where = self._float_source(part, name)

        def load() -> QuantLinear:
            rows, columns = part.shape
            slabs = self.checkpoint.blocks(name, SLAB_WEIGHTS)
            blocks = (quantize(slab, _HEAD_KIND, where=where)[0] for _, slab in slabs)
            return stacked(blocks, rows, columns, _HEAD_KIND)

        return tmac_tensor(f"{part.target}.weight", part.shape, _HEAD_KIND, [load])

    def _small_tensor(self, part: Part, suffix: str) -> OutputTensor:
        return value_tensor(f"{part.target}.{suffix}", self._small_values(part, suffix) + np.float32(part.offset))

    def _small_values(self, part: Part, suffix: str) -> np.ndarray:
        """float32 [outputs] of a norm's weight or a layer's bias, in the order of the GGUF's rows."""
        name = f"{part.source}.{suffix}"
        where = f"{self.checkpoint.info(name, FLOAT_DTYPES, part.shape[:1]).file}: tensor {name}"
        values = finite(where, self.checkpoint.read(name)).astype(np.float32)
        return values if part.row_order is None else values[part.row_order()]

    def _bias_tensors(self, part: Part) -> Iterator[OutputTensor]:
        for source in part.sources:
            if f"{source}.bias" not in self.checkpoint:
                continue
            values = self._small_values(part, "bias")
            if not values.any():
                self.notes.add("is zero throughout; left out", f"{part.target}.bias")
            elif part.expert_sources or not part.bias:
                raise ConvertError(
                    f"{self.checkpoint.folder}: tensor {source}.bias is not zero, expected none",
                    f"llama.cpp has no bias at this place of the {self.architecture.name} architecture",
                )
            else:
                yield value_tensor(f"{part.target}.bias", values)

    def _check_any_quantized(self) -> None:
        if not self.plan.grids:
            raise ConvertError(
                f"{self.checkpoint.folder}: no layer is quantized, expected {self.reader.method} tensors",
                "the configuration promises quantized weights that the files do not have",
            )

    def _check_all_used(self) -> None:
        unused = [name for name in self.checkpoint.tensors if name not in self.used]
        unknown = sorted(name for name in unused if not self.architecture.is_redundant(name))
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ConvertError(
                f"{self.checkpoint.tensors[unknown[0]].file}: tensor {unknown[0]}{more} is not part of the "
                f"{self.architecture.name} architecture, expected only tensors that it computes with",
                "leaving it out would change the model silently; is config.json the right one?",
            )


def _fits_q8_0(part: Part, grid: Grid) -> bool:
    shape_fits = grid.bits == Q8_BITS and grid.group == Q8_GROUP and part.shape[1] % Q8_GROUP == 0
    return shape_fits and not grid.asymmetric and grid.column_order is None
