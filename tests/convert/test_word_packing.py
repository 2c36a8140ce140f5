"""Codes packed into words of 32 bits, against words made by hand."""

import numpy as np

from tmac.convert.readers.words import Packing, unpack_words


def test_order_of_codes_in_a_word():
    """Lowest bits first: 0x76543210 holds 0..7 in 4 bits, 0xE4 repeated holds 0, 1, 2, 3 in 2 bits."""
    assert unpack_words(np.array([0x76543210, 0xFEDCBA98], "<u4"), 4).tolist() == list(range(16))
    assert unpack_words(np.array([0xE4E4E41B], "<u4"), 2).tolist() == [3, 2, 1, 0] + [0, 1, 2, 3] * 3


def test_three_bits_straddle_words():
    """Values 10 and 21 of 32 lie in two words each. All others are 0: value 10 = 5 (101), value 21 = 6 (110)."""
    words = np.array([0b01 << 30, 0b1 | 0b0 << 31, 0b11], "<u4")
    codes = unpack_words(words, 3)
    assert {int(i): int(codes[i]) for i in np.flatnonzero(codes)} == {10: 5, 21: 6}


def test_three_bits_of_known_words():
    """Values 0, 1, ..., 7 four times over are 0o76543210 in every 3 bytes."""
    assert unpack_words(np.array([0x88FAC688, 0xC688FAC6, 0xFAC688FA], "<u4"), 3).tolist() == list(range(8)) * 4


def test_planar_three_bits():
    """Of 32 codes, words 0 and 1 hold the low two bits of 16 each, word 2 the high bit of all."""
    words = np.array([0b11 | 0b01 << 30, 0b10, 1 | 1 << 16 | 1 << 31], "<u4")
    codes = Packing.PLANAR.unpack(words, 3, 32)
    assert {int(i): int(codes[i]) for i in np.flatnonzero(codes)} == {0: 3 + 4, 15: 1, 16: 2 + 4, 31: 4}
    assert Packing.PLANAR.unpack(np.array([0xE4E4E41B], "<u4"), 2, 16).tolist() == [3, 2, 1, 0] + [0, 1, 2, 3] * 3


def test_padded_three_bits():
    """Ten codes in each word; bits 30 and 31 are unused."""
    words = np.array([7 | 1 << 27 | 0b11 << 30, 0b101], "<u4")
    assert Packing.PADDED.words(32, 3) == 4
    assert Packing.PADDED.unpack(words, 3, 12).tolist() == [7] + [0] * 8 + [1, 5, 0]
