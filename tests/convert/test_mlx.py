"""The MLX reader against hand-made words, and everything that it refuses."""

import numpy as np
import pytest

from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint

BASE = {"group_size": 32, "bits": 4}


@pytest.fixture
def layer(one_layer):
    return lambda tensors, **settings: one_layer({**BASE, **settings}, tensors, key="quantization")


def tensors(bits=4, rows=32, columns=64, group=32, zero=8.0, scale=0.5, dtype=np.float16):
    shape = rows, columns // group
    return {
        "weight": np.zeros((rows, columns * bits // 32), np.uint32),
        "scales": np.full(shape, scale, dtype),
        "biases": np.full(shape, -scale * zero, dtype),
    }


@pytest.mark.parametrize(
    ("bits", "words", "codes"),
    [
        (1, [0x0000800D], [1, 0, 1, 1] + [0] * 11 + [1]),
        (2, [0xE41B], [3, 2, 1, 0, 0, 1, 2, 3]),
        (4, [0x76543210, 0xF], [0, 1, 2, 3, 4, 5, 6, 7, 15]),
        (8, [0xFF800100], [0, 1, 128, 255]),
        # Value 10 has bits 30, 31 and 32; value 21 has bits 63, 64 and 65: a stream that words do not stop.
        (3, [0o7654321 | 1 << 31, 1 | 1 << 31, 0], [1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 6] + [0] * 10 + [1]),
    ],
)
def test_codes_run_along_the_inputs(layer, bits, words, codes):
    given = tensors(bits)
    given["weight"][7, : len(words)] = words
    found = layer(given, bits=bits).read("m", 32, 64).codes
    assert found[7, : len(codes)].tolist() == codes and found.sum() == sum(codes)


def test_weights_are_scale_times_code_plus_bias(layer):
    """Scales may be negative; zero-points are in sixteenths; each group has its own."""
    given = tensors()
    given["weight"][:] = 0x33333333
    given["scales"][5], given["biases"][5] = [-0.25, 2], [0.25 * 10, -2 * 3.0625]
    linear = layer(given).read("m", 32, 64)
    assert linear.zeros[5].tolist() == [160, 49]
    weights = linear.dequantize()[5]
    assert (weights[:32] == -0.25 * 3 + 2.5).all() and (weights[32:] == 2 * 3 - 6.125).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16])
@pytest.mark.parametrize(("bits", "zero"), [(1, 0.5), (2, 2.0), (3, 4.0), (4, 8.0), (8, 128.0)])
def test_symmetric_layers(layer, bits, zero, dtype):
    """In each float type. Scales of 16 bits are written as bfloat16, the upper half of a float32."""
    given = tensors(bits, zero=zero, dtype=np.float32)
    for name in ("scales", "biases"):
        values = given[name]
        given[name] = (values.view(np.uint32) >> 16).astype(dtype) if dtype == np.uint16 else values.astype(dtype)
    reader = layer(given, bits=bits)
    assert not reader.grid("m", 32, 64).asymmetric and reader.read("m", 32, 64).zeros is None
    assert reader.names("m") == ["m.weight", "m.scales", "m.biases"]


def test_groups_of_zeros(layer):
    """With scale and bias 0 any zero-point is right, so the layer stays symmetric."""
    given = tensors()
    given["scales"][3], given["biases"][3] = 0, 0
    assert not layer(given).grid("m", 32, 64).asymmetric


@pytest.mark.parametrize("top", [2, 3], ids=["ternary", "all-codes"])
def test_the_zero_point_1_of_2_bits(layer, top):
    """-1, 0, 1 and 2 times the scale are on the symmetric grid; without 2 they are ternary. A group of zeros fits."""
    codes = np.resize([0, 1, 2, 1, top], (32, 64)).astype(np.uint32)
    given = tensors(2, zero=1.0, scale=-0.375)
    given["weight"] = np.bitwise_or.reduce(codes.reshape(32, 4, 16) << 2 * np.arange(16, dtype=np.uint32), axis=2)
    given["scales"][3, 1], given["biases"][3, 1] = 0, 0
    reader = layer(given, bits=2)
    grid, linear = reader.grid("m", 32, 64), reader.read("m", 32, 64)
    assert not grid.asymmetric and linear.zeros is None and grid.ternary is (top == 2)
    assert linear.codes.min() == (1 if grid.ternary else 0)
    assert np.array_equal(linear.dequantize(), (codes - 1.0) * np.repeat(given["scales"], 32, axis=1))


@pytest.mark.parametrize(
    ("scale", "bias", "shown"),
    [
        (0.5, np.nan, "nan"),
        (0.5, 70000, "70000"),
        # Half a unit in the last place of fp16, 1/4 at 512, which is more than 1/256 of the scale.
        (0.5, 512.25, "512.25"),
        (0, 100.1, "100.099998"),
        (2**-13, 100.1, "100.099998"),
    ],
)
def test_minima_that_fp16_does_not_hold(layer, refused, scale, bias, shown):
    given = tensors(dtype=np.float32)
    given["scales"][4, 1], given["biases"][4, 1] = scale, bias
    words = (
        "model.safetensors",
        "m.biases",
        "output 4, group 1",
        f"minimum {shown} at a scale of {scale:.9g}",
        "1/128",
    )
    refused(lambda: layer(given).grid("m", 32, 64), *words)


