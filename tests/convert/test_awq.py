"""The AWQ reader against hand-made words, and everything that it refuses."""

import json

import numpy as np
import pytest

from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint


@pytest.fixture
def layer(one_layer):
    def make(settings=None, **tensors):
        base = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
        given = {**base, **(settings or {})}
        return one_layer({key: value for key, value in given.items() if value is not None}, tensors)

    return make


def words(rows, columns, word=0):
    return np.full((rows, columns), word, np.uint32).view(np.int32)


def gemm(rows=32, columns=32, groups=1, zero_word=0x88888888):
    return {
        "qweight": words(columns, rows // 8),
        "qzeros": words(groups, rows // 8, zero_word),
        "scales": np.ones((groups, rows), np.float16),
    }


def gemv(rows=32, columns=128, zero_words=1):
    return {
        "qweight": words(rows, columns // 8),
        "qzeros": words(rows, zero_words, 0x88888888),
        "scales": np.ones((rows, 8 * zero_words), np.float16),
    }


def fast(rows=32, columns=128, padded=8, scale=0.5, zero=8):
    return {
        "qweight": np.zeros((rows // 4, columns), np.int16),
        "qzeros": np.full((padded, rows), -scale * zero, np.float16),
        "scales": np.full((padded, rows), scale, np.float16),
    }


def test_order_in_a_word_of_gemm(layer):
    """0x76543210 has nibbles 0..7, which are outputs 0, 2, 4, 6, 1, 3, 5, 7: output j holds 0, 4, 1, 5, 2, 6, 3, 7."""
    given = gemm()
    given["qweight"][3, 1] = 0x76543210
    codes = layer(**given).read("m", 32, 32).codes
    assert codes[8:16, 3].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert codes.sum() == 28


def test_zero_points_of_gemm_have_the_same_order_and_no_offset(layer):
    given = gemm(zero_word=0)
    given["qzeros"][0, 2] = 0x76543210
    linear = layer(**given).read("m", 32, 32)
    assert linear.zeros[16:24, 0].tolist() == [16 * z for z in (0, 4, 1, 5, 2, 6, 3, 7)]
    assert (linear.dequantize()[16:24, 0] == [0, -4, -1, -5, -2, -6, -3, -7]).all()


def test_gemv_runs_along_the_inputs(layer):
    """0x76543210 in word 1 of output 5 is its inputs 8..15; zero-points likewise along the groups."""
    given = gemv()
    given["qweight"][5, 1] = 0x76543210
    given["qzeros"][5, 0] = 0x00003210
    given["scales"][5] = np.arange(8)
    linear = layer({"version": "gemv", "group_size": 32}, **gemv_padded(given)).read("m", 32, 128)
    assert linear.codes[5, 7:17].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert linear.zeros[5].tolist() == [0, 16, 32, 48]
    assert linear.scales[5].tolist() == [0, 1, 2, 3]


def gemv_padded(given):
    """Groups of 32: the kernel expects 4 words of zero-points, of which 1 holds all. The padding is never read."""
    zeros = words(32, 4, 0xFFFFFFFF)
    zeros[:, :1] = given["qzeros"]
    scales = np.full((32, 32), np.nan, np.float16)
    scales[:, :8] = given["scales"]
    scales[:, 4:] = np.nan
    return {**given, "qzeros": zeros, "scales": scales}


@pytest.mark.parametrize(
    ("group_size", "columns", "zero_words"), [(32, 1024, 4), (64, 1024, 2), (64, 64, 2), (128, 1280, 2), (-1, 256, 1)]
)
def test_width_of_gemv_zero_points(layer, refused, group_size, columns, zero_words):
    """ceil(groups / 8) words, rounded up to 4, 2 and 1 for groups of 32, 64 and 128."""
    settings = {"version": "gemv", "group_size": group_size}
    assert not layer(settings, **gemv(32, columns, zero_words)).grid("m", 32, columns).asymmetric
    wrong = layer(settings, **gemv(32, columns, zero_words + 1))
    refused(lambda: wrong.grid("m", 32, columns), "m.qzeros", f"expected [32, {zero_words}]")


@pytest.mark.parametrize(
    ("word", "nibble", "row", "column"),
    [
        (0, 0, 0, 0),
        (0, 1, 0, 8),
        (0, 3, 0, 24),
        (1, 0, 0, 1),
        (7, 2, 0, 23),
        (8, 0, 0, 32),
        (15, 3, 0, 63),
        (16, 0, 1, 0),
        (63, 3, 3, 63),
        (64, 0, 0, 64),
        (2, 1, 0, 10),
        (127, 0, 3, 64 + 32 + 7),
    ],
)
def test_order_of_gemv_fast(layer, word, nibble, row, column):
    """In 64 words: 16 per output; in 8 words: word w, nibble a is input 8 a + w."""
    given = fast()
    given["qweight"].view(np.uint16)[2, word] = 9 << 4 * nibble
    codes = layer({"version": "gemv_fast", "group_size": 128}, **given).read("m", 32, 128).codes
    assert codes[8 + row, column] == 9 and codes.sum() == 9


def test_scaled_zero_points_of_gemv_fast(layer):
    """-s * z, rounded to fp16, is read as the integer z, and a note says that it was rounded. A group of scale 0 may
    have any.
    """
    scale = np.float16(1 + 2**-10)
    given = fast(padded=16)
    for z in range(16):
        given["scales"][0, z], given["qzeros"][0, z] = scale, -np.float16(np.float64(scale) * z)
    given["scales"][0, 16], given["qzeros"][0, 16] = 0, 0
    given["scales"][1:], given["qzeros"][1:] = np.nan, np.nan
    reader = layer({"version": "gemv_fast", "group_size": 128}, **given)
    with pytest.raises(Exception, match=r"padded|expected \[8, 32\]"):
        reader.grid("m", 32, 128)
    given = {**given, "qzeros": given["qzeros"][:8], "scales": given["scales"][:8]}
    reader = layer({"version": "gemv_fast", "group_size": 128}, **given)
    assert reader.grid("m", 32, 128).asymmetric
    assert reader.read("m", 32, 128).zeros[:17, 0].tolist() == [*(16 * z for z in range(16)), 128]
    inexact = sum(np.float64(np.float16(np.float64(scale) * z)) != np.float64(scale) * z for z in range(16))
    (note,) = reader.notes()
    assert inexact > 0 and f"{inexact} groups" in note and "rounded to fp16" in note


def test_symmetric_gemv_fast_and_the_name_of_llm_awq(layer):
    given = fast()
    given["scaled_zeros"] = given.pop("qzeros")
    for settings in ({"version": "llm-awq"}, {"version": None, "backend": "llm-awq"}, {"version": "llm_awq"}):
        reader = layer({"group_size": 128, **settings}, **given)
        assert not reader.grid("m", 32, 128).asymmetric
        assert reader.names("m") == ["m.qweight", "m.scaled_zeros", "m.scales"]
        assert reader.notes() == []


@pytest.mark.parametrize("value", [-3.75, 0.5, -8.0, np.nan, np.inf])
def test_scaled_zero_points_off_the_grid_are_refused(layer, refused, value):
    """With scale 0.5: z = 7.5, -1 and 16, and a value that is not a number."""
    given = fast()
    given["qzeros"][0, 3] = value
    words_ = ("model.safetensors", "m.qzeros", "output 3, group 0", "scale 0.5", "whole number from 0 to 15")
    refused(lambda: layer({"version": "gemv_fast", "group_size": 128}, **given).grid("m", 32, 128), *words_)


def test_values_decide_over_zero_point(layer):
    """With zero_point: false, stored zero-points other than 8 are kept, and a note says so."""
    reader = layer({"zero_point": False}, **gemm())
    assert not reader.grid("m", 32, 32).asymmetric and reader.notes() == []
    reader = layer({"zero_point": False}, **gemm(zero_word=0x77777777))
    assert reader.grid("m", 32, 32).asymmetric
    assert "zero_point: false" in reader.notes()[0] and "first: m" in reader.notes()[0]


@pytest.mark.parametrize(
    ("group_size", "groups", "stored"), [(256, 2, 128), (-1, 1, 128), (128, 4, 128), (64, 8, 64), (None, 4, 128)]
)
def test_groups(layer, group_size, groups, stored):
    """A larger group is stored as several with the same scale. Without group_size, groups have 128 inputs."""
    given = gemm(columns=512, groups=groups)
    given["scales"][:] = np.arange(groups)[:, None] + 1
    linear = layer({"group_size": group_size}, **given).read("m", 32, 512)
    assert linear.group == stored
    assert linear.scales[0].tolist() == np.repeat(np.arange(groups) + 1, 512 // stored // groups).tolist()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bits": 3}, "bits 3"),
        ({"bits": 8}, "bits 8"),
        ({"bits": True}, "bits True"),
        ({"bits": None}, "bits None"),
        ({"group_size": 48}, "group_size 48"),
        ({"group_size": "128"}, "group_size '128'"),
        ({"version": "exllama"}, "version 'exllama'"),
        ({"version": "marlin"}, "version 'marlin'"),
        ({"version": 3}, "version 3"),
        ({"version": None, "format": "marlin"}, "version 'marlin'"),
        ({"checkpoint_format": "gemv"}, "version ['gemm', 'gemv']"),
    ],
)
def test_settings_that_are_refused_by_name(layer, refused, settings, named):
    refused(lambda: layer(settings, **gemm()), "config.json", f"AWQ with {named}", "4 bits", "gemm, gemv, gemv_fast")


def test_groups_without_a_width_in_gemv(layer, refused):
    """96 is a group size that the layout holds and gemm stores, but gemv's kernels define no width for it."""
    assert layer({"group_size": 96}, **gemm(columns=192, groups=2)).grid("m", 32, 192).group == 32
    reader = layer({"group_size": 96, "version": "gemv"}, **gemv(32, 192))
    refused(lambda: reader.grid("m", 32, 192), "config.json", "AWQ with group_size 96")


@pytest.mark.parametrize("settings", [{"version": "GEMM"}, {"version": None}, {"version": None, "format": "gemm"}])
def test_version_by_its_names(layer, settings):
    assert layer(settings, **gemm()).version == "gemm"


@pytest.mark.parametrize(
    ("version", "rows", "columns", "expected"),
    [
        ("gemm", 36, 32, "multiple of 8 outputs"),
        ("gemm", 32, 48, "1 and 32 inputs"),
        ("gemv", 32, 48, "8 and 32 inputs"),
        ("gemv_fast", 32, 96, "32 and 64 inputs"),
    ],
)
def test_sizes_that_are_refused(layer, refused, version, rows, columns, expected):
    reader = layer({"version": version}, **gemm())
    refused(lambda: reader.grid("m", rows, columns), "layer m", f"{rows} x {columns}", expected)


@pytest.mark.parametrize(
    ("change", "words_of_error"),
    [
        ({"qweight": np.zeros((4, 32), np.int32)}, ["m.qweight", "[4, 32]", "expected [32, 4]"]),
        ({"qweight": np.zeros((32, 4), np.float16)}, ["m.qweight", "F16", "expected I32"]),
        ({"qzeros": np.zeros((2, 4), np.int32)}, ["m.qzeros", "[2, 4]", "expected [1, 4]"]),
        ({"qzeros": None}, ["m.qzeros", "missing"]),
        ({"scales": np.full((1, 32), np.inf, np.float16)}, ["m.scales", "exact in fp16"]),
    ],
)
def test_wrong_tensors(layer, refused, change, words_of_error):
    given = {name: values for name, values in {**gemm(), **change}.items() if values is not None}
    refused(lambda: layer(**given).grid("m", 32, 32), *words_of_error)


def test_settings_in_a_file_of_their_own(folder):
    """Old AutoAWQ checkpoints have quant_config.json, with other names."""
    del folder.config["quantization_config"]
    settings = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMV"}
    (folder.path / "quant_config.json").write_text(json.dumps(settings))
    reader = reader_for(Checkpoint(folder.save()))
    assert (reader.method, reader.group_size, reader.version) == ("awq", 64, "gemv")
