"""Whole conversions of checkpoints with GPTQ's tensors: the stored weights equal the checkpoint's."""

import gguf
import numpy as np
import pytest

from support.gptq_files import Kind, repack, replace
from support.llama_checkpoint import HEADS, HF_NAMES, hf_module, interleaved
from support.stock import entries, tensor_bytes
from tmac.common.format import TYPES_BY_ID
from tmac.convert.write.layout import unpack


def stored_weights(path, name, found):
    """float32 [M, K] of a tensor of the file, its columns in the order of the inputs."""
    entry = found[f"{name}.weight"]
    data = tensor_bytes(path, entry)
    if entry.type_name == "f16":
        return data.view(np.float16).reshape(entry.shape).astype(np.float32)
    if entry.type_name == "q8_0":
        return gguf.quants.dequantize(data.reshape(entry.shape[0], -1), gguf.GGMLQuantizationType.Q8_0)
    weights = unpack(data, *entry.shape, TYPES_BY_ID[entry.type_id]).dequantize()
    if f"{name}.order" not in found:
        return weights
    ordered = np.empty_like(weights)
    ordered[:, tensor_bytes(path, found[f"{name}.order"]).view(np.int32)] = weights
    return ordered


def check_weights(path, weights, rounded=()):
    """Compares all layers of the file with `weights`, by module; those of `rounded` targets after rounding to fp16."""
    found = entries(path)
    targets = [name.removesuffix(".weight") for name in found if name.startswith("blk.") and "norm" not in name]
    targets = [name for name in targets if not name.endswith(".order")]
    assert len(targets) == len(weights) == 14
    for name in targets:
        expected = weights[hf_module(f"{name}.weight")]
        kind = name.split(".")[2]
        expected = interleaved(expected, HEADS[kind]) if kind in HEADS else expected
        expected = expected.astype(np.float16) if kind in rounded else expected
        assert np.array_equal(stored_weights(path, name, found), expected), name


@pytest.mark.parametrize(
    ("settings", "kind", "type_name"),
    [
        ({"checkpoint_format": "gptq_v2"}, Kind(3, 64), "tmac_w3g64z"),
        ({"checkpoint_format": "gptq"}, Kind(3, 32, offset=1), "tmac_w3g32z"),
        ({"format": "gptq"}, Kind(3, 128, offset=1, symmetric=True), "tmac_w3g128"),
        ({"checkpoint_format": "gptq_p"}, Kind(3, 128, packing="planar"), "tmac_w3g128z"),
        ({"checkpoint_format": "gptq_p"}, Kind(4, 32, packing="planar"), "tmac_w4g32z"),
        ({"checkpoint_format": "gptq"}, Kind(8, 128, offset=1, symmetric=True), "q8_0"),
        ({"checkpoint_format": "gptq_v2", "sym": True}, Kind(8, -1, symmetric=True), "q8_0"),
        ({"checkpoint_format": "gptq_v2"}, Kind(2, -1), "tmac_w2g128z"),
        ({"checkpoint_format": "gptq_v2"}, Kind(4, 96, symmetric=True, g_idx=False), "tmac_w4g32"),
        ({"checkpoint_format": "gptq_v2"}, Kind(4, 512), "tmac_w4g128z"),
        ({"checkpoint_format": "gptq_v2", "pack_dtype": "int16"}, Kind(4, 64, word="int16"), "tmac_w4g64z"),
        ({"checkpoint_format": "gptq", "pack_dtype": "int8"}, Kind(2, 64, offset=1, word="int8"), "tmac_w2g64z"),
        ({"checkpoint_format": "gptq", "desc_act": True}, Kind(4, 64, offset=1, act_order=True), "tmac_w4g64z"),
        ({"checkpoint_format": "gptq_v2", "desc_act": True}, Kind(3, 96, act_order=True), "tmac_w3g32z"),
        ({"checkpoint_format": "gptq_v2", "desc_act": True}, Kind(2, 256, act_order=True), "tmac_w2g128z"),
        ({"checkpoint_format": "gptq_v2", "desc_act": True}, Kind(4, -1, act_order=True), "tmac_w4g128z"),
    ],
)
def test_gptq_weights_equal_the_checkpoints(folder, tmp_path, quietly, settings, kind, type_name):
    base = {"quant_method": "gptq", "bits": kind.bits, "group_size": kind.group, "sym": False}
    folder.config["quantization_config"] = {**base, **settings}
    weights = repack(folder, lambda module: kind)
    report = quietly(folder.save(), tmp_path / "x.gguf")
    check_weights(tmp_path / "x.gguf", weights)
    found = entries(tmp_path / "x.gguf")
    assert {entry.type_name for name, entry in found.items() if "ffn_down.weight" in name} == {type_name}
    ordered = kind.act_order and 0 < kind.group < 256
    assert ("blk.0.attn_q.order" in found) is ordered
    assert any("act-order" in note for note in report.notes) is (kind.act_order and kind.group != -1)


