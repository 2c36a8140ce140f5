"""The only list of kernels. Declarations, dispatch, tests, benchmarks and documents all derive from it."""

from __future__ import annotations

from .errors import KernelError
from .isa import ISAS, Isa
from .spec import FORMAT_TYPES, KernelSpec

# Columns that share one scale of the look-up tables. 32 is the most exact of the sizes in design/kernels.md and
# costs nothing in decode, which waits for memory; it divides every weight group, so tables serve any weight type.
TABLE_GROUP = 32

# Priority order: the first of a precision whose features the CPU has serves a type.
KERNELS = tuple(
    KernelSpec(weight_type, isa, precision) for isa in ISAS for precision in isa.precisions for weight_type in FORMAT_TYPES
)


def kernels_for(machine: str) -> tuple[KernelSpec, ...]:
    """The catalog's rows that can be compiled for an architecture, in priority order."""
    return tuple(k for k in KERNELS if k.isa.machine in (machine, "any"))


def isas_for(machine: str) -> tuple[Isa, ...]:
    """The instruction sets of an architecture, in priority order."""
    return tuple(isa for isa in ISAS if isa.machine in (machine, "any"))


def find(name: str) -> KernelSpec:
    """The catalog's row of that name. Raises KernelError for a name that is not in it."""
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise KernelError(f"no kernel is called {name!r}", "`tmac kernels list` shows all names")
