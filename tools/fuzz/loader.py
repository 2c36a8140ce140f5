"""Fuzzes the loader of the patched llama.cpp with files that have T-MAC's types: libFuzzer, coverage-guided, under
AddressSanitizer.

In: minutes and a seed. Out: `Findings`. The harness is fuzz-tmac-loader.cpp of the overlay; the tree is compiled once
more for it, with clang. A crash is ours if a function of ours is on its stack, or if it cannot be placed.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tmac.common import console, lock, process, rotation
from tmac.common.errors import TmacError
from tmac.common.format import ACTIVATIONS_KEY, LAYOUT_VERSION_KEY, ORDER_SUFFIX, SCALE_SUFFIX, TYPES
from tmac.common.paths import log_file, work_folder

from .. import pipeline
from ..errors import ToolError
from ..llama import build as llama_build
from .seeds import write_seeds

TARGET = "fuzz-tmac-loader"
COMPILERS = ("clang", "clang++")
# The smallest program of libFuzzer's.
SMALLEST = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char *, unsigned long) { return 0; }\n'
FLAGS = "-g1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address"
OPTIONS = (
    # Asserts of the standard library stay off, llama.cpp's own are never.
    "-DCMAKE_BUILD_TYPE=None",
    f"-DCMAKE_C_FLAGS=-O1 {FLAGS}",
    f"-DCMAKE_CXX_FLAGS=-O1 {FLAGS}",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_METAL=OFF",
    "-DGGML_CCACHE=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=ON",
    "-DTMAC_FUZZ=ON",
)
# The largest input, and for each input the most memory and seconds.
MOST_BYTES, MOST_MEGABYTES, MOST_SECONDS = 300_000, 2048, 20
LIMITS = (f"-max_len={MOST_BYTES}", f"-rss_limit_mb={MOST_MEGABYTES}", f"-timeout={MOST_SECONDS}")
# An allocation that cannot be served throws, as it does without the sanitizer.
ENVIRONMENT = {"ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=0:symbolize=1", "GGML_NO_BACKTRACE": "1"}
PROGRESS = re.compile(r"^#(\d+): cov: (\d+) .*oom/timeout/crash: (\d+)/(\d+)/(\d+)", re.MULTILINE)
FINISHED = "INFO: exiting:"
FRAME = re.compile(r"^\s*#\d+ 0x[0-9a-f]+ in (.+?) (/\S+?):(\d+)", re.MULTILINE)
# Keys and tensors of llama.cpp's that the checks look at, or that decide how many tensors there are.
NAMES = ("general.alignment", "split.count", "llama.block_count", "rope_freqs.weight", "output.weight")
# The place of a crash that a file does not cause again: it was there, and nobody can say where.
NOT_AGAIN = ("an unknown place", "a crash that does not happen again", True)
# Functions that end the process for another one.
ENDERS = ("ggml_abort", "ggml_print_backtrace", "ggml_uncaught_exception")


@dataclass(frozen=True)
class Crash:
    """One place where the loader did something else than refuse or load a file."""

    where: str
    kind: str
    count: int
    is_ours: bool
    example: Path


@dataclass(frozen=True)
class Findings:
    """What a run has tried and found."""

    inputs: int
    edges: int
    crashes: tuple[Crash, ...]

    @property
    def ours(self) -> tuple[Crash, ...]:
        return tuple(crash for crash in self.crashes if crash.is_ours)

    def render(self) -> str:
        lines = [f"llama.cpp's loader: {self.inputs} files tried, {self.edges} edges of its code reached"]
        for crash in self.crashes:
            whose = "ours" if crash.is_ours else "llama.cpp's"
            lines.append(f"  {whose}: {crash.kind} in {crash.where}, {crash.count} files such as {crash.example}")
        return "\n".join(lines)


def require() -> None:
    """Raises TmacError for the first thing that a run would miss: clang, libFuzzer, or what every build needs."""
    llama_build.require_tools()
    *_, compiler = map(process.find, COMPILERS)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "smallest.cpp"
        program.write_text(SMALLEST)
        made = process.capture([compiler, "-fsanitize=fuzzer,address", program, "-o", program.with_suffix(".out")])
    if made.returncode:
        said = made.stderr.decode("utf-8", "replace").strip().splitlines()
        why = f": {said[-1]}" if said else ""
        raise ToolError(
            f"{compiler} cannot link libFuzzer{why}",
            "Debian: sudo apt install libclang-rt-14-dev, where 14 is clang's version",
        )


def run(minutes: float, seed: int) -> Findings:
    """Fuzzes for some minutes; the files that crashed the loader stay in the work folder. Raises TmacError."""
    program = compile_harness()
    folder = work_folder() / "fuzz" / "loader"
    for name in ("seeds", "crashes"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    (folder / "corpus").mkdir(exist_ok=True)
    write_seeds(folder / "seeds")
    (folder / "words").write_text(dictionary())
    log = log_file("fuzz-loader")
    command = [program, folder / "corpus", folder / "seeds", f"-seed={seed}", f"-dict={folder / 'words'}", *LIMITS]
    command += [f"-artifact_prefix={folder / 'crashes'}{os.sep}", f"-max_total_time={max(1, round(60 * minutes))}"]
    command += [f"-{option}=1" for option in ("fork", "ignore_crashes", "ignore_timeouts", "ignore_ooms")]
    console.log(f"fuzzing llama.cpp's loader for {minutes:g} minutes, seed {seed}")
    try:
        process.run(command, env=ENVIRONMENT, log=log)
    except TmacError:
        # Its exit code is that of the last crash, if there was one. It has fuzzed if it says so.
        if FINISHED not in log.read_text("utf-8", "replace"):
            raise
    steps = PROGRESS.findall(log.read_text("utf-8", "replace"))
    inputs, edges = (max((int(step[column]) for step in steps), default=0) for column in (0, 1))
    return Findings(inputs, edges, classified(program, sorted((folder / "crashes").iterdir())))


def compile_harness() -> Path:
    """The harness, compiled unless it is there as it should be. Raises TmacError."""
    compilers = [process.find(name) for name in COMPILERS]
    named = [f"-DCMAKE_{language}_COMPILER={path}" for language, path in zip(("C", "CXX"), compilers)]
    folder = work_folder() / "llama-build-fuzz"
    with lock.held(pipeline.BUILD_LOCK, "building llama.cpp"):
        # The tree that `tmac build` compiles, with the kernels that it has there.
        source = pipeline.patched_source(pipeline.BuildChoice(portable=pipeline.last_choice().portable))
        llama_build.configure(source, folder, [*named, *OPTIONS], compilers)
        llama_build.compile_targets(source, folder, [TARGET])
    return folder / "bin" / TARGET


def dictionary() -> str:
    """Words for mutations, in libFuzzer's syntax: names of keys and tensors, and numbers of types."""
    words = [*rotation.KEYS, LAYOUT_VERSION_KEY, ACTIVATIONS_KEY, ORDER_SUFFIX, SCALE_SUFFIX, *NAMES]
    numbers = [kind.id for kind in TYPES] + [0, 1, 2, 8, 26, 30, 42, 43, 0x200, 0x24F, 0x250]
    lines = [f'"{word}"' for word in words]
    lines += ['"' + "".join(f"\\x{byte:02x}" for byte in struct.pack("<I", number)) + '"' for number in numbers]
    return "\n".join(lines) + "\n"


