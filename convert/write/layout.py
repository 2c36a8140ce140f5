"""QuantLinear <-> the bytes of a T-MAC tensor (layout version 1), in numpy.

In: codes, scales and so on of one matrix. Out: one flat byte array, which kernels use unchanged; and the reverse.
docs/format.md specifies the layout. Knows nothing of files, checkpoints or architectures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...common.format import CHUNK_COLUMNS, LEVEL_RANGES, LEVELS_BLOCK, TILE_ROWS, TRIT_BLOCK, TmacType, type_of
from ..errors import ConvertError
from ..linear import QuantLinear
from .trits import pack_trits, unpack_trits

# The hint of errors that only a reader can cause, by breaking the rules of QuantLinear.
_BUG = "this is a mistake in the reader of this quantization method; please report it"
# Codes to pack or unpack at a time: all temporaries together have to fit a second-level cache.
_BLOCK_CODES = 1 << 18


def pack(linear: QuantLinear, out: np.ndarray | None = None) -> np.ndarray:
    """The bytes of one matrix: uint8 [type.nbytes(M, K)], planes, then scales and so on; in `out` if given.

    Raises ConvertError when the layout cannot hold the shape, for codes of more than `bits` bits and ternary ones of 0.
    """
    kind = type_of(linear.bits, linear.group, linear.grid, linear.ternary)
    rows, columns = linear.codes.shape
    if not kind.can_hold(rows, columns):
        raise ConvertError(
            f"the T-MAC layout cannot hold {rows} x {columns} weights in groups of {linear.group}",
            f"rows must be a multiple of {TILE_ROWS} and columns a multiple of {kind.block_weights}",
        )
    expected = _arrays(kind, rows, columns)
    for name, (dtype, shape) in expected.items():
        values = getattr(linear, name)
        if values.dtype != dtype or values.shape != shape:
            raise ConvertError(f"{name} are {values.dtype} {values.shape}, expected {np.dtype(dtype)} {shape}", _BUG)
    out = np.empty(kind.nbytes(rows, columns), np.uint8) if out is None else out
    planes, rest = _regions(out, kind, rows, columns)
    for tiles in _tile_blocks(rows, columns):
        codes = linear.codes[tiles.start * TILE_ROWS : tiles.stop * TILE_ROWS]
        _check_codes(codes, kind)
        (pack_trits if kind.ternary else _pack_planes)(codes, planes[tiles])
    arrays = {name: getattr(linear, name) for name in expected}
    if kind.has_minima and kind.has_levels:
        _check_levels(arrays, LEVEL_RANGES[kind.bits][1])
    if kind.packs_levels:
        arrays["levels"] = arrays["levels"].view(np.uint8) | arrays.pop("minimum_levels") << 4
    for name, values in arrays.items():
        rest[name][...] = _tiled(values).view(rest[name].dtype).reshape(rest[name].shape)
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
    planes, rest = _regions(np.ascontiguousarray(data, np.uint8).reshape(-1), kind, rows, columns)
    codes = np.empty((rows, columns), np.uint8)
    for tiles in _tile_blocks(rows, columns):
        here = codes[tiles.start * TILE_ROWS : tiles.stop * TILE_ROWS]
        (unpack_trits if kind.ternary else _unpack_planes)(planes[tiles], here)
    arrays = {name: _untiled(values) for name, values in rest.items()}
    if kind.packs_levels:
        arrays["minimum_levels"] = arrays["levels"] >> 4
        arrays["levels"] &= 15
    if kind.has_levels:
        arrays["levels"] = arrays["levels"].view(np.int8)
    arrays.setdefault("zeros", None)
    return QuantLinear(codes=codes, bits=kind.bits, group=kind.group, ternary=kind.ternary, **arrays)


def _arrays(kind: TmacType, rows: int, columns: int) -> dict[str, tuple[type, tuple[int, int]]]:
    """The dtype and shape of each array of a QuantLinear of the type, but the codes."""
    groups = (rows, columns // kind.group if kind.group else 0)
    if kind.has_levels:
        blocks = (rows, columns // LEVELS_BLOCK)
        of_minima = {"minima": (np.float16, blocks), "minimum_levels": (np.uint8, groups)}
        return {"scales": (np.float16, blocks), "levels": (np.int8, groups)} | (of_minima if kind.has_minima else {})
    arrays = {"scales": (np.float16, groups)}
    if kind.asymmetric:
        arrays["zeros"] = (np.uint8, groups)
    return arrays | ({"minima": (np.float16, groups)} if kind.has_minima else {})


def _regions(data: np.ndarray, kind: TmacType, rows: int, columns: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Views into `data`: planes [T, C, bits, 4, 16] uint8, and the other arrays by their names, [T, groups, 32].

    Of ternary types [T, K/128, bytes of a block] instead of planes. With levels of 2 bits, `levels` has both levels.
    """
    tiles, chunks, groups = rows // TILE_ROWS, columns // CHUNK_COLUMNS, columns // kind.group if kind.group else 0
    planes_end = rows * columns // kind.block_weights * kind.code_bytes
    shape = (columns // TRIT_BLOCK, -1) if kind.ternary else (chunks, kind.bits, 4, 16)
    planes = data[:planes_end].reshape(tiles, *shape)
    if kind.has_levels:
        return planes, _level_regions(data[planes_end:].reshape(tiles, columns // LEVELS_BLOCK, -1), kind)
    rest, at = {}, planes_end
    for name, (dtype, _) in _arrays(kind, rows, columns).items():
        size = rows * groups * np.dtype(dtype).itemsize
        dtype = "<f2" if dtype is np.float16 else dtype
        rest[name], at = data[at : at + size].view(dtype).reshape(tiles, groups, TILE_ROWS), at + size
    return planes, rest


def _level_regions(blocks: np.ndarray, kind: TmacType) -> dict[str, np.ndarray]:
    """Views into scale blocks, uint8 [T, K/256, bytes of a block]: fp16 numbers [T, K/256, 32], levels of groups."""
    tiles, count, _ = blocks.shape
    names = ("scales", "minima")[: 1 + kind.has_minima]
    halves, levels = np.split(blocks, [2 * TILE_ROWS * len(names)], axis=2)
    rest = {name: halves[..., 2 * TILE_ROWS * i : 2 * TILE_ROWS * (i + 1)].view("<f2") for i, name in enumerate(names)}
    levels = levels.reshape(tiles, count, LEVELS_BLOCK // kind.group, -1)
    rest["levels"] = levels[..., :TILE_ROWS]
    if levels.shape[-1] > TILE_ROWS:
        rest["minimum_levels"] = levels[..., TILE_ROWS:]
    return rest


def _tiled(values: np.ndarray) -> np.ndarray:
    """[M, K/G] -> [T, K/G, 32]."""
    tiled = values.reshape(values.shape[0] // TILE_ROWS, TILE_ROWS, values.shape[1]).swapaxes(1, 2)
    return np.ascontiguousarray(tiled, values.dtype.newbyteorder("<"))


def _untiled(values: np.ndarray) -> np.ndarray:
    """[T, K/G, 32], or with levels [T, K/256, 256/G, 32] -> [M, K/G], a copy in native byte order."""
    values = values.reshape(values.shape[0], -1, TILE_ROWS)
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


def _check_levels(arrays: dict[str, np.ndarray], top: int) -> None:
    for name in ("levels", "minimum_levels"):
        largest = arrays[name].view(np.uint8).max()
        if largest > top:
            raise ConvertError(f"{name} beside minima are up to {largest}, expected at most {top}", _BUG)


def _pack_planes(codes: np.ndarray, planes: np.ndarray) -> None:
    """Codes uint8 [32*T, K] into planes uint8 [T, C, bits, 4, 16], in place."""
    tiles, chunks, bits = planes.shape[:3]
    # One 32-bit word per 4 columns: byte u is column u. Axes: tile, half, r, chunk, l.
    words = np.ascontiguousarray(codes, np.uint8).view("<u4").reshape(tiles, 2, 16, chunks, 4)
    # Of up to 4 planes at a time row r is in the low nibbles, row 16 + r in the high ones.
    for first in range(0, bits, 4):
        low, high = (words[:, half] >> first & 0x0F0F0F0F if bits > 4 else words[:, half] for half in (0, 1))
        pairs = high << 4
        pairs |= low
        for plane in range(first, min(bits, first + 4)):
            bit = pairs >> plane - first
            bit &= 0x11111111
            # Bits 0 and 4 of byte u go to bits 24 + u and 28 + u; the product's other terms fall below 24 or above 31.
            bit *= np.uint32(0x01020408)
            planes[:, :, plane] = bit.view(np.uint8)[..., 3::4].transpose(0, 2, 3, 1)


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
