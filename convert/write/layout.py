"""QuantLinear <-> the bytes of a T-MAC tensor (layout version 1), in numpy.

In: codes, scales and zero-points of one matrix. Out: one flat byte array, which kernels use unchanged; and the reverse.
docs/format.md specifies the layout. Knows nothing of files, checkpoints or architectures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...common.format import CHUNK_COLUMNS, TILE_ROWS, TRIT_BLOCK, TmacType, type_of
from ..errors import ConvertError
from ..linear import QuantLinear
from .trits import pack_trits, unpack_trits

# The hint of errors that only a reader can cause, by breaking the rules of QuantLinear.
_BUG = "this is a mistake in the reader of this quantization method; please report it"
# Codes to pack or unpack at a time: the temporaries have to fit a second-level cache.
_BLOCK_CODES = 1 << 19


def pack(linear: QuantLinear, out: np.ndarray | None = None) -> np.ndarray:
    """The bytes of one matrix: uint8 [type.nbytes(M, K)], planes then scales then zeros; in `out` if it is given.

    Raises ConvertError when the layout cannot hold the shape, for codes of more than `bits` bits and ternary ones of 0.
    """
    kind = type_of(linear.bits, linear.group, linear.zeros is not None, linear.ternary)
    rows, columns = linear.codes.shape
    if not kind.can_hold(rows, columns):
        raise ConvertError(
            f"the T-MAC layout cannot hold {rows} x {columns} weights in groups of {linear.group}",
            f"rows must be a multiple of {TILE_ROWS} and columns a multiple of {kind.block_weights}",
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
        codes = linear.codes[tiles.start * TILE_ROWS : tiles.stop * TILE_ROWS]
        _check_codes(codes, kind)
        (pack_trits if kind.ternary else _pack_planes)(codes, planes[tiles])
    scales[...] = _tiled(linear.scales)
    if linear.zeros is not None:
        zeros[...] = _tiled(linear.zeros)
    return out


def unpack(data: np.ndarray, rows: int, columns: int, kind: TmacType) -> QuantLinear:
    """The matrix held by `data` (uint8, type.nbytes(rows, columns) of them); the exact inverse of `pack`.

    Raises ConvertError when the number of bytes or the shape does not fit the type.
    """
    if not kind.can_hold(rows, columns) or data.size != kind.nbytes(rows, columns):
        raise ConvertError(
            f"{data.size} bytes are not a {kind.ggml_name} matrix of {rows} x {columns}",
            "the file is damaged or incomplete; convert the checkpoint again",
        )
    planes, scales, zeros = _regions(np.ascontiguousarray(data, np.uint8).reshape(-1), kind, rows, columns)
    codes = np.empty((rows, columns), np.uint8)
    for tiles in _tile_blocks(rows, columns):
        here = codes[tiles.start * TILE_ROWS : tiles.stop * TILE_ROWS]
        (unpack_trits if kind.ternary else _unpack_planes)(planes[tiles], here)
    return QuantLinear(
        codes=codes,
        scales=_untiled(scales),
        zeros=_untiled(zeros) if kind.asymmetric else None,
        bits=kind.bits,
        group=kind.group,
        ternary=kind.ternary,
    )


def _regions(data: np.ndarray, kind: TmacType, rows: int, columns: int):
    """Views into `data`: planes [T, C, bits, 4, 16] uint8, scales [T, K/G, 32] fp16, zeros [T, K/G, 32] uint8.

    Of ternary types [T, K/128, bytes of a block] instead of planes.
    """
    tiles, chunks, groups = rows // TILE_ROWS, columns // CHUNK_COLUMNS, columns // kind.group if kind.group else 0
    scales_at = rows * columns // kind.block_weights * kind.code_bytes
    zeros_at = scales_at + rows * groups * 2
    shape = (columns // TRIT_BLOCK, -1) if kind.ternary else (chunks, kind.bits, 4, 16)
    planes = data[:scales_at].reshape(tiles, *shape)
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


def _check_codes(codes: np.ndarray, kind: TmacType) -> None:
    if codes.max() >> kind.bits:
        raise ConvertError(f"code {codes.max()} needs more than {kind.bits} bits", _BUG)
    if kind.ternary and not codes.all():
        raise ConvertError("code 0 in a ternary matrix, expected 1 to 3: -1, 0 and +1", _BUG)


def _pack_planes(codes: np.ndarray, planes: np.ndarray) -> None:
    """Codes uint8 [32*T, K] into planes uint8 [T, C, bits, 4, 16], in place."""
    tiles, chunks, bits = planes.shape[:3]
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
