"""Inspecting files: ours, upstream's, newer ones and broken ones."""

import random
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from support.stock import F16, blocks, floats, write_stock
from tmac.convert.errors import ConvertError
from tmac.convert.inspect import inspect_checkpoint, inspect_gguf
from tmac.convert.readers import sampled
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.gguf_model import is_gguf


@pytest.fixture
def model(demo, tmp_path, quietly):
    quietly(demo, tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def test_inspecting_a_converted_file(model):
    text = inspect_gguf(model).render()
    for part in ("T-MAC layout: version 1", "quantization: gptq w2g64 asymmetric", "architecture: llama"):
        assert part in text
    line = next(line for line in text.splitlines() if line.startswith("| blk.3.ffn_down.weight"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["blk.3.ffn_down.weight", "tmac_w2g64z", "256 x 768", "2.375", "58.37 kB"]


def test_inspecting_a_checkpoint_tells_what_the_conversion_writes(demo, model):
    """Names, types, shapes and sizes equal those of the written file."""
    planned, written = inspect_checkpoint(demo), inspect_gguf(model)
    facts = [[(t.name, t.type_name, t.shape, t.nbytes) for t in found.tensors] for found in (planned, written)]
    assert facts[0] == facts[1]
    assert ("quantization", "gptq w2g64 asymmetric") in planned.facts
    assert planned.notes == [] and "note:" not in planned.render()


def test_notes_are_apart_from_the_facts(folder):
    """Every key of the facts occurs once; notes are a list in JSON, and lines of the text."""
    folder.config["tie_word_embeddings"] = True
    folder.tensors["model.layers.0.mlp.down_proj.bias"] = np.zeros(256, np.float16)
    found = inspect_checkpoint(folder.save())
    assert len(dict(found.facts)) == len(found.facts)
    assert len(found.notes) == 2
    assert all(f"note: {note}\n" in found.render() for note in found.notes)


@pytest.mark.parametrize(("others", "more"), [(3, ""), (4, " and 1 more")])
@pytest.mark.parametrize(("common", "other"), [("asymmetric", "symmetric"), ("symmetric", "asymmetric")])
def test_layers_on_another_grid_are_named(folder, common, other, others, more):
    """The most common grid with a count; for any other also the first layers."""
    is_other = re.compile(rf"model\.layers\.[0-{others - 1}]\.mlp\.up_proj\.qzeros").fullmatch
    for name in [name for name in folder.tensors if name.endswith(".qzeros")]:
        if (other if is_other(name) else common) == "symmetric":
            folder.tensors[name][:] = np.uint32(0xAAAAAAAA).view(np.int32)
    found = inspect_checkpoint(folder.save())
    named = f"{others} layers: blk.0.ffn_up, blk.1.ffn_up, blk.2.ffn_up{more}"
    expected = [(f"w2g64 {common}", f"{28 - others} layers"), (f"w2g64 {other}", named)]
    assert [fact for fact in found.facts if fact[0].startswith("w2g64")] == expected
    assert any(name == "weights" and "F16, I32" in value and "files: 1" in value for name, value in found.facts)


def test_every_refusal_is_shown(folder):
    """Two layers in error, an unknown tensor and no tokenizer: each is reported, and so is the plan for the others."""
    del folder.tensors["model.layers.1.mlp.up_proj.scales"]
    folder.tensors["model.layers.2.mlp.up_proj.scales"][0, 0] = np.nan
    folder.tensors["surprise"] = np.zeros(3, np.float16)
    (folder.path / "tokenizer.model").unlink()
    found = inspect_checkpoint(folder.save())
    assert len(found.refusals) == 4 and len(found.tensors) == 39 - 2
    scales = (f"model.layers.{layer}.mlp.up_proj.scales" for layer in (1, 2))
    for word in ("tokenizer.model", *scales, "surprise"):
        assert sum(f"refused: {word}" in line or word in line for line in found.render().splitlines()) == 1


def test_a_refused_tensor_makes_no_other_one_unknown(folder):
    """The refused layer also has a bias and other tensors. They still belong to the architecture."""
    module = "model.layers.1.mlp.up_proj"
    folder.tensors[f"{module}.bias"] = np.ones(768, np.float16)
    folder.tensors[f"{module}.scales"][0, 0] = np.nan
    folder.tensors["model.layers.2.input_layernorm.weight"] = np.ones(7, np.float16)
    refusals = inspect_checkpoint(folder.save()).refusals
    assert [f"{module}.scales" in refusals[0].message, "[7]" in refusals[1].message] == [True, True]
    assert len(refusals) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("architectures", ["Other"]), ("quantization_config", {"quant_method": "x"})],
)
def test_what_cannot_be_planned_is_still_described(folder, key, value):
    folder.config[key] = value
    found = inspect_checkpoint(folder.save())
    assert found.tensors == [] and len(found.refusals) == 1
    lines = found.render().splitlines()
    assert lines[1].startswith("weights: ") and lines[-1].startswith(f"refused: {folder.path / 'config.json'}")
    known = ("quantization", "gptq") if key == "architectures" else ("architecture", "llama")
    assert known in found.facts


@pytest.mark.parametrize("method", ["gptq", "x"])
def test_notes_on_the_vocabulary_are_shown(folder, method):
    """Also for weights that cannot be read."""
    folder.config["quantization_config"]["quant_method"] = method
    (folder.path / "added_tokens.json").write_text('{"<far>": 5000}')
    assert any("<far>" in note for note in inspect_checkpoint(folder.save()).notes)


@pytest.mark.parametrize("method", ["gptq", "x"])
def test_a_number_of_tokens_that_no_tensor_has(folder, method):
    """It may be any: no vocabulary is read for so many, and only the tensors are refused."""
    folder.config |= {
        "vocab_size": 900,
        "quantization_config": {**folder.config["quantization_config"], "quant_method": method},
    }
    found = [refusal.message for refusal in inspect_checkpoint(folder.save()).refusals]
    tensors = ["model.embed_tokens.weight", "lm_head.weight"] if method == "gptq" else ["quant_method"]
    assert len(found) == len(tensors) and all(words in message for words, message in zip(tensors, found))


def test_a_file_of_the_gguf_package(tmp_path):
    """Every kind of metadata value and a stock type, written by upstream's writer."""
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_int8("i8", -3)
    writer.add_float64("f64", 0.5)
    writer.add_bool("yes", True)
    writer.add_array("words", ["a", "bc"])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_tensor(
        "w",
        gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0),
        raw_dtype=gguf.GGMLQuantizationType.Q8_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf_header(path)
    assert header.metadata == {
        "general.architecture": "llama",
        "i8": -3,
        "f64": 0.5,
        "yes": True,
        "words": ["a", "bc"],
        "numbers": [1.5, 2.5],
    }
    assert [(t.name, t.type_name, t.shape, t.nbytes) for t in header.tensors] == [("w", "q8_0", (2, 32), 68)]
    assert header.layout_version is None
    assert "T-MAC layout: none" in inspect_gguf(path).render()


def test_newer_layout_version(model, refused):
    """Both versions are named."""
    data = bytearray(model.read_bytes())
    at = data.index(b"tmac.layout_version") + len("tmac.layout_version") + 4
    assert data[at] == 1
    data[at] = 7
    model.write_bytes(data)
    refused(lambda: inspect_gguf(model), "model.gguf", "tmac.layout_version is 7", "reads version 1", "update T-MAC")


def test_layout_version_that_is_no_unsigned_integer(model, refused):
    """The same four bytes as int32, float32 or bool are refused, even if the value would be 1."""
    data = bytearray(model.read_bytes())
    at = data.index(b"tmac.layout_version") + len("tmac.layout_version")
    for kind in (gguf.GGUFValueType.INT32, gguf.GGUFValueType.FLOAT32):
        data[at : at + 4] = int(kind).to_bytes(4, "little")
        model.write_bytes(data)
        refused(lambda: inspect_gguf(model), "model.gguf", "tmac.layout_version", kind.name.lower(), "unsigned integer")


def test_tmac_types_without_a_layout_version(model, refused):
    """The key has another name, so the order of the bytes is unknown."""
    model.write_bytes(model.read_bytes().replace(b"tmac.layout_version", b"tmac.layout_verzion"))
    words = ("model.gguf", "blk.0.attn_q.weight", "tmac_w2g64z", "no tmac.layout_version", "convert the checkpoint")
    refused(lambda: inspect_gguf(model), *words)


def test_tensor_scale_type_has_its_name(tmp_path, refused):
    """Type 0x22F is W2T: 2 bits per weight, and a T-MAC type, so it needs a layout version."""
    path = tmp_path / "x.gguf"
    for version in (1, None):
        writer = gguf.GGUFWriter(path, "llama")
        if version:
            writer.add_uint32("tmac.layout_version", version)
        writer.add_tensor_info("w", (32, 64), np.dtype(np.int8), 512, 0x22F)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.write_tensor_data(np.zeros(512, np.uint8))
        writer.close()
        if version:
            assert [(t.type_name, t.nbytes) for t in inspect_gguf(path).tensors] == [("tmac_w2t", 512)]
    refused(lambda: inspect_gguf(path), "tensor w has type tmac_w2t", "no tmac.layout_version")


def test_not_gguf(tmp_path, refused):
    path = tmp_path / "x"
    path.write_bytes(b"PK\x03\x04 and more")
    refused(lambda: inspect_gguf(path), "starts with b'PK", "not a GGUF file")
    path.write_bytes(b"")
    refused(lambda: inspect_gguf(path), "not a GGUF file")
    refused(lambda: inspect_gguf(tmp_path / "none"), "none", "cannot be read")
    path.write_bytes(b"GGUF" + (9).to_bytes(4, "little") + bytes(16))
    refused(lambda: inspect_gguf(path), "GGUF version 9, expected 2 or 3")


def test_a_file_without_its_suffix_that_cannot_be_read(tmp_path, refused, monkeypatch):
    (tmp_path / "sha256-0123").touch()

    def fail(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    refused(lambda: is_gguf(tmp_path / "sha256-0123"), "sha256-0123: cannot be read: Permission denied")


def test_lengths_beyond_the_file(tmp_path, refused):
    """Counts of 2**60 end at the end of the file, at once."""
    path = tmp_path / "x"
    huge = (1 << 60).to_bytes(8, "little")
    start = b"GGUF" + (3).to_bytes(4, "little")
    path.write_bytes(start + bytes(8) + huge)
    refused(lambda: inspect_gguf(path), "truncated")
    array = (1).to_bytes(8, "little") + b"k" + (9).to_bytes(4, "little") + (4).to_bytes(4, "little") + huge
    path.write_bytes(start + bytes(8) + (1).to_bytes(8, "little") + array)
    refused(lambda: inspect_gguf(path), "truncated")


def test_truncated_and_damaged_files(model):
    """60 truncated and 140 damaged headers (seed 5): an Inspection or a ConvertError."""
    data = model.read_bytes()
    random_ = random.Random(5)
    refusals = 0
    for case in range(200):
        broken = bytearray(data[: random_.randrange(len(data))] if case < 60 else data)
        for _ in range(0 if case < 60 else 3):
            # Metadata without the vocabulary, and the tensor entries, which end at about byte 28000.
            broken[random_.choice((random_.randrange(900), random_.randrange(20000, 28000)))] = random_.randrange(256)
        model.write_bytes(broken)
        try:
            inspect_gguf(model).render()
        except ConvertError:
            refusals += 1
    assert refusals >= 100


def test_names_that_act_on_a_terminal(tmp_path):
    """Of a tensor, of the architecture, and in a note: all characters of the text can be seen, and lines are ours."""
    evil = "\x1b[2J\nnote: all is well\r\u202e"
    tensors = {f"blk.0.attn_q.weight{evil}": floats(F16, (32, 64)), "blk.0.attn_k.weight": blocks(2, (32, 64))}
    tensors["blk.0.attn_v.weight"] = blocks(2, (30, 64))
    text = inspect_gguf(write_stock(tmp_path / "x.gguf", tensors, architecture=f"a{evil}")).render()
    assert text.replace("\n", "").isprintable() and "\nnote: all" not in text
    assert text.count("\\x1b[2J\\nnote: all is well\\r\\u202e") == 2


def test_of_a_large_checkpoint_one_layer_of_each_form_is_looked_at(folder, monkeypatch):
    """A rule for one layer is seen all the same; types and sizes are those of a look at all."""
    module = "model.layers.2.mlp.up_proj"
    folder.config["quantization_config"]["dynamic"] = {r"+:.*\.2\.mlp\.up_proj": {"group_size": 128}}
    for part in ("qzeros", "scales"):
        folder.tensors[f"{module}.{part}"] = folder.tensors[f"{module}.{part}"][::2].copy()
    folder.tensors[f"{module}.g_idx"] = (np.arange(256) // 128).astype(np.int32)
    of_all = inspect_checkpoint(folder.save())
    monkeypatch.setattr(sampled, "MOST_VALUES", 0)
    found = inspect_checkpoint(folder.path)
    assert [(t.name, t.type_name, t.nbytes) for t in found.tensors] == [
        (t.name, t.type_name, t.nbytes) for t in of_all.tensors
    ]
    counts = [note.split()[1:6] for note in found.notes if "were looked at" in note]
    layers = sum(tensor.type_name.startswith("tmac_") for tensor in found.tensors)
    assert counts == [[str(layers), "quantized", "layers", "8", "were"]]
    assert not any("were looked at" in note for note in of_all.notes)
