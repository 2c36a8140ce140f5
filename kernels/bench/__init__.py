"""Kernels against the memory limit: GB/s of weights beside the read bandwidth of the same threads in the same rounds.

Comes in: types, instruction sets, a shape, threads. Goes out: one `Measurement` a kernel. The matrices are random, many
enough that no cache holds them, and lie in huge pages where the system gives them. Rounds alternate between
plain reading, by the fastest of three ways, and the kernel; medians are reported, because absolute speed on a shared
machine is noise.
"""

from __future__ import annotations

import mmap
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ...common.format import TILE_ROWS
from .. import native
from ..errors import KernelError
from ..spec import KernelSpec
from .loops import MAX_THREADS, Case, time_prepare, time_products, time_reads

# Bytes a round goes over at least, so that starting threads takes no visible share even when a cache serves them.
LEAST_BYTES = 400_000_000
PREPARE_REPEATS = 200


@dataclass(frozen=True)
class Measurement:
    """Medians of the rounds.

    gb_per_s and read_gb_per_s: 1e9 bytes a second; ratio: median of their ratio in a round.
    """

    kernel: str
    type: str
    precision: str
    isa: str
    rows: int
    cols: int
    threads: int
    microseconds: float
    gb_per_s: float
    read_gb_per_s: float
    ratio: float
    tables_share: float

    def as_dict(self) -> dict:
        return asdict(self)


def _huge_pages(size: int) -> np.ndarray:
    """Writable uint8 [size], in huge pages where the system gives them. Raises KernelError."""
    try:
        memory = mmap.mmap(-1, size)
    except (OSError, OverflowError):
        raise KernelError(
            f"there is no memory for {size // 10**6} MB of weights", "give less: --megabytes, --shape"
        ) from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def read_bandwidth(threads: int, size: int = 500_000_000, rounds: int = 3) -> float:
    """1e9 bytes a second that `threads` threads read from memory: median of the rounds. Raises KernelError."""
    data = _huge_pages(size)
    data[:] = 1
    return size / 1e9 / statistics.median(_read_limit([time_reads(data, threads) for _ in range(rounds)]))


