"""How fast llama.cpp runs one model shape in several weight types: the same binaries, alternating runs.

Comes in: a Plan. Goes out: one Result for each phase, size, number of threads and type. A round runs every type once,
so that what drifts on a shared machine hits all alike; ratios are taken within a round, and medians over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tmac.kernels.bench.shapes import Shape
from tmac.kernels.catalog import isas_for, kernels_for, least_tokens
from tmac.kernels.forms import PRECISIONS
from tmac.kernels.isa import machine
from tmac.kernels.spec import KernelSpec

from ..common.format import TmacType
from . import cpu, llama_build, lock, process, random_model
from .bench_run import BATCH, BATCH_PROMPT, BATCH_TOKENS, DECODE, MAX_SEQUENCES, PROMPT, Case, Runner, Sample
from .errors import ToolError
from .llama_build import Build
from .paths import log_file
from .random_model import BlockType, RandomModel, Recipe, bits_per_weight
from .stock_types import RIVALS, StockType

# What kernels of each method serve, and what measures it.
METHODS = {"gemv": ("single tokens", "-n"), "gemm": ("several tokens at once", "--prompt or --batch")}
# A time per token that is longer by less than this is as long.
LEAST_RISE = 0.02


@dataclass(frozen=True)
class Plan:
    """What is measured: a decode unless it is of 0 tokens, prompts of some sizes, batches of some sizes.

    `against` None compares T-MAC's types with RIVALS.
    """

    shape: Shape
    layers: int
    vocabulary: int
    types: tuple[BlockType, ...]
    threads: tuple[int, ...]
    decode_tokens: int
    prompt_sizes: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    rounds: int
    seed: int
    kernel: str | None = None
    precision: str | None = None
    against: BlockType | None = None

    def recipes(self) -> list[Recipe]:
        """The models, in the order of the types."""
        return [Recipe(self.shape, self.layers, self.vocabulary, kind, self.seed) for kind in self.types]

    def runs(self) -> list[tuple[Case, ...]]:
        """One round in its order, the cases of each process together: types change fastest."""
        sizes = [(DECODE, self.decode_tokens)] if self.decode_tokens else []
        sizes += [(PROMPT, size) for size in self.prompt_sizes]
        runs = [
            (Case(phase, tokens, threads, kind),)
            for phase, tokens in sizes
            for threads in self.threads
            for kind in self.types
        ]
        if self.batch_sizes:
            runs += [
                tuple(Case(BATCH, BATCH_TOKENS, threads, kind, size) for size in self.batch_sizes)
                for threads in self.threads
                for kind in self.types
            ]
        return runs

    def environment(self) -> dict[str, str | None]:
        """For the programs: what was not asked for is taken away, else a shell's own would be measured unsaid."""
        return {"TMAC_LOG": "1", "TMAC_KERNEL": self.kernel, "TMAC_PRECISION": self.precision}

    def methods(self) -> list[str]:
        """Of METHODS, what is measured; batches of any size have a prompt."""
        sizes = {case.size for run in self.runs() for case in run} | ({BATCH_PROMPT} if self.batch_sizes else set())
        return [method for method, is_measured in (("gemv", 1 in sizes), ("gemm", max(sizes) > 1)) if is_measured]

    def rivals(self, kind: BlockType) -> list[BlockType]:
        """The measured types that one is compared with."""
        if self.against:
            return [self.against] if kind != self.against else []
        nearest = RIVALS[kind.bits] if isinstance(kind, TmacType) else ()
        return [other for other in self.types if other.name in nearest]

    def check(self) -> None:
        """For before anything is made: raises ToolError for what cannot be measured."""
        if not self.runs():
            raise ToolError("there is nothing to measure", "give -n or --prompt more than 0 tokens, or --batch")
        if self.batch_sizes and max(self.batch_sizes) > MAX_SEQUENCES:
            raise ToolError(f"--batch {max(self.batch_sizes)}: llama.cpp decodes at most {MAX_SEQUENCES} sequences")
        if self.against and self.against not in self.types:
            raise ToolError(f"--against {self.against.name} is not among the types measured", "add it to --types")
        for kind in self.types:
            random_model.check(self.shape, kind)
        ours = [kind for kind in self.types if isinstance(kind, TmacType)]
        _check_kernels(ours, self.methods(), self.kernel, self.precision or PRECISIONS[0])
        random_model.check_space(self.recipes())


