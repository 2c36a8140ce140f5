"""The bytes of a T-MAC tensor against hand-computed ones, and pack and unpack against each other."""

from dataclasses import replace

import numpy as np
import pytest

from support.matrices import make
from tmac.common.errors import TmacError
from tmac.common.format import (
    LEVELS,
    LEVELS_MINIMA,
    MINIMA,
    SYMMETRIC,
    TYPES,
    ZEROS,
    TmacType,
    can_hold,
    symmetric_zero,
    type_of,
)
from tmac.convert.linear import QuantLinear
from tmac.convert.write.layout import pack, unpack


def random_linear(kind: TmacType, rows: int, columns: int) -> QuantLinear:
    return make(kind, rows, columns, np.random.default_rng(7)).linear


def test_worked_example_of_the_format():
    """The worked example of docs/format.md: a 1-bit matrix of 32 x 32 with four codes set, and its three bytes."""
    codes = np.zeros((32, 32), np.uint8)
    for row, column in ((0, 0), (0, 5), (16, 2), (31, 15)):
        codes[row, column] = 1
    data = pack(QuantLinear(codes, np.zeros((32, 1), np.float16), None, 1, 32))
    assert {int(i): int(data[i]) for i in np.flatnonzero(data)} == {0: 0x41, 16: 0x02, 63: 0x80}


def test_planes_of_two_bits():
    """Two bits: plane 0 fills bytes 0..63 of a chunk, plane 1 bytes 64..127; the next chunk starts at 128. By hand."""
    codes = np.zeros((32, 32), np.uint8)
    codes[0, 0] = 1  # chunk 0, plane 0, byte 0, low nibble, bit 0
    codes[1, 7] = 2  # chunk 0, plane 1, l = 1, r = 1: byte 17, low nibble, bit 3
    codes[17, 12] = 3  # chunk 0, both planes, l = 3, r = 1: byte 49, high nibble, bit 0
    codes[31, 31] = 2  # chunk 1, plane 1, l = 3, r = 15: byte 63, high nibble, bit 3
    data = pack(QuantLinear(codes, np.zeros((32, 1), np.float16), None, 2, 32))
    expected = {0: 0x01, 64 + 17: 0x08, 49: 0x10, 64 + 49: 0x10, 128 + 64 + 63: 0x80}
    assert {int(i): int(data[i]) for i in np.flatnonzero(data)} == expected


def test_scales_and_zeros_of_two_tiles_and_two_groups():
    """After the planes: fp16 scales, then zero bytes, each by tile, then group, then row. Offsets by hand."""
    scales = np.zeros((64, 2), np.float16)
    zeros = np.zeros((64, 2), np.uint8)
    scales[3, 1] = 1.0  # tile 0, group 1, row 3
    scales[33, 0] = -2.0  # tile 1, group 0, row 1
    zeros[32, 1] = 24  # tile 1, group 1, row 0: zero-point 1.5
    data = pack(QuantLinear(np.zeros((64, 64), np.uint8), scales, zeros, 4, 32))
    planes_end = 64 * 64 * 4 // 8
    scales_end = planes_end + 64 * 2 * 2
    at_first, at_second = planes_end + 2 * (32 + 3), planes_end + 2 * (64 + 1)
    assert bytes(data[at_first : at_first + 2]) == b"\x00\x3c"
    assert bytes(data[at_second : at_second + 2]) == b"\x00\xc0"
    assert data[scales_end + 64 + 32] == 24
    assert np.count_nonzero(data) == 3
    assert data.size == scales_end + 64 * 2


def test_minima_follow_the_scales():
    """A region of fp16 numbers in the order of the scales, in place of zero-points. Offsets by hand."""
    minima = np.zeros((64, 2), np.float16)
    minima[33, 1] = 1.0  # tile 1, group 1, row 1
    linear = QuantLinear(np.zeros((64, 64), np.uint8), np.zeros((64, 2), np.float16), None, 4, 32, minima=minima)
    data = pack(linear)
    at = 64 * 64 * 4 // 8 + 2 * 64 * 2 + 2 * (64 + 32 + 1)
    assert np.flatnonzero(data).tolist() == [at + 1] and data[at + 1] == 0x3C


