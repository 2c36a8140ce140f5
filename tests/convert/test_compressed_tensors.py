"""The compressed-tensors reader against hand-made words: codes, scales, zero-points and orders."""

import numpy as np
import pytest

from support.compressed_tensors import group, packed, settings
from support.other_shapes import changes_that_are_read
from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint


def as_int32(*values):
    return np.array(values, np.uint32).view(np.int32)


@pytest.mark.parametrize(
    ("bits", "word", "codes"),
    [
        (2, 0xE4E4E41B, [3, 2, 1, 0] + [0, 1, 2, 3] * 3),
        (4, 0xFEDCBA98, [8, 9, 10, 11, 12, 13, 14, 15]),
        (8, 0xFF800100, [0, 1, 128, 255]),
    ],
)
def test_codes_run_along_the_inputs(one_layer, bits, word, codes):
    """Lowest bits first; the symmetric zero-point is half of the range."""
    given = packed(bits)
    given["weight_packed"][5, 1] = as_int32(word)[0]
    reader = one_layer(settings(group(num_bits=bits)), given)
    linear, first = reader.read("m", 32, 32), 32 // bits
    assert linear.codes[5, first : first + len(codes)].tolist() == codes and linear.zeros is None
    assert (linear.dequantize()[5, first : first + len(codes)] == np.array(codes) - (1 << bits - 1)).all()
    assert set(reader.names("m")) == {"m.weight_packed", "m.weight_scale", "m.weight_shape"}


def test_both_packings_of_3_bits(one_layer):
    """4096 inputs take 384 words as a dense stream and 410 with ten codes each. Code 10 differs between them."""
    for width, word, bit in ((384, 0, 30), (410, 1, 0)):
        given = packed(3, columns=4096, groups=32, width=width)
        given["weight_packed"][7, 0] = 0o7654321 << 3
        given["weight_packed"][7, word] |= 1 << bit
        codes = one_layer(settings(group(num_bits=3, group_size=128)), given).read("m", 32, 4096).codes
        assert codes[7, :12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 1, 0], width
        assert codes.sum() == 29
    given = packed(3, columns=4096, groups=32, width=384)
    given["weight_packed"][7, 0], given["weight_packed"][7, 1] = as_int32(1 << 31, 1)
    given["weight_packed"][7, 1] |= as_int32(1 << 31)[0]
    codes = one_layer(settings(group(num_bits=3, group_size=128)), given).read("m", 32, 4096).codes
    assert codes[7, 10] == 0b110 and codes[7, 21] == 0b001


def test_3_bits_of_another_width(one_layer, refused):
    reader = one_layer(settings(group(num_bits=3, group_size=128)), packed(3, columns=4096, groups=32, width=512))
    refused(lambda: reader.grid("m", 32, 4096), "m.weight_packed", "[32, 512]", "expected [32, 384]")


def test_3_bits_in_two_packings_of_one_width(one_layer, refused):
    """20 inputs fill 2 words in both packings, with different codes. 10 inputs fill one word, the same in both."""
    reader = one_layer(settings(group(num_bits=3)), packed(3, columns=20))
    refused(lambda: reader.grid("m", 32, 20), "m.weight_packed", "20 inputs", "both packings")
    given = packed(3, columns=10)
    given["weight_packed"][0] = 0o7654321 << 9
    codes = one_layer(settings(group(num_bits=3)), given).read("m", 32, 10).codes
    assert codes[0, 3:].tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("bits", "padded", "words"), [(4, False, 5), (3, False, 4), (3, True, 4), (2, False, 3)])
