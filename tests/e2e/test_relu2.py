"""llama.cpp's bitnet architecture against a model in numpy: both activation functions, grouped heads, tensor scales."""

import re
from dataclasses import replace

import numpy as np
import pytest

from support.comparison import FLOAT_ATTENTION, nmse
from support.tiny_models import TEXT, VOCABULARY, Model, attention_metadata, logits, random_weight
from tmac.common.errors import TmacError
from tmac.common.format import TERNARY
from tmac.tools.llama.verify import all_logits

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD = 256, 2, 4, 1, 64, 384
KEY = "bitnet.hidden_activation"
ACTIVATIONS = {"silu": lambda x: x / (1 + np.exp(-x)), "relu2": lambda x: np.maximum(x, 0) ** 2}


@pytest.fixture(scope="module")
def model():
    """The bitnet architecture as microsoft/bitnet-b1.58-2B-4T has it, four heads for each of keys and values."""
    rng = np.random.default_rng(11)
    norms = {"output_norm.weight": HIDDEN}
    weights = {}
    for layer in range(LAYERS):
        sizes = {"attn_norm": HIDDEN, "attn_sub_norm": HIDDEN, "ffn_norm": HIDDEN, "ffn_sub_norm": FEED_FORWARD}
        norms |= {f"blk.{layer}.{name}.weight": size for name, size in sizes.items()}
        shapes = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
            "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (FEED_FORWARD, HIDDEN),
            "ffn_up": (FEED_FORWARD, HIDDEN),
            "ffn_down": (HIDDEN, FEED_FORWARD),
        }
        for name, shape in shapes.items():
            weights[f"blk.{layer}.{name}"] = random_weight(rng, TERNARY, *shape)
    arrays = {name: rng.uniform(0.5, 1.5, size).astype(np.float32) for name, size in norms.items()}
    arrays["token_embd.weight"] = rng.standard_normal((VOCABULARY, HIDDEN), np.float32)
    return Model("bitnet", attention_metadata(HIDDEN, LAYERS, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM), arrays, weights)


def computed_by_hand(model, tokens, activation):
    """float64 logits [tokens, vocabulary]."""
    arrays = {name: values.astype(np.float64) for name, values in model.arrays.items()}
    arrays |= {f"{name}.weight": weight.dequantized().astype(np.float64) for name, weight in model.weights.items()}

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * arrays[f"{name}.weight"]

    def product(name, x):
        return x @ arrays[f"{name}.weight"].T

    def heads(x, count):
        return x.reshape(len(tokens), count, HEAD_DIM).swapaxes(0, 1)

    def rotated(x):
        angles = np.arange(len(tokens))[:, None] * 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        first, second = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, first * sin + second * cos], -1)

    x = arrays["token_embd.weight"][tokens]
    for block in (f"blk.{layer}" for layer in range(LAYERS)):
        h = norm(x, f"{block}.attn_norm")
        q = rotated(heads(product(f"{block}.attn_q", h), HEADS))
        k = rotated(heads(product(f"{block}.attn_k", h), KV_HEADS))
        v = heads(product(f"{block}.attn_v", h), KV_HEADS)
        scores = q @ k.repeat(HEADS // KV_HEADS, 0).swapaxes(1, 2) / HEAD_DIM**0.5
        scores = np.exp(np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf))
        attended = scores / scores.sum(-1, keepdims=True) @ v.repeat(HEADS // KV_HEADS, 0)
        h = norm(attended.swapaxes(0, 1).reshape(len(tokens), HIDDEN), f"{block}.attn_sub_norm")
        x = x + product(f"{block}.attn_output", h)
        h = norm(x, f"{block}.ffn_norm")
        h = activation(product(f"{block}.ffn_gate", h)) * product(f"{block}.ffn_up", h)
        x = x + product(f"{block}.ffn_down", norm(h, f"{block}.ffn_sub_norm"))
    return norm(x, "output_norm") @ arrays["token_embd.weight"].T


@pytest.mark.parametrize("said, activation", [("relu2", "relu2"), ("silu", "silu"), (None, "silu")])
def test_logits_are_those_of_the_activation(build, tmp_path, model, said, activation):
    """The key decides between the functions; without it SiLU. For float32 weights and for ternary ones with scales."""
    model = replace(model, strings={} if said is None else {KEY: said})
    floats, ternary = model.write(tmp_path / "floats.gguf", as_floats=True), model.write(tmp_path / "ternary.gguf")
    tokens, found = all_logits(build, floats, TEXT, FLOAT_ATTENTION)
    expected = computed_by_hand(model, tokens, ACTIVATIONS[activation])
    assert nmse(found, expected) < 1e-6
    assert nmse(logits(build, ternary), expected) < 1e-3


def test_unknown_activation_is_refused(build, tmp_path, model):
    path = replace(model, strings={KEY: "gelu"}).write(tmp_path / "model.gguf")
    with pytest.raises(TmacError, match=re.escape("unsupported BitNet hidden activation: gelu")):
        logits(build, path)
