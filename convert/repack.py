"""Layers of the checkpoint -> tensors of the GGUF: which storage type each gets, and how its bytes are made.

Comes in: a checkpoint with its reader and architecture. Goes out: a Plan of lazy tensors. Planning reads only small
tensors (zero-points, scales, biases); codes and float weights are read when the writer asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from . import layout
from .architectures import Architecture
from .architectures.part import Kind, Part
from .checkpoint import FLOAT_DTYPES, Checkpoint, QuantLinear
from .errors import ConvertError
from .notes import Notes
from .quantize import W4_BITS, W4_GROUP, quantize_w4
from .readers import Reader
from .writer import OutputTensor

EMBEDDING_TYPES = {
    "q8_0": GGMLQuantizationType.Q8_0, "f16": GGMLQuantizationType.F16, "q4_0": GGMLQuantizationType.Q4_0,
}
TMAC_HEAD = "tmac_w4"
HEAD_TYPES = (*EMBEDDING_TYPES, TMAC_HEAD)
# Layers the checkpoint left in floats stay in the type they have, so that nothing is lost.
SAME_TYPE = {
    "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16, "F32": GGMLQuantizationType.F32,
}
# Bounds the float32 copy of a large embedding: 64 MB.
_BLOCK_WEIGHTS = 1 << 24


@dataclass
class Plan:
    """The tensors of the GGUF in file order, the grids found (for tmac.source), and notes for the user."""

    tensors: list[OutputTensor] = field(default_factory=list)
    grids: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def check_types(embedding: str, head: str) -> None:
    """Raises ConvertError unless `embedding` is one of EMBEDDING_TYPES and `head` one of HEAD_TYPES."""
    for option, value, known in (("embedding", embedding, EMBEDDING_TYPES), ("head", head, HEAD_TYPES)):
        if value not in known:
            raise ConvertError(f"{option} type {value!r} is unknown", f"choose one of: {', '.join(known)}")


def plan(
    checkpoint: Checkpoint, reader: Reader, architecture: Architecture, *, embedding: str = "q8_0", head: str = "q8_0"
) -> Plan:
    """Decides the storage of every layer.

    `embedding` is one of EMBEDDING_TYPES, `head` one of HEAD_TYPES. Raises ConvertError for a missing, misshapen or
    unexpected tensor and for a grid that the layout cannot keep exactly.
    """
    planner = _Planner(checkpoint, reader, architecture, embedding, head)
    return planner.run()


class _Planner:
    def __init__(self, checkpoint: Checkpoint, reader: Reader, architecture: Architecture, embedding: str, head: str):
        check_types(embedding, head)
        self.checkpoint, self.reader, self.architecture = checkpoint, reader, architecture
        self.embedding, self.head = embedding, head
        self.used: set[str] = set()
        self.plan = Plan()
        self.notes = Notes()

    def run(self) -> Plan:
        for name, values in self.architecture.constants().items():
            self.plan.tensors.append(_values(name, values))
        for part in self.architecture.parts():
            self.plan.tensors += self._tensors(part)
        self._check_all_used()
        if not self.plan.grids:
            raise ConvertError(
                f"{self.checkpoint.folder}: no layer is quantized, expected {self.reader.method} tensors",
                "the configuration promises quantized weights that the files do not have",
            )
        self.plan.notes = [*self.notes.lines(), *self.reader.notes()]
        return self.plan

    def _tensors(self, part: Part) -> Iterator[OutputTensor]:
        if part.kind is Kind.NORM:
            yield self._float_tensor(part, GGMLQuantizationType.F32)
        elif part.kind is Kind.EMBEDDING:
            yield self._float_tensor(part, EMBEDDING_TYPES[self.embedding])
        elif part.kind is Kind.HEAD:
            yield from self._head_tensors(part)
        else:
            yield self._linear_tensor(part)
            yield from self._bias_tensors(part)

    def _head_tensors(self, part: Part) -> Iterator[OutputTensor]:
        """A tied head is left to llama.cpp, which falls back to the embedding, unless its type is to differ."""
        if self.architecture.tied_head and self.head == self.embedding:
            self.notes.add("the output head is the embedding (tied), stored once")
        elif self.reader.has(part.source):
            self.notes.add("the output head is quantized in the checkpoint and was kept so")
            yield self._linear_tensor(part)
        elif self.head != TMAC_HEAD:
            yield self._float_tensor(part, EMBEDDING_TYPES[self.head])
        elif not layout.can_hold(*part.shape, W4_GROUP):
            yield self._float_tensor(part, GGMLQuantizationType.F16)
            self._note_unholdable(part, W4_GROUP)
        else:
            self.notes.add("the output head was freshly quantized to 4 bits; the checkpoint has it in floats")
            yield self._fresh_w4_tensor(part)
        if any(True for _ in self._bias_tensors(part)):
            raise ConvertError(
                f"{self.checkpoint.folder}: tensor {part.source}.bias is not zero, expected none",
                "llama.cpp has no bias on this model's output head",
            )

    def _linear_tensor(self, part: Part) -> OutputTensor:
        if not self.reader.has(part.source):
            info = self.checkpoint.info(f"{part.source}.weight", FLOAT_DTYPES, part.shape)
            self.notes.add(f"is not quantized in the checkpoint; kept as {info.dtype}", part.target)
            return self._float_tensor(part, SAME_TYPE[info.dtype])
        rows, columns = part.shape
        self.used.update(self.reader.names(part.source))
        grid = self.reader.grid(part.source, rows, columns)
        kind = "asymmetric" if grid.asymmetric else "symmetric"
        self.plan.grids.add(f"w{grid.bits}g{grid.group} {kind}")
        if not layout.can_hold(rows, columns, grid.group):
            self._note_unholdable(part, grid.group)
            return _stock(part, GGMLQuantizationType.F16, lambda: self._rounded(part))
        return _tmac(part, layout.type_of(grid.bits, grid.group, grid.asymmetric), lambda: self._read(part))

    def _read(self, part: Part) -> QuantLinear:
        linear = self.reader.read(part.source, *part.shape)
        return linear if part.row_order is None else linear.take_rows(part.row_order())

    def _rounded(self, part: Part) -> np.ndarray:
        """A quantized layer as fp16; its values may have more digits than that."""
        info = self.checkpoint.info(self.reader.names(part.source)[0])
        return _halves(f"{info.file}: layer {part.source}", self._read(part).dequantize())

    def _note_unholdable(self, part: Part, group: int) -> None:
        rows, columns = part.shape
        why = f"{rows} rows are not a multiple of {layout.TILE_ROWS}"
        if rows % layout.TILE_ROWS == 0:
            why = f"{columns} columns do not divide into groups of {' or '.join(map(str, layout.GROUPS))}"
            if group in layout.GROUPS:
                why = f"{columns} columns are not a multiple of the group {group}"
        self.notes.add(f"({rows} x {columns}) is stored as f16, rounded: {why}", part.target)

    def _float_tensor(self, part: Part, kind: GGMLQuantizationType) -> OutputTensor:
        name = f"{part.source}.weight"
        self.used.add(name)
        where = f"{self.checkpoint.info(name, FLOAT_DTYPES, part.shape).file}: tensor {name}"
        if part.shape[-1] % GGML_QUANT_SIZES[kind][0]:
            why = f"its {part.shape[-1]} columns do not fill {kind.name.lower()} blocks"
            self.notes.add(f"is stored as f16: {why}", part.target)
            kind = GGMLQuantizationType.F16

        def load() -> np.ndarray:
            # One row of bytes per row of weights; a norm has one weight in each. Never held twice: a head can be 1 GB.
            out = np.empty((part.shape[0], _stock_bytes(part, kind) // part.shape[0]), np.uint8)
            target_rows = np.arange(len(out)) if part.row_order is None else np.argsort(part.row_order())
            for start, block in self._blocks(name):
                encoded = np.ascontiguousarray(_encode(where, block, kind)).view(np.uint8)
                out[target_rows[start:start + len(block)]] = encoded.reshape(len(block), -1)
            return out

        return _stock(part, kind, load)

    def _fresh_w4_tensor(self, part: Part) -> OutputTensor:
        name = f"{part.source}.weight"
        self.used.add(name)
        where = f"{self.checkpoint.info(name, FLOAT_DTYPES, part.shape).file}: tensor {name}"

        def load() -> QuantLinear:
            rows, columns = part.shape
            codes, scales = np.empty((rows, columns), np.uint8), np.empty((rows, columns // W4_GROUP), np.float16)
            for start, block in self._blocks(name):
                done = quantize_w4(_finite(where, block))
                codes[start:start + len(block)], scales[start:start + len(block)] = done.codes, done.scales
            return QuantLinear(codes, scales, None, W4_BITS, W4_GROUP)

        return _tmac(part, layout.type_of(W4_BITS, W4_GROUP, False), load)

    def _blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) until all are read."""
        rows, *row_shape = self.checkpoint.info(name).shape
        step = max(1, _BLOCK_WEIGHTS // math.prod(row_shape))
        return ((i, self.checkpoint.read(name, slice(i, i + step))) for i in range(0, rows, step))

    def _bias_tensors(self, part: Part) -> Iterator[OutputTensor]:
        name = f"{part.source}.bias"
        if name not in self.checkpoint:
            return
        self.used.add(name)
        where = f"{self.checkpoint.info(name, FLOAT_DTYPES, part.shape[:1]).file}: tensor {name}"
        values = _finite(where, self.checkpoint.read(name)).astype(np.float32)
        if not values.any():
            self.notes.add("is zero throughout; left out", f"{part.target}.bias")
            return
        ordered = values if part.row_order is None else values[part.row_order()]
        yield _values(f"{part.target}.bias", ordered)

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


def _stock(part: Part, kind: GGMLQuantizationType, load: Callable[[], np.ndarray]) -> OutputTensor:
    nbytes = _stock_bytes(part, kind)
    return OutputTensor(f"{part.target}.weight", part.shape, int(kind), kind.name.lower(), nbytes, load)


def _stock_bytes(part: Part, kind: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return math.prod(part.shape) // block * size


def _tmac(part: Part, kind: layout.TmacType, load: Callable[[], QuantLinear]) -> OutputTensor:
    nbytes = kind.nbytes(*part.shape)
    return OutputTensor(f"{part.target}.weight", part.shape, kind.id, kind.name, nbytes, lambda: layout.pack(load()))


def _values(name: str, values: np.ndarray) -> OutputTensor:
    kind = GGMLQuantizationType.F32
    return OutputTensor(name, values.shape, int(kind), kind.name.lower(), values.nbytes, lambda: values)


def _encode(where: str, block: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    if kind is GGMLQuantizationType.F16:
        return _halves(where, block)
    return quants.quantize(_finite(where, block).astype(np.float32), kind)


def _halves(where: str, values: np.ndarray) -> np.ndarray:
    """`values` as fp16; `where` names the file and the tensor they are from."""
    with np.errstate(over="ignore"):
        halves = _finite(where, values).astype(np.float16)
    if not np.isfinite(halves).all():
        raise ConvertError(
            f"{where} has the value {np.abs(values).max():g}, expected at most 65504, the largest in fp16",
            "choose q8_0 for the embedding or the output head; for other layers no type holds it",
        )
    return halves


def _finite(where: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ConvertError(
            f"{where} has values that are infinite or not a number, expected finite ones",
            "the checkpoint is damaged; download it again, or ask its maker",
        )
    return values
