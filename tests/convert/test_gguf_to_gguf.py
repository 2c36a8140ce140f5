"""GGUF to T-MAC GGUF: what becomes of tensors and metadata, and what is refused."""

import random
import re
import struct

import gguf
import numpy as np
import pytest

from support.rotated_models import pq2_0, q2_0
from support.stock import (
    F16,
    F32,
    NORM,
    Q8_0,
    blocks,
    entries,
    floats,
    random_blocks,
    slow_values,
    stored_values,
    tensor_bytes,
    write_stock,
)
from tmac.convert.errors import ConvertError
from tmac.convert.inspect import inspect_gguf
from tmac.convert.readers.ggml_blocks import BLOCK_TYPES
from tmac.convert.sources.ggml_types import IK_NAMES
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.gguf_model import GgufSource
from tmac.convert.sources.linear_names import dimensions_of_linear

Q, HEAD = "blk.0.attn_q.weight", "output.weight"
KINDS = [pytest.param(type_id, id=kind.name) for type_id, kind in BLOCK_TYPES.items()]


def metadata(writer):
    """Every type of value, our own keys, an empty text, bytes that are not UTF-8, and keys of a split model."""
    writer.add_uint8("x.u8", 200)
    writer.add_custom_alignment(32)
    writer.add_float32("x.f32", 0.1)
    writer.add_key_value("x.text", "", gguf.GGUFValueType.STRING)
    writer.add_key_value("x.bytes", b"\xff\xfe", gguf.GGUFValueType.STRING)
    writer.add_file_type(2)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "ä", "b" * 300])
    writer.add_key_value("x.small", [1, 2], gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.INT8)
    writer.add_quantization_version(2)
    writer.add_string("tmac.source", "an older one")
    writer.add_bool("x.yes", True)
    writer.add_float64("x.f64", np.pi)
    writer.add_int64("x.i64", -5)


@pytest.mark.parametrize("type_id", KINDS)
def test_every_type_becomes_one_of_ours_without_loss(type_id, tmp_path, quietly):
    """The stored values equal those of the slow reader. Tensors that are not linear weights keep their bytes."""
    shape = (64, 512)
    tensors = {
        "token_embd.weight": floats(Q8_0, (40, 256)),
        Q: blocks(type_id, shape),
        NORM[0]: NORM[1],
        "blk.0.ffn_down.weight": floats(F16, (32, 256)),
        HEAD: blocks(type_id, shape, 1),
    }
    source = write_stock(tmp_path / "in.gguf", tensors, metadata)
    report = quietly(source, tmp_path / "out.gguf")
    found, kind = entries(tmp_path / "out.gguf"), BLOCK_TYPES[type_id].target
    assert list(found) == list(tensors)
    for name in (Q, HEAD):
        assert found[name].type_name == kind.ggml_name
        assert np.array_equal(stored_values(tmp_path / "out.gguf", name), slow_values(type_id, shape, tensors[name][2]))
    for name in ("token_embd.weight", NORM[0], "blk.0.ffn_down.weight"):
        assert found[name].type_id == tensors[name][0] and found[name].shape == tensors[name][1]
        assert np.array_equal(tensor_bytes(tmp_path / "out.gguf", found[name]), tensors[name][2])
    assert report.source == f"gguf {BLOCK_TYPES[type_id].name}" and report.notes == []
    assert {total.type_name: total.tensors for total in report.totals}[found[Q].type_name] == 2


