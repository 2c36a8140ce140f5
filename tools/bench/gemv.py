"""GEMV kernels against the memory limit: GB/s of weights beside the read bandwidth of the same threads and rounds.

Comes in: kernels, a shape, threads. Goes out: one `GemvTiming` a kernel. The matrices are random, many enough that no
cache holds them. Rounds alternate between plain reading, in the fastest of three ways, and the kernel. Medians are
reported, because absolute speed on a shared machine is noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tmac.kernels import native
from tmac.kernels.spec import KernelSpec

from .loops import TimedProduct, time_prepare, time_products, time_reads
from .matrices import check, prepare_gemv
from .reading import read_limit

# Bytes that a round reads at least, so that starting threads takes no visible share even when a cache serves them.
LEAST_BYTES = 400_000_000
PREPARE_REPEATS = 200


@dataclass(frozen=True)
class GemvTiming:
    """Medians of the rounds of one kernel, shape and number of threads.

    microseconds: for one matrix; gb_per_s, read_gb_per_s: 1e9 bytes a second, of weights by the kernel and of plain
    reading; ratio: the median of the kernel's share of the read bandwidth within a round; tables_share: preparing the
    activations, as a share of the product's time.
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


def _passes(product: TimedProduct) -> int:
    return max(1, -(-LEAST_BYTES // product.data.size))


def speed_ratios(
    library: native.Library, one: TimedProduct, other: TimedProduct, threads: int, rounds: int
) -> list[float]:
    """For each round, how many times as fast `other` is as `one`.

    The two change places from round to round, so that neither profits from being the second.
    """
    products, passes = (one, other), _passes(one)
    for product in products:
        time_products(library, product, threads, passes=passes)
    ratios = []
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        seconds = {i: time_products(library, products[i], threads, passes=passes) for i in order}
        ratios.append(seconds[0] / seconds[1])
    return ratios


def measure(
    specs: Sequence[KernelSpec],
    rows: int,
    cols: int,
    threads: int,
    total_bytes: int,
    rounds: int,
    log: Callable[[str], None] = lambda line: None,
) -> list[GemvTiming]:
    """One timing for each kernel that this CPU runs. Raises TmacError.

    `total_bytes` of weights a pass (0: one matrix, from cache).
    """
    check(specs, rows, cols, threads, total_bytes, rounds)
    library = native.library()
    timings = []
    for spec in specs:
        if library.runs_here(spec.name):
            log(f"{spec.name}: {rounds} rounds")
            product = prepare_gemv(library, spec, rows, cols, total_bytes)
            timings.append(_time_kernel(library, product, threads, rounds))
        else:
            log(f"{spec.name}: skipped, this CPU lacks {' '.join(spec.isa.features)}")
    return timings


def _time_kernel(library: native.Library, product: TimedProduct, threads: int, rounds: int) -> GemvTiming:
    passes = _passes(product)
    time_products(library, product, threads, passes=passes)
    reads, gemvs = [], []
    for _ in range(rounds):
        reads.append(time_reads(product.data, threads, passes))
        gemvs.append(time_products(library, product, threads, passes=passes))
    limits = read_limit(reads)
    gemv = statistics.median(gemvs)
    spec = product.spec
    return GemvTiming(
        spec.name,
        spec.type.name,
        spec.precision,
        spec.isa.name,
        product.y.shape[1],
        product.x.shape[1],
        threads,
        microseconds=gemv / product.count * 1e6,
        gb_per_s=product.data.size / gemv / 1e9,
        read_gb_per_s=product.data.size / statistics.median(limits) / 1e9,
        ratio=statistics.median(limit / taken for limit, taken in zip(limits, gemvs)),
        tables_share=time_prepare(product, PREPARE_REPEATS) / (gemv / product.count),
    )
