"""The models of rotated_models.py as checkpoints: an MLX pack with hadamard.json, or floats with hadamard_packing.json.

What a GGUF has in the order of llama.cpp's graph is put back into that of transformers.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from support.checkpoints import CHECKPOINTS
from support.rotated_models import (
    BLOCK,
    FEED_FORWARD,
    GROUPED,
    GROUPS,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    STATE,
    TABLE,
    VALUE_HEADS,
    RotatedModel,
)
from support.safetensors_files import write_tensors
from support.tiny_models import VOCABULARY
from tmac.common import rotation as keys

KEYS = 2 * GROUPS * STATE
# Rows of the checkpoint by rows of the GGUF: row i here is row HEADS_BACK[i] there.
HEADS_BACK = np.arange(VALUE_HEADS).reshape(-1, GROUPS).T.reshape(-1)
CHANNELS_BACK = np.concatenate((np.arange(KEYS), KEYS + GROUPED))
NAMES = {
    TABLE.removesuffix(".weight"): "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "ssm_conv1d": "linear_attn.conv1d",
}
WHOLE = {"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"}
DRAFT = {
    "nextn.eh_proj": "mtp.fc",
    "nextn.enorm": "mtp.pre_fc_norm_embedding",
    "nextn.hnorm": "mtp.pre_fc_norm_hidden",
    "nextn.shared_head_norm": "mtp.norm",
}
ROWS_BACK = {"attn_qkv": CHANNELS_BACK, "ssm_conv1d": CHANNELS_BACK, "attn_gate": GROUPED} | dict.fromkeys(
    ("ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt.bias"), HEADS_BACK
)
TEXT_CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "full_attention_interval": LAYERS,
    "linear_num_key_heads": GROUPS,
    "linear_num_value_heads": VALUE_HEADS,
    "linear_key_head_dim": STATE,
    "linear_value_head_dim": STATE,
    "linear_conv_kernel_dim": 4,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [6, 5, 5],
    },
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}


def source_name(name: str) -> str:
    """The name in the text model of a tensor of the GGUF."""
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, layer, inner = stem.split(".", 2)
    if inner in DRAFT:
        return f"{DRAFT[inner]}.weight"
    block = f"model.layers.{layer}" if int(layer) < LAYERS else "mtp.layers.0"
    return f"{block}.{WHOLE[inner]}" if inner in WHOLE else f"{block}.{IN_BLOCK[inner]}.weight"


def rows_back(name: str, values: np.ndarray) -> np.ndarray:
    order = ROWS_BACK.get(name.removesuffix(".weight").partition(".")[2].partition(".")[2])
    return values if order is None else np.ascontiguousarray(values[order])


def plain_tensors(model: RotatedModel, *, mlx: bool) -> dict[str, np.ndarray]:
    """What is not rotated, in float32, by name in the text model."""
    found = {}
    for name, values in model.arrays.items():
        values = rows_back(name, values)
        if name.endswith("ssm_a"):
            values = np.log(-values)
        if name.endswith("norm.weight") and not name.endswith("ssm_norm.weight") and not mlx:
            values = values - 1
        if "conv1d" in name:
            values = values[:, :, None] if mlx else values[:, None]
        found[source_name(name)] = values.astype(np.float32)
    return found


def write(model: RotatedModel, folder: Path, config: dict, tensors: dict, side_file: str, side: dict) -> Path:
    folder.mkdir(parents=True)
    demo = CHECKPOINTS["w2g64z"]
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(demo / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / side_file).write_text(json.dumps(side))
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def write_pack(model: RotatedModel, folder: Path, change=lambda config, side, tensors: None) -> Path:
    """As Prism's MLX pack, without the block that drafts; `change` edits it before it is written."""
    wrapper = "language_model."
    tensors = {wrapper + name: values for name, values in plain_tensors(model, mlx=True).items()}
    for name, weight in model.rotated.items():
        module = wrapper + source_name(name).removesuffix(".weight")
        codes = rows_back(name, weight.codes).astype(np.uint32).reshape(len(weight.codes), -1, 16)
        scales = rows_back(name, weight.scales)
        tensors[f"{module}.weight"] = np.bitwise_or.reduce(codes << 2 * np.arange(16, dtype=np.uint32), axis=2)
        tensors[f"{module}.scales"], tensors[f"{module}.biases"] = scales, -scales
        if model.is_explicit:
            tensors[f"{module}.signs"] = model.signs[weight.codes.shape[1]].astype(np.float32)
    tensors["vision_tower.blocks.0.attn.qkv.weight"] = np.ones((2, 2), np.float32)
    side = {key: value for key, (_, value) in model.metadata().items()}
    for key in (keys.WEIGHTS_KEY, keys.TABLES_KEY):
        side[key] = [wrapper + source_name(name) for name in side[key]]
    if model.is_explicit:
        side[keys.SIGN_VALUES_KEY] = [float(sign) for sign in side[keys.SIGN_VALUES_KEY]]
    paths = {source_name(name).removesuffix(".weight"): name == TABLE for name in model.rotated}
    modules = [
        {"path": path, "block": BLOCK, "embedding": is_table, "dtype": "float16"} for path, is_table in paths.items()
    ]
    config = {
        "architectures": ["PrismHadamardQwen35ForConditionalGeneration"],
        "model_type": "prism_hadamard_qwen35",
        "schema_version": 2,
        "base_model_type": "qwen3_5",
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "requires_runtime": "runtime/artifact.py",
        "hadamard_config": "hadamard.json",
        "gdn_activation_layout": "grouped",
        "components": {"text": True, "vision": True, "mtp": False},
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "text_config": TEXT_CONFIG,
        "modules": modules,
        **SPECIAL,
    }
    change(config, side, tensors)
    return write(model, folder, config, tensors, "hadamard.json", side)


def fold_manifest(names: Iterable[str], block: int, signs: dict[str, list[int]] | None = None) -> dict:
    """The side file of rotated floats whose layers are `names`; `signs` by width, None where nothing changes sign."""
    return {
        "schema_version": 1,
        "kind": "hadamard-weight-fold",
        "status": "requires-matching-runtime",
        "producer": {"name": "a tool"},
        "transform": {
            "name": "normalized-signed-sylvester-walsh-hadamard",
            "block_size": block,
            "sign_mode": "identity" if signs is None else "explicit",
        },
        "signs": signs or {},
        "tensors": [{"name": name, "axis": -1, "role": "fold-before-matmul"} for name in names],
    }


def write_floats(model: RotatedModel, folder: Path, change=lambda config, side, tensors: None) -> Path:
    """Rotated weights in float16 beside a manifest, as the maker's converter reads it."""
    tensors = plain_tensors(model, mlx=False)
    for name, weight in model.rotated.items():
        tensors[source_name(name)] = rows_back(name, weight.values).astype(np.float16)
    signs = {str(width): signs.astype(int).tolist() for width, signs in model.signs.items()}
    side = fold_manifest(map(source_name, model.rotated), BLOCK, signs if model.is_explicit else None)
    for entry in side["tensors"]:
        if entry["name"] == source_name(TABLE):
            entry["role"] = "inverse-after-lookup"
    config = {"architectures": ["Qwen3_5ForCausalLM"], "mtp_num_hidden_layers": 1, **TEXT_CONFIG, **SPECIAL}
    change(config, side, tensors)
    return write(model, folder, config, tensors, "hadamard_packing.json", side)
