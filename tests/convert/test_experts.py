"""Experts of GPTQ checkpoints: many layers of the checkpoint become one tensor, with exactly their weights."""

from dataclasses import replace

import gguf
import numpy as np
import pytest

from support import tiny_checkpoints
from support.gptq_files import Kind, random_layer
from support.stock import entries, tensor_bytes
from support.tiny_families import BY_NAME
from tmac.common.format import TYPES_BY_ID
from tmac.convert.inspect import inspect_checkpoint
from tmac.convert.write.layout import unpack

EXPERTS = 4
BLOCK = "model.layers.0.block_sparse_moe"
MATRICES = {"w1": ("ffn_gate_exps", (128, 256)), "w3": ("ffn_up_exps", (128, 256)), "w2": ("ffn_down_exps", (256, 128))}
FLOATS = ("float16", "float32", "uint16", "float16")


@pytest.fixture
def mixtral(folder):
    """mixtral(experts): the demo with one block of experts, as experts(number) says: a Kind, or the name of a dtype."""

    def make(experts):
        folder.config |= {
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 1,
            "intermediate_size": 128,
        }
        for name in [name for name in folder.tensors if ".mlp." in name or name.startswith("model.layers.")]:
            if ".layers.0." not in name or ".mlp." in name:
                del folder.tensors[name]
        random = np.random.default_rng(1)
        folder.tensors[f"{BLOCK}.gate.weight"] = random.normal(size=(EXPERTS, 256)).astype(np.float16)
        weights = {}
        for expert in range(EXPERTS):
            for matrix, (_, shape) in MATRICES.items():
                module, kind = f"{BLOCK}.experts.{expert}.{matrix}", experts(expert)
                tensors, values = _floats(random, shape, kind) if kind in FLOATS else random_layer(random, *shape, kind)
                folder.tensors |= {f"{module}.{part}": data for part, data in tensors.items()}
                weights[matrix, expert] = values
        return folder.save(), weights

    return make


def _floats(random, shape, dtype):
    """Random weights that the dtype holds exactly and smaller ones do not; uint16 is bfloat16."""
    values = random.normal(size=shape).astype(np.float32)
    if dtype == "uint16":
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        return {"weight": bits}, (bits.astype(np.uint32) << 16).view(np.float32)
    return {"weight": values.astype(dtype)}, values.astype(dtype)


def stored(path, target):
    """float32 [experts, M, K] and the type of a tensor; the columns in the order of the inputs."""
    found = entries(path)
    entry = found[f"blk.0.{target}.weight"]
    data = tensor_bytes(path, entry).reshape(EXPERTS, -1)
    if entry.type_id not in TYPES_BY_ID:
        kind = gguf.GGMLQuantizationType(entry.type_id)
        dtype = {"f16": np.float16, "f32": np.float32}.get(entry.type_name, np.uint8)
        return gguf.quants.dequantize(data.view(dtype), kind).reshape(entry.shape), entry.type_name
    matrices = [unpack(matrix, *entry.shape[1:], TYPES_BY_ID[entry.type_id]).dequantize() for matrix in data]
    if (order := found.get(f"blk.0.{target}.order")) is not None:
        for i, places in enumerate(tensor_bytes(path, order).view(np.int32).reshape(EXPERTS, -1)):
            turned = np.empty_like(matrices[i])
            turned[:, places] = matrices[i]
            matrices[i] = turned
    return np.stack(matrices), entry.type_name


@pytest.mark.parametrize(
    ("experts", "type_name"),
    [
        (lambda expert: Kind(2, 64, symmetric=True), "tmac_w2g64"),
        (lambda expert: Kind(2, 64, symmetric=expert % 2 == 0), "tmac_w2g64z"),
        (lambda expert: Kind(2, 64, act_order=expert == 2), "tmac_w2g64z"),
        (lambda expert: "float16", "f16"),
        (lambda expert: FLOATS[expert], "f32"),
    ],
    ids=["symmetric", "zero-points of two kinds", "one with act-order", "floats", "floats of three kinds"],
)
def test_weights_equal_the_checkpoints(mixtral, tmp_path, quietly, experts, type_name):
    source, weights = mixtral(experts)
    quietly(source, tmp_path / "x.gguf")
    for matrix, (target, _) in MATRICES.items():
        values, found = stored(tmp_path / "x.gguf", target)
        assert found == type_name
        assert np.array_equal(values, np.stack([weights[matrix, expert] for expert in range(EXPERTS)]))


