"""What the plugin's log says of the kernels that serve a type, taken from the dispatcher itself."""

from tmac.common.cpu import machine
from tmac.kernels.catalog import kernels_for
from tmac.kernels.crossings import MOST_TOKENS_TO_CROSS
from tmac.kernels.native import library
from tmac.kernels.spec import KernelSpec


def runs_here(isa):
    """Whether this CPU has the features of an instruction set."""
    return library().runs_here(next(kernel.name for kernel in kernels_for(machine()) if kernel.isa == isa))


def kernels_by_tokens(weight_type, forced="", precision="rounded"):
    """(least number of tokens, kernel name) of each kernel that serves the type."""
    steps = []
    for tokens in range(1, MOST_TOKENS_TO_CROSS + 1):
        name = library().select(
            weight_type, forced, precision=precision, tokens=tokens, crossings=library().crossings()
        )
        if not steps or steps[-1][1] != name:
            steps.append((tokens, name))
    return steps


def served_by(weight_type, forced="", precision="rounded"):
    """The part of the plugin's line after `by`."""
    (_, gemv), *gemms = kernels_by_tokens(weight_type, forced, precision)
    return ", ".join([gemv, *(f"from {least} tokens {name}" for least, name in gemms)])


def forms(weight_type, forced="", precision="rounded", most_tokens=MOST_TOKENS_TO_CROSS):
    """(least number of tokens, form) of each form in use, for at most `most_tokens` tokens."""
    steps = []
    for tokens, name in kernels_by_tokens(weight_type, forced, precision):
        form = KernelSpec.parse(name).form
        if tokens <= most_tokens and (not steps or steps[-1][1] != form):
            steps.append((tokens, form))
    return steps
