"""--quantize on a Hugging Face checkpoint in floats."""

import numpy as np
import pytest

from support.imatrix_files import write_new, write_old
from support.llama_checkpoint import checkpoint_weights
from support.stock import entries, stored_values
from support.tiny_checkpoints import EMBEDDING, HEAD, Tiny, tensors
from support.tiny_checkpoints import write as write_tiny
from tmac.common.format import parse_type
from tmac.convert.pipeline import read
from tmac.convert.plan.options import Options
from tmac.convert.plan.planner import plan
from tmac.convert.quantize.search import quantize
from tmac.convert.sources.checkpoint import Checkpoint

LAYERS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@pytest.fixture
def in_floats(folder):
    """The demo checkpoint with every layer dequantized to fp16."""
    for layer in range(4):
        for name in LAYERS:
            module = f"model.layers.{layer}.{name}"
            values = checkpoint_weights(folder, module)
            for part in ("qweight", "qzeros", "scales", "g_idx"):
                del folder.tensors[f"{module}.{part}"]
            folder.tensors[f"{module}.weight"] = values.astype(np.float16)
    del folder.config["quantization_config"]
    folder.save()
    return folder


def test_weights_on_a_grid_come_back_exactly(in_floats, demo, tmp_path, quietly):
    """The fp16 weights of a 2-bit checkpoint, quantized to its own type, equal those of a direct conversion."""
    quietly(demo, tmp_path / "gptq.gguf")
    report = quietly(in_floats.path, tmp_path / "fresh.gguf", quantize="w2g64z")
    found = entries(tmp_path / "fresh.gguf")
    assert list(found) == list(entries(tmp_path / "gptq.gguf"))
    for name, entry in found.items():
        if entry.type_name == "tmac_w2g64z":
            stored, expected = (stored_values(tmp_path / f"{which}.gguf", name) for which in ("fresh", "gptq"))
            assert np.array_equal(stored.astype(np.float16), expected.astype(np.float16))
    assert report.source == "fresh w2g64 asymmetric"
    assert {total.type_name: total.tensors for total in report.totals} == {"tmac_w2g64z": 28, "q8_0": 2, "f32": 9}
    (note,) = report.notes
    assert note == "every weight of 28 tensors lies on the grid of tmac_w2g64z; none was changed"


def test_importance_has_the_names_of_the_gguf(in_floats, tmp_path, quietly, refused):
    """q_proj, whose rows are reordered: if only one column has importance, its error is almost zero."""
    alone = np.zeros((1, 256))
    alone[0, 17] = 1
    name = "blk.0.attn_q.weight"
    matrix = write_new(tmp_path / "imatrix", {name: (alone, [1])})
    quietly(in_floats.path, tmp_path / "plain.gguf", quantize="w1g64")
    report = quietly(in_floats.path, tmp_path / "x.gguf", quantize="w1g64", imatrix=matrix)
    values = in_floats.tensors["model.layers.0.self_attn.q_proj.weight"].astype(np.float32)
    rows = values.reshape(4, 2, 32, 256).swapaxes(1, 2).reshape(256, 256)
    stored = (stored_values(tmp_path / f"{which}.gguf", name) for which in ("x", "plain"))
    errors = [np.square(values - rows)[:, 17].sum() for values in stored]
    assert errors[0] < 1e-4 * errors[1]
    assert "27 tensors (first: blk.0.attn_k.weight)" in report.notes[1]
    other = write_new(tmp_path / "other", {name: (np.ones((1, 64)), [1])})
    refused(lambda: quietly(in_floats.path, tmp_path / "y.gguf", quantize="w1g64", imatrix=other), name, "64 values")


def test_head_by_importance(in_floats, tmp_path, quietly):
    """--head tmac_w4 of a checkpoint, as of a GGUF: the quantizer's result for that importance, with a note."""
    name, values = "output.weight", in_floats.tensors["lm_head.weight"]
    importance = np.exp(np.random.default_rng(4).standard_normal((1, 256))).astype(np.float32)
    entry = {name: (importance, [1])}
    report = quietly(in_floats.path, tmp_path / "plain.gguf", quantize="w2g64z", head="tmac_w4")
    assert report.notes[-1].startswith("quantized freshly to tmac_w4g32,") and "weighted" not in report.notes[-1]
    expected, plain = (
        quantize(values, parse_type("w4g32"), inputs)[0].dequantize() for inputs in (importance[0], None)
    )
    assert not np.array_equal(expected, plain)
    assert np.array_equal(stored_values(tmp_path / "plain.gguf", name), plain)
    for write in (write_new, write_old):
        matrix = write(tmp_path / "imatrix", {**entry, "blk.0.attn_q.weight": (importance, [1])})
        options = {"quantize": "w2g64z", "head": "tmac_w4", "imatrix": matrix, "force": True}
        report = quietly(in_floats.path, tmp_path / "x.gguf", **options)
        assert np.array_equal(stored_values(tmp_path / "x.gguf", name), expected)
        assert "tmac_w4g32" in report.notes[-1] and "weighted by importance): 1 tensor; " in report.notes[-1]
    matrix = write_new(tmp_path / "imatrix", {"blk.0.attn_q.weight": (importance, [1])})
    report = quietly(in_floats.path, tmp_path / "x.gguf", quantize="w2g64z", head="tmac_w4", imatrix=matrix, force=True)
    assert np.array_equal(stored_values(tmp_path / "x.gguf", name), plain)
    assert report.notes[-1].endswith("all inputs counted the same: 1 tensor (first: output.weight)")


