"""What a kernel is: a weight type of the T-MAC layout and the instruction set that it is written for.

Comes in: nothing. Goes out: `TmacType` and `KernelSpec`, whose names are the only grammar for types and
kernels anywhere (C symbols, logs, TMAC_KERNEL, the catalog). Shapes are not part of a kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..common.format import TmacType, parse_type
from .isa import FORM_PRECISIONS, FORMS, ISAS, PRECISIONS, Isa


@dataclass(frozen=True)
class KernelSpec:
    """A kernel: `tmac_gemv_<type>_<isa>` or `tmac_gemm_<type>_<isa>`.

    After the type a GEMV has `_exact` or `_fast` where it is not `rounded`, a GEMM the form of its activations where that is
    not `tables`; exact int8 is called `_exact`. `gemm_form` is empty for a GEMV.
    """

    type: TmacType
    isa: Isa
    precision: str = PRECISIONS[0]
    gemm_form: str = ""

    @classmethod
    def gemm(cls, weight_type: TmacType, isa: Isa, form: str) -> KernelSpec:
        """The GEMM kernel that takes activations in a form."""
        return cls(weight_type, isa, FORM_PRECISIONS[form], form)

    @property
    def method(self) -> str:
        return "gemm" if self.gemm_form else "gemv"

    @property
    def form(self) -> str:
        """What the kernel wants activations as."""
        return self.gemm_form or ("exact_tables" if self.precision == "exact" else "tables")

    @property
    def name(self) -> str:
        infix = _form_infix(self.gemm_form) if self.gemm_form else _precision_infix(self.precision)
        return f"tmac_{self.method}_{self.type.name}{infix}_{self.isa.name}"

    @property
    def prepare_symbol(self) -> str:
        return self.isa.prepare_symbol(self.form)

    @classmethod
    def parse(cls, name: str) -> KernelSpec:
        """Inverse of `name`. Raises ValueError for anything else."""
        infixes = "|".join([*map(_precision_infix, PRECISIONS), *map(_form_infix, GEMM_FORMS)])
        isas = "|".join(isa.name for isa in ISAS)
        match = re.fullmatch(rf"tmac_(gemv|gemm)_(w\d[a-z0-9]*?)({infixes})_({isas})", name)
        if match:
            isa = next(i for i in ISAS if i.name == match[4])
            weight_type = parse_type(match[2])
            if match[1] == "gemv":
                specs = [cls(weight_type, isa, precision) for precision in PRECISIONS]
            else:
                specs = [cls.gemm(weight_type, isa, form) for form in GEMM_FORMS]
            for spec in specs:
                if spec.name == name:
                    return spec
        raise ValueError(
            f"{name!r} is not a kernel name; the forms are tmac_gemv_<type>[_exact|_fast]_<isa> and "
            "tmac_gemm_<type>[_int8|_bf16|_exact]_<isa>"
        )


GEMM_FORMS = tuple(form for form in FORMS if form != "exact_tables")


def _precision_infix(precision: str) -> str:
    return "" if precision == PRECISIONS[0] else f"_{precision}"


def _form_infix(form: str) -> str:
    return {"tables": "", "exact_int8": "_exact"}.get(form, f"_{form}")
