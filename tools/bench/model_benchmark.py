"""How fast llama.cpp runs one model shape in several weight types: the same binaries, alternating runs.

Comes in: a `ModelBenchmark`. Goes out: one `ModelResult` for each phase, size, number of threads and type. A round runs
every type once, so that drift of a shared machine hits all alike. Ratios are taken within a round; reported are the
medians over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tmac.common import cpu, lock, packaged, process
from tmac.common.cpu import machine
from tmac.common.format import TmacType
from tmac.common.paths import log_file
from tmac.kernels import attention
from tmac.kernels.catalog import isas_for, kernels_for, least_tokens
from tmac.kernels.forms import FAST, PRECISIONS, ROUNDED
from tmac.kernels.spec import KernelSpec

from ..errors import ToolError
from ..llama.build import Build, cxx_compiler
from . import random_model, variables
from .model_run import BATCH, BATCH_PROMPT, BATCH_TOKENS, DECODE, MAX_SEQUENCES, PROMPT, Runner, Sample, Workload
from .random_model import AnyType, RandomModel, Recipe, bits_per_weight
from .shapes import Shape
from .stock_types import RIVALS, TERNARY_RIVALS

# What kernels of each method serve, and what measures it.
METHODS = {"gemv": ("single tokens", "-n"), "gemm": ("several tokens at once", "--prompt or --batch")}
# A time per token that is longer by a smaller share than this counts as equal.
LEAST_RISE = 0.02


@dataclass(frozen=True)
class ModelBenchmark:
    """What is measured, and how often.

    decode_tokens: 0 for no decode; prompt_sizes: tokens of each prompt; batch_sizes: sequences of each batch; kernel,
    precision: None leaves the choice to the plugin; against: the type that the others are compared with, None compares
    T-MAC's types with RIVALS; rpc: the servers that hold the layers, as HOST:PORT,.., None: this machine.
    """

    shape: Shape
    layers: int
    vocabulary: int
    types: tuple[AnyType, ...]
    threads: tuple[int, ...]
    decode_tokens: int
    prompt_sizes: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    rounds: int
    seed: int
    kernel: str | None = None
    precision: str | None = None
    against: AnyType | None = None
    rpc: str | None = None

    def recipes(self) -> list[Recipe]:
        """The models, in the order of the types."""
        return [Recipe(self.shape, self.layers, self.vocabulary, kind, self.seed) for kind in self.types]

    def sizes(self) -> list[tuple[str, int]]:
        """The phases of single sequences that are measured, with their tokens."""
        decodes = [(DECODE, self.decode_tokens)] if self.decode_tokens else []
        return decodes + [(PROMPT, size) for size in self.prompt_sizes]

    def runs(self) -> list[tuple[Workload, ...]]:
        """The processes of one round, each with its workloads, in order. The type changes fastest."""
        runs = [
            (Workload(phase, tokens, threads, kind),)
            for phase, tokens in self.sizes()
            for threads in self.threads
            for kind in self.types
        ]
        if self.batch_sizes:
            runs += [
                tuple(Workload(BATCH, BATCH_TOKENS, threads, kind, size) for size in self.batch_sizes)
                for threads in self.threads
                for kind in self.types
            ]
        return runs

    def environment(self) -> dict[str, str | None]:
        """For the programs. An instruction set is that of the attention, too."""
        has_attention = self.kernel in {kernel.isa.name for kernel in attention.ATTENTION_KERNELS}
        return {
            "TMAC_LOG": "1",
            **variables.chosen(self.kernel, self.precision, self.kernel if has_attention else None),
        }

    def methods(self) -> list[str]:
        """Those of METHODS that are measured. A batch of any size has a prompt of several tokens."""
        sizes = {workload.size for run in self.runs() for workload in run} | (
            {BATCH_PROMPT} if self.batch_sizes else set()
        )
        return [method for method, is_measured in (("gemv", 1 in sizes), ("gemm", max(sizes) > 1)) if is_measured]

    def rivals(self, kind: AnyType) -> list[AnyType]:
        """The measured types that `kind` is compared with."""
        if self.against:
            return [self.against] if kind != self.against else []
        if not random_model.is_ours(kind):
            return []
        if isinstance(kind, TmacType):
            nearest = TERNARY_RIVALS if kind.ternary else RIVALS.get(kind.bits, ())
        else:
            nearest = (kind.stored_name,)
        return [other for other in self.types if not random_model.is_ours(other) and other.stored_name in nearest]

    def check(self) -> None:
        """Raises ToolError for what cannot be measured, before anything is made."""
        if not self.runs():
            raise ToolError("there is nothing to measure", "give -n or --prompt more than 0 tokens, or --batch")
        if self.batch_sizes and max(self.batch_sizes) > MAX_SEQUENCES:
            raise ToolError(f"--batch {max(self.batch_sizes)}: llama.cpp decodes at most {MAX_SEQUENCES} sequences")
        if self.against and self.against not in self.types:
            raise ToolError(f"--against {self.against.name} is not among the types measured", "add it to --types")
        if self.rpc and (self.kernel or self.precision):
            raise ToolError(
                "--kernel and --precision are for this machine, and with --rpc the layers are on others",
                "there: TMAC_KERNEL=NAME tmac rpc-server",
            )
        for kind in self.types:
            if self.rpc and random_model.is_ours(kind) and not isinstance(kind, TmacType):
                raise ToolError(f"{kind.name}: servers of --rpc do not repack", "give the type itself, or T-MAC's")
            random_model.check(self.shape, kind)
        ours = [kind for kind in self.types if isinstance(kind, TmacType)]
        _check_kernels(ours, self.methods(), self.kernel, self.precision or PRECISIONS[0])
        random_model.check_space(self.recipes())


@dataclass(frozen=True)
class ModelResult:
    """Medians over the rounds, and the samples.

    tokens: of each of the `sequences` that are computed at once; tokens_per_s: of all sequences together.
    gb_per_s: 1e9 bytes of weights a second, of a decode only.
    kernels: those of T-MAC, as the plugin named them in this run.
    ratios: how many times as fast as another type, by its name; fastest_stock: the same for the fastest of llama.cpp's
    types that were measured.
    gain: tokens_per_s in units of that at the phase's smallest size; slowdown: time per token in units of that at the
    next smaller size; rises: whether slowdown is more than noise.
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


