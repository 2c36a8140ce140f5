"""What a kernel is: a weight type of the T-MAC layout and the instruction set that it is written for.

Comes in: nothing. Goes out: `WeightType` and `KernelSpec`, whose names are the only grammar for types and
kernels anywhere (C symbols, logs, TMAC_KERNEL, the catalog). Shapes are not part of a kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .isa import ISAS, PRECISIONS, Isa

LAYOUT_VERSION = 1
GROUPS = (32, 64, 128)


@dataclass(frozen=True, order=True)
class WeightType:
    """A ggml type of the T-MAC layout: `bits` per code, one scale per `group` columns, stored zero-points or none.

    `group` 0 is the tensor-scale kind (suffix T), which stores no scales.
    """

    bits: int
    group: int
    zeros: bool

    @property
    def name(self) -> str:
        return f"w{self.bits}t" if not self.group else f"w{self.bits}g{self.group}{'z' if self.zeros else ''}"

    @property
    def ggml_id(self) -> int:
        low = 0xF if not self.group else 2 * GROUPS.index(self.group) + self.zeros
        return 0x200 + 0x10 * self.bits + low

    @property
    def block_weights(self) -> int:
        return self.group or GROUPS[0]

    @property
    def block_bytes(self) -> int:
        scale_bytes = 2 + self.zeros if self.group else 0
        return self.block_weights * self.bits // 8 + scale_bytes

    @classmethod
    def parse(cls, name: str) -> WeightType:
        """Inverse of `name`. Raises ValueError for anything else."""
        for weight_type in FORMAT_TYPES:
            if weight_type.name == name:
                return weight_type
        raise ValueError(f"{name!r} is not a T-MAC weight type; known: {', '.join(t.name for t in FORMAT_TYPES)}")


# Every type the layout defines, whether or not the catalog has a kernel for it.
FORMAT_TYPES = tuple(
    [WeightType(bits, group, zeros) for bits in (1, 2, 3, 4) for group in GROUPS for zeros in (False, True)]
    + [WeightType(2, 0, False)]
)


@dataclass(frozen=True)
class KernelSpec:
    """A GEMV kernel: `tmac_gemv_<type>_<isa>`, with `_exact` or `_fast` after the type where it is not `rounded`."""

    type: WeightType
    isa: Isa
    precision: str = "rounded"

    @property
    def name(self) -> str:
        return f"tmac_gemv_{self.type.name}{_infix(self.precision)}_{self.isa.name}"

    @property
    def tables_symbol(self) -> str:
        return self.isa.tables_symbol(self.precision)

    @classmethod
    def parse(cls, name: str) -> KernelSpec:
        """Inverse of `name`. Raises ValueError for anything else."""
        infixes = "|".join(_infix(precision) for precision in PRECISIONS)
        match = re.fullmatch(rf"tmac_gemv_(w\d[a-z0-9]*?)({infixes})_({'|'.join(isa.name for isa in ISAS)})", name)
        if not match:
            raise ValueError(f"{name!r} is not a kernel name; the form is tmac_gemv_<type>[_exact|_fast]_<isa>")
        isa = next(i for i in ISAS if i.name == match[3])
        return cls(WeightType.parse(match[1]), isa, match[2].removeprefix("_") or PRECISIONS[0])


def _infix(precision: str) -> str:
    return "" if precision == PRECISIONS[0] else f"_{precision}"
