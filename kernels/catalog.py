"""The only list of kernels. Declarations, dispatch, tests, benchmarks and documents all derive from it."""

from __future__ import annotations

from ..common.format import TYPES
from .crossings import LEAST_TOKENS, SERVES_ONLY_ON
from .errors import KernelError
from .isa import ISAS, Isa
from .spec import METHODS, KernelSpec

# In priority order: the first row of a type, a method and a precision whose features the CPU has serves it. GEMM kernels
# serve from as many tokens on as `least_tokens` says, and only if the CPU also has their `usual_feature`.
KERNELS = tuple(
    KernelSpec(weight_type, isa, method, form)
    for method in METHODS
    for isa in ISAS
    for form in isa.forms(method)
    for weight_type in TYPES
)


def least_tokens(kernel: KernelSpec) -> int:
    """How many tokens a kernel serves from; 0: only where its name is asked for."""
    if kernel.method == "gemv":
        return 1
    return LEAST_TOKENS[kernel.isa.name, kernel.form][kernel.type.bits - 1]


def usual_feature(kernel: KernelSpec) -> str | None:
    """What a CPU must have besides the features of the instruction set for a kernel to serve where nobody asks for its name."""
    return SERVES_ONLY_ON.get((kernel.isa.name, kernel.form)) if kernel.method == "gemm" else None


def features_asked(machine: str) -> tuple[str, ...]:
    """Of the CPUs of an architecture, all that the catalog distinguishes."""
    kernels = [k for k in KERNELS if k.isa.machine == machine]
    asked = [feature for k in kernels for feature in (*k.isa.features, usual_feature(k)) if feature]
    return tuple(dict.fromkeys(asked))


def kernels_for(machine: str) -> tuple[KernelSpec, ...]:
    """The catalog's rows that can be compiled for an architecture, in priority order."""
    return tuple(k for k in KERNELS if k.isa.machine in (machine, "any"))


def isas_for(machine: str) -> tuple[Isa, ...]:
    """The instruction sets of an architecture, in priority order."""
    return tuple(isa for isa in ISAS if isa.machine in (machine, "any"))


def gemv_isas_for(machine: str) -> tuple[Isa, ...]:
    """Those of them that have GEMV kernels."""
    return tuple(isa for isa in isas_for(machine) if isa.gemv_forms)


def find(name: str) -> KernelSpec:
    """The catalog's row of that name. Raises KernelError for a name that is not in it."""
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise KernelError(f"no kernel is called {name!r}", "`tmac kernels list` shows all names")
