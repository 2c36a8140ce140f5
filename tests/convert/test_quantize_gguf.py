"""--quantize on a GGUF: what is quantized, with which importance, and the notes."""

import gguf
import numpy as np
import pytest

from support.imatrix_files import write_new, write_old
from support.stock import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    NORM,
    Q8_0,
    blocks,
    entries,
    floats,
    random_blocks,
    slow_values,
    stored_values,
    write_stock,
)
from tmac.convert.errors import ConvertError

Q, HEAD = "blk.0.attn_q.weight", "output.weight"


@pytest.mark.parametrize("type_id", [F32, F16, BF16, Q8_0, IQ4_NL], ids=["f32", "f16", "bf16", "q8_0", "iq4_nl"])
@pytest.mark.parametrize("name", ["w4g128z", "w2g64"])
def test_fresh_quantization(type_id, name, tmp_path, quietly):
    """From any type that the gguf package reads; the note states the real error."""
    shape = (64, 256)
    values = (np.random.default_rng(1).standard_normal(shape) * 0.05).astype(np.float32)
    if type_id == IQ4_NL:
        data = np.random.default_rng(2).integers(0, 256, 64 * 256 // 32 * 18, np.uint8)
        data.reshape(-1, 18)[:, :2] = np.array([0.001], "<f2").view(np.uint8)
        values = gguf.quants.dequantize(data.reshape(64, -1), gguf.GGMLQuantizationType.IQ4_NL)
    else:
        data = floats(type_id, shape, 1)[2]
        values = gguf.quants.dequantize(data.reshape(64, -1), gguf.GGMLQuantizationType(type_id)).reshape(shape)
    tensors = {Q: (type_id, shape, data), HEAD: floats(F16, (32, 256)), NORM[0]: NORM[1]}
    source = write_stock(tmp_path / "in.gguf", tensors)
    report = quietly(source, tmp_path / "out.gguf", quantize=name)
    stored = stored_values(tmp_path / "out.gguf", Q)
    error = float(np.sqrt(np.square(stored - values).sum() / np.square(values).sum()))
    assert error < {"w4g128z": 0.1, "w2g64": 0.45}[name]
    notes, warnings = report.notes[:2], report.notes[2:]
    assert notes == [
        "output.weight is kept as f16: the output head is quantized only by --head",
        f"quantized freshly to tmac_{name}, with a relative RMS error of {error:.4f}: 1 tensor; "
        f"the worst is {Q} with {error:.4f}",
    ]
    # Two bits are few for a small model.
    assert len(warnings) == (name == "w2g64")
    for warning in warnings:
        assert warning.startswith("warning: tmac_w2g64 changes") and f"{error:.4f}" in warning
        assert f"\n{warning}\n" in report.render()
    assert entries(tmp_path / "out.gguf")[HEAD].type_name == "f16"
    assert report.source.startswith("gguf fresh w") and report.source.endswith(entries(source)[Q].type_name)


def test_what_is_low_bit_already_is_not_quantized_again(tmp_path, quietly):
    """Beside newly quantized tensors. --head sets the head's type; a tied model has no head."""
    tensors = {Q: blocks(2, (32, 128)), "blk.0.attn_k.weight": floats(F16, (32, 128)), HEAD: floats(F16, (64, 128))}
    source = write_stock(tmp_path / "in.gguf", tensors)
    report = quietly(source, tmp_path / "out.gguf", quantize="w3g128", head="tmac_w4")
    found = entries(tmp_path / "out.gguf")
    assert [found[name].type_name for name in tensors] == ["tmac_w4g32", "tmac_w3g128", "tmac_w4g32"]
    assert np.array_equal(stored_values(tmp_path / "out.gguf", Q), slow_values(2, (32, 128), tensors[Q][2]))
    assert report.source == "gguf fresh w3g128 symmetric from f16, fresh w4g32 symmetric from f16, q4_0"
    assert len(report.notes) == 2
    source = write_stock(tmp_path / "iq4.gguf", {Q: (20, (32, 128), random_blocks(20, (32, 128)))})
    report = quietly(source, tmp_path / "iq4-out.gguf", quantize="w4g32z")
    assert report.source == "gguf fresh w4g32 asymmetric from iq4_nl" and len(report.notes) == 1
    del tensors[HEAD]
    report = quietly(write_stock(tmp_path / "tied.gguf", tensors), tmp_path / "tied-out.gguf", head="tmac_w4")
    assert "tied" in report.notes[0]


@pytest.mark.parametrize("write", [write_new, write_old])
def test_fresh_quantization_by_importance(write, tmp_path, quietly):
    """Important columns have less error; experts use their own rows; a tensor without an entry has no importance."""
    random_ = np.random.default_rng(6)
    exps, shape = "blk.0.ffn_down_exps.weight", (2, 32, 128)
    tensors = {Q: floats(F16, (32, 128)), exps: floats(F16, shape, 1), "blk.0.attn_k.weight": floats(F16, (32, 128), 2)}
    sums = {name: (np.exp(random_.standard_normal((count, 128))), [1] * count) for name, count in ((Q, 1), (exps, 2))}
    source, matrix = write_stock(tmp_path / "in.gguf", tensors), write(tmp_path / "imatrix", sums)
    quietly(source, tmp_path / "without.gguf", quantize="w2g64z")
    report = quietly(source, tmp_path / "with.gguf", quantize="w2g64z", imatrix=matrix)
    for name in (Q, exps):
        values = gguf.quants.dequantize(tensors[name][2], gguf.GGMLQuantizationType.F16).reshape(-1, 32, 128)
        importance = sums[name][0][:, None]
        stored = (stored_values(tmp_path / f"{which}.gguf", name) for which in ("with", "without"))
        errors = [(np.square(found.reshape(values.shape) - values) * importance).sum(axis=(1, 2)) for found in stored]
        assert (errors[0] < errors[1]).all()
    same = stored_values(tmp_path / "with.gguf", "blk.0.attn_k.weight")
    assert np.array_equal(same, stored_values(tmp_path / "without.gguf", "blk.0.attn_k.weight"))
    assert "weighted by importance): 3 tensors" in report.notes[0]
    assert report.notes[1].endswith("all inputs counted the same: 1 tensor (first: blk.0.attn_k.weight)")


def test_refusals_of_fresh_quantization(tmp_path, quietly, refused):
    out = tmp_path / "out.gguf"
    source = write_stock(tmp_path / "in.gguf", {Q: floats(F32, (32, 128))})
    refused(lambda: quietly(source, out, quantize="w5g32"), "'w5g32'", "w4g128z")
    refused(lambda: quietly(source, out, imatrix=tmp_path / "x"), "nothing is to be quantized", "--quantize")
    refused(lambda: quietly(source, out, quantize="w4g32", imatrix=tmp_path / "x"), "x does not exist")
    tall = write_stock(tmp_path / "tall.gguf", {Q: floats(F32, (33, 128))})
    words = "no layer can be quantized freshly", Q.removesuffix(".weight"), "33 rows", "multiples of 32"
    refused(lambda: quietly(tall, out, quantize="w4g32"), "tall.gguf", *words)
    matrix = write_new(tmp_path / "m.gguf", {"blk.0.other.weight": (np.ones((1, 128)), [1])})
    words = ("no entry for any tensor", Q, "another model's")
    refused(lambda: quietly(source, out, quantize="w4g32", imatrix=matrix), *words)
    matrix = write_new(tmp_path / "n.gguf", {Q: (np.ones((1, 64)), [1])})
    refused(lambda: quietly(source, out, quantize="w4g32", imatrix=matrix), Q, "64 values", "expected 128")
    values = np.ones((32, 128), np.float32)
    values[3, 3] = np.nan
    source = write_stock(tmp_path / "nan.gguf", {Q: (F32, (32, 128), values.view(np.uint8).reshape(-1))})
    refused(lambda: quietly(source, out, quantize="w4g32"), "nan.gguf", Q, "not a number")
    tensors = {Q: floats(F32, (32, 96)), HEAD: (24, (32, 32), np.zeros(1024, np.uint8))}
    source = write_stock(tmp_path / "odd.gguf", tensors)
    refused(lambda: quietly(source, out, quantize="w4g64"), "odd.gguf", Q, "96 columns are not a multiple of 64")
    assert not out.exists()


@pytest.mark.parametrize(
    ("type_id", "block"),
    [(Q8_0, np.array([np.inf], "<f2").tobytes() + bytes(32)), (39, bytes([254]) + b"\x77" * 16)],
    ids=["q8_0", "mxfp4"],
)
def test_blocks_whose_values_are_no_numbers(tmp_path, quietly, refused, type_id, block):
    """An infinite scale times 0; a product that float32 does not hold."""
    data = np.frombuffer(block * (32 * 128 // 32), np.uint8)
    source = write_stock(tmp_path / "in.gguf", {Q: (type_id, (32, 128), data)})
    refused(lambda: quietly(source, tmp_path / "out.gguf", quantize="w4g32"), "in.gguf", Q, "not a number or beyond")


def test_layers_of_which_no_values_can_be_read_stay(tmp_path, quietly):
    """Whole numbers, here."""
    layer = "blk.0.attn_k.weight"
    tensors = {Q: floats(F16, (64, 256)), layer: (24, (32, 128), np.zeros(32 * 128, np.uint8))}
    report = quietly(write_stock(tmp_path / "in.gguf", tensors), tmp_path / "out.gguf", quantize="w4g128")
    assert entries(tmp_path / "out.gguf")[layer].type_name == "i8"
    assert f"{layer} is kept as i8: no values can be read from that type" in report.notes


def stock_values(path, name):
    """The values of a tensor in one of ggml's own types."""
    entry = entries(path)[name]
    raw = np.fromfile(path, np.uint8, entry.nbytes, offset=entry.offset).reshape(entry.shape[0], -1)
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(entry.type_id))


def test_embedding_of_a_gguf_is_what_is_asked_for(tmp_path, quietly):
    """Rounded from its values beside a fresh quantization; as it is without --embedding; refused without --quantize."""
    embedding = "token_embd.weight"
    tensors = {Q: floats(F16, (64, 256)), embedding: floats(F16, (64, 256)), NORM[0]: NORM[1]}
    source = write_stock(tmp_path / "in.gguf", tensors)
    for asked, stored in ((None, "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"), ("f16", "f16")):
        out = tmp_path / f"{asked}.gguf"
        report = quietly(source, out, quantize="w4g128", embedding=asked)
        assert entries(out)[embedding].type_name == stored
        assert any(f"{embedding} is stored as {stored}, rounded from f16" in note for note in report.notes) == (
            stored != "f16"
        )
    values, rounded = (stock_values(path, embedding) for path in (source, tmp_path / "q8_0.gguf"))
    assert np.allclose(values, rounded, atol=np.abs(values).max() / 127) and not np.array_equal(values, rounded)
    with pytest.raises(ConvertError, match="a GGUF keeps the type of its embedding"):
        quietly(source, tmp_path / "x.gguf", head="tmac_w4", embedding="q8_0")


def test_an_embedding_that_cannot_be_what_is_asked_for_stays(tmp_path, quietly):
    """With a note: columns that fill no block, and a type whose values nobody here reads."""
    embedding = "token_embd.weight"
    cases = {
        "its 48 columns do not fill q8_0 blocks": floats(F16, (64, 48)),
        "no values can be read from that type": (24, (64, 32), np.zeros(64 * 32, np.uint8)),
    }
    for number, (why, stored) in enumerate(cases.items()):
        source = write_stock(tmp_path / f"{number}.gguf", {Q: floats(F16, (64, 256)), embedding: stored})
        report = quietly(source, tmp_path / f"out{number}.gguf", quantize="w4g128", embedding="q8_0")
        before, after = (entries(path)[embedding] for path in (source, tmp_path / f"out{number}.gguf"))
        assert (after.type_name, after.shape, after.nbytes) == (before.type_name, before.shape, before.nbytes)
        assert any(f"{embedding} is kept as {after.type_name}: {why}" in note for note in report.notes), report.notes
