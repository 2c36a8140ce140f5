"""The C loops that time kernels, in a small library of their own, which calls kernels by address.

Comes in: kernels of a `native.Library`, matrices and activations in memory. Goes out: seconds.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import native
from ..activations import Activations, c_activations
from ..compile import build_library
from ..spec import KernelSpec

FOLDER = Path(__file__).parent
MAX_THREADS = 256
# Ways in which reads.c reads memory: one stream, two streams, two streams with prefetch.
READ_WAYS = 3


@dataclass
class Case:
    """A kernel, many copies of one matrix of its type, `stride` bytes apart, and the vectors for all of them.

    x float32 [tokens, K] and, prepared as the kernel wants it, `prepared`; y float32 [tokens, M]. A GEMV kernel has one token.
    """

    spec: KernelSpec
    row: ctypes.Structure
    data: np.ndarray
    stride: int
    x: np.ndarray
    prepared: list[Activations]
    y: np.ndarray

    @property
    def count(self) -> int:
        return self.data.size // self.stride


@functools.cache
def _loops() -> ctypes.CDLL:
    """Compiled on first use, which takes a second. Raises KernelError."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.[ch]"))}
    texts["limits.inc"] = f"enum {{ MAX_THREADS = {MAX_THREADS}, READ_WAYS = {READ_WAYS} }};\n"
    library = ctypes.CDLL(str(build_library({name: (text, ()) for name, text in texts.items()})))
    for name in ("tmac_bench_products", "tmac_bench_prepare", "tmac_bench_read", "tmac_bench_look_up_peak"):
        getattr(library, name).restype = ctypes.c_double
    return library


def time_products(
    library: native.Library, case: Case, threads: int, *, count: int | None = None, passes: int = 1
) -> float:
    """Seconds for the products with the first `count` matrices of a case (default all): the mean of the passes."""
    first = library.matrix_at(case.row, case.data, (case.y.shape[1], case.x.shape[1]))
    pointers = (ctypes.c_void_p * len(case.y))(*(y.ctypes.data for y in case.y))
    return (
        _loops().tmac_bench_products(
            ctypes.byref(case.row),
            ctypes.byref(first),
            ctypes.c_size_t(case.stride),
            ctypes.c_size_t(count or case.count),
            c_activations(case.prepared),
            pointers,
            ctypes.c_int64(len(case.y)),
            ctypes.c_int(threads),
            ctypes.c_int(passes),
        )
        / passes
    )


def time_prepare(case: Case, repeats: int) -> float:
    """Seconds for one thread to prepare the activations of a case: the mean of the repeats."""
    return (
        _loops().tmac_bench_prepare(
            ctypes.byref(case.row),
            ctypes.c_void_p(case.x.ctypes.data),
            ctypes.c_int64(case.x.shape[1]),
            c_activations(case.prepared),
            ctypes.c_int64(len(case.x)),
            ctypes.c_int(repeats),
        )
        / repeats
    )


def time_reads(data: np.ndarray, threads: int, passes: int = 1) -> list[float]:
    """Seconds to read the data, for each way of reading: the mean of the passes."""
    return [
        _loops().tmac_bench_read(
            ctypes.c_void_p(data.ctypes.data),
            ctypes.c_size_t(data.size),
            ctypes.c_int(way),
            ctypes.c_int(threads),
            ctypes.c_int(passes),
        )
        / passes
        for way in range(READ_WAYS)
    ]


def look_up_peak(repeats: int) -> float:
    """One-bit multiply-adds a second that one thread looks up; 0 where this CPU has no AVX-512 VBMI and VNNI."""
    return _loops().tmac_bench_look_up_peak(ctypes.c_int(repeats))
