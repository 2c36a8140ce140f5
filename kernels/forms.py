"""Forms: how activations are prepared for a kernel, and what the kernel rounds.

Comes in: nothing. Goes out: the sizes of lookup tables, `PRECISIONS`, `PREPARED` and `FORMS`. The C header and
the numpy arrays of activations.py are derived from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..common.format import BITS, TmacType

# Table entries of TABLE_GROUP columns share a step; steps of TABLE_BLOCK columns share a float scale. Of the sizes that
# docs/benchmarks.md compares, 32 is the most exact. It divides every weight group, so one table serves any weight type.
TABLE_GROUP, TABLE_BLOCK = 32, 128
# Shifted left by the highest plane (3), it must still fit in a byte.
LARGEST_STEP = 31
# Lines of ternary tables (twelve columns each) that share a step: two are about as exact as tables of 2 bits.
STEP_LINES = 2

# In the order of `enum tmac_precision`.
ROUNDED, EXACT, FAST = "rounded", "exact", "fast"
PRECISION_MEANINGS = {
    ROUNDED: "tables of 8 bits or, for prompts, what the kernel takes; everything after them is exact or float",
    EXACT: "activations rounded to int8, one scale per token, as BitNet trains; tables hold their sums exactly",
    FAST: "tables of 8 bits, added up by rounding averages: fewer additions, and much less exact",
}
PRECISIONS = tuple(PRECISION_MEANINGS)
# Data types of unprepared activations, in the order of `enum tmac_input`.
INPUTS = ("f32", "f16", "i8")


@dataclass(frozen=True)
class Prepared:
    """The memory layout of one vector of prepared activations.

    kind           names the template that prepares them
    columns, shape the entries of `columns` columns have `shape` bytes
    scale_columns  columns that share a float scale; 0: there are no scales
    has_steps      whether there are 4 words of steps per TABLE_GROUP columns
    has_sums       whether there is one float, the sum of x, per TABLE_GROUP columns
    has_half_sums  whether there is another for each half of them
    """

    name: str
    kind: str
    columns: int
    shape: tuple[int, ...]
    scale_columns: int
    has_steps: bool
    has_sums: bool
    meaning: str
    has_half_sums: bool = False

    @property
    def column_bytes(self) -> int:
        """Bytes of entries per column."""
        return prod(self.shape) // self.columns


# In the order of `enum tmac_form`.
PREPARED = {
    prepared.name: prepared
    for prepared in (
        Prepared(
            "tables",
            "tables",
            4,
            (16,),
            TABLE_BLOCK,
            True,
            True,
            "lookup tables of the sums of four, 8 bits",
            has_half_sums=True,
        ),
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
            "trits",
            "trits",
            TABLE_BLOCK,
            (24, 4, 16),
            TABLE_BLOCK,
            True,
            True,
            "lookup tables of the sums of three with signs or zeros, 8 bits; once more for prompts, without sign",
        ),
        Prepared(
            "exact_trits",
            "trits",
            TABLE_BLOCK,
            (12, 2, 4, 16),
            TABLE_BLOCK,
            False,
            True,
            "lookup tables of the sums of three int8 values, 10 bits",
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
            has_half_sums=True,
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
    """How a kernel computes: from activations `prepared` in which way (a key of PREPARED), with which `precision`."""

    name: str
    prepared: str
    precision: str


FORMS = {
    form.name: form
    for form in (
        Form("tables", "tables", ROUNDED),
        Form("exact_tables", "exact_tables", EXACT),
        Form("fast_tables", "tables", FAST),
        Form("trits", "trits", ROUNDED),
        Form("exact_trits", "exact_trits", EXACT),
        Form("int8", "int8", ROUNDED),
        Form("exact_int8", "exact_int8", EXACT),
        Form("bf16", "bf16", ROUNDED),
    )
}
# Of types with bit-planes, and of ternary ones.
PLANES_GEMV_FORMS, TRITS_GEMV_FORMS = ("tables", "exact_tables", "fast_tables"), ("trits", "exact_trits")
GEMV_FORMS = (*PLANES_GEMV_FORMS, *TRITS_GEMV_FORMS)
GEMM_FORMS = ("tables", "trits", "int8", "exact_int8", "bf16")


def has_table_gemm(kind: TmacType) -> bool:
    """Whether prompts are looked up in tables too. Of more than 4 bits, and with levels, they are multiplied only."""
    return not kind.has_levels and kind.bits <= max(BITS)


def reads(method: str, form: str, kind: TmacType) -> bool:
    """Whether there are kernels of a form, for gemv or gemm, that read weights of a type."""
    if not has_table_gemm(kind):
        return form in {"gemv": ("tables",), "gemm": ("int8", "bf16")}[method]
    return form not in (PLANES_GEMV_FORMS if kind.ternary else TRITS_GEMV_FORMS)


def gemv_form(precision: str, ternary: bool = False) -> str | None:
    """The form of the GEMV kernels with a given precision; None if there is none, as of ternary types for fast."""
    forms = TRITS_GEMV_FORMS if ternary else PLANES_GEMV_FORMS
    return next((form for form in forms if FORMS[form].precision == precision), None)
