"""Runs llama-bench and llama-batched-bench: their arguments, what they print while they run, and the samples in it.

Comes in: the workloads that one process measures. Goes out: a sample of each, and the kernels that the plugin named.
What is over in a moment, such as a short prompt, is repeated within the process until a sample lasts SAMPLE_SECONDS.
Behind a context nothing is: its process is expensive, and fills the cache once for all its workloads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tmac.common import process
from tmac.common.format import TmacType
from tmac.kernels import attention, repack

from ..errors import ToolError
from ..llama.build import Build
from .context import Context
from .random_model import AnyType, is_ours
from .stock_types import UNPACKED_SUFFIX

DECODE, PROMPT, BATCH = "decode", "prompt", "batch"
# The least duration of a sample of prompts or batches, and the factor on it so that no faster round falls below.
SAMPLE_SECONDS, SPARE = 1, 1.5
# For each sequence of a batch: a short prompt, which is not timed, and the tokens of one repetition, which are.
BATCH_PROMPT, BATCH_TOKENS = 4, 16
# LLAMA_MAX_SEQ in llama.cpp's src/llama-cparams.h.
MAX_SEQUENCES = 256
KERNEL_LINE = re.compile(r"tmac: \d+ x \w+ by ")
KERNEL_NAME = re.compile(r"\btmac_gem[mv]_\w+")
ATTENTION_LINE = re.compile(rf"{attention.LINE}(.+)")
ATTENTION_NAME = re.compile(r"tmac_attention_\w+")
# What `llama-bench --progress` prints between the warm-up and the first run that counts.
START_LINE = re.compile(r"(generation|prompt) run 1/")
# What says in its JSON which workload a test is: tokens of a decode, of a prompt, threads, tokens in the cache before.
TEST_FIELDS = ("n_gen", "n_prompt", "n_threads", "n_depth")


@dataclass(frozen=True)
class Workload:
    """What one sample times: `tokens` of each of the `sequences`, in one repetition.

    context: what the tokens come after; None: nothing, and whatever attention serves.
    """

    phase: str
    tokens: int
    threads: int
    type: AnyType
    sequences: int = 1
    context: Context | None = None

    @property
    def size(self) -> int:
        """How many tokens are computed at once."""
        return {DECODE: 1, PROMPT: self.tokens, BATCH: self.sequences}[self.phase]

    @property
    def label(self) -> str:
        label = self.phase if self.phase == DECODE else f"{self.phase} of {self.size}"
        return f"{label} {self.context.label}" if self.context else label


@dataclass(frozen=True)
class Sample:
    """One workload in one round: tokens a second of all sequences together; CPU time of all threads, None where the
    system does not tell; the seconds of all repetitions.
    """

    tokens_per_s: float
    cpu_s_per_token: float | None
    seconds: float


class Runner:
    """Runs workloads round after round with the same repetitions; what was too short gets more from then on."""

    def __init__(self, build: Build, env: Mapping[str, str | None], log: Path, rpc: str | None = None):
        self.build, self.env, self.log, self.rpc = build, env, log, rpc
        self._repetitions: dict[Workload, int] = {}
        self._said: set[str] = set()

    def measure(self, model: Path, workloads: Sequence[Workload]) -> tuple[list[Sample], list[str]]:
        """The workloads of one process, in order: a decode, a prompt, batches of several sizes, or all that comes after
        one context. With them the names of T-MAC's kernels. Raises ToolError.
        """
        while True:
            samples, kernels = self._run(model, workloads)
            short = {
                workload: sample.seconds
                for workload, sample in zip(workloads, samples)
                if sample.seconds < SAMPLE_SECONDS
            }
            if workloads[0].phase == DECODE or workloads[0].context or not short:
                return samples, kernels
            for workload, seconds in short.items():
                wanted = SPARE * SAMPLE_SECONDS / seconds
                self._repetitions[workload] = math.ceil(self._repetitions.get(workload, 1) * wanted)

    def _run(self, model: Path, workloads: Sequence[Workload]) -> tuple[list[Sample], list[str]]:
        """One process: the speeds, the CPU time between its two signs of start and end, the kernels it named."""
        repetitions = [self._repetitions.get(workload, 1) for workload in workloads]
        is_batch, context = workloads[0].phase == BATCH, workloads[0].context
        program = self.build.binary("llama-batched-bench" if is_batch else "llama-bench")
        arguments = batch_arguments(workloads, repetitions) if is_batch else test_arguments(workloads, repetitions[0])
        command = [program, "-m", model, *arguments, *(["--rpc", self.rpc] if self.rpc else [])]
        kind = workloads[0].type
        if not isinstance(kind, TmacType) and kind.suffix == UNPACKED_SUFFIX:
            command += ["--no-repack"] if is_batch else ["--repack", "0"]
        chosen = None if isinstance(kind, TmacType) else repack.ALL if is_ours(kind) else repack.STOCK
        env = {**self.env, repack.VARIABLE: chosen, **(context.environment() if context else {})}
        output = _Output()
        line = process.command_line(command, env)
        process.stream(
            command,
            env=env,
            log=self.log,
            announce=line not in self._said,
            on_output=output.read_output,
            on_line=output.read_line,
            on_start=output.note_process,
        )
        self._said.add(line)
        # With --rpc they are said where the layers are.
        if is_ours(kind) and not output.kernels and not self.rpc:
            raise ToolError(
                f"{program.stem} did not say which kernel computed {workloads[0].type.name}", "tmac build --clean"
            )
        kernels = list(output.kernels)
        if context:
            kernels += _attention_kernels(program.stem, context, list(output.attentions))
        parse = parse_batches if is_batch else parse_tests
        seconds = parse(bytes(output.text), workloads)
        if list(map(len, seconds)) != repetitions:
            raise ToolError(f"{program.stem} did not measure as often as it was asked to: {seconds}", "tmac build")
        # Several tests of one process cannot be told apart by what was read of its clock.
        # That of other machines is not ours to read.
        cpu_seconds = None if context or self.rpc else output.cpu_seconds
        samples = [
            _sample(workload, sum(times), len(times), cpu_seconds) for workload, times in zip(workloads, seconds)
        ]
        return samples, kernels


def test_arguments(workloads: Sequence[Workload], repetitions: int) -> list[str]:
    """Arguments of llama-bench: after a warm-up, `repetitions` runs of each workload.

    These are all combinations of their tokens and numbers of threads. llama-bench takes the threads in this order, and
    fills a cache with the first number of them: the others get a copy.
    """
    decodes = [workload.tokens for workload in workloads if workload.phase == DECODE]
    prompts = [workload.tokens for workload in workloads if workload.phase == PROMPT]
    threads = [workload.threads for workload in workloads]
    counts = [("-n", decodes or [0]), ("-p", prompts or [0]), ("-t", threads)]
    arguments = [part for name, values in counts for part in (name, ",".join(map(str, dict.fromkeys(values))))]
    context = workloads[0].context
    return [*arguments, *(context.arguments() if context else ()), "-r", str(repetitions), "-o", "json", "--progress"]


def batch_arguments(workloads: Sequence[Workload], repetitions: Sequence[int]) -> list[str]:
    """Arguments of llama-batched-bench: the sizes in turn, each as often as it is repeated.

    All sequences share one cache: it is as fast as one for each, which would need room for 256 tokens each.
    """
    tokens = workloads[0].tokens
    sizes = [str(workload.sequences) for workload, times in zip(workloads, repetitions) for _ in range(times)]
    room = max(workload.sequences for workload in workloads) * (BATCH_PROMPT + tokens)
    counts = ["-npp", str(BATCH_PROMPT), "-ntg", str(tokens), "-npl", ",".join(sizes), "-t", str(workloads[0].threads)]
    return [*counts, "-c", str(room), "--kv-unified", "--output-format", "jsonl"]


def parse_tests(output: bytes, workloads: Sequence[Workload]) -> list[list[float]]:
    """The seconds of each repetition of each workload in the JSON of a llama-bench run. Raises ToolError."""
    try:
        tests = [
            (tuple(test[name] for name in TEST_FIELDS), [_seconds(value) / 1e9 for value in test["samples_ns"]])
            for test in json.loads(output)
        ]
        times = dict(tests)
        if len(tests) != len(workloads):
            raise ValueError
        return [times[_test_fields(workload)] for workload in workloads]
    except (ValueError, TypeError, KeyError):
        expected = "one test's JSON" if len(workloads) == 1 else f"the JSON of these {len(workloads)} tests"
        raise _not_understood("llama-bench", expected, output) from None


def _test_fields(workload: Workload) -> tuple[int, int, int, int]:
    """What TEST_FIELDS are for it."""
    decode, prompt = (workload.tokens, 0) if workload.phase == DECODE else (0, workload.tokens)
    return decode, prompt, workload.threads, workload.context.depth if workload.context else 0


def parse_batches(output: bytes, workloads: Sequence[Workload]) -> list[list[float]]:
    """The seconds of each repetition of each workload in llama-batched-bench's lines of JSON. Raises ToolError."""
    times = {workload.sequences: [] for workload in workloads}
    try:
        for line in output.split(b"\n"):
            if line.strip():
                test = json.loads(line)
                times[test["pl"]].append(_seconds(test["t_tg"]))
    except (ValueError, TypeError, KeyError):
        raise _not_understood("llama-batched-bench", "lines of JSON about these batches", output) from None
    return list(times.values())


