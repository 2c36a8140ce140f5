"""The compiled kernels from Python: numpy arrays in and out, by ctypes.

Comes in: the generated sources, compiled once into a shared library under a cache folder whose key is the sources, the
flags and the compiler. Goes out: `Library`. Python never computes what a kernel computes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..common import files, lock, process
from ..common.compilers import find_c_compiler
from ..common.cpu import machine
from ..common.format import GROUPS, TYPES, TmacType
from ..common.paths import work_folder
from . import generate, tuning_file
from .catalog import TABLE_BLOCK, TABLE_GROUP, find
from .crossings import MOST_TOKENS_TO_CROSS
from .errors import KernelError
from .isa import FORMS, PRECISIONS
from .spec import KernelSpec
from .tuning import Tuning

TILE_ROWS = 32


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("planes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
    ]


# Of `struct tmac_activations`, in its order.
ARRAYS = ("entries", "steps", "scale", "sum", "output_scale")


class _Activations(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ARRAYS]


class _Vector(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("input", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("cols", ctypes.c_int64),
    ]


class _Kernel(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("isa", ctypes.c_char_p),
        ("type_name", ctypes.c_char_p),
        ("type_id", ctypes.c_uint32),
        ("cpu_features", ctypes.c_uint32),
        ("usual_features", ctypes.c_uint32),
        ("bits", ctypes.c_int),
        ("group", ctypes.c_int),
        ("has_zeros", ctypes.c_int),
        ("precision", ctypes.c_int),
        ("form", ctypes.c_int),
        ("least_tokens", ctypes.c_int),
        ("prepare", ctypes.c_void_p),
        ("gemv", ctypes.c_void_p),
        ("gemm", ctypes.c_void_p),
    ]


# In the order of `enum tmac_input` (runtime/tmac.h).
INPUTS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int8))


@dataclass(frozen=True)
class Activations:
    """x[K] as kernels of a form want it (see runtime/tmac.h).

    entries uint8: tables [K/4, 16], exact tables [K/16, 2, 4, 16] (chunk, byte, quad, entry), int8 [K], bf16 [K, 2];
    steps uint8 [K/32, 4, 4] (plane, copy) of tables, else empty; scale float32, tables [ceil(K/128)], int8 [K/32], bf16
    empty; sum float32 [K/32], bf16 empty; output_scale float32 [1], which only exact kernels read.
    """

    entries: np.ndarray
    steps: np.ndarray
    scale: np.ndarray
    sum: np.ndarray
    output_scale: np.ndarray = field(default_factory=lambda: np.ones(1, np.float32))

    @classmethod
    def empty(cls, form: str, cols: int) -> Activations:
        groups, blocks = cols // TABLE_GROUP, -(-cols // TABLE_BLOCK)
        shape = {"tables": (cols // 4, 16), "exact_tables": (cols // 16, 2, 4, 16), "bf16": (cols, 2)}.get(
            form, (cols,)
        )
        scales = {"tables": blocks, "exact_tables": blocks, "bf16": 0}.get(form, groups)
        steps = np.zeros((groups if form == "tables" else 0, 4, 4), np.uint8)
        sums = 0 if form == "bf16" else groups
        return cls(np.zeros(shape, np.uint8), steps, np.zeros(scales, np.float32), np.zeros(sums, np.float32))

    def arrays(self) -> list[np.ndarray]:
        return [getattr(self, name) for name in ARRAYS]

    def as_c(self) -> _Activations:
        return _Activations(*(array.ctypes.data for array in self.arrays()))


def zeros_in_lines(rows: int, cols: int) -> np.ndarray:
    """float32 zeros [rows, cols] from a multiple of 64 bytes on, as llama.cpp's memory mostly begins."""
    memory = np.zeros(rows * cols + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + rows * cols].reshape(rows, cols)


def c_activations(several: Sequence[Activations]) -> ctypes.Array:
    """A C array of their structures; the numpy arrays must outlive it."""
    return (_Activations * len(several))(*(each.as_c() for each in several))


