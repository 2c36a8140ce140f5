"""What kernels take activations as, and what they round on the way. The C header and numpy's arrays follow from here.

Comes in: nothing. Goes out: the numbers of lookup tables, `PRECISIONS`, `PREPARED` and `FORMS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

# Columns whose table entries share a step, and columns that share the scale which the steps are units of. 32 is the most
# exact of the sizes in docs/kernels.md; it divides every weight group, so tables serve any weight type.
TABLE_GROUP, TABLE_BLOCK = 32, 128
# Shifted by the highest plane it fits into a byte.
LARGEST_STEP = 31

# In the order of `enum tmac_precision`.
PRECISION_MEANINGS = {
    "rounded": "tables of 8 bits or, for prompts, what the kernel takes; everything after them is exact or float",
    "exact": "activations rounded to int8, one scale per token, as BitNet trains; tables hold their sums exactly",
    "fast": "tables of 8 bits, added up by rounding averages: fewer additions, and much less exact",
}
PRECISIONS = tuple(PRECISION_MEANINGS)
# What activations may be given as, in the order of `enum tmac_input`.
INPUTS = ("f32", "f16", "i8")


@dataclass(frozen=True)
class Prepared:
    """How one vector of activations lies in memory once it is prepared for kernels.

    `columns` columns have entries of `shape` bytes; `scale_columns` share a float scale (0: there is none). `has_steps`:
    4 words per TABLE_GROUP columns; `has_sums`: one float per TABLE_GROUP columns. `kind` names the template that prepares.
    """

    name: str
    kind: str
    columns: int
    shape: tuple[int, ...]
    scale_columns: int
    has_steps: bool
    has_sums: bool
    meaning: str

    @property
    def column_bytes(self) -> int:
        """Bytes of entries per column."""
        return prod(self.shape) // self.columns


# In the order of `enum tmac_form`.
PREPARED = {
    prepared.name: prepared
    for prepared in (
        Prepared("tables", "tables", 4, (16,), TABLE_BLOCK, True, True, "lookup tables of the sums of four, 8 bits"),
        Prepared(
            "exact_tables",
            "tables",
            16,
            (2, 4, 16),
            TABLE_BLOCK,
            False,
            True,
            "lookup tables of the sums of four int8 values, 16 bits",
        ),
        Prepared(
            "int8",
            "int8",
            1,
            (),
            TABLE_GROUP,
            False,
            True,
            "int8, one scale per 32 columns; weights are unpacked to int8 in cache",
        ),
        Prepared(
            "exact_int8",
            "int8",
            1,
            (),
            TABLE_GROUP,
            False,
            True,
            "int8, one scale per token; weights are unpacked to int8 in cache",
        ),
        Prepared(
            "bf16",
            "bf16",
            1,
            (2,),
            0,
            False,
            False,
            "bfloat16; weights, scale and zero-point included, become bfloat16 in cache",
        ),
    )
}


@dataclass(frozen=True)
class Form:
    """How a kernel computes: `prepared`, what it takes activations as, and `precision`, what it rounds on the way."""

    name: str
    prepared: str
    precision: str

    @property
    def meaning(self) -> str:
        return PREPARED[self.prepared].meaning


FORMS = {
    form.name: form
    for form in (
        Form("tables", "tables", "rounded"),
        Form("exact_tables", "exact_tables", "exact"),
        Form("fast_tables", "tables", "fast"),
        Form("int8", "int8", "rounded"),
        Form("exact_int8", "exact_int8", "exact"),
        Form("bf16", "bf16", "rounded"),
    )
}
GEMV_FORMS = ("tables", "exact_tables", "fast_tables")
GEMM_FORMS = ("tables", "int8", "exact_int8", "bf16")


def gemv_form(precision: str) -> str:
    """The form of the GEMV kernels of a precision."""
    return next(form for form in GEMV_FORMS if FORMS[form].precision == precision)
