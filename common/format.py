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
# The bits per code and columns per scale of grids with zero-points, fixed or stored.
BITS = (1, 2, 3, 4)
GROUPS = (32, 64, 128)
# Zero-points are stored in 4.4 fixed point: 16 units are one step of the code.
ZERO_UNITS = 16
# Of types with scales of two levels: columns of a block, whose scales lie together.
LEVELS_BLOCK = 256
# Bits -> the lowest and the highest level of a scale; a minimum's is 0 to the same.
LEVEL_RANGES = {2: (0, 15), 3: (-32, 31), 4: (0, 63), 5: (0, 63), 6: (-128, 127)}

# Our ggml type ids lie in [FIRST_TYPE_ID, END_TYPE_ID), a range that neither upstream nor known forks use.
FIRST_TYPE_ID, END_TYPE_ID = 0x200, 0x270
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


# How the weights of a group follow from their codes q. In the order of `enum tmac_grid`.
#   symmetric      s * (q - fixed zero-point)
#   zeros          s * (q - stored zero-point)
#   minima         s * q + stored minimum
#   levels         d * level * (q - fixed zero-point): d of a block, a small integer for each group
#   levels_minima  d * level * q - dmin * minimum level
SYMMETRIC, ZEROS, MINIMA, LEVELS, LEVELS_MINIMA = GRIDS = ("symmetric", "zeros", "minima", "levels", "levels_minima")
GRID_SUFFIXES = {SYMMETRIC: "", ZEROS: "z", MINIMA: "m", LEVELS: "k", LEVELS_MINIMA: "km"}


@dataclass(frozen=True, order=True)
class TmacType:
    """A ggml type of the layout: `bits` per code, one scale per `group` columns, and a `grid`, one of GRIDS.

    Group 0 means one scale for the whole matrix (suffix t), which is stored as a tensor of its own. A type that is
    `ternary` holds three columns in five bits. Its codes are those of 2 bits: 1, 2 and 3 for -1, 0 and +1.
    """

    bits: int
    group: int
    grid: str = SYMMETRIC
    ternary: bool = False

    @property
    def asymmetric(self) -> bool:
        """Whether each group has a stored zero-point."""
        return self.grid == ZEROS

    @property
    def has_minima(self) -> bool:
        return self.grid in (MINIMA, LEVELS_MINIMA)

    @property
    def has_levels(self) -> bool:
        """Whether scales have two levels, as those of llama.cpp's k-quants."""
        return self.grid in (LEVELS, LEVELS_MINIMA)

    @property
    def packs_levels(self) -> bool:
        """Whether the levels of a group's scale and minimum are the halves of one byte."""
        return self.grid == LEVELS_MINIMA and self.bits == 2

    @property
    def id(self) -> int:
        """The ggml_type number."""
        size = (self.group // GROUPS[0]).bit_length() - 1
        low = {SYMMETRIC: 2 * size, ZEROS: 2 * size + 1, MINIMA: 6 + size, LEVELS: 9, LEVELS_MINIMA: 9}[self.grid]
        return FIRST_TYPE_ID + (0 if self.ternary else 0x10 * self.bits) + (low if self.group else 0xF)

    @property
    def name(self) -> str:
        """For example `w2g64z`, `w2t`, `w4g32km`, or of ternary types `t3g128` and `t3t`."""
        codes = "t3" if self.ternary else f"w{self.bits}"
        return f"{codes}g{self.group}{GRID_SUFFIXES[self.grid]}" if self.group else f"{codes}t"

    @property
    def ggml_name(self) -> str:
        """The name of the ggml type, for example `tmac_w2g64z`."""
        return f"tmac_{self.name}"

    @property
    def block_weights(self) -> int:
        """Weights per ggml block; the number of columns of a matrix must be a multiple of it."""
        if self.has_levels:
            return LEVELS_BLOCK
        return max(self.group, TRIT_BLOCK if self.ternary else GROUPS[0])

    @property
    def code_bytes(self) -> int:
        """Bytes of codes per ggml block."""
        if self.ternary:
            return self.block_weights // TRIT_BLOCK * TRIT_BLOCK_BYTES
        return self.block_weights * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        """Bytes of scales and what belongs to them per ggml block.

        An fp16 scale, and a byte of a zero-point or an fp16 minimum; 0 for group 0. With levels one or two fp16
        numbers, and for each group a byte, or two of types with minima of more than 2 bits.
        """
        if self.has_levels:
            per_group = 2 if self.has_minima and not self.packs_levels else 1
            return 2 * (1 + self.has_minima) + self.block_weights // self.group * per_group
        return 2 + {SYMMETRIC: 0, ZEROS: 1, MINIMA: 2}[self.grid] if self.group else 0

    @property
    def block_bytes(self) -> int:
        """Bytes per ggml block: codes, scales and what belongs to them."""
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


TERNARY = TmacType(2, 0)
# Groups of these columns, and one scale for the whole matrix.
TRIT_GROUPS = (128, 256)
TRIT_TYPES = tuple(TmacType(2, group, ternary=True) for group in (*TRIT_GROUPS, 0))
# What llama.cpp's Q5_0, Q5_1 and k-quants hold.
FIVE_BITS = (TmacType(5, 32), TmacType(5, 32, MINIMA))
LEVEL_TYPES = (
    TmacType(2, 16, LEVELS_MINIMA),
    TmacType(3, 16, LEVELS),
    TmacType(4, 32, LEVELS_MINIMA),
    TmacType(5, 32, LEVELS_MINIMA),
    TmacType(6, 16, LEVELS),
)
TYPES = (
    *(TmacType(bits, group, grid) for bits in BITS for group in GROUPS for grid in (SYMMETRIC, ZEROS, MINIMA)),
    TERNARY,
    *TRIT_TYPES,
    *FIVE_BITS,
    *LEVEL_TYPES,
)
TYPES_BY_ID = {kind.id: kind for kind in TYPES}
# One type with levels of each width has a place. 6 bits in groups of 32 would overflow sums of 16 bits (gemv/neon.c).
assert len(TYPES_BY_ID) == len(TYPES) and all(kind.group == 16 for kind in TYPES if kind.bits == 6)
TYPES_BY_NAME = {kind.name: kind for kind in TYPES}


def type_of(bits: int, group: int, grid: str = SYMMETRIC, ternary: bool = False) -> TmacType:
    """The type with these properties. Raises TmacError if there is none."""
    wanted = TmacType(bits, group, grid, ternary)
    if wanted not in TYPES:
        raise TmacError(
            f"no T-MAC type holds {'ternary' if ternary else f'{bits}-bit'} weights in groups of {group}",
            f"with zero-points the layout holds {_either(BITS)} bits in groups of {_either(GROUPS)}, "
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
    """The fixed zero-point in units of 1/16 step. In steps: 0.5, 2, 4, 8, 16, 32, 128 for 1 to 6 and 8 bits."""
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
