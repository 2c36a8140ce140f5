"""The GPTQ reader against hand-made words, and everything that it refuses."""

import json

import numpy as np
import pytest

from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint


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


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("order", [None, np.zeros(0, np.int32), np.arange(96, dtype=np.int32) // 32])
def test_shapes_that_words_say(layer, bits, order):
    """With g_idx and without; an empty one says nothing."""
    given = {
        "qweight": words(96 * bits // 32, 64, 0),
        "qzeros": words(3, 64 * bits // 32, 0),
        "scales": np.ones((3, 64), np.float16),
    }
    reader = layer({"bits": bits}, **given, **({} if order is None else {"g_idx": order}))
    assert reader.shapes() == {"m": (64, 96)} and reader.grid("m", 64, 96).bits == bits


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
        ("gptq", 4, 0x77777777, None),  # version 1 stores z - 1 = 7: z = 8, symmetric
        (None, 4, 0x77777777, None),  # no version given means version 1
        ("gptq_v2", 4, 0x88888888, None),  # version 2 stores z = 8; the word is a negative int32
        ("gptq", 2, 0x55555555, None),  # z - 1 = 1: z = 2, symmetric
        ("gptq_v2", 2, 0xAAAAAAAA, None),
        ("gptq_v2", 4, 0x77777777, 7 * 16),
        ("gptq", 4, 0x88888888, 9 * 16),
        ("gptq", 2, 0xAAAAAAAA, 3 * 16),
        ("gptq_v2", 2, 0xFFFFFFFF, 3 * 16),
        ("gptq_v2", 4, 0xFFFFFFFF, 15 * 16),
        ("gptq_v2", 2, 0x00000000, 0),
        ("gptq", 8, 0x7F7F7F7F, None),  # z - 1 = 127: z = 128, symmetric
        ("gptq_v2", 8, 0x80808080, None),
        ("gptq_v2", 8, 0xFFFFFFFF, 255 * 16),
        ("gptq_p", 4, 0x88888888, None),  # the planar format stores z
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


@pytest.mark.parametrize(("bits", "groups_of_ones"), [(2, 32), (4, 32), (8, 32)])
def test_version_1_wraps_to_zero_and_says_so(layer, bits, groups_of_ones):
    """A stored field of all ones means z = 0: it is read so and counted, with one note."""
    reader = layer({"bits": bits, "checkpoint_format": "gptq"}, **tensors(bits=bits, zero_word=0xFFFFFFFF))
    reader.grid("m", 32, 32)
    assert (reader.read("m", 32, 32).zeros == 0).all()
    (note,) = reader.notes()
    assert f"{groups_of_ones} zero-points are stored as -1" in note and "read as 0" in note


def test_zero_points_that_borrow(layer):
    """GPTQModel subtracts 0x11111111 from whole words: the zero-points 0, 3, 8 become 0xF (borrowing 1), 1, 7."""
    given = tensors(zero_word=0x88888830 - 0x11111111)
    meta = {"quantizer": ["gptqmodel:7.7.0"]}
    settings = {"checkpoint_format": "gptq"}
    assert layer({**settings, "meta": meta}, **given).read("m", 32, 32).zeros[:3, 0].tolist() == [0, 3 * 16, 8 * 16]
    assert layer({**settings, "meta": {"quantizer": "gptqmodel:0.9"}}, **given).read("m", 32, 32).zeros[1, 0] == 3 * 16
    assert layer(settings, **given).read("m", 32, 32).zeros[:3, 0].tolist() == [0, 2 * 16, 8 * 16]


def test_three_bit_zero_points(layer):
    """Version 1 of a symmetric layer: every field is 3, so 96 bits are 011 thirty-two times."""
    given = {
        "qweight": words(3, 32, 0),
        "scales": np.ones((1, 32), np.float16),
        "qzeros": np.array([[0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D]], np.uint32).view(np.int32),
    }
    assert layer({"bits": 3, "checkpoint_format": "gptq"}, **given).read("m", 32, 32).zeros is None
    assert (layer({"bits": 3, "checkpoint_format": "gptq_v2"}, **given).read("m", 32, 32).zeros == 3 * 16).all()


def test_values_decide_over_the_sym_flag(layer):
    """With sym: true, other stored zero-points are kept, and a note says so."""
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
    """desc_act without g_idx says that inputs are reordered, but not how. With one group there is no order."""
    order = {} if g_idx is None else {"g_idx": g_idx}
    for static in ({}, {"static_groups": False}):
        reader = layer({"desc_act": True, **static}, **tensors(columns=64, groups=2), **order)
        words = ("config.json", "desc_act is true", "layer m", "m.g_idx", "static_groups: true")
        refused(lambda: reader.grid("m", 32, 64), *words)
    layer({"desc_act": True, "group_size": -1}, **tensors(columns=64), **order).grid("m", 32, 64)
    layer({"desc_act": False}, **tensors(columns=64, groups=2), **order).grid("m", 32, 64)


def test_act_order_sorts_the_inputs(layer):
    """Inputs 7 and 40 have swapped groups although desc_act is false. Input 7 is now the first of group 1."""
    given = tensors(columns=64, groups=2, zero_word=0x88888888)
    given["scales"][1] = 2
    given["qweight"][0, 5], given["qweight"][5, 5] = 0x10000000, 0x00000002
    g_idx = np.arange(64) // 32
    g_idx[7], g_idx[40] = 1, 0
    reader = layer({"checkpoint_format": "gptq_v2"}, **given, g_idx=g_idx.astype(np.int32))
    order = reader.grid("m", 32, 64).column_order
    assert order.tolist() == [*range(7), *range(8, 32), 40, 7, *range(32, 40), *range(41, 64)]
    linear = reader.read("m", 32, 64)
    assert linear.codes[5, 31:33].tolist() == [2, 1] and linear.codes.sum() == 3
    assert linear.dequantize()[5, 30:34].tolist() == [-8, 2 - 8, 2 * (1 - 8), 2 * -8]


@pytest.mark.parametrize(
    ("change", "words_of_error"),
    [
        ({7: 2}, ["input 7", "group 2", "one of 0 to 1"]),
        ({9: -1}, ["input 9", "group -1", "one of 0 to 1"]),
        ({0: -(2**31), 5: 2**31 - 1}, ["input 0", "group -2147483648"]),
        ({7: 1}, ["act-order", "31 in group 0, expected 32", "different sizes"]),
        (dict.fromkeys(range(32, 64), 0), ["64 in group 0, expected 32"]),  # all zero: a dummy, or damage
    ],
)
def test_orders_that_are_none(layer, refused, change, words_of_error):
    g_idx = (np.arange(64) // 32).astype(np.int32)
    for column, group in change.items():
        g_idx[column] = group
    reader = layer({"desc_act": True}, **tensors(columns=64, groups=2), g_idx=g_idx)
    refused(lambda: reader.grid("m", 32, 64), "model.safetensors", "m.g_idx", *words_of_error)


@pytest.mark.parametrize(
    ("group_size", "columns", "groups", "stored", "repeat"),
    [
        (128, 256, 2, 128, 1),
        (256, 512, 2, 128, 2),
        (-1, 384, 1, 128, 3),
        (-1, 96, 1, 32, 3),
        (64, 128, 2, 64, 1),
        (96, 192, 2, 32, 3),
        (192, 384, 2, 64, 3),
        (2**40, 256, 1, 128, 2),
    ],
)
def test_larger_groups_repeat_their_scales(layer, group_size, columns, groups, stored, repeat):
    """A group size that the layout lacks is stored as several groups with the same scale; the weights stay the same."""
    given = tensors(columns=columns, groups=groups, zero_word=0x88888888)
    given["scales"] = (np.arange(groups * 32).reshape(groups, 32) + 1).astype(np.float16)
    linear = layer({"group_size": group_size}, **given).read("m", 32, columns)
    assert linear.group == stored
    assert np.array_equal(linear.scales, np.repeat(given["scales"].T, repeat, axis=1))
    weights = linear.dequantize()
    per_scale = columns // groups
    assert np.array_equal(weights, np.repeat(given["scales"].T.astype(np.float32), per_scale, axis=1) * -9)


def test_bfloat16_scales_must_be_exact_in_fp16(layer, refused):
    """1.5 is. 1e38, infinity and NaN are not; NaN in fp16 is refused too. Nothing is rounded silently."""
    given = tensors()
    given["scales"] = np.full((1, 32), 0x3FC0, np.uint16)
    assert (layer(**given).read("m", 32, 32).scales == 1.5).all()
    for bits in (0x7E96, 0x7F80, 0x7FC0):
        given["scales"][0, 3] = bits
        refused(lambda: layer(**given).grid("m", 32, 32), "model.safetensors", "m.scales", "BF16", "exact in fp16")
    given["scales"] = np.full((1, 32), np.nan, np.float16)
    refused(lambda: layer(**given).grid("m", 32, 32), "m.scales", "F16")


@pytest.mark.parametrize(("columns", "group_size", "stored"), [(192, 128, 64), (96, 64, 32), (160, 96, 32)])
def test_a_last_group_that_is_shorter(layer, columns, group_size, stored):
    """The inputs are not a multiple of the group: the last scale holds for fewer of them."""
    given = tensors(columns=columns, groups=2, zero_word=0x88888888)
    given["scales"][1] = 2
    linear = layer({"group_size": group_size, "checkpoint_format": "gptq_v2"}, **given).read("m", 32, columns)
    assert linear.group == stored
    assert linear.dequantize()[3].tolist() == [-8] * group_size + [-16] * (columns - group_size)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bits", 1),
        ("bits", 5),
        ("bits", 6),
        ("bits", 7),
        ("bits", 16),
        ("bits", "4"),
        ("bits", None),
        ("bits", True),
        ("group_size", 48),
        ("group_size", 16),
        ("group_size", 0),
        ("group_size", -32),
        ("group_size", "128"),
        ("group_size", True),
        ("checkpoint_format", "marlin"),
        ("checkpoint_format", "qqq"),
        ("checkpoint_format", "exl3"),
        ("format", "bitblas"),
        ("checkpoint_format", 2),
        ("pack_dtype", "int64"),
        ("pack_dtype", 32),
        ("rotation", "hadamard"),
        ("is_marlin_format", True),
        ("dynamic", [1]),
        ("dynamic", {"a": 4}),
        ("method", "qqq"),
        ("dynamic", "-:m"),
    ],
)
def test_settings_that_are_refused_by_name(layer, refused, key, value):
    named = "checkpoint_format" if key == "format" else key
    words = ("config.json", named, repr(value), "2, 3, 4 or 8 bits", "32, 64, 128", "gptq_v2")
    refused(lambda: layer({key: value}, **tensors()), *words)


def test_three_bits_have_words_of_32_bits(layer, refused):
    refused(lambda: layer({"bits": 3, "pack_dtype": "int16"}, **tensors()), "pack_dtype", "'int16'")


@pytest.mark.parametrize(
    "changes",
    [
        {"pack_dtype": "int32", "dynamic": {"-:lm_head": {}}, "damp_percent": 0.1, "format": "gptq"},
        {"pack_dtype": "torch.int32", "dynamic": {}, "meta": 7},
        {"rotation": None, "is_marlin_format": None, "method": None},
        {"rotation": False, "is_marlin_format": False, "method": "gptq"},
        {"rotation": ""},
    ],
)
def test_settings_that_change_nothing(layer, changes):
    """Codes, scales and zero-points are those without them; others change something."""
    given = tensors()
    given["qweight"][:] = np.random.default_rng(2).integers(-(2**31), 2**31, given["qweight"].shape)
    plain, changed, other = (
        layer(settings, **given).read("m", 32, 32) for settings in ({}, changes, {"checkpoint_format": "gptq_v2"})
    )
    for one, same in zip(vars(plain).values(), vars(changed).values(), strict=True):
        assert np.array_equal(one, same)
    assert not np.array_equal(plain.dequantize(), other.dequantize())


def test_the_first_rule_counts_and_exclusions_come_first(layer, refused):
    """As in GPTQModel: a rule matches a beginning of the name; rules with -: go before all others."""
    rules = {"m$": {"bits": 2}, "+:m": {"bits": 8}, "x": {"bits": 3}, "-:.*head": {}}
    reader = layer({"dynamic": rules}, **tensors(bits=2))
    assert reader.grid("m", 32, 32).bits == 2
    for dynamic, words_of_error in (
        ({**rules, "-:[l-n]": {}}, ("config.json", "'-:[l-n]'", "layer m in floats", "m.qweight", "expected m.weight")),
        ({"m": {"bits": 5}}, ("config.json", "bits 5")),
        ({"m": {"group_size": 16}}, ("group_size 16",)),
        ({"m": {"format": "gptq_v2"}}, ("dynamic", "layer m", "gptq_v2")),
    ):
        refused(lambda: layer({"dynamic": dynamic}, **tensors()).grid("m", 32, 32), *words_of_error)


@pytest.mark.parametrize("rule", ["(", "+:[a", "-:a**", r"(a)\2", "a{1,5000}", "(" * 5000])
def test_rules_that_are_no_regular_expression(layer, refused, rule):
    refused(lambda: layer({"dynamic": {rule: {}}}, **tensors()), "config.json", "dynamic", "regular expression")


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
    refused(lambda: layer({"bits": 3}, **tensors()).grid("m", 32, 48), "m", "32 x 48", "multiples of 32")


def test_settings_in_a_file_of_their_own(folder):
    """Old AutoGPTQ checkpoints have quantize_config.json, without a quant_method."""
    settings = folder.config.pop("quantization_config")
    del settings["quant_method"]
    (folder.path / "quantize_config.json").write_text(json.dumps(settings))
    reader = reader_for(Checkpoint(folder.save()))
    assert reader.grid("model.layers.0.mlp.up_proj", 768, 256).name == "w2g64 asymmetric"


def test_two_files_of_settings(folder, layer, refused):
    """GPTQModel reads quantize_config.json first, transformers config.json. A format that only one of them names is
    used.
    """
    separate = folder.path / "quantize_config.json"
    separate.write_text(json.dumps({"bits": 4, "format": "gptq_v2"}))
    assert layer(**tensors(zero_word=0x88888888)).read("m", 32, 32).zeros is None
    layer({"checkpoint_format": "gptq_v2"}, **tensors())
    words_of_error = ("config.json", "checkpoint_format is 'gptq'", "quantize_config.json has 'gptq_v2'")
    refused(lambda: layer({"checkpoint_format": "gptq"}, **tensors()), *words_of_error)
    separate.write_text(json.dumps({"bits": 4}))
    assert layer({"checkpoint_format": "gptq"}, **tensors()).read("m", 32, 32).zeros is None
