"""The free parameters of the kernels: an instruction set's own, or what the tuner found for a CPU. Speed only, never results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .isa import Isa


@dataclass(frozen=True)
class Tuning:
    """`found`: (name of instruction set, bits) -> parameters that differ from the instruction set's own."""

    found: Mapping[tuple[str, int], Mapping[str, int]] = field(default_factory=dict)

    def parameters(self, isa: Isa, bits: int) -> dict[str, int]:
        """What a GEMV template gets for a bit width."""
        return isa.parameters | dict(self.found.get((isa.name, bits), {}))


DEFAULTS = Tuning()
