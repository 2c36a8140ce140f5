"""The GPTQ reader against hand-made words, and everything that it refuses by name."""

import json

import numpy as np
import pytest

from tmac.convert.checkpoint import Checkpoint
from tmac.convert.readers import reader_for
from tmac.convert.readers.words import unpack_words


@pytest.fixture
def layer(folder):
    """layer(settings, **tensors): a reader for a checkpoint whose only layer is `m`, with these tensors."""

    def make(settings=None, **tensors):
        base = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
        folder.config["quantization_config"] = {**base, **(settings or {})}
        folder.tensors = {f"m.{name}": values for name, values in tensors.items()}
        return reader_for(Checkpoint(folder.save()))

    return make


def words(rows, columns, word):
    return np.full((rows, columns), word, np.uint32).view(np.int32)


def tensors(bits=4, rows=32, columns=32, groups=1, zero_word=0x77777777, code_word=0):
    per_word = 32 // bits
    return {
        "qweight": words(columns // per_word, rows, code_word),
        "qzeros": words(groups, rows // per_word, zero_word),
        "scales": np.ones((groups, rows), np.float16),
    }


def test_order_of_codes_in_a_word():
    """Lowest bits first: 0x76543210 holds 0..7 in 4 bits, 0xE4 repeated holds 0, 1, 2, 3 in 2 bits."""
    assert unpack_words(np.array([0x76543210, 0xFEDCBA98], "<u4"), 4).tolist() == list(range(16))
    assert unpack_words(np.array([0xE4E4E41B], "<u4"), 2).tolist() == [3, 2, 1, 0] + [0, 1, 2, 3] * 3


def test_codes_run_along_the_inputs(layer):
    """Word 0 of output 5 holds its inputs 0..7, word 1 its inputs 8..15; other outputs are zero."""
    given = tensors()
    given["qweight"][0, 5], given["qweight"][1, 5] = 0x76543210, 0x0000000F
    codes = layer(**given).read("m", 32, 32).codes
    assert codes[5, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 15]
    assert codes.sum() == 28 + 15


@pytest.mark.parametrize(
    ("version", "bits", "word", "zero"),
    [
        ("gptq", 4, 0x77777777, None),        # version 1 stores z - 1 = 7: z = 8, symmetric
        (None, 4, 0x77777777, None),          # no version given means version 1
        ("gptq_v2", 4, 0x88888888, None),     # version 2 stores z = 8; the word is a negative int32
        ("gptq", 2, 0x55555555, None),        # z - 1 = 1: z = 2, symmetric
        ("gptq_v2", 2, 0xAAAAAAAA, None),
        ("gptq_v2", 4, 0x77777777, 7 * 16),
        ("gptq", 4, 0x88888888, 9 * 16),
        ("gptq", 2, 0xAAAAAAAA, 3 * 16),
        ("gptq_v2", 2, 0xFFFFFFFF, 3 * 16),
        ("gptq_v2", 4, 0xFFFFFFFF, 15 * 16),
        ("gptq_v2", 2, 0x00000000, 0),
    ],
)
def test_zero_points(layer, version, bits, word, zero):
    """Words of both versions, with the zero-point worked out by hand (None: the symmetric type)."""
    reader = layer({"bits": bits, "checkpoint_format": version}, **tensors(bits=bits, zero_word=word))
    grid, linear = reader.grid("m", 32, 32), reader.read("m", 32, 32)
    assert grid.asymmetric is (zero is not None)
    assert linear.zeros is None if zero is None else (linear.zeros == zero).all()
    assert reader.notes() == []


def test_zero_points_run_along_the_outputs(layer):
    """Field j of a qzeros word is output j: version 2, 0x76543210 gives outputs 0..7 the zero-points 0..7."""
    given = tensors(zero_word=0)
    given["qzeros"][0, 1] = 0x76543210
    zeros = layer({"checkpoint_format": "gptq_v2"}, **given).read("m", 32, 32).zeros
    assert zeros[8:16, 0].tolist() == [16 * z for z in range(8)]


def test_version_1_wraps_to_zero_and_says_so(layer):
    """A stored field of all ones was z = 0: read as 0, counted, and mentioned once."""
    reader = layer({"bits": 2, "checkpoint_format": "gptq"}, **tensors(bits=2, zero_word=0xFFFFFFFF))
    reader.grid("m", 32, 32)
    assert (reader.read("m", 32, 32).zeros == 0).all()
    (note,) = reader.notes()
    assert "32 zero-points are stored as 3" in note and "read as 0" in note


def test_values_decide_over_the_sym_flag(layer):
    """sym: true with other zero-points keeps them, and says so."""
    reader = layer({"sym": True}, **tensors(zero_word=0x66666666))
    assert reader.grid("m", 32, 32).asymmetric
    assert "sym: true" in reader.notes()[0] and "first: m" in reader.notes()[0]


@pytest.mark.parametrize("g_idx", [None, np.arange(64) // 32, np.zeros(0)], ids=["absent", "trivial", "empty"])
def test_trivial_order_is_accepted_whatever_the_flag(layer, g_idx):
    given = tensors(columns=64, groups=2)
    if g_idx is not None:
        given["g_idx"] = g_idx.astype(np.int32)
    reader = layer({"desc_act": True, "static_groups": g_idx is None or not len(g_idx)}, **given)
    reader.grid("m", 32, 64)
    assert reader.read("m", 32, 64).codes.shape == (32, 64)
    assert len(reader.names("m")) == len(given)


@pytest.mark.parametrize("g_idx", [None, np.zeros(0, np.int32)], ids=["absent", "empty"])
def test_unknown_order_is_refused(layer, refused, g_idx):
    """desc_act without g_idx says that the inputs are reordered, but not how; one group has no order."""
    order = {} if g_idx is None else {"g_idx": g_idx}
    for static in ({}, {"static_groups": False}):
        reader = layer({"desc_act": True, **static}, **tensors(columns=64, groups=2), **order)
        words = ("config.json", "desc_act is true", "layer m", "m.g_idx", "static_groups: true")
        refused(lambda: reader.grid("m", 32, 64), *words)
    layer({"desc_act": True, "group_size": -1}, **tensors(columns=64), **order).grid("m", 32, 64)
    layer({"desc_act": False}, **tensors(columns=64, groups=2), **order).grid("m", 32, 64)


def test_reordered_inputs_are_refused(layer, refused):
    """One input in another group, although desc_act is false."""
    g_idx = (np.arange(64) // 32).astype(np.int32)
    g_idx[7] = 1
    reader = layer({"desc_act": False}, **tensors(columns=64, groups=2), g_idx=g_idx)
    refused(
        lambda: reader.grid("m", 32, 64),
        "model.safetensors", "m.g_idx", "act-order", "input 7 is in group 1, expected 0", "static_groups",
    )


@pytest.mark.parametrize(
    ("group_size", "columns", "groups", "stored", "repeat"),
    [(128, 256, 2, 128, 1), (256, 512, 2, 128, 2), (-1, 384, 1, 128, 3), (-1, 96, 1, 32, 3), (64, 128, 2, 64, 1)],
)
def test_larger_groups_repeat_their_scales(layer, group_size, columns, groups, stored, repeat):
    """A group the layout lacks is stored as several with the same scale; the weights stay the same."""
    given = tensors(columns=columns, groups=groups, zero_word=0x88888888)
    given["scales"] = (np.arange(groups * 32).reshape(groups, 32) + 1).astype(np.float16)
    linear = layer({"group_size": group_size}, **given).read("m", 32, columns)
    assert linear.group == stored
    assert np.array_equal(linear.scales, np.repeat(given["scales"].T, repeat, axis=1))
    weights = linear.dequantize()
    per_scale = columns // groups
    assert np.array_equal(weights, np.repeat(given["scales"].T.astype(np.float32), per_scale, axis=1) * -9)


def test_bfloat16_scales_must_be_exact_in_fp16(layer, refused):
    """1.5 is; 2**-133 and 1e38 are not, nor is infinity in fp16: never rounded silently."""
    given = tensors()
    given["scales"] = np.full((1, 32), 0x3FC0, np.uint16)
    assert (layer(**given).read("m", 32, 32).scales == 1.5).all()
    for bits in (0x0001, 0x7E96, 0x7F80, 0x7FC0):
        given["scales"][0, 3] = bits
        refused(lambda: layer(**given).grid("m", 32, 32), "model.safetensors", "m.scales", "BF16", "exact in fp16")
    given["scales"] = np.full((1, 32), np.nan, np.float16)
    refused(lambda: layer(**given).grid("m", 32, 32), "m.scales", "F16")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bits", 3), ("bits", 8), ("bits", "4"), ("bits", None), ("bits", True), ("group_size", 48), ("group_size", 0),
        ("group_size", "128"), ("checkpoint_format", "marlin"), ("checkpoint_format", "gptq_p"), ("format", "bitblas"),
        ("checkpoint_format", 2), ("pack_dtype", "int16"), ("rotation", "hadamard"), ("is_marlin_format", True),
        ("dynamic", {"+:.*": {"bits": 8}}), ("dynamic", [1]), ("method", "qqq"),
    ],
)
def test_settings_that_are_refused_by_name(layer, refused, key, value):
    named = "checkpoint_format" if key == "format" else key
    refused(lambda: layer({key: value}, **tensors()), "config.json", named, repr(value), "2 or 4 bits", "32, 64, 128")


def test_settings_that_change_nothing(layer):
    layer({"pack_dtype": "int32", "dynamic": {"-:lm_head": {}}, "damp_percent": 0.1, "format": "gptq"}, **tensors())


def test_contradicting_formats_are_refused(layer, refused):
    settings = {"checkpoint_format": "gptq_v2", "format": "gptq"}
    refused(lambda: layer(settings, **tensors()), "'gptq_v2'", "'gptq'", "expected one value")


@pytest.mark.parametrize(
    ("change", "words_of_error"),
    [
        ({"qweight": np.zeros((8, 32), np.int32)}, ["m.qweight", "[8, 32]", "expected [4, 32]"]),
        ({"qweight": np.zeros((4, 32), np.float16)}, ["m.qweight", "F16", "expected I32"]),
        ({"qzeros": np.zeros((2, 4), np.int32)}, ["m.qzeros", "[2, 4]", "expected [1, 4]"]),
        ({"scales": np.zeros((1, 32), np.int64)}, ["m.scales", "I64", "expected F16"]),
        ({"g_idx": np.zeros(31, np.int32)}, ["m.g_idx", "[31]", "expected [32]"]),
        ({"qzeros": None}, ["m.qzeros", "missing"]),
        ({"scales": None}, ["m.scales", "missing"]),
    ],
)
def test_wrong_tensors(layer, refused, change, words_of_error):
    given = {name: values for name, values in {**tensors(), **change}.items() if values is not None}
    refused(lambda: layer(**given).grid("m", 32, 32), *words_of_error)


def test_sizes_that_leave_a_word_unfilled(layer, refused):
    refused(lambda: layer(**tensors()).grid("m", 30, 32), "m", "30 x 32", "multiples of 8")


@pytest.mark.parametrize("method", ["something new", None, 3, [], "GPTQ"])
def test_other_methods_are_refused_by_name(folder, refused, method):
    folder.config["quantization_config"] = {"quant_method": method}
    refused(lambda: reader_for(Checkpoint(folder.save())), "config.json", "quant_method", repr(method), "gptq")


def test_unquantized_checkpoint_is_refused(folder, refused):
    del folder.config["quantization_config"]
    words = ("config.json", "quantization_config is None", "not quantized")
    refused(lambda: reader_for(Checkpoint(folder.save())), *words)


def test_settings_in_a_file_of_their_own(folder):
    """Old AutoGPTQ checkpoints have quantize_config.json, without a quant_method."""
    settings = folder.config.pop("quantization_config")
    del settings["quant_method"]
    (folder.path / "quantize_config.json").write_text(json.dumps(settings))
    assert reader_for(Checkpoint(folder.save())).bits == 2
