"""What a kernel is: a weight type of the T-MAC layout and the instruction set that it is written for.

Comes in: nothing. Goes out: `WeightType` and `KernelSpec`, whose names are the only grammar for types and
kernels anywhere (C symbols, logs, TMAC_KERNEL, the catalog). Shapes are not part of a kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .isa import FORM_PRECISIONS, FORMS, ISAS, PRECISIONS, Isa

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
    """A kernel: `tmac_gemv_<type>_<isa>` or `tmac_gemm_<type>_<isa>`.

    After the type a GEMV has `_exact` or `_fast` where it is not `rounded`, a GEMM the form of its activations where that is
    not `tables`; exact int8 is called `_exact`. `gemm_form` is empty for a GEMV.
    """

    type: WeightType
    isa: Isa
    precision: str = PRECISIONS[0]
    gemm_form: str = ""

    @classmethod
    def gemm(cls, weight_type: WeightType, isa: Isa, form: str) -> KernelSpec:
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
            weight_type = WeightType.parse(match[2])
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
