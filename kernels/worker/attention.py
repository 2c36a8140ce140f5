"""Runs attention kernels in a worker process.

Comes in: a Worker. Goes out: `WorkerAttention`, which has the interface of `native_attention.NativeAttention`. An
attention is computed by the target's threads: they take items in turn, wait for each other, and merge equal shares of
the rows.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ..native_attention import Inputs, NativeAttention
from . import NOTHING, Worker, memory_of, packed_arrays
from .protocol import ATTENDING, ATTENTION_ROW, CACHED, KERNEL_CHOICE, PLANNED, operation


class WorkerAttention(NativeAttention):
    """The attention kernels of a target."""

    def __init__(self, worker: Worker):
        self.library = worker
        self.rows = worker.list_rows("list_attention", ATTENTION_ROW)

    def ask_dispatcher(self, features: int, forced: bytes) -> tuple[str, str]:
        return self.library.ask_choice("select_attention", KERNEL_CHOICE.pack(features, len(forced)) + forced)

    def plan(self, name: str, inputs: Inputs) -> SimpleNamespace:
        request = operation("plan_attention") + self._shape(name, inputs, 1)
        return PLANNED.unpack(self.library.ask(request, PLANNED.size))

    def attend(self, name: str, inputs: Inputs, threads: int | None = None) -> np.ndarray:
        """float32 [sequences, queries, heads, width of V], by the kernel `name` in the target's threads or so many."""
        arrays = (inputs.q, inputs.k.data, inputs.v.data, inputs.mask, inputs.sinks)
        request = operation("attend") + self._shape(name, inputs, threads or self.library.target.threads)
        request += packed_arrays([NOTHING if array is None else memory_of(array) for array in arrays])
        out = np.empty(inputs.out_shape, np.float32)
        out[...] = np.frombuffer(self.library.ask(request, out.nbytes), np.float32).reshape(out.shape)
        return out

    def _shape(self, name: str, inputs: Inputs, threads: int) -> bytes:
        """The part of a request before the arrays."""
        numbers = inputs.numbers() | {"kernel": self.row(name).index, "threads": threads}
        caches = [cache.as_c() for cache in (inputs.k, inputs.v)]
        return ATTENDING.pack_named(numbers) + b"".join(
            CACHED.pack_named({name: getattr(cache, name) for name in CACHED.names}) for cache in caches
        )
