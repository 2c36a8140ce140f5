"""How fast llama.cpp runs one model shape in several weight types: the same llama-bench binary, alternating runs.

Comes in: a Plan. Goes out: one Result for each phase, number of threads and type. A round runs every type once, so
that what drifts on a shared machine hits all alike; ratios are taken within a round, and medians over the rounds.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tmac.kernels.bench.shapes import Shape
from tmac.kernels.catalog import isas_for, kernels_for
from tmac.kernels.isa import PRECISIONS, machine
from tmac.kernels.spec import WeightType

from . import cpu, llama_build, lock, process, random_model
from .errors import ToolError
from .llama_build import Build
from .paths import log_file
from .random_model import BlockType, RandomModel, Recipe, bits_per_weight
from .stock_types import RIVALS

DECODE, PROMPT = "decode", "prompt"
KERNEL_LINE = re.compile(r"tmac_\w+ by (tmac_gemv_\w+)")
# What llama-bench --progress says between the warm-up and the run that counts.
START_LINE = re.compile(r"(generation|prompt) run 1/1")


@dataclass(frozen=True)
class Plan:
    """What is measured. A phase of 0 tokens is left out; `against` None compares T-MAC's types with RIVALS."""

    shape: Shape
    layers: int
    vocabulary: int
    types: tuple[BlockType, ...]
    threads: tuple[int, ...]
    decode_tokens: int
    prompt_tokens: int
    rounds: int
    seed: int
    kernel: str | None = None
    precision: str | None = None
    against: BlockType | None = None

    def recipes(self) -> list[Recipe]:
        """The models, in the order of the types."""
        return [Recipe(self.shape, self.layers, self.vocabulary, kind, self.seed) for kind in self.types]

    def cases(self) -> list[Case]:
        """One round in its order: types change fastest."""
        phases = [(DECODE, self.decode_tokens), (PROMPT, self.prompt_tokens)]
        return [
            Case(phase, tokens, threads, kind)
            for phase, tokens in phases if tokens for threads in self.threads for kind in self.types
        ]

    def environment(self) -> dict[str, str | None]:
        """For llama-bench: what was not asked for is taken away, else a shell's own would be measured unsaid."""
        return {"TMAC_LOG": "1", "TMAC_KERNEL": self.kernel, "TMAC_PRECISION": self.precision}

    def rivals(self, kind: BlockType) -> list[BlockType]:
        """The measured types that one is compared with."""
        if self.against:
            return [self.against] if kind != self.against else []
        nearest = RIVALS[kind.bits] if isinstance(kind, WeightType) else ()
        return [other for other in self.types if other.name in nearest]

    def check(self) -> None:
        """For before anything is made: raises ToolError for what cannot be measured."""
        if not self.cases():
            raise ToolError("there is nothing to measure", "give -n or --prompt more than 0 tokens")
        if self.against and self.against not in self.types:
            raise ToolError(f"--against {self.against.name} is not among the types measured", "add it to --types")
        for kind in self.types:
            random_model.check(self.shape, kind)
        ours = [kind for kind in self.types if isinstance(kind, WeightType)]
        _check_kernels(ours, self.kernel, self.precision or PRECISIONS[0])
        random_model.check_space(self.recipes())


@dataclass(frozen=True)
class Case:
    """One cell of the result: `tokens` are those that are timed."""

    phase: str
    tokens: int
    threads: int
    type: BlockType

    def arguments(self) -> list[str]:
        """llama-bench's own: after a warm-up, one run that counts."""
        decode, prompt = (self.tokens, 0) if self.phase == DECODE else (0, self.tokens)
        counts = ["-n", str(decode), "-p", str(prompt), "-t", str(self.threads)]
        return [*counts, "-r", "1", "-o", "json", "--progress"]


@dataclass(frozen=True)
class Sample:
    """One case in one round; no CPU time where the system does not tell it."""

    tokens_per_s: float
    cpu_s_per_token: float | None


@dataclass(frozen=True)
class Result:
    """Medians over the rounds, and the samples. gb_per_s: 1e9 bytes of weights a second, of a decode only.

    `ratios`: how many times as fast as another type, by its name. `kernels`: of T-MAC, that computed; none for others.
    """

    type: str
    is_tmac: bool
    bits_per_weight: float
    model_bytes: int
    phase: str
    tokens: int
    threads: int
    tokens_per_s: float
    cpu_s_per_token: float | None
    gb_per_s: float | None
    kernels: list[str]
    ratios: dict[str, float]
    samples: list[Sample]


