"""Runs the kernels in a process of their own: for another CPU under an emulator, or compiled with sanitizers.

Comes in: the name of a target. Goes out: `Worker`, which has the interface of `native.Library`. Each call is split over
the target's threads. They prepare equal parts of the activations, wait for each other, then compute equal parts of the
tiles. When a sanitizer finds something, the process ends and WorkerError is raised.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ...common import process
from ...common.compilers import find_c_compiler
from ...common.cpu import machine
from ...common.format import TILE_ROWS
from ...common.platforms import ARM64
from .. import generate, native
from ..activations import INPUT_DTYPES, Activations
from ..compile import build_file
from ..errors import KernelError
from ..forms import TABLE_BLOCK
from .protocol import (
    ERROR_BYTES,
    HEAD,
    NAME_BYTES,
    PART,
    ROW,
    RUN,
    SELECTION,
    SIZE,
    Message,
    header,
    operation,
    text_of,
)

C_FILES = ("worker.c", "attention.c", "delta_net.c", "rotation.c", "worker.h")
WARNINGS = ("-Wall", "-Wextra", "-Wmissing-prototypes", "-Werror")
# -O0 compiles many times faster and optimizes no memory access away. The last -O counts.
SANITIZED = ("-O0", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
ADDRESS = (*SANITIZED, "-fsanitize=address,undefined")
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:color=never",  # the leak check needs ptrace, and kernels allocate nothing
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
# qemu-user frees no thread completely: after 10,000 requests it would hold gigabytes. So the process is replaced.
REQUESTS_OF_A_PROCESS = 1000
NOTHING = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Target:
    """How a worker is compiled and run, and how many threads share its work. No `compiler`: this machine's own."""

    name: str
    architecture: str
    flags: tuple[str, ...]
    compiler: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()
    threads: int = 1

    def find_compiler(self) -> list[str]:
        return list(self.compiler) or find_c_compiler()

    def obstacle(self) -> str:
        """Why this machine cannot compile or run for the target; empty if it can."""
        for program in (*self.compiler[:1], *self.runner[:1]):
            if not shutil.which(program):
                return f"{program} is not installed; {ARM64.hint}"
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder) / "nothing.c", str(Path(folder) / "nothing")
            source.write_text("int main(void) { return 0; }\n")
            for command in (
                [*self.find_compiler(), *self.flags, *self.link_flags, str(source), "-o", program],
                [*self.runner, program],
            ):
                done = process.capture(command, env=OPTIONS)
                if done.returncode:
                    said = done.stderr.decode("utf-8", "replace").strip()[-500:]
                    return f"an empty program fails: {' '.join(command)}: {said}"
        return ""

    def build(self) -> Path:
        """The worker program, compiled unless the cache has it. Raises KernelError."""
        own = {name: Path(__file__).with_name(name).read_text(encoding="utf-8") for name in C_FILES}
        sources = generate.sources(self.architecture) | {
            name: (text, ()) for name, text in (own | {"protocol.h": header()}).items()
        }
        return build_file("worker", self.find_compiler(), sources, (*WARNINGS, *self.flags), self.link_flags)


def _arm64(name: str, flags: tuple[str, ...], static: bool) -> Target:
    if machine() == "arm64":
        return Target(name, "arm64", flags, threads=2)
    # For a dynamically linked program qemu looks for loader and libraries below -L.
    runner = (ARM64.emulator,) if static else (ARM64.emulator, "-L", str(ARM64.root))
    compiler = (f"{ARM64.prefix}-gcc",)
    return Target(name, ARM64.machine, flags, compiler, ("-static",) if static else (), runner, threads=2)


TARGETS = {
    target.name: target
    for target in (
        _arm64("arm64", (), static=True),
        _arm64("arm64-asan", ADDRESS, static=False),
        Target("asan", machine(), ADDRESS, threads=2),
        Target("tsan", machine(), (*SANITIZED, "-fsanitize=thread"), threads=4),
    )
}


class WorkerError(KernelError):
    """The worker ended instead of answering; the message holds its stderr."""


