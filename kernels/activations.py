"""Prepared activations: numpy arrays in the layout that kernels read, and the C structure that points to them.

Preparing them is the kernels' own work (native.py calls it); here are only the arrays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .forms import INPUTS, PREPARED, TABLE_GROUP
from .interface import ACTIVATIONS

CActivations = ACTIVATIONS.as_ctypes()
ARRAYS = tuple(field.name for field in ACTIVATIONS.fields)
# Indexed by `enum tmac_input`.
INPUT_DTYPES = tuple(np.dtype({"f32": np.float32, "f16": np.float16, "i8": np.int8}[name]) for name in INPUTS)


@dataclass(frozen=True)
class Activations:
    """One vector x[K], prepared in one form: the arrays of `struct tmac_activations`.

    entries       uint8: tables [K/4, 16]; exact tables [K/16, 2, 4, 16] (chunk, byte, quad, entry); int8 [K];
                  bf16 [K, 2]; trits [K/128, 24, 4, 16], first the signed tables of all blocks, then what a GEMM takes;
                  exact trits [K/128, 12, 2, 4, 16]
    steps         uint8: tables [K/32, 4, 4] (group, plane, copy); others empty
    scale         float32: tables [ceil(K/128)]; int8 [K/32]; bf16 empty
    sum           float32 [K/32]; bf16 empty
    half_sum      float32 [K/32, 2]: of both halves of a table group; only tables and int8
    output_scale  float32 [1]; only exact kernels read it
    """

    entries: np.ndarray
    steps: np.ndarray
    scale: np.ndarray
    sum: np.ndarray
    half_sum: np.ndarray
    output_scale: np.ndarray = field(default_factory=lambda: np.ones(1, np.float32))

    @classmethod
    def empty(cls, form: str, cols: int) -> Activations:
        """All zeros, for K = `cols` columns. `form` is a key of PREPARED."""
        of, groups = PREPARED[form], cols // TABLE_GROUP
        return cls(
            np.zeros((cols // of.columns, *of.shape), np.uint8),
            np.zeros((groups if of.has_steps else 0, 4, 4), np.uint8),
            np.zeros(-(-cols // of.scale_columns) if of.scale_columns else 0, np.float32),
            np.zeros(groups if of.has_sums else 0, np.float32),
            np.zeros((groups if of.has_half_sums else 0, 2), np.float32),
        )

    def arrays(self) -> list[np.ndarray]:
        return [getattr(self, name) for name in ARRAYS]

    def as_c(self) -> CActivations:
        return CActivations(*(array.ctypes.data for array in self.arrays()))


def zeros_in_lines(rows: int, cols: int) -> np.ndarray:
    """float32 zeros [rows, cols], aligned to 64 bytes as most of llama.cpp's tensors are."""
    return bytes_in_lines(4 * rows * cols, 0).view(np.float32).reshape(rows, cols)


def bytes_in_lines(size: int, fill: int) -> np.ndarray:
    """uint8 [size], all `fill`, aligned to 64 bytes."""
    memory = np.full(size + 64, fill, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def c_activations(several: Sequence[Activations]) -> ctypes.Array:
    """A C array of `struct tmac_activations`; the numpy arrays must outlive it."""
    return (CActivations * len(several))(*(each.as_c() for each in several))
