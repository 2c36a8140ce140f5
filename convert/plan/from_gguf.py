"""A GGUF of llama.cpp's own types as layers: linear weights, and all else, which stays as it is byte for byte.

Linear weights in a low-bit type have a T-MAC type that means the same; others can be quantized freshly. Metadata and
vocabulary stay as they are (packed_metadata).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from ...common.format import KEY_PREFIX, ORDER_SUFFIX, TYPES_BY_ID
from ..architectures.part import Kind
from ..errors import ConvertError
from ..linear import QuantLinear, join_rows
from ..quantize.quantizer import FloatMatrix, Quantizer
from ..readers.ggml_blocks import BLOCK_TYPES, TERNARY_BLOCK_TYPES, BlockType, as_q2_0, is_exact, linear_of
from ..repacking import Repack, repacked_tensor, stock_type
from ..sources.ggml_types import FORK_IDS, Q2_0
from ..sources.gguf_model import GgufSource, SourceTensor
from ..sources.linear_names import HEAD_NAME, dimensions_of_linear
from ..write import layout
from ..write.tensors import OutputTensor, encode_floats, stock_tensor, tmac_tensor
from .grid_types import nothing_fits
from .layer import Bias, Context
from .options import EMBEDDING_TYPES
from .planner import Plan

EMBEDDING_NAME = "token_embd.weight"
# What a conversion sets itself.
OWN_KEYS = (
    gguf.Keys.General.ARCHITECTURE,
    gguf.Keys.General.ALIGNMENT,
    gguf.Keys.General.FILE_TYPE,
    gguf.Keys.General.QUANTIZATION_VERSION,
)


def require_converted(source: GgufSource, planned: Plan, is_quantizing: bool) -> None:
    """Raises ConvertError if no tensor has a T-MAC type, also not by --quantize (`is_quantizing`)."""
    if planned.origins:
        return
    if is_quantizing:
        raise nothing_fits(source.path, planned.notes)
    linear = {tensor.entry.type_name for tensor in source.tensors if dimensions_of_linear(tensor.entry.name)}
    why = f"{planned.notes[0]}; " if planned.notes else ""
    raise ConvertError(
        f"{source.path}: found linear weights in {', '.join(sorted(linear)) or 'no type'}, expected some that T-MAC "
        f"can hold without loss: {', '.join(kind.name for kind in BLOCK_TYPES.values())}",
        f"{why}to quantize others freshly: --quantize w4g128z, best with --imatrix FILE",
    )


def packed_metadata(source: GgufSource) -> list[bytes]:
    """The metadata that the new file keeps: all but what a conversion sets itself."""
    return [record for key, record in source.records.items() if key not in OWN_KEYS and not key.startswith(KEY_PREFIX)]


class GgufModel:
    """The LayerSource of a GGUF. `repack`: the compiled repackers, if there are any."""

    method = "gguf"

    def __init__(self, source: GgufSource, repack: Repack | None = None):
        self.source, self.repack = source, repack

    def constants(self) -> list[OutputTensor]:
        return []

    def layers(self, context: Context) -> Iterator[GgufLayer]:
        """Raises ConvertError for a file that has T-MAC types, or that would reorder columns once it had."""
        if any(tensor.entry.type_id in TYPES_BY_ID for tensor in self.source.tensors):
            raise ConvertError(
                f"{self.source.path}: has T-MAC types already, expected those of llama.cpp",
                f"there is nothing to convert: tmac run {self.source.path}",
            )
        for tensor in self.source.tensors:
            _check_order(tensor)
        return (GgufLayer(tensor, context, self.repack) for tensor in self.source.tensors)

    def check_complete(self, context: Context) -> None:
        names = [tensor.entry.name for tensor in self.source.tensors]
        if context.options.head_quantizer and HEAD_NAME not in names:
            context.notes.add(f"there is no {HEAD_NAME}: the output head is the embedding (tied), which stays as it is")

    def notes(self, planned: list[str]) -> list[str]:
        rotation = self.source.rotation
        return planned if rotation is None else [*planned, rotation.note]


class GgufLayer:
    """One tensor (see Layer). The output head is a linear layer like others."""

    def __init__(self, tensor: SourceTensor, context: Context, repack: Repack | None):
        self._tensor, self._entry, self._context, self._repack = tensor, tensor.entry, context, repack
        self.name, self.shape = self._entry.name, self._entry.shape
        self.is_head = self.name == HEAD_NAME
        self.obstacles: list[str] = []
        dimensions = dimensions_of_linear(self.name)
        self.kind = Kind.LINEAR if dimensions == len(self.shape) else Kind.OTHER
        if dimensions and self.kind is Kind.OTHER:
            self.obstacles.append(f"it has {len(self.shape)} dimensions, expected {dimensions}")

    def as_tmac(self) -> list[OutputTensor]:
        kind = BLOCK_TYPES.get(self._entry.type_id)
        if kind is None:
            return []
        ternary = TERNARY_BLOCK_TYPES.get(self._entry.type_id)
        if ternary and ternary.target.can_hold(*self.shape[-2:]) and self._is_exact(ternary):
            kind = ternary
        elif why := kind.target.why_not(*self.shape[-2:]):
            self.obstacles.append(why)
            return []
        elif not self._is_exact(kind):
            self.obstacles.append(kind.obstacle)
            return []
        self._context.add_origin(kind.name, self.name)
        matrices = range(self._tensor.matrices)
        stock = stock_type(self._entry.type_id, kind.target)
        if self._repack and stock:
            reads = [partial(self._tensor.read_matrix, matrix) for matrix in matrices]
            packs = [partial(self._pack, kind, matrix) for matrix in matrices]
            return [repacked_tensor(self.name, self.shape, stock, self._repack, reads, packs)]
        return [tmac_tensor(self.name, self.shape, kind.target, [partial(self._read, kind, i) for i in matrices])]

    def floats(self) -> list[FloatMatrix]:
        decode = _float_decoder(self._entry.type_id)
        if decode is None:
            self.obstacles.append("no values can be read from that type")
            return []

        def blocks(matrix: int) -> Iterator[np.ndarray]:
            return (decode(data) for data in self._tensor.row_blocks(matrix))

        return [FloatMatrix(self._tensor.where, partial(blocks, i)) for i in range(self._tensor.matrices)]

    def add_fresh_origin(self, quantizer: Quantizer) -> None:
        self._context.add_origin(f"fresh {quantizer.grid_name} from {self._entry.type_name}", self.name)

    def fallback(self) -> OutputTensor:
        """The tensor as it is; of a type of a fork the Q2_0 that means the same; an embedding in the type asked for."""
        asked = self._context.options.asked_embedding
        if asked and self.name == EMBEDDING_NAME and (found := self._embedding(EMBEDDING_TYPES[asked])):
            return found
        tensor, entry = self._tensor, self._entry
        type_id, type_name, nbytes = entry.type_id, entry.type_name, entry.nbytes
        load = partial(tensor.read, 0, entry.nbytes)
        if type_id in FORK_IDS:
            kind = BLOCK_TYPES[type_id]
            nbytes = nbytes // kind.stored.nbytes * (kind.stored.block // Q2_0.block) * Q2_0.nbytes
            type_id, type_name, load = Q2_0.id, Q2_0.name, partial(self._read_q2_0, kind)
        if self.obstacles:
            self._context.notes.add(f"is kept as {type_name}: {'; '.join(dict.fromkeys(self.obstacles))}", self.name)
        return OutputTensor(self.name, self.shape, type_id, type_name, nbytes, load)

    def _embedding(self, kind: GGMLQuantizationType) -> OutputTensor | None:
        """The values rounded to another type; None, with an obstacle or without, where they stay as they are."""
        tensor, entry, decode = self._tensor, self._entry, _float_decoder(self._entry.type_id)
        if decode is None:
            self.obstacles.append("no values can be read from that type")
        elif self.shape[-1] % GGML_QUANT_SIZES[kind][0]:
            self.obstacles.append(f"its {self.shape[-1]} columns do not fill {kind.name.lower()} blocks")
        if self.obstacles or entry.type_id == kind:
            return None

        def load() -> np.ndarray:
            return np.concatenate([encode_floats(tensor.where, decode(rows), kind) for rows in tensor.row_blocks()])

        self._context.notes.add(f"is stored as {kind.name.lower()}, rounded from {entry.type_name}", self.name)
        return stock_tensor(self.name, self.shape, kind, load)

    def biases(self) -> Iterator[Bias]:
        """None: in a GGUF a bias is a layer of its own."""
        return iter(())

    def _is_exact(self, kind: BlockType) -> bool:
        """Whether the type of T-MAC holds all blocks of the tensor, which are read once, some at a time."""
        return kind.exact is None or all(is_exact(kind, blocks) for blocks in self._tensor.blocks(kind.stored))

    def _read(self, kind: BlockType, matrix: int) -> QuantLinear:
        rows, columns = self.shape[-2:]
        data = self._tensor.row_blocks(matrix)
        return join_rows((linear_of(kind, self._tensor.where, part, columns) for part in data), rows)

    def _pack(self, kind: BlockType, matrix: int, out: np.ndarray) -> None:
        layout.pack(self._read(kind, matrix), out)

    def _read_q2_0(self, kind: BlockType) -> np.ndarray:
        return np.concatenate([as_q2_0(kind, self._tensor.where, data) for data in self._tensor.blocks(kind.stored)])


def _check_order(tensor: SourceTensor) -> None:
    """Raises ConvertError for a tensor that would reorder a weight once that has a T-MAC type."""
    name = tensor.entry.name
    if name.endswith(ORDER_SUFFIX) and dimensions_of_linear(f"{name.removesuffix(ORDER_SUFFIX)}.weight"):
        raise ConvertError(
            f"{tensor.where}: an order of columns, expected none beside weights of llama.cpp's own types",
            "llama.cpp would not load this file; convert the checkpoint that it was made from",
        )


def _float_decoder(type_id: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """From rows of bytes of that type to float32 values; None if the gguf package cannot read it."""
    if type_id not in list(GGMLQuantizationType):
        return None
    kind = GGMLQuantizationType(type_id)

    def decode(data: np.ndarray) -> np.ndarray:
        # What overflows or is not a number is refused by name later.
        with np.errstate(over="ignore", invalid="ignore"):
            return quants.dequantize(data, kind)

    try:
        decode(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8))
    except NotImplementedError:
        return None
    return decode
