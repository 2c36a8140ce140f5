"""Blocks of ggml's types, by hand and against the gguf package's own dequantization, exactly."""

import gguf
import numpy as np
import pytest

from support.stock import SCALES_AT, SIZES, random_blocks, slow_values
from tmac.convert.readers.ggml_blocks import BLOCK_TYPES, as_q2_0, is_exact, linear_of

IDS = [pytest.param(type_id, id=kind.name) for type_id, kind in BLOCK_TYPES.items()]


def one(type_id, *parts):
    """The QuantLinear of one block; `parts` are fp16 numbers (floats) and bytes."""
    data = b"".join(np.array(part, "<f2").tobytes() if isinstance(part, float) else bytes(part) for part in parts)
    assert len(data) == SIZES[type_id][1]
    kind = BLOCK_TYPES[type_id]
    return linear_of(kind, "x", np.frombuffer(data, np.uint8), kind.stored.block)


def test_q4_0_by_hand():
    """Byte 0 is weights 0 (low) and 16 (high), byte 15 weights 15 and 31; the scale as it is."""
    found = one(2, 0.5, [0x2F] + 14 * [0x88] + [0x01])
    assert found.codes[0, [0, 16, 15, 31, 1]].tolist() == [15, 2, 1, 0, 8]
    assert found.scales.tolist() == [[0.5]] and found.zeros is None
    assert found.dequantize()[0, [0, 16, 31]].tolist() == [3.5, -3.0, -4.0]


def test_q4_1_by_hand():
    """As q4_0, with a minimum in place of the zero-point."""
    found = one(3, 0.25, -0.89, [0x2F] + 15 * [0])
    assert found.codes[0, [0, 16, 1]].tolist() == [15, 2, 0] and found.scales.tolist() == [[0.25]]
    minimum = np.float32(np.float16(-0.89))
    assert found.minima.tolist() == [[minimum]]
    assert found.dequantize()[0, [0, 16, 1]].tolist() == [15 * 0.25 + minimum, 0.5 + minimum, minimum]


def test_q5_0_by_hand():
    """Bit 0 of byte 0 is the fifth bit of weight 0, bit 7 of byte 3 that of weight 31."""
    found = one(6, 0.5, [0x01, 0, 0, 0x80], [0x2F] + 14 * [0x88] + [0x01])
    assert found.codes[0, [0, 16, 15, 31]].tolist() == [31, 2, 1, 16]
    assert found.dequantize()[0, [0, 16, 31]].tolist() == [7.5, -7.0, 0.0]


def test_q4_k_by_hand():
    """Group 1 has the scale of byte 1 and the minimum of byte 5; group 5 the nibbles of byte 9 and the high bits of
    bytes 1 and 5.
    """
    scales = [0, 0b10_000011, 0, 0, 0, 0b01_000010, 0, 0, 0, 0x5A, 0, 0]
    found = one(12, 1.0, 0.5, scales, [0x21] + 31 * [0] + 32 * [0] + [0x43] + 31 * [0] + 32 * [0])
    assert found.codes[0, [0, 32, 128, 160]].tolist() == [1, 2, 3, 4]
    assert found.levels[0].tolist() == [0, 3, 0, 0, 0, 0b10_1010, 0, 0]
    assert found.minimum_levels[0].tolist() == [0, 2, 0, 0, 0, 0b01_0101, 0, 0]
    assert found.dequantize()[0, [32, 33, 160]].tolist() == [2 * 3 - 1.0, -1.0, 4 * 42 - 10.5]


def test_q6_k_by_hand():
    """Weights 0 and 64 in byte 0, with two more bits in byte 128; 32 is zero, levels have signs."""
    found = one(14, [0xF1] + 127 * [0], [0b10_01_00_11] + 63 * [0], [255, 0, 0, 0, 2] + 11 * [0], 0.5)
    assert found.codes[0, [0, 32, 64, 96]].tolist() == [0x31, 0, 0x1F, 0x20]
    assert found.dequantize()[0, [0, 64]].tolist() == [0.5 * -1 * (49 - 32), 0.5 * 2 * (31 - 32)]


def test_q1_0_by_hand():
    """Weight j is bit j % 8 of byte j / 8: +d or -d, as 2 d (q - 1/2)."""
    found = one(41, 0.75, [0b00000101] + 14 * [0] + [0x80])
    assert np.flatnonzero(found.codes[0]).tolist() == [0, 2, 127]
    assert found.scales.tolist() == [[1.5]] and found.bits == 1 and found.group == 128
    assert set(found.dequantize()[0].tolist()) == {-0.75, 0.75}


def test_q1_0_whose_scale_cannot_be_doubled():
    for scale, exact in ((32752.0, True), (32768.0, False), (-32768.0, False)):
        data = np.zeros((1, 18), np.uint8)
        data[0, :2] = np.array([scale], "<f2").view(np.uint8)
        assert is_exact(BLOCK_TYPES[41], data) is exact


