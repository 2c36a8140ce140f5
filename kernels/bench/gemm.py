"""GEMM kernels against each other: time per token for numbers of tokens, and from how many on each should serve.

Comes in: kernels, numbers of tokens, a shape, threads. Goes out: one `Measurement` for a kernel and a number of tokens, and
of them the rows of crossings.py. A round times all kernels of a bit width in turn, so that what drifts on a shared machine
hits all alike. Preparing the activations, split over the threads, is part of the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ...common.format import TmacType, parse_type
from .. import bench, native
from ..activations import Activations, zeros_in_lines
from ..catalog import isas_for
from ..crossings import SERVES_ONLY_ON
from ..errors import KernelError
from ..forms import FORMS, GEMM_FORMS
from ..isa import machine
from ..spec import KernelSpec
from .loops import Case, look_up_peak, time_prepare, time_products

# A run shorter than this is repeated.
LEAST_SECONDS = 0.02
# About 5 ms.
PEAK_REPEATS = 20_000
# What a kernel may be slower by and still count as the fastest.
TOLERANCE = 1.02


@dataclass(frozen=True)
class Measurement:
    """Medians of the rounds.

    microseconds: for one matrix and one token, `prepare_share` of it for preparing; gmacs: 1e9 weights times tokens a
    second; peak_share: of what look-ups in registers and first-level cache reach in the same round, None where that is not
    known or one thread is not what was asked for.
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
    """The GEMM kernels of these types and forms that this CPU runs, all but those of plain C."""
    isas = [isa for isa in isas_for(machine()) if isa.name != "scalar"]
    specs = [
        KernelSpec(weight_type, isa, "gemm", form)
        for weight_type in types
        for isa in isas
        for form in isa.gemm_forms
        if form in forms
    ]
    return [spec for spec in specs if library.runs_here(spec.name)]


