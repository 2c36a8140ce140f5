"""config.json of well-known models, as published and as transformers 5 rewrites it: accepted, and read correctly."""

import math
from pathlib import Path

import pytest

from support.known_models import MODELS
from support.written import Written
from tmac.convert.architectures import ARCHITECTURES

# The expected values of each model beyond its sizes: llama.cpp's architecture, head size, base frequency, and special
# values.
EXPECTED = {
    "Llama-3.2-1B": ("llama", 64, 5e5, {}),
    "Mistral-7B-v0.1": ("llama", 128, 1e4, {}),
    "Mistral-7B-v0.3": ("llama", 128, 1e6, {}),
    "Mistral-Nemo": ("llama", 128, 1e6, {}),
    "Qwen2.5-7B": ("qwen2", 128, 1e6, {}),
    "Qwen3-8B": ("qwen3", 128, 1e6, {}),
    "DeepSeek-R1-0528-Qwen3-8B": ("qwen3", 128, 1e6, {"rope_scaling_factor": 4.0, "rope_scaling_orig_ctx_len": 32768}),
    "Phi-3-mini-4k": ("phi3", 96, 1e4, {"sliding_window": 2047}),
    "Phi-3-mini-128k": (
        "phi3",
        96,
        1e4,
        {"rope_scaling_orig_ctx_len": 4096, "rope_scaling_attn_factors": math.sqrt(1 + math.log(32) / math.log(4096))},
    ),
    "Phi-4": ("phi3", 128, 250000, {"rope_dimension_count": 128, "sliding_window": 0}),
    "Phi-4-mini": ("phi3", 128, 1e4, {"rope_dimension_count": 96, "rope_scaling_orig_ctx_len": 4096}),
    "gemma-2-2b": ("gemma2", 256, 1e4, {"sliding_window": 4096, "attn_logit_softcapping": 50.0}),
    "gemma-2-27b": ("gemma2", 128, 1e4, {"final_logit_softcapping": 30.0}),
    "gemma-3-1b": ("gemma3", 256, 1e6, {"sliding_window": 512, "gemma3.rope.freq_base_swa": 1e4}),
    "gemma-3-270m": ("gemma3", 256, 1e6, {"sliding_window": 512}),
    "gemma-3-4b": (
        "gemma3",
        256,
        1e6,
        {
            "head_count": 8,
            "head_count_kv": 4,
            "vocab_size": 262208,
            "context_length": 131072,
            "rope_scaling_factor": 8.0,
            "sliding_window": 1024,
        },
    ),
    "gemma-3-27b": ("gemma3", 128, 1e6, {"head_count_kv": 16, "rope_scaling_factor": 8.0}),
    "Mixtral-8x7B": ("llama", 128, 1e6, {"expert_count": 8, "expert_used_count": 2}),
    "Qwen1.5-MoE-A2.7B": (
        "qwen2moe",
        128,
        1e6,
        {"expert_count": 60, "expert_feed_forward_length": 1408, "expert_shared_feed_forward_length": 5632},
    ),
    "Qwen3-30B-A3B": ("qwen3moe", 128, 1e6, {"expert_count": 128, "expert_feed_forward_length": 768}),
    "Qwen3.5-0.8B": ("qwen35", 256, 1e7, {"ssm_time_step_rank": 16, "ssm_inner_size": 2048, "block_count": 25}),
    "Qwen3.5-27B": (
        "qwen35",
        256,
        1e7,
        {
            "block_count": 65,
            "nextn_predict_layers": 1,
            "rope_dimension_count": 64,
            "ssm_conv_kernel": 4,
            "ssm_group_count": 16,
            "ssm_inner_size": 6144,
            "ssm_state_size": 128,
            "ssm_time_step_rank": 48,
        },
    ),
    "Ternary-Bonsai-2-27B-mlx-2bit": ("qwen35", 256, 1e7, {"block_count": 64, "ssm_inner_size": 6144}),
    "OLMoE-1B-7B": ("olmoe", 128, 1e4, {"expert_count": 64, "expert_used_count": 8}),
    "Falcon3-7B-1.58bit": ("llama", 256, 1000042, {}),
    "bitnet-b1.58-2B-4T": ("bitnet", 128, 5e5, {"bitnet.hidden_activation": "relu2"}),
    "bitnet_b1_58-3B": ("bitnet", 100, 1e4, {}),
}
# Words of the expected notes, for models that have some.
NOTES = {
    "Mistral-7B-v0.1": ["last 4096 tokens"],
    "Phi-3-mini-4k": ["last 2047 tokens"],
    "DeepSeek-R1-0528-Qwen3-8B": ["attn_factor 0.878"],
    "Phi-3-mini-128k": ["-c 4096"],
    "Phi-4-mini": ["-c 4096"],
    "gemma-3-4b": ["sees images"],
    "gemma-3-27b": ["sees images"],
}
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "head_count",
    "num_key_value_heads": "head_count_kv",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
}


