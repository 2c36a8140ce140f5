"""LlamaForCausalLM: configuration and tensor names -> GGUF metadata and names of llama.cpp's `llama` architecture.

RoPE: transformers rotates element i of a head together with element i + d/2, llama.cpp's `llama` rotates 2i with
2i + 1. The rows of q and k are reordered to match, so the attention scores stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..errors import ConvertError
from ..settings import Settings
from .part import Kind, Part

# llama.cpp's own limit (LLAMA_MAX_LAYERS).
MAX_LAYERS = 512
ROPE_TYPES = ("default", "linear", "llama3")
_DAMAGED = "the configuration is damaged or from another kind of model"


class LlamaArchitecture:
    """A Llama model's shapes and hyperparameters. Raises ConvertError for values llama.cpp could not reproduce."""

    name = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA]

    def __init__(self, config: dict[str, Any], file: Path):
        settings = Settings(config, file)
        self.vocab_size = settings.integer("vocab_size")
        self.tied_head = config.get("tie_word_embeddings") is True
        self._hidden = settings.integer("hidden_size")
        self._feed_forward = settings.integer("intermediate_size")
        self._layers = settings.integer("num_hidden_layers", at_most=MAX_LAYERS)
        self._heads = settings.integer("num_attention_heads")
        self._kv_heads = settings.integer("num_key_value_heads", self._heads)
        self._head_dim = settings.integer("head_dim", self._hidden // self._heads)
        self._context = settings.integer("max_position_embeddings", 2048)
        self._rms_eps = settings.positive("rms_norm_eps", 1e-6)
        _refuse_unless(file, "hidden_act", config.get("hidden_act", "silu"), "silu", "swish")
        if self._head_dim % 2 or self._heads % self._kv_heads:
            raise ConvertError(
                f"{file}: head_dim {self._head_dim}, {self._heads} heads and {self._kv_heads} key-value heads, "
                "expected an even head_dim and heads that are a multiple of the key-value heads",
                _DAMAGED,
            )
        rope = _rope_settings(settings)
        self._rope_theta = rope.positive("rope_theta", 10000.0)
        self._rope_type = _rope_type(rope)
        _refuse_unless(file, "rope_type", self._rope_type, *ROPE_TYPES)
        self._rope_factor = rope.positive("factor") if self._rope_type != "default" else 1.0
        self._rope_factors = None
        if self._rope_type == "llama3":
            self._rope_factors = _llama3_factors(rope, self._rope_theta, self._head_dim)

    def parts(self) -> Iterator[Part]:
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, self._layers)

        def part(kind: Kind, source: str, *shape: int, row_order=None) -> Part:
            return Part(kind, source, names.get_name(source), shape, row_order)

        embedding = "model.embed_tokens"
        queries, keys = self._heads * self._head_dim, self._kv_heads * self._head_dim
        yield part(Kind.EMBEDDING, embedding, self.vocab_size, self._hidden)
        for layer in range(self._layers):
            block = f"model.layers.{layer}"
            attention, mlp = f"{block}.self_attn", f"{block}.mlp"
            yield part(Kind.NORM, f"{block}.input_layernorm", self._hidden)
            yield part(Kind.LINEAR, f"{attention}.q_proj", queries, self._hidden,
                       row_order=partial(rope_row_order, self._heads, self._head_dim))
            yield part(Kind.LINEAR, f"{attention}.k_proj", keys, self._hidden,
                       row_order=partial(rope_row_order, self._kv_heads, self._head_dim))
            yield part(Kind.LINEAR, f"{attention}.v_proj", keys, self._hidden)
            yield part(Kind.LINEAR, f"{attention}.o_proj", self._hidden, queries)
            yield part(Kind.NORM, f"{block}.post_attention_layernorm", self._hidden)
            yield part(Kind.LINEAR, f"{mlp}.gate_proj", self._feed_forward, self._hidden)
            yield part(Kind.LINEAR, f"{mlp}.up_proj", self._feed_forward, self._hidden)
            yield part(Kind.LINEAR, f"{mlp}.down_proj", self._hidden, self._feed_forward)
        yield part(Kind.NORM, "model.norm", self._hidden)
        source = embedding if self.tied_head else "lm_head"
        yield Part(Kind.HEAD, source, names.get_name("lm_head"), (self.vocab_size, self._hidden))

    def constants(self) -> dict[str, np.ndarray]:
        return {} if self._rope_factors is None else {"rope_freqs.weight": self._rope_factors}

    def is_redundant(self, name: str) -> bool:
        """Rotary frequencies follow from the configuration; a tied head is the embedding."""
        return name.endswith(".rotary_emb.inv_freq") or (self.tied_head and name == "lm_head.weight")

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        writer.add_vocab_size(self.vocab_size)
        writer.add_context_length(self._context)
        writer.add_embedding_length(self._hidden)
        writer.add_block_count(self._layers)
        writer.add_feed_forward_length(self._feed_forward)
        writer.add_head_count(self._heads)
        writer.add_head_count_kv(self._kv_heads)
        writer.add_key_length(self._head_dim)
        writer.add_value_length(self._head_dim)
        writer.add_layer_norm_rms_eps(self._rms_eps)
        writer.add_rope_dimension_count(self._head_dim)
        writer.add_rope_freq_base(self._rope_theta)
        if self._rope_type == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self._rope_factor)