def test_zero_points_run_along_the_outputs(one_layer, refused, bits, padded, words):
    """36 outputs do not fill the last word. 3-bit zero-points are packed like the codes; both packings have the same
    width.
    """
    columns, groups = 64, 2
    given = packed(bits, 36, columns, groups, width=7 if padded else None)
    zeros = np.arange(72).reshape(36, 2) % (1 << bits)
    stored = np.zeros((words, 2), np.uint32)
    for row in range(36):
        at = (row // 10 * 32 + row % 10 * 3) if padded else row * bits
        for column in range(2):
            value = int(zeros[row, column]) << at % 32
            stored[at // 32, column] |= value & 0xFFFFFFFF
            if value >> 32:
                stored[at // 32 + 1, column] |= value >> 32
    given["weight_zero_point"] = stored.view(np.int32)
    config = settings(group(num_bits=bits, symmetric=False))
    assert (one_layer(config, given).read("m", 36, columns).zeros == zeros * 16).all()
    given["weight_zero_point"] = np.zeros((words + 1, 2), np.int32)
    refused(lambda: one_layer(config, given).grid("m", 36, columns), "m.weight_zero_point", f"expected [{words}, 2]")


def test_asymmetric_that_is_symmetric(one_layer, refused):
    """All zero-points are 8; or the promised tensor is missing."""
    given = packed()
    given["weight_zero_point"] = np.full((4, 1), 0x88888888, np.uint32).view(np.int32)
    config = settings(group(symmetric=False))
    assert not one_layer(config, given).grid("m", 32, 32).asymmetric
    del given["weight_zero_point"]
    refused(lambda: one_layer(config, given).grid("m", 32, 32), "m.weight_zero_point is missing")


@pytest.mark.parametrize("size", [None, -1])
def test_channel(one_layer, size):
    """One scale and zero-point per output, stored for each group of 128."""
    given = packed(columns=256)
    given["weight_scale"] = np.arange(1, 33, dtype=np.float16)[:, None]
    given["weight_zero_point"] = as_int32([0x33333333], [0], [0], [0])
    strategy = "channel" if size is None else None
    reader = one_layer(settings(group(strategy=strategy, group_size=size, symmetric=False)), given)
    linear = reader.read("m", 32, 256)
    assert linear.group == 128 and linear.scales[4].tolist() == [5, 5]
    assert linear.zeros[7].tolist() == [48, 48] and linear.zeros[8].tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(1,), ()])
def test_one_scale_for_the_layer(one_layer, shape):
    given = packed(columns=256)
    given["weight_scale"] = np.full(shape, 0.25, np.float16)
    given["weight_zero_point"] = np.full(shape, -3, np.int8)
    reader = one_layer(settings(group(strategy="tensor", group_size=None, symmetric=False)), given)
    linear = reader.read("m", 32, 256)
    assert linear.group == 128 and (linear.dequantize() == 0.25 * -5).all()


@pytest.mark.parametrize(("size", "scales"), [(None, (1,)), (-1, (32, 1)), (64, (32, 4))])
def test_strategies_that_the_group_size_says(one_layer, size, scales):
    given = packed(columns=256)
    given["weight_scale"] = np.arange(1, np.prod(scales) + 1).reshape(scales).astype(np.float16)
    reader = one_layer(settings(group(strategy=None, group_size=size)), given)
    expected = np.repeat(np.broadcast_to(given["weight_scale"], (32, scales[-1])), 256 // scales[-1], axis=1)
    assert (reader.read("m", 32, 256).dequantize() == -8 * expected).all()


@pytest.mark.parametrize(
    ("scales", "config"),
    [
        ((32, 1), {"strategy": "channel", "group_size": None}),
        ((1,), {"strategy": "tensor", "group_size": None}),
        ((), {"strategy": "tensor", "group_size": None}),
    ],
)
def test_int8_of_another_shape_or_type(one_layer, scales, config):
    """Codes and zero-points in int8, and their scales. test_stored_shapes.py has packed codes."""
    given = {
        "weight": np.ones((32, 64), np.int8),
        "weight_scale": np.ones(scales, np.float16),
        "weight_zero_point": np.ones(scales, np.int8),
    }
    config = settings(group(num_bits=8, symmetric=False, **config), format="int-quantized")
    reader = one_layer(config, given)
    assert reader.shapes() == {"m": (32, 64)} and reader.grid("m", 32, 64).bits == 8
    found = changes_that_are_read(lambda tensors: one_layer(config, tensors), given, given, "m", (32, 64))
    # One scale may be a number or a list of one.
    assert found == (
        [f"weight_{what}() an axis more" for what in ("scale float16", "zero_point int8")] if scales == () else []
    )


def test_packed_codes_alone_do_not_say_their_shape(one_layer, refused):
    """The last words may be filled up."""
    given = packed()
    del given["weight_shape"]
    reader = one_layer(settings(), given)
    assert reader.grid("m", 32, 32).bits == 4
    refused(reader.shapes, "layer m is quantized with compressed-tensors", "do not say how many inputs it has")


def test_8_bits_as_int8(one_layer):
    """int-quantized: q - 128 itself, one scale per output: Q8_0 holds it."""
    weights = np.arange(-128, 128, dtype=np.int8).reshape(1, 256).repeat(32, axis=0)
    given = {"weight": weights, "weight_scale": np.full((32, 1), 0x3F00, np.uint16)}
    config = settings(group(num_bits=8, strategy="channel", group_size=None), format="int-quantized")
    reader = one_layer(config, given)
    linear = reader.read("m", 32, 256)
    assert reader.has("m") and (linear.bits, linear.group, linear.zeros) == (8, 32, None)
    assert (linear.dequantize() == weights * 0.5).all()
    given["weight_zero_point"] = np.full((32, 1), 7, np.int8)
    own = group(num_bits=8, strategy="channel", group_size=None, symmetric=False, format="naive-quantized")
    linear = one_layer(settings(own), given).read("m", 32, 256)
    assert linear.zeros.dtype == np.uint16 and (linear.dequantize() == (weights.astype(float) - 7) * 0.5).all()


def test_int8_beyond_its_bits(one_layer, refused):
    given = {"weight": np.full((32, 32), 8, np.int8), "weight_scale": np.ones((32, 1), np.float16)}
    reader = one_layer(settings(group(), format="int-quantized"), given)
    refused(lambda: reader.read("m", 32, 32), "m.weight", "do not fit 4 bits", "-8 to 7")


def test_act_order(one_layer):
    """g_idx puts inputs 0, 2, 4, ... in group 1, so the odd ones come first, each with the scale of its group."""
    given = packed(columns=64, groups=2)
    given["weight_packed"][:] = as_int32(0x10101010)[0]
    given["weight_scale"][:] = [2, 4]
    given["weight_g_idx"] = (1 - np.arange(64) % 2).astype(np.int32)
    reader = one_layer(settings(group(actorder="group")), given)
    grid, linear = reader.grid("m", 32, 64), reader.read("m", 32, 64)
    assert grid.column_order.tolist() == [*range(1, 64, 2), *range(0, 64, 2)]
    assert (linear.codes[:, :32] == 1).all() and (linear.codes[:, 32:] == 0).all()
    weights = np.empty((32, 64))
    weights[:, grid.column_order] = linear.dequantize()
    assert (weights[:, 1::2] == 2 * -7).all() and (weights[:, ::2] == 4 * -8).all()
    assert "m.weight_g_idx" in reader.names("m")


def test_act_order_of_int8(one_layer):
    """Codes of one byte each are put into the order of the groups, too."""
    codes = np.arange(32 * 64).reshape(32, 64) % 15 - 7
    order = (1 - np.arange(64) % 2).astype(np.int32)
    given = {"weight": codes.astype(np.int8), "weight_scale": np.ones((32, 2), np.float16), "weight_g_idx": order}
    reader = one_layer(settings(group(actorder="group"), format="int-quantized"), given)
    grid, linear = reader.grid("m", 32, 64), reader.read("m", 32, 64)
    assert (grid.weights(linear) == codes).all()


def test_act_order_with_a_shorter_last_group(one_layer):
    """96 inputs in groups of 64: group 1 has some 32 of them. Stored in groups of 32."""
    given = packed(columns=96, groups=2)
    given["weight_scale"][:] = [2, 4]
    given["weight_g_idx"] = (np.arange(96) % 3 == 0).astype(np.int32)
    reader = one_layer(settings(group(actorder="group", group_size=64)), given)
    grid, linear = reader.grid("m", 32, 96), reader.read("m", 32, 96)
    assert grid.column_order.tolist() == [i for i in range(96) if i % 3] + list(range(0, 96, 3))
    assert linear.group == 32 and linear.scales[0].tolist() == [2, 2, 4]
    assert (grid.weights(linear) == np.where(np.arange(96) % 3 == 0, 4 * -8, 2 * -8)).all()


@pytest.mark.parametrize("order", [None, "weight", "static", False, "group", True, "dynamic"])
@pytest.mark.parametrize("g_idx", [None, np.full(64, -1), np.arange(64) // 32], ids=["absent", "unset", "trivial"])
def test_orders_that_change_nothing(one_layer, refused, order, g_idx):
    given = packed(columns=64, groups=2)
    if g_idx is not None:
        given["weight_g_idx"] = g_idx.astype(np.int32)
    reader = one_layer(settings(group(actorder=order)), given)
    if g_idx is None and order in ("group", True, "dynamic"):
        refused(lambda: reader.grid("m", 32, 64), "m.weight_g_idx is missing")
    else:
        assert reader.grid("m", 32, 64).column_order is None


@pytest.mark.parametrize("value", [0, 1, 2, -1, 2**31 - 1])
def test_groups_that_are_not_full(one_layer, refused, value):
    g_idx = (1 - np.arange(64) % 2).astype(np.int32)
    g_idx[[3, 4]] = value
    given = {**packed(columns=64, groups=2), "weight_g_idx": g_idx}
    if value in (0, 1):
        g_idx[5] = value
    reader = one_layer(settings(group(actorder="group")), given)
    found = "in group 0, expected 32" if value in (0, 1) else f"in group {value}, expected one of 0 to 1"
    refused(lambda: reader.grid("m", 32, 64), "model.safetensors", "m.weight_g_idx", found)


def test_what_is_for_activations_is_said(one_layer):
    """W4A8 weights are exact. A note says that activations and cache were quantized too; their tensors are known."""
    given = packed() | {"input_scale": np.ones(1, np.float16)}
    config = settings(group(inputs={"num_bits": 8, "type": "int"}), kv_cache_scheme={"num_bits": 8, "type": "float"})
    reader = one_layer(config, given)
    reader.grid("m", 32, 32)
    assert "m.input_scale" in reader.names("m")
    inputs, cache = reader.notes()
    assert "the inputs of its layers rounded" in inputs and "cache of keys and values" in cache


def test_weights_beside_packed_ones_are_not_passed_over(one_layer):
    """They are not among the layer's tensors, so the conversion stops at them."""
    given = packed() | {"weight": np.zeros((32, 32), np.float16)}
    assert "m.weight" not in one_layer(settings(), given).names("m")


@pytest.mark.parametrize("matrix", "qkv")
def test_what_is_for_activations_and_the_cache_is_known(folder, matrix):
    """Beside a layer for its inputs and outputs; beside what holds it for queries, keys and values."""
    module = f"model.layers.0.self_attn.{matrix}_proj"
    folder.config["quantization_config"] = settings()
    folder.tensors = {f"{module}.{part}": values for part, values in packed().items()}
    places = [f"{module}.input", f"{module}.output"]
    parts = [f"{place}_{part}" for place in places for part in ("scale", "zero_point")]
    parts += [f"model.layers.0.self_attn.{matrix}_scale"]
    parts += [f"model.layers.0.self_attn.{matrix}_zero_point"] if matrix != "q" else []
    folder.tensors |= dict.fromkeys(parts, np.ones(1, np.float16))
    names = reader_for(Checkpoint(folder.save())).names(module)
    assert set(names) == set(folder.tensors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_shape": np.array([32, 64])}, ["m.weight_shape", "32 x 64", "expected 32 x 32"]),
        ({"weight_shape": np.array([32, 32, 1])}, ["m.weight_shape", "[3]", "expected [2]"]),
        ({"weight_packed": np.zeros((2, 32, 4), np.int32)}, ["m.weight_packed", "[2, 32, 4]", "expected [32, 4]"]),
        ({"weight_scale": np.ones((32, 2), np.float16)}, ["m.weight_scale", "[32, 2]", "expected [32, 1]"]),
        ({"weight_scale": np.full((32, 1), 0x0001, np.uint16)}, ["m.weight_scale", "exact in fp16"]),
        ({"weight_zero_point": np.zeros((32, 1), np.float16)}, ["m.weight_zero_point", "F16", "expected I8 or I32"]),
    ],
)
def test_wrong_tensors(one_layer, refused, change, words):
    reader = one_layer(settings(), {**packed(), **change})
    refused(lambda: reader.grid("m", 32, 32), *words)
