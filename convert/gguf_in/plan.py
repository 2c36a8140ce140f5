"""A GGUF of llama.cpp's own types -> a T-MAC GGUF: which tensor becomes what.

Linear weights in a low-bit type go into T-MAC's without loss; others are quantized freshly if that is asked for. All
else, metadata and vocabulary too, stays as it is, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from ...common.format import ORDER_SUFFIX, TYPES_BY_ID, type_of, why_not
from ..checkpoint import QuantLinear
from ..errors import ConvertError
from ..fresh import Fresh
from ..notes import Notes
from ..storage import stacked, tmac_tensor
from ..writer import OutputTensor
from .block_types import BLOCK_TYPES, PRISM_TYPES, Q2_0, BlockType, as_q2_0, is_exact, linear_of
from .linear_names import HEAD_NAME, dimensions_of_linear
from .source import GgufSource, SourceTensor

# What a conversion sets itself.
OWN_KEYS = (
    gguf.Keys.General.ARCHITECTURE,
    gguf.Keys.General.ALIGNMENT,
    gguf.Keys.General.FILE_TYPE,
    gguf.Keys.General.QUANTIZATION_VERSION,
)
OWN_PREFIX = "tmac."
# Bounds the temporaries of decoding and quantizing: so many weights at a time.
_BLOCK_WEIGHTS = 1 << 22


@dataclass
class Plan:
    """The tensors of the new file in the order of the old one, what the codes came from, and notes for the user."""

    tensors: list[OutputTensor]
    source: str
    notes: list[str]
    converted: int


def plan(source: GgufSource, fresh: Fresh | None = None, fresh_head: Fresh | None = None) -> Plan:
    """Decides the type of every tensor; `fresh` is for linear weights that no T-MAC type holds exactly.

    `fresh_head` is the same for the output head. Raises ConvertError for a file that has T-MAC types.
    """
    if any(tensor.entry.type_id in TYPES_BY_ID for tensor in source.tensors):
        raise ConvertError(
            f"{source.path}: has T-MAC types already, expected those of llama.cpp",
            f"there is nothing to convert: tmac run {source.path}",
        )
    _check_orders(source)
    planner = _Planner(fresh, fresh_head)
    tensors = [planner.tensor(tensor) for tensor in source.tensors]
    if fresh:
        fresh.check_used()
    if fresh_head and HEAD_NAME not in [tensor.name for tensor in tensors]:
        planner.notes.add(f"there is no {HEAD_NAME}: the output head is the embedding (tied), which stays as it is")
    return Plan(tensors, planner.source(), planner.notes.lines(), planner.converted)


def _check_orders(source: GgufSource) -> None:
    """Raises ConvertError for a tensor that would reorder a weight once that has a T-MAC type."""
    for tensor in source.tensors:
        name = tensor.entry.name
        if name.endswith(ORDER_SUFFIX) and dimensions_of_linear(f"{name.removesuffix(ORDER_SUFFIX)}.weight"):
            raise ConvertError(
                f"{tensor.where}: an order of columns, expected none beside weights of llama.cpp's own types",
                "llama.cpp would not load this file; convert the checkpoint that it was made from",
            )


def require_converted(source: GgufSource, planned: Plan) -> None:
    """Raises ConvertError if no tensor has a T-MAC type."""
    if planned.converted:
        return
    linear = {tensor.entry.type_name for tensor in source.tensors if dimensions_of_linear(tensor.entry.name)}
    why = f"{planned.notes[0]}; " if planned.notes else ""
    raise ConvertError(
        f"{source.path}: found linear weights in {', '.join(sorted(linear)) or 'no type'}, expected some that T-MAC "
        f"can hold without loss: {', '.join(kind.name for kind in BLOCK_TYPES.values())}",
        f"{why}to quantize others freshly: --quantize w4g128z, best with --imatrix FILE",
    )


def packed_metadata(source: GgufSource) -> list[bytes]:
    """The metadata that the new file keeps: all but what a conversion sets itself."""
    return [record for key, record in source.records.items() if key not in OWN_KEYS and not key.startswith(OWN_PREFIX)]


class _Planner:
    def __init__(self, fresh: Fresh | None, fresh_head: Fresh | None):
        self.fresh, self.fresh_head = fresh, fresh_head
        self.notes = Notes()
        self.converted = 0
        self.origins: set[str] = set()

    def source(self) -> str:
        """For tmac.source, for example `gguf fresh w4g128 asymmetric from f16, q4_0`."""
        return f"gguf {', '.join(sorted(self.origins))}".strip()

    def tensor(self, tensor: SourceTensor) -> OutputTensor:
        dimensions = dimensions_of_linear(tensor.entry.name)
        kept = _kept(tensor)
        if not dimensions:
            return kept
        reasons: list[str] = []
        if len(kept.shape) == dimensions:
            made = self._exact(tensor, reasons) or self._fresh(tensor, reasons)
        else:
            made = None
            reasons.append(f"it has {len(kept.shape)} dimensions, expected {dimensions}")
        if made:
            self.converted += 1
            return made
        if reasons:
            self.notes.add(f"is kept as {kept.type_name}: {'; '.join(dict.fromkeys(reasons))}", kept.name)
        return kept

    def _exact(self, tensor: SourceTensor, reasons: list[str]) -> OutputTensor | None:
        """The tensor in the type that means the same; None, and why, if there is none."""
        entry = tensor.entry
        kind = BLOCK_TYPES.get(entry.type_id)
        if kind is None:
            return None
        if not _fits(entry.shape, kind.group, reasons):
            return None
        if kind.exact and not all(is_exact(kind, blocks) for blocks in _all_blocks(tensor, kind)):
            reasons.append(kind.obstacle)
            return None
        self.origins.add(kind.name)
        target = type_of(kind.bits, kind.group, kind.asymmetric)
        loads = [partial(_read_exact, tensor, kind, matrix) for matrix in range(_matrices(tensor))]
        return tmac_tensor(entry.name, entry.shape, target, loads)

    def _fresh(self, tensor: SourceTensor, reasons: list[str]) -> OutputTensor | None:
        """The tensor in the type that was asked for; None, and why, if it was not or cannot be."""
        entry = tensor.entry
        fresh = self.fresh_head if entry.name == HEAD_NAME else self.fresh
        if fresh is None:
            if self.fresh:
                reasons.append("the output head is quantized only by --head")
            return None
        decode = _float_decoder(entry.type_id)
        if decode is None:
            reasons.append("no values can be read from that type")
            return None
        if not _fits(entry.shape, fresh.kind.group, reasons):
            return None
        self.origins.add(f"{fresh.grid_name} from {entry.type_name}")
        importance = fresh.importance(entry.name, _matrices(tensor), entry.shape[-1])
        loads = [
            partial(_read_fresh, tensor, decode, fresh, matrix, None if importance is None else importance[matrix])
            for matrix in range(_matrices(tensor))
        ]
        return tmac_tensor(entry.name, entry.shape, fresh.kind, loads)


def _fits(shape: tuple[int, ...], group: int, reasons: list[str]) -> bool:
    why = why_not(*shape[-2:], group)
    if why:
        reasons.append(why)
    return not why


def _matrices(tensor: SourceTensor) -> int:
    return tensor.entry.shape[0] if len(tensor.entry.shape) == 3 else 1


def _kept(tensor: SourceTensor) -> OutputTensor:
    """The tensor as it is; what llama.cpp could not read goes into the Q2_0 that means the same."""
    entry = tensor.entry
    if entry.type_id in PRISM_TYPES:
        kind = BLOCK_TYPES[entry.type_id]
        nbytes = entry.nbytes // kind.nbytes * (kind.block // Q2_0.block) * Q2_0.nbytes
        return OutputTensor(entry.name, entry.shape, Q2_0.type_id, Q2_0.name, nbytes, partial(_read_q2_0, tensor, kind))
    return OutputTensor(
        entry.name, entry.shape, entry.type_id, entry.type_name, entry.nbytes, partial(tensor.read, 0, entry.nbytes)
    )


def _read_q2_0(tensor: SourceTensor, kind: BlockType) -> np.ndarray:
    return np.concatenate([as_q2_0(kind, tensor.where, blocks) for blocks in _all_blocks(tensor, kind)])


def _all_blocks(tensor: SourceTensor, kind: BlockType) -> Iterator[np.ndarray]:
    """The blocks of the tensor, uint8 [n, bytes of a block], so many at a time."""
    step = _BLOCK_WEIGHTS // kind.block * kind.nbytes
    for start in range(0, tensor.entry.nbytes, step):
        yield tensor.read(start, min(step, tensor.entry.nbytes - start)).reshape(-1, kind.nbytes)


def _row_blocks(tensor: SourceTensor, matrix: int) -> Iterator[np.ndarray]:
    """Bytes of some rows, uint8 [rows, bytes of a row], until the whole matrix is read."""
    rows, columns = tensor.entry.shape[-2:]
    row_bytes = tensor.entry.nbytes // _matrices(tensor) // rows
    step = max(1, _BLOCK_WEIGHTS // columns)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        yield tensor.read((matrix * rows + first) * row_bytes, count * row_bytes).reshape(count, row_bytes)


def _read_exact(tensor: SourceTensor, kind: BlockType, matrix: int) -> QuantLinear:
    rows, columns = tensor.entry.shape[-2:]
    target = type_of(kind.bits, kind.group, kind.asymmetric)
    return stacked(
        (linear_of(kind, tensor.where, data, columns) for data in _row_blocks(tensor, matrix)), rows, columns, target
    )


def _read_fresh(
    tensor: SourceTensor,
    decode: Callable[[np.ndarray], np.ndarray],
    fresh: Fresh,
    matrix: int,
    importance: np.ndarray | None,
) -> QuantLinear:
    name, where = tensor.entry.name, tensor.where
    blocks = (fresh.quantize(name, where, decode(data), importance) for data in _row_blocks(tensor, matrix))
    return stacked(blocks, *tensor.entry.shape[-2:], fresh.kind)


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