def test_head_of_a_quantized_checkpoint_by_importance(sibling_folder, tmp_path, quietly):
    """A checkpoint that is already quantized does not need --quantize for it."""
    importance = np.exp(np.random.default_rng(4).standard_normal((1, 256))).astype(np.float32)
    matrix = write_new(tmp_path / "imatrix", {"output.weight": (importance, [1])})
    quietly(sibling_folder.path, tmp_path / "x.gguf", head="tmac_w4", imatrix=matrix)
    expected = quantize(sibling_folder.tensors["lm_head.weight"], parse_type("w4g32"), importance[0])[0].dequantize()
    assert np.array_equal(stored_values(tmp_path / "x.gguf", "output.weight"), expected)


def test_shapes_that_no_type_holds_stay_in_floats(in_floats, tmp_path, quietly):
    """They are not rounded twice."""
    in_floats.config["intermediate_size"] = 760
    for layer in range(4):
        for name in ("gate_proj", "up_proj"):
            module = f"model.layers.{layer}.mlp.{name}.weight"
            in_floats.tensors[module] = in_floats.tensors[module][:760]
        module = f"model.layers.{layer}.mlp.down_proj.weight"
        in_floats.tensors[module] = np.ascontiguousarray(in_floats.tensors[module][:, :760])
    report = quietly(in_floats.save(), tmp_path / "x.gguf", quantize="w4g32")
    found = entries(tmp_path / "x.gguf")
    types = [found[f"blk.0.{name}.weight"].type_name for name in ("ffn_up", "ffn_down", "attn_q")]
    assert types == ["f16", "f16", "tmac_w4g32"]
    assert report.notes[0] == "blk.0.ffn_gate is not quantized in the checkpoint; kept as F16 (and 11 more like it)"
    for name, what, more in (("gate", "rows", 7), ("down", "columns", 3)):
        why = f"760 {what} are not a multiple of 32 (and {more} more like it)"
        assert f"blk.0.ffn_{name} cannot be tmac_w4g32: {why}" in report.notes


def test_a_model_whose_columns_no_type_holds(tmp_path):
    """144: all stays in f16, exactly, and no file is made. Rows of the embedding, 1024, would fill blocks."""
    layers = {f"self_attn.{name}_proj": (144 if name in "qo" else 72, 144) for name in "qkvo"}
    layers |= {"mlp.gate_proj": (192, 144), "mlp.up_proj": (192, 144), "mlp.down_proj": (144, 192)}
    norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), 144)
    tiny = Tiny("llama-144", {"architectures": ["LlamaForCausalLM"], "hidden_size": 144}, layers, norms, group=16)
    model = read(Checkpoint(write_tiny(tiny, tmp_path / "checkpoint", quantized=False)), quantizes=True)
    planned = plan(model, Options.of(None, "q8_0", "w4g32", None), collects_refusals=True)
    values = dict(tensors(tiny, False, False))
    found = {tensor.name: tensor for tensor in planned.tensors}
    for name, source in (("token_embd", EMBEDDING), ("output", HEAD)):
        stored = found[f"{name}.weight"]
        assert stored.type_name == "f16"
        assert np.array_equal(stored.load().view("<f2").reshape(1024, 144), values[f"{source}.weight"])
    assert "token_embd is stored as f16: its 144 columns do not fill q8_0 blocks (and 1 more like it)" in planned.notes
    words = "no layer can be quantized freshly: blk.0.attn_q cannot be tmac_w4g32: 144 rows are not a multiple of 32"
    assert [words in refusal.message for refusal in planned.refusals] == [True]


def test_what_is_refused(in_floats, demo, tmp_path, quietly, refused):
    out = tmp_path / "x.gguf"
    refused(lambda: quietly(in_floats.path, out), "config.json", "not quantized", "--quantize")
    refused(lambda: quietly(demo, out, quantize="w4g32"), "config.json", "'gptq'", "leave out --quantize")
    name = "model.layers.2.mlp.up_proj.weight"
    in_floats.tensors[name][3, 4] = np.nan
    refused(lambda: quietly(in_floats.save(), out, quantize="w4g32"), "model.safetensors", name, "not a number")
    assert not out.exists()


def test_read_in_blocks(in_floats, tmp_path, quietly, monkeypatch):
    quietly(in_floats.path, tmp_path / "one.gguf", quantize="w3g128z")
    monkeypatch.setattr("tmac.convert.plan.from_checkpoint.SLAB_WEIGHTS", 5000)
    quietly(in_floats.path, tmp_path / "many.gguf", quantize="w3g128z")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()
