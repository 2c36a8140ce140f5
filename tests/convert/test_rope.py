"""Settings of RoPE: YaRN, LongRoPE, rotated shares and the spellings of Gemma 3."""

import math

import pytest

from support.family_configs import LONGROPE, QWEN35, YARN, family, written
from tmac.convert.architectures import ARCHITECTURES

# The factor of YaRN on cosines and sines that llama.cpp takes by itself, as transformers does.
OWN = 0.1 * math.log(4.0) + 1


@pytest.mark.parametrize("name", ["Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3_5ForCausalLM"])
def test_families_that_have_yarn(name):
    metadata = written(name, rope_parameters={**YARN, "rope_theta": 1e4})
    assert (metadata["rope_scaling_type"].value, metadata["rope_scaling_factor"]) == ("yarn", 4.0)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - QWEN35 - {"Phi3ForCausalLM"}))
def test_families_that_have_linear_scaling(name):
    metadata = written(name, rope_scaling={"type": "linear", "factor": 2.0})
    assert (metadata["rope_scaling_type"].value, metadata["rope_scaling_factor"]) == ("linear", 2.0)


def test_yarn():
    metadata = written("Qwen2ForCausalLM", rope_scaling={**YARN, "attention_factor": 0.1 * math.log(4.0) + 1})
    assert metadata["rope_scaling_type"].value == "yarn"
    assert (metadata["rope_scaling_factor"], metadata["rope_scaling_orig_ctx_len"]) == (4.0, 1024)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, OWN),
        ({"mscale": 0.7}, OWN),
        ({"mscale_all_dim": 0.7}, OWN),
        ({"mscale": 0.7, "mscale_all_dim": 0}, OWN),
        ({"attention_factor": 1.0, "mscale": 2, "mscale_all_dim": 3}, 1.0),
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, (0.0707 * math.log(4) + 1) / OWN),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"attention_factor": round(OWN, 7)}, OWN),
        ({"factor": 1.0, "attention_factor": 0.8}, 0.8),
        ({"factor": 1.5, "attention_factor": 0.8}, 0.8),
    ],
)
def test_attention_factor_of_yarn(settings, expected):
    """llama.cpp multiplies its own factor, 0.1 ln(factor) + 1, by the key; the product is transformers' factor.

    That is attention_factor, else the quotient of the two, else its own, which is the same as llama.cpp's.
    """
    metadata = written("Qwen2ForCausalLM", rope_scaling={**YARN, **settings})
    own = 0.1 * math.log(settings.get("factor", 4.0)) + 1
    assert metadata.get("rope_scaling_attn_factors", 1.0) * own == pytest.approx(expected)
    assert ("rope_scaling_attn_factors" in metadata) == (expected != own)


@pytest.mark.parametrize(
    ("settings", "fast", "slow"),
    [
        ({}, None, None),
        ({"beta_fast": 32, "beta_slow": 1}, None, None),
        ({"beta_fast": 16.0, "beta_slow": None}, 16.0, 1.0),
        ({"beta_slow": 2}, 32.0, 2.0),
    ],
)
def test_betas_of_yarn(settings, fast, slow):
    """Both keys, unless both are what llama.cpp takes by itself."""
    metadata = written("Qwen2ForCausalLM", rope_scaling={**YARN, **settings})
    found = (metadata.get("rope_scaling_yarn_beta_fast"), metadata.get("rope_scaling_yarn_beta_slow"))
    assert found == (fast, slow)


def test_yarn_without_its_original_context():
    """As in transformers, it defaults to the model's present context."""
    metadata = written("Qwen3ForCausalLM", rope_scaling={"type": "yarn", "factor": 2.0})
    assert metadata["rope_scaling_orig_ctx_len"] == 4096


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_longrope(kind):
    """Factors become tensors; an attention factor is taken as it is. The first files called it su."""
    changes = {"rope_scaling": {**LONGROPE, "type": kind}, "original_max_position_embeddings": 1024}
    constants = family("Phi3ForCausalLM", **changes).constants()
    assert {name: values.tolist() for name, values in constants.items()} == {
        "rope_factors_long.weight": [2.0] * 8,
        "rope_factors_short.weight": [1.0] * 8,
    }
    given = {**changes["rope_scaling"], "attention_factor": 1.5}
    assert written("Phi3ForCausalLM", **{**changes, "rope_scaling": given})["rope_scaling_attn_factors"] == 1.5


def test_phi3_without_an_original_context():
    """As in transformers' configuration: 4096, however long the context is."""
    assert written("Phi3ForCausalLM", max_position_embeddings=8192)["rope_scaling_orig_ctx_len"] == 4096


@pytest.mark.parametrize(("long", "factor"), [(4096, 4), (1536, 1.5), (1024, 1), (512, 1)])
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_attention_factor_of_longrope(long, factor, place):
    """sqrt(1 + ln(long / original) / ln(original)), and 1 for a context that is not longer.

    The original context stands beside the settings of RoPE, or, as transformers 5 reads it, among them.
    """
    original = {"original_max_position_embeddings": 1024}
    changes = {"max_position_embeddings": long, "rope_scaling": LONGROPE}
    if place == "beside":
        changes |= original
    else:
        changes["rope_scaling"] = {**LONGROPE, **original}
    metadata = written("Phi3ForCausalLM", **changes)
    assert metadata["rope_scaling_orig_ctx_len"] == 1024
    expected = math.sqrt(1 + math.log(factor) / math.log(1024))
    assert metadata["rope_scaling_attn_factors"] == pytest.approx(expected)
    assert any("rotates every text as a long one" in note for note in family("Phi3ForCausalLM", **changes).notes) == (
        long > 1024
    )


@pytest.mark.parametrize("share", [0.75, 0.8])
def test_partial_rotation_of_phi3(share):
    """12 of 16 elements: rounded down, as in transformers."""
    assert written("Phi3ForCausalLM", partial_rotary_factor=share)["rope_dimension_count"] == 12


def test_rope_of_gemma3_in_each_spelling():
    old = {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        }
    }
    both = {"rope_parameters": {**old["rope_scaling"], "rope_theta": 5e5}, "rope_local_base_freq": 2e4}
    for other in (new, both):
        assert written("Gemma3ForCausalLM", **old) == written("Gemma3ForCausalLM", **other)
    metadata = written("Gemma3ForCausalLM")
    assert (metadata["rope_freq_base"], metadata["gemma3.rope.freq_base_swa"]) == (1e6, 1e4)
