"""A tiny model of every family, which tiny_checkpoints.py writes."""

from __future__ import annotations

from dataclasses import replace

from support.tiny_checkpoints import Tiny

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


def attention(head_dim: int = 32, heads: int = 4, kv_heads: int = 2, hidden: int = 128) -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (heads * head_dim, hidden),
        "self_attn.k_proj": (kv_heads * head_dim, hidden),
        "self_attn.v_proj": (kv_heads * head_dim, hidden),
        "self_attn.o_proj": (hidden, heads * head_dim),
    }


def gated(prefix: str = "mlp", width: int = 192) -> dict[str, tuple[int, int]]:
    return {
        f"{prefix}.gate_proj": (width, 128),
        f"{prefix}.up_proj": (width, 128),
        f"{prefix}.down_proj": (128, width),
    }


NORMS = {"input_layernorm": 128, "post_attention_layernorm": 128}
GEMMA_NORMS = {**NORMS, "pre_feedforward_layernorm": 128, "post_feedforward_layernorm": 128}
HEAD_NORMS = {"self_attn.q_norm": 64, "self_attn.k_norm": 64}
QKV_BIASES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ALL_BIASES = (*QKV_BIASES, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PHI3_LINEAR = {
    "self_attn.qkv_proj": (256, 128),
    "self_attn.o_proj": (128, 128),
    "mlp.gate_up_proj": (384, 128),
    "mlp.down_proj": (128, 192),
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
# Blends frequencies 3 to 11 of the 32 of a head, where 32 and 1 blend 0 to 6.
YARN_BETAS = {**YARN, "beta_fast": 2.0, "beta_slow": 0.25}
# Partial rotation: 24 of 32 elements of a head, so 12 frequencies.
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + i / 16 for i in range(12)],
    "long_factor": [1.0 + i * i / 4 for i in range(12)],
}
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    **GEMMA,
    "head_dim": 64,
    "sliding_window": 8,
    "query_pre_attn_scalar": 64,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    **GEMMA,
    "head_dim": 64,
    "sliding_window": 8,
    "query_pre_attn_scalar": 64,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