def classified(program: Path, files: list[Path]) -> tuple[Crash, ...]:
    """The places of the crashes that files cause: each file is tried once more, alone."""
    found: Counter[tuple[str, str, bool]] = Counter()
    examples: dict[tuple[str, str, bool], Path] = {}
    for path in files:
        done = process.capture([program, *LIMITS, path], env=ENVIRONMENT)
        place = place_of(done.stderr.decode("utf-8", "replace")) if done.returncode else NOT_AGAIN
        found[place] += 1
        examples.setdefault(place, path)
    return tuple(Crash(*place[:2], count, place[2], examples[place]) for place, count in found.most_common())


def place_of(report: str) -> tuple[str, str, bool]:
    """Function and line, kind, and whether it is ours, of a sanitizer's report.

    The place is the innermost function of the tree. What ours has called is ours: it may have given a wrong argument.
    """
    summary = re.search(r"^SUMMARY: \w+: ([\w-]+)", report, re.MULTILINE)
    asserted = re.search(r"GGML_ASSERT\(.*\) failed", report)
    kind = asserted[0] if asserted else summary[1] if summary else "an unknown end"
    places = []
    for function, file, line in FRAME.findall(report):
        in_tree = re.search(r"/llama\.cpp-[^/]+/(.+)", file)
        if in_tree and not function.startswith(ENDERS) and TARGET not in file:
            places.append((f"{function.split('(')[0]} ({in_tree[1]}:{line})", "tmac" in in_tree[1]))
    if not places:
        return "a function without a name", kind, True
    return places[0][0], kind, any(is_ours for _, is_ours in places)
