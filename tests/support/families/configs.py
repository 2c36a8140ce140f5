"""A tiny configuration for each of many families, in the words of transformers' own configuration classes.

`ARCHITECTURE: Family(...)`; BASE holds for all that know its keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Kinds of vocabularies: tokens of bytes, SentencePiece's file, and its pieces in tokenizer.json.
BYTES, SENTENCEPIECE, PIECES = "bytes", "sentencepiece", "pieces"
# How many tokens that of SentencePiece has, and the others.
SENTENCEPIECES, VOCABULARY = 1024, 384
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
ROUTED = {
    **EXPERTS,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
ROUTED.pop("num_experts")
MLA = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "head_dim": 32,
    "num_hidden_layers": 4,
}
MROPE = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
    "mrope_interleaved": True,
    "mrope_section": [2, 1, 1],
}


@dataclass(frozen=True)
class Family:
    """`config`: what differs from BASE.

    text       the same of a text part inside the whole
    besides    what published files of the family have in config.json, and transformers no longer writes
    tokenizer  what kind of vocabulary the family has
    arguments  for llama.cpp's converter
    as_written whether that must read config.json itself, without transformers
    """

    config: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] | None = None
    besides: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = BYTES
    arguments: tuple[str, ...] = ()
    as_written: bool = False


FAMILIES: dict[str, Family] = {
    "ApertusForCausalLM": Family(),
    "ArceeForCausalLM": Family(),
    "AfmoeForCausalLM": Family(
        {
            **EXPERTS,
            "num_dense_layers": 1,
            "head_dim": 16,
            "num_shared_experts": 1,
            "global_attn_every_n_layers": 2,
            "sliding_window": 64,
        }
    ),
    "BambaForCausalLM": Family(
        {
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_expand": 2,
            "attn_layer_indices": [1],
        }
    ),
    "CohereForCausalLM": Family({"tie_word_embeddings": True}),
    "Cohere2ForCausalLM": Family(
        {"sliding_window": 64, "tie_word_embeddings": True, "head_dim": 16, "num_hidden_layers": 4},
        besides={"rotary_pct": 1.0},
    ),
    "DeepseekV2ForCausalLM": Family({**ROUTED, **MLA, "num_key_value_heads": 4, "topk_method": "greedy"}),
    "DeepseekV3ForCausalLM": Family({**ROUTED, **MLA, "num_key_value_heads": 4}),
    "Ernie4_5ForCausalLM": Family({"head_dim": 16}, tokenizer=SENTENCEPIECE),
    "Ernie4_5_MoeForCausalLM": Family(
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 64,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        },
        tokenizer=SENTENCEPIECE,
    ),
    "Exaone4ForCausalLM": Family({"sliding_window": 64, "num_hidden_layers": 4, "head_dim": 16}),
    "FalconH1ForCausalLM": Family(
        {
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_d_ssm": 128,
            "head_dim": 16,
            # As published: constants that the converter multiplies weights by.
            "mlp_multipliers": [0.88, 0.18],
            "key_multiplier": 0.39,
            "attention_in_multiplier": 1.5,
            "attention_out_multiplier": 0.94,
            "ssm_in_multiplier": 1.25,
            "ssm_out_multiplier": 0.24,
            "ssm_multipliers": [0.35, 0.25, 0.18, 0.5, 0.31],
            "lm_head_multiplier": 0.08,
            "embedding_multiplier": 5.6,
        }
    ),
    "GemmaForCausalLM": Family({"tie_word_embeddings": True, "head_dim": 32}, tokenizer=SENTENCEPIECE),
    "Gemma3nForCausalLM": Family(
        {
            "tie_word_embeddings": True,
            "head_dim": 32,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 256,
            "altup_num_inputs": 4,
            "num_kv_shared_layers": 0,
            "laurel_rank": 64,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 64,
            "activation_sparsity_pattern": [0.0, 0.0],
            "intermediate_size": [128, 128],
        }
    ),
    "Gemma4ForCausalLM": Family(
        {
            "tie_word_embeddings": True,
            "head_dim": 32,
            "global_head_dim": 64,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 32,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 64,
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        tokenizer=PIECES,
    ),
    "Glm4ForCausalLM": Family({"head_dim": 16}),
    "Glm4MoeForCausalLM": Family({**ROUTED, "head_dim": 16, "use_qk_norm": True}, arguments=("--no-mtp",)),
    "Glm4MoeLiteForCausalLM": Family({**ROUTED, **MLA, "num_key_value_heads": 4}, arguments=("--no-mtp",)),
    "GptOssForCausalLM": Family(
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 64}
    ),
    "GraniteForCausalLM": Family(
        {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22, "attention_multiplier": 0.25}
    ),
    "GraniteMoeForCausalLM": Family({"num_local_experts": 4, "num_experts_per_tok": 2}),
    "GraniteMoeHybridForCausalLM": Family(
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "layer_types": ["mamba", "attention"],
            "position_embedding_type": None,
        },
        # transformers spells these anew, also when it reads them.
        besides={"layer_types": ["mamba", "attention"]},
        as_written=True,
    ),
    "GraniteMoeSharedForCausalLM": Family(
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 64}
    ),
    "HunYuanDenseV1ForCausalLM": Family({"head_dim": 16}),
    "Jais2ForCausalLM": Family(),
    "JambaForCausalLM": Family(
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_offset": 1,
            "attn_layer_period": 2,
            "expert_layer_offset": 1,
            "expert_layer_period": 2,
            "mamba_d_state": 16,
            "mamba_dt_rank": 32,
            "use_mamba_kernels": False,
        },
        tokenizer=SENTENCEPIECE,
    ),
    "LagunaForCausalLM": Family(),
    "Lfm2ForCausalLM": Family(
        {"layer_types": ["conv", "full_attention"], "block_ff_dim": 128, "block_auto_adjust_ff_dim": False}
    ),
    "Lfm2MoeForCausalLM": Family(
        {**EXPERTS, "tie_word_embeddings": True, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}
    ),
    "MambaForCausalLM": Family({"state_size": 16, "use_mambapy": False}),
    "Mamba2ForCausalLM": Family({"state_size": 16, "num_heads": 32, "head_dim": 4, "n_groups": 1}),
    "MiniCPM3ForCausalLM": Family(
        {**MLA, "num_key_value_heads": 4, "qk_nope_head_dim": 16, "v_head_dim": 16}, tokenizer=SENTENCEPIECE
    ),
    "MiniMaxM2ForCausalLM": Family(
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "rotary_dim": 8},
        besides={"scoring_func": "sigmoid"},
    ),
    "Ministral3ForCausalLM": Family({"head_dim": 16}),
    "NemotronForCausalLM": Family({"head_dim": 16}, tokenizer=SENTENCEPIECE),
    "OlmoForCausalLM": Family(),
    "Olmo2ForCausalLM": Family(),
    "Olmo3ForCausalLM": Family({"num_hidden_layers": 4, "sliding_window": 64}),
    "PhiForCausalLM": Family({"num_key_value_heads": 4, "intermediate_size": 256}),
    "PhimoeForCausalLM": Family(
        {"num_local_experts": 4, "lm_head_bias": True, "attention_bias": True},
        besides={"architectures": ["PhiMoEForCausalLM"], "original_max_position_embeddings": 256},
        tokenizer=SENTENCEPIECE,
    ),
    "Qwen2VLForConditionalGeneration": Family(
        text={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
    ),
    "Qwen3NextForCausalLM": Family(
        {**EXPERTS, **DELTA, "shared_expert_intermediate_size": 64}, arguments=("--no-mtp",)
    ),
    "Qwen3_5MoeForCausalLM": Family(
        {**EXPERTS, **DELTA, "shared_expert_intermediate_size": 64, "rope_parameters": MROPE}, arguments=("--no-mtp",)
    ),
    "SeedOssForCausalLM": Family({"head_dim": 16}),
    "SmolLM3ForCausalLM": Family({"no_rope_layers": [1, 0]}),
    "SolarOpenForCausalLM": Family({**ROUTED, "first_k_dense_replace": 0, "head_dim": 16}),
    "StableLmForCausalLM": Family(),
    "Starcoder2ForCausalLM": Family(),
    "YoutuForCausalLM": Family({**MLA, "num_key_value_heads": 4}),
    "HYV3ForCausalLM": Family({**EXPERTS, "head_dim": 16}),
    "Cohere2MoeForCausalLM": Family({**EXPERTS, "head_dim": 16}),
    "ExaoneMoeForCausalLM": Family(ROUTED, besides={"scoring_func": "sigmoid"}),
}


_NO_CLASS = "transformers has no class of its own for it"
_SIZES = "llama.cpp aborts on the file of its own converter: its graph wants other sizes than so small ones"
# Families that are not in the list, and why.
LEFT_OUT = {
    "BailingMoeV2ForCausalLM": _NO_CLASS,
    "BloomForCausalLM": _SIZES,
    "DbrxForCausalLM": "transformers 5 cannot read the configuration that it writes itself (rope_theta)",
    "Dots1ForCausalLM": "transformers writes no scoring function, and llama.cpp aborts without one",
    "FalconForCausalLM": "the converter wants n_head_kv, which transformers 5 no longer writes",
    "GPT2LMHeadModel": "the converter wants n_ctx, which transformers 5 no longer writes",
    "GPTBigCodeForCausalLM": _SIZES,
    "GPTNeoXForCausalLM": "the converter wants rotary_pct, which transformers 5 no longer writes",
    "GlmForCausalLM": _SIZES,
    "HunYuanMoEV1ForCausalLM": "the converter wants the checkpoint's own code for its vocabulary, which is never run",
    "InternLM3ForCausalLM": _NO_CLASS,
    "KimiLinearForCausalLM": "the converter does not know the names that transformers 5 gives to its experts",
    "Llama4ForCausalLM": _SIZES,
    "MellumForCausalLM": _SIZES,
    "MiMoV2ForCausalLM": _NO_CLASS,
    "MiniCPMForCausalLM": _NO_CLASS,
    "NemotronHForCausalLM": "the converter does not know the kinds of layers that transformers 5 writes",
    "Qwen3VLForConditionalGeneration": _SIZES,
    "Step3p5ForCausalLM": _NO_CLASS,
    "XverseForCausalLM": _NO_CLASS,
}