def measure(
    specs: Sequence[KernelSpec],
    tokens: Sequence[int],
    rows: int,
    cols: int,
    threads: int,
    total_bytes: int,
    rounds: int,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Measurement]:
    """A Measurement for each number of tokens and kernel. Raises KernelError."""
    bench.check(specs, rows, cols, threads, total_bytes, rounds)
    library = native.library()
    results = []
    for weight_type in dict.fromkeys(spec.type for spec in specs):
        same = [spec for spec in specs if spec.type == weight_type]
        packed = bench.random_bytes(same[0], rows, cols)
        copies = np.tile(packed, max(1, -(-total_bytes // packed.size)))
        for count in tokens:
            progress(f"{weight_type.name}, {count} tokens: {len(same)} kernels, {rounds} rounds")
            x = np.random.default_rng(2).standard_normal((count, cols)).astype(np.float32)
            cases = [
                Case(
                    spec,
                    library.row(spec.name),
                    copies,
                    packed.size,
                    x,
                    prepare(library, spec, x),
                    zeros_in_lines(count, rows),
                )
                for spec in same
            ]
            results += _measure_cases(library, cases, threads, rounds)
    return results


def prepare(library: native.Library, spec: KernelSpec, x: np.ndarray) -> list[Activations]:
    """x [tokens, K] as a kernel wants it, in one buffer."""
    batch = library.empty_batch(spec.form, x.shape[1], len(x))
    return [library.prepare(spec.name, each, into=into) for each, into in zip(x, batch)]


def _measure_cases(library: native.Library, cases: Sequence[Case], threads: int, rounds: int) -> list[Measurement]:
    matrices = [_repeats(library, case, threads) for case in cases]
    taken, prepared, shares = ([[] for _ in cases] for _ in range(3))
    for _ in range(rounds):
        for i, case in enumerate(cases):
            peak = look_up_peak(PEAK_REPEATS) if threads == 1 else 0
            seconds = time_products(library, case, threads, count=matrices[i]) / matrices[i]
            prepared[i].append(time_prepare(case, -(-16 // len(case.x))) / threads)
            taken[i].append(seconds + prepared[i][-1])
            if peak:
                shares[i].append(_macs(case) * case.spec.type.bits / seconds / peak)
    return [
        _measurement(case, threads, statistics.median(taken[i]), statistics.median(prepared[i]), shares[i])
        for i, case in enumerate(cases)
    ]


def _macs(case: Case) -> float:
    return float(case.y.size) * case.x.shape[1]


def _measurement(case: Case, threads: int, seconds: float, prepare: float, shares: Sequence[float]) -> Measurement:
    spec, (tokens, rows) = case.spec, case.y.shape
    return Measurement(
        spec.name,
        spec.type.name,
        spec.isa.name,
        spec.form,
        tokens,
        threads,
        rows,
        case.x.shape[1],
        microseconds=seconds / tokens * 1e6,
        prepare_share=prepare / seconds,
        gmacs=_macs(case) / seconds / 1e9,
        peak_share=statistics.median(shares) if shares else None,
    )


def _repeats(library: native.Library, case: Case, threads: int) -> int:
    """Matrices of a run that lasts long enough: all copies, or as few as that takes."""
    count = 1
    while time_products(library, case, threads, count=count) < LEAST_SECONDS and count < case.count:
        count = min(4 * count, case.count)
    return count


def crossings(measurements: Sequence[Measurement]) -> dict[tuple[str, str], dict[int, int]]:
    """(instruction set, form) -> bits -> least tokens, as crossings.py has them, from measurements of one CPU.

    On a CPU of an instruction set its forms, in their order, and the kernels of the sets below it are rivals. A form serves
    from the least number of tokens on from which it stays the fastest; forms after it, below that, or from few tokens on
    where the form serves only some CPUs (crossings.SERVES_ONLY_ON).
    """
    isas = [isa for isa in isas_for(machine()) if any(m.isa == isa.name for m in measurements)]
    found: dict[tuple[str, str], dict[int, int]] = {}
    for bits in dict.fromkeys(parse_type(m.type).bits for m in measurements):
        times = {(m.isa, m.form, m.tokens): m.microseconds for m in measurements if parse_type(m.type).bits == bits}
        for position, isa in enumerate(isas):
            for precision in dict.fromkeys(FORMS[form].precision for form in GEMM_FORMS):
                below = [
                    (other.name, form)
                    for other in isas[position + 1 :]
                    for form in other.gemm_forms
                    if set(other.features) <= set(isa.features) and FORMS[form].precision == precision
                ]
                measured = {form for name, form, _ in times if name == isa.name}
                forms = [form for form in isa.gemm_forms if FORMS[form].precision == precision and form in measured]
                for form, least in _least_tokens(times, isa.name, forms, below).items():
                    found.setdefault((isa.name, form), {})[bits] = least
    return found


def _least_tokens(
    times: Mapping[tuple[str, str, int], float], isa: str, forms: Sequence[str], below: Sequence[tuple[str, str]]
) -> dict[str, int]:
    """Least tokens of each form of an instruction set; 0: it is nowhere the fastest."""
    open_tokens = sorted({tokens for name, _, tokens in times if name == isa and tokens > 1})
    result = {}
    for number, form in enumerate(forms):
        rivals = [*((isa, other) for other in forms[number + 1 :]), *below]
        least = 0
        for tokens in reversed(open_tokens):
            others = [times[(*rival, tokens)] for rival in rivals if (*rival, tokens) in times]
            if (isa, form, tokens) not in times or times[isa, form, tokens] > TOLERANCE * min(others, default=np.inf):
                break
            least = tokens
        result[form] = least
        if (isa, form) not in SERVES_ONLY_ON:
            open_tokens = [tokens for tokens in open_tokens if not least or tokens < least]
    return result


def check_tokens(tokens: Sequence[int]) -> None:
    """Raises KernelError for numbers of tokens that say nothing of GEMM kernels."""
    if not tokens or min(tokens) < 1:
        raise KernelError(f"{list(tokens)} tokens: expected numbers from 1 on", "--tokens 2,4,8,16,32,128")