@pytest.mark.parametrize("type_id", [42, 142], ids=["q2_0", "pq2_0"])
def test_q2_0_by_hand(type_id):
    """Codes 0, 1, 2, 3 are -1, 0, +1 and +2 times d: s = -d, q = 3 - c. A scale of zero stays a positive zero."""
    size = SIZES[type_id][1] - 2
    found = one(type_id, 0.5, [0b11_10_01_00] + (size - 1) * [0b01])
    assert found.codes[0, :5].tolist() == [3, 2, 1, 0, 2] and found.scales.tolist() == [[-0.5]]
    assert found.dequantize()[0, :4].tolist() == [-0.5, 0, 0.5, 1.0]
    assert one(type_id, 0.0, size * [0]).scales.view(np.uint16).tolist() == [[0]]


def test_tq2_0_by_hand():
    """Byte i of a half holds weights i, i + 32, i + 64, i + 96 from the lowest bits up; one scale, one group."""
    found = one(35, [0b10_01_00_10] + 31 * [0x55] + [0b00_10_10_01] + 31 * [0x55], 2.0)
    expected = np.zeros(256)
    expected[[0, 32, 64, 96]] = [2, -2, 0, 2]
    expected[[128, 160, 192, 224]] = [0, 2, 2, -2]
    assert found.dequantize()[0].tolist() == expected.tolist()
    assert found.scales.tolist() == [[2.0]] and found.group == 256


def test_tq1_0_by_hand():
    """The digits 2 0 1 1 2 are 176 of 243: the byte ceil(176 * 256 / 243) = 186, for weights 0, 32, 64, 96, 128."""
    found = one(34, [186] + 31 * [128] + 16 * [128] + 4 * [128], 1.0)
    assert found.dequantize()[0, [0, 32, 64, 96, 128]].tolist() == [1, -1, 0, 0, 1]
    # 128 is 0.5, to base 3 0.1111...: zero throughout.
    assert np.count_nonzero(found.dequantize()) == 3


def test_ptq1_0_by_hand():
    """Stages of 16 and 8 bytes, then 2 with four digits: byte 16 is weights 80, 88, ...; byte 25 is 121, 123, ...

    Four digits are the first of five whose last is 0: 2 0 1 1 0 are 174 of 243, the byte 184.
    """
    found = one(143, 16 * [128] + [186] + 7 * [128] + [128, 184], 0.5)
    values = found.dequantize()[0]
    assert values[[80, 88, 96, 104, 112]].tolist() == [0.5, -0.5, 0, 0, 0.5]
    assert values[[121, 123, 125, 127]].tolist() == [0.5, -0.5, 0, 0]
    assert np.count_nonzero(values) == 5


@pytest.mark.parametrize("type_id", IDS)
def test_values_are_the_ones_of_ggml(type_id):
    """Random blocks of 6 rows, twice: against the slow reader and, if the gguf package has the type, against it."""
    kind, shape = BLOCK_TYPES[type_id], (6, 512)
    for seed in (0, 1):
        data = random_blocks(type_id, shape, seed)
        found = linear_of(kind, "x", data, shape[1])
        assert found.codes.dtype == np.uint8 and found.scales.dtype == np.float16
        assert np.array_equal(found.dequantize(), slow_values(type_id, shape, data))
        if type_id not in (41, 42, 142, 143):
            package = gguf.quants.dequantize(data.reshape(6, -1), gguf.GGMLQuantizationType(type_id))
            assert np.array_equal(found.dequantize(), package)


@pytest.mark.parametrize("type_id", IDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scales_that_are_not_finite(type_id, value, refused):
    """Each fp16 number of a block in turn; the error names file and tensor."""
    kind = BLOCK_TYPES[type_id]
    for at in SCALES_AT[type_id]:
        data = random_blocks(type_id, (4, 256)).reshape(-1, kind.stored.nbytes)
        data[1, at : at + 2] = np.array([value], "<f2").view(np.uint8)
        assert is_exact(kind, data)
        refused(lambda: linear_of(kind, "m.gguf: tensor t", data.reshape(-1), 256), "m.gguf: tensor t", "scales")


def test_a_ternary_code_that_does_not_exist(refused):
    data = random_blocks(35, (2, 256))
    data[5] = 0b11
    refused(lambda: linear_of(BLOCK_TYPES[35], "m.gguf: tensor t", data, 256), "m.gguf: tensor t", "tq2_0 code 3")


@pytest.mark.parametrize("type_id", [142, 143], ids=["pq2_0", "ptq1_0"])
def test_prism_s_types_as_q2_0(type_id):
    """The same values in blocks of 64."""
    data = random_blocks(type_id, (3, 256))
    found = as_q2_0(BLOCK_TYPES[type_id], "x", data)
    assert np.array_equal(slow_values(42, (3, 256), found), slow_values(type_id, (3, 256), data))
