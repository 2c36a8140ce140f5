"""Calls the compiled repackers from Python, with numpy arrays in and out.

They are a library of their own, which compiles in seconds. `repack` is what a conversion takes (convert/repacking.py).
"""

from __future__ import annotations

import ctypes
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..common.cpu import lacking, machine
from ..common.format import TILE_ROWS
from ..common.stock import StockType
from .compile import build_library
from .errors import KernelError
from .generate import repack_sources
from .isa import Isa
from .repack import Repacker, repack_isas_for

# Of stored blocks, that a thread takes at a time.
PART_BYTES = 1 << 20


class NativeRepackers:
    """The repackers of a compiled library. Shapes are checked. Raises KernelError if it cannot be loaded."""

    def __init__(self, path: Path):
        try:
            self.c = ctypes.CDLL(str(path))
        except OSError as error:
            hint = "another mount of the work folder (TMAC_HOME) may permit it"
            raise KernelError(f"{path} was compiled, but cannot be loaded: {error}", hint) from None

    def repack(
        self,
        repacker: Repacker,
        stored: np.ndarray,
        rows: int,
        columns: int,
        out: np.ndarray,
        tiles: tuple[int, int] | None = None,
    ) -> int:
        """The rows in `stored`, uint8, as the tiles [first, last) (default: all) of `out`. Returns what was found."""
        kind = repacker.stock
        sizes = rows * columns // kind.block * kind.nbytes, kind.target.nbytes(rows, columns)
        if not kind.target.can_hold(rows, columns) or (stored.nbytes, out.nbytes) != sizes:
            raise ValueError(
                f"{stored.nbytes} bytes of {kind.name} into {out.nbytes} of {kind.target.name} for {rows} x {columns}; "
                f"expected {sizes[0]} and {sizes[1]}, rows % {TILE_ROWS} == 0, columns % {kind.block} == 0"
            )
        if not (stored.flags.c_contiguous and out.flags.c_contiguous):
            raise ValueError("the arrays are not contiguous")
        function = getattr(self.c, repacker.name)
        function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 4
        first, last = tiles or (0, rows // TILE_ROWS)
        return function(stored.ctypes.data, out.ctypes.data, rows, columns, first, last)


def repack(stock: StockType, stored: np.ndarray, rows: int, columns: int, out: np.ndarray) -> bool:
    """Repacks a matrix by the fastest repacker of this CPU, on all its cores: calls of C leave Python to other threads.

    Returns whether nothing was found that cannot be kept. Raises KernelError, or TmacError without a compiler.
    """
    repacker = Repacker(stock, isas_here()[0])
    tiles = rows // TILE_ROWS
    step = max(1, PART_BYTES * tiles // max(1, stored.nbytes))
    parts = [(first, min(first + step, tiles)) for first in range(0, tiles, step)]

    def found(part: tuple[int, int] | None) -> int:
        return library().repack(repacker, stored, rows, columns, out, part)

    if len(parts) < 2:
        return found(None) == 0
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
        return not any(pool.map(found, parts))


def isas_here() -> list[Isa]:
    """The instruction sets of this CPU that have repackers, in priority order. The last one runs everywhere."""
    return [isa for isa in repack_isas_for(machine()) if not lacking(isa.features)]


@functools.cache
def library() -> NativeRepackers:
    """The library for this machine; the first use compiles it. Raises KernelError, or TmacError without a compiler."""
    return NativeRepackers(build_library(repack_sources(machine())))