@pytest.mark.parametrize(
    ("type_id", "change", "kind"),
    [
        (142, None, "t3g128"),
        (142, "code 3", "w2g128"),
        (42, None, "t3g128"),
        (42, "scale", "w2g64"),
        (42, "code 3", "w2g64"),
        (42, "192 columns", "w2g64"),
    ],
)
@pytest.mark.parametrize("shape", [(64, 256), (2, 32, 256)], ids=["matrix", "experts"])
def test_ternary_weights_in_types_of_four_values(type_id, change, kind, shape, tmp_path, quietly):
    """They become a ternary type if code 3 occurs nowhere, and in Q2_0 if each two blocks have one scale.

    One weight in the last block, or one scale, is enough against it, and so are columns that do not fill its groups.
    The values are kept in any case.
    """
    if change == "192 columns":
        shape = (*shape[:-1], 192)
    rng, count = np.random.default_rng(1), int(np.prod(shape)) // 128
    codes = rng.integers(0, 3, (count, 128), np.uint8)
    if change == "code 3":
        codes[-1, -1] = 3
    scales = rng.uniform(-1, 1, count).astype(np.float16)
    data = {142: pq2_0, 42: q2_0}[type_id](codes, scales)
    if change == "scale":
        data[-1, :2] = np.array([0.375], "<f2").view(np.uint8)
    data = data.reshape(-1)
    name = "blk.0.ffn_up_exps.weight" if len(shape) == 3 else Q
    quietly(write_stock(tmp_path / "in.gguf", {name: (type_id, shape, data)}), tmp_path / "out.gguf")
    assert entries(tmp_path / "out.gguf")[name].type_name == f"tmac_{kind}"
    found = stored_values(tmp_path / "out.gguf", name)
    assert np.array_equal(found.reshape(-1), slow_values(type_id, (count, 128), data).reshape(-1))


def test_metadata_is_kept(tmp_path, quietly):
    """All keys except ours, with their types, bytes and order."""
    source = write_stock(tmp_path / "in.gguf", {Q: blocks(2, (32, 64))}, metadata, "a-family-of-tomorrow")
    quietly(source, tmp_path / "out.gguf")
    old, new = read_gguf_header(source), read_gguf_header(tmp_path / "out.gguf")
    general = ("general.alignment", "general.file_type", "general.quantization_version")
    ours = (*general, "tmac.source", "tmac.layout_version")
    kept = [record for key, record in old.records.items() if key not in ours]
    assert [record for key, record in new.records.items() if key not in ours] == kept and len(kept) == 10
    assert {key: new.metadata[key] for key in ours} == dict(zip(ours, (64, 512, 2, "gguf q4_0", 1)))
    assert gguf.GGUFReader(source).get_field("x.small").types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT8]


def test_an_empty_array_is_kept(tmp_path, quietly):
    """The gguf package cannot write one, so the record is made by hand."""
    source = write_stock(tmp_path / "in.gguf", {Q: blocks(2, (32, 64))}, lambda writer: writer.add_uint32("x", 9))
    record = struct.pack("<Q1sIIQ", 1, b"y", 9, 8, 0)
    old = read_gguf_header(source).records["x"]
    data = source.read_bytes()
    at = data.index(old) + len(old)
    counted = data[:16] + struct.pack("<Q", struct.unpack("<Q", data[16:24])[0] + 1) + data[24:at] + record + data[at:]
    # The tensors begin at a multiple of 32: the padding before them is cut as it fits.
    entry = read_gguf_header(source).tensors[0]
    tensor = data[entry.offset : entry.offset + entry.nbytes]
    head = counted[: counted.index(Q.encode()) + len(Q) + 4 + 16 + 4 + 8]
    source.write_bytes(head + bytes(-len(head) % 32) + tensor)
    quietly(source, tmp_path / "out.gguf")
    assert read_gguf_header(tmp_path / "out.gguf").records["y"] == record


def test_experts(tmp_path, quietly):
    """A tensor of three dimensions becomes one matrix per expert, in order."""
    name, shape = "blk.1.ffn_gate_exps.weight", (3, 32, 128)
    source = write_stock(tmp_path / "in.gguf", {name: blocks(41, shape)})
    quietly(source, tmp_path / "out.gguf")
    found = entries(tmp_path / "out.gguf")[name]
    assert found.type_name == "tmac_w1g128" and found.shape == shape
    assert np.array_equal(stored_values(tmp_path / "out.gguf", name), slow_values(41, shape, random_blocks(41, shape)))


