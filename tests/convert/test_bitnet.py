"""The BitNet reader against hand-made bytes and scales, whole conversions of each convention, and refusals."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from support.ternary_models import CONVENTIONS, HEADS, KV_HEADS, LAYERS, bfloat16, logits, make
from tmac.common.format import TERNARY, type_of
from tmac.convert.architectures import architecture_for
from tmac.convert.architectures.rope import pair_row_order
from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write.layout import unpack

AUTO = {"linear_class": "autobitlinear"}
ONLINE = {**AUTO, "quantization_mode": "online"}
LAYER = "model.layers.0.mlp.up_proj"
UPSTREAM = Path(__file__).parents[1] / "data" / "upstream" / "bitnet.json"
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture
def layer(folder):
    """layer(settings, **tensors): a reader for a checkpoint whose only layer, LAYER, has these tensors."""

    def open_layer(settings=None, **tensors):
        folder.config["quantization_config"] = {"quant_method": "bitnet", **(settings or {})}
        folder.tensors = {f"{LAYER}.{name.replace('_weight', '.weight')}": values for name, values in tensors.items()}
        return reader_for(Checkpoint(folder.save()))

    return open_layer


def packed(fill=0b10_01_00_10, rows=32, columns=32):
    return np.full((rows // 4, columns), fill, np.uint8)


def scale(value):
    return np.array([value], np.float32)


def weights(reader, rows=32, columns=32):
    """The weights of the layer, float64."""
    grid = reader.grid(LAYER, rows, columns)
    assert (grid.bits, grid.group, grid.asymmetric) == (2, 0, False)
    return reader.read(LAYER, rows, columns).dequantize().astype(np.float64) * grid.tensor_scale


def test_rows_of_a_byte_are_a_quarter_apart(layer):
    """Byte 0b10_01_00_10 of row r: rows r, r + 8, r + 16, r + 24 of 32 are +1, -1, 0, +1."""
    values = packed(0b01_01_01_01)
    values[3, 5] = 0b10_01_00_10
    found = weights(layer(weight=values, weight_scale=scale(1)))
    expected = np.zeros((32, 32))
    expected[3, 5], expected[11, 5], expected[19, 5], expected[27, 5] = 1, -1, 0, 1
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.25),
        ({"linear_class": None}, 0.25),
        ({"linear_class": "bitlinear"}, 0.25),
        (AUTO, 4.0),
        ({**AUTO, "quantization_mode": "offline"}, 4.0),
    ],
)
def test_same_bytes_mean_other_weights(layer, settings, expected):
    """weight_scale 4 divides in bitlinear and multiplies in autobitlinear; its size does not tell which."""
    found = weights(layer(settings, weight=packed(0b10_10_10_10), weight_scale=scale(4)))
    assert np.array_equal(found, np.full((32, 32), expected))


def test_reciprocal_is_the_nearest_float32(layer):
    """1 / 3, and a scale in bfloat16; a note reports the rounding."""
    reader = layer(weight=packed(), weight_scale=scale(3))
    assert reader.grid(LAYER, 32, 32).tensor_scale == float(np.float32(1 / 3))
    assert "reciprocal" in reader.notes()[0]
    reader = layer(AUTO, weight=packed(), weight_scale=bfloat16(scale(1.21875)))
    assert reader.grid(LAYER, 32, 32).tensor_scale == 1.21875 and reader.notes() == []


def test_masters_by_hand(layer):
    """The mean of |V| is 1: 0.5 and -0.5 are ties and become 0, larger ones become 1, and 2.5 is clipped to 1."""
    masters = np.ones((32, 32), np.float32)
    masters[0, :6] = 0.5, -0.5, 0.5 + 2**-23, -0.75, 2.5, 0
    masters[1, :2] = 2, 1.25 - 2**-23
    assert np.abs(masters).mean(dtype=np.float64) == 1
    found = weights(layer(ONLINE, weight=masters))
    assert found[0, :6].tolist() == [0, 0, 1, -1, 1, 0]
    assert (found[2:] == 1).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("f4", float(np.float32(1) / (np.float32(1) / np.float32(0.7)))),
        ("f2", float(np.float16(0.7))),
        ("bf16", 0.69921875),
    ],
)
def test_masters_scale_has_their_dtype(layer, dtype, expected):
    """The model rounds W to the dtype of V, so a mean of 0.7 becomes its neighbour there; bfloat16 has 8 bits."""
    masters = np.full((32, 32), 0.7, np.float32)
    stored = bfloat16(masters) if dtype == "bf16" else masters.astype(dtype)
    assert weights(layer(ONLINE, weight=stored))[0, 0] == expected


def test_masters_mean_is_at_least_1e5(layer):
    masters = np.full((32, 32), 4e-6, np.float32)
    masters[0, 0] = -6e-6
    found = weights(layer(ONLINE, weight=masters))
    assert (found[0, 0], found[1, 1]) == (-float(np.float32(1) / (np.float32(1) / np.float32(1e-5))), 0)


def test_masters_are_read_in_blocks(layer, monkeypatch):
    masters = np.random.default_rng(1).standard_normal((64, 96)).astype(np.float32)
    whole = weights(layer(ONLINE, weight=masters), 64, 96)
    monkeypatch.setattr("tmac.convert.sources.checkpoint.BLOCK_WEIGHTS", 1000)
    assert np.array_equal(weights(layer(ONLINE, weight=masters), 64, 96), whole)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("up_proj", True), (LAYER, True), ("model.layers.0", True), ("model.layers.00", False), ("lm_head", False)],
)
def test_modules_left_out(layer, name, left_out):
    """By the end of a name, or by the complete names before it, as in transformers."""
    reader = layer({"modules_to_not_convert": [name]}, weight=np.ones((32, 32), np.float32))
    assert reader.has(LAYER) != left_out
    assert not reader.has("lm_head") and not reader.has("model.embed_tokens")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"linear_class": "trilinear"}, ["linear_class 'trilinear'", "bitlinear or autobitlinear"]),
        ({"linear_class": 3}, ["linear_class 3"]),
        ({**AUTO, "quantization_mode": "lazy"}, ["quantization_mode 'lazy'", "offline or online"]),
        ({"quantization_mode": "online"}, ["quantization_mode 'online'", "offline for linear_class bitlinear"]),
        ({"use_rms_norm": True}, ["use_rms_norm True"]),
        ({"use_rms_norm": "no"}, ["use_rms_norm 'no'"]),
        ({"modules_to_not_convert": "lm_head"}, ["modules_to_not_convert 'lm_head'", "a list of names"]),
        ({"modules_to_not_convert": ["(a+)+$"]}, ["modules_to_not_convert", "a list of names"]),
        ({"modules_to_not_convert": [3]}, ["modules_to_not_convert [3]"]),
        ({**ONLINE, "modules_to_not_convert": ["q_proj"]}, ["modules_to_not_convert ['q_proj']", "lm_head"]),
    ],
)
def test_settings_that_are_refused(layer, refused, settings, words):
    refused(lambda: layer(settings, weight=packed(), weight_scale=scale(1)), "config.json", *words)


@pytest.mark.parametrize(
    ("settings", "tensors", "words"),
    [
        ({}, {"weight": packed()}, ["up_proj.weight_scale is missing"]),
        ({}, {"weight": packed().astype(np.float32), "weight_scale": scale(1)}, ["up_proj.weight has dtype F32", "U8"]),
        ({}, {"weight": packed(rows=64), "weight_scale": scale(1)}, ["shape [16, 32]", "[8, 32]"]),
        ({}, {"weight": packed(), "weight_scale": np.ones(2, np.float32)}, ["shape [2]", "[1]"]),
        ({}, {"weight": packed(), "weight_scale": np.ones(1, np.int32)}, ["weight_scale has dtype I32"]),
        ({}, {"weight": packed(), "weight_scale": scale(0)}, ["weight_scale is 0", "above zero"]),
        ({}, {"weight": packed(), "weight_scale": scale(1e-45)}, ["weight_scale is 1.4013e-45"]),
        (AUTO, {"weight": packed(), "weight_scale": scale(0)}, ["weight_scale is 0", "above zero"]),
        (AUTO, {"weight": packed(), "weight_scale": scale(-1)}, ["weight_scale is -1"]),
        (AUTO, {"weight": packed(), "weight_scale": scale(np.nan)}, ["weight_scale is nan"]),
        ({}, {"weight": packed(), "weight_scale": scale(1), "norm_weight": scale(1)}, ["up_proj.norm.weight", "norm"]),
        (AUTO, {"weight": packed(), "weight_scale": scale(1), "rms_norm_weight": scale(1)}, ["rms_norm.weight"]),
        (ONLINE, {"weight": packed(), "norm_weight": scale(1)}, ["up_proj.norm.weight"]),
        (ONLINE, {"weight": packed()}, ["up_proj.weight has dtype U8", "F16 or BF16 or F32"]),
        (ONLINE, {"weight": np.full((32, 32), np.inf, np.float32)}, ["up_proj.weight has values that are infinite"]),
        (ONLINE, {"weight": np.full((32, 32), np.finfo("f4").max)}, ["up_proj.weight, as rounded", "infinite"]),
        (ONLINE, {"weight": np.ones((32, 16), np.float32)}, ["shape [32, 16]"]),
    ],
)
def test_tensors_that_are_refused(layer, refused, settings, tensors, words):
    refused(lambda: layer(settings, **tensors).grid(LAYER, 32, 32), *words)


def test_code_3_is_refused(layer, refused):
    """At any place in the byte. Codes are checked only when they are read."""
    for shift in (0, 2, 4, 6):
        values = packed(0)
        values[7, 31] = 3 << shift
        reader = layer(weight=values, weight_scale=scale(1))
        reader.grid(LAYER, 32, 32)
        refused(lambda: reader.read(LAYER, 32, 32), "model.safetensors", f"{LAYER}.weight holds the code 3")


def test_rows_that_do_not_fill_bytes(layer, refused):
    refused(lambda: layer(weight=packed(), weight_scale=scale(1)).grid(LAYER, 30, 32), LAYER, "30 outputs", "of 4")


def entries(path):
    return {entry.name: entry for entry in read_gguf_header(path).tensors}


def stored(path, entry, dtype=np.uint8):
    return np.fromfile(path, np.uint8, entry.nbytes, offset=entry.offset).view(dtype)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_whole_conversion(name, tmp_path, quietly):
    """All matrices of blocks are ternary with a scale, and equal to the checkpoint's to the last bit of float32.

    Where columns fill no block of tmac_t3t they are tmac_w2t.
    """
    model, output = make(tmp_path / name, name), tmp_path / "x.gguf"
    report = quietly(model.folder, output)
    found = entries(output)
    for layer in range(LAYERS):
        for target, source in NAMES.items():
            entry, scale_entry = found[f"blk.{layer}.{target}.weight"], found[f"blk.{layer}.{target}.scale"]
            kind = TERNARY if entry.shape[1] % 128 else type_of(2, 0, ternary=True)
            assert (entry.type_name, scale_entry.type_name, scale_entry.shape) == (kind.ggml_name, "f32", (1,))
            signs = unpack(stored(output, entry), *entry.shape, kind).dequantize()
            expected = model.weights[f"model.layers.{layer}.{source}"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(target)
            if heads and name == "llama-bitlinear":
                expected = expected[pair_row_order(heads, 64)]
            assert np.array_equal(signs, np.sign(expected))
            assert stored(output, scale_entry, np.float32)[0] == np.float32(np.abs(expected).max())
    metadata = read_gguf_header(output).metadata
    assert metadata["tmac.activations"] == "int8_per_token"
    assert metadata["tmac.source"] == "bitnet w2 one scale per tensor"
    assert metadata.get("bitnet.hidden_activation") == ("relu2" if "microsoft" in name else None)
    assert metadata["general.architecture"] == ("llama" if "llama" in name else "bitnet")
    assert any("rounded" in note for note in report.notes) == (name != "microsoft")


def test_names_and_hyperparameters_are_those_of_llama_cpp(tmp_path, quietly):
    """Like its own converter's, except a linear scaling of positions by 1, which has no effect."""
    upstream = json.loads(UPSTREAM.read_text())
    quietly(make(tmp_path / "m", "1bitllm").folder, tmp_path / "x.gguf")
    found = {name: list(entry.shape) for name, entry in entries(tmp_path / "x.gguf").items() if "scale" not in name}
    assert found == upstream["tensors"]
    metadata = read_gguf_header(tmp_path / "x.gguf").metadata
    assert upstream["metadata"].pop("bitnet.rope.scaling.type") == "linear"
    assert upstream["metadata"].pop("bitnet.rope.scaling.factor") == 1
    assert {key: metadata[key] for key in upstream["metadata"]} == upstream["metadata"]


