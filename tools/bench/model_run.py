"""Runs llama-bench and llama-batched-bench: their arguments, what they print while they run, and the samples in it.

Comes in: the workloads that one process measures. Goes out: a sample of each, and the kernels that the plugin named.
What is over in a moment, such as a short prompt, is repeated within the process until a sample lasts SAMPLE_SECONDS.
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

from ..errors import ToolError
from ..llama.build import Build
from .random_model import AnyType

DECODE, PROMPT, BATCH = "decode", "prompt", "batch"
# The least duration of a sample of prompts or batches, and the factor on it so that no faster round falls below.
SAMPLE_SECONDS, SPARE = 1, 1.5
# For each sequence of a batch: a short prompt, which is not timed, and the tokens of one repetition, which are.
BATCH_PROMPT, BATCH_TOKENS = 4, 16
# LLAMA_MAX_SEQ in llama.cpp's src/llama-cparams.h.
MAX_SEQUENCES = 256
KERNEL_LINE = re.compile(r"tmac: \d+ x tmac_\w+ by ")
KERNEL_NAME = re.compile(r"\btmac_gem[mv]_\w+")
# What `llama-bench --progress` prints between the warm-up and the first run that counts.
START_LINE = re.compile(r"(generation|prompt) run 1/")


@dataclass(frozen=True)
class Workload:
    """What one sample times: `tokens` of each of the `sequences`, in one repetition."""

    phase: str
    tokens: int
    threads: int
    type: AnyType
    sequences: int = 1

    @property
    def size(self) -> int:
        """How many tokens are computed at once."""
        return {DECODE: 1, PROMPT: self.tokens, BATCH: self.sequences}[self.phase]

    @property
    def label(self) -> str:
        return self.phase if self.phase == DECODE else f"{self.phase} of {self.size}"


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

    def __init__(self, build: Build, env: Mapping[str, str | None], log: Path):
        self.build, self.env, self.log = build, env, log
        self._repetitions: dict[Workload, int] = {}
        self._said: set[str] = set()

    def measure(self, model: Path, workloads: Sequence[Workload]) -> tuple[list[Sample], list[str]]:
        """The workloads of one process, in order: a decode, a prompt, or batches of several sizes. Raises ToolError."""
        while True:
            samples, kernels = self._run(model, workloads)
            short = {
                workload: sample.seconds
                for workload, sample in zip(workloads, samples)
                if sample.seconds < SAMPLE_SECONDS
            }
            if workloads[0].phase == DECODE or not short:
                return samples, kernels
            for workload, seconds in short.items():
                wanted = SPARE * SAMPLE_SECONDS / seconds
                self._repetitions[workload] = math.ceil(self._repetitions.get(workload, 1) * wanted)

    def _run(self, model: Path, workloads: Sequence[Workload]) -> tuple[list[Sample], list[str]]:
        """One process: the speeds, the CPU time between its two signs of start and end, the kernels it named."""
        repetitions = [self._repetitions.get(workload, 1) for workload in workloads]
        is_batch = workloads[0].phase == BATCH
        program = self.build.binary("llama-batched-bench" if is_batch else "llama-bench")
        arguments = (
            batch_arguments(workloads, repetitions) if is_batch else test_arguments(workloads[0], repetitions[0])
        )
        command = [program, "-m", model, *arguments]
        output = _Output()
        line = process.command_line(command)
        process.stream(
            command,
            env=self.env,
            log=self.log,
            announce=line not in self._said,
            on_output=output.read_output,
            on_line=output.read_line,
            on_start=output.note_process,
        )
        self._said.add(line)
        if isinstance(workloads[0].type, TmacType) and not output.kernels:
            raise ToolError(
                f"{program.stem} did not say which kernel computed {workloads[0].type.name}", "tmac build --clean"
            )
        seconds = parse_batches(bytes(output.text), workloads) if is_batch else [parse_test(bytes(output.text))]
        if list(map(len, seconds)) != repetitions:
            raise ToolError(f"{program.stem} did not measure as often as it was asked to: {seconds}", "tmac build")
        return [
            _sample(workload, sum(times), len(times), output.cpu_seconds) for workload, times in zip(workloads, seconds)
        ], list(output.kernels)


def test_arguments(workload: Workload, repetitions: int) -> list[str]:
    """Arguments of llama-bench: after a warm-up, `repetitions` runs."""
    decode, prompt = (workload.tokens, 0) if workload.phase == DECODE else (0, workload.tokens)
    counts = ["-n", str(decode), "-p", str(prompt), "-t", str(workload.threads)]
    return [*counts, "-r", str(repetitions), "-o", "json", "--progress"]


def batch_arguments(workloads: Sequence[Workload], repetitions: Sequence[int]) -> list[str]:
    """Arguments of llama-batched-bench: the sizes in turn, each as often as it is repeated.

    All sequences share one cache: it is as fast as one for each, which would need room for 256 tokens each.
    """
    tokens = workloads[0].tokens
    sizes = [str(workload.sequences) for workload, times in zip(workloads, repetitions) for _ in range(times)]
    room = max(workload.sequences for workload in workloads) * (BATCH_PROMPT + tokens)
    counts = ["-npp", str(BATCH_PROMPT), "-ntg", str(tokens), "-npl", ",".join(sizes), "-t", str(workloads[0].threads)]
    return [*counts, "-c", str(room), "--kv-unified", "--output-format", "jsonl"]


def parse_test(output: bytes) -> list[float]:
    """The seconds of each repetition in the JSON of a llama-bench run that makes one test. Raises ToolError."""
    try:
        (test,) = json.loads(output)
        return [_seconds(nanoseconds) / 1e9 for nanoseconds in test["samples_ns"]]
    except (ValueError, TypeError, KeyError):
        raise _not_understood("llama-bench", "one test's JSON", output) from None


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


class _Output:
    """What a program says while it runs. llama-bench's result is its first output, written when the tokens are done.

    The CPU clock is read then, and not when the process has ended: loading and repacking take as much again, and vary.
    """

    def __init__(self):
        self.text = bytearray()
        self.kernels: dict[str, None] = {}
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

    def read_output(self, piece: bytes) -> None:
        if not self.text and self._start is not None:
            self.cpu_seconds = process.cpu_seconds(self._pid) - self._start
        self.text += piece
