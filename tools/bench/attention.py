"""Which attention is the fastest for each cache, context and number of queries: T-MAC's kernels or llama.cpp's own.

Comes in: operations. Goes out: an `AttentionTiming` for each. c/attention.cpp, linked with the libraries of a build,
computes each one as llama.cpp's graphs do. A process computes all operations by one attention, and a round has one
process for each attention. Ratios are taken within a round.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tmac.common import process
from tmac.common.compilers import find_cxx_compiler
from tmac.common.paths import work_folder
from tmac.convert.sources.ggml_types import GgmlType
from tmac.kernels import attention as kernels

from ..errors import ToolError
from ..llama.build import Build
from .context import ATTENTIONS, Attention

PROGRAM = Path(__file__).parent / "c" / "attention.cpp"
# In the order in which a linker needs them; ggml and ggml-cpu call each other.
LIBRARIES = ("ggml", "ggml-cpu", "ggml-base", "ggml", "ggml-cpu")
OPENMP = "GGML_OPENMP:BOOL=ON"


@dataclass(frozen=True)
class Heads:
    """Query heads, the KV heads that they share, and the width of all."""

    query: int
    kv: int
    width: int

    def __str__(self) -> str:
        return f"{self.query}x{self.kv}x{self.width}"


@dataclass(frozen=True)
class Operation:
    """The attention of one layer: `queries` tokens, the last of which sees `positions`."""

    heads: Heads
    cache: GgmlType
    positions: int
    queries: int

    def line(self, attention: Attention) -> str:
        """As c/attention.cpp reads it."""
        kind = "flash" if attention.is_flash else "products"
        heads = self.heads
        sizes = (heads.width, heads.query, heads.kv, self.positions, self.queries)
        return f"{kind} {self.cache.name} {' '.join(map(str, sizes))}\n"


@dataclass(frozen=True)
class AttentionTiming:
    """microseconds: of T-MAC's attention, the median; cache_bytes: K and V, which it reads at least once; ratios: how
    many times as fast it is as each attention of llama.cpp's that serves this cache, the median of the rounds.
    """

    operation: Operation
    microseconds: float
    cache_bytes: int
    ratios: dict[str, float]

    @property
    def gigabytes_per_s(self) -> float:
        return self.cache_bytes / self.microseconds / 1000

    def as_dict(self) -> dict:
        numbers = asdict(self.operation) | {"cache": self.operation.cache.name}
        return numbers | {"microseconds": self.microseconds, "cache_bytes": self.cache_bytes, "ratios": self.ratios}


@dataclass(frozen=True)
class AttentionBenchmark:
    """kernel: an instruction set or kernel of T-MAC's attention; None: the fastest that the CPU runs."""

    operations: tuple[Operation, ...]
    threads: int
    megabytes: int
    seconds: float
    rounds: int
    kernel: str | None = None

    def timed(self, attention: Attention) -> list[Operation]:
        return [operation for operation in self.operations if attention.serves(operation.cache)]


def measure(
    build: Build, source: Path, benchmark: AttentionBenchmark, say: Callable[[str], None]
) -> list[AttentionTiming]:
    """Compiles the program and runs it for every attention in every round. Raises TmacError."""
    samples: list[dict[tuple[Operation, str], tuple[float, int]]] = []
    with tempfile.TemporaryDirectory(dir=work_folder()) as folder:
        program = Path(folder) / "attention"
        _compile(build, source, program)
        for number in range(benchmark.rounds):
            of_round = {}
            for attention in ATTENTIONS:
                say(f"round {number + 1} of {benchmark.rounds}: {attention.name}")
                of_round |= _run(program, benchmark, attention)
            samples.append(of_round)
    return [_timing(operation, samples) for operation in benchmark.operations]


def _compile(build: Build, source: Path, program: Path) -> None:
    folder = build.folder / "bin"
    libraries = [folder / f"lib{name}.so" for name in LIBRARIES]
    if sys.platform != "linux" or not all(library.is_file() for library in libraries):
        raise ToolError(
            f"{build.folder}: attentions are timed with the libraries of a native build on Linux", "tmac build"
        )
    command = [*find_cxx_compiler(), "-O2", "-std=c++17", f"-I{source / 'ggml' / 'include'}", PROGRAM, *libraries]
    done = process.capture([*command, f"-Wl,-rpath,{folder}", "-lpthread", "-ldl", "-o", program])
    if done.returncode:
        raise ToolError(f"{PROGRAM}: cannot be compiled\n{done.stderr.decode('utf-8', 'replace').strip()[-2000:]}")


def _run(
    program: Path, benchmark: AttentionBenchmark, attention: Attention
) -> dict[tuple[Operation, str], tuple[float, int]]:
    """Microseconds and bytes of each operation that this attention serves."""
    operations = benchmark.timed(attention)
    command = [program, *map(str, (benchmark.threads, benchmark.megabytes, benchmark.seconds))]
    chosen = benchmark.kernel if attention.is_tmac else kernels.STOCK
    lines = "".join(operation.line(attention) for operation in operations)
    done = process.capture(command, env={kernels.VARIABLE: chosen}, stdin=lines.encode())
    measured = [line.split() for line in done.stdout.decode().splitlines()]
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode or len(measured) != len(operations):
        raise ToolError(f"timing {attention.name} ended with exit code {done.returncode}\n{said.strip()[-2000:]}")
    if attention.is_tmac and kernels.LINE_OF_STOCK in said:
        left = next(line for line in said.splitlines() if kernels.LINE_OF_STOCK in line)
        raise ToolError(f"not all operations are T-MAC's: {left}")
    return {
        (operation, attention.name): (float(microseconds), int(size))
        for operation, (microseconds, size) in zip(operations, measured, strict=True)
    }


def _timing(operation: Operation, samples: Sequence[dict[tuple[Operation, str], tuple[float, int]]]) -> AttentionTiming:
    ours, *others = (attention.name for attention in ATTENTIONS if attention.serves(operation.cache))
    return AttentionTiming(
        operation,
        statistics.median(of[operation, ours][0] for of in samples),
        samples[0][operation, ours][1],
        {
            other: statistics.median(of[operation, other][0] / of[operation, ours][0] for of in samples)
            for other in others
        },
    )
