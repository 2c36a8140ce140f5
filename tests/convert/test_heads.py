"""Output heads: tied, of values of their own, quantized, or none; and how models that give embeddings pool."""

import json
from dataclasses import replace

import numpy as np
import pytest

from support import tiny_checkpoints
from support.notes import note_of
from support.safetensors_files import read_tensors, write_tensors
from support.stock import entries, stored_tensors
from support.tiny_families import MODELS
from tmac.convert.architectures import architecture_for
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def bare(name):
    return name.removeprefix("model.")


def write_pooling(folder, **settings):
    """How sentence-transformers says it."""
    (folder.path / "1_Pooling").mkdir()
    (folder.path / "1_Pooling" / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("is_same", [True, False])
def test_a_head_beside_a_tied_flag(folder, tmp_path, quietly, is_same):
    """As transformers 5: equal is tied, and other values are kept, with a note."""
    folder.config["tie_word_embeddings"] = True
    folder.tensors[HEAD] = folder.tensors[EMBEDDING].copy()
    if not is_same:
        folder.tensors[HEAD][700, 3] += 1
    report = quietly(folder.save(), tmp_path / "x.gguf", head="f16", embedding="f16")
    found = entries(tmp_path / "x.gguf")
    assert bool(note_of(report, "other values than the embedding")) == (not is_same)
    assert bool(note_of(report, "is the embedding (tied)")) == is_same
    if is_same:
        assert "output.weight" not in found
    else:
        entry = found["output.weight"]
        values = np.fromfile(tmp_path / "x.gguf", "<f2", 1024 * 256, offset=entry.offset).reshape(1024, 256)
        assert np.array_equal(values, folder.tensors[HEAD])


def test_a_head_where_the_graph_has_none(folder, refused, quietly, tmp_path):
    """Gemma 2's graph takes the embedding whatever the file has: a head of its own would be lost."""
    from tmac.convert.architectures.gemma2 import Gemma2Architecture

    folder.config |= {"tie_word_embeddings": True, "head_dim": 64, "query_pre_attn_scalar": 64, "hidden_act": None}
    folder.config["hidden_activation"] = "gelu_pytorch_tanh"
    checkpoint = Checkpoint(folder.save())
    refused(lambda: Gemma2Architecture.of(checkpoint), "lm_head has other values than the embedding", "no place")
    folder.tensors[HEAD] = folder.tensors[EMBEDDING]
    folder.tensors["lm_head.bias"] = np.zeros(1024, np.float16)
    Gemma2Architecture.of(Checkpoint(folder.save()))


def quantize_head(folder):
    """Adds the tensors of a quantized head: four times the rows of a layer."""
    for name, data in list(folder.tensors.items()):
        if name.startswith("model.layers.0.self_attn.q_proj."):
            folder.tensors[f"lm_head.{name.rpartition('.')[2]}"] = np.concatenate([data] * 4, axis=-1)
    folder.tensors["lm_head.g_idx"] = folder.tensors["model.layers.0.self_attn.q_proj.g_idx"]


def test_a_quantized_head_beside_a_tied_flag(folder, tmp_path, quietly):
    """It cannot be the embedding, which is in floats."""
    folder.config["tie_word_embeddings"] = True
    del folder.tensors[HEAD]
    quantize_head(folder)
    report = quietly(folder.save(), tmp_path / "x.gguf")
    assert note_of(report, "other values than the embedding")
    assert entries(tmp_path / "x.gguf")["output.weight"].type_name == "tmac_w2g64z"


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_both_quantized_and_in_floats_is_refused(folder, tmp_path, quietly, refused, tied):
    """Nothing says which of the two is meant."""
    folder.config["tie_word_embeddings"] = tied
    quantize_head(folder)
    refused(lambda: quietly(folder.save(), tmp_path / "x.gguf"), f"tensor {HEAD} is not part of the llama architecture")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "LlamaModel"])
def test_a_base_model_without_prefix_and_head(folder, tmp_path, quietly, architecture):
    """As models that give embeddings are saved; the way of pooling is kept. All else is as with the prefix."""
    quietly(folder.path, tmp_path / "whole.gguf")
    folder.config["architectures"] = [architecture]
    del folder.tensors[HEAD]
    folder.tensors = {bare(name): data for name, data in folder.tensors.items()}
    modes = {"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}
    write_pooling(folder, word_embedding_dimension=256, **modes, include_prompt=True)
    report = quietly(folder.save(), tmp_path / "x.gguf")
    assert note_of(report, "no output head")
    found, whole = read_gguf_header(tmp_path / "x.gguf"), read_gguf_header(tmp_path / "whole.gguf")
    assert found.metadata.pop("llama.pooling_type") == 3 and found.metadata == whole.metadata
    data, expected = stored_tensors(tmp_path / "x.gguf"), stored_tensors(tmp_path / "whole.gguf")
    del expected["output.weight"]
    assert data == expected


@pytest.mark.parametrize("name", ["OlmoeForCausalLM", "Qwen2MoeForCausalLM"])
def test_a_base_model_whose_graph_needs_a_head(tmp_path, refused, name):
    """llama.cpp has no other head in these graphs, and opens no file without one."""
    model = next(model for model in MODELS if model.config.get("architectures") == [name])
    model = replace(model, config={**model.config, "architectures": [name.replace("ForCausalLM", "Model")]})
    folder = tiny_checkpoints.write(model, tmp_path / "checkpoint")
    tensors = read_tensors(folder / "model.safetensors")
    del tensors[HEAD]
    write_tensors(folder / "model.safetensors", {bare(name): data for name, data in tensors.items()})
    refused(lambda: architecture_for(Checkpoint(folder)), "lm_head.weight is missing", "graph needs one")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (["max_tokens"], "is pooling_mode_max_tokens, expected"),
        (["cls_token", "mean_tokens"], "is pooling_mode_cls_token and pooling_mode_mean_tokens, expected one of"),
        ([], "is none, expected"),
    ],
)
def test_other_pooling_is_refused(folder, refused, quietly, tmp_path, chosen, words):
    write_pooling(folder, **{"pooling_mode_cls_token": False, **{f"pooling_mode_{name}": True for name in chosen}})
    refused(lambda: quietly(folder.save(), tmp_path / "x.gguf"), "1_Pooling/config.json", words)


def test_a_head_beside_a_way_of_pooling_is_kept(folder, tmp_path, quietly):
    quietly(folder.path, tmp_path / "without.gguf")
    write_pooling(folder, pooling_mode_lasttoken=True)
    assert quietly(folder.path, tmp_path / "x.gguf").notes == []
    assert stored_tensors(tmp_path / "x.gguf") == stored_tensors(tmp_path / "without.gguf")


def test_a_missing_head_of_a_whole_model_is_refused(folder, refused, quietly, tmp_path):
    """Unless a way of pooling says that the model gives embeddings."""
    del folder.tensors[HEAD]
    refused(lambda: quietly(folder.save(), tmp_path / "x.gguf"), "lm_head.weight is missing")
    write_pooling(folder, pooling_mode_mean_tokens=True)
    report = quietly(folder.path, tmp_path / "x.gguf")
    assert note_of(report, "no output head") and "output.weight" not in entries(tmp_path / "x.gguf")