def _run(command: list[str]) -> None:
    done = process.capture(command)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise KernelError(
            f"compiling the kernels failed: {' '.join(command)}\n{said}",
            "a newer gcc (11+) or clang (12+) may know the flags",
        )


def compile_into(
    cc: list[str], extra_flags: tuple[str, ...], link_flags: tuple[str, ...], sources: generate.Sources, output: Path
) -> None:
    """Compiles C files into `output`, which is there when it is complete.

    They may include the kernels' headers and those of `sources` whose names do not end in .c.
    """
    with files.folder_beside(output) as folder:
        for name, text in (generate.headers() | {name: text for name, (text, _) in sources.items()}).items():
            (folder / name).write_text(text, encoding="utf-8")
        base = [*cc, *generate.COMMON_FLAGS, *extra_flags, "-fPIC", f"-I{folder}", "-c"]
        commands = [
            [*base, *own, str(folder / name), "-o", str(folder / f"{name}.o")]
            for name, (_, own) in sources.items()
            if name.endswith(".c")
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        objects = [command[-1] for command in commands]
        _run([*cc, *extra_flags, *link_flags, *objects, "-lm", "-pthread", "-o", str(folder / output.name)])
        files.publish([folder / output.name], output.parent)


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return work_folder() / "native"


def build(extra_flags: tuple[str, ...] = (), tuning: Tuning | None = None) -> Path:
    """Compiles the catalog for this machine unless the cache has it.

    `tuning`: by default what `tmac kernels tune` found here. Returns the shared library. Raises KernelError.
    """
    tuning = tuning_file.for_this_machine() if tuning is None else tuning
    return build_library(generate.sources(machine(), tuning), extra_flags)


def build_library(sources: generate.Sources, extra_flags: tuple[str, ...] = ()) -> Path:
    """Compiles C files, which may include the kernels' headers, into a shared library unless the cache has it.

    Returns the library. Raises KernelError.
    """
    return build_file("libtmac.so", find_c_compiler(), sources, extra_flags, ("-shared",))


def build_file(
    name: str, cc: list[str], sources: generate.Sources, extra_flags: tuple[str, ...], link_flags: tuple[str, ...]
) -> Path:
    """Compiles C files, which may include the kernels' headers, into a library or program unless the cache has it."""
    identity = process.output([*cc, "--version"])
    inputs = (cc, identity, generate.COMMON_FLAGS, extra_flags, link_flags, sources, generate.headers())
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:24]
    output = cache_folder() / key / name
    if not output.exists():
        with lock.held(f"native-{key}", "compiling kernels"):
            if not output.exists():
                compile_into(cc, extra_flags, link_flags, sources, output)
    return output


