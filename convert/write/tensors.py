"""Tensors of the GGUF that are not in memory yet, and how their bytes are made in each storage type.

In: functions that read a layer (QuantLinear) or float weights. Out: OutputTensor in a T-MAC type or a type of ggml.
Which type a tensor gets is decided in plan/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from ...common.format import TmacType
from ..errors import ConvertError
from ..linear import LARGEST_HALF, QuantLinear
from ..sources.checkpoint import finite
from . import layout

F16, F32, Q8_0 = GGMLQuantizationType.F16, GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0
_Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("codes", "i1", GGML_QUANT_SIZES[Q8_0][0])])


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the GGUF, not loaded yet.

    `shape` counts weights, outermost first; `type_id` is the ggml_type; `load` returns its `nbytes` bytes as a
    contiguous array of any dtype.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    nbytes: int
    load: Callable[[], np.ndarray]


def tmac_tensor(
    name: str, shape: tuple[int, ...], kind: TmacType, loads: Sequence[Callable[[], QuantLinear]]
) -> OutputTensor:
    """A tensor in a T-MAC type. `loads` has one entry per matrix (several: experts), of which one is held at a time."""
    matrix_bytes = kind.nbytes(*shape[-2:])

    def load() -> np.ndarray:
        out = np.empty((len(loads), matrix_bytes), np.uint8)
        for matrix, read in zip(out, loads):
            layout.pack(read().as_type(kind), matrix)
        return out

    return OutputTensor(name, shape, kind.id, kind.ggml_name, matrix_bytes * len(loads), load)


def stock_tensor(
    name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, load: Callable[[], np.ndarray]
) -> OutputTensor:
    """A tensor in a type of ggml; `load` returns its bytes."""
    return OutputTensor(name, shape, int(kind), kind.name.lower(), stock_bytes(shape, kind), load)


def stock_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor whose rows are whole blocks of `kind`."""
    block, size = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * size


def value_tensor(name: str, values: np.ndarray) -> OutputTensor:
    """A small tensor that is in memory: float32 or int32."""
    kind = GGMLQuantizationType.I32 if values.dtype == np.int32 else F32
    return OutputTensor(name, values.shape, int(kind), kind.name.lower(), values.nbytes, lambda: values)


def encode_q8_0(linear: QuantLinear) -> np.ndarray:
    """A symmetric 8-bit layer in groups of 32 as Q8_0 blocks, without rounding: int8 = code - 128, the same scale."""
    blocks = np.empty(linear.scales.shape, _Q8_0_BLOCK)
    blocks["scale"] = linear.scales
    blocks["codes"] = (linear.codes ^ 0x80).view(np.int8).reshape(blocks["codes"].shape)
    return blocks


def encode_floats(where: str, block: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Rows of float weights in a type of ggml: uint8 [rows, bytes of a row].

    Raises ConvertError, beginning with `where`, for values that the type cannot hold.
    """
    encoded = _halves(where, block) if kind is F16 else quants.quantize(finite(where, block).astype(np.float32), kind)
    return np.ascontiguousarray(encoded).view(np.uint8).reshape(len(block), -1)


def _halves(where: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = finite(where, values).astype(np.float16)
    if not np.isfinite(halves).all():
        raise ConvertError(
            f"{where} has the value {np.abs(values).max():g}, expected at most {LARGEST_HALF:g}, the largest in fp16",
            "choose q8_0 for the embedding or the output head; for other layers no type holds it",
        )
    return halves
