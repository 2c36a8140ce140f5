"""Whole conversions: the stored weights equal the checkpoint's, and the bytes depend on nothing else."""

import hashlib
import json
import os
import shutil
import tracemalloc
from contextlib import contextmanager

import gguf
import numpy as np
import pytest

from support.llama_checkpoint import HEADS, checkpoint_weights, hf_module, interleaved
from support.stock import blocks, entries, tensor_bytes, write_stock
from tmac.common.format import TYPES_BY_ID
from tmac.convert import pipeline
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write import layout
from tmac.convert.write.layout import unpack


@pytest.mark.parametrize("kind", ["demo", "sibling"])
def test_weights_equal_the_checkpoints(request, kind, tmp_path, quietly):
    """Every quantized layer, unpacked from the file, equals a slow dequantization of the checkpoint exactly."""
    folder = request.getfixturevalue("folder" if kind == "demo" else "sibling_folder")
    output = tmp_path / "x.gguf"
    quietly(folder.path, output)
    found = [entry for entry in read_gguf_header(output).tensors if entry.type_id in TYPES_BY_ID]
    assert len(found) == 4 * 7
    for entry in found:
        name = entry.name.split(".")[2]
        weights = unpack(tensor_bytes(output, entry), *entry.shape, TYPES_BY_ID[entry.type_id]).dequantize()
        expected = checkpoint_weights(folder, hf_module(entry.name))
        expected = interleaved(expected, HEADS[name]) if name in HEADS else expected
        assert np.array_equal(weights, expected), entry.name


def test_types_of_the_demo_tensors(demo, sibling, tmp_path, quietly):
    """Asymmetric 2-bit layers and symmetric 4-bit ones; norms F32; embedding and head Q8_0."""
    for source, name in ((demo, "tmac_w2g64z"), (sibling, "tmac_w4g128")):
        report = quietly(source, tmp_path / f"{name}.gguf")
        totals = {total.type_name: total for total in report.totals}
        assert {kind: total.tensors for kind, total in totals.items()} == {name: 28, "f32": 9, "q8_0": 2}
        assert totals[name].bits_per_weight == {"tmac_w2g64z": 2.375, "tmac_w4g128": 4.125}[name]
        assert report.nbytes == (tmp_path / f"{name}.gguf").stat().st_size
        assert report.notes == []
        assert name in report.render() and "bits per weight" in report.render()


