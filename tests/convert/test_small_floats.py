"""Layers that a recipe leaves in floats of 8 bits beside layers of codes: BF16 in the file, with a note."""

import numpy as np
import pytest

from support.safetensors_files import write_tensors
from tmac.convert.errors import ConvertError
from tmac.convert.inspect import inspect_checkpoint
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.small_floats import widened

MODULE = "model.layers.1.mlp.down_proj"
SHAPE = (256, 768)


def value(bits):
    """By the definition of E4M3, one number at a time."""
    sign = -1.0 if bits & 128 else 1.0
    exponent, mantissa = bits >> 3 & 15, bits & 7
    return sign * (2.0**-6 * mantissa / 8 if exponent == 0 else 2.0 ** (exponent - 7) * (1 + mantissa / 8))


def bits_of(shape):
    """Any but the two that are no numbers."""
    bits = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return np.where(bits & 127 == 127, np.uint8(0), bits)


def expected(bits, scales):
    """float64 products, then the nearest bfloat16 by float32's last 16 bits."""
    values = np.vectorize(value)(bits) * scales.astype(np.float64)
    single = values.astype(np.float32)
    low = (single.view(np.uint32) & 0xFFFF0000).view(np.float32)
    high = ((single.view(np.uint32) & 0xFFFF0000) + np.uint32(0x10000)).view(np.float32)
    return np.where(np.abs(single - low) <= np.abs(high - single), low, high), values


def put(folder, bits, scales, suffix="weight_scale"):
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        folder.tensors.pop(f"{MODULE}.{part}", None)
    folder.tensors |= {f"{MODULE}.weight": bits, f"{MODULE}.{suffix}": scales}
    folder.save()
    write_tensors(folder.weights, folder.tensors, small=[f"{MODULE}.weight"])
    return folder.path


SCALES = {
    "single": np.float32([0.0125]),
    "by row": np.linspace(0.001, 0.01, SHAPE[0], dtype=np.float32)[:, None],
    "by block": np.linspace(0.001, 0.01, 2 * 6, dtype=np.float32).reshape(2, 6),
}


def by_weight(scales):
    if scales.shape == (2, 6):
        return np.repeat(np.repeat(scales, 128, axis=0), 128, axis=1)
    return np.broadcast_to(scales, SHAPE)


@pytest.mark.parametrize("kind", SCALES)
def test_conversion(folder, tmp_path, quietly, kind):
    bits, scales = bits_of(SHAPE), SCALES[kind]
    suffix = "weight_scale_inv" if kind == "by block" else "weight_scale"
    if kind == "single":
        # Of activations in 8 bits, which T-MAC does not use: it is left out.
        folder.tensors[f"{MODULE}.input_scale"] = np.float32([0.5])
    report = quietly(put(folder, bits, scales, suffix), tmp_path / "x.gguf")
    assert any(
        "floats of 8 bits" in note and MODULE in note and "but for those that llama.cpp's converter computes" in note
        for note in report.notes
    )
    tensor = next(t for t in read_gguf_header(tmp_path / "x.gguf").tensors if t.name == "blk.1.ffn_down.weight")
    stored = np.fromfile(tmp_path / "x.gguf", "<u2", tensor.nbytes // 2, offset=tensor.offset)
    found = (stored.astype(np.uint32) << 16).view(np.float32).reshape(SHAPE)
    nearest, exact = expected(bits, by_weight(scales))
    assert tensor.type_name == "bf16"
    assert (np.abs(found - exact) <= np.abs(exact) * 2.0**-8).all() and (found != 0).sum() == (exact != 0).sum()
    # But for halves, which go to the even one.
    assert np.count_nonzero(found != nearest) < found.size / 100


def test_some_rows_are_read_as_all_are(folder):
    checkpoint = widened(Checkpoint(put(folder, bits_of(SHAPE), SCALES["by block"])))
    name = f"{MODULE}.weight"
    assert np.array_equal(checkpoint.read(name, slice(100, 140)), checkpoint.read(name)[100:140])


@pytest.mark.parametrize("shape", [(), (1,), (192,), (192, 1), (2, 3)])
def test_every_shape_of_scales(folder, shape):
    """For all weights, for rows, and for blocks of 128 x 128, whose last ones are cut off here."""
    bits, scales = bits_of((192, 320)), np.random.default_rng(2).uniform(0.001, 0.01, shape).astype(np.float32)
    found = widened(Checkpoint(put(folder, bits, scales))).read(f"{MODULE}.weight")
    spread = scales[:, None] if shape == (192,) else scales
    if shape == (2, 3):
        spread = scales[np.arange(192)[:, None] // 128, np.arange(320) // 128]
    exact = np.vectorize(value)(bits) * spread.astype(np.float64)
    assert found.shape == exact.shape and (np.abs(found - exact) <= np.abs(exact) * 2.0**-8).all()


def test_what_is_no_number_is_refused(folder, tmp_path, quietly):
    bits = bits_of(SHAPE)
    bits[3, 4] = 127
    with pytest.raises(ConvertError, match="not a number"):
        quietly(put(folder, bits, SCALES["single"]), tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("shape", "scales"),
    [(SHAPE, np.ones((4, 3), np.float32)), (SHAPE, np.ones(1, np.int32)), ((2, 128, 128), np.ones((2, 1), np.float32))],
    ids=["another shape", "no floats", "experts in one tensor"],
)
def test_scales_of_another_kind_are_refused(folder, shape, scales):
    """Which weights they belong to, or what they are, is not known."""
    found = inspect_checkpoint(put(folder, bits_of(shape), scales))
    assert any("F8_E4M3" in refusal.message and MODULE in refusal.message for refusal in found.refusals)
