"""The only list of kernels. C declarations, dispatch, tests, benchmarks and documents derive from it."""

from __future__ import annotations

from ..common.format import TYPES
from .crossings import DEFAULT, Crossings, column_of
from .errors import KernelError
from .forms import reads
from .isa import ISAS, Isa
from .spec import KernelSpec

# In priority order: dispatch takes the first row of the wanted type and precision whose CPU features are there and that
# serves so many tokens. So a set's GEMV kernel takes what its GEMM kernels are too slow for.
KERNELS = tuple(
    KernelSpec(weight_type, isa, method, form)
    for isa in ISAS
    for method in ("gemm", "gemv")
    for form in isa.forms(method)
    for weight_type in TYPES
    if reads(method, form, weight_type)
)


def least_tokens(kernel: KernelSpec, crossings: Crossings = DEFAULT) -> int:
    """The least number of tokens that dispatch chooses this kernel for; 0: it is chosen only when forced by name."""
    if kernel.method == "gemv":
        return 1
    return crossings.least_tokens(kernel.isa.name, kernel.form, column_of(kernel.type))


def features_asked(machine: str) -> tuple[str, ...]:
    """All CPU features that the kernels of an architecture ask for."""
    kernels = [k for k in KERNELS if k.isa.machine == machine]
    return tuple(dict.fromkeys(feature for k in kernels for feature in k.isa.features))


def kernels_for(machine: str) -> tuple[KernelSpec, ...]:
    """The kernels that can be compiled for an architecture, in priority order."""
    return tuple(k for k in KERNELS if k.isa.machine in (machine, "any"))


def isas_for(machine: str) -> tuple[Isa, ...]:
    """The instruction sets of an architecture, in priority order."""
    return tuple(isa for isa in ISAS if isa.machine in (machine, "any"))


def gemv_isas_for(machine: str) -> tuple[Isa, ...]:
    """The instruction sets of an architecture that have GEMV kernels, in priority order."""
    return tuple(isa for isa in isas_for(machine) if isa.gemv_forms)


def find(name: str) -> KernelSpec:
    """The kernel with this name. Raises KernelError if there is none."""
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise KernelError(f"no kernel is called {name!r}", "`tmac kernels list` shows all names")
