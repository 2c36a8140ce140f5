"""The free parameters of GEMV kernels: defaults from isa.py, or values that the tuner found. They change speed only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..common.format import BITS, TmacType
from .isa import Isa

# What has parameters of its own: the kernels of a bit width, and those of ternary types.
TERNARY = "t3"
CODES: tuple[int | str, ...] = (*BITS, TERNARY)


def codes_of(weight_type: TmacType) -> int | str:
    """Which of CODES a type has."""
    return TERNARY if weight_type.ternary else weight_type.bits


def codes_name(codes: int | str) -> str:
    """For example `w2`; `t3` for ternary types."""
    return f"w{codes}" if isinstance(codes, int) else codes


# The values that `tmac kernels tune` tries for each parameter of isa.py, besides the default.
CANDIDATES = {
    "STREAMS": tuple(range(1, 5)),
    "PREFETCH": (512, 1024, 1536, 2048, 2560, 3072, 3328, 3584, 4096, 5120, 6144, 8192),
    "SCALES_PREFETCH": (256, 512, 1024, 2048, 4096),
}


def candidates(isa: Isa) -> dict[str, tuple[int, ...]]:
    """The values that each parameter of an instruction set may have, in order; the default is among them."""
    return {name: tuple(sorted({*CANDIDATES.get(name, ()), default})) for name, default in isa.parameters.items()}


@dataclass(frozen=True)
class Tuning:
    """`found`: (name of instruction set, one of CODES) -> parameters that differ from the defaults."""

    found: Mapping[tuple[str, int | str], Mapping[str, int]] = field(default_factory=dict)

    def parameters(self, isa: Isa, codes: int | str) -> dict[str, int]:
        """All parameters of the GEMV template for a bit width, or for ternary types."""
        return isa.parameters | dict(self.found.get((isa.name, codes), {}))


DEFAULTS = Tuning()
