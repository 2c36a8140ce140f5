"""GEMM kernels against each other: time per token by number of tokens, and from how many tokens on each should serve.

Comes in: kernels, numbers of tokens, a shape, threads. Goes out: one `GemmTiming` for each kernel and number of tokens,
and from these the rows of kernels/crossings.py. A round times all kernels of a bit width in turn, so that drift of a
shared machine hits all alike. Preparing the activations, split over the threads, is part of the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tmac.common.cpu import machine
from tmac.common.format import TmacType, parse_type
from tmac.kernels import native
from tmac.kernels.activations import zeros_in_lines
from tmac.kernels.catalog import KERNELS, isas_for
from tmac.kernels.crossings import DEFAULT, column_of
from tmac.kernels.forms import FORMS
from tmac.kernels.spec import KernelSpec

from ..errors import ToolError
from . import crossing, peaks
from .loops import TimedProduct, time_prepare, time_products
from .matrices import check, copies_for, prepare_batch, random_bytes

# A run shorter than this is repeated.
LEAST_SECONDS = 0.02


@dataclass(frozen=True)
class GemmTiming:
    """Medians of the rounds of one kernel and number of tokens.

    microseconds: for one matrix and one token, of which `prepare_share` is for preparing; gmacs: 1e9 weights times
    tokens a second; peak_share: of what registers and first-level cache allow in the same round (peaks.py), None with
    more than one thread or where that peak is not known.
    """

    kernel: str
    type: str
    isa: str
    form: str
    tokens: int
    threads: int
    rows: int
    cols: int
    microseconds: float
    prepare_share: float
    gmacs: float
    peak_share: float | None

    def as_dict(self) -> dict:
        return asdict(self)


def kernels_of(types: Sequence[TmacType], forms: Sequence[str], library: native.Library) -> list[KernelSpec]:
    """The GEMM kernels of these types and forms that this CPU runs, without those in portable C."""
    isas = [isa for isa in isas_for(machine()) if isa.name != "scalar"]
    specs = [
        KernelSpec(weight_type, isa, "gemm", form)
        for weight_type in types
        for isa in isas
        for form in isa.gemm_forms
        if form in forms
    ]
    return [spec for spec in specs if spec in KERNELS and library.runs_here(spec.name)]


def measure(
    specs: Sequence[KernelSpec],
    tokens: Sequence[int],
    rows: int,
    cols: int,
    threads: int,
    total_bytes: int,
    rounds: int,
    log: Callable[[str], None] = lambda line: None,
) -> list[GemmTiming]:
    """A timing for each number of tokens and kernel. Raises TmacError."""
    check(specs, rows, cols, threads, total_bytes, rounds)
    library = native.library()
    results = []
    for weight_type in dict.fromkeys(spec.type for spec in specs):
        same = [spec for spec in specs if spec.type == weight_type]
        packed = random_bytes(same[0], rows, cols)
        copies = np.tile(packed, copies_for(packed.size, total_bytes))
        for count in tokens:
            log(f"{weight_type.name}, {count} tokens: {len(same)} kernels, {rounds} rounds")
            x = np.random.default_rng(2).standard_normal((count, cols)).astype(np.float32)
            products = [
                TimedProduct(
                    spec,
                    library.row(spec.name),
                    copies,
                    packed.size,
                    x,
                    prepare_batch(library, spec, x),
                    zeros_in_lines(count, rows),
                )
                for spec in same
            ]
            results += _time_in_turn(library, products, threads, rounds)
    return results


def _time_in_turn(
    library: native.Library, products: Sequence[TimedProduct], threads: int, rounds: int
) -> list[GemmTiming]:
    matrices = [_repeats(library, product, threads) for product in products]
    taken, prepared, shares = ([[] for _ in products] for _ in range(3))
    for _ in range(rounds):
        for i, product in enumerate(products):
            peak = peaks.of_kernel(product.spec) if threads == 1 else 0
            seconds = time_products(library, product, threads, count=matrices[i]) / matrices[i]
            prepared[i].append(time_prepare(product, -(-16 // len(product.x))) / threads)
            taken[i].append(seconds + prepared[i][-1])
            if peak:
                shares[i].append(_macs(product) / seconds / peak)
    return [
        _timing(product, threads, statistics.median(taken[i]), statistics.median(prepared[i]), shares[i])
        for i, product in enumerate(products)
    ]


def _macs(product: TimedProduct) -> float:
    return float(product.y.size) * product.x.shape[1]


def _timing(product: TimedProduct, threads: int, seconds: float, prepare: float, shares: Sequence[float]) -> GemmTiming:
    spec, (tokens, rows) = product.spec, product.y.shape
    return GemmTiming(
        spec.name,
        spec.type.name,
        spec.isa.name,
        spec.form,
        tokens,
        threads,
        rows,
        product.x.shape[1],
        microseconds=seconds / tokens * 1e6,
        prepare_share=prepare / seconds,
        gmacs=_macs(product) / seconds / 1e9,
        peak_share=statistics.median(shares) if shares else None,
    )


def _repeats(library: native.Library, product: TimedProduct, threads: int) -> int:
    """How many matrices make a run that lasts LEAST_SECONDS: as few as that takes, at most all copies."""
    count = 1
    while time_products(library, product, threads, count=count) < LEAST_SECONDS and count < product.count:
        count = min(4 * count, product.count)
    return count


def crossings(timings: Sequence[GemmTiming]) -> dict[tuple[str, str], dict[str, int]]:
    """(instruction set, form) -> column -> least tokens, as crossings.py has them, from timings of one CPU.

    Rivals on a CPU are the forms of its instruction set, in their order, and what serves on the sets below it.
    """
    found: dict[tuple[str, str], dict[str, int]] = {}
    several = [m for m in timings if m.tokens > 1]
    for column, precision in dict.fromkeys((_column(m), FORMS[m.form].precision) for m in several):
        times: dict[tuple[str, str, str], dict[int, float]] = {}
        for m in several:
            if (_column(m), FORMS[m.form].precision) == (column, precision):
                times.setdefault((m.isa, "gemm", m.form), {})[m.tokens] = m.microseconds
        for key, least in crossing.crossings(times, column, DEFAULT).items():
            found.setdefault(key, {})[column] = least
    return found


def _column(timing: GemmTiming) -> str:
    return column_of(parse_type(timing.type))


def check_tokens(tokens: Sequence[int]) -> None:
    """Raises ToolError unless there are numbers of tokens, all of them from 1 on."""
    if not tokens or min(tokens) < 1:
        raise ToolError(f"{list(tokens)} tokens: expected numbers from 1 on", "--tokens 2,4,8,16,32,128")
