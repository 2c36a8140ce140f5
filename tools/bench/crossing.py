"""Which kernel serves how many tokens: measured on this machine, in seconds.

Comes in: a library of kernels, and the table that counts so far. Goes out: a `Crossings` of this machine. For each
column of kernels/crossings.py the kernels that could serve are timed in alternating rounds, preparing included.
Of these times follows the fastest choice that dispatch can make: as tokens grow, a kernel gives way to one of higher
priority. What serves so far stays unless another choice is clearly faster, so that noise seldom changes anything. On a
slow CPU matrices of fewer rows are timed, whose times stand for those of all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tmac.common.cpu import machine
from tmac.common.format import TILE_ROWS, TmacType
from tmac.kernels import crossings_file, native
from tmac.kernels.catalog import KERNELS, isas_for
from tmac.kernels.crossings import COLUMNS, MOST_TOKENS_TO_CROSS, Crossings
from tmac.kernels.forms import EXACT, ROUNDED
from tmac.kernels.isa import Isa
from tmac.kernels.spec import KernelSpec

from .loops import TimedProduct, time_prepare, time_products
from .matrices import copies_for, prepare_batch, random_bytes

TOKENS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST_TOKENS_TO_CROSS)
SHAPE = (4096, 4096)
# More than second-level caches hold. A run of one kernel lasts at least so long.
TOTAL_BYTES, LEAST_SECONDS = 48_000_000, 0.001
ROUNDS = 5
# A run with the most tokens lasts at most about so long, which bounds the whole: of some 2400 runs the mean has a third
# of these tokens, so all take 20 seconds at most. Fewer rows than the least would be other work.
MOST_SECONDS, LEAST_ROWS = 0.025, 4 * TILE_ROWS
# What serves so far stays unless another is faster by more than this.
MARGIN = 1.05

# (name of instruction set, method, form) -> tokens -> time.
Times = Mapping[tuple[str, str, str], Mapping[int, float]]


def measure(
    library: native.Library,
    before: Crossings,
    progress: Callable[[int], None] = lambda percent: None,
    top: Isa | None = None,
) -> Crossings:
    """The crossings of this CPU, or of one whose best instruction set is `top`. `progress` is told the percent that are
    done. Raises TmacError.
    """
    top = top or next(isa for isa in isas_for(machine()) if library.runs_isa(isa))
    numbers: dict[tuple[str, str], dict[str, int]] = {}
    cases = [(column, precision) for precision in (ROUNDED, EXACT) for column in COLUMNS]
    for done, (column, precision) in enumerate(cases):
        progress(100 * done // len(cases))
        specs = candidates(library, COLUMNS[column], precision, top)
        for (isa, form), least in crossings(time(library, specs), column, before).items():
            numbers.setdefault((isa, form), {})[column] = least
    progress(100)
    return Crossings(crossings_file.NAME, (library.cpu_name(),), top.name, numbers)


def candidates(library: native.Library, kind: TmacType, precision: str, top: Isa) -> list[KernelSpec]:
    """The kernels that could serve a type here: of `top` and the sets below it, down to the first that has a GEMV."""
    found = []
    known = isas_for(machine())
    for isa in known[known.index(top) :]:
        of_set = [k for k in KERNELS if (k.type, k.isa, k.precision) == (kind, isa, precision)]
        found += [kernel for kernel in of_set if library.runs_here(kernel.name)]
        if any(kernel.method == "gemv" for kernel in found):
            break
    return found


def time(library: native.Library, specs: Sequence[KernelSpec]) -> Times:
    """Seconds a product takes by each kernel with each of TOKENS; a GEMV kernel takes the tokens one by one."""
    times: dict[tuple[str, str, str], dict[int, float]] = {(k.isa.name, k.method, k.form): {} for k in specs}
    if not specs:
        return times
    rows = _rows(library, specs)
    packed = random_bytes(specs[0], rows, SHAPE[1])
    copies = np.tile(packed, copies_for(packed.size, TOTAL_BYTES))
    for tokens in TOKENS:
        products = [_product(library, spec, copies, packed.size, rows, tokens) for spec in specs]
        counts = [_repeats(library, product) for product in products]
        rounds = [
            [_seconds(library, product, count, tokens) for product, count in zip(products, counts)]
            for _ in range(ROUNDS)
        ]
        for key, of_rounds in zip(times, zip(*rounds)):
            times[key][tokens] = statistics.median(of_rounds)
    return times


def _rows(library: native.Library, specs: Sequence[KernelSpec]) -> int:
    """How many rows of SHAPE are timed: fewer if with the most tokens a kernel would take more than MOST_SECONDS."""
    least = min(LEAST_ROWS, SHAPE[0])
    packed = random_bytes(specs[0], least, SHAPE[1])
    products = [_product(library, spec, packed, packed.size, least, TOKENS[-1]) for spec in specs]
    # The first run fetches code and memory.
    slowest = max(min(time_products(library, product, 1) for _ in range(3)) for product in products)
    fitting = int(MOST_SECONDS / slowest) * least
    return max(least, min(SHAPE[0], fitting))


def _product(
    library: native.Library, spec: KernelSpec, copies: np.ndarray, stride: int, rows: int, tokens: int
) -> TimedProduct:
    several = tokens if spec.method == "gemm" else 1
    x = np.random.default_rng(2).standard_normal((several, SHAPE[1])).astype(np.float32)
    y = np.zeros((several, rows), np.float32)
    return TimedProduct(spec, library.row(spec.name), copies, stride, x, prepare_batch(library, spec, x), y)


def _repeats(library: native.Library, product: TimedProduct) -> int:
    """How many matrices make a run that lasts LEAST_SECONDS, at most all copies."""
    once = time_products(library, product, 1, count=1)
    return max(1, min(product.count, math.ceil(LEAST_SECONDS / once)))


def _seconds(library: native.Library, product: TimedProduct, count: int, tokens: int) -> float:
    # Of fewer rows, preparing would count for more than it does of all.
    multiplied = time_products(library, product, 1, count=count) / count * (SHAPE[0] / product.y.shape[1])
    return (multiplied + time_prepare(product, 1)) * tokens / len(product.x)


def crossings(times: Times, column: str, before: Crossings) -> dict[tuple[str, str], int]:
    """(instruction set, form) -> least number of tokens of each GEMM kernel that was timed; 0: it never serves."""
    found: dict[tuple[str, str], int] = {}
    below: Mapping[int, float] | None = None
    names = {isa for isa, _, _ in times}
    for isa in reversed([isa for isa in isas_for(machine()) if isa.name in names]):
        forms = [form for form in isa.gemm_forms if (isa.name, "gemm", form) in times]
        last = [of for (name, method, _), of in times.items() if (name, method) == (isa.name, "gemv")] or [below]
        rivals = [*(times[isa.name, "gemm", form] for form in forms), *(of for of in last if of)]
        if not rivals:
            continue
        numbers = [before.least_tokens(isa.name, form, column) for form in forms]
        chosen = _choices(rivals, numbers)
        found |= {(isa.name, form): _least(chosen, place, numbers[place]) for place, form in enumerate(forms)}
        below = {tokens: rivals[place][tokens] for tokens, place in chosen.items()}
    return found


def _choices(rivals: Sequence[Mapping[int, float]], numbers: Sequence[int]) -> dict[int, int]:
    """tokens -> which of the rivals serves: never one of lower priority, so further back, than with fewer tokens.

    Of all such choices that with the least product of times, where what serves by `numbers` counts MARGIN less.
    """
    tokens = sorted(rivals[0])
    best: list[tuple[float, list[int]]] = []
    for count in tokens:
        serving = next((at for at, least in enumerate(numbers) if 0 < least <= count), len(rivals) - 1)
        costs = [math.log(of[count]) - math.log(MARGIN) * (at == serving) for at, of in enumerate(rivals)]
        # With fewer tokens one of the same or of lower priority served.
        before = [min(best[at:], key=lambda way: way[0]) if best else (0.0, []) for at in range(len(rivals))]
        best = [(before[at][0] + costs[at], [*before[at][1], at]) for at in range(len(rivals))]
    return dict(zip(tokens, min(best, key=lambda way: way[0])[1]))


def _least(chosen: Mapping[int, int], place: int, number: int) -> int:
    """From how many tokens on a rival serves; the number so far, if no number that was timed speaks against it."""
    served = [tokens for tokens, at in chosen.items() if at == place]
    if not served:
        return 0
    fewer = [tokens for tokens in chosen if tokens < served[0]]
    return number if fewer and fewer[-1] < number <= served[0] else served[0]