def measure(build: Build, plan: Plan, progress: Callable[[str], None]) -> list[Result]:
    """All results of a plan that has been checked; makes the models that are missing. Raises ToolError."""
    with lock.held("bench", "measuring models"):
        models = dict(zip(plan.types, random_model.ensure(plan.recipes())))
        log = log_file("bench")
        samples: dict[Case, list[Sample]] = {case: [] for case in plan.cases()}
        kernels: dict[Case, list[str]] = {}
        for number in range(1, plan.rounds + 1):
            for case in samples:
                model = models[case.type].path
                sample, kernels[case] = _measure_case(build, model, case, plan.environment(), log, announce=number == 1)
                samples[case].append(sample)
                progress(
                    f"round {number}/{plan.rounds}, {case.phase}, {counted(case.threads, 'thread')}: "
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


def _check_kernels(kinds: Sequence[WeightType], forced: str | None, precision: str) -> None:
    """Raises ToolError for a type that no kernel of the catalog serves, or none of the forced instruction set."""
    kernels = kernels_for(machine())
    wanted = [
        kernel for kernel in kernels
        if forced == kernel.name or forced == kernel.isa.name and precision == kernel.precision
    ]
    if forced and not any(kernel.type in kinds for kernel in wanted):
        raise ToolError(f"--kernel {forced} serves none of the types measured with {precision} precision",
                        "`tmac kernels list` shows all")
    if wanted and cpu.features() and (lacking := cpu.lacking(wanted[0].isa.features)):
        raise ToolError(f"--kernel {forced}: this CPU lacks {', '.join(lacking)}", "`tmac doctor` lists what it has")
    # A kernel's name leaves the other types to the kernels that usually serve them; an instruction set does not.
    choice = kernels if forced in [None, *(kernel.name for kernel in wanted)] else wanted
    for kind in kinds:
        if not any(kernel.type == kind for kernel in choice):
            where = f"on {machine()}" if choice is kernels else f"of {forced}"
            raise ToolError(f"no kernel {where} serves {kind.name}", "choose of `tmac kernels list` with --types")


def _measure_case(
    build: Build, model: Path, case: Case, env: Mapping[str, str | None], log: Path, *, announce: bool
) -> tuple[Sample, list[str]]:
    """One run of llama-bench: its speed, the CPU time between its two signs of start and end, the kernels it named."""
    run = _Run()
    process.stream(
        [build.binary("llama-bench"), "-m", model, *case.arguments()],
        env=env, log=log, announce=announce,
        on_output=run.read_output, on_line=run.read_line, on_start=run.note_process,
    )
    speed, kernels = parse_speed(bytes(run.output)), sorted(run.kernels)
    if isinstance(case.type, WeightType) and not kernels:
        raise ToolError(f"llama-bench did not say which kernel computed {case.type.name}", "tmac build --clean")
    return Sample(speed, None if run.cpu_seconds is None else run.cpu_seconds / case.tokens), kernels


class _Run:
    """What a llama-bench says while it runs. Its result is its first output, written as soon as the tokens are done.

    The CPU clock is read then, and not when the process has ended: loading and repacking take as much again, and vary.
    """

    def __init__(self):
        self.output = bytearray()
        self.kernels: set[str] = set()
        self.cpu_seconds: float | None = None
        self._pid: int | None = None
        self._start: float | None = None

    def note_process(self, pid: int) -> None:
        self._pid = pid

    def read_line(self, line: str) -> None:
        if START_LINE.search(line):
            self._start = process.cpu_seconds(self._pid)
        self.kernels.update(found[1] for found in KERNEL_LINE.finditer(line))

    def read_output(self, piece: bytes) -> None:
        if not self.output and self._start is not None:
            self.cpu_seconds = process.cpu_seconds(self._pid) - self._start
        self.output += piece


def parse_speed(output: bytes) -> float:
    """Tokens a second in the JSON of a llama-bench run that makes one test. Raises ToolError if that is not in it."""
    try:
        (test,) = json.loads(output)
        speed = float(test["avg_ts"])
    except (ValueError, TypeError, KeyError):
        text = output[:200].decode("utf-8", "replace")
        raise ToolError(f"llama-bench wrote something else than one test's JSON: {text!r}", "tmac build") from None
    if not 0 < speed < float("inf"):
        raise ToolError(f"llama-bench measured {speed} tokens/s", "give more tokens: -n, --prompt")
    return speed


def _result(
    case: Case, model: RandomModel, samples: Mapping[Case, Sequence[Sample]], kernels: list[str], plan: Plan
) -> Result:
    own = samples[case]
    cpu_times = [sample.cpu_s_per_token for sample in own]
    speed = statistics.median(sample.tokens_per_s for sample in own)
    rivals = {kind.name: samples[Case(case.phase, case.tokens, case.threads, kind)] for kind in plan.rivals(case.type)}
    return Result(
        type=case.type.name,
        is_tmac=isinstance(case.type, WeightType),
        bits_per_weight=bits_per_weight(case.type),
        model_bytes=model.nbytes,
        phase=case.phase,
        tokens=case.tokens,
        threads=case.threads,
        tokens_per_s=speed,
        cpu_s_per_token=None if None in cpu_times else statistics.median(cpu_times),
        gb_per_s=speed * model.nbytes_per_token / 1e9 if case.phase == DECODE else None,
        kernels=kernels,
        ratios={name: paired_ratio(own, rival) for name, rival in rivals.items()},
        samples=list(own),
    )


def paired_ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """How many times as fast: the median of the ratios within each round."""
    pairs = zip(samples, others, strict=True)
    return statistics.median(sample.tokens_per_s / other.tokens_per_s for sample, other in pairs)