def rope_row_order(heads: int, head_dim: int) -> np.ndarray:
    """int64 [heads * head_dim]: within each head, rows 0, d/2, 1, d/2 + 1, ... of the source, d = head_dim."""
    within = np.arange(head_dim).reshape(2, head_dim // 2).T.reshape(-1)
    return (np.arange(heads)[:, None] * head_dim + within).reshape(-1)


def _rope_settings(settings: Settings) -> Settings:
    """What the configuration says of RoPE, in one object, with its rope_theta.

    transformers 5 moved rope_theta and rope_scaling into rope_parameters; files of both versions say both. Raises
    ConvertError when the two places disagree, or when only a part of each head is rotated.
    """
    older, newer = settings.child("rope_scaling"), settings.child("rope_parameters")
    if older and newer and _scaling(older) != _scaling(newer):
        raise _contradiction(settings, "rope_scaling", older.values, "rope_parameters", newer.values)
    rope = newer or older or Settings({}, settings.file)
    for place in (settings, rope):
        share = place.values.get("partial_rotary_factor")
        if share not in (None, 1):
            raise ConvertError(
                f"{settings.file}: partial_rotary_factor is {share!r}, expected 1 for LlamaForCausalLM",
                "llama.cpp would rotate the whole of each head",
            )
    thetas = [place.values["rope_theta"] for place in (rope, settings) if place.values.get("rope_theta") is not None]
    if len(thetas) > 1 and thetas[0] != thetas[1]:
        raise _contradiction(settings, "rope_theta", thetas[1], "that of rope_parameters", thetas[0])
    return Settings({**rope.values, "rope_theta": thetas[0] if thetas else None}, settings.file)


def _rope_type(rope: Settings) -> Any:
    return rope.values.get("rope_type", rope.values.get("type", "default"))


def _scaling(rope: Settings) -> dict[str, Any]:
    """The values that scale positions, under one name for the type; rope_theta is compared on its own."""
    others = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    values = {key: value for key, value in rope.values.items() if key not in others and value is not None}
    return {**values, "rope_type": _rope_type(rope)}


def _contradiction(settings: Settings, key: str, value: Any, other: str, other_value: Any) -> ConvertError:
    return ConvertError(
        f"{settings.file}: {key} is {value!r}, but {other} is {other_value!r}, expected the same",
        "remove the wrong one from the file; the model's page or paper says which it is",
    )


def _llama3_factors(rope: Settings, theta: float, head_dim: int) -> np.ndarray:
    """float32 [head_dim / 2]: what llama.cpp divides each rotary frequency by.

    Llama 3.1's rule: wavelengths shorter than original / high_freq_factor stay, longer than original /
    low_freq_factor are divided by `factor`, those between are blended linearly in original / wavelength.
    """
    factor = rope.positive("factor")
    low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
    original = rope.integer("original_max_position_embeddings")
    if high <= low:
        found = f"high_freq_factor is {high}, expected more than low_freq_factor {low}"
        raise ConvertError(f"{rope.file}: {found}", _DAMAGED)
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    blend = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


def _refuse_unless(file: Path, key: str, found: Any, *supported: str) -> None:
    if found not in supported:
        raise ConvertError(
            f"{file}: {key} {found!r} is not supported for LlamaForCausalLM, expected {' or '.join(supported)}",
            "llama.cpp would compute something else without an error",
        )
