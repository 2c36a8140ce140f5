"""The compiled kernels from Python: numpy arrays in and out, by ctypes.

Comes in: the generated sources, compiled once into a shared library under a cache folder whose key is the sources, the
flags and the compiler. Goes out: `Library`. Python never computes what a kernel computes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import generate, tuned
from .catalog import TABLE_GROUP, find
from .errors import KernelError
from .host import compiler, home_folder
from .isa import PRECISIONS, machine
from .spec import FORMAT_TYPES, KernelSpec, WeightType
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


class _Tables(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("entries", "half_scale", "sum", "output_scale")]


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
        ("bits", ctypes.c_int),
        ("group", ctypes.c_int),
        ("has_zeros", ctypes.c_int),
        ("precision", ctypes.c_int),
        ("build_tables", ctypes.c_void_p),
        ("gemv", ctypes.c_void_p),
    ]


# In the order of `enum tmac_input` (runtime/tmac.h).
INPUTS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int8))


@dataclass(frozen=True)
class Tables:
    """Look-up tables of x[K] (see runtime/tmac.h).

    entries uint8 [K/4, 16], exact: [K/16, 2, 4, 16] (chunk, byte, quad, entry); half_scale, sum float32 [K/32];
    output_scale float32 [1], which only exact kernels read.
    """

    entries: np.ndarray
    half_scale: np.ndarray
    sum: np.ndarray
    output_scale: np.ndarray = field(default_factory=lambda: np.ones(1, np.float32))

    @classmethod
    def empty(cls, precision: str, cols: int) -> Tables:
        shape = (cols // 16, 2, 4, 16) if precision == "exact" else (cols // 4, 16)
        floats = np.zeros(cols // TABLE_GROUP, np.float32)
        return cls(np.zeros(shape, np.uint8), floats, floats.copy())

    def as_c(self) -> _Tables:
        return _Tables(*(array.ctypes.data for array in (self.entries, self.half_scale, self.sum, self.output_scale)))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(
            f"compiling the kernels failed: {' '.join(command)}\n{done.stderr.strip()[-2000:]}",
            "a newer gcc (10+) or clang (12+) may know the flags",
        )


def compile_into(
    cc: list[str], extra_flags: tuple[str, ...], link_flags: tuple[str, ...], sources: generate.Sources, output: Path
) -> None:
    """Compiles C files, which may include the kernels' headers, into `output`, which is there when it is complete."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        folder = Path(temporary)
        for name, text in (generate.headers() | {name: text for name, (text, _) in sources.items()}).items():
            (folder / name).write_text(text, encoding="utf-8")
        base = [*cc, *generate.COMMON_FLAGS, *extra_flags, "-fPIC", f"-I{folder}", "-c"]
        commands = [
            [*base, *own, str(folder / name), "-o", str(folder / f"{name}.o")] for name, (_, own) in sources.items()
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        objects = [command[-1] for command in commands]
        _run([*cc, *extra_flags, *link_flags, *objects, "-lm", "-pthread", "-o", str(folder / output.name)])
        os.replace(folder / output.name, output)


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return home_folder() / "native"


def build(
    extra_flags: tuple[str, ...] = (), extra_sources: dict[str, str] | None = None, tuning: Tuning | None = None
) -> Path:
    """Compiles the catalog (and `extra_sources`: file name -> C text) for this machine unless the cache has it.

    `tuning`: by default what `tmac kernels tune` found here. Returns the shared library. Raises KernelError.
    """
    tuning = tuned.for_this_machine() if tuning is None else tuning
    extra = {name: (text, ()) for name, text in (extra_sources or {}).items()}
    return build_library(generate.sources(machine(), tuning) | extra, extra_flags)


def build_library(sources: generate.Sources, extra_flags: tuple[str, ...] = ()) -> Path:
    """Compiles C files, which may include the kernels' headers, into a shared library unless the cache has it.

    Returns the library. Raises KernelError.
    """
    return build_file("libtmac.so", compiler(), sources, extra_flags, ("-shared",))


def build_file(
    name: str, cc: list[str], sources: generate.Sources, extra_flags: tuple[str, ...], link_flags: tuple[str, ...]
) -> Path:
    """Compiles C files, which may include the kernels' headers, into a library or program unless the cache has it."""
    identity = subprocess.run([*cc, "--version"], capture_output=True, text=True).stdout
    inputs = (cc, identity, generate.COMMON_FLAGS, extra_flags, link_flags, sources, generate.headers())
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:24]
    output = cache_folder() / key / name
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
            ctypes.c_uint32,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
        ]
        self.c.tmac_cpu_features.restype = ctypes.c_uint32
        self.c.tmac_matrix_at.restype = _Matrix
        self.c.tmac_matrix_at.argtypes = [ctypes.POINTER(_Kernel), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        count = ctypes.c_size_t.in_dll(self.c, "tmac_kernel_count").value
        self.rows = (_Kernel * count).in_dll(self.c, "tmac_kernels")

    def select(
        self, weight_type: WeightType, forced: str = "", cpu_features: int | None = None, precision: str = "rounded"
    ) -> str:
        """Name of the kernel that serves a type on a CPU (default: this one). Raises KernelError with the dispatcher's sentence."""
        features = self.cpu_features() if cpu_features is None else cpu_features
        found, error = self.ask_dispatcher(weight_type.ggml_id, PRECISIONS.index(precision), features, forced.encode())
        if not found:
            raise KernelError(error, "`tmac kernels list` shows all names")
        return found

    def ask_dispatcher(self, type_id: int, precision: int, features: int, forced: bytes) -> tuple[str, str]:
        """Name of the kernel, empty where there is none, and the sentence that says why."""
        error = ctypes.create_string_buffer(200)
        found = self.c.tmac_select(type_id, precision, features, forced, error, len(error))
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

    def build_tables(
        self,
        name: str,
        x: np.ndarray,
        first: int = 0,
        last: int | None = None,
        into: Tables | None = None,
        scale: float = 1,
    ) -> Tables:
        """Tables of x [K], float32, float16 or int8 (times `scale`), by the builder of kernel `name`.

        Groups [first, last) of 32 columns (default all).
        """
        x = np.ascontiguousarray(x if x.dtype in INPUTS else np.float32(x))
        if x.ndim != 1 or x.size % TABLE_GROUP:
            raise ValueError(f"x has shape {x.shape}; expected one dimension, a multiple of {TABLE_GROUP}")
        row = self.row(name)
        tables = into or Tables.empty(PRECISIONS[row.precision], x.size)
        self.tabulate(row, x, scale, (first, x.size // TABLE_GROUP if last is None else last), tables)
        return tables

    def tabulate(self, row: _Kernel, x: np.ndarray, scale: float, groups: tuple[int, int], into: Tables) -> None:
        """Table groups [first, last) of x by the builder of a row, one of `rows`; checks nothing."""
        vector, c_tables = _Vector(x.ctypes.data, INPUTS.index(x.dtype), scale, x.size), into.as_c()
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(
            row.build_tables
        )
        function(ctypes.addressof(vector), *groups, ctypes.addressof(c_tables))

    def gemv(
        self,
        name: str,
        packed: np.ndarray,
        rows: int,
        cols: int,
        tables: Tables,
        first_tile: int = 0,
        last_tile: int | None = None,
        into: np.ndarray | None = None,
    ) -> np.ndarray:
        """y float32 [rows] = W x, for packed uint8 bytes of a rows x cols matrix of the kernel's type."""
        row, weight_type = self.row(name), find(name).type
        expected = rows * cols // weight_type.block_weights * weight_type.block_bytes
        if rows % TILE_ROWS or cols % weight_type.block_weights or packed.dtype != np.uint8 or packed.size != expected:
            raise ValueError(
                f"{packed.size} bytes of {packed.dtype} for {rows} x {cols} {weight_type.name}; expected {expected} of uint8, "
                f"rows % {TILE_ROWS} == 0, columns % {weight_type.block_weights} == 0"
            )
        expected_tables = Tables.empty(PRECISIONS[row.precision], cols).entries.shape
        if tables.entries.shape != expected_tables:
            raise ValueError(f"tables of shape {tables.entries.shape}; expected {expected_tables}")
        y = np.zeros(rows, np.float32) if into is None else into
        last = rows // TILE_ROWS if last_tile is None else last_tile
        self.multiply(row, packed, (rows, cols), tables, (first_tile, last), y)
        return y

    def multiply(
        self,
        row: _Kernel,
        packed: np.ndarray,
        shape: tuple[int, int],
        tables: Tables,
        tiles: tuple[int, int],
        into: np.ndarray,
    ) -> None:
        """The rows of tiles [first, last) of W x by the kernel of a row, one of `rows` or made like them; checks nothing."""
        matrix = self.c.tmac_matrix_at(ctypes.byref(row), packed.ctypes.data, *shape)
        function = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )(row.gemv)
        function(ctypes.addressof(matrix), ctypes.addressof(c_tables := tables.as_c()), into.ctypes.data, *tiles)


@functools.cache
def library() -> Library:
    """The library for this machine, compiled on first use (some seconds)."""
    return Library(build())


def dispatch_table(precision: str) -> list[dict[str, str]]:
    """Which kernel serves each type on this CPU: dicts of type, kernel, isa. Raises KernelError."""
    chosen = [(t, library().select(t, precision=precision)) for t in FORMAT_TYPES]
    return [{"type": f"tmac_{t.name}", "kernel": name, "isa": KernelSpec.parse(name).isa.name} for t, name in chosen]