def test_large_tensors_are_read_in_parts(tmp_path, quietly, monkeypatch):
    source = write_stock(
        tmp_path / "in.gguf",
        {
            Q: blocks(3, (64, 256)),
            HEAD: blocks(143, (96, 256)),
            "token_embd.weight": blocks(143, (96, 256)),
            "blk.0.ffn_up.weight": floats(F16, (64, 256)),
        },
    )
    quietly(source, tmp_path / "one.gguf", quantize="w3g64")
    monkeypatch.setattr("tmac.convert.sources.gguf_model.BLOCK_WEIGHTS", 1024)
    quietly(source, tmp_path / "many.gguf", quantize="w3g64")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


def test_prism_s_embedding_goes_into_q2_0(tmp_path, quietly):
    """llama.cpp does not know Prism's types. An embedding or a matrix of 40 rows cannot have a T-MAC type."""
    shape = (40, 256)
    tensors = {"token_embd.weight": blocks(142, shape), Q: blocks(143, (32, 256)), HEAD: blocks(143, shape)}
    report = quietly(write_stock(tmp_path / "in.gguf", tensors), tmp_path / "out.gguf")
    assert report.notes == ["output.weight is kept as q2_0: 40 rows are not a multiple of 32"]
    found = entries(tmp_path / "out.gguf")["token_embd.weight"]
    assert found.type_name == "q2_0" and found.nbytes == 40 * 4 * 18
    stored = slow_values(42, shape, tensor_bytes(tmp_path / "out.gguf", found))
    assert np.array_equal(stored, slow_values(142, shape, random_blocks(142, shape)))


def test_what_cannot_be_exact_stays_and_is_said(tmp_path, quietly):
    """By shape, dimensions or scales; each note names an example and the number of others."""
    wide = random_blocks(41, (32, 128)).reshape(-1, 18)
    wide[3, :2] = np.array([40000], "<f2").view(np.uint8)
    tensors = {
        Q: blocks(2, (32, 64)),
        "blk.0.ffn_up.weight": blocks(2, (40, 64)),
        "blk.1.ffn_up.weight": blocks(2, (40, 64)),
        "blk.0.attn_v.weight": (41, (32, 128), wide.reshape(-1)),
        "blk.0.attn_output.weight": blocks(2, (2, 32, 64)),
    }
    report = quietly(write_stock(tmp_path / "in.gguf", tensors), tmp_path / "out.gguf")
    assert report.notes == [
        "blk.0.ffn_up.weight is kept as q4_0: 40 rows are not a multiple of 32 (and 1 more like it)",
        "blk.0.attn_v.weight is kept as q1_0: it has scales above 32752, whose doubles are above fp16",
        "blk.0.attn_output.weight is kept as q4_0: it has 3 dimensions, expected 2",
    ]
    found = entries(tmp_path / "out.gguf")
    for name in list(tensors)[1:]:
        assert found[name].type_id == tensors[name][0]
        assert np.array_equal(tensor_bytes(tmp_path / "out.gguf", found[name]), tensors[name][2])


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("output.weight", 2),
        ("blk.12.attn_qkv.weight", 2),
        ("blk.0.ffn_down_shexp.weight", 2),
        ("blk.3.shortconv.in_proj.weight", 2),
        ("enc.blk.0.attn_o.weight", 2),
        ("dec.blk.1.cross_attn_q.weight", 2),
        ("blk.0.ffn_up_exps.weight", 3),
        ("token_embd.weight", 0),
        ("per_layer_token_embd.weight", 0),
        ("blk.0.attn_k_b.weight", 0),
        ("blk.0.attn_q.bias", 0),
        ("blk.0.attn_q_norm.weight", 0),
        ("blk.0.ssm_conv1d.weight", 0),
        ("blk.0.ffn_gate_inp.weight", 0),
        ("blk.0.time_mix_w2.weight", 0),
        ("blk.0.attn_q.weight.lora_a", 0),
        ("v.blk.0.attn_q.weight", 0),
        ("posnet.0.attn_q.weight", 0),
        ("blk.x.attn_q.weight", 0),
        ("blk.0.attn_output_a.weight", 0),
        ("blk.0.attn_q.scale", 0),
        ("output.weight\n", 0),
    ],
)
def test_names_of_linear_weights(name, dimensions):
    assert dimensions_of_linear(name) == dimensions


