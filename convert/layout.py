"""QuantLinear <-> the bytes of a T-MAC tensor (layout version 1), in numpy, both directions.

Comes in: codes, scales and zeros of one matrix. Goes out: one flat byte array that kernels use as it lies.
Also the only list of T-MAC types in Python. Knows nothing of files, checkpoints or architectures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .checkpoint import QuantLinear
from .errors import ConvertError

LAYOUT_VERSION = 1
TILE_ROWS = 32
CHUNK_COLUMNS = 16
GROUPS = (32, 64, 128)
BITS = (1, 2, 3, 4)
TYPE_ID_BASE = 0x200

# No checkpoint can cause these, only a reader that does not keep to QuantLinear.
_BUG = "this is a mistake in the reader of this quantization method; please report it"
# Bounds the temporaries of pack and unpack, and keeps them inside a second-level cache.
_BLOCK_CODES = 1 << 19


@dataclass(frozen=True)
class TmacType:
    """A ggml tensor type of T-MAC: `bits` 1..4, `group` columns per scale, with zero-points or without.

    Group 0 is the tensor-scale kind: one scale for the whole tensor, which is another tensor of the file.
    """

    bits: int
    group: int
    asymmetric: bool

    @property
    def id(self) -> int:
        """The ggml_type number, 0x210..0x245."""
        low = 2 * GROUPS.index(self.group) + int(self.asymmetric) if self.group else 0xF
        return TYPE_ID_BASE + 0x10 * self.bits + low

    @property
    def name(self) -> str:
        """The ggml type name, for example `tmac_w2g64z`."""
        return f"tmac_w{self.bits}" + (f"g{self.group}{'z' if self.asymmetric else ''}" if self.group else "t")

    @property
    def block_size(self) -> int:
        """Weights per ggml block; also what the columns of a matrix must be a multiple of."""
        return self.group or GROUPS[0]

    @property
    def block_bytes(self) -> int:
        """Bytes per ggml block: the codes, and in groups one fp16 scale and, if asymmetric, one zero-point byte."""
        return self.block_size * self.bits // 8 + (2 + int(self.asymmetric) if self.group else 0)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_size

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of a whole matrix of `rows` x `columns` weights."""
        return rows * columns // self.block_size * self.block_bytes


TERNARY = TmacType(2, 0, False)
TYPES = (*(TmacType(bits, group, z) for bits in BITS for group in GROUPS for z in (False, True)), TERNARY)
TYPES_BY_ID = {t.id: t for t in TYPES}


def type_of(bits: int, group: int, asymmetric: bool) -> TmacType:
    """The type with these properties. Raises ConvertError when the layout has none."""
    wanted = TmacType(bits, group, asymmetric)
    if wanted not in TYPES:
        raise ConvertError(
            f"no T-MAC type holds {bits}-bit weights in groups of {group}",
            f"the layout holds {_words(BITS)} bits in groups of {_words(GROUPS)}",
        )
    return wanted


def can_hold(rows: int, columns: int, group: int) -> bool:
    """Whether a matrix of `rows` outputs and `columns` inputs in groups of `group` columns (0: one) has a layout."""
    step = group or GROUPS[0]
    return step in GROUPS and rows > 0 and columns > 0 and rows % TILE_ROWS == 0 and columns % step == 0


def why_not(rows: int, columns: int, group: int) -> str:
    """Why the layout cannot hold such a matrix, for people; empty if it can."""
    if can_hold(rows, columns, group):
        return ""
    if rows % TILE_ROWS:
        return f"{rows} rows are not a multiple of {TILE_ROWS}"
    if group in GROUPS:
        return f"{columns} columns are not a multiple of {group}"
    return f"{columns} columns do not divide into groups of {_words(GROUPS)}"


def pack(linear: QuantLinear, out: np.ndarray | None = None) -> np.ndarray:
    """The bytes of one matrix: uint8 [type.nbytes(M, K)], planes then scales then zeros; in `out` if it is given.

    Raises ConvertError when the layout cannot hold the shape or a code needs more than `bits` bits.
    """
    kind = type_of(linear.bits, linear.group, linear.zeros is not None)
    rows, columns = linear.codes.shape
    if not can_hold(rows, columns, linear.group):
        raise ConvertError(
            f"the T-MAC layout cannot hold {rows} x {columns} weights in groups of {linear.group}",
            f"rows must be a multiple of {TILE_ROWS} and columns a multiple of the group",
        )
    groups = columns // linear.group if linear.group else 0
    if linear.scales.dtype != np.float16 or linear.scales.shape != (rows, groups):
        found = f"{linear.scales.dtype} {linear.scales.shape}"
        raise ConvertError(f"scales are {found}, expected float16 {(rows, groups)}", _BUG)
    if linear.zeros is not None and (linear.zeros.dtype != np.uint8 or linear.zeros.shape != (rows, groups)):
        found = f"{linear.zeros.dtype} {linear.zeros.shape}"
        raise ConvertError(f"zeros are {found}, expected uint8 {(rows, groups)}", _BUG)
    out = np.empty(kind.nbytes(rows, columns), np.uint8) if out is None else out
    planes, scales, zeros = _regions(out, kind, rows, columns)
    for tiles in _tile_blocks(rows, columns):
        _pack_planes(linear.codes[tiles.start * TILE_ROWS : tiles.stop * TILE_ROWS], planes[tiles])
    scales[...] = _tiled(linear.scales)
    if linear.zeros is not None:
        zeros[...] = _tiled(linear.zeros)
    return out