def read(config):
    architecture = ARCHITECTURES[config["architectures"][0]](config, Path("config.json"))
    metadata = Written()
    architecture.add_metadata(metadata)
    return architecture, metadata


def rewritten(config):
    """As transformers 5.23 saves it: RoPE settings in one place, the type of every layer, renamed keys."""
    config = {**config, **({"dtype": config["torch_dtype"]} if "torch_dtype" in config else {})}
    config.pop("torch_dtype", None)
    if "Qwen3_5" in str(config["architectures"]) or "Qwen35" in str(config["architectures"]):
        return config
    if "text_config" in config:
        return {**config, "text_config": rewritten({**config["text_config"], "architectures": ["Gemma3ForCausalLM"]})}
    family, layers = config["architectures"][0], config["num_hidden_layers"]
    old = config.pop("rope_scaling", None) or {}
    rope = {**old, "rope_type": old.get("rope_type", old.get("type", "default"))}
    if "rope_theta" in config:
        rope["rope_theta"] = config.pop("rope_theta")
    config["rope_parameters"] = rope
    if family == "Phi3ForCausalLM":
        both_places = ("original_max_position_embeddings", "partial_rotary_factor")
        rope |= {key: config[key] for key in both_places if key in config}
    if family == "Gemma3ForCausalLM":
        local = {"rope_type": "default", "rope_theta": config.pop("rope_local_base_freq", 10000.0)}
        config["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
        kinds = ["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(layers)]
        config |= {"layer_types": kinds, "_sliding_window_pattern": config.pop("sliding_window_pattern", 6)}
    if family.startswith("Qwen"):
        config |= {"layer_types": ["full_attention"] * layers, "sliding_window": None}
    if family == "Qwen3MoeForCausalLM":
        config["num_local_experts"] = config.pop("num_experts")
    return config


@pytest.mark.parametrize("spelled", [dict, rewritten], ids=["as-published", "as-rewritten"])
@pytest.mark.parametrize("name", MODELS)
def test_known_models(name, spelled):
    """Accepted with only the expected notes, with the sizes of the file and the values that follow from it."""
    config = spelled(MODELS[name])
    architecture, metadata = read(config)
    family, head_dim, theta, particular = EXPECTED[name]
    text = config.get("text_config", config)
    expected = {written: text[key] for key, written in SIZES.items() if key in text}
    expected |= {"key_length": head_dim, "value_length": head_dim, "rope_freq_base": theta, **particular}
    assert architecture.name == family
    assert {key: metadata.get(key) for key in expected} == pytest.approx(expected)
    notes = NOTES.get(name, [])
    assert len(architecture.notes) == len(notes)
    assert all(words in note for words, note in zip(notes, architecture.notes))


@pytest.mark.parametrize("name", MODELS)
def test_both_spellings_mean_the_same(name):
    (old, old_metadata), (new, new_metadata) = read(MODELS[name]), read(rewritten(MODELS[name]))
    assert new_metadata == old_metadata and new.tied_head == old.tied_head
    assert [part.full_shape for part in new.parts()] == [part.full_shape for part in old.parts()]
    constants = {key: values.tolist() for key, values in old.constants().items()}
    assert {key: values.tolist() for key, values in new.constants().items()} == constants


def test_every_family_has_a_known_model():
    tested = {name for config in MODELS.values() for name in config["architectures"]}
    assert tested == ARCHITECTURES.keys() - {"LLaMAForCausalLM"}
