"""Random weights in memory for timing: many copies of one matrix in huge pages, and the activations for them.

Comes in: a kernel, a shape, how many bytes of weights. Goes out: a `TimedProduct`, ready for the loops of loops.py.
Nothing is timed here.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

from tmac.common.format import TILE_ROWS
from tmac.kernels import native
from tmac.kernels.activations import Activations
from tmac.kernels.spec import KernelSpec

from ..errors import ToolError
from .loops import MAX_THREADS, TimedProduct


def huge_pages(size: int) -> np.ndarray:
    """Writable uint8 [size], in huge pages where the system gives them. Raises ToolError without memory."""
    try:
        memory = mmap.mmap(-1, size)
    except (OSError, OverflowError):
        raise ToolError(
            f"there is no memory for {size // 10**6} MB of weights", "give less: --megabytes, --shape"
        ) from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def random_bytes(spec: KernelSpec, rows: int, cols: int) -> np.ndarray:
    """A packed matrix of the kernel's type, uint8: random codes (kernels take any bytes) and scales near 0.01."""
    rng = np.random.default_rng(1)
    t = spec.type
    planes = rng.integers(0, 256, rows * cols // t.block_weights * t.code_bytes, np.uint8)
    if t.has_levels:
        blocks = rng.integers(0, 64, (rows * cols // TILE_ROWS // t.block_weights, TILE_ROWS * t.scale_bytes), np.uint8)
        halves = 2 * TILE_ROWS * (1 + t.has_minima)
        blocks[:, :halves] = rng.uniform(0.001, 0.002, (len(blocks), halves // 2)).astype("<f2").view(np.uint8)
        return np.concatenate([planes, blocks.reshape(-1)])
    groups = rows * cols // t.group if t.group else 0
    scales = rng.uniform(0.01, 0.02, groups * (1 + t.has_minima)).astype("<f2").view(np.uint8)
    zeros = rng.integers(0, 256, groups if t.asymmetric else 0, np.uint8)
    return np.concatenate([planes, scales, zeros])


def copies_for(nbytes: int, total_bytes: int) -> int:
    """How many matrices of `nbytes` bytes make at least `total_bytes`, and at least one."""
    return max(1, -(-total_bytes // nbytes))


def check(specs: Sequence[KernelSpec], rows: int, cols: int, threads: int, total_bytes: int, rounds: int = 1) -> None:
    """Raises ToolError for what cannot be timed, without touching the memory that it would need."""
    if not (1 <= threads <= MAX_THREADS and rounds >= 1 and total_bytes >= 0):
        raise ToolError(
            f"{threads} threads, {rounds} rounds, {total_bytes} bytes: expected 1 to {MAX_THREADS} threads, "
            "at least 1 round, no negative size"
        )
    for spec in specs:
        size = _checked_bytes(spec, rows, cols)
        try:
            np.empty(size, np.uint8)
        except (MemoryError, ValueError):
            raise no_memory(rows, cols) from None
        huge_pages(size * copies_for(size, total_bytes))


def _checked_bytes(spec: KernelSpec, rows: int, cols: int) -> int:
    """Bytes of one matrix. Raises ToolError for a shape that the type cannot have."""
    if rows % TILE_ROWS or cols % spec.type.block_weights:
        raise ToolError(
            f"shape {rows}x{cols} does not fit {spec.type.name}",
            f"rows must be a multiple of {TILE_ROWS}, columns of {spec.type.block_weights}",
        )
    return spec.type.nbytes(rows, cols)


def no_memory(rows: int, cols: int) -> ToolError:
    """The error for a single matrix that is too large."""
    return ToolError(f"there is no memory for a matrix of {rows} x {cols}", "give less: --shape")


def prepare_batch(library: native.Library, spec: KernelSpec, x: np.ndarray) -> list[Activations]:
    """x [tokens, K] as a kernel wants it, in one buffer."""
    batch = library.empty_batch(spec.form, x.shape[1], len(x))
    return [library.prepare(spec.name, each, into=into) for each, into in zip(x, batch)]


def prepare_gemv(library: native.Library, spec: KernelSpec, rows: int, cols: int, total_bytes: int) -> TimedProduct:
    """At least `total_bytes` of matrices for a GEMV kernel, and one vector of activations. Raises ToolError."""
    _checked_bytes(spec, rows, cols)
    try:
        packed = random_bytes(spec, rows, cols)
    except (MemoryError, ValueError):
        raise no_memory(rows, cols) from None
    count = copies_for(packed.size, total_bytes)
    data = huge_pages(packed.size * count)
    data.reshape(count, packed.size)[:] = packed
    x = np.random.default_rng(2).standard_normal((1, cols)).astype(np.float32)
    prepared = [library.prepare(spec.name, x[0])]
    return TimedProduct(spec, library.row(spec.name), data, packed.size, x, prepared, np.zeros((1, rows), np.float32))
