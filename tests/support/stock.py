"""GGUF files in llama.cpp's own types for tests, and slow readers of ggml's blocks, from their documented layout."""

from pathlib import Path

import gguf
import numpy as np

from tmac.common.format import TYPES_BY_ID
from tmac.convert.sources.ggml_types import TYPES
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write import layout

F32, F16, Q8_0, IQ4_NL, BF16 = 0, 1, 8, 20, 30
SIZES = {kind.id: (kind.block, kind.nbytes) for kind in TYPES.values()}
# Offsets of the fp16 numbers in a block of each type.
SCALES_AT = {
    **{2: (0,), 3: (0, 2), 6: (0,), 7: (0, 2), 10: (80, 82), 11: (108,), 12: (0, 2), 13: (0, 2), 14: (208,)},
    **{20: (0,), 34: (52,), 35: (64,), 41: (0,), 42: (0,), 142: (0,), 143: (26,)},
}


def write_stock(path: Path, tensors: dict, metadata=lambda writer: None, architecture="llama", **options) -> Path:
    """A GGUF of `tensors`: name -> (type number, shape with the outermost first, uint8 bytes)."""
    writer = gguf.GGUFWriter(path, architecture, **options)
    metadata(writer)
    for name, (type_id, shape, data) in tensors.items():
        writer.add_tensor_info(name, shape, np.dtype(np.int8), data.nbytes, type_id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, data in tensors.values():
        writer.write_tensor_data(data)
    writer.close()
    return path


def random_blocks(type_id: int, shape: tuple, seed: int = 0) -> np.ndarray:
    """Random blocks with finite scales; ternary types without the unused fourth code. uint8, flat."""
    block, size = SIZES[type_id]
    random = np.random.default_rng(seed)
    count = int(np.prod(shape)) // block
    data = random.integers(0, 256, (count, size), np.uint8)
    if type_id == 35:
        codes = random.integers(0, 3, (4, count, 64), np.uint8)
        data[:, :64] = sum(codes[i] << 2 * i for i in range(4))
    for at in SCALES_AT[type_id]:
        scales = random.uniform(0.001, 0.1, count) * random.choice((-1, 1), count)
        data[:, at : at + 2] = scales.astype("<f2").view(np.uint8).reshape(count, 2)
    return data.reshape(-1)


def blocks(type_id: int, shape: tuple, seed: int = 0) -> tuple:
    """random_blocks in the form that write_stock takes."""
    return type_id, shape, random_blocks(type_id, shape, seed)


def floats(type_id: int, shape: tuple, seed: int = 0) -> tuple:
    """Normally distributed values in a type that the gguf package can write, in the form that write_stock takes."""
    values = (np.random.default_rng(seed).standard_normal(shape) * 0.05).astype(np.float32)
    return type_id, shape, gguf.quants.quantize(values, gguf.GGMLQuantizationType(type_id)).reshape(-1).view(np.uint8)


NORM = ("blk.0.attn_norm.weight", floats(F32, (256,)))


def half(block: np.ndarray, at: int) -> float:
    return float(block[at : at + 2].copy().view("<f2")[0])


def q2_k(block: np.ndarray) -> list[float]:
    def value(k: int) -> float:
        code, level = int(block[16 + k // 128 * 32 + k % 32]) >> 2 * (k % 128 // 32) & 3, int(block[k // 16])
        return half(block, 80) * (level & 15) * code - half(block, 82) * (level >> 4)

    return [value(k) for k in range(256)]


def q3_k(block: np.ndarray) -> list[float]:
    def value(k: int) -> float:
        low = int(block[32 + k // 128 * 32 + k % 32]) >> 2 * (k % 128 // 32) & 3
        high, j = int(block[k % 32]) >> k // 32 & 1, k // 16
        scale = int(block[96 + j % 8]) >> 4 * (j // 8) & 15 | (int(block[104 + j % 4]) >> 2 * (j // 4) & 3) << 4
        return half(block, 108) * (scale - 32) * (low + 4 * high - 4)

    return [value(k) for k in range(256)]


def six_bits(block: np.ndarray, j: int) -> tuple[int, int]:
    """Scale and minimum of group j of q4_k and q5_k."""
    packed = [int(byte) for byte in block[4:16]]
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def q45_k(block: np.ndarray) -> list[float]:
    has_fifth = block.size == 176

    def value(k: int) -> float:
        code = int(block[(48 if has_fifth else 16) + k // 64 * 32 + k % 32]) >> 4 * (k % 64 // 32) & 15
        code += (int(block[16 + k % 32]) >> k // 32 & 1) << 4 if has_fifth else 0
        scale, minimum = six_bits(block, k // 32)
        return half(block, 0) * scale * code - half(block, 2) * minimum

    return [value(k) for k in range(256)]


def q6_k(block: np.ndarray) -> list[float]:
    def value(k: int) -> float:
        low = int(block[k // 128 * 64 + k % 64]) >> 4 * (k % 128 // 64) & 15
        high = int(block[128 + k // 128 * 32 + k % 32]) >> 2 * (k % 128 // 32) & 3
        return half(block, 208) * int(block[192 + k // 16].view(np.int8)) * ((low | high << 4) - 32)

    return [value(k) for k in range(256)]


K_VALUES = {10: q2_k, 11: q3_k, 12: q45_k, 13: q45_k, 14: q6_k}


def slow_block(type_id: int, block: np.ndarray) -> list[float]:
    """The values of one block, weight by weight."""
    if type_id == 2:
        return [half(block, 0) * ((int(block[2 + j % 16]) >> 4 * (j // 16) & 15) - 8) for j in range(32)]
    if type_id == 3:
        return [half(block, 0) * (int(block[4 + j % 16]) >> 4 * (j // 16) & 15) + half(block, 2) for j in range(32)]
    if type_id == 41:
        return [half(block, 0) * (1 if block[2 + j // 8] >> j % 8 & 1 else -1) for j in range(128)]
    if type_id in (42, 142):
        return [half(block, 0) * ((int(block[2 + j // 4]) >> 2 * (j % 4) & 3) - 1) for j in range(SIZES[type_id][0])]
    if type_id == 35:
        where = [(j // 128 * 32 + j % 32, j % 128 // 32) for j in range(256)]
        return [half(block, 64) * ((int(block[byte]) >> 2 * i & 3) - 1) for byte, i in where]
    if type_id in K_VALUES:
        return K_VALUES[type_id](block)
    if type_id in (6, 7):
        fifth = int(block[2 * type_id - 10 :][:4].copy().view("<u4")[0])
        at = 2 * type_id - 6
        codes = [(int(block[at + j % 16]) >> 4 * (j // 16) & 15) + 16 * (fifth >> j & 1) for j in range(32)]
        return [
            half(block, 0) * (code - 16) if type_id == 6 else half(block, 0) * code + half(block, 2) for code in codes
        ]
    stages = ((0, 32, 5), (32, 16, 5), (48, 4, 4)) if type_id == 34 else ((0, 16, 5), (16, 8, 5), (24, 2, 4))
    (scale_at,) = SCALES_AT[type_id]
    return [
        half(block, scale_at) * (digit(int(block[first + m]), n) - 1)
        for first, count, digits in stages
        for n in range(digits)
        for m in range(count)
    ]


def digit(byte: int, n: int) -> int:
    """Digit n, from the most significant, of the fraction byte / 256 in base 3, as ggml extracts it."""
    return (byte * 3**n % 256) * 3 // 256


def slow_values(type_id: int, shape: tuple, data: np.ndarray) -> np.ndarray:
    """float32 of `shape`: only sums with minima are rounded, once."""
    blocks = data.reshape(-1, SIZES[type_id][1])
    return np.array([slow_block(type_id, block) for block in blocks]).reshape(shape).astype(np.float32)


def entries(path: Path) -> dict:
    return {entry.name: entry for entry in read_gguf_header(path).tensors}


def tensor_bytes(path: Path, entry) -> np.ndarray:
    return np.fromfile(path, np.uint8, entry.nbytes, offset=entry.offset)


def stored_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """name -> (type, shape, bytes)."""
    return {name: (e.type_name, tuple(e.shape), bytes(tensor_bytes(path, e))) for name, e in entries(path).items()}


def stored_values(path: Path, name: str) -> np.ndarray:
    """float32: the values that a T-MAC tensor of the file represents; experts one after the other."""
    entry = entries(path)[name]
    kind = TYPES_BY_ID[entry.type_id]
    rows, columns = entry.shape[-2:]
    matrices = tensor_bytes(path, entry).reshape(-1, kind.nbytes(rows, columns))
    return np.stack([layout.unpack(data, rows, columns, kind).dequantize() for data in matrices]).reshape(entry.shape)