def test_split_models(tmp_path, quietly):
    """Given by the name of any of the files; the keys of the split are dropped."""
    tensors = {Q: blocks(2, (64, 256)), "blk.0.attn_k.weight": blocks(41, (32, 256)), NORM[0]: NORM[1]}
    quietly(write_stock(tmp_path / "whole.gguf", tensors, metadata), tmp_path / "expected.gguf")
    write_stock(tmp_path / "m.gguf", tensors, metadata, split_max_tensors=2)
    files = sorted(tmp_path.glob("m-*.gguf"))
    assert [file.name for file in files] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    for i, file in enumerate(files):
        quietly(file, tmp_path / f"{i}.gguf")
        assert (tmp_path / f"{i}.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()


def test_split_models_that_are_not_whole(tmp_path, quietly, refused):
    tensors = {Q: blocks(2, (64, 256)), "blk.0.attn_k.weight": blocks(2, (32, 256)), NORM[0]: NORM[1]}
    write_stock(tmp_path / "m.gguf", tensors, split_max_tensors=2)
    first, second = sorted(tmp_path.glob("m-*.gguf"))
    data = second.read_bytes()
    second.unlink()
    assert inspect_gguf(first).refusals == []
    refused(lambda: quietly(first, tmp_path / "x.gguf"), second.name, "is missing", "expected 2 files")
    second.write_bytes(first.read_bytes())
    refused(lambda: quietly(first, tmp_path / "x.gguf"), second.name, f"tensor {Q}", "also in")
    other = write_stock(tmp_path / "other.gguf", {"x": NORM[1], "y": NORM[1]})
    second.write_bytes(other.read_bytes())
    refused(lambda: quietly(first, tmp_path / "x.gguf"), "found 4 tensors", "expected 3")
    rotated = write_stock(tmp_path / "rotated.gguf", {"x": NORM[1]}, with_key("prism.hadamard.version"))
    second.write_bytes(rotated.read_bytes())
    refused(lambda: quietly(first, tmp_path / "x.gguf"), second.name, "has keys prism.", "expected them in the first")
    second.write_bytes(data)
    alone = first.rename(tmp_path / "alone.gguf")
    refused(lambda: quietly(alone, tmp_path / "x.gguf"), "one of 2 files", "-of-00002.gguf")


def test_splitting_the_output(tmp_path, quietly):
    """A split model into another split: the input is read as one; only the split's own metadata change."""
    tensors = {Q: blocks(2, (64, 256)), "blk.0.attn_k.weight": blocks(41, (32, 256)), NORM[0]: NORM[1]}
    write_stock(tmp_path / "m.gguf", tensors, metadata, split_max_tensors=1)
    quietly(tmp_path / "m-00002-of-00003.gguf", tmp_path / "whole.gguf")
    report = quietly(tmp_path / "m-00001-of-00003.gguf", tmp_path / "x.gguf", split_max_size=9000)
    assert len(report.files) == 2
    parts, whole = GgufSource(report.files[1]), GgufSource(tmp_path / "whole.gguf")
    assert parts.metadata == whole.metadata and "split.count" not in whole.metadata
    assert [tensor.entry.name for tensor in parts.tensors] == list(tensors)
    for one, other in zip(parts.tensors, whole.tensors):
        assert np.array_equal(one.read(0, one.entry.nbytes), other.read(0, other.entry.nbytes))


def test_a_file_without_its_suffix(tmp_path, quietly):
    """A GGUF is recognized by its first bytes: some tools name downloads by a hash."""
    source = write_stock(tmp_path / "in.gguf", {Q: blocks(2, (32, 64))}).rename(tmp_path / "sha256-0123")
    assert quietly(source, tmp_path / "out.gguf").source == "gguf q4_0"


def test_numbers_of_interleaved_foreign_types():
    """ik_llama.cpp numbers a type of interleaved rows 200 above the type itself, but for three; from 133 to 158 it has
    left none free.
    """
    numbers = {name: number for number, name in IK_NAMES.items()}
    assert len(numbers) == len(IK_NAMES) and set(range(133, 159)) <= IK_NAMES.keys()
    plain = {**{kind.name: kind.value for kind in gguf.GGMLQuantizationType}, **numbers}
    interleaved = {name for name in numbers if re.search("_R[0-9]+$", name)} - {"Q6_0_R4", "Q8_KV_R8", "Q8_K_R8"}
    assert len(interleaved) == 25
    assert all(numbers[name] == 200 + plain[name.rpartition("_")[0]] for name in interleaved)


def with_key(key):
    return lambda writer: writer.add_string(key, "x")


@pytest.mark.parametrize(
    ("type_id", "words"),
    [
        (36, ("type 36, I2_S of bitnet.cpp", "Hugging Face checkpoint")),
        (37, ("I8_S", "bitnet.cpp")),
        (38, ("TL1", "bitnet.cpp")),
        (99, ("type 99, Q8_2_X4 of ik_llama.cpp",)),
        (137, ("type 137, IQ2_K of ik_llama.cpp",)),
        (337, ("type 337, IQ2_K_R4 of ik_llama.cpp", "a GGUF in types of llama.cpp")),
        (120, ("type 0x78", "neither ggml's nor T-MAC's")),
    ],
)
def test_foreign_types(tmp_path, quietly, refused, type_id, words):
    source = write_stock(tmp_path / "in.gguf", {Q: (type_id, (32, 128), np.zeros(1024, np.uint8))})
    refused(lambda: quietly(source, tmp_path / "out.gguf"), "in.gguf", Q, *words)
    assert not (tmp_path / "out.gguf").exists()


def test_early_q2_0_with_blocks_of_128(tmp_path, quietly, refused):
    """The tensor's data end where blocks of 128 end, in the middle of the file and at its end."""
    old = (42, (32, 256), random_blocks(142, (32, 256)))
    for name, tensors in (("middle", {Q: old, NORM[0]: NORM[1]}), ("end", {NORM[0]: NORM[1], Q: old})):
        source = write_stock(tmp_path / f"{name}.gguf", tensors)
        words = (f"{name}.gguf", Q, "q2_0 blocks of 128", "expected 64", "g64")
        refused(lambda: quietly(source, tmp_path / "out.gguf"), *words)


def test_refusals(tmp_path, quietly, refused):
    """Rotated weights, T-MAC's own files, big-endian files, duplicate names, no architecture, the source as output."""
    good, out = {Q: blocks(2, (32, 64))}, tmp_path / "out.gguf"
    rotated = write_stock(tmp_path / "rotated.gguf", good, with_key("prism.hadamard.block_weights"))
    refused(lambda: quietly(rotated, out), "rotated.gguf", "prism.hadamard.block_weights", "rotated")
    source = write_stock(tmp_path / "in.gguf", good)
    quietly(source, tmp_path / "tmac.gguf")
    refused(lambda: quietly(tmp_path / "tmac.gguf", out), "tmac.gguf", "T-MAC types already", "tmac run")
    big = write_stock(tmp_path / "big.gguf", good, endianess=gguf.GGUFEndian.BIG)
    refused(lambda: quietly(big, out), "big.gguf", "big-endian")
    refused(lambda: quietly(source, source, force=True), "in.gguf, which is read", "-o")
    refused(lambda: quietly("models/none.gguf", out), "models/none.gguf", "cannot be read")
    refused(lambda: quietly(source, out, embedding="f16"), "embedding type 'f16'", "a GGUF keeps")
    refused(lambda: quietly(source, out, head="q4_0"), "head type 'q4_0'", "--head tmac_w4")
    ordered = write_stock(tmp_path / "ordered.gguf", {**good, "blk.0.attn_q.order": NORM[1]})
    refused(lambda: quietly(ordered, out), "ordered.gguf", "tensor blk.0.attn_q.order", "an order of columns")
    empty = write_stock(tmp_path / "empty.gguf", {**good, "x": (142, (0, 256), np.empty(0, np.uint8))})
    refused(lambda: quietly(empty, out), "empty.gguf", "tensor x has shape [0, 256]", "expected some rows")
    floating = write_stock(tmp_path / "floats.gguf", {Q: floats(F16, (32, 64)), NORM[0]: NORM[1]})
    refused(lambda: quietly(floating, out), "floats.gguf", "linear weights in f16", "q4_0", "--quantize")
    nothing = write_stock(tmp_path / "nothing.gguf", {NORM[0]: NORM[1]})
    refused(lambda: quietly(nothing, out), "nothing.gguf", "linear weights in no type")
    data = source.read_bytes()
    (tmp_path / "twice.gguf").write_bytes(data.replace(b"general.architecture", b"general.architectur2"))
    refused(lambda: quietly(tmp_path / "twice.gguf", out), "general.architecture is None")
    twice = write_stock(tmp_path / "t.gguf", {"a": NORM[1], "b": NORM[1]}).read_bytes()
    (tmp_path / "t.gguf").write_bytes(twice.replace(b"\1\0\0\0\0\0\0\0b\1", b"\1\0\0\0\0\0\0\0a\1"))
    refused(lambda: quietly(tmp_path / "t.gguf", out), "tensor a occurs twice")
    damaged = random_blocks(2, (32, 64))
    damaged[18:20] = np.array([np.nan], "<f2").view(np.uint8)
    source = write_stock(tmp_path / "nan.gguf", {Q: (2, (32, 64), damaged)})
    refused(lambda: quietly(source, out), "nan.gguf", Q, "not a number")
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_inspecting_says_what_would_become_of_it(tmp_path):
    """A column with the new types, the notes, and the refusals."""
    tensors = {Q: blocks(2, (32, 64)), "blk.0.ffn_up.weight": blocks(2, (40, 64)), NORM[0]: NORM[1]}
    found = inspect_gguf(write_stock(tmp_path / "in.gguf", {**tensors, "one": floats(F32, (1,))}))
    assert found.becomes == ["tmac_w4g32", "q4_0", "f32", "f32"] and "40 rows" in found.notes[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.render().splitlines()]
    assert [Q, "q4_0", "32 x 64", "4.5", "1.15 kB", "tmac_w4g32"] in lines
    assert ["one", "f32", "1", "32", "4 B", "f32"] in lines
    rotated = inspect_gguf(write_stock(tmp_path / "r.gguf", tensors, with_key("prism.hadamard.x")))
    assert rotated.becomes == [] and "rotated" in rotated.refusals[0].message and len(rotated.tensors) == 3
    assert inspect_gguf(write_stock(tmp_path / "f.gguf", {Q: floats(F16, (32, 64))})).becomes == []


def test_random_damage(tmp_path, quietly):
    """200 damaged files (seed 11), with and without quantizing: a file, or a ConvertError and no file."""
    tensors = {
        "token_embd.weight": floats(Q8_0, (40, 64)),
        Q: blocks(2, (32, 64)),
        "blk.0.attn_k.weight": blocks(3, (32, 64)),
        "blk.0.attn_v.weight": blocks(42, (32, 64)),
        "blk.0.ffn_up.weight": floats(F16, (32, 64)),
        NORM[0]: NORM[1],
    }
    source = write_stock(tmp_path / "in.gguf", tensors, metadata)
    data, random_ = source.read_bytes(), random.Random(11)
    start = min(entry.offset for entry in read_gguf_header(source).tensors)
    out = tmp_path / "out" / "x.gguf"
    out.parent.mkdir()
    refusals = 0
    for case in range(200):
        broken = bytearray(data[: random_.randrange(len(data))] if case % 10 == 0 else data)
        for _ in range(random_.choice((1, 1, 3, 30))):
            area = start if case % 3 else len(broken)
            if broken:
                broken[random_.randrange(min(area, len(broken)))] = random_.choice((0, 1, 7, 124, 128, 255))
        source.write_bytes(broken)
        try:
            quietly(source, out, quantize="w2g32" if case % 2 else None)
            read_gguf_header(out)
            out.unlink()
        except ConvertError as error:
            refusals += 1
            assert error.message, case
        assert list(out.parent.iterdir()) == [], case
    assert refusals >= 60