@dataclass(frozen=True)
class Measured:
    """What all rounds gave: the models, a sample of each workload for each round, the kernels that were named."""

    models: Mapping[AnyType, RandomModel]
    samples: Mapping[Workload, list[Sample]]
    kernels: Mapping[Workload, list[str]]


def measure(build: Build, benchmark: ModelBenchmark, progress: Callable[[str], None]) -> list[ModelResult]:
    """All results of a benchmark that `check` has accepted; makes the models that are missing. Raises ToolError."""
    measured = run_rounds(build, benchmark, benchmark.runs(), progress)
    return [_result(workload, measured, benchmark) for workload in measured.samples]


def run_rounds(
    build: Build,
    benchmark: ModelBenchmark,
    runs: Sequence[Sequence[Workload]],
    progress: Callable[[str], None],
    after_run: Callable[[Sequence[Workload]], None] = lambda run: None,
) -> Measured:
    """Runs the processes `benchmark.rounds` times, each followed by a call of `after_run`. Raises ToolError."""
    with lock.held("bench", "measuring models"):
        models = dict(zip(benchmark.types, random_model.ensure(benchmark.recipes())))
        runner = Runner(build, benchmark.environment(), log_file("bench"), benchmark.rpc)
        samples: dict[Workload, list[Sample]] = {workload: [] for run in runs for workload in run}
        kernels: dict[Workload, list[str]] = {}
        for number in range(1, benchmark.rounds + 1):
            for run in runs:
                measured, names = runner.measure(models[run[0].type].path, run)
                for workload, sample in zip(run, measured):
                    kernels[workload] = names
                    samples[workload].append(sample)
                    progress(
                        f"round {number}/{benchmark.rounds}, {workload.label}, {counted(workload.threads, 'thread')}: "
                        f"{workload.type.name} {sample.tokens_per_s:.1f} tokens/s"
                    )
                after_run(run)
    return Measured(models, samples, kernels)


def report(benchmark: ModelBenchmark, results: Sequence[ModelResult]) -> dict:
    """All that is known, for programs: the machine, the model, the results."""
    known = cpu.features()
    return {
        "benchmark": "model",
        "cpu": cpu.name(),
        "instruction_sets": [isa.name for isa in isas_for(machine()) if known and not cpu.lacking(isa.features)],
        "compiler": packaged.compiler() or process.version(cxx_compiler()),
        "forced_kernel": benchmark.kernel,
        "precision": benchmark.precision,
        "rpc": benchmark.rpc,
        "shape": asdict(benchmark.shape),
        "layers": benchmark.layers,
        "vocabulary": benchmark.vocabulary,
        "seed": benchmark.seed,
        "rounds": benchmark.rounds,
        "results": [asdict(result) for result in results],
    }


def counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _check_kernels(kinds: Sequence[TmacType], methods: Sequence[str], forced: str | None, precision: str) -> None:
    """Raises ToolError if a method that is measured has no kernel for one of the types, or the forced kernel or
    instruction set serves nothing that is measured or does not run on this CPU.
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
    # A forced instruction set must serve all types of a method; a forced kernel leaves other types to the usual ones.
    of_set = {kernel.method for kernel in kernels if forced == kernel.isa.name}
    for method in methods:
        choice = wanted if method in of_set else unnamed
        for kind in kinds:
            if not any(kernel.type == kind and kernel.method == method for kernel in choice):
                where = f"of {forced}" if method in of_set else f"on {machine()}"
                what = f"{METHODS[method][0]} of {kind.name} with {precision} precision"
                raise ToolError(f"no kernel {where} serves {what}", "choose of `tmac kernels list` with --types")


def _takes(kernel: KernelSpec, precision: str) -> bool:
    """Whether a kernel serves where this precision is asked for. For `fast`, GEMM kernels are those of `rounded`."""
    return kernel.precision == (ROUNDED if (kernel.method, precision) == ("gemm", FAST) else precision)


def _result(workload: Workload, measured: Measured, benchmark: ModelBenchmark) -> ModelResult:
    samples, model = measured.samples, measured.models[workload.type]
    own = samples[workload]
    cpu_times = [sample.cpu_s_per_token for sample in own]
    speed = median_speed(own)
    is_tmac = random_model.is_ours(workload.type)
    others = {other.type: samples[other] for other in samples if replace(other, type=workload.type) == workload}
    stock = [kind for kind in others if is_tmac and not random_model.is_ours(kind)]
    fastest = sorted(stock, key=lambda kind: median_speed(others[kind]))[-1:]
    smallest, *_ = sizes = _sizes_to(workload, samples)
    growths = paired_ratios(samples[sizes[-2]], own) if len(sizes) > 1 else []
    return ModelResult(
        type=workload.type.name,
        is_tmac=is_tmac,
        bits_per_weight=bits_per_weight(workload.type),
        model_bytes=model.nbytes,
        phase=workload.phase,
        tokens=workload.tokens,
        sequences=workload.sequences,
        threads=workload.threads,
        tokens_per_s=speed,
        cpu_s_per_token=None if None in cpu_times else statistics.median(cpu_times),
        gb_per_s=speed * model.nbytes_per_token / 1e9 if workload.phase == DECODE else None,
        kernels=measured.kernels[workload],
        ratios={kind.name: paired_ratio(own, others[kind]) for kind in benchmark.rivals(workload.type)},
        fastest_stock={kind.name: paired_ratio(own, others[kind]) for kind in fastest},
        gain=paired_ratio(own, samples[smallest]),
        slowdown=statistics.median(growths) if growths else None,
        rises=bool(growths) and rises(growths),
        samples=list(own),
    )


def _sizes_to(workload: Workload, workloads: Iterable[Workload]) -> list[Workload]:
    """The workload at every size up to its own, smallest first: the same phase, threads and type."""
    alike = [
        other
        for other in workloads
        if (other.phase, other.threads, other.type) == (workload.phase, workload.threads, workload.type)
        and other.size <= workload.size
    ]
    return sorted(alike, key=lambda other: other.size)


def median_speed(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.tokens_per_s for sample in samples)


def paired_ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """How many times as fast: the median of the ratios within each round."""
    return statistics.median(paired_ratios(samples, others))


def paired_ratios(samples: Sequence[Sample], others: Sequence[Sample]) -> list[float]:
    pairs = zip(samples, others, strict=True)
    return [sample.tokens_per_s / other.tokens_per_s for sample, other in pairs]


def rises(ratios: Sequence[float]) -> bool:
    """Whether times rise, by their ratios: the median exceeds 1 by more than LEAST_RISE and the median deviation."""
    middle = statistics.median(ratios)
    deviation = statistics.median(abs(ratio - middle) for ratio in ratios)
    return middle - 1 > max(LEAST_RISE, deviation)