def by_hand(kind: TmacType, rows: int, columns: int, **places) -> tuple[np.ndarray, int]:
    """A packed matrix of zeros but for name -> (row, column, value), and where its scale blocks begin."""
    arrays = {
        "scales": np.zeros((rows, columns // 256), np.float16),
        "minima": np.zeros((rows, columns // 256), np.float16) if kind.has_minima else None,
        "levels": np.zeros((rows, columns // kind.group), np.int8),
        "minimum_levels": np.zeros((rows, columns // kind.group), np.uint8) if kind.has_minima else None,
    }
    for name, (row, column, value) in places.items():
        arrays[name][row, column] = value
    codes = np.zeros((rows, columns), np.uint8)
    data = pack(QuantLinear(codes=codes, zeros=None, bits=kind.bits, group=kind.group, **arrays))
    return data, rows * columns * kind.bits // 8


def test_scale_blocks_of_levels_and_minima():
    """4 bits, groups of 32: a block of 256 columns is 2 x 64 bytes of fp16, then 8 groups of 32 + 32 bytes. By hand."""
    data, start = by_hand(
        type_of(4, 32, LEVELS_MINIMA),
        64,
        512,
        scales=(33, 1, 1.0),
        minima=(33, 1, -2.0),
        levels=(40, 9, 63),
        minimum_levels=(41, 9, 62),
    )
    # Tile 1, block 1: the fourth of 640 bytes.
    block = start + 3 * 640
    expected = {block + 3: 0x3C, block + 64 + 3: 0xC0, block + 128 + 64 + 8: 63, block + 128 + 64 + 32 + 9: 62}
    assert {int(i): int(data[i]) for i in np.flatnonzero(data)} == expected
    assert data.size == start + 4 * 640


def test_scale_blocks_of_two_bits_have_two_levels_in_a_byte():
    """2 bits, groups of 16: 2 x 64 bytes of fp16, then 16 groups of 32 bytes."""
    data, start = by_hand(type_of(2, 16, LEVELS_MINIMA), 32, 256, levels=(3, 15, 13), minimum_levels=(3, 15, 9))
    assert {int(i): int(data[i]) for i in np.flatnonzero(data)} == {start + 128 + 15 * 32 + 3: 9 << 4 | 13}


def test_scale_blocks_of_signed_levels():
    """6 bits, groups of 16: 64 bytes of fp16, then 16 groups of 32 signed bytes."""
    data, start = by_hand(type_of(6, 16, LEVELS), 32, 256, levels=(31, 1, -128))
    assert {int(i): int(data[i]) for i in np.flatnonzero(data)} == {start + 64 + 32 + 31: 128}


def test_levels_out_of_range_are_refused(refused):
    """2 bits keep two of them in a byte; beside minima, kernels read both as signed."""
    for kind, level in ((type_of(2, 16, LEVELS_MINIMA), 16), (type_of(4, 32, LEVELS_MINIMA), 64)):
        for name in ("levels", "minimum_levels"):
            refused(lambda: by_hand(kind, 32, 256, **{name: (0, 0, level)}), f"{name} beside minima are up to {level}")


def test_dequantize_of_levels_by_hand():
    """d * level * q - dmin * minimum level, and d * level * (q - 32)."""
    codes = np.full((32, 256), 3, np.uint8)
    halves, levels = np.full((32, 1), 0.5, np.float16), np.full((32, 8), 7, np.int8)
    minima, of_minima = np.full((32, 1), 0.25, np.float16), np.full((32, 8), 2, np.uint8)
    both = QuantLinear(codes, halves, None, 4, 32, minima=minima, levels=levels, minimum_levels=of_minima)
    assert (both.dequantize() == 0.5 * 7 * 3 - 0.25 * 2).all()
    signed = QuantLinear(codes, halves, None, 6, 16, levels=np.full((32, 16), -7, np.int8))
    assert (signed.dequantize() == 0.5 * -7 * (3 - 32)).all()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_unpack_is_the_inverse_of_pack(kind):
    """Random codes, scales and what belongs to them come back equal, for every type, over several tiles and chunks."""
    linear = random_linear(kind, 96, 3 * kind.block_weights)
    data = pack(linear)
    back = unpack(data, 96, 3 * kind.block_weights, kind)
    assert data.size == kind.nbytes(96, 3 * kind.block_weights)
    assert np.array_equal(back.codes, linear.codes)
    for name in ("scales", "zeros", "minima", "levels", "minimum_levels"):
        found, expected = getattr(back, name), getattr(linear, name)
        assert (found is None) if expected is None else np.array_equal(found, expected)
        assert expected is None or found.dtype == expected.dtype
    assert np.array_equal(back.dequantize(), linear.dequantize())
    assert np.array_equal(pack(back), data)


def test_blocks_of_work_do_not_show_in_the_bytes(monkeypatch):
    """The bytes are the same whether tiles are packed one by one or all at once."""
    linear = random_linear(type_of(2, 64, ZEROS), 256, 128)
    whole = pack(linear)
    monkeypatch.setattr("tmac.convert.write.layout._BLOCK_CODES", 1)
    assert np.array_equal(pack(linear), whole)
    assert np.array_equal(unpack(whole, 256, 128, type_of(2, 64, ZEROS)).codes, linear.codes)


@pytest.mark.parametrize(
    ("bits", "group", "grid", "number", "name", "bits_per_weight"),
    [
        (1, 128, SYMMETRIC, 0x214, "tmac_w1g128", 1.125),
        (2, 64, SYMMETRIC, 0x222, "tmac_w2g64", 2.25),
        (2, 64, ZEROS, 0x223, "tmac_w2g64z", 2.375),
        (2, 128, ZEROS, 0x225, "tmac_w2g128z", 2.1875),
        (3, 128, SYMMETRIC, 0x234, "tmac_w3g128", 3.125),
        (4, 32, SYMMETRIC, 0x240, "tmac_w4g32", 4.5),
        (4, 32, ZEROS, 0x241, "tmac_w4g32z", 4.75),
        (4, 128, SYMMETRIC, 0x244, "tmac_w4g128", 4.125),
        (1, 32, MINIMA, 0x216, "tmac_w1g32m", 2.0),
        (4, 64, MINIMA, 0x247, "tmac_w4g64m", 4.5),
        (4, 128, MINIMA, 0x248, "tmac_w4g128m", 4.25),
        (5, 32, SYMMETRIC, 0x250, "tmac_w5g32", 5.5),
        (5, 32, MINIMA, 0x256, "tmac_w5g32m", 6.0),
        (2, 16, LEVELS_MINIMA, 0x229, "tmac_w2g16km", 2.625),
        (3, 16, LEVELS, 0x239, "tmac_w3g16k", 3.5625),
        (4, 32, LEVELS_MINIMA, 0x249, "tmac_w4g32km", 4.625),
        (5, 32, LEVELS_MINIMA, 0x259, "tmac_w5g32km", 5.625),
        (6, 16, LEVELS, 0x269, "tmac_w6g16k", 6.5625),
    ],
)
def test_type_numbers_names_and_sizes(bits, group, grid, number, name, bits_per_weight):
    """Against the formula and the table of docs/format.md, computed by hand."""
    kind = type_of(bits, group, grid)
    assert (kind.id, kind.ggml_name, kind.bits_per_weight) == (number, name, bits_per_weight)


def test_type_numbers_are_distinct_and_in_range():
    assert len({kind.id for kind in TYPES}) == len(TYPES) == 47
    assert all(0x200 <= kind.id <= 0x26F for kind in TYPES)


@pytest.mark.parametrize(
    ("group", "number", "name", "bits_per_weight"),
    [(128, 0x204, "tmac_t3g128", 1.8125), (256, 0x206, "tmac_t3g256", 1.75), (0, 0x20F, "tmac_t3t", 1.6875)],
)
def test_ternary_numbers_names_and_sizes(group, number, name, bits_per_weight):
    kind = type_of(2, group, ternary=True)
    assert (kind.id, kind.ggml_name, kind.bits_per_weight) == (number, name, bits_per_weight)


def test_nibbles_and_signs_of_ternary_weights():
    """Four weights that are not 0, in a block of 128 columns; the second block of the tile begins at 864. By hand."""
    codes = np.full((32, 256), 2, np.uint8)
    codes[0, 0] = 3  # +1: triple 0 is 1, byte 0, low nibble
    codes[17, 4] = 1  # -1, column 1 of triple 1, which is -3: byte 16 + 1, high nibble; line 0, bit 7 - 2 - 1 of byte 1
    codes[5, 12:15] = 1, 3, 3  # triple 4 is -1 + 3 + 9 = 11, byte 64 + 5, low nibble
    codes[31, 128 + 126 : 256] = (
        3,
        1,
    )  # triple 42 of block 1 is 1 - 3: byte 672 + 15, high nibble; line 10, bit 2
    data = pack(QuantLinear(codes, np.zeros((32, 2), np.float16), None, 2, 128, ternary=True))
    expected = {0: 0x01, 17: 0x30, 688 + 1: 1 << 4, 69: 0x0B, 864 + 672 + 15: 0x20, 864 + 688 + 160 + 15: 1 << 2}
    assert {int(i): int(data[i]) for i in np.flatnonzero(data)} == expected
    assert data.size == 2 * 864 + 32 * 2 * 2


def test_symmetric_zero_means_the_same_as_a_stored_one():
    """A symmetric matrix and one with the same zero-point stored in 4.4 fixed point dequantize equally."""
    for bits in (1, 2, 3, 4):
        linear = random_linear(type_of(bits, 32), 32, 64)
        stored = np.full(linear.scales.shape, symmetric_zero(bits), np.uint8)
        with_zeros = QuantLinear(linear.codes, linear.scales, stored, bits, 32)
        assert np.array_equal(with_zeros.dequantize(), linear.dequantize())


def test_dequantize_of_known_values():
    """W = s * (q - z) by hand: scale 0.5, z = 1.5, codes 0..3."""
    codes = np.tile(np.arange(4, dtype=np.uint8), 8)[None].repeat(32, axis=0)
    linear = QuantLinear(codes, np.full((32, 1), 0.5, np.float16), np.full((32, 1), 24, np.uint8), 2, 32)
    assert linear.dequantize()[5, :4].tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize(
    ("rows", "columns", "group", "holds"),
    [
        (32, 32, 32, True),
        (33, 32, 32, False),
        (32, 96, 64, False),
        (64, 128, 128, True),
        (32, 48, 48, False),
        (0, 32, 32, False),
    ],
)
def test_which_shapes_fit(rows, columns, group, holds):
    assert can_hold(rows, columns, group) is holds


def test_what_pack_and_unpack_refuse(refused):
    """Unknown types, shapes that do not fit, codes out of range, and a wrong number of bytes."""
    refused(lambda: type_of(5, 64), "5-bit", "groups of 64", "1, 2, 3 or 4 bits", error=TmacError)
    refused(lambda: type_of(2, 48), "48", "32, 64 or 128", error=TmacError)
    refused(lambda: type_of(2, 64, ternary=True), "ternary", "64", "128 or 256", error=TmacError)
    zero = random_linear(type_of(2, 128, ternary=True), 32, 128)
    zero.codes[0, 0] = 0
    refused(lambda: pack(zero), "code 0", "1 to 3")
    linear = random_linear(type_of(2, 32), 32, 32)
    linear.codes[0, 0] = 4
    refused(lambda: pack(linear), "code 4", "2 bits")
    short = QuantLinear(np.zeros((31, 32), np.uint8), np.zeros((31, 1), np.float16), None, 2, 32)
    refused(lambda: pack(short), "31 x 32", "multiple of 32")
    wrong = QuantLinear(np.zeros((32, 32), np.uint8), np.zeros((32, 1), np.float32), None, 2, 32)
    refused(lambda: pack(wrong), "float32", "float16")
    good = random_linear(type_of(2, 32, ZEROS), 32, 64)
    for name, value in (
        ("scales", good.scales[:, :1]),
        ("scales", good.scales.view(np.uint16)),
        ("zeros", good.zeros[:, :1]),
        ("zeros", good.zeros.astype(np.uint16)),
        ("zeros", good.zeros.view(np.int8)),
    ):
        found = f"{name} are {value.dtype} {value.shape}"
        refused(lambda: pack(replace(good, **{name: value})), found, "mistake in the reader")
    refused(lambda: unpack(np.zeros(7, np.uint8), 32, 32, type_of(2, 32)), "7 bytes", "tmac_w2g32", "32 x 32")
    half = np.zeros(type_of(2, 32).nbytes(16, 64), np.uint8)
    refused(lambda: unpack(half, 16, 64, type_of(2, 32)), "320 bytes are not", "16 x 64")