def unpack(data: np.ndarray, rows: int, columns: int, kind: TmacType) -> QuantLinear:
    """The matrix held by `data` (uint8, type.nbytes(rows, columns) of them); the exact inverse of `pack`.

    Raises ConvertError when the number of bytes or the shape does not fit the type.
    """
    if not can_hold(rows, columns, kind.group) or data.size != kind.nbytes(rows, columns):
        raise ConvertError(
            f"{data.size} bytes are not a {kind.name} matrix of {rows} x {columns}",
            "the file is damaged or incomplete; convert the checkpoint again",
        )
    planes, scales, zeros = _regions(np.ascontiguousarray(data, np.uint8).reshape(-1), kind, rows, columns)
    codes = np.empty((rows, columns), np.uint8)
    for tiles in _tile_blocks(rows, columns):
        _unpack_planes(planes[tiles], codes[tiles.start * TILE_ROWS : tiles.stop * TILE_ROWS])
    return QuantLinear(
        codes=codes,
        scales=_untiled(scales),
        zeros=_untiled(zeros) if kind.asymmetric else None,
        bits=kind.bits,
        group=kind.group,
    )


def _regions(data: np.ndarray, kind: TmacType, rows: int, columns: int):
    """Views into `data`: planes [T, C, bits, 4, 16] uint8, scales [T, K/G, 32] fp16, zeros [T, K/G, 32] uint8."""
    tiles, chunks, groups = rows // TILE_ROWS, columns // CHUNK_COLUMNS, columns // kind.group if kind.group else 0
    scales_at = rows * columns * kind.bits // 8
    zeros_at = scales_at + rows * groups * 2
    planes = data[:scales_at].reshape(tiles, chunks, kind.bits, 4, 16)
    scales = data[scales_at:zeros_at].view("<f2").reshape(tiles, groups, TILE_ROWS)
    zeros = data[zeros_at:].reshape(tiles, groups, TILE_ROWS) if kind.asymmetric else None
    return planes, scales, zeros


def _tiled(values: np.ndarray) -> np.ndarray:
    """[M, K/G] -> [T, K/G, 32]."""
    return values.reshape(values.shape[0] // TILE_ROWS, TILE_ROWS, values.shape[1]).swapaxes(1, 2)


def _untiled(values: np.ndarray) -> np.ndarray:
    """[T, K/G, 32] -> [M, K/G], a copy in native byte order."""
    flat = values.swapaxes(1, 2).reshape(values.shape[0] * TILE_ROWS, values.shape[1])
    return np.ascontiguousarray(flat, values.dtype.newbyteorder("="))


def _tile_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over all tiles, each of about _BLOCK_CODES codes."""
    tiles = rows // TILE_ROWS
    step = max(1, _BLOCK_CODES // (TILE_ROWS * columns))
    return (slice(i, min(i + step, tiles)) for i in range(0, tiles, step))


def _pack_planes(codes: np.ndarray, planes: np.ndarray) -> None:
    """Codes uint8 [32*T, K] into planes uint8 [T, C, bits, 4, 16], in place."""
    tiles, chunks, bits = planes.shape[:3]
    if codes.max() >> bits:
        raise ConvertError(f"code {codes.max()} needs more than {bits} bits", _BUG)
    # One 32-bit word per 4 columns: byte u is column u. Axes: tile, half, r, chunk, l.
    words = np.ascontiguousarray(codes, np.uint8).view("<u4").reshape(tiles, 2, 16, chunks, 4)
    # Row r in the low nibbles, row 16 + r in the high ones.
    both = words[:, 1] << 4
    both |= words[:, 0]
    for plane in range(bits):
        bit = both >> plane
        bit &= 0x11111111
        # Bits 0 and 4 of byte u go to bits 24 + u and 28 + u; the product's other terms fall below 24 or above 31.
        bit *= np.uint32(0x01020408)
        bit >>= 24
        planes[:, :, plane] = bit.astype(np.uint8).transpose(0, 2, 3, 1)


def _unpack_planes(planes: np.ndarray, codes: np.ndarray) -> None:
    """Planes uint8 [T, C, bits, 4, 16] into codes uint8 [32*T, K], in place."""
    tiles, chunks, bits = planes.shape[:3]
    words = np.zeros((tiles, chunks, 4, 2, 16), "<u4")
    for plane in range(bits):
        pairs = planes[:, :, plane].astype(np.uint32)
        for half in (0, 1):
            # The product puts nibble bit u at bit 8*u.
            words[..., half, :] |= ((pairs >> 4 * half & 15) * np.uint32(0x00204081) & 0x01010101) << plane
    ordered = np.ascontiguousarray(words.transpose(0, 3, 4, 1, 2))
    codes[...] = ordered.reshape(tiles * TILE_ROWS, chunks * 4).view(np.uint8)


def _words(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
