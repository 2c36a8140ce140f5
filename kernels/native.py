"""Calls the compiled kernels from Python through ctypes, with numpy arrays in and out.

All arithmetic is the kernels' own; nothing is computed again in Python.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..common.cpu import machine
from ..common.format import GROUPS, SYMMETRIC, TILE_ROWS, TYPES, TmacType
from .activations import ARRAYS, INPUT_DTYPES, Activations, CActivations, c_activations, zeros_in_lines
from .catalog import KERNELS, find, isas_for
from .compile import build
from .crossings import DEFAULT, MOST_TOKENS_TO_CROSS, Crossings, applied
from .errors import KernelError
from .forms import EXACT, PRECISIONS, PREPARED, ROUNDED, TABLE_BLOCK, TABLE_GROUP
from .interface import CROSSINGS, KERNEL, MATRIX, VECTOR
from .isa import Isa
from .spec import KernelSpec

CMatrix, CVector, CKernel, CCrossings = (struct.as_ctypes() for struct in (MATRIX, VECTOR, KERNEL, CROSSINGS))
# Indexed by `enum tmac_form`.
PREPARED_NAMES = tuple(PREPARED)


class Library:
    """The kernels of one compiled library. Arrays must be C-contiguous. Shapes are checked, values are not."""

    architecture = machine()

    def __init__(self, path: Path):
        self.c = ctypes.CDLL(str(path))
        self.c.tmac_select.restype = ctypes.POINTER(CKernel)
        self.c.tmac_select.argtypes = [
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_uint32,
            ctypes.POINTER(CCrossings),
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
        ]
        self.c.tmac_cpu_features.restype = ctypes.c_uint32
        self.c.tmac_activations_size.restype = ctypes.c_size_t
        self.c.tmac_activations_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        self.c.tmac_activations_at.restype = CActivations
        self.c.tmac_activations_at.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
        self.c.tmac_matrix_at.restype = CMatrix
        self.c.tmac_matrix_at.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        count = ctypes.c_size_t.in_dll(self.c, "tmac_kernel_count").value
        self.rows = (CKernel * count).in_dll(self.c, "tmac_kernels")
        self.cpu_features()

    def select(
        self,
        weight_type: TmacType,
        forced: str = "",
        cpu_features: int | None = None,
        precision: str = ROUNDED,
        tokens: int = 1,
        crossings: Crossings = DEFAULT,
    ) -> str:
        """The name of the kernel that dispatch chooses for a type on a CPU (default: this one) by a table of crossings.

        Raises KernelError with the dispatcher's message.
        """
        features = self.cpu_features() if cpu_features is None else cpu_features
        asked = (weight_type.id, PRECISIONS.index(precision), tokens, features)
        found, error = self.ask_dispatcher(*asked, forced.encode(), bytes(crossings.in_order()))
        if not found:
            raise KernelError(error, "`tmac kernels list` shows all names")
        return found

    def ask_dispatcher(
        self, type_id: int, precision: int, tokens: int, features: int, forced: bytes, least_tokens: bytes
    ) -> tuple[str, str]:
        """The kernel's name, empty if there is none, and the message that says why."""
        error = ctypes.create_string_buffer(200)
        numbers = ctypes.create_string_buffer(least_tokens, len(least_tokens))
        table = CCrossings(least_tokens=ctypes.addressof(numbers))
        found = self.c.tmac_select(type_id, precision, tokens, features, table, forced, error, len(error))
        return found.contents.name.decode() if found else "", error.value.decode()

    def cpu_features(self) -> int:
        return self.c.tmac_cpu_features()

    def cpu_name(self) -> str:
        """The CPU as tables of crossings name it; empty where nothing is known of it."""
        name = ctypes.create_string_buffer(64)
        self.c.tmac_cpu_name(name, ctypes.c_size_t(len(name)))
        return name.value.decode()

    def crossings(self, measured: Crossings | None = None) -> Crossings:
        """The table that counts on this CPU: what was measured on it, if that is given, else what is known of it."""
        return applied(self.cpu_name(), [isa.name for isa in isas_for(machine()) if self.runs_isa(isa)], measured)

    def runs_here(self, name: str) -> bool:
        """Whether this CPU has the features that a kernel needs."""
        return self._runs(self.row(name))

    def runs_isa(self, isa: Isa) -> bool:
        """Whether this CPU has all features of an instruction set with kernels."""
        return any(KernelSpec.parse(row.name.decode()).isa == isa and self._runs(row) for row in self.rows)

    def _runs(self, row: CKernel) -> bool:
        return not row.cpu_features & ~self.cpu_features()

    def row(self, name: str) -> CKernel:
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
        """Prepares x [K], float32, float16 or int8 (times `scale`), in the form that kernel `name` reads.

        Prepares blocks [first, last) of 128 columns, by default all.
        """
        x = np.ascontiguousarray(x if x.dtype in INPUT_DTYPES else np.float32(x))
        if x.ndim != 1 or x.size % TABLE_GROUP:
            raise ValueError(f"x has shape {x.shape}; expected one dimension, a multiple of {TABLE_GROUP}")
        row = self.row(name)
        prepared = into or Activations.empty(PREPARED_NAMES[row.form], x.size)
        self.prepare_blocks(row, x, scale, (first, -(-x.size // TABLE_BLOCK) if last is None else last), prepared)
        return prepared

    def prepare_blocks(
        self, row: CKernel, x: np.ndarray, scale: float, blocks: tuple[int, int], into: Activations
    ) -> None:
        """Prepares blocks [first, last) of x for the kernel `row` of `rows`; checks nothing."""
        vector, c_activations = CVector(x.ctypes.data, INPUT_DTYPES.index(x.dtype), scale, x.size), into.as_c()
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(row.prepare)
        function(ctypes.addressof(vector), *blocks, ctypes.addressof(c_activations))

    def matrix_at(self, row: CKernel, packed: np.ndarray, shape: tuple[int, int]) -> CMatrix:
        """`struct tmac_matrix` for the bytes `packed` of a matrix of the kernel's type; `packed` must outlive it."""
        return self.c.tmac_matrix_at(row.type, packed.ctypes.data, *shape)

    def empty_batch(self, form: str, cols: int, tokens: int) -> list[Activations]:
        """Zeroed activations for `tokens` tokens in one buffer, laid out as in llama.cpp's plugin."""
        number = PREPARED_NAMES.index(form)
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
        """y float32 [rows] = W x. `packed`: the uint8 bytes of a rows x cols matrix of the kernel's type."""
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
        """y float32 [tokens, rows], y[t] = W x[t]. `packed` as in gemv()."""
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
        expected = weight_type.nbytes(rows, cols)
        if rows % TILE_ROWS or cols % weight_type.block_weights or packed.dtype != np.uint8 or packed.size != expected:
            raise ValueError(
                f"{packed.size} bytes of {packed.dtype} for {rows} x {cols} {weight_type.name}; "
                f"expected {expected} of uint8, rows % {TILE_ROWS} == 0, columns % {weight_type.block_weights} == 0"
            )
        shape = Activations.empty(PREPARED_NAMES[row.form], cols).entries.shape
        if wrong := [each.entries.shape for each in x if each.entries.shape != shape]:
            raise ValueError(f"entries of shape {wrong[0]}; expected {shape}")
        last = rows // TILE_ROWS if tiles[1] is None else tiles[1]
        self.multiply(row, packed, (rows, cols), x, (tiles[0], last), y)

    def multiply(
        self,
        row: CKernel,
        packed: np.ndarray,
        shape: tuple[int, int],
        x: Sequence[Activations],
        tiles: tuple[int, int],
        into: np.ndarray,
    ) -> None:
        """Computes the rows of tiles [first, last) of W x by the kernel `row` of `rows`. Writes `into` [tokens, rows].

        Checks nothing.
        """
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
    """The library for this machine. The first use compiles it, which takes a minute or two."""
    return Library(build())


def dispatch_table(precision: str) -> list[dict[str, str]]:
    """The GEMV kernel of each type that is served with a precision on this CPU, as dicts of type, kernel, isa.

    Some types have none that is exact; where there is none that is fast, dispatch takes the rounded one. Raises
    KernelError.
    """
    exact = {kernel.type for kernel in KERNELS if kernel.method == "gemv" and kernel.precision == EXACT}
    chosen = [(t, library().select(t, precision=precision)) for t in TYPES if precision != EXACT or t in exact]
    return [{"type": t.ggml_name, "kernel": name, "isa": KernelSpec.parse(name).isa.name} for t, name in chosen]


def prompt_table(crossings: Crossings) -> dict[str, list[tuple[int, KernelSpec]]]:
    """Type -> (least number of tokens, kernel) of each kernel that this CPU uses for several tokens.

    For the symmetric type with the largest group of each width, and a ternary one. Raises
    KernelError.
    """
    table = {}
    for weight_type in (t for t in TYPES if t.group == GROUPS[-1] and t.grid == SYMMETRIC):
        steps: list[tuple[int, KernelSpec]] = []
        for tokens in range(2, MOST_TOKENS_TO_CROSS + 1):
            kernel = KernelSpec.parse(library().select(weight_type, tokens=tokens, crossings=crossings))
            if not steps or steps[-1][1] != kernel:
                steps.append((tokens, kernel))
        table[weight_type.name] = steps
    return table
