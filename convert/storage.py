"""The bytes of single tensors in their storage types: T-MAC's, ggml's Q8_0 from 8-bit codes, and ggml's from floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from ..common.format import TmacType, symmetric_zero
from . import layout
from .checkpoint import QuantLinear
from .errors import ConvertError
from .writer import OutputTensor

Q8_0 = GGMLQuantizationType.Q8_0
_Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("codes", "i1", 32)])


def stock_tensor(
    name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, load: Callable[[], np.ndarray]
) -> OutputTensor:
    """A tensor in one of ggml's types; `load` returns its bytes."""
    return OutputTensor(name, shape, int(kind), kind.name.lower(), stock_bytes(shape, kind), load)


def stock_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * size


def tmac_tensor(
    name: str, shape: tuple[int, ...], kind: TmacType, loads: Sequence[Callable[[], QuantLinear]]
) -> OutputTensor:
    """A tensor in a T-MAC type: one matrix, or for experts one per entry of `loads`, of which one is held at a time."""
    matrix_bytes = kind.nbytes(*shape[-2:])

    def load() -> np.ndarray:
        out = np.empty((len(loads), matrix_bytes), np.uint8)
        for matrix, read in zip(out, loads):
            layout.pack(as_type(read(), kind), matrix)
        return out

    return OutputTensor(name, shape, kind.id, kind.ggml_name, matrix_bytes * len(loads), load)


def as_type(linear: QuantLinear, kind: TmacType) -> QuantLinear:
    """The same layer, with its symmetric zero-point spelled out if the type stores zero-points."""
    if linear.zeros is not None or not kind.asymmetric:
        return linear
    zeros = np.full(linear.scales.shape, symmetric_zero(linear.bits), np.uint8)
    return QuantLinear(linear.codes, linear.scales, zeros, linear.bits, linear.group)


def stacked(parts: Iterable[QuantLinear], rows: int, columns: int, kind: TmacType) -> QuantLinear:
    """One matrix of `rows` x `columns` from blocks of its rows, in order, each of which is in `kind`."""
    groups = columns // kind.group
    codes, scales = np.empty((rows, columns), np.uint8), np.empty((rows, groups), np.float16)
    zeros = np.empty((rows, groups), np.uint8) if kind.asymmetric else None
    first = 0
    for part in parts:
        block = slice(first, first + len(part.codes))
        codes[block], scales[block], first = part.codes, part.scales, block.stop
        if zeros is not None:
            zeros[block] = part.zeros
    return QuantLinear(codes, scales, zeros, kind.bits, kind.group)


def value_tensor(name: str, values: np.ndarray) -> OutputTensor:
    """A small tensor that is in memory: float32 or int32."""
    kind = GGMLQuantizationType.I32 if values.dtype == np.int32 else GGMLQuantizationType.F32
    return OutputTensor(name, values.shape, int(kind), kind.name.lower(), values.nbytes, lambda: values)


def encode_q8_0(linear: QuantLinear) -> np.ndarray:
    """A symmetric 8-bit layer in groups of 32 as Q8_0 blocks, not rounded: int8 = code - 128, the same scale."""
    blocks = np.empty(linear.scales.shape, _Q8_0_BLOCK)
    blocks["scale"] = linear.scales
    blocks["codes"] = (linear.codes ^ 0x80).view(np.int8).reshape(blocks["codes"].shape)
    return blocks


def encode_floats(where: str, block: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Float weights in a type of ggml. Raises ConvertError, beginning with `where`, for values that it cannot hold."""
    if kind is GGMLQuantizationType.F16:
        return _halves(where, block)
    return quants.quantize(finite(where, block).astype(np.float32), kind)


def finite(where: str, values: np.ndarray) -> np.ndarray:
    """`values` themselves. Raises ConvertError if one is infinite or not a number."""
    if not np.isfinite(values).all():
        raise ConvertError(
            f"{where} has values that are infinite or not a number, expected finite ones",
            "the checkpoint is damaged; download it again, or ask its maker",
        )
    return values


def _halves(where: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = finite(where, values).astype(np.float16)
    if not np.isfinite(halves).all():
        raise ConvertError(
            f"{where} has the value {np.abs(values).max():g}, expected at most 65504, the largest in fp16",
            "choose q8_0 for the embedding or the output head; for other layers no type holds it",
        )
    return halves