@pytest.mark.parametrize(("scale", "bias"), [(0.5, -3.53125 / 2), (0.5, 0.5), (0.5, -8), (0, -8), (-0.25, 3.21)])
def test_biases_that_are_no_zero_points_are_minima(layer, scale, bias):
    """Finer than sixteenths, out of range, or without a scale: kept exactly, and all other groups of the layer too."""
    given = tensors(dtype=np.float16)
    given["weight"][:] = 0x77777777
    given["scales"][4, 1], given["biases"][4, 1] = scale, bias
    reader = layer(given)
    assert reader.grid("m", 32, 64).name == "w4g32 asymmetric with minima"
    linear = reader.read("m", 32, 64)
    assert linear.zeros is None and (linear.dequantize()[4, 32:] == 7 * scale + np.float16(bias)).all()
    assert (linear.dequantize()[5] == 7 * 0.5 - 4).all() and reader.notes() == []


def test_minima_that_are_rounded_are_said(layer):
    """One unit in the last place of a float32 off 7: 2^-21 of a step."""
    given = tensors(dtype=np.float32)
    given["scales"][4, 1], given["biases"][4, 1] = 1, -7 - 2**-21
    reader = layer(given)
    assert reader.read("m", 32, 64).minima[4, 1] == -7
    assert "by at most 4.8e-07 of a step" in reader.notes()[0]


def test_minima_of_dead_groups_may_be_rounded(layer):
    """Next to nothing beside the layer's other weights, and of a bfloat16 that fp16 has fewer digits for."""
    given = tensors(dtype=np.float32)
    given["scales"][4, 1], given["biases"][4, 1] = 2.0**-21, -7.1 * 2.0**-21
    reader = layer(given)
    assert reader.read("m", 32, 64).minima[4, 1] == np.float16(-7.1 * 2.0**-21) and len(reader.notes()) == 1


def test_scales_beyond_fp16(layer, refused):
    given = tensors(dtype=np.float32)
    given["scales"][4, 1] = 0.1
    refused(lambda: layer(given).grid("m", 32, 64), "m.scales", "exact in fp16")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bits": 5}, "bits 5"),
        ({"bits": 6}, "bits 6"),
        ({"bits": True}, "bits True"),
        ({"bits": None}, "bits None"),
        ({"group_size": 16}, "group_size 16"),
        ({"group_size": [32]}, "group_size [32]"),
        ({"mode": "mxfp4"}, "mode 'mxfp4'"),
        ({"mode": "nvfp4"}, "mode 'nvfp4'"),
    ],
)
def test_settings_that_are_refused_by_name(layer, refused, settings, named):
    words = ("config.json", f"quantization with {named} is not", "affine", "1, 2, 3, 4 or 8")
    refused(lambda: layer(tensors(), **settings), *words)


def test_settings_of_single_layers(layer, refused):
    """An object changes the named settings; true and null change nothing; false contradicts scales; the rest is
    refused.
    """
    assert layer(tensors(2, zero=2.0), m={"bits": 2, "group_size": 32}).grid("m", 32, 64).name == "w2g32 symmetric"
    assert layer(tensors(2, zero=2.0), m={"bits": 2}).grid("m", 32, 64).bits == 2
    for same in (True, None):
        assert layer(tensors(), m=same).grid("m", 32, 64).bits == 4
    refused(lambda: layer(tensors(), m=False).grid("m", 32, 64), "layer m is not quantized", "m.scales")
    refusals = ({"bits": 6}, "bits 6"), ({"mode": "mxfp8"}, "mode 'mxfp8'"), (7, "bits None"), ([], "bits None")
    for wrong, named in refusals:
        refused(lambda: layer(tensors(), m=wrong).grid("m", 32, 64), "quantization of layer m with", named)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": np.zeros((32, 16), np.uint32)}, ["m.weight", "[32, 16]", "expected [32, 8]"]),
        ({"weight": np.zeros((32, 8), np.int32)}, ["m.weight", "I32", "expected U32"]),
        ({"scales": np.ones((32, 1), np.float16)}, ["m.scales", "expected [32, 2]"]),
        ({"biases": None}, ["m.biases is missing"]),
    ],
)
def test_wrong_tensors(layer, refused, change, words):
    given = {name: values for name, values in {**tensors(), **change}.items() if values is not None}
    refused(lambda: layer(given).grid("m", 32, 64), *words)


def test_inputs_that_do_not_fill_groups(layer, refused):
    refused(lambda: layer(tensors()).grid("m", 32, 48), "layer m is 32 x 48", "multiple of 32")


def test_the_same_settings_once_more(folder):
    """mlx-lm repeats them as quantization_config. If that names a method, it is something else."""
    folder.config["quantization"] = folder.config["quantization_config"] = dict(BASE)
    assert reader_for(Checkpoint(folder.save())).method == "mlx"
    folder.config["quantization_config"] = {"quant_method": "gptq", "bits": 2, "group_size": 64}
    assert reader_for(Checkpoint(folder.save())).method == "gptq"
