"""Small BitNet checkpoints of each convention with random weights, the meaning of their layers, and a slow reference
model.

The vocabulary is the demo checkpoint's. The weights are computed here independently, from the definition.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from support.checkpoints import CHECKPOINTS
from support.safetensors_files import write_tensors

DEMO = CHECKPOINTS["w2g64z"]
# A feed-forward of 9 * 32, as the 270 * 32 of bitnet_b1_58-3B is no multiple of a larger group.
HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 256, 288, 2, 4, 2, 64, 1024
ROWS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
    "mlp.up_proj": (FEED_FORWARD, HIDDEN),
    "mlp.down_proj": (HIDDEN, FEED_FORWARD),
}


@dataclass(frozen=True)
class Convention:
    """sub_norms: names of those in attention and in feed-forward; dtype: of the masters, None for packed weights;
    divides: what weight_scale does to packed ones.
    """

    architecture: str
    sub_norms: tuple[str, str] | None
    activation: str
    settings: dict | None
    dtype: str | None = None
    divides: bool = False


_AUTO = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
_1BITLLM = ("BitnetForCausalLM", ("self_attn.inner_attn_ln", "mlp.ffn_layernorm"))
_MICROSOFT = ("BitNetForCausalLM", ("self_attn.attn_sub_norm", "mlp.ffn_sub_norm"))
CONVENTIONS = {
    "1bitllm": Convention(*_1BITLLM, "silu", None, "F32"),
    "1bitllm-f16": Convention(*_1BITLLM, "silu", None, "F16"),
    "llama-bitlinear": Convention(
        "LlamaForCausalLM",
        None,
        "silu",
        {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]},
        divides=True,
    ),
    "microsoft": Convention(*_MICROSOFT, "relu2", {**_AUTO, "quantization_mode": "offline"}),
    "microsoft-masters": Convention(*_MICROSOFT, "relu2", {**_AUTO, "quantization_mode": "online"}, "BF16"),
}


@dataclass
class Model:
    """config and tensors as in the folder; weights: float64 [N, K] of every matrix and float64 [n] of every norm."""

    folder: Path
    convention: Convention
    config: dict
    tensors: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]

    def save(self) -> Path:
        (self.folder / "config.json").write_text(json.dumps(self.config))
        write_tensors(self.folder / "model.safetensors", self.tensors)
        return self.folder


def make(folder: Path, name: str, seed: int = 5) -> Model:
    """A checkpoint of the convention `name`, saved in `folder`, which is made."""
    convention, rng = CONVENTIONS[name], np.random.default_rng(seed)
    folder.mkdir()
    for file in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DEMO / file, folder)
    config = {
        "architectures": [convention.architecture],
        "hidden_act": convention.activation,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": bool(convention.sub_norms),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if convention.settings:
        config["quantization_config"] = convention.settings
    else:
        config |= {"weight_bits": 1, "input_bits": 8}
    model = Model(folder, convention, config, {}, {})
    for module in ("model.embed_tokens", *([] if convention.sub_norms else ["lm_head"])):
        _floats(model, module, rng.standard_normal((VOCABULARY, HIDDEN)).astype(np.float16))
    norms = {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN}
    norms |= dict(zip(convention.sub_norms or (), (HIDDEN, FEED_FORWARD)))
    for layer in range(LAYERS):
        for part, size in norms.items():
            _floats(model, f"model.layers.{layer}.{part}", (0.5 + rng.random(size)).astype(np.float16))
        for part, shape in ROWS.items():
            _add_layer(model, f"model.layers.{layer}.{part}", shape, rng)
    _floats(model, "model.norm", (0.5 + rng.random(HIDDEN)).astype(np.float16))
    model.save()
    return model


def _floats(model: Model, module: str, values: np.ndarray) -> None:
    model.tensors[f"{module}.weight"] = values
    model.weights[module] = values.astype(np.float64)


def _add_layer(model: Model, module: str, shape: tuple[int, int], rng: np.random.Generator) -> None:
    convention = model.convention
    if convention.dtype is None:
        signs, scale = rng.integers(-1, 2, shape), bfloat16(np.float32(rng.uniform(0.5, 4)))
        model.tensors[f"{module}.weight"] = packed(signs)
        model.tensors[f"{module}.weight_scale"] = scale.reshape(1)
        value = widened(scale).astype(np.float64)
        model.weights[module] = signs / value if convention.divides else signs * value
        return
    masters = (rng.standard_normal(shape) * rng.uniform(0.02, 0.2)).astype(np.float32)
    stored = {"F32": masters, "F16": masters.astype(np.float16), "BF16": bfloat16(masters)}[convention.dtype]
    model.tensors[f"{module}.weight"] = stored
    values = widened(stored) if convention.dtype == "BF16" else stored.astype(np.float32)
    inverse = np.float32(1) / max(np.float32(np.abs(values).mean(dtype=np.float64)), np.float32(1e-5))
    scale = np.float32(1) / inverse
    rounded = {"F32": scale, "F16": np.float16(scale), "BF16": widened(bfloat16(scale))}[convention.dtype]
    model.weights[module] = np.clip(np.rint(values * inverse), -1, 1) * np.float64(rounded)


def packed(signs: np.ndarray) -> np.ndarray:
    """-1, 0 or 1 [N, K] as transformers packs them: uint8 [N / 4, K]."""
    out = np.zeros((len(signs) // 4, signs.shape[1]), np.uint8)
    for row, values in enumerate(signs):
        out[row % len(out)] |= ((values + 1) << 2 * (row // len(out))).astype(np.uint8)
    return out


def bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 as the bits of the nearest bfloat16; ties go to even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def logits(model: Model, tokens: list[int], round_activations: bool = True) -> np.ndarray:
    """float64 [tokens, vocabulary] from transformers' definitions, with activations of ternary layers rounded to int8.

    Checked once: within NMSE 3e-13 of transformers 5.23.0 in float32. Without the rounding, within 2e-13 of llama.cpp
    on the float32 GGUF that the pinned tree's converter makes of `1bitllm`.
    """
    config, weights = model.config, model.weights

    def linear(module: str, x: np.ndarray) -> np.ndarray:
        if round_activations:
            scale = 127 / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-5)
            x = np.clip(np.rint(x * scale), -128, 127) / scale
        return x @ weights[module].T

    def norm(module: str, x: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + config["rms_norm_eps"]) * weights[module]

    def sub_norm(block: str, index: int, x: np.ndarray) -> np.ndarray:
        names = model.convention.sub_norms
        return norm(f"{block}.{names[index]}", x) if names else x

    x = weights["model.embed_tokens"][tokens]
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        h = norm(f"{block}.input_layernorm", x)
        h = _attention(*(linear(f"{block}.self_attn.{part}_proj", h) for part in "qkv"), config["rope_theta"])
        x = x + linear(f"{block}.self_attn.o_proj", sub_norm(block, 0, h))
        h = norm(f"{block}.post_attention_layernorm", x)
        gate, up = (linear(f"{block}.mlp.{part}_proj", h) for part in ("gate", "up"))
        gate = np.square(np.maximum(gate, 0)) if config["hidden_act"] == "relu2" else gate / (1 + np.exp(-gate))
        x = x + linear(f"{block}.mlp.down_proj", sub_norm(block, 1, gate * up))
    return norm("model.norm", x) @ weights.get("lm_head", weights["model.embed_tokens"]).T


def _attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, theta: float) -> np.ndarray:
    n = len(queries)
    angles = np.arange(n)[:, None] * theta ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    cos, sin = np.cos(angles), np.sin(angles)
    hidden = np.triu(np.full((n, n), -np.inf), 1)
    out = []

    def rotated(x: np.ndarray) -> np.ndarray:
        a, b = np.split(x, 2, axis=1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)

    for head in range(HEADS):
        own = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        shared = slice(*(HEAD_DIM * (head * KV_HEADS // HEADS + i) for i in (0, 1)))
        scores = rotated(queries[:, own]) @ rotated(keys[:, shared]).T / np.sqrt(HEAD_DIM) + hidden
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        out.append(shares / shares.sum(axis=1, keepdims=True) @ values[:, shared])
    return np.concatenate(out, axis=1)
