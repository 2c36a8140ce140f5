"""The peaks that GEMM kernels are compared with: one thread, operands in registers and first-level cache.

Comes in: an instruction set and the kind of its activations. Goes out: multiply-adds a second, of one-bit weights where
kernels look up. Each instruction set's loops are c/peak.h, compiled with its vocabulary and flags.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from tmac.common.cpu import machine
from tmac.kernels.catalog import isas_for
from tmac.kernels.compile import build_library
from tmac.kernels.forms import FORMS, PREPARED
from tmac.kernels.generate import Sources
from tmac.kernels.isa import Isa
from tmac.kernels.spec import KernelSpec

from .loops import SOURCES, loop_headers

# About 2 ms.
REPEATS = 2000
# The instruction sets with loops, and the kinds of activations that they multiply or look up.
LOOPS = {
    "avx512_vbmi": ("int8", "tables"),
    "avx512": ("int8", "tables"),
    "avx_vnni": ("int8",),
    "avx2": ("int8", "tables"),
}


def kind_of(form: str) -> str:
    """The kind of activations of a form, which names its peak."""
    return PREPARED[FORMS[form].prepared].kind


def has_peak(isa: Isa, kind: str) -> bool:
    return isa.machine == machine() and kind in LOOPS.get(isa.name, ())


def sources(isa: Isa) -> Sources:
    """The C file with the peaks of an instruction set."""
    names = {"int8": "INT8_PEAK", "tables": "LOOK_UP_PEAK"}
    defined = [f"#define {names[kind]} {_symbol(isa, kind)}" for kind in LOOPS[isa.name]]
    text = "\n".join([f'#include "isa/{isa.name}.h"', *defined, '#include "peak.h"', ""])
    return {f"peak_{isa.name}.c": (text, isa.flags)}


def headers() -> Sources:
    """What those files include besides the kernels' headers."""
    return loop_headers() | {"peak.h": ((SOURCES / "peak.h").read_text(encoding="utf-8"), ())}


def measure(isa: Isa, kind: str, repeats: int = REPEATS) -> float:
    """Multiply-adds a second, of one-bit weights for tables. Only for instruction sets that this CPU has."""
    return _loop(isa, kind)(repeats)


def of_kernel(spec: KernelSpec) -> float:
    """Multiply-adds a second that a kernel could reach; 0 where its peak is not known."""
    kind = kind_of(spec.form)
    if not has_peak(spec.isa, kind):
        return 0
    return measure(spec.isa, kind) / (spec.type.bits if kind == "tables" else 1)


@functools.cache
def _loop(isa: Isa, kind: str) -> Callable[[int], float]:
    loop = getattr(_library(), _symbol(isa, kind))
    loop.restype, loop.argtypes = ctypes.c_double, [ctypes.c_int]
    return loop


def peak_sources(architecture: str) -> Sources:
    """All that the peaks of an architecture's instruction sets are compiled of."""
    files = headers()
    for isa in isas_for(architecture):
        files |= sources(isa) if isa.name in LOOPS else {}
    return files


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(build_library(peak_sources(machine()))))


def _symbol(isa: Isa, kind: str) -> str:
    return f"tmac_bench_peak_{kind}_{isa.name}"
