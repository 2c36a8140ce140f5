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
    "size_t": ctypes.c_size_t,
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
        Field("int", "block_cols", "columns of a ggml block"),
        Field("int", "code_bytes", "bytes of codes of a ggml block"),
        Field("int", "group", "columns per scale; 0: one scale for the whole tensor, which is not stored with it"),
        Field("enum tmac_grid", "grid"),
    ),
)

MATRIX = Struct(
    "tmac_matrix",
    (
        "Weights W[rows, cols] in the T-MAC layout. rows % TMAC_TILE_ROWS == 0, cols % group == 0, and with levels",
        "cols % TMAC_LEVELS_BLOCK == 0. What a type does not have is NULL.",
        "The alignment is at least that of uint16_t; 64 bytes are faster.",
    ),
    (
        Field("const uint8_t *", "planes"),
        Field("const uint16_t *", "scales", "fp16"),
        Field("const uint8_t *", "zeros", "4.4 fixed point"),
        Field("const uint16_t *", "minima", "fp16"),
        Field("const uint8_t *", "levels", "blocks of fp16 numbers and the levels of groups"),
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
        Field("float *", "half_sum", "tables and int8: of x per half of TMAC_TABLE_GROUP columns"),
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
        Field("uint32_t", "has_half_sums"),
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
        Field("enum tmac_precision", "precision"),
        Field("enum tmac_form", "form", "of its prepared activations"),
        Field("int", "crossing", "GEMM: the place of its number in tmac_crossings.least_tokens"),
        Field("tmac_prepare_fn", "prepare"),
        Field("tmac_gemv_fn", "gemv", "NULL for a GEMM"),
        Field("tmac_gemm_fn", "gemm", "NULL for a GEMV"),
    ),
)

CROSSINGS = Struct(
    "tmac_crossings",
    ("From how many tokens on GEMM kernels serve.",),
    (
        Field("const char *", "name", "for people"),
        Field("const char *", "cpu", "as tmac_cpu_name names the CPU that it is for; NULL: for every CPU"),
        Field("uint32_t", "cpu_features", "bits of tmac_cpu_features() that this CPU must have, too"),
        Field("const uint8_t *", "least_tokens", "by tmac_kernel.crossing; 0: only when forced by name"),
    ),
)

CACHE = Struct(
    "tmac_cache",
    (
        "K or V of an attention: vectors of `width` values for each sequence, position and head.",
        "width % 16 == 0, and % 32 for types of blocks, which may lie anywhere; others are aligned to their values.",
    ),
    (
        Field("const uint8_t *", "data"),
        Field("enum tmac_cache_type", "type"),
        Field("int64_t", "width"),
        Field("int64_t", "position_bytes", "from one position to the next"),
        Field("int64_t", "head_bytes"),
        Field("int64_t", "sequence_bytes"),
    ),
)

ATTENTION = Struct(
    "tmac_attention",
    (
        "out = softmax(cap(scale * Q K^T) + slope * mask) V for every sequence and head, where cap(s) = soft_cap *",
        "tanh(s / soft_cap). Query head h reads head h / (heads / kv_heads) of K and V.",
    ),
    (
        Field("const float *", "q", "vectors of keys->width floats"),
        Field("int64_t", "query_bytes", "from one query to the next"),
        Field("int64_t", "query_head_bytes"),
        Field("int64_t", "query_sequence_bytes"),
        Field("const struct tmac_cache *", "keys"),
        Field("const struct tmac_cache *", "values"),
        Field("const uint16_t *", "mask", "fp16, a row of all positions per query; NULL: none"),
        Field("int64_t", "mask_query_bytes"),
        Field("int64_t", "mask_head_bytes"),
        Field("int64_t", "mask_heads", "head h has mask h % mask_heads"),
        Field("int64_t", "mask_sequence_bytes"),
        Field("int64_t", "mask_sequences", "sequence s has mask s % mask_sequences"),
        Field("const float *", "sinks", "one score per head that has weight but no value; NULL: none"),
        Field("float *", "out", "[sequences, queries, heads, values->width]"),
        Field("int64_t", "sequences"),
        Field("int64_t", "queries"),
        Field("int64_t", "heads"),
        Field("int64_t", "kv_heads"),
        Field("int64_t", "positions"),
        Field("float", "scale"),
        Field("float", "soft_cap", "0: none"),
        Field("float", "largest_bias", "of ALiBi, from which the slopes follow; 0: every slope is 1"),
    ),
)

ATTENTION_PLAN = Struct(
    "tmac_attention_plan",
    (
        "How an attention is cut into items. It depends on shapes and types only, so results do not depend on threads.",
        "An item is some KV heads of a sequence, some of the queries and a range of positions.",
    ),
    (
        Field("int", "is_tiled", "many rows: blocks of K and V are unpacked once for all of them"),
        Field("int64_t", "group", "query heads that share a KV head"),
        Field("int64_t", "item_heads", "KV heads of an item"),
        Field("int64_t", "head_parts"),
        Field("int64_t", "item_queries"),
        Field("int64_t", "query_parts"),
        Field("int64_t", "range_positions"),
        Field("int64_t", "ranges"),
        Field("int64_t", "items"),
        Field("int64_t", "rows", "of the result: sequences * heads * queries"),
        Field("int64_t", "state_floats", "of a row: sum of V, then origin and sum of weights"),
        Field("size_t", "scratch_bytes", "that the computation of an item needs"),
        Field("size_t", "shared_bytes", "where items leave the states of their rows if there are several ranges"),
    ),
)