def test_both_spellings_have_the_same_tensors(tmp_path, quietly):
    """The two families name their sub-norms differently; both go to the same places."""
    for name in ("1bitllm", "microsoft"):
        quietly(make(tmp_path / name, name).folder, tmp_path / f"{name}.gguf")
    first, second = (entries(tmp_path / f"{name}.gguf") for name in ("1bitllm", "microsoft"))
    assert {name: entry.shape for name, entry in first.items()} == {name: entry.shape for name, entry in second.items()}
    assert first["blk.1.attn_sub_norm.weight"].shape == (256,) and first["blk.1.ffn_sub_norm.weight"].shape == (288,)


def test_head_is_the_embedding_whatever_is_asked_for(tmp_path, quietly):
    """llama.cpp's graph has no output.weight, so none is written, and a note says so."""
    report = quietly(make(tmp_path / "m", "microsoft").folder, tmp_path / "x.gguf", embedding="f16", head="tmac_w4")
    assert "output.weight" not in entries(tmp_path / "x.gguf")
    assert any("stored once as f16" in note and "no place for another" in note for note in report.notes)


def test_quantized_head_has_no_place_for_a_scale(tmp_path, quietly):
    """llama.cpp loads no output.scale, so such a head is stored in f16, multiplied by its scale."""
    model = make(tmp_path / "m", "llama-bitlinear")
    model.config["quantization_config"]["modules_to_not_convert"] = []
    model.tensors["lm_head.weight"] = np.full((256, 256), 0b10_01_00_10, np.uint8)
    model.tensors["lm_head.weight_scale"] = np.array([4], np.float32)
    report = quietly(model.save(), tmp_path / "x.gguf")
    found = entries(tmp_path / "x.gguf")
    assert found["output.weight"].type_name == "f16" and "output.scale" not in found
    values = stored(tmp_path / "x.gguf", found["output.weight"], np.float16).reshape(1024, 256)
    assert values[::256, 0].tolist() == [0.25, -0.25, 0, 0.25]
    assert any("no output head by a scale" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("microsoft", {"tie_word_embeddings": False}, ["tie_word_embeddings False", "expected True"]),
        ("1bitllm", {"tie_word_embeddings": None}, ["tie_word_embeddings False"]),
        ("1bitllm", {"hidden_act": "gelu"}, ["hidden_act 'gelu'", "silu"]),
        ("microsoft", {"head_dim": 32}, ["4 heads of 32", "hidden_size 256"]),
        ("1bitllm", {"weight_bits": 2}, ["weight_bits 2", "expected 1"]),
        ("1bitllm", {"weight_bits": True}, ["weight_bits True"]),
        ("1bitllm", {"input_bits": 4}, ["input_bits 4", "expected 8"]),
    ],
)
def test_configurations_that_are_refused(tmp_path, quietly, refused, name, changes, words):
    model = make(tmp_path / "m", name)
    model.config.update(changes)
    refused(lambda: quietly(model.save(), tmp_path / "x.gguf"), "config.json", *words)


def test_defaults_of_the_two_spellings(tmp_path):
    """Absent hidden_act and rope_theta are SiLU and 10000 for one, the squared ReLU and 500000 for the other."""
    for name, activation, theta in (("1bitllm", "silu", 10000.0), ("microsoft", "relu2", 500000.0)):
        model = make(tmp_path / name, name)
        del model.config["hidden_act"], model.config["rope_theta"]
        architecture = architecture_for(Checkpoint(model.save()))
        assert architecture.hidden_act(model.config) == activation and architecture.rope_theta == theta


def test_bias_has_no_place(tmp_path, quietly, refused):
    model = make(tmp_path / "m", "microsoft")
    model.tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(256, np.float16)
    refused(lambda: quietly(model.save(), tmp_path / "x.gguf"), "q_proj.bias is not zero", "bitnet")


def test_reference_model_attends_only_backwards(tmp_path):
    """In the reference model that tests/e2e uses, later tokens do not affect earlier ones."""
    model = make(tmp_path / "m", "1bitllm")
    long, short = logits(model, [1, 40, 7, 300]), logits(model, [1, 40])
    assert np.allclose(long[:2], short, rtol=1e-12, atol=1e-12) and math.isfinite(long.sum())
