"""Formats of checkpoints by llama.cpp's own converter, of a small model: layouts of codes, floats of 4 and 8 bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from support import reexpress
from support.families.converting import converted
from support.safetensors_files import read_tensors, write_tensors
from tmac.convert.pipeline import convert
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.tools.llama.verify import all_logits

TEXT = "One morning, Mia went to the forest with a small red kite."


@pytest.fixture
def checkpoint(byte_level, tmp_path):
    """A copy of a small checkpoint of such a family, to change."""
    return Path(shutil.copytree(byte_level, tmp_path / "checkpoint"))


def test_act_order_is_kept(checkpoint, upstream):
    """The inputs of one layer in other groups: the file says which input each column belongs to."""
    weights = checkpoint / "model.safetensors"
    tensors = read_tensors(weights)
    module = "model.layers.0.mlp.down_proj"
    order = np.random.default_rng(1).permutation(len(tensors[f"{module}.g_idx"]))
    tensors[f"{module}.g_idx"] = tensors[f"{module}.g_idx"][order]
    write_tensors(weights, tensors)
    output, report = converted(checkpoint, upstream)
    assert any("act-order" in note for note in report.notes)
    entry = next(t for t in read_gguf_header(output).tensors if t.name == "blk.0.ffn_down.order")
    found = np.fromfile(output, "<i4", len(order), offset=entry.offset)
    assert np.array_equal(np.sort(found), np.arange(len(order)))
    assert np.array_equal(tensors[f"{module}.g_idx"][found], np.arange(len(order)) // 32)


def _awq(version):
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": version}


def _auto_round(packing):
    settings = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, "data_type": "int"}
    return {**settings, "packing_format": packing}


_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
LAYOUTS = {
    "awq-gemm": (_awq("gemm"), reexpress.awq_gemm),
    "awq-gemv": (_awq("gemv"), reexpress.awq_gemv),
    "awq-gemv-fast": (_awq("gemv_fast"), reexpress.awq_gemv_fast),
    "compressed": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": _WEIGHTS}},
            "ignore": ["lm_head", "re:.*mlp[.]gate$"],
        },
        reexpress.compressed(4),
    ),
    "gptq-v1": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq"},
        reexpress.gptq(1),
    ),
    "auto-round": (_auto_round("auto_round:gptqmodel"), reexpress.gptq(0, order=False)),
    "auto-round-auto-gptq": (_auto_round("auto_round:auto_gptq"), reexpress.gptq(1)),
    "auto-round-awq": (_auto_round("auto_round:auto_awq"), reexpress.awq_gemm),
}


@pytest.fixture(scope="session")
def from_gptq(byte_level, tmp_path_factory, upstream):
    """The file of the small checkpoint as it is."""
    output = tmp_path_factory.mktemp("gptq") / "out.gguf"
    convert(byte_level, output, find_upstream=lambda: upstream, progress=False, log=lambda line: None)
    return output


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_file(checkpoint, from_gptq, upstream, layout):
    """The codes, scales and zero-points of GPTQ in other layouts: the same tensors, byte for byte."""
    settings, pack = LAYOUTS[layout]
    tensors = read_tensors(checkpoint / "model.safetensors")
    for module in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        packed = pack(reexpress.Layer(tensors, module, bits=4, group=32))
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            del tensors[f"{module}.{part}"]
        tensors.update({f"{module}.{part}": values for part, values in packed.items()})
    write_tensors(checkpoint / "model.safetensors", tensors)
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = settings
    (checkpoint / "config.json").write_text(json.dumps(config))
    output, _ = converted(checkpoint, upstream)
    places = [{t.name: t for t in read_gguf_header(file).tensors} for file in (from_gptq, output)]
    assert places[0].keys() == places[1].keys()
    assert sum(tensor.type_name == "tmac_w4g32z" for tensor in places[0].values()) >= 8
    for key, tensor in places[0].items():
        first, second = (
            np.fromfile(file, np.uint8, tensor.nbytes, offset=place[key].offset)
            for file, place in zip((from_gptq, output), places)
        )
        assert tensor.type_name == places[1][key].type_name and np.array_equal(first, second), key


def replace_layer(checkpoint, module, tensors, settings=None):
    """Other tensors instead of those of GPTQ; uint8 ones that end with `scale` or `weight` may be F8_E4M3."""
    weights = checkpoint / "model.safetensors"
    found = read_tensors(weights)
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        del found[f"{module}.{part}"]
    return weights, found | {f"{module}.{part}": values for part, values in tensors.items()}


@pytest.mark.parametrize("scaled", ["by row", "by block"])
def test_floats_of_8_bits_beside_codes(checkpoint, upstream, scaled):
    """0x38 is 1 in E4M3 and 0xB8 is -1: weights are the scales, or less than 0, in every second column."""
    module, shape = "model.layers.0.mlp.down_proj", (64, 128)
    bits = np.resize(np.array([0x38, 0xB8], np.uint8), shape)
    scales = np.exp2(np.arange(64, dtype=np.float32) % 8)[:, None] if scaled == "by row" else np.float32([[0.25]])
    weights, tensors = replace_layer(checkpoint, module, {"weight": bits, "weight_scale": scales})
    write_tensors(weights, tensors, small=[f"{module}.weight"])
    output, report = converted(checkpoint, upstream)
    assert any(f"{module}.weight are floats of 8 bits" in note for note in report.notes)
    entry = next(t for t in read_gguf_header(output).tensors if t.name == "blk.0.ffn_down.weight")
    stored = np.fromfile(output, "<u2", entry.nbytes // 2, offset=entry.offset).astype(np.uint32) << 16
    assert entry.type_name == "bf16"
    assert np.array_equal(stored.view(np.float32).reshape(shape), np.where(bits == 0x38, scales, -scales))


_GROUP = {"format": "nvfp4-pack-quantized", "weights": {"num_bits": 4, "type": "float"}, "targets": ["Linear"]}
NVFP4 = {
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "weight", "weight_scale_2", np.float32(0.02)),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"group_0": _GROUP}},
        "weight_packed",
        "weight_global_scale",
        np.float32(1 / 0.02),
    ),
}


@pytest.mark.parametrize("tool", NVFP4)
def test_nvfp4_keeps_its_type(build, checkpoint, upstream, tool):
    """Of 64 weights: 4 scales as they are, then 8 bytes for each 16 weights, with weights i and i + 8 in byte i.

    The checkpoint has weights 2 i and 2 i + 1 in a byte. The scale of all is beside, and the file runs.
    """
    settings, codes_name, scale_name, scale = NVFP4[tool]
    rng, layers = np.random.default_rng(1), {}
    weights = checkpoint / "model.safetensors"
    tensors = read_tensors(weights)
    for module in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        rows, columns = tensors[f"{module}.qweight"].shape[1], 8 * len(tensors[f"{module}.qweight"])
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            del tensors[f"{module}.{part}"]
        layers[module] = (
            rng.integers(0, 256, (rows, columns // 2), np.uint8),
            rng.integers(40, 64, (rows, columns // 16), np.uint8),
        )
        tensors |= {f"{module}.{codes_name}": layers[module][0], f"{module}.weight_scale": layers[module][1]}
        tensors[f"{module}.{scale_name}"] = np.array([scale])
    write_tensors(weights, tensors, small=[f"{module}.weight_scale" for module in layers])
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = settings
    (checkpoint / "config.json").write_text(json.dumps(config))
    output, report = converted(checkpoint, upstream)
    assert report.source == "nvfp4 nvfp4"
    entries = {tensor.name: tensor for tensor in read_gguf_header(output).tensors}
    for target, source in (("ffn_down", "mlp.down_proj"), ("attn_v", "self_attn.v_proj")):
        codes, scales = layers[f"model.layers.1.{source}"]
        entry, factor = entries[f"blk.1.{target}.weight"], entries[f"blk.1.{target}.scale"]
        nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1, 4, 16)
        pairs = (nibbles[..., :8] | nibbles[..., 8:] << 4).reshape(len(codes), -1, 32)
        expected = np.concatenate([scales.reshape(len(scales), -1, 4), pairs], axis=-1)
        assert entry.type_name == "nvfp4"
        assert np.array_equal(np.fromfile(output, np.uint8, entry.nbytes, offset=entry.offset), expected.reshape(-1))
        assert np.fromfile(output, "<f4", 1, offset=factor.offset) == pytest.approx(0.02)
    _, logits = all_logits(build, output, TEXT, ())
    assert np.isfinite(logits).all()


def test_4_bit_floats_keep_their_type(small, upstream, tmp_path):
    """MXFP4 of gpt-oss, block by block: the scale, then 16 bytes with weights i and i + 16.

    The checkpoint has weights 2 i and 2 i + 1 in a byte, and rows of gate and up in turns.
    """
    checkpoint = Path(shutil.copytree(small["GptOssForCausalLM"] / "floats", tmp_path / "checkpoint"))
    tensors, numbers = read_tensors(checkpoint / "model.safetensors"), np.random.default_rng(1)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = numbers.integers(0, 256, (experts, rows, columns // 32, 16), np.uint8)
        tensors[f"{name}_scales"] = numbers.integers(118, 124, (experts, rows, columns // 32), np.uint8)
    write_tensors(checkpoint / "model.safetensors", tensors)
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    output, report = converted(checkpoint, upstream)
    assert report.source == "mxfp4 mxfp4"
    entries = {tensor.name: tensor for tensor in read_gguf_header(output).tensors}
    block = "model.layers.1.mlp.experts"
    places = {"gate": ("gate_up_proj", slice(0, None, 2)), "up": ("gate_up_proj", slice(1, None, 2))}
    for target, (source, rows) in {**places, "down": ("down_proj", slice(None))}.items():
        entry = entries[f"blk.1.ffn_{target}_exps.weight"]
        codes = tensors[f"{block}.{source}_blocks"][:, rows]
        scales = tensors[f"{block}.{source}_scales"][:, rows, :, None]
        halves = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], 32)
        expected = np.concatenate([scales, halves[..., :16] | halves[..., 16:] << 4], axis=-1)
        assert entry.type_name == "mxfp4"
        assert np.array_equal(np.fromfile(output, np.uint8, entry.nbytes, offset=entry.offset), expected.reshape(-1))