ATTENTION_KERNEL = Struct(
    "tmac_attention_kernel",
    ("A row of the catalog of attention kernels.",),
    (
        Field("const char *", "name"),
        Field("const char *", "isa"),
        Field("uint32_t", "cpu_features", "bits of tmac_cpu_features() that it needs"),
        Field("int", "tiled_from_rows", "rows (queries * heads that share a KV head) from which on it tiles"),
        Field("tmac_attend_fn", "attend"),
    ),
)

DELTA_NET = Struct(
    "tmac_delta_net",
    (
        "Gated delta nets. For each token, sequence and head in turn, with a = exp(gate):",
        "  S <- a S + beta (v - a S k) k^T;  out = scale S q",
        "Head h has the query and key of group h % groups. width % (2 * TMAC_DELTA_ROWS) == 0. A state is `width` rows",
        "of `width` floats, one row for each value, and the heads of a sequence lie one after the other.",
    ),
    (
        Field("const float *", "q", "vectors of `width` floats, like k and v"),
        Field("int64_t", "q_token_bytes", "from one token to the next"),
        Field("int64_t", "q_head_bytes"),
        Field("int64_t", "q_sequence_bytes"),
        Field("const float *", "k"),
        Field("int64_t", "k_token_bytes"),
        Field("int64_t", "k_head_bytes"),
        Field("int64_t", "k_sequence_bytes"),
        Field("const float *", "v"),
        Field("int64_t", "v_token_bytes"),
        Field("int64_t", "v_head_bytes"),
        Field("int64_t", "v_sequence_bytes"),
        Field("const float *", "gates", "[sequences, tokens, heads]"),
        Field("const float *", "betas", "[sequences, tokens, heads]"),
        Field("const float *", "from", "states before the first token"),
        Field("int64_t", "from_sequence_bytes"),
        Field("float *", "to", "states after the last token; may be `from`"),
        Field("int64_t", "to_sequence_bytes"),
        Field("int64_t", "snapshots", "the states after so many of the last tokens are kept, at most"),
        Field("int64_t", "snapshot_bytes", "from `to` to the states of one token before"),
        Field("float *", "out", "[sequences, tokens, heads, width]"),
        Field("int64_t", "width"),
        Field("int64_t", "heads"),
        Field("int64_t", "groups"),
        Field("int64_t", "tokens"),
        Field("int64_t", "sequences"),
        Field("float", "scale"),
    ),
)

CONVOLUTION = Struct(
    "tmac_convolution",
    (
        "The convolution before delta nets: out[t] = sum over j of weights[j] * window[t + j], for each channel.",
        "channels % TMAC_CHANNEL_BLOCK == 0. A window is the inputs of taps - 1 tokens before, then those of x.",
    ),
    (
        Field("const float *", "before", "[channels, taps - 1] of each sequence"),
        Field("int64_t", "before_sequence_bytes"),
        Field("const float *", "x", "vectors of `channels` floats"),
        Field("int64_t", "x_token_bytes", "from one token to the next"),
        Field("int64_t", "x_sequence_bytes"),
        Field("float *", "window", "[sequences, channels, taps - 1 + tokens]"),
        Field("const float *", "weights", "[channels, taps]"),
        Field("float *", "out", "[sequences, tokens, channels]"),
        Field("int64_t", "channels"),
        Field("int64_t", "taps"),
        Field("int64_t", "tokens"),
        Field("int64_t", "sequences"),
    ),
)

DELTA_NET_KERNEL = Struct(
    "tmac_delta_net_kernel",
    ("A row of the catalog of kernels of delta nets.",),
    (
        Field("const char *", "name"),
        Field("const char *", "isa"),
        Field("uint32_t", "cpu_features", "bits of tmac_cpu_features() that it needs"),
        Field("tmac_delta_net_fn", "update"),
        Field("tmac_convolution_fn", "fill"),
        Field("tmac_convolution_fn", "convolve"),
    ),
)

ROTATION = Struct(
    "tmac_rotation",
    (
        "How rows of activations are rotated before a product with folded weights: y = H(signs * P x), where H is the",
        "Walsh-Hadamard transform of each `block` columns in turn, and P brings [repeats, groups, head] into the order",
        "[groups, repeats, head].",
    ),
    (
        Field("int64_t", "width", "columns"),
        Field("int64_t", "block", "a power of two that divides the width"),
        Field("int64_t", "repeats", "1: no permutation; else repeats * groups * head == width"),
        Field("int64_t", "groups"),
        Field("int64_t", "head"),
        Field("float", "scale", "1 / sqrt(block)"),
        Field("const float *", "signs", "+1 or -1 for each column; NULL: all +1"),
    ),
)

ROTATION_KERNEL = Struct(
    "tmac_rotation_kernel",
    ("A row of the catalog of rotation kernels.",),
    (
        Field("const char *", "name"),
        Field("const char *", "isa"),
        Field("uint32_t", "cpu_features", "bits of tmac_cpu_features() that it needs"),
        Field("tmac_transform_fn", "transform"),
    ),
)

STRUCTS = (
    TYPE,
    MATRIX,
    VECTOR,
    ACTIVATIONS,
    FORM_SIZES,
    KERNEL,
    CROSSINGS,
    CACHE,
    ATTENTION,
    ATTENTION_PLAN,
    ATTENTION_KERNEL,
    DELTA_NET,
    CONVOLUTION,
    DELTA_NET_KERNEL,
    ROTATION,
    ROTATION_KERNEL,
)