def test_a_group_that_does_not_divide_the_inputs(folder, tmp_path, quietly):
    """256 inputs in groups of 96 have a shorter last group: stored in groups of 32. 768 inputs divide evenly."""
    folder.config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 96,
        "checkpoint_format": "gptq_v2",
        "desc_act": True,
    }
    weights = repack(folder, lambda module: Kind(4, 96, act_order="down" in module))
    quietly(folder.save(), tmp_path / "x.gguf")
    check_weights(tmp_path / "x.gguf", weights)


@pytest.mark.parametrize("kind", [Kind(8, 64, act_order=True), Kind(8, 32, act_order=True, symmetric=True)])
def test_act_order_in_a_layer_without_a_type(folder, tmp_path, quietly, kind):
    """8 bits that are asymmetric, or reordered, become f16, rounded, with columns in the order of the inputs: there is
    no order tensor.
    """
    settings = {"quant_method": "gptq", "bits": 8, "group_size": kind.group, "format": "gptq_v2"}
    folder.config["quantization_config"] = settings
    weights = repack(folder, lambda module: kind)
    report = quietly(folder.save(), tmp_path / "x.gguf")
    check_weights(tmp_path / "x.gguf", weights, rounded=HF_NAMES)
    assert not any(name.endswith(".order") for name in entries(tmp_path / "x.gguf"))
    assert any("8-bit weights that q8_0 cannot hold" in note for note in report.notes)


def mixed(module):
    if "layers.1." in module and module.endswith("down_proj"):
        return Kind(4, 32)
    return Kind(8, 64, symmetric=True) if "self_attn" in module else Kind(2, 64)


def test_rules_for_single_layers(folder, tmp_path, quietly):
    """GPTQModel's dynamic: the first rule that matches counts."""
    folder.config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": 2,
        "group_size": 64,
        "sym": False,
        "format": "gptq_v2",
        "dynamic": {
            r"+:.*\.1\..*down_proj": {"bits": 4, "group_size": 32},
            r".*self_attn": {"bits": 8, "sym": True},
            r"+:.*(q|down)_proj": {"bits": 3},
            r"-:lm_head": {},
        },
    }
    weights = repack(folder, lambda module: Kind(3, 64) if module == "model.layers.0.mlp.down_proj" else mixed(module))
    quietly(folder.save(), tmp_path / "x.gguf")
    check_weights(tmp_path / "x.gguf", weights)
    found = entries(tmp_path / "x.gguf")
    names = ("0.ffn_down", "1.ffn_down", "1.attn_q", "1.ffn_up")
    types = {name: found[f"blk.{name}.weight"].type_name for name in names}
    assert types == {
        "0.ffn_down": "tmac_w3g64z",
        "1.ffn_down": "tmac_w4g32z",
        "1.attn_q": "q8_0",
        "1.ffn_up": "tmac_w2g64z",
    }


@pytest.mark.parametrize(("packing", "offset"), [("auto_round:auto_gptq", 1), ("auto_round", 0)])
def test_auto_round(folder, tmp_path, quietly, packing, offset):
    """Settings of single layers by name and by expression; a layer with 16 bits has floats."""
    folder.config["quantization_config"] = {
        "quant_method": "auto-round",
        "packing_format": packing,
        "bits": 2,
        "group_size": 64,
        "sym": False,
        "data_type": "int",
        "block_name_to_quantize": "model.layers",
        "extra_config": {
            r".*self_attn.*": {"bits": 8, "sym": True},
            "model.layers.1.mlp.down_proj": {"bits": 4, "group_size": 32},
            r".*layers\.1\..*": {"bits": 3},
            "lm_head": {"bits": 16},
        },
    }

    def kinds(module):
        kind = mixed(module)
        if "layers.1.mlp" in module and not module.endswith("down_proj"):
            kind = Kind(3, 64)
        return Kind(kind.bits, kind.group, offset, kind.symmetric, g_idx=False)

    weights = repack(folder, kinds)
    quietly(folder.save(), tmp_path / "x.gguf")
    check_weights(tmp_path / "x.gguf", weights)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_efficientqat(folder, tmp_path, quietly, bits):
    """Without settings: bits and group follow from the shapes; 3 bits have ten codes in a word."""
    del folder.config["quantization_config"]
    folder.config["_name_or_path"] = "ChenMnZ/Llama-2-7b-EfficientQAT-w2g64"
    weights = repack(folder, lambda module: Kind(bits, 64, packing="padded"))
    report = quietly(folder.save(), tmp_path / "x.gguf")
    check_weights(tmp_path / "x.gguf", weights)
    assert report.source == f"efficientqat w{bits}g64 asymmetric"


def test_quantized_head(folder, tmp_path, quietly):
    """With lm_head: true, a quantized head of the checkpoint keeps its codes."""
    folder.config["quantization_config"]["lm_head"] = True
    weights = replace(folder, "lm_head", Kind(2, 64))
    quietly(folder.save(), tmp_path / "x.gguf")
    assert np.array_equal(stored_weights(tmp_path / "x.gguf", "output", entries(tmp_path / "x.gguf")), weights)
