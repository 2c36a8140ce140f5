"""The T-MAC GGUF format: its types, the numbers of its layout, and its metadata keys. The only place for each of them.

`convert` and `kernels` import these facts. The C side gets them from kernels/generate.py, which writes a C header and
the rows of ggml's table of types. This module neither packs nor computes. docs/format.md is the specification.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import TmacError

LAYOUT_VERSION = 1
# Rows whose codes are interleaved, columns per plane line, and bytes per plane line.
TILE_ROWS = 32
CHUNK_COLUMNS = 16
LINE_BYTES = 64
# Of ternary types: columns per block, bytes per row of a block, triples of columns in it, and triples per line.
TRIT_BLOCK, TRIT_BLOCK_BYTES = 128, 27
TRIPLES, LINE_TRIPLES = 43, 4
# The supported bits per code and columns per scale.
BITS = (1, 2, 3, 4)
GROUPS = (32, 64, 128)
# Zero-points are stored in 4.4 fixed point: 16 units are one step of the code.
ZERO_UNITS = 16

# Our ggml type ids lie in [FIRST_TYPE_ID, END_TYPE_ID), a range that neither upstream nor known forks use.
FIRST_TYPE_ID, END_TYPE_ID = 0x200, 0x250
# general.file_type of a file with such types.
FILE_TYPE = 512
ALIGNMENT = 64

# All of our keys begin so.
KEY_PREFIX = "tmac."
LAYOUT_VERSION_KEY = "tmac.layout_version"
SOURCE_KEY = "tmac.source"
# How activations were rounded when the model was trained.
ACTIVATIONS_KEY = "tmac.activations"
ACTIVATIONS_INT8 = "int8_per_token"
# A weight's name ends in WEIGHT_SUFFIX. With another suffix instead, it names the tensor with the weight's one scale or
# the tensor with the order of its columns.
WEIGHT_SUFFIX = ".weight"
SCALE_SUFFIX = ".scale"
ORDER_SUFFIX = ".order"


@dataclass(frozen=True, order=True)
class TmacType:
    """A ggml type of the layout: `bits` per code, one scale per `group` columns, stored zero-points if `asymmetric`.

    Group 0 means one scale for the whole matrix (suffix t), which is stored as a tensor of its own. A type that is
    `ternary` holds three columns in five bits. Its codes are those of 2 bits: 1, 2 and 3 for -1, 0 and +1.
    """

    bits: int
    group: int
    asymmetric: bool
    ternary: bool = False

    @property
    def id(self) -> int:
        """The ggml_type number."""
        low = 2 * (self.group // GROUPS[0]).bit_length() - 2 + int(self.asymmetric) if self.group else 0xF
        return FIRST_TYPE_ID + (0 if self.ternary else 0x10 * self.bits) + low

    @property
    def name(self) -> str:
        """For example `w2g64z`, `w2t`, or of ternary types `t3g128` and `t3t`."""
        codes = "t3" if self.ternary else f"w{self.bits}"
        return f"{codes}g{self.group}{'z' if self.asymmetric else ''}" if self.group else f"{codes}t"

    @property
    def ggml_name(self) -> str:
        """The name of the ggml type, for example `tmac_w2g64z`."""
        return f"tmac_{self.name}"

    @property
    def block_weights(self) -> int:
        """Weights per ggml block; the number of columns of a matrix must be a multiple of it."""
        return max(self.group, TRIT_BLOCK if self.ternary else GROUPS[0])

    @property
    def code_bytes(self) -> int:
        """Bytes of codes per ggml block."""
        if self.ternary:
            return self.block_weights // TRIT_BLOCK * TRIT_BLOCK_BYTES
        return self.block_weights * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        """Bytes of scale and zero-point per ggml block: one fp16 scale and, if asymmetric, one byte; 0 for group 0."""
        return 2 + int(self.asymmetric) if self.group else 0

    @property
    def block_bytes(self) -> int:
        """Bytes per ggml block: codes, scale and zero-point."""
        return self.code_bytes + self.scale_bytes

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_weights

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of a whole matrix of `rows` x `columns` weights."""
        return rows * columns // self.block_weights * self.block_bytes

    def can_hold(self, rows: int, columns: int) -> bool:
        """Whether the type can hold a matrix of `rows` outputs and `columns` inputs."""
        return rows > 0 and columns > 0 and rows % TILE_ROWS == 0 and columns % self.block_weights == 0

    def why_not(self, rows: int, columns: int) -> str:
        """Why it cannot, as a sentence for users; empty if it can."""
        if self.can_hold(rows, columns):
            return ""
        if rows % TILE_ROWS:
            return f"{rows} rows are not a multiple of {TILE_ROWS}"
        return f"{columns} columns are not a multiple of {self.block_weights}"


TERNARY = TmacType(2, 0, False)
# Groups of these columns, and one scale for the whole matrix.
TRIT_GROUPS = (128, 256)
TRIT_TYPES = tuple(TmacType(2, group, False, ternary=True) for group in (*TRIT_GROUPS, 0))
TYPES = (*(TmacType(bits, group, z) for bits in BITS for group in GROUPS for z in (False, True)), TERNARY, *TRIT_TYPES)
TYPES_BY_ID = {kind.id: kind for kind in TYPES}
TYPES_BY_NAME = {kind.name: kind for kind in TYPES}


def type_of(bits: int, group: int, asymmetric: bool, ternary: bool = False) -> TmacType:
    """The type with these properties. Raises TmacError if there is none."""
    wanted = TmacType(bits, group, asymmetric, ternary)
    if wanted not in TYPES:
        raise TmacError(
            f"no T-MAC type holds {'ternary' if ternary else f'{bits}-bit'} weights in groups of {group}",
            f"the layout holds {_either(BITS)} bits in groups of {_either(GROUPS)}, "
            f"and ternary weights in groups of {_either(TRIT_GROUPS)}",
        )
    return wanted


def ternary_type(rows: int, columns: int, group: int) -> TmacType | None:
    """The ternary type with groups of `group` columns (0: none) that can hold such a matrix, if there is one."""
    return next((kind for kind in TRIT_TYPES if kind.group == group and kind.can_hold(rows, columns)), None)


def parse_type(name: str) -> TmacType:
    """The type with this `name`. Raises ValueError for anything else."""
    if name not in TYPES_BY_NAME:
        raise ValueError(f"{name!r} is not a T-MAC weight type; known: {', '.join(TYPES_BY_NAME)}")
    return TYPES_BY_NAME[name]


def symmetric_zero(bits: int) -> int:
    """The zero-point of a symmetric grid in units of 1/16 step. In steps: 0.5, 2, 4, 8, 128 for 1, 2, 3, 4, 8 bits."""
    return ZERO_UNITS // 2 if bits == 1 else ZERO_UNITS << (bits - 1)


def can_hold(rows: int, columns: int, group: int) -> bool:
    """Whether some type can hold a matrix of `rows` outputs and `columns` inputs with groups of `group` (0: none)."""
    step = group or GROUPS[0]
    return step in GROUPS and rows > 0 and columns > 0 and rows % TILE_ROWS == 0 and columns % step == 0


def why_not(rows: int, columns: int, group: int) -> str:
    """Why no type can hold such a matrix, as a sentence for users; empty if one can."""
    if can_hold(rows, columns, group):
        return ""
    if rows % TILE_ROWS:
        return f"{rows} rows are not a multiple of {TILE_ROWS}"
    if group in GROUPS:
        return f"{columns} columns are not a multiple of {group}"
    return f"{columns} columns do not divide into groups of {_either(GROUPS)}"


def _either(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
