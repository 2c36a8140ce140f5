"""Calls the compiled attention kernels from Python, with numpy arrays in and out.

All arithmetic is the kernels' own. `Inputs` are the operands of one attention, `NativeAttention` computes it in this
process; worker/attention.py does the same in another one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .activations import bytes_in_lines
from .attention import CACHE_TYPES
from .interface import ATTENTION, ATTENTION_KERNEL, ATTENTION_PLAN, CACHE
from .native import Library
from .native_rows import ForcibleRows

CCache, CAttention, CPlan, CKernel = (s.as_ctypes() for s in (CACHE, ATTENTION, ATTENTION_PLAN, ATTENTION_KERNEL))
CACHE_NAMES = tuple(kind.name for kind in CACHE_TYPES)


@dataclass(frozen=True)
class Cache:
    """K or V: `data` uint8 [sequences, positions, KV heads, bytes of a row], rows of `width` values of a cache type."""

    type: str
    width: int
    data: np.ndarray

    def as_c(self) -> CCache:
        sequence, position, head, _ = self.data.strides
        return CCache(self.data.ctypes.data, CACHE_NAMES.index(self.type), self.width, position, head, sequence)


@dataclass(frozen=True)
class Inputs:
    """The operands of one attention.

    q           float32 [sequences, queries, heads, width of K]
    mask        float16 [mask sequences, mask heads, queries, positions], or None
    sinks       float32 [heads], or None
    soft_cap, largest_bias  0: none
    """

    q: np.ndarray
    k: Cache
    v: Cache
    mask: np.ndarray | None = None
    sinks: np.ndarray | None = None
    scale: float = 1
    soft_cap: float = 0
    largest_bias: float = 0

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*self.q.shape[:3], self.v.width)

    def numbers(self) -> dict[str, float]:
        """The fields of `struct tmac_attention` that are numbers."""
        sequence, query, head, _ = self.q.strides
        mask_sequences, mask_heads = (1, 1) if self.mask is None else self.mask.shape[:2]
        mask_strides = (0, 0, 0, 0) if self.mask is None else self.mask.strides
        return {
            "query_bytes": query,
            "query_head_bytes": head,
            "query_sequence_bytes": sequence,
            "mask_query_bytes": mask_strides[2],
            "mask_head_bytes": mask_strides[1],
            "mask_heads": mask_heads,
            "mask_sequence_bytes": mask_strides[0],
            "mask_sequences": mask_sequences,
            "sequences": self.q.shape[0],
            "queries": self.q.shape[1],
            "heads": self.q.shape[2],
            "kv_heads": self.k.data.shape[2],
            "positions": self.k.data.shape[1],
            "scale": self.scale,
            "soft_cap": self.soft_cap,
            "largest_bias": self.largest_bias,
        }


class NativeAttention(ForcibleRows):
    """The attention kernels of a library. Checks nothing. A row also has the number of rows from which on it tiles."""

    SYMBOL, KIND = "attention", "attention kernel"

    def __init__(self, library: Library):
        super().__init__(library, CKernel)
        library.c.tmac_plan_attention.restype = CPlan
        library.c.tmac_attention_merge.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2

    def plan(self, name: str, inputs: Inputs) -> CPlan:
        """How the kernel `name` cuts an attention into items."""
        c_inputs, _keep = self._c_inputs(inputs, np.zeros(0, np.float32))
        return self.library.c.tmac_plan_attention(ctypes.byref(c_inputs), ctypes.byref(self.row(name)))

    def attend(self, name: str, inputs: Inputs, order: Iterable[int] | None = None) -> np.ndarray:
        """float32 [sequences, queries, heads, width of V], by the kernel `name`, one item after another.

        order: of the items; by default 0, 1, 2, ...
        """
        out = np.full(inputs.out_shape, np.nan, np.float32)
        c_inputs, _keep = self._c_inputs(inputs, out)
        row, plan = self.row(name), self.plan(name, inputs)
        # Floats of it are NaN until they are written.
        shared, scratch = (bytes_in_lines(size, 0xFF) for size in (plan.shared_bytes, plan.scratch_bytes))
        attend = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
        )(row.attend)
        for item in range(plan.items) if order is None else order:
            attend(ctypes.addressof(c_inputs), ctypes.addressof(plan), item, shared.ctypes.data, scratch.ctypes.data)
        self.library.c.tmac_attention_merge(
            ctypes.addressof(c_inputs), ctypes.addressof(plan), shared.ctypes.data, 0, plan.rows
        )
        return out

    @staticmethod
    def _c_inputs(inputs: Inputs, out: np.ndarray) -> tuple[CAttention, tuple]:
        """The C structure, and what must outlive it."""
        keys, values = inputs.k.as_c(), inputs.v.as_c()
        pointers = {
            "q": inputs.q.ctypes.data,
            "keys": ctypes.addressof(keys),
            "values": ctypes.addressof(values),
            "mask": None if inputs.mask is None else inputs.mask.ctypes.data,
            "sinks": None if inputs.sinks is None else inputs.sinks.ctypes.data,
            "out": out.ctypes.data,
        }
        return CAttention(**pointers, **inputs.numbers()), (keys, values, inputs, out)
