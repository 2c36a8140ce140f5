"""The kernels that rotate activations: one per instruction set with a vocabulary of floats. All give the same bits.

Comes in: isa.py. Goes out: `ROTATION_KERNELS`, from which C's dispatch table follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from .isa import ISAS, Isa


@dataclass(frozen=True)
class RotationKernel:
    """The Walsh-Hadamard transform of an instruction set. Block sizes are arguments."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"tmac_rotate_{self.isa.name}"

    @property
    def file(self) -> str:
        """Its path in the generated tree."""
        return f"rotation/{self.name}.c"


# In priority order. Other instruction sets would do it with the instructions of the one that prepares for them.
ROTATION_KERNELS = tuple(RotationKernel(isa) for isa in ISAS if isa.prepared_by == isa.name)


def rotation_kernels_for(machine: str) -> tuple[RotationKernel, ...]:
    """Those that can be compiled for an architecture, in priority order."""
    return tuple(kernel for kernel in ROTATION_KERNELS if kernel.isa.machine in (machine, "any"))
