"""The C structures of the kernels' interface, as data.

Comes in: nothing. Goes out: `Struct`s with their C text and their ctypes classes. The C header, native.py and the
worker's protocol are derived from these. The functions that use them are declared in c/interface/tmac.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

# C types of fields -> ctypes. Enumerations are ints; other pointers are addresses.
_CTYPES = {
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
    "const char *": ctypes.c_char_p,
}


@dataclass(frozen=True)
class Field:
    """A field of a C structure; `comment` is printed in the C header."""

    c_type: str
    name: str
    comment: str = ""

    @property
    def ctype(self) -> type:
        if self.c_type.startswith("enum "):
            return ctypes.c_int
        return _CTYPES.get(self.c_type, ctypes.c_void_p)

    @property
    def is_number(self) -> bool:
        """Whether the field is a plain number, which means the same in another process; a pointer does not."""
        return self.ctype not in (ctypes.c_void_p, ctypes.c_char_p)

    @property
    def text(self) -> str:
        space = "" if self.c_type.endswith("*") else " "
        return f"    {self.c_type}{space}{self.name};{f' // {self.comment}' if self.comment else ''}"


@dataclass(frozen=True)
class Struct:
    """A C structure `struct <name>`; the lines of `comment` are printed above it in the C header."""

    name: str
    comment: tuple[str, ...]
    fields: tuple[Field, ...]

    @property
    def text(self) -> str:
        comment = [f"// {line}" for line in self.comment]
        return "\n".join([*comment, f"struct {self.name} {{", *(field.text for field in self.fields), "};"])

    def as_ctypes(self) -> type[ctypes.Structure]:
        """A ctypes class with the same fields."""
        return type(self.name, (ctypes.Structure,), {"_fields_": [(field.name, field.ctype) for field in self.fields]})


TYPE = Struct(
    "tmac_type",
    ("A weight type of the layout.",),
    (
        Field("const char *", "name", "of the ggml type"),
        Field("uint32_t", "id", "of the ggml type"),
        Field("int", "bits"),
        Field("int", "group", "columns per scale; 0: one scale for the whole tensor, which is not stored with it"),
        Field("int", "has_zeros"),
    ),
)

MATRIX = Struct(
    "tmac_matrix",
    (
        "Weights W[rows, cols] in the T-MAC layout. rows % TMAC_TILE_ROWS == 0, cols % group == 0.",
        "The alignment is at least that of uint16_t; 64 bytes are faster.",
    ),
    (
        Field("const uint8_t *", "planes"),
        Field("const uint16_t *", "scales", "fp16; NULL for tensor-scale types"),
        Field("const uint8_t *", "zeros", "4.4 fixed point; NULL for symmetric types"),
        Field("int64_t", "rows"),
        Field("int64_t", "cols"),
    ),
)

VECTOR = Struct(
    "tmac_vector",
    ("Activations x[cols].",),
    (
        Field("const void *", "data"),
        Field("enum tmac_input", "input"),
        Field("float", "scale", "of TMAC_I8: x[k] = scale * data[k]"),
        Field("int64_t", "cols"),
    ),
)

ACTIVATIONS = Struct(
    "tmac_activations",
    (
        "One vector of activations, prepared in one form. Entry i of the table of quad q stands for a sum T of four",
        "activations: x[4q+u] is added if bit u of i is 1, and subtracted if it is 0.",
        "  tables:       T = entry * step * 2 * scale, where entry is byte 16q+i, signed",
        "  exact tables: T = (low + 256 * high) * 2 * scale * output_scale, where low (unsigned) is byte 16(q%4)+i and",
        "                high (signed) is byte 64+16(q%4)+i of the 128 bytes of chunk q/4; scale is 0.5",
        "  int8:         x[k] = scale * entry, where entry is byte k, signed",
        "  exact int8:   x[k] = output_scale * entry; scale is 1",
        "  bf16:         x[k] is the two bytes 2k, 2k+1",
    ),
    (
        Field("uint8_t *", "entries"),
        Field(
            "uint32_t *",
            "steps",
            "tables: 4 words per TMAC_TABLE_GROUP columns; each byte of word b, for plane b, is step << b",
        ),
        Field(
            "float *", "scale", "tables: one per TMAC_TABLE_BLOCK columns; int8: one per TMAC_TABLE_GROUP; bf16: none"
        ),
        Field(
            "float *",
            "sum",
            "of x per TMAC_TABLE_GROUP columns; tables: unrounded, int8: rounded, exact: in units of output_scale",
        ),
        Field("float *", "output_scale", "exact: scale of the int8 activations"),
    ),
)

FORM_SIZES = Struct(
    "tmac_form_sizes",
    ("The sizes of the arrays of activations that are prepared in a form.",),
    (
        Field("uint32_t", "column_bytes", "of entries per column"),
        Field("uint32_t", "scale_columns", "columns per scale; 0: no scales"),
        Field("uint32_t", "has_steps"),
        Field("uint32_t", "has_sums"),
    ),
)

KERNEL = Struct(
    "tmac_kernel",
    ("A row of the catalog: one kernel.",),
    (
        Field("const char *", "name"),
        Field("const char *", "isa"),
        Field("const struct tmac_type *", "type", "that it serves"),
        Field("uint32_t", "cpu_features", "bits of tmac_cpu_features() that it needs"),
        Field("uint32_t", "usual_features", "bits that it also needs unless it is forced by name"),
        Field("enum tmac_precision", "precision"),
        Field("enum tmac_form", "form", "of its prepared activations"),
        Field(
            "int",
            "least_tokens",
            "1: GEMV; more: GEMM, chosen from so many tokens on; 0: GEMM, only when forced by name",
        ),
        Field("tmac_prepare_fn", "prepare"),
        Field("tmac_gemv_fn", "gemv", "NULL for a GEMM"),
        Field("tmac_gemm_fn", "gemm", "NULL for a GEMV"),
    ),
)

STRUCTS = (TYPE, MATRIX, VECTOR, ACTIVATIONS, FORM_SIZES, KERNEL)
