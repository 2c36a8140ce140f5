"""The only list of kernels. C declarations, dispatch, tests, benchmarks and documents derive from it."""

from __future__ import annotations

from ..common.format import TYPES
from .crossings import LEAST_TOKENS, LEAST_TOKENS_WITHOUT_TABLES, SERVES_ONLY_ON, TERNARY_COLUMN
from .errors import KernelError
from .forms import has_table_gemm, reads
from .isa import ISAS, Isa
from .spec import METHODS, KernelSpec

# In priority order: dispatch takes the first row of the wanted type, method and precision whose CPU features are there.
# A GEMM kernel also needs at least `least_tokens` tokens and its `usual_feature`.
KERNELS = tuple(
    KernelSpec(weight_type, isa, method, form)
    for method in METHODS
    for isa in ISAS
    for form in isa.forms(method)
    for weight_type in TYPES
    if reads(method, form, weight_type)
)


def least_tokens(kernel: KernelSpec) -> int:
    """The least number of tokens that dispatch chooses this kernel for; 0: it is chosen only when forced by name."""
    if kernel.method == "gemv":
        return 1
    if not has_table_gemm(kernel.type):
        return LEAST_TOKENS_WITHOUT_TABLES[kernel.isa.name, kernel.form]
    column = TERNARY_COLUMN if kernel.type.ternary else kernel.type.bits - 1
    return LEAST_TOKENS[kernel.isa.name, kernel.form][column]


def usual_feature(kernel: KernelSpec) -> str | None:
    """A feature that dispatch requires besides those of the instruction set, unless the kernel is forced by name."""
    if kernel.method == "gemv" or kernel.type.ternary or not has_table_gemm(kernel.type):
        return None
    return SERVES_ONLY_ON.get((kernel.isa.name, kernel.form))


def features_asked(machine: str) -> tuple[str, ...]:
    """All CPU features that the kernels of an architecture ask for."""
    kernels = [k for k in KERNELS if k.isa.machine == machine]
    asked = [feature for k in kernels for feature in (*k.isa.features, usual_feature(k)) if feature]
    return tuple(dict.fromkeys(asked))


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