def _seconds(value: float) -> float:
    """Raises ValueError for what is no time."""
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ValueError
    return value


def _not_understood(program: str, expected: str, output: bytes) -> ToolError:
    text = output[:200].decode("utf-8", "replace")
    return ToolError(f"{program} wrote something else than {expected}: {text!r}", "tmac build")


def _sample(workload: Workload, seconds: float, repetitions: int, cpu_seconds: float | None) -> Sample:
    tokens = workload.tokens * workload.sequences * repetitions
    return Sample(tokens / seconds, None if cpu_seconds is None else cpu_seconds / tokens, seconds)


def _attention_kernels(program: str, context: Context, said: Sequence[str]) -> list[str]:
    """T-MAC's kernels among those that compute the attention, by what was said of each. Raises ToolError unless one ran
    where it was to be measured, and only there.
    """
    kernels = [name[0] for text in said if (name := ATTENTION_NAME.match(text))]
    if bool(kernels) != context.attention.is_tmac:
        found = (
            f"the attention was computed by {'; '.join(said)}" if said else "no line said who computed the attention"
        )
        expected = "a kernel tmac_attention_..." if context.attention.is_tmac else "llama.cpp"
        raise ToolError(
            f"{program}, {context.label}: {found}, expected {expected}",
            "give another --cache or --shape" if said and not kernels else "tmac build --clean",
        )
    return kernels


class _Output:
    """What a program says while it runs. llama-bench's result is its first output, written when the tokens are done.

    The CPU clock is read then, and not when the process has ended: loading and repacking take as much again, and vary.
    """

    def __init__(self):
        self.text = bytearray()
        self.kernels: dict[str, None] = {}
        self.attentions: dict[str, None] = {}
        self.cpu_seconds: float | None = None
        self._pid: int | None = None
        self._start: float | None = None

    def note_process(self, pid: int) -> None:
        self._pid = pid

    def read_line(self, line: str) -> None:
        if START_LINE.search(line):
            self._start = process.cpu_seconds(self._pid)
        if KERNEL_LINE.search(line):
            self.kernels |= dict.fromkeys(KERNEL_NAME.findall(line))
        self.attentions |= dict.fromkeys(map(str.strip, ATTENTION_LINE.findall(line)))

    def read_output(self, piece: bytes) -> None:
        if not self.text and self._start is not None:
            self.cpu_seconds = process.cpu_seconds(self._pid) - self._start
        self.text += piece
