"""The target that this test run compiles kernels for: `native`, called by ctypes, or a worker of kernels/worker."""

from collections.abc import Collection

from tmac.common.cpu import machine
from tmac.kernels.worker import TARGETS

NATIVE = "native"
NAMES = (NATIVE, *TARGETS)

_chosen = [NATIVE]


def choose(name: str) -> None:
    _chosen[0] = name


def chosen() -> str:
    return _chosen[0]


def is_sanitized() -> bool:
    """Whether memory accesses are checked, which makes everything several times slower."""
    return chosen() != NATIVE and any("-fsanitize" in flag for flag in TARGETS[chosen()].flags)


def chosen_from(values: Collection, fewer: Collection) -> Collection:
    """The values of a test: `fewer` for targets, on which everything is several times slower."""
    return values if chosen() == NATIVE else fewer


def target_machine() -> str:
    """The architecture of the kernels under test, as isa.py spells it."""
    return machine() if chosen() == NATIVE else TARGETS[chosen()].architecture
