"""The tuner: searches the free parameters of the GEMV kernels for this CPU; verifies each candidate, then times it.

Comes in: an instruction set and a bit width, or ternary types. Goes out: a `TuningResult`, which tuning_file.save
keeps. Each parameter in turn goes through its values while the others stay, as long as something is gained. A candidate
is timed against the best so far in alternating rounds, over weights that no cache holds. The median of the ratios
decides; it must exceed what timing the best against itself gives by chance. Each candidate is compiled into a library
of its own.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tmac.common.compilers import find_c_compiler
from tmac.common.format import TILE_ROWS, TmacType
from tmac.kernels import generate, native
from tmac.kernels.compile import build, cache_folder, compile_into
from tmac.kernels.forms import ROUNDED, gemv_form, reads
from tmac.kernels.isa import ISAS, Isa
from tmac.kernels.spec import KernelSpec
from tmac.kernels.tuning import DEFAULTS, TERNARY, Tuning, candidates, codes_name

from ..errors import ToolError
from . import gemv
from .matrices import prepare_gemv, random_bytes

Parameters = Mapping[str, int]

LEAST_GAIN = 0.01
MAX_SWEEPS = 3
SHAPE = (4096, 4096)
# Tiles enough for every remainder by the number of streams after whole turns; three groups of 128 or more columns.
VERIFIED_TILES, VERIFIED_GROUPS = 11, 3


@dataclass(frozen=True)
class TuningResult:
    """gain: how much faster the chosen parameters are than the defaults (0.05: 5 %), 0 where the defaults are kept;
    noise: the gain that chance could give.
    """

    isa: str
    bits: int | str
    defaults: dict[str, int]
    chosen: dict[str, int]
    gain: float
    noise: float

    @property
    def found(self) -> dict[str, int]:
        """What tuning_file.save keeps: all parameters, or none where the defaults are as good."""
        return self.chosen if self.chosen != self.defaults else {}

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


class Workbench(Protocol):
    """What a search needs; the tests have one with made-up times."""

    def verify(self, several: Sequence[Parameters]) -> None:
        """Raises ToolError if kernels with any of these parameters compute other than the plain-C kernels."""

    def speed_ratios(self, one: Parameters, other: Parameters) -> list[float]:
        """For each round, how many times as fast `other` is as `one`."""


def search(
    defaults: Parameters, values: Mapping[str, Sequence[int]], workbench: Workbench, log: Callable[[str], None]
) -> tuple[dict[str, int], float, float]:
    """The best parameters, their gain over the defaults and the noise below which a gain counts as none."""
    best = dict(defaults)
    workbench.verify([best])
    noise = chance_gain(workbench.speed_ratios(best, best))
    log(f"defaults: {words(best)}; a gain counts from {noise:.1%}")
    for _ in range(MAX_SWEEPS):
        before = best
        for name in values:
            best = _best_value(best, name, values[name], noise, workbench, log)
        if best == before:
            break
    if best == dict(defaults):
        return best, 0.0, noise
    # The luckiest of many candidates looks better than it is: what was chosen is measured afresh.
    noise = max(noise, chance_gain(workbench.speed_ratios(defaults, defaults)))
    gain = statistics.median(workbench.speed_ratios(defaults, best)) - 1
    return (best, gain, noise) if gain > noise else (dict(defaults), 0.0, noise)


def _best_value(
    best: dict[str, int],
    name: str,
    values: Sequence[int],
    noise: float,
    workbench: Workbench,
    log: Callable[[str], None],
) -> dict[str, int]:
    others = {value: best | {name: value} for value in values if value != best[name]}
    workbench.verify(list(others.values()))
    gains = {}
    for value, candidate in others.items():
        gains[value] = statistics.median(workbench.speed_ratios(best, candidate)) - 1
        log(f"{name} {value}: {gains[value]:+.1%}")
    winner = max(gains, key=gains.__getitem__, default=None)
    return best | {name: winner} if winner is not None and gains[winner] > noise else best


def chance_gain(ratios: Sequence[float]) -> float:
    """What a candidate must gain: more than the ratios of a thing to itself make probable, and than LEAST_GAIN."""
    middle = statistics.median(ratios)
    # The standard error of a median of n normal numbers is 1.25 sigma / sqrt(n), and sigma is 1.48 times their median
    # distance from the median; twice that is passed by chance once in twenty.
    spread = 1.48 * statistics.median(abs(ratio - middle) for ratio in ratios)
    return max(LEAST_GAIN, abs(middle - 1) + 2 * 1.25 * spread / math.sqrt(len(ratios)))


def words(parameters: Parameters) -> str:
    """The parameters in one line."""
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


@functools.cache
def untuned_library() -> native.Library:
    """The kernels with the parameters of isa.py, which candidates are compared with. Raises TmacError."""
    return native.Library(build(tuning=DEFAULTS))


def timed_type(codes: int | str) -> TmacType:
    """The type whose kernel is timed: one scale per 128 columns, which models mostly have."""
    return TmacType(2, 128, ternary=True) if codes == TERNARY else TmacType(int(codes), 128)


def tune(
    isa: Isa,
    codes: int | str,
    *,
    threads: int,
    total_bytes: int,
    rounds: int,
    log: Callable[[str], None] = lambda line: None,
) -> TuningResult:
    """Searches the parameters of an instruction set that this CPU has. Raises ToolError, as for a wrong candidate."""
    place = f"{codes_name(codes)} {isa.name}: "
    workbench = KernelWorkbench(isa, codes, threads, total_bytes, rounds)
    chosen, gain, noise = search(isa.parameters, candidates(isa), workbench, lambda line: log(place + line))
    for form in (form for form in isa.gemv_forms if reads("gemv", form, timed_type(codes))):
        workbench.verify([chosen], form)
    return TuningResult(isa.name, codes, dict(isa.parameters), chosen, gain, noise)


class KernelWorkbench:
    """Compiles, verifies and times the kernels of one bit width, or of ternary types, and an instruction set."""

    def __init__(self, isa: Isa, codes: int | str, threads: int, total_bytes: int, rounds: int):
        self.isa, self.codes, self.threads, self.rounds = isa, codes, threads, rounds
        self.library = untuned_library()
        self.form = gemv_form(ROUNDED, codes == TERNARY)
        spec = KernelSpec(timed_type(codes), isa, "gemv", self.form)
        if not self.library.runs_here(spec.name):
            raise ToolError(f"this CPU lacks {' '.join(isa.features)}, so {isa.name} cannot be tuned here")
        self.product = prepare_gemv(self.library, spec, *SHAPE, total_bytes)
        self._functions: dict[tuple, ctypes.CDLL] = {}

    def verify(self, several: Sequence[Parameters], form: str | None = None) -> None:
        """Bit for bit, all types, many splits of the tiles. Raises ToolError that names kernel and parameters."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda parameters: self._compiled(form or self.form, parameters), several))
        for kernel in generate.KernelFile.tuned(self.codes, self.isa, form or self.form).kernels:
            self._verify_kernel(kernel, several)

    def _verify_kernel(self, spec: KernelSpec, several: Sequence[Parameters]) -> None:
        scalar = KernelSpec(spec.type, ISAS[-1], spec.method, spec.form).name
        shape = VERIFIED_TILES * TILE_ROWS, VERIFIED_GROUPS * max(128, spec.type.block_weights)
        packed = random_bytes(spec, *shape)
        tables = self.library.prepare(scalar, np.random.default_rng(3).standard_t(4, shape[1]))
        expected = self.library.gemv(scalar, packed, *shape, tables)
        for parameters in several:
            row = self._row(spec, parameters)
            for first, last in ((f, t) for f in (0, 1) for t in range(f, VERIFIED_TILES + 1)):
                y, right = np.full((2, expected.size), np.nan, np.float32)
                self.library.multiply(row, packed, shape, [tables], (first, last), y[None])
                rows = slice(first * TILE_ROWS, last * TILE_ROWS)
                right[rows] = expected[rows]
                if y.tobytes() != right.tobytes():
                    raise ToolError(
                        f"{spec.name} with {words(parameters)} is wrong: of tiles {first} to {last} it makes other "
                        "numbers than the plain-C kernel",
                        "nothing was kept of it; please report it with the CPU and the compiler",
                    )

    def _row(self, spec: KernelSpec, parameters: Parameters) -> ctypes.Structure:
        """The catalog's row of a kernel, but with the function that these parameters give."""
        row = type(self.library.rows[0]).from_buffer_copy(self.library.row(spec.name))
        row.gemv = ctypes.cast(self._compiled(spec.form, parameters)[spec.name], ctypes.c_void_p).value
        return row

    def _compiled(self, form: str, parameters: Parameters) -> ctypes.CDLL:
        """A library of the kernels of a form and nothing else, so that it is there in a second."""
        key = (form, *sorted(parameters.items()))
        if key not in self._functions:
            file = generate.KernelFile.tuned(self.codes, self.isa, form)
            text = generate.kernel_source(file, Tuning({(self.isa.name, self.codes): parameters}))
            # Nobody needs a candidate twice, and a library that is loaded needs no file.
            with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
                library = Path(folder) / "candidate.so"
                compile_into(find_c_compiler(), (), ("-shared",), {file.name: (text, self.isa.flags)}, library)
                self._functions[key] = ctypes.CDLL(str(library))
        return self._functions[key]

    def speed_ratios(self, one: Parameters, other: Parameters) -> list[float]:
        """Times both over the same weights, in memory unless total_bytes is little."""
        products = [dataclasses.replace(self.product, row=self._row(self.product.spec, p)) for p in (one, other)]
        return gemv.speed_ratios(self.library, *products, self.threads, self.rounds)
