"""Small configurations of every model family, and what a family makes of one."""

from pathlib import Path

from support.written import Written
from tmac.convert.architectures import ARCHITECTURES

BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16}
QWEN3_MOE = {"norm_topk_prob": True, "head_dim": 16}
QWEN35 = {
    "Qwen3_5ForCausalLM",
    "Qwen3_5ForConditionalGeneration",
    "PrismHadamardQwen35ForConditionalGeneration",
}
NEEDED = {
    "Gemma2ForCausalLM": GEMMA,
    "Gemma3ForCausalLM": GEMMA,
    "Gemma3ForConditionalGeneration": GEMMA,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    **{name: {"tie_word_embeddings": True} for name in ("BitNetForCausalLM", "BitnetForCausalLM")},
}


def family(name, **changes):
    config = {**BASE, **NEEDED.get(name, {}), **changes}
    if name == "Gemma3ForConditionalGeneration":
        config = {"text_config": config}
    return ARCHITECTURES[name](config, Path("config.json"))


def written(name, **changes):
    metadata = Written()
    family(name, **changes).add_metadata(metadata)
    return metadata


def parts(name, **changes):
    return {part.target: part for part in family(name, **changes).parts()}
