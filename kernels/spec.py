"""A kernel is a weight type, an instruction set, a method and a form. Matrix shapes are arguments, not part of it.

Comes in: nothing. Goes out: `KernelSpec` and the grammar of its name, which C symbols, logs and TMAC_KERNEL use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..common.format import TmacType, parse_type
from .forms import FORMS, GEMM_FORMS, GEMV_FORMS, PREPARED, Prepared
from .isa import ISAS, Isa

METHODS = {"gemv": GEMV_FORMS, "gemm": GEMM_FORMS}


@dataclass(frozen=True)
class KernelSpec:
    """A kernel: `method` is gemv (one token) or gemm (several), `form` one of the forms of that method."""

    type: TmacType
    isa: Isa
    method: str
    form: str

    @property
    def precision(self) -> str:
        return FORMS[self.form].precision

    @property
    def prepared(self) -> Prepared:
        """The layout of the activations that the kernel reads."""
        return PREPARED[FORMS[self.form].prepared]

    @property
    def name(self) -> str:
        return f"tmac_{self.method}_{self.type.name}_{self.form}_{self.isa.name}"

    @property
    def prepare_symbol(self) -> str:
        """The C function that prepares its activations."""
        return self.isa.prepare_symbol(self.prepared.name)

    @classmethod
    def parse(cls, name: str) -> KernelSpec:
        """Inverse of `name`. Raises ValueError for anything else."""
        isas = {isa.name: isa for isa in ISAS}
        match = re.fullmatch(rf"tmac_({'|'.join(METHODS)})_([a-z0-9]+)_({'|'.join(FORMS)})_({'|'.join(isas)})", name)
        if not match or match[3] not in METHODS[match[1]]:
            raise ValueError(
                f"{name!r} is not a kernel name; expected tmac_<gemv|gemm>_<type>_<form>_<instruction set>"
            )
        return cls(parse_type(match[2]), isas[match[4]], match[1], match[3])
