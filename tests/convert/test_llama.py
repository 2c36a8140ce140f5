"""The Llama architecture: names, shapes, RoPE, and the configurations that it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest

from tmac.convert.architectures import architecture_for
from tmac.convert.architectures.llama import LlamaArchitecture
from tmac.convert.architectures.rope import pair_row_order
from tmac.convert.sources.checkpoint import Checkpoint

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "rope_theta": 10000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama(**changes):
    return LlamaArchitecture({**CONFIG, **changes}, Path("config.json"))


def test_names_and_shapes():
    """The tensors of one layer and those outside of layers, as llama.cpp's `llama` names them."""
    parts = {part.target: (part.source, part.shape) for part in llama(head_dim=32).parts()}
    assert parts["blk.1.attn_q"] == ("model.layers.1.self_attn.q_proj", (128, 64))
    assert parts["blk.1.attn_k"] == ("model.layers.1.self_attn.k_proj", (64, 64))
    assert parts["blk.1.attn_v"] == ("model.layers.1.self_attn.v_proj", (64, 64))
    assert parts["blk.1.attn_output"] == ("model.layers.1.self_attn.o_proj", (64, 128))
    assert parts["blk.1.ffn_gate"] == ("model.layers.1.mlp.gate_proj", (96, 64))
    assert parts["blk.1.ffn_up"] == ("model.layers.1.mlp.up_proj", (96, 64))
    assert parts["blk.1.ffn_down"] == ("model.layers.1.mlp.down_proj", (64, 96))
    assert parts["blk.1.attn_norm"] == ("model.layers.1.input_layernorm", (64,))
    assert parts["blk.1.ffn_norm"] == ("model.layers.1.post_attention_layernorm", (64,))
    assert parts["token_embd"] == ("model.embed_tokens", (100, 64))
    assert parts["output_norm"] == ("model.norm", (64,))
    assert parts["output"] == ("lm_head", (100, 64))
    assert len(parts) == 3 + 2 * 9


def test_row_order_by_hand():
    """Two heads of 6: the first and second half of each head are interleaved."""
    assert pair_row_order(2, 6).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_row_order_keeps_attention_scores():
    """Rotating halves (transformers) and pairs (llama.cpp) gives equal products, up to float64 rounding."""
    rng = np.random.default_rng(3)
    dim, position_q, position_k = 16, 11, 5
    query, key = rng.standard_normal((2, dim))
    frequencies = 10000.0 ** (-np.arange(0, dim, 2) / dim)

    def halves(x, position):
        a, b, angle = x[: dim // 2], x[dim // 2 :], position * frequencies
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])

    def pairs(x, position):
        a, b, angle = x[0::2], x[1::2], position * frequencies
        return np.stack([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1).reshape(-1)

    order = pair_row_order(1, dim)
    expected = halves(query, position_q) @ halves(key, position_k)
    assert pairs(query[order], position_q) @ pairs(key[order], position_k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
def test_llama3_rope_factors(where):
    """Against the three cases of the rule, computed one frequency at a time (float32 rounding: 1e-6)."""
    theta = 500000.0
    rope = {**LLAMA3, "rope_theta": theta} if where == "rope_parameters" else LLAMA3
    architecture = llama(head_dim=128, rope_theta=theta, **{where: rope})
    factors = architecture.constants()["rope_freqs.weight"]
    expected = []
    for i in range(64):
        wavelength = 2 * math.pi / (1.0 / theta ** (2 * i / 128))
        if wavelength < 8192 / 4.0:
            expected.append(1.0)
        elif wavelength > 8192 / 1.0:
            expected.append(8.0)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append(1.0 / ((1 - smooth) / 8.0 + smooth))
    assert factors.dtype == np.float32 and len(set(expected)) > 4
    assert np.allclose(factors, expected, rtol=1e-6, atol=0)


def test_rope_settings_in_both_places():
    """Accepted: the same scaling in both the old and the new spelling, and an explicit rotation of the whole head."""
    old = {**LLAMA3, "type": "llama3"}
    del old["rope_type"]
    new = {**LLAMA3, "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    both = llama(rope_scaling=old, rope_parameters=new, partial_rotary_factor=1.0)
    expected = llama(rope_scaling=LLAMA3).constants()["rope_freqs.weight"]
    assert np.array_equal(both.constants()["rope_freqs.weight"], expected)


def test_no_rope_factors_without_llama3():
    assert llama().constants() == {}
    assert llama(rope_scaling={"type": "linear", "factor": 2.0}).constants() == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": None}, ["hidden_size is None", "whole number"]),
        ({"hidden_size": 64.0}, ["hidden_size is 64.0"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers is 0", "from 1 to 512"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers is 1000000000", "512"]),
        ({"vocab_size": True}, ["vocab_size is True"]),
        ({"num_key_value_heads": 3}, ["4 heads and 3 key-value heads"]),
        ({"head_dim": 7}, ["head_dim 7", "even"]),
        ({"rms_norm_eps": "x"}, ["rms_norm_eps is 'x'", "above zero"]),
        ({"rope_theta": float("nan")}, ["rope_theta is nan"]),
        ({"rope_theta": -1}, ["rope_theta is -1"]),
        ({"hidden_act": "gelu"}, ["hidden_act 'gelu'", "silu"]),
        ({"rope_scaling": {"rope_type": "su"}}, ["rope_type 'su'", "default or linear or llama3 or yarn"]),
        ({"rope_scaling": {"type": "dynamic"}}, ["rope_type 'dynamic'"]),
        ({"rope_scaling": "linear"}, ["rope_scaling is 'linear'", "object"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor is None"]),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, ["high_freq_factor is 1.0", "more than"]),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": LLAMA3}, ["rope_scaling is", "rope_parameters"]),
        ({"rope_parameters": {**LLAMA3, "factor": 4.0}, "rope_scaling": LLAMA3}, ["expected the same"]),
        ({"rope_parameters": {"rope_theta": 5e5}}, ["rope_theta is 10000.0", "rope_parameters is 500000.0"]),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": "x"}, ["rope_scaling is 'x'", "object"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor is 0.5", "expected 1"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, ["partial_rotary_factor is 0.25"]),
    ],
)
def test_configurations_that_are_refused(refused, changes, words):
    refused(lambda: llama(**changes), "config.json", *words)


@pytest.mark.parametrize("found", [["MambaForCausalLM"], None, "GPT2LMHeadModel", [3]])
def test_unknown_architecture_is_refused_by_name(folder, refused, found):
    folder.config["architectures"] = found
    refused(lambda: architecture_for(Checkpoint(folder.save())), "config.json", repr(found), "LlamaForCausalLM")