def test_float_tensors_are_the_checkpoints(folder, tmp_path, quietly):
    """Norms and an f16 embedding bit for bit; Q8_0 equals the gguf package's quantizer on the whole matrix."""
    output = tmp_path / "x.gguf"
    quietly(folder.path, output, embedding="f16")
    found = entries(output)
    norm = tensor_bytes(output, found["blk.2.ffn_norm.weight"]).view(np.float32)
    assert np.array_equal(norm, folder.tensors["model.layers.2.post_attention_layernorm.weight"].astype(np.float32))
    embedding = tensor_bytes(output, found["token_embd.weight"]).view(np.float16)
    assert np.array_equal(embedding, folder.tensors["model.embed_tokens.weight"].reshape(-1))
    head = gguf.quants.quantize(folder.tensors["lm_head.weight"].astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(tensor_bytes(output, found["output.weight"]), head.reshape(-1))


def test_large_matrices_are_read_in_blocks(demo, tmp_path, quietly, monkeypatch):
    """The file is the same whether float matrices are converted in many blocks of rows or in one."""
    quietly(demo, tmp_path / "one.gguf", head="tmac_w4")
    for place in ("sources.checkpoint.BLOCK_WEIGHTS", "plan.from_checkpoint.SLAB_WEIGHTS"):
        monkeypatch.setattr(f"tmac.convert.{place}", 3000)
    quietly(demo, tmp_path / "many.gguf", head="tmac_w4")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


@pytest.mark.parametrize("head", ["q8_0", "f16", "tmac_w4"])
def test_large_matrices_are_held_once(folder, tmp_path, monkeypatch, head):
    """Loading a head allocates its result and one block of rows, measured by tracemalloc."""
    from tmac.convert.plan import from_checkpoint
    from tmac.convert.plan.options import Options
    from tmac.convert.plan.planner import plan
    from tmac.convert.sources import checkpoint

    places = ((checkpoint, "BLOCK_WEIGHTS"), (from_checkpoint, "SLAB_WEIGHTS"), (layout, "_BLOCK_CODES"))
    for module, name in places:
        monkeypatch.setattr(module, name, 1 << 14)
    rows = 8192
    folder.config["vocab_size"] = rows
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        folder.tensors[name] = np.tile(folder.tensors[name], (rows // 1024, 1))
    model = pipeline.read(Checkpoint(folder.save()))
    planned = plan(model, Options.of("q8_0", head, None, None))
    output = next(tensor for tensor in planned.tensors if tensor.name == "output.weight")
    # The T-MAC layout is packed from codes of one byte each and fp16 scales.
    expected = output.nbytes + (rows * (256 + 256 // 32 * 2) if head == "tmac_w4" else 0)
    tracemalloc.start()
    try:
        output.load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < expected + 40 * (1 << 14)


def test_same_checkpoint_same_bytes(demo, tmp_path, quietly, monkeypatch):
    """Converted from two folders, once from inside: one sha256, and no folder name in the file."""
    sums = []
    for i, name in enumerate(("a", "another name")):
        source = shutil.copytree(demo, tmp_path / name / "model")
        monkeypatch.chdir(source if i else tmp_path)
        output = tmp_path / f"{i}.gguf"
        quietly(os.path.relpath(source), output)
        sums.append(hashlib.sha256(output.read_bytes()).hexdigest())
    assert len(set(sums)) == 1
    assert str(tmp_path).encode() not in (tmp_path / "0.gguf").read_bytes()


@pytest.mark.parametrize("split", [0, 300_000])
def test_the_bar_ends_when_all_is_written(demo, tmp_path, monkeypatch, split):
    """What it is told at the end is what it was told at the beginning: the bytes of all tensors."""
    totals, written = [], []

    class Bar:
        update = staticmethod(written.append)

    @contextmanager
    def bar(total, label, shown):
        totals.append(total)
        yield Bar

    monkeypatch.setattr(pipeline, "byte_bar", bar)
    report = pipeline.convert(demo, tmp_path / "x.gguf", split_max_size=split, log=lambda line: None)
    assert totals == [sum(written)] and len(written) > 10 and (len(report.files) > 1) == bool(split)


def test_a_line_for_each_stage(demo, tmp_path):
    """Of a checkpoint, and of a GGUF."""
    other = write_stock(tmp_path / "in.gguf", {"blk.0.attn_q.weight": blocks(2, (32, 64))})
    for number, source in enumerate((demo, other)):
        lines, output = [], tmp_path / f"{number}.gguf"
        pipeline.convert(source, output, log=lines.append, progress=False)
        assert lines == [f"reading {source}", f"writing {output}"]


def test_shards_give_the_same_file(folder, demo, tmp_path, quietly):
    quietly(demo, tmp_path / "whole.gguf")
    folder.shard()
    quietly(folder.path, tmp_path / "shards.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "shards.gguf").read_bytes()


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        *(
            (name, "stories-2bit")
            for name in ("someone/stories-2bit", "/data/someone/stories-2bit/", "C:\\someone\\stories-2bit\\")
        ),
        ("someone/half of a \ud800 pair", "half of a ? pair"),
        ("/", None),
        (None, None),
        (7, None),
    ],
)
def test_the_name_is_that_of_the_makers_without_their_folders(folder, tmp_path, quietly, name, stored):
    folder.config["_name_or_path"] = name
    quietly(folder.save(), tmp_path / "x.gguf")
    assert read_gguf_header(tmp_path / "x.gguf").metadata.get("general.name") == stored


def test_metadata(folder, tmp_path, quietly):
    """The keys that llama.cpp needs, and ours."""
    folder.config["_name_or_path"] = "someone/stories-2bit"
    quietly(folder.save(), tmp_path / "x.gguf")
    metadata = read_gguf_header(tmp_path / "x.gguf").metadata
    expected = {
        "general.architecture": "llama",
        "general.alignment": 64,
        "general.file_type": 512,
        "general.name": "stories-2bit",
        "general.quantization_version": 2,
        "tmac.layout_version": 1,
        "tmac.source": "gptq w2g64 asymmetric",
        "llama.block_count": 4,
        "llama.context_length": 256,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 768,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": 1024,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }
    assert {key: metadata.get(key) for key in expected} == expected
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert len(metadata["tokenizer.ggml.tokens"]) == 1024


def test_biases(folder, tmp_path, quietly):
    """Zero biases are dropped with a note. Others are F32; q's are reordered like the rows of its weights."""
    values = np.arange(256).astype(np.float16)
    folder.tensors["model.layers.0.self_attn.q_proj.bias"] = values
    folder.tensors["model.layers.0.mlp.down_proj.bias"] = np.zeros(256, np.float16)
    report = quietly(folder.save(), tmp_path / "x.gguf")
    found = entries(tmp_path / "x.gguf")
    stored = tensor_bytes(tmp_path / "x.gguf", found["blk.0.attn_q.bias"]).view(np.float32)
    assert np.array_equal(stored, interleaved(values.astype(np.float32), 4))
    assert "blk.0.ffn_down.bias" not in found
    assert report.notes == ["blk.0.ffn_down.bias is zero throughout; left out"]


def test_tied_embedding(folder, tmp_path, quietly):
    """There is no output tensor, so llama.cpp uses the embedding. A head of another type is made from the embedding."""
    folder.config["tie_word_embeddings"] = True
    del folder.tensors["lm_head.weight"]
    embedding = folder.tensors["model.embed_tokens.weight"]
    report = quietly(folder.save(), tmp_path / "shared.gguf")
    assert "output.weight" not in entries(tmp_path / "shared.gguf")
    assert any("tied" in note for note in report.notes)
    quietly(folder.path, tmp_path / "own.gguf", head="f16")
    head = tensor_bytes(tmp_path / "own.gguf", entries(tmp_path / "own.gguf")["output.weight"])
    assert np.array_equal(head.view(np.float16), embedding.reshape(-1))


def test_unholdable_shapes_are_stored_in_f16_and_said(folder, tmp_path, quietly):
    """A layer whose outputs are not a multiple of 32, and one whose inputs do not divide into groups."""
    folder.config["intermediate_size"] = wide = 768 + 16
    for layer in range(4):
        mlp = f"model.layers.{layer}.mlp"
        for name in ("gate_proj", "up_proj"):
            for part in ("qweight", "qzeros", "scales"):
                values = folder.tensors[f"{mlp}.{name}.{part}"]
                extra = values[:, : values.shape[1] * 16 // 768]
                folder.tensors[f"{mlp}.{name}.{part}"] = np.concatenate([values, extra], axis=1)
        for part, extra in (("qweight", 1), ("qzeros", 1), ("scales", 1)):
            values = folder.tensors[f"{mlp}.down_proj.{part}"]
            folder.tensors[f"{mlp}.down_proj.{part}"] = np.concatenate([values, values[:extra]])
        folder.tensors[f"{mlp}.down_proj.g_idx"] = (np.arange(wide) // 64).astype(np.int32)
    output = tmp_path / "x.gguf"
    report = quietly(folder.save(), output)
    found = entries(output)
    for target in ("blk.1.ffn_gate.weight", "blk.1.ffn_down.weight"):
        assert found[target].type_name == "f16"
        stored = tensor_bytes(output, found[target]).view(np.float16).reshape(found[target].shape)
        assert np.array_equal(stored, checkpoint_weights(folder, hf_module(target)).astype(np.float16))
    said = "is stored as f16, rounded: 784"
    assert report.notes == [
        f"blk.0.ffn_gate (784 x 256) {said} rows are not a multiple of 32 (and 7 more like it)",
        f"blk.0.ffn_down (256 x 784) {said} columns are not a multiple of 64 (and 3 more like it)",
    ]
    assert report.notes[0] in report.render()


@pytest.mark.parametrize("head", ["q8_0", "tmac_w4"])
def test_a_vocabulary_whose_rows_no_type_holds(folder, tmp_path, quietly, head):
    """1040 rows: no multiple of the 32 that a T-MAC type needs, which is no obstacle for others."""
    folder.config["vocab_size"] = rows = 1040
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        folder.tensors[name] = np.concatenate([folder.tensors[name], folder.tensors[name][: rows - 1024]])
    report = quietly(folder.save(), tmp_path / "x.gguf", head=head)
    assert entries(tmp_path / "x.gguf")["output.weight"].type_name == {"q8_0": "q8_0", "tmac_w4": "f16"}[head]
    said = "output (1040 x 256) is stored as f16, rounded: 1040 rows are not a multiple of 32"
    assert (said in report.notes) == (head == "tmac_w4")


def test_layers_left_in_floats_keep_their_type(folder, tmp_path, quietly):
    """An unquantized q_proj in BF16 stays BF16 bit for bit, with rows in llama.cpp's order."""
    module = "model.layers.0.self_attn.q_proj"
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        del folder.tensors[f"{module}.{part}"]
    bits = np.random.default_rng(5).integers(0x3C00, 0x4100, (256, 256)).astype(np.uint16)
    folder.tensors[f"{module}.weight"] = bits
    report = quietly(folder.save(), tmp_path / "x.gguf")
    entry = entries(tmp_path / "x.gguf")["blk.0.attn_q.weight"]
    assert entry.type_name == "bf16"
    stored = tensor_bytes(tmp_path / "x.gguf", entry).view(np.uint16).reshape(256, 256)
    assert np.array_equal(stored, interleaved(bits, 4))
    assert report.notes == ["blk.0.attn_q is not quantized in the checkpoint; kept as BF16"]


def test_fresh_head(folder, tmp_path, quietly):
    """tmac_w4 gives a W4G32 matrix, and a note says that it is quantized now. Its error is below that of rounding to
    max / 8.
    """
    report = quietly(folder.path, tmp_path / "x.gguf", head="tmac_w4")
    entry = entries(tmp_path / "x.gguf")["output.weight"]
    assert entry.type_name == "tmac_w4g32"
    assert any("freshly quantized to 4 bits" in note for note in report.notes)
    original = folder.tensors["lm_head.weight"].astype(np.float32)
    stored = unpack(tensor_bytes(tmp_path / "x.gguf", entry), *entry.shape, TYPES_BY_ID[entry.type_id]).dequantize()
    groups = original.reshape(-1, 32)
    step = np.abs(groups).max(axis=1, keepdims=True) / 8
    plain = (np.clip(np.rint(groups / step), -8, 7) * step).reshape(original.shape)
    assert np.square(stored - original).sum() < 0.95 * np.square(plain - original).sum()


def test_what_a_conversion_refuses(folder, tmp_path, refused, quietly):
    """Unknown options, an unexpected tensor, a missing layer, biases that llama.cpp does not add, values not finite."""
    output = tmp_path / "x.gguf"

    def attempt(**options):
        return lambda: quietly(folder.save(), output, **options)

    refused(attempt(embedding="q5_k"), "embedding", "'q5_k'", "q8_0, f16, q4_0")
    refused(attempt(head="tmac_w2"), "head", "'tmac_w2'", "tmac_w4")
    folder.tensors["model.layers.0.self_attn.q_norm.weight"] = np.ones(64, np.float16)
    refused(attempt(), "model.safetensors", "model.layers.0.self_attn.q_norm.weight", "not part of the llama")
    del folder.tensors["model.layers.0.self_attn.q_norm.weight"]
    folder.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(32, np.float32)
    for name, size in (("lm_head", 1024), ("model.embed_tokens", 1024), ("model.norm", 256)):
        folder.tensors[f"{name}.bias"] = np.ones(size, np.float16)
        refused(attempt(), f"{name}.bias is not zero", "expected none")
        del folder.tensors[f"{name}.bias"]
    embedding = folder.tensors["model.embed_tokens.weight"]
    embedding[3, 4] = np.inf
    words = ("model.safetensors: tensor model.embed_tokens.weight", "infinite", "damaged")
    refused(attempt(), *words)
    embedding[3, 4] = 0
    gate = folder.tensors.pop("model.layers.3.mlp.gate_proj.qweight")
    refused(attempt(), "model.layers.3.mlp.gate_proj.weight is missing")
    folder.tensors["model.layers.3.mlp.gate_proj.qweight"] = gate
    folder.config["hidden_size"] = 128
    refused(attempt(), "model.embed_tokens.weight", "[1024, 256]", "expected [1024, 128]")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_values_too_large_for_fp16(folder, tmp_path, refused, quietly):
    """A float32 embedding that f16 cannot hold is refused with a hint; a layer is named as in the checkpoint."""
    embedding = folder.tensors["model.embed_tokens.weight"].astype(np.float32)
    embedding[3, 4] = 70000
    folder.tensors["model.embed_tokens.weight"] = embedding
    words = ("model.safetensors: tensor model.embed_tokens.weight", "70000", "at most 65504", "choose q8_0")
    refused(lambda: quietly(folder.save(), tmp_path / "x.gguf", embedding="f16"), *words)
    embedding[3, 4] = 1
    name = "model.layers.0.mlp.up_proj"
    for layer in range(4):
        for part in ("qweight", "qzeros", "scales"):
            for module in ("gate_proj", "up_proj"):
                tensor = f"model.layers.{layer}.mlp.{module}.{part}"
                width = folder.tensors[tensor].shape[1]
                folder.tensors[tensor] = folder.tensors[tensor][:, : width * 752 // 768]
        down = f"model.layers.{layer}.mlp.down_proj"
        folder.tensors[f"{down}.qweight"] = folder.tensors[f"{down}.qweight"][: 752 // 16]
        folder.tensors[f"{down}.g_idx"] = folder.tensors[f"{down}.g_idx"][:752]
    folder.config["intermediate_size"] = 752
    folder.tensors[f"{name}.scales"][:] = 60000
    refused(lambda: quietly(folder.save(), tmp_path / "x.gguf"), f"model.safetensors: layer {name}", "at most 65504")


def test_options_are_checked_first(tmp_path, refused, quietly):
    """An unknown type, and a file that is there, are refused before the source is opened or downloaded."""
    (tmp_path / "there.gguf").touch()
    refused(lambda: quietly("./none", tmp_path / "there.gguf"), "there.gguf exists")
    for option in ("embedding", "head"):
        refused(lambda: quietly("./none", tmp_path / "x.gguf", **{option: "q1"}), option, "'q1'", "q8_0, f16, q4_0")


def test_configuration_that_promises_quantized_layers(folder, tmp_path, refused, quietly):
    """A GPTQ configuration over float weights is an error, not a file without T-MAC tensors."""
    for name in [name for name in folder.tensors if name.endswith(".qweight")]:
        module = name.removesuffix(".qweight")
        words, outputs = folder.tensors[name].shape
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            del folder.tensors[f"{module}.{part}"]
        folder.tensors[f"{module}.weight"] = np.zeros((outputs, words * 16), np.float16)
    refused(lambda: quietly(folder.save(), tmp_path / "x.gguf"), "checkpoint", "no layer is quantized", "gptq")


def test_sources_that_are_no_checkpoint(tmp_path, refused, quietly):
    refused(lambda: quietly(tmp_path / "nowhere", tmp_path / "x.gguf"), "nowhere", "no such folder", "org/name")
    file = tmp_path / "file"
    file.touch()
    refused(lambda: quietly(file, tmp_path / "x.gguf"), "a file", "expected a checkpoint folder")


def test_a_family_that_only_llama_cpp_has_without_its_converter(folder, tmp_path, refused, quietly):
    folder.config["architectures"] = ["ArceeForCausalLM"]
    refused(lambda: quietly(folder.save(), tmp_path / "x.gguf"), "ArceeForCausalLM", "expected one of")


def test_expected_files_of_the_demo(demo):
    """The demo includes the files that the end-to-end tests compare with."""
    expected = json.loads((demo / "expected.json").read_text())
    assert {"prompt", "greedy_text", "perplexity"} <= set(expected)