class Worker(native.Library):
    """The kernels of a target. If the process has died, the next call starts a new one."""

    def __init__(self, target: Target):
        self.target, self.path, self.architecture = target, target.build(), target.architecture
        self.process: subprocess.Popen[bytes] | None = None
        self.requests = 0
        self.rows = self.list_rows("list", ROW)

    def close(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def cpu_features(self) -> int:
        return self.features

    def ask_dispatcher(
        self, type_id: int, precision: int, tokens: int, features: int, forced: bytes, least_tokens: bytes
    ) -> tuple[str, str]:
        request = SELECTION.pack(type_id, precision, features, len(forced), tokens, len(least_tokens), 0)
        return self.ask_choice("select", request + forced + least_tokens)

    def prepare_blocks(self, row, x: np.ndarray, scale: float, blocks: tuple[int, int], into: Activations) -> None:
        parts = [(*part, 0, 0) for part in self.split(blocks) if part[0] < part[1]] or [(*blocks, 0, 0)]
        self.run(row, parts, (0, x.size), [into], x=[x], scale=scale)

    def multiply(
        self,
        row,
        packed: np.ndarray,
        shape: tuple[int, int],
        x: Sequence[Activations],
        tiles: tuple[int, int],
        into: np.ndarray,
    ) -> None:
        parts = [(0, 0, *part) for part in self.split(tiles) if part[0] < part[1]] or [(0, 0, *tiles)]
        self.run(row, parts, shape, x, packed=packed, y=into)

    def product(self, name: str, packed: np.ndarray, rows: int, cols: int, x: np.ndarray) -> np.ndarray:
        """y float32 [tokens, rows] = W x for x [tokens, cols]. The threads share the blocks of x, then the tiles."""
        row, y = self.row(name), np.zeros((len(x), rows), np.float32)
        blocks, tiles = self.split((0, -(-cols // TABLE_BLOCK))), self.split((0, rows // TILE_ROWS))
        parts = [(*block, *tile) for block, tile in zip(blocks, tiles)]
        prepared = [Activations.empty(native.PREPARED_NAMES[row.form], cols) for _ in x]
        self.run(row, parts, (rows, cols), prepared, x=x, packed=packed, y=y)
        return y

    def split(self, span: tuple[int, int]) -> list[tuple[int, int]]:
        """Contiguous shares of [first, last), one per thread."""
        (first, last), n = span, self.target.threads
        edges = [first + (last - first) * i // n for i in range(n + 1)]
        return list(pairwise(edges))

    def run(
        self,
        row,
        parts: Sequence[tuple[int, int, int, int]],
        shape: tuple[int, int],
        activations: Sequence[Activations],
        x: Sequence[np.ndarray] = (),
        scale: float = 1,
        packed: np.ndarray = NOTHING,
        y: Sequence[np.ndarray] = (),
    ) -> None:
        """Runs one thread per part (first block, last block, first tile, last tile). Writes `activations` and `y`.

        Checks nothing.
        """
        tokens = len(activations)
        inputs, outputs = list(x) or [NOTHING] * tokens, list(y) if len(y) else [NOTHING] * tokens
        arrays = [[inputs[t], *activations[t].arrays(), outputs[t]] for t in range(tokens)]
        results = [array for of_token in arrays for array in of_token[1:]]
        sent = [packed, *(array for of_token in arrays for array in of_token)]
        kind = INPUT_DTYPES.index(inputs[0].dtype) if len(x) else 0
        request = [operation("run"), RUN.pack(row.index, kind, len(parts), tokens, scale, 0, *shape)]
        request += [PART.pack(*part) for part in parts]
        answer, at = self.ask(b"".join(request) + packed_arrays(sent), sum(array.nbytes for array in results)), 0
        for array in results:
            array[...] = np.frombuffer(answer, array.dtype, array.size, at).reshape(array.shape)
            at += array.nbytes

    def list_rows(self, asked: str, message: Message) -> list[SimpleNamespace]:
        """The rows of a catalog, by the name of the operation. Also learns what the CPU has."""
        head = HEAD.unpack(self.ask(operation(asked), HEAD.size))
        self.features = head.cpu_features
        rows = [message.unpack(self.read(message.size)) for _ in range(head.rows)]
        for index, row in enumerate(rows):
            row.index, row.name = index, text_of(row.name).encode()
        return rows

    def ask_choice(self, asked: str, request: bytes) -> tuple[str, str]:
        """A kernel's name, empty if there is none, and the dispatcher's message, by the name of the operation."""
        answer = self.ask(operation(asked) + request, NAME_BYTES + ERROR_BYTES)
        return text_of(answer[:NAME_BYTES]), text_of(answer[NAME_BYTES:])

    def ask(self, request: bytes, answer_bytes: int) -> bytes:
        """The first bytes of the answer to a request."""
        if self.requests == REQUESTS_OF_A_PROCESS:
            self.close()
        if not self.process:
            self.requests = 0
            self.log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
            # Not common/process.py, which waits for a child's end: this child answers requests until the tests end.
            self.process = subprocess.Popen(
                [*self.target.runner, str(self.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                env=os.environ | OPTIONS,
            )
        self.requests += 1
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            self._died()
        return self.read(answer_bytes)

    def read(self, size: int) -> bytes:
        """The next bytes of the answer."""
        answer = self.process.stdout.read(size)
        if len(answer) < size:
            self._died()
        return answer

    def _died(self) -> None:
        code = self.process.wait()
        self.process.stdout.close()
        self.process = None
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip()
        command = " ".join([*self.target.runner, str(self.path)])
        raise WorkerError(
            f"the {self.target.name} worker ended with code {code}: {command}\n{said}",
            "its report above names the place in the generated C",
        )


def packed_arrays(arrays: Sequence[np.ndarray]) -> bytes:
    """The end of a request. In the worker every array begins at the same offset in a 64-byte line as here."""
    sizes = [SIZE.pack(array.nbytes, array.ctypes.data % 64) for array in arrays]
    return b"".join(sizes + [array.tobytes() for array in arrays])


def memory_of(array: np.ndarray) -> np.ndarray:
    """uint8: all bytes from an array's first to its last, also those between rows that its strides leave out."""
    size = array.itemsize + sum((length - 1) * stride for length, stride in zip(array.shape, array.strides))
    return np.frombuffer((ctypes.c_uint8 * size).from_address(array.ctypes.data), np.uint8)