class Library:
    """The kernels of one compiled library. All arrays are C-contiguous; shapes are checked, values are not."""

    architecture = machine()

    def __init__(self, path: Path):
        self.c = ctypes.CDLL(str(path))
        self.c.tmac_select.restype = ctypes.POINTER(_Kernel)
        self.c.tmac_select.argtypes = [
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_uint32,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
        ]
        self.c.tmac_cpu_features.restype = ctypes.c_uint32
        self.c.tmac_activations_size.restype = ctypes.c_size_t
        self.c.tmac_activations_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self.c.tmac_activations_at.restype = _Activations
        self.c.tmac_activations_at.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
        self.c.tmac_matrix_at.restype = _Matrix
        self.c.tmac_matrix_at.argtypes = [ctypes.POINTER(_Kernel), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        count = ctypes.c_size_t.in_dll(self.c, "tmac_kernel_count").value
        self.rows = (_Kernel * count).in_dll(self.c, "tmac_kernels")
        self.cpu_features()

    def select(
        self,
        weight_type: TmacType,
        forced: str = "",
        cpu_features: int | None = None,
        precision: str = "rounded",
        tokens: int = 1,
    ) -> str:
        """Name of the kernel that serves a type on a CPU (default: this one). Raises KernelError with the dispatcher's sentence."""
        features = self.cpu_features() if cpu_features is None else cpu_features
        asked = (weight_type.id, PRECISIONS.index(precision), tokens, features)
        found, error = self.ask_dispatcher(*asked, forced.encode())
        if not found:
            raise KernelError(error, "`tmac kernels list` shows all names")
        return found

    def ask_dispatcher(
        self, type_id: int, precision: int, tokens: int, features: int, forced: bytes
    ) -> tuple[str, str]:
        """Name of the kernel, empty where there is none, and the sentence that says why."""
        error = ctypes.create_string_buffer(200)
        found = self.c.tmac_select(type_id, precision, tokens, features, forced, error, len(error))
        return found.contents.name.decode() if found else "", error.value.decode()

    def cpu_features(self) -> int:
        return self.c.tmac_cpu_features()

    def runs_here(self, name: str) -> bool:
        """Whether this CPU has the instructions of a kernel."""
        return not self.row(name).cpu_features & ~self.cpu_features()

    def row(self, name: str) -> _Kernel:
        for row in self.rows:
            if row.name.decode() == name:
                return row
        raise KernelError(
            f"no kernel called {name!r} was compiled for {self.architecture}", "`tmac kernels list` shows all names"
        )

    def prepare(
        self,
        name: str,
        x: np.ndarray,
        first: int = 0,
        last: int | None = None,
        into: Activations | None = None,
        scale: float = 1,
    ) -> Activations:
        """x [K], float32, float16 or int8 (times `scale`), in the form that kernel `name` wants.

        Blocks [first, last) of 128 columns (default all).
        """
        x = np.ascontiguousarray(x if x.dtype in INPUTS else np.float32(x))
        if x.ndim != 1 or x.size % TABLE_GROUP:
            raise ValueError(f"x has shape {x.shape}; expected one dimension, a multiple of {TABLE_GROUP}")
        row = self.row(name)
        prepared = into or Activations.empty(FORMS[row.form], x.size)
        self.prepare_blocks(row, x, scale, (first, -(-x.size // TABLE_BLOCK) if last is None else last), prepared)
        return prepared

    def prepare_blocks(
        self, row: _Kernel, x: np.ndarray, scale: float, blocks: tuple[int, int], into: Activations
    ) -> None:
        """Blocks [first, last) of x for the kernel of a row, one of `rows`; checks nothing."""
        vector, c_activations = _Vector(x.ctypes.data, INPUTS.index(x.dtype), scale, x.size), into.as_c()
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(row.prepare)
        function(ctypes.addressof(vector), *blocks, ctypes.addressof(c_activations))

    def matrix_at(self, row: _Kernel, packed: np.ndarray, shape: tuple[int, int]) -> _Matrix:
        """The C structure of a matrix of a kernel's type at the beginning of `packed`, which must outlive it."""
        return self.c.tmac_matrix_at(ctypes.byref(row), packed.ctypes.data, *shape)

    def empty_batch(self, form: str, cols: int, tokens: int) -> list[Activations]:
        """Zeros for so many tokens in one buffer, at the distances that llama.cpp's plugin gives them."""
        number = FORMS.index(form)
        batch = []
        for memory in zeros_in_lines(tokens, self.c.tmac_activations_size(number, cols) // 4).view(np.uint8):
            there = self.c.tmac_activations_at(memory.ctypes.data, number, cols)
            arrays = [
                memory[(at := getattr(there, name) - memory.ctypes.data) : at + like.nbytes]
                .view(like.dtype)
                .reshape(like.shape)
                for name, like in zip(ARRAYS, Activations.empty(form, cols).arrays())
            ]
            batch.append(Activations(*arrays))
        return batch

    def gemv(
        self,
        name: str,
        packed: np.ndarray,
        rows: int,
        cols: int,
        x: Activations,
        first_tile: int = 0,
        last_tile: int | None = None,
        into: np.ndarray | None = None,
    ) -> np.ndarray:
        """y float32 [rows] = W x, for packed uint8 bytes of a rows x cols matrix of the kernel's type."""
        y = np.zeros((1, rows), np.float32) if into is None else into[None]
        self._checked_multiply(name, packed, rows, cols, [x], (first_tile, last_tile), y)
        return y[0]

    def gemm(
        self,
        name: str,
        packed: np.ndarray,
        rows: int,
        cols: int,
        x: Sequence[Activations],
        first_tile: int = 0,
        last_tile: int | None = None,
        into: np.ndarray | None = None,
    ) -> np.ndarray:
        """y float32 [tokens, rows], y[t] = W x[t], for packed uint8 bytes of a rows x cols matrix of the kernel's type."""
        y = zeros_in_lines(len(x), rows) if into is None else into
        self._checked_multiply(name, packed, rows, cols, x, (first_tile, last_tile), y)
        return y

    def _checked_multiply(
        self,
        name: str,
        packed: np.ndarray,
        rows: int,
        cols: int,
        x: Sequence[Activations],
        tiles: tuple[int, int | None],
        y: np.ndarray,
    ) -> None:
        row, weight_type = self.row(name), find(name).type
        expected = rows * cols // weight_type.block_weights * weight_type.block_bytes
        if rows % TILE_ROWS or cols % weight_type.block_weights or packed.dtype != np.uint8 or packed.size != expected:
            raise ValueError(
                f"{packed.size} bytes of {packed.dtype} for {rows} x {cols} {weight_type.name}; expected {expected} of uint8, "
                f"rows % {TILE_ROWS} == 0, columns % {weight_type.block_weights} == 0"
            )
        shape = Activations.empty(FORMS[row.form], cols).entries.shape
        if wrong := [each.entries.shape for each in x if each.entries.shape != shape]:
            raise ValueError(f"entries of shape {wrong[0]}; expected {shape}")
        last = rows // TILE_ROWS if tiles[1] is None else tiles[1]
        self.multiply(row, packed, (rows, cols), x, (tiles[0], last), y)

    def multiply(
        self,
        row: _Kernel,
        packed: np.ndarray,
        shape: tuple[int, int],
        x: Sequence[Activations],
        tiles: tuple[int, int],
        into: np.ndarray,
    ) -> None:
        """into [tokens, rows]: the rows of tiles [first, last) of W x by the kernel of a row, one of `rows`; checks nothing."""
        matrix = self.matrix_at(row, packed, shape)
        many = c_activations(x)
        pointers = (ctypes.c_void_p * len(x))(*(y.ctypes.data for y in into))
        if row.gemm:
            kinds, arguments, address = [ctypes.c_void_p, ctypes.c_int64], [pointers, len(x)], row.gemm
        else:
            kinds, arguments, address = [ctypes.c_void_p], [pointers[0]], row.gemv
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, *kinds, ctypes.c_int64, ctypes.c_int64)(
            address
        )
        function(ctypes.addressof(matrix), ctypes.addressof(many), *arguments, *tiles)


@functools.cache
def library() -> Library:
    """The library for this machine, compiled on first use (a minute or two)."""
    return Library(build())


def dispatch_table(precision: str) -> list[dict[str, str]]:
    """Which kernel serves each type on this CPU: dicts of type, kernel, isa. Raises KernelError."""
    chosen = [(t, library().select(t, precision=precision)) for t in TYPES]
    return [{"type": f"tmac_{t.name}", "kernel": name, "isa": KernelSpec.parse(name).isa.name} for t, name in chosen]


def prompt_table() -> dict[int, list[tuple[int, KernelSpec]]]:
    """Bits -> the kernels that serve 2 tokens and more on this CPU, each with its least number. Raises KernelError."""
    table = {}
    for weight_type in (t for t in TYPES if t.group == GROUPS[-1] and not t.asymmetric):
        steps: list[tuple[int, KernelSpec]] = []
        for tokens in range(2, MOST_TOKENS_TO_CROSS + 1):
            kernel = KernelSpec.parse(library().select(weight_type, tokens=tokens))
            if not steps or steps[-1][1] != kernel:
                steps.append((tokens, kernel))
        table[weight_type.bits] = steps
    return table
