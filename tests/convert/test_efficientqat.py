"""EfficientQAT's own checkpoints, whose settings follow from shapes, and checkpoints that only look like them."""

import numpy as np
import pytest

from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint


@pytest.fixture
def layer(folder):
    """layer(**tensors): a reader for a checkpoint without settings, whose only layer is `m`."""

    def make(name="Llama-2-7b-EfficientQAT-w2g64", settings=None, **tensors):
        folder.config.update(quantization_config=settings, _name_or_path=name)
        folder.tensors = {f"m.{part}": values for part, values in tensors.items()}
        return reader_for(Checkpoint(folder.save()))

    return make


def tensors(words, groups=2, zero_words=4, rows=32):
    return {
        "qweight": np.zeros((words, rows), np.int32),
        "qzeros": np.zeros((groups, zero_words), np.int32),
        "scales": np.ones((groups, rows), np.float16),
        "g_idx": np.zeros(128, np.int32),
    }


@pytest.mark.parametrize(("words", "zero_words", "bits"), [(8, 2, 2), (13, 4, 3), (16, 4, 4), (32, 8, 8)])
@pytest.mark.parametrize(("groups", "group"), [(1, 128), (2, 64), (4, 32)])
def test_bits_and_group_follow_from_the_shapes(layer, words, zero_words, bits, groups, group):
    """128 inputs and 32 outputs. g_idx is ignored, and not needed. The zero-points are 0, without an offset."""
    given = tensors(words, groups, zero_words)
    reader = layer(**given)
    assert reader.grid("m", 32, 128).name == f"w{bits}g{32 if bits == 8 else group} asymmetric"
    assert reader.grid("m", 32, 128).column_order is None
    assert not reader.read("m", 32, 128).zeros.any()
    assert not any("the settings say" in note for note in reader.notes())
    del given["g_idx"]
    assert layer(**given).grid("m", 32, 128).column_order is None


def test_words_that_may_be_padded_do_not_say_the_shape(layer, refused):
    """g_idx says how many inputs there are; without it the last word may be filled up."""
    given = tensors(13)
    assert layer(**given).shapes() == {"m": (32, 128)}
    del given["g_idx"]
    refused(layer(**given).shapes, "layer m is quantized with", "do not say how many inputs it has")


def test_ten_values_of_three_bits_in_a_word(layer):
    """Value 9 in bits 27 to 29 of word 0, value 10 in the low bits of word 1; zero-points likewise."""
    given = tensors(13)
    given["qweight"][0, 5], given["qweight"][1, 5] = 5 << 27, 6
    given["qzeros"][1, 3] = 7 << 3
    linear = layer("a name that says nothing", **given).read("m", 32, 128)
    assert {int(k): int(linear.codes[5, k]) for k in np.flatnonzero(linear.codes[5])} == {9: 5, 10: 6}
    assert {tuple(map(int, at)): int(linear.zeros[tuple(at)]) for at in np.argwhere(linear.zeros)} == {(31, 1): 7 * 16}


def test_how_a_checkpoint_says_what_it_is(folder, layer, refused):
    """By its name, or by settings that the user adds. GPTQ version 1 without settings has the same shapes."""
    given = tensors(8, zero_words=2)
    words = ("config.json", "quantization_config is missing", "layer m", '"quant_method": "efficientqat"', "gptq")
    refused(lambda: layer("llama-7b-4bit", **given).grid("m", 32, 128), *words)
    refused(lambda: layer(None, **given).grid("m", 32, 128), *words)
    layer("llama-7b", settings={"quant_method": "efficientqat"}, **given).grid("m", 32, 128)
    layer(None, **given)
    for place in ("other", "snapshots"):
        cached = folder.path.parent / "models--ChenMnZ--Llama-2-7b-EfficientQAT-w2g64" / place / "0123abcd"
        cached.parent.mkdir(parents=True)
        folder.path.rename(cached)
        folder.path, reader = cached, reader_for(Checkpoint(cached))
        if place == "snapshots":
            assert reader.grid("m", 32, 128).bits == 2
        else:
            refused(lambda reader=reader: reader.grid("m", 32, 128), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qweight": np.zeros((12, 32), np.int32)}, ["m.qweight", "[12, 32]", "128 inputs", "2, 3, 4 or 8 bits"]),
        ({"qweight": np.zeros((), np.int32)}, ["m.qweight", "[]"]),
        ({"qweight": np.zeros((8, 32), np.float16)}, ["m.qweight", "F16"]),
        ({"scales": np.ones((3, 32), np.float16)}, ["m.scales", "3 groups for 128 inputs"]),
        ({"scales": np.ones((8, 32), np.float16)}, ["m.scales", "8 groups for 128 inputs", "32, 64, 128"]),
        ({"scales": np.ones((0, 32), np.float16)}, ["m.scales", "0 groups"]),
        ({"scales": np.ones((), np.float16)}, ["m.scales", "no groups"]),
        ({"qzeros": np.zeros((2, 4), np.int32)}, ["m.qzeros", "expected [2, 2]"]),
    ],
)
def test_shapes_that_fit_nothing(layer, refused, change, words):
    refused(lambda: layer(**{**tensors(8, zero_words=2), **change}).grid("m", 32, 128), "model.safetensors", *words)
