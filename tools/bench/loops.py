"""The C loops that time kernels, compiled into a small library of their own, which calls kernels by address.

Comes in: kernels of a `native.Library`, matrices and activations in memory. Goes out: seconds.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tmac.kernels import native
from tmac.kernels.activations import Activations, c_activations
from tmac.kernels.compile import build_library
from tmac.kernels.generate import Sources
from tmac.kernels.spec import KernelSpec

SOURCES = Path(__file__).parent / "c"
MAX_THREADS = 256
# Ways in which reads.c reads memory: one stream, two streams, two streams with prefetch.
READ_WAYS = 3


@dataclass
class TimedProduct:
    """What a timing loop computes: a kernel, many copies of one matrix of its type, and the same activations for each.

    data: uint8, the matrices `stride` bytes apart; x: float32 [tokens, K], and `prepared` in the form that the kernel
    takes; y: float32 [tokens, M], the product. A GEMV kernel has one token.
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


def loop_headers() -> Sources:
    """What all loops include."""
    limits = f"enum {{ MAX_THREADS = {MAX_THREADS}, READ_WAYS = {READ_WAYS} }};\n"
    return {"timing.h": ((SOURCES / "timing.h").read_text(encoding="utf-8"), ()), "limits.inc": (limits, ())}


def loop_sources() -> Sources:
    """All that the loops are compiled of."""
    return {path.name: (path.read_text(encoding="utf-8"), ()) for path in sorted(SOURCES.glob("*.c"))} | loop_headers()


@functools.cache
def _loops() -> ctypes.CDLL:
    """Compiled on first use, which takes a second. Raises TmacError."""
    library = ctypes.CDLL(str(build_library(loop_sources())))
    for name in ("tmac_bench_products", "tmac_bench_prepare", "tmac_bench_read"):
        getattr(library, name).restype = ctypes.c_double
    return library


def time_products(
    library: native.Library, product: TimedProduct, threads: int, *, count: int | None = None, passes: int = 1
) -> float:
    """Seconds for the products with the first `count` matrices of a product (default all): the mean of the passes."""
    first = library.matrix_at(product.row, product.data, (product.y.shape[1], product.x.shape[1]))
    pointers = (ctypes.c_void_p * len(product.y))(*(y.ctypes.data for y in product.y))
    return (
        _loops().tmac_bench_products(
            ctypes.byref(product.row),
            ctypes.byref(first),
            ctypes.c_size_t(product.stride),
            ctypes.c_size_t(count or product.count),
            c_activations(product.prepared),
            pointers,
            ctypes.c_int64(len(product.y)),
            ctypes.c_int(threads),
            ctypes.c_int(passes),
        )
        / passes
    )


def time_prepare(product: TimedProduct, repeats: int) -> float:
    """Seconds for one thread to prepare the activations of a product: the mean of the repeats."""
    return (
        _loops().tmac_bench_prepare(
            ctypes.byref(product.row),
            ctypes.c_void_p(product.x.ctypes.data),
            ctypes.c_int64(product.x.shape[1]),
            c_activations(product.prepared),
            ctypes.c_int64(len(product.x)),
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
