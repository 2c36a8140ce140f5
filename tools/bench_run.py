"""Runs llama-bench and llama-batched-bench: their commands, what they say while they run, and the samples in that.

Comes in: the cases that one process measures. Goes out: a sample of each, and the kernels that the plugin named. What
is over in a moment, as short prompts are, is repeated within the process until a sample lasts SAMPLE_SECONDS.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common import process
from ..common.format import TmacType
from .errors import ToolError
from .llama_build import Build
from .random_model import BlockType

DECODE, PROMPT, BATCH = "decode", "prompt", "batch"
# The shortest that a sample of prompts or batches may be, and what is added so that no faster round is shorter.
SAMPLE_SECONDS, SPARE = 1, 1.5
# For each sequence of a batch: a short prompt, which is not timed, and the tokens of one repetition, which are.
BATCH_PROMPT, BATCH_TOKENS = 4, 16
# LLAMA_MAX_SEQ in llama.cpp's src/llama-cparams.h.
MAX_SEQUENCES = 256
KERNEL_LINE = re.compile(r"tmac: \d+ x tmac_\w+ by ")
KERNEL_NAME = re.compile(r"\btmac_gem[mv]_\w+")
# What llama-bench --progress says between the warm-up and the first run that counts.
START_LINE = re.compile(r"(generation|prompt) run 1/")


@dataclass(frozen=True)
class Case:
    """One cell of the result: `tokens` are those of each sequence that one repetition times."""

    phase: str
    tokens: int
    threads: int
    type: BlockType
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
    """One case in one round: tokens of all sequences a second; no CPU time where nothing tells it; all its seconds."""

    tokens_per_s: float
    cpu_s_per_token: float | None
    seconds: float


class Runner:
    """Runs cases again and again, each time alike; what was too short once is repeated more often from then on."""

    def __init__(self, build: Build, env: Mapping[str, str | None], log: Path):
        self.build, self.env, self.log = build, env, log
        self._repetitions: dict[Case, int] = {}
        self._said: set[str] = set()

    def measure(self, model: Path, cases: Sequence[Case]) -> tuple[list[Sample], list[str]]:
        """Cases of one process, in their order: a decode, a prompt, or batches of several sizes. Raises ToolError."""
        while True:
            samples, kernels = self._run(model, cases)
            short = {case: sample.seconds for case, sample in zip(cases, samples) if sample.seconds < SAMPLE_SECONDS}
            if cases[0].phase == DECODE or not short:
                return samples, kernels
            for case, seconds in short.items():
                wanted = SPARE * SAMPLE_SECONDS / seconds
                self._repetitions[case] = math.ceil(self._repetitions.get(case, 1) * wanted)

    def _run(self, model: Path, cases: Sequence[Case]) -> tuple[list[Sample], list[str]]:
        """One process: the speeds, the CPU time between its two signs of start and end, the kernels it named."""
        repetitions = [self._repetitions.get(case, 1) for case in cases]
        is_batch = cases[0].phase == BATCH
        program = self.build.binary("llama-batched-bench" if is_batch else "llama-bench")
        arguments = batch_arguments(cases, repetitions) if is_batch else test_arguments(cases[0], repetitions[0])
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
        if isinstance(cases[0].type, TmacType) and not output.kernels:
            raise ToolError(
                f"{program.stem} did not say which kernel computed {cases[0].type.name}", "tmac build --clean"
            )
        seconds = parse_batches(bytes(output.text), cases) if is_batch else [parse_test(bytes(output.text))]
        if list(map(len, seconds)) != repetitions:
            raise ToolError(f"{program.stem} did not measure as often as it was asked to: {seconds}", "tmac build")
        return [_sample(case, sum(times), len(times), output.cpu_seconds) for case, times in zip(cases, seconds)], list(
            output.kernels
        )


def test_arguments(case: Case, repetitions: int) -> list[str]:
    """llama-bench's own: after a warm-up, the runs that count."""
    decode, prompt = (case.tokens, 0) if case.phase == DECODE else (0, case.tokens)
    counts = ["-n", str(decode), "-p", str(prompt), "-t", str(case.threads)]
    return [*counts, "-r", str(repetitions), "-o", "json", "--progress"]


def batch_arguments(cases: Sequence[Case], repetitions: Sequence[int]) -> list[str]:
    """llama-batched-bench's own: sizes in turn, repeated where they are. One cache for all sequences is as fast as one
    for each, of which each would have room for 256 tokens.
    """
    tokens = cases[0].tokens
    sizes = [str(case.sequences) for case, times in zip(cases, repetitions) for _ in range(times)]
    room = max(case.sequences for case in cases) * (BATCH_PROMPT + tokens)
    counts = ["-npp", str(BATCH_PROMPT), "-ntg", str(tokens), "-npl", ",".join(sizes), "-t", str(cases[0].threads)]
    return [*counts, "-c", str(room), "--kv-unified", "--output-format", "jsonl"]


def parse_test(output: bytes) -> list[float]:
    """The seconds of each repetition in the JSON of a llama-bench run that makes one test. Raises ToolError."""
    try:
        (test,) = json.loads(output)
        return [_seconds(nanoseconds) / 1e9 for nanoseconds in test["samples_ns"]]
    except (ValueError, TypeError, KeyError):
        raise _not_understood("llama-bench", "one test's JSON", output) from None


def parse_batches(output: bytes, cases: Sequence[Case]) -> list[list[float]]:
    """The seconds of each repetition of each case in llama-batched-bench's lines of JSON. Raises ToolError."""
    times = {case.sequences: [] for case in cases}
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


def _sample(case: Case, seconds: float, repetitions: int, cpu_seconds: float | None) -> Sample:
    tokens = case.tokens * case.sequences * repetitions
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