PHI3_LONG = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "sliding_window": None,
    "tie_word_embeddings": True,
    "partial_rotary_factor": 0.75,
    "rope_scaling": LONGROPE,
}
# Of delta nets: 2 groups of keys, 6 value heads, all of 32.
_CHANNELS, _VALUES = 2 * 2 * 32 + 6 * 32, 6 * 32
DELTA_LINEAR = {
    "linear_attn.in_proj_qkv": (_CHANNELS, 128),
    "linear_attn.in_proj_z": (_VALUES, 128),
    "linear_attn.out_proj": (128, _VALUES),
}
DELTA_FLOATS = {"linear_attn.in_proj_a": (6, 128), "linear_attn.in_proj_b": (6, 128)}
DELTA_VALUES = {
    "linear_attn.A_log": ((6,), 1.0),
    "linear_attn.dt_bias": ((6,), 1.0),
    "linear_attn.conv1d.weight": ((_CHANNELS, 1, 4), 0.5),
}
DELTA_NET = {**DELTA_LINEAR, **DELTA_FLOATS, **DELTA_VALUES, "linear_attn.norm": 32}
# Queries have a gate each.
QWEN35_ATTENTION = {
    **attention(),
    "self_attn.q_proj": (2 * 4 * 32, 128),
    "self_attn.q_norm": 32,
    "self_attn.k_norm": 32,
}
QWEN35 = Tiny(
    "qwen35",
    {
        "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_text",
        "head_dim": 32,
        "num_hidden_layers": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "mtp_num_hidden_layers": 1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
        },
    },
    {**DELTA_LINEAR, **{name: shape for name, shape in QWEN35_ATTENTION.items() if "proj" in name}, **gated()},
    {**NORMS, "self_attn.q_norm": 32, "self_attn.k_norm": 32},
    floats=DELTA_FLOATS,
    only=dict.fromkeys(DELTA_NET, (0, 1, 2)) | dict.fromkeys(QWEN35_ATTENTION, (3,)),
    plain_norms={"linear_attn.norm": 32},
    values=DELTA_VALUES,
    drafts=True,
    offset=1.0,
)
MODELS = [
    Tiny(
        "llama",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": 48,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_theta": 500000.0,
            "rope_scaling": LLAMA3,
            "pretraining_tp": 2,
        },
        {**attention(48), **gated()},
        NORMS,
        ALL_BIASES,
    ),
    Tiny(
        "mistral",
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": 64,
            "head_dim": 32,
            "rope_theta": 1000000.0,
        },
        {**attention(), **gated()},
        NORMS,
        bits=2,
        group=64,
    ),
    Tiny(
        "qwen2",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "tie_word_embeddings": True,
            "rope_theta": 1000000.0,
            "use_sliding_window": False,
            "sliding_window": 8,
            "max_window_layers": 1,
        },
        {**attention(), **gated()},
        NORMS,
        QKV_BIASES,
    ),
    Tiny(
        "qwen2-yarn",
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_scaling": YARN},
        {**attention(), **gated()},
        NORMS,
        QKV_BIASES,
        bits=2,
        group=64,
    ),
    Tiny(
        "qwen3-yarn-betas",
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64, "rope_scaling": YARN_BETAS},
        {**attention(64), **gated()},
        {**NORMS, **HEAD_NORMS},
    ),
    Tiny(
        "qwen3",
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64},
        {**attention(64), **gated()},
        {**NORMS, **HEAD_NORMS},
    ),
    Tiny(
        "phi3",
        {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "sliding_window": 63,
            "rope_scaling": None,
            "original_max_position_embeddings": 128,
        },
        PHI3_LINEAR,
        NORMS,
    ),
    Tiny("phi3-long", {**PHI3_LONG, "original_max_position_embeddings": 32}, PHI3_LINEAR, NORMS),
    Tiny(
        "phi3-short",
        {**PHI3_LONG, "max_position_embeddings": 1024, "original_max_position_embeddings": 256},
        PHI3_LINEAR,
        NORMS,
        bits=2,
        group=64,
        arguments=("-c", "256"),
    ),
    Tiny("gemma2", GEMMA2, {**attention(64), **gated()}, GEMMA_NORMS, offset=1.0, embedding=0.125, space_prefix=False),
    Tiny(
        "gemma3",
        {**GEMMA3, "num_hidden_layers": 6},
        {**attention(64), **gated()},
        {**GEMMA_NORMS, **HEAD_NORMS},
        offset=1.0,
        embedding=0.25,
        space_prefix=False,
    ),
    Tiny(
        "gemma3-layer-types",
        {**GEMMA3, "layer_types": ["full_attention", "sliding_attention"]},
        {**attention(64), **gated()},
        {**GEMMA_NORMS, **HEAD_NORMS},
        offset=1.0,
        embedding=0.25,
        space_prefix=False,
        converter=False,
    ),
    Tiny(
        "mixtral",
        {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "intermediate_size": 64,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": None,
        },
        attention(),
        NORMS,
        floats={"block_sparse_moe.gate": (8, 128)},
        experts={
            "block_sparse_moe.experts.{}.w1": (64, 128),
            "block_sparse_moe.experts.{}.w2": (128, 64),
            "block_sparse_moe.experts.{}.w3": (64, 128),
        },
    ),
    Tiny(
        "qwen2moe",
        {
            "architectures": ["Qwen2MoeForCausalLM"],
            "model_type": "qwen2_moe",
            **EXPERTS,
            "norm_topk_prob": False,
            "shared_expert_intermediate_size": 96,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "num_experts": 6,
            "num_experts_per_tok": 3,
        },
        {**attention(), **gated("mlp.shared_expert", 96)},
        NORMS,
        QKV_BIASES,
        gated("mlp.experts.{}", 64),
        {"mlp.gate": (6, 128), "mlp.shared_expert_gate": (1, 128)},
    ),
    Tiny(
        "qwen3moe",
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            **EXPERTS,
            "norm_topk_prob": True,
            "head_dim": 64,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        attention(64),
        {**NORMS, **HEAD_NORMS},
        (),
        gated("mlp.experts.{}", 64),
        {"mlp.gate": (8, 128)},
        bits=2,
        group=64,
    ),
    Tiny(
        "olmoe",
        {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            **EXPERTS,
            "norm_topk_prob": False,
            "intermediate_size": 64,
            "num_key_value_heads": 4,
            "clip_qkv": None,
        },
        attention(kv_heads=4),
        {**NORMS, "self_attn.q_norm": 128, "self_attn.k_norm": 128},
        (),
        gated("mlp.experts.{}", 64),
        {"mlp.gate": (8, 128)},
    ),
    QWEN35,
    # Heads of 32 in groups of 64 columns, which cannot be moved as a whole.
    replace(
        QWEN35,
        name="qwen35-orders",
        config={
            **QWEN35.config,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "tie_word_embeddings": True,
        },
        only=dict.fromkeys(DELTA_NET, (0,)) | dict.fromkeys(QWEN35_ATTENTION, (1,)),
        bits=2,
        group=64,
    ),
]
BY_NAME = {tiny.name: tiny for tiny in MODELS}