def test_experts_that_differ_are_refused(folder, mixtral, tmp_path, quietly, refused):
    """inspect shows one refusal for each of the three tensors; the other tensors of the layer stay known."""
    folder.config["quantization_config"]["dynamic"] = {r".*experts\.0\.": {"group_size": 128}}
    source, _ = mixtral(lambda expert: Kind(2, 64 if expert else 128))
    refused(lambda: quietly(source, tmp_path / "x.gguf"), "experts in w2g128 asymmetric and w2g64 asymmetric, expected")
    assert len(inspect_checkpoint(source).refusals) == len(MATRICES)


def test_biases_of_experts(folder, mixtral, tmp_path, quietly, refused):
    """llama.cpp adds none: zero biases are left out; others are refused by their name in the checkpoint."""
    mixtral(lambda expert: Kind(2, 64))
    bias = f"{BLOCK}.experts.1.w1.bias"
    folder.tensors[bias] = np.zeros(128, np.float16)
    report = quietly(folder.save(), tmp_path / "x.gguf")
    assert report.notes == ["blk.0.ffn_gate_exps.bias is zero throughout; left out"]
    folder.tensors[bias][3] = 1
    refused(lambda: quietly(folder.save(), tmp_path / "y.gguf"), f"tensor {bias} is not zero", "llama.cpp has no bias")


@pytest.mark.parametrize("floats", ["float16", "uint16"])
def test_experts_partly_in_floats(mixtral, tmp_path, quietly, floats):
    """GPTQModel leaves experts in floats that no text of its calibration reached: all of the layer become f16."""
    folder, weights = mixtral(lambda expert: floats if expert == 2 else Kind(2, 64))
    report = quietly(folder, tmp_path / "x.gguf")
    assert any("ffn_gate_exps has 1 of 4 experts in floats; all are stored as f16" in note for note in report.notes)
    for matrix, (target, _) in MATRICES.items():
        found = entries(tmp_path / "x.gguf")[f"blk.0.{target}.weight"]
        assert found.type_name == "f16"
        values = tensor_bytes(tmp_path / "x.gguf", found).view("<f2").reshape(found.shape)
        expected = np.array([weights[matrix, expert] for expert in range(EXPERTS)]).astype(np.float16)
        assert np.array_equal(values, expected)


def test_quantized_router_is_exact(tmp_path, quietly):
    """Some quantizers quantize the router too. Its weights equal those of the same model with the router in floats."""
    floats = BY_NAME["mixtral"]
    router = "block_sparse_moe.gate"
    quantized = replace(floats, linear={**floats.linear, router: (8, 128)}, floats={})
    report = quietly(tiny_checkpoints.write(quantized, tmp_path / "checkpoint"), tmp_path / "x.gguf")
    assert any(note.startswith("blk.0.ffn_gate_inp is quantized") for note in report.notes)
    entry = entries(tmp_path / "x.gguf")["blk.1.ffn_gate_inp.weight"]
    found = tensor_bytes(tmp_path / "x.gguf", entry).view("<f4").reshape(8, 128)
    expected = dict(tiny_checkpoints.tensors(quantized, False, False))[f"model.layers.1.{router}.weight"]
    assert entry.type_name == "f32" and np.array_equal(found, expected)


@pytest.mark.parametrize("quantize", [None, "w4g32"])
def test_experts_in_one_tensor_are_refused_by_name(tmp_path, quietly, refused, quantize):
    """This is how transformers 5 holds them in memory."""
    fused = {"mlp.gate": (8, 128), "mlp.experts.gate_up_proj": (8, 128)}
    tiny = replace(BY_NAME["qwen3moe"], experts={}, floats=fused)
    folder = tiny_checkpoints.write(tiny, tmp_path / "checkpoint", quantized=quantize is None)
    words = "mlp.experts.gate_up_proj.weight holds the experts of a layer in one", "experts.0.gate_proj"
    refused(lambda: quietly(folder, tmp_path / "x.gguf", quantize=quantize), *words)