@dataclass(frozen=True)
class Result:
    """Medians over the rounds, and the samples. gb_per_s: 1e9 bytes of weights a second, of a decode only.

    `tokens`: of each of the `sequences` that are computed at once; `tokens_per_s`: of all of them. `ratios`: how many
    times as fast as another type, by its name; `fastest_stock`: the same, for the fastest of llama.cpp's types here.
    `gain`: how many times the phase's smallest size in tokens/s; `slowdown`: time per token, as many times that of the
    next smaller size; `rises`: whether that is more than noise. `kernels`: of T-MAC, as it named them for this run.
    """

    type: str
    is_tmac: bool
    bits_per_weight: float
    model_bytes: int
    phase: str
    tokens: int
    sequences: int
    threads: int
    tokens_per_s: float
    cpu_s_per_token: float | None
    gb_per_s: float | None
    kernels: list[str]
    ratios: dict[str, float]
    fastest_stock: dict[str, float]
    gain: float
    slowdown: float | None
    rises: bool
    samples: list[Sample]


def measure(build: Build, plan: Plan, progress: Callable[[str], None]) -> list[Result]:
    """All results of a plan that has been checked; makes the models that are missing. Raises ToolError."""
    with lock.held("bench", "measuring models"):
        models = dict(zip(plan.types, random_model.ensure(plan.recipes())))
        runner = Runner(build, plan.environment(), log_file("bench"))
        samples: dict[Case, list[Sample]] = {case: [] for run in plan.runs() for case in run}
        kernels: dict[Case, list[str]] = {}
        for number in range(1, plan.rounds + 1):
            for run in plan.runs():
                measured, names = runner.measure(models[run[0].type].path, run)
                for case, sample in zip(run, measured):
                    kernels[case] = names
                    samples[case].append(sample)
                    progress(
                        f"round {number}/{plan.rounds}, {case.label}, {counted(case.threads, 'thread')}: "
                        f"{case.type.name} {sample.tokens_per_s:.1f} tokens/s"
                    )
    return [_result(case, models[case.type], samples, kernels[case], plan) for case in samples]


def report(plan: Plan, results: Sequence[Result]) -> dict:
    """All that is known, for programs: the machine, the model, the results."""
    known = cpu.features()
    return {
        "benchmark": "model",
        "cpu": cpu.name(),
        "instruction_sets": [isa.name for isa in isas_for(machine()) if known and not cpu.lacking(isa.features)],
        "compiler": process.version(llama_build.find_cxx_compiler()),
        "forced_kernel": plan.kernel,
        "precision": plan.precision,
        "shape": asdict(plan.shape),
        "layers": plan.layers,
        "vocabulary": plan.vocabulary,
        "seed": plan.seed,
        "rounds": plan.rounds,
        "results": [asdict(result) for result in results],
    }


def counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _check_kernels(kinds: Sequence[TmacType], methods: Sequence[str], forced: str | None, precision: str) -> None:
    """Raises ToolError for a type that no kernel of the catalog serves, or none of the forced instruction set, by one
    of the `methods` that are measured.
    """
    kernels = kernels_for(machine())
    unnamed = [kernel for kernel in kernels if least_tokens(kernel) and _takes(kernel, precision)]
    wanted = [kernel for kernel in unnamed if forced == kernel.isa.name]
    wanted += [kernel for kernel in kernels if forced == kernel.name]
    if forced and not any(kernel.type in kinds for kernel in wanted):
        raise ToolError(
            f"--kernel {forced} serves none of the types measured with {precision} precision",
            "`tmac kernels list` shows all",
        )
    if forced and not any(kernel.method in methods for kernel in wanted):
        what, option = METHODS[wanted[0].method]
        raise ToolError(f"--kernel {forced} serves {what}, which is not measured", f"give {option}")
    if wanted and cpu.features() and (lacking := cpu.lacking(wanted[0].isa.features)):
        raise ToolError(f"--kernel {forced}: this CPU lacks {', '.join(lacking)}", "`tmac doctor` lists what it has")
    # An instruction set serves all or nothing of a method; a kernel's name leaves the other types to the usual kernels.
    of_set = {kernel.method for kernel in kernels if forced == kernel.isa.name}
    for method in methods:
        choice = wanted if method in of_set else unnamed
        for kind in kinds:
            if not any(kernel.type == kind and kernel.method == method for kernel in choice):
                where = f"of {forced}" if method in of_set else f"on {machine()}"
                what = f"{METHODS[method][0]} of {kind.name} with {precision} precision"
                raise ToolError(f"no kernel {where} serves {what}", "choose of `tmac kernels list` with --types")


def _takes(kernel: KernelSpec, precision: str) -> bool:
    """Whether it serves where this precision is asked for; a GEMM kernel has no fast one."""
    return kernel.precision == ("rounded" if (kernel.method, precision) == ("gemm", "fast") else precision)


def _result(
    case: Case, model: RandomModel, samples: Mapping[Case, Sequence[Sample]], kernels: list[str], plan: Plan
) -> Result:
    own = samples[case]
    cpu_times = [sample.cpu_s_per_token for sample in own]
    speed = _median_speed(own)
    is_tmac = isinstance(case.type, TmacType)
    others = {other.type: samples[other] for other in samples if replace(other, type=case.type) == case}
    stock = [kind for kind in others if is_tmac and isinstance(kind, StockType)]
    fastest = sorted(stock, key=lambda kind: _median_speed(others[kind]))[-1:]
    smallest, *_ = sizes = _sizes_to(case, samples)
    growths = paired_ratios(samples[sizes[-2]], own) if len(sizes) > 1 else []
    return Result(
        type=case.type.name,
        is_tmac=is_tmac,
        bits_per_weight=bits_per_weight(case.type),
        model_bytes=model.nbytes,
        phase=case.phase,
        tokens=case.tokens,
        sequences=case.sequences,
        threads=case.threads,
        tokens_per_s=speed,
        cpu_s_per_token=None if None in cpu_times else statistics.median(cpu_times),
        gb_per_s=speed * model.nbytes_per_token / 1e9 if case.phase == DECODE else None,
        kernels=kernels,
        ratios={kind.name: paired_ratio(own, others[kind]) for kind in plan.rivals(case.type)},
        fastest_stock={kind.name: paired_ratio(own, others[kind]) for kind in fastest},
        gain=paired_ratio(own, samples[smallest]),
        slowdown=statistics.median(growths) if growths else None,
        rises=bool(growths) and rises(growths),
        samples=list(own),
    )


def _sizes_to(case: Case, cases: Iterable[Case]) -> list[Case]:
    """The same at smaller sizes, the smallest first, and at last the case itself."""
    alike = [
        other
        for other in cases
        if (other.phase, other.threads, other.type) == (case.phase, case.threads, case.type) and other.size <= case.size
    ]
    return sorted(alike, key=lambda other: other.size)


def _median_speed(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.tokens_per_s for sample in samples)


def paired_ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """How many times as fast: the median of the ratios within each round."""
    return statistics.median(paired_ratios(samples, others))


def paired_ratios(samples: Sequence[Sample], others: Sequence[Sample]) -> list[float]:
    pairs = zip(samples, others, strict=True)
    return [sample.tokens_per_s / other.tokens_per_s for sample, other in pairs]


def rises(ratios: Sequence[float]) -> bool:
    """Whether times that are so many times others are longer: by more than LEAST_RISE and the rounds' deviation."""
    middle = statistics.median(ratios)
    deviation = statistics.median(abs(ratio - middle) for ratio in ratios)
    return middle - 1 > max(LEAST_RISE, deviation)