def random_bytes(spec: KernelSpec, rows: int, cols: int) -> np.ndarray:
    """Packed bytes with random codes and scales near 0.01; the layout makes any code bytes valid."""
    rng = np.random.default_rng(1)
    t = spec.type
    planes = rng.integers(0, 256, rows * cols * t.bits // 8, np.uint8)
    groups = rows * cols // t.group if t.group else 0
    scales = rng.uniform(0.01, 0.02, groups).astype("<f2").view(np.uint8)
    zeros = rng.integers(0, 256, groups if t.asymmetric else 0, np.uint8)
    return np.concatenate([planes, scales, zeros])


def check(specs: Sequence[KernelSpec], rows: int, cols: int, threads: int, total_bytes: int, rounds: int = 1) -> None:
    """Raises KernelError for what `measure` cannot do, without touching the memory that it would need."""
    if not (1 <= threads <= MAX_THREADS and rounds >= 1 and total_bytes >= 0):
        raise KernelError(
            f"{threads} threads, {rounds} rounds, {total_bytes} bytes: expected 1 to {MAX_THREADS} threads, "
            "at least 1 round, no negative size"
        )
    for spec in specs:
        size = _matrix_bytes(spec, rows, cols)
        try:
            np.empty(size, np.uint8)
        except (MemoryError, ValueError):
            raise _no_memory(rows, cols) from None
        _huge_pages(size * _copies(size, total_bytes))


def _matrix_bytes(spec: KernelSpec, rows: int, cols: int) -> int:
    """Raises KernelError for a shape that the type cannot have."""
    if rows % TILE_ROWS or cols % spec.type.block_weights:
        raise KernelError(
            f"shape {rows}x{cols} does not fit {spec.type.name}",
            f"rows must be a multiple of {TILE_ROWS}, columns of {spec.type.block_weights}",
        )
    return rows * cols // spec.type.block_weights * spec.type.block_bytes


def _copies(size: int, total_bytes: int) -> int:
    return max(1, -(-total_bytes // size))


def _no_memory(rows: int, cols: int) -> KernelError:
    return KernelError(f"there is no memory for a matrix of {rows} x {cols}", "give less: --shape")


def prepare(library: native.Library, spec: KernelSpec, rows: int, cols: int, total_bytes: int) -> Case:
    """At least `total_bytes` of matrices for a kernel, ready to be timed. Raises KernelError."""
    _matrix_bytes(spec, rows, cols)
    try:
        packed = random_bytes(spec, rows, cols)
    except (MemoryError, ValueError):
        raise _no_memory(rows, cols) from None
    count = _copies(packed.size, total_bytes)
    data = _huge_pages(packed.size * count)
    data.reshape(count, packed.size)[:] = packed
    x = np.random.default_rng(2).standard_normal((1, cols)).astype(np.float32)
    prepared = [library.prepare(spec.name, x[0])]
    return Case(spec, library.row(spec.name), data, packed.size, x, prepared, np.zeros((1, rows), np.float32))


def _passes(case: Case) -> int:
    return max(1, -(-LEAST_BYTES // case.data.size))


def _read_limit(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Each round's seconds in the way that is the fastest by its median.

    One way for all rounds: the fastest of each round would be the luckiest of three, which no kernel gets to be.
    """
    return list(min(zip(*rounds), key=statistics.median))


def speed_ratios(library: native.Library, one: Case, other: Case, threads: int, rounds: int) -> list[float]:
    """For each round, how many times as fast `other` is as `one`.

    The two change places from round to round, so that neither profits from being the second.
    """
    cases, passes = (one, other), _passes(one)
    for case in cases:
        time_products(library, case, threads, passes=passes)
    ratios = []
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        seconds = {i: time_products(library, cases[i], threads, passes=passes) for i in order}
        ratios.append(seconds[0] / seconds[1])
    return ratios


def measure(
    specs: list[KernelSpec],
    rows: int,
    cols: int,
    threads: int,
    total_bytes: int,
    rounds: int,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Measurement]:
    """One Measurement a kernel that this CPU runs. Raises KernelError.

    `total_bytes` of weights a pass (0: one matrix, from cache).
    """
    check(specs, rows, cols, threads, total_bytes, rounds)
    library = native.library()
    results = []
    for spec in specs:
        if library.runs_here(spec.name):
            progress(f"{spec.name}: {rounds} rounds")
            results.append(_measure_kernel(library, spec, rows, cols, threads, total_bytes, rounds))
        else:
            progress(f"{spec.name}: skipped, this CPU lacks {' '.join(spec.isa.features)}")
    return results


def _measure_kernel(
    library: native.Library, spec: KernelSpec, rows: int, cols: int, threads: int, total_bytes: int, rounds: int
) -> Measurement:
    case = prepare(library, spec, rows, cols, total_bytes)
    passes = _passes(case)
    time_products(library, case, threads, passes=passes)
    reads, gemvs = [], []
    for _ in range(rounds):
        reads.append(time_reads(case.data, threads, passes))
        gemvs.append(time_products(library, case, threads, passes=passes))
    limits = _read_limit(reads)
    gemv = statistics.median(gemvs)
    return Measurement(
        spec.name,
        spec.type.name,
        spec.precision,
        spec.isa.name,
        rows,
        cols,
        threads,
        microseconds=gemv / case.count * 1e6,
        gb_per_s=case.data.size / gemv / 1e9,
        read_gb_per_s=case.data.size / statistics.median(limits) / 1e9,
        ratio=statistics.median(limit / taken for limit, taken in zip(limits, gemvs)),
        tables_share=time_prepare(case, PREPARE_REPEATS) / (gemv / case.count),
    )
