"""Kernels against the memory limit: GB/s of weights beside the read bandwidth of the same threads in the same rounds.

Comes in: types, instruction sets, a shape, threads. Goes out: one `Measurement` a kernel. The matrices are random, many
enough that no cache holds them, and lie in huge pages where the system gives them. Rounds alternate between
plain reading, by the fastest of three ways, and the kernel; medians are reported, because absolute speed on a shared
machine is noise.
"""

from __future__ import annotations

import ctypes
import mmap
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .. import native
from ..errors import KernelError
from ..spec import KernelSpec
from ..tuning import Tuning

SOURCE = Path(__file__).parent / "bench.c"
MAX_THREADS = 256
# Ways in which bench.c reads memory: one stream, two streams, two streams with prefetch.
READ_WAYS = 3
# Bytes a round goes over at least, so that starting threads takes no visible share even when a cache serves them.
LEAST_BYTES = 400_000_000


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


@dataclass
class Case:
    """Many copies of one random matrix of a kernel's type, `stride` bytes apart, and the vector for all of them."""

    spec: KernelSpec
    row: ctypes.Structure
    data: np.ndarray
    stride: int
    count: int
    activations: native.Activations
    x: np.ndarray
    y: np.ndarray

    @property
    def passes(self) -> int:
        return max(1, -(-LEAST_BYTES // self.data.size))


def load(tuning: Tuning | None = None) -> native.Library:
    """The kernels, as tuned here unless told otherwise, with the timing loops compiled in. Raises KernelError."""
    limits = f"#define TMAC_BENCH_MAX_THREADS {MAX_THREADS}\n#define TMAC_BENCH_READ_WAYS {READ_WAYS}\n"
    source = {"bench.c": limits + SOURCE.read_text(encoding="utf-8")}
    library = native.Library(native.build(extra_sources=source, tuning=tuning))
    for name in ("tmac_bench_gemv", "tmac_bench_read", "tmac_bench_tables"):
        getattr(library.c, name).restype = ctypes.c_double
    return library


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
    library, data = load(), _huge_pages(size)
    data[:] = 1
    return size / 1e9 / statistics.median(_read_limit([_time_reads(library, data, threads, 1) for _ in range(rounds)]))


def random_bytes(spec: KernelSpec, rows: int, cols: int) -> np.ndarray:
    """Packed bytes with random codes and scales near 0.01; the layout makes any code bytes valid."""
    rng = np.random.default_rng(1)
    t = spec.type
    planes = rng.integers(0, 256, rows * cols * t.bits // 8, np.uint8)
    groups = rows * cols // t.group if t.group else 0
    scales = rng.uniform(0.01, 0.02, groups).astype("<f2").view(np.uint8)
    zeros = rng.integers(0, 256, groups if t.zeros else 0, np.uint8)
    return np.concatenate([planes, scales, zeros])


def check(
    specs: Sequence[KernelSpec], rows: int, cols: int, threads: int, total_bytes: int, rounds: int = 1
) -> None:
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
    if rows % native.TILE_ROWS or cols % spec.type.block_weights:
        raise KernelError(
            f"shape {rows}x{cols} does not fit {spec.type.name}",
            f"rows must be a multiple of {native.TILE_ROWS}, columns of {spec.type.block_weights}",
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
    x = np.random.default_rng(2).standard_normal(cols).astype(np.float32)
    activations = library.prepare(spec.name, x)
    return Case(spec, library.row(spec.name), data, packed.size, count, activations, x, np.zeros(rows, np.float32))


def _time_tables(library: native.Library, case: Case) -> float:
    repeats = 200
    c_activations = case.activations.as_c()
    return (
        library.c.tmac_bench_tables(
            ctypes.byref(case.row),
            ctypes.c_void_p(case.x.ctypes.data),
            ctypes.c_int64(case.x.size),
            ctypes.byref(c_activations),
            ctypes.c_int(repeats),
        )
        / repeats
    )


def time_gemv(library: native.Library, case: Case, threads: int) -> float:
    """Seconds for one pass over all matrices of a case."""
    c_activations = case.activations.as_c()
    return (
        library.c.tmac_bench_gemv(
            ctypes.byref(case.row),
            ctypes.c_void_p(case.data.ctypes.data),
            ctypes.c_size_t(case.stride),
            ctypes.c_size_t(case.count),
            ctypes.c_int64(case.y.size),
            ctypes.c_int64(case.x.size),
            ctypes.byref(c_activations),
            ctypes.c_void_p(case.y.ctypes.data),
            ctypes.c_int(threads),
            ctypes.c_int(case.passes),
        )
        / case.passes
    )


def _time_reads(library: native.Library, data: np.ndarray, threads: int, passes: int) -> list[float]:
    """Seconds to read the data once, for each way of reading."""
    return [
        library.c.tmac_bench_read(
            ctypes.c_void_p(data.ctypes.data),
            ctypes.c_size_t(data.size),
            ctypes.c_int(way),
            ctypes.c_int(threads),
            ctypes.c_int(passes),
        )
        / passes
        for way in range(READ_WAYS)
    ]


def _read_limit(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Each round's seconds in the way that is the fastest by its median.

    One way for all rounds: the fastest of each round would be the luckiest of three, which no kernel gets to be.
    """
    return list(min(zip(*rounds), key=statistics.median))


def speed_ratios(library: native.Library, one: Case, other: Case, threads: int, rounds: int) -> list[float]:
    """For each round, how many times as fast `other` is as `one`.

    The two change places from round to round, so that neither profits from being the second.
    """
    for case in (one, other):
        time_gemv(library, case, threads)
    ratios = []
    for number in range(rounds):
        if number % 2:
            seconds, others = time_gemv(library, one, threads), time_gemv(library, other, threads)
        else:
            others, seconds = time_gemv(library, other, threads), time_gemv(library, one, threads)
        ratios.append(seconds / others)
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
    library = load()
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
    time_gemv(library, case, threads)
    reads, gemvs = [], []
    for _ in range(rounds):
        reads.append(_time_reads(library, case.data, threads, case.passes))
        gemvs.append(time_gemv(library, case, threads))
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
        tables_share=_time_tables(library, case) / (gemv / case.count),
    )
