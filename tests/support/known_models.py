"""config.json of well-known models, as published, but for keys that are not read and lists of factors."""

# Keys that are not read, as they stand in most files. (Biases are those that the file has.)
HARMLESS = {
    "_name_or_path": "x",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {},
    "bos_token_id": 1,
    "cache_implementation": "hybrid",
    "embd_pdrop": 0.0,
    "eos_token_id": [1, 2],
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "mlp_bias": False,
    "output_router_logits": False,
    "pad_token_id": None,
    "pretraining_tp": 1,
    "resid_pdrop": 0.0,
    "router_aux_loss_coef": 0.001,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.0",
    "use_cache": True,
}
LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32768,
    "attn_factor": 0.8782488562869419,
}
LINEAR = {"factor": 8.0, "rope_type": "linear"}
LONGROPE = {"type": "longrope", "long_factor": [2.0] * 48, "short_factor": [1.0] * 48}


def sizes(hidden, feed_forward, layers, heads, kv_heads, vocabulary, context):
    return {
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
    }


def llama(*numbers, family="Llama", **others):
    common = {"architectures": [f"{family}ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5}
    return {**HARMLESS, **common, "rope_theta": 10000.0, "tie_word_embeddings": False, **sizes(*numbers), **others}


def qwen(*numbers, family="Qwen3", **others):
    common = {"rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": None, "use_sliding_window": False}
    return llama(*numbers, family=family, **{"rope_scaling": None, **common, **others})


def phi3(*numbers, **others):
    common = {"original_max_position_embeddings": 4096, "rope_scaling": None}
    return llama(*numbers, family="Phi3", **{**common, **others})


def gemma(*numbers, family="Gemma2", **others):
    """tie_word_embeddings is absent."""
    common = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6}
    softcaps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if family == "Gemma3":
        softcaps = {**dict.fromkeys(softcaps), "rope_local_base_freq": 10000, "rope_theta": 1000000}
    config = {"architectures": [f"{family}ForCausalLM"], "head_dim": 256, "query_pre_attn_scalar": 256}
    return {**HARMLESS, **config, **common, **softcaps, **sizes(*numbers), **others}


def gemma3_multimodal(**text):
    """All that 4B, 12B and 27B state about their text part; the rest are transformers' defaults."""
    text = {"model_type": "gemma3_text", "rope_scaling": LINEAR, "sliding_window": 1024, **text}
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106], "image_token_index": 262144}
    return {**whole, "text_config": text, "vision_config": {"hidden_size": 1152}}


def qwen35(*numbers, **others):
    """The settings of its text part, as transformers 5 writes them from the start."""
    rope = {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25}
    net = {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
    layers = numbers[2]
    return {
        **HARMLESS,
        **net,
        **sizes(*numbers),
        "architectures": ["Qwen3_5ForCausalLM"],
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_act": "silu",
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * (layers // 4),
        "linear_num_key_heads": 16,
        "mamba_ssm_dtype": "float32",
        "model_type": "qwen3_5_text",
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {**rope, "mrope_interleaved": True, "mrope_section": [11, 11, 10]},
        **others,
    }


QWEN35_27B = qwen35(5120, 17408, 64, 24, 4, 248320, 262144, linear_num_value_heads=48)
QWEN3_8B = (4096, 12288, 36, 32, 8, 151936)
MODELS = {
    "Llama-3.2-1B": llama(
        2048,
        8192,
        16,
        32,
        8,
        128256,
        131072,
        head_dim=64,
        rope_scaling=LLAMA3,
        rope_theta=5e5,
        tie_word_embeddings=True,
    ),
    "Mistral-7B-v0.1": llama(4096, 14336, 32, 32, 8, 32000, 32768, family="Mistral", sliding_window=4096),
    "Mistral-7B-v0.3": llama(
        4096, 14336, 32, 32, 8, 32768, 32768, family="Mistral", sliding_window=None, head_dim=None, rope_theta=1e6
    ),
    "Mistral-Nemo": llama(
        5120, 14336, 40, 32, 8, 131072, 1024000, family="Mistral", sliding_window=None, head_dim=128, rope_theta=1e6
    ),
    "Qwen2.5-7B": qwen(3584, 18944, 28, 28, 4, 152064, 32768, family="Qwen2", sliding_window=131072),
    "Qwen3-8B": qwen(*QWEN3_8B, 40960, head_dim=128),
    "DeepSeek-R1-0528-Qwen3-8B": qwen(*QWEN3_8B, 131072, head_dim=128, rope_scaling=YARN),
    "Phi-3-mini-4k": phi3(3072, 8192, 32, 32, 32, 32064, 4096, sliding_window=2047),
    "Phi-3-mini-128k": phi3(3072, 8192, 32, 32, 32, 32064, 131072, sliding_window=262144, rope_scaling=LONGROPE),
    "Phi-4": phi3(
        5120,
        17920,
        40,
        40,
        10,
        100352,
        16384,
        original_max_position_embeddings=16384,
        rope_theta=250000,
        sliding_window=None,
    ),
    "Phi-4-mini": phi3(
        3072,
        8192,
        32,
        24,
        8,
        200064,
        131072,
        full_attn_mod=1,
        interpolate_factor=1,
        lm_head_bias=False,
        partial_rotary_factor=0.75,
        rope_scaling=LONGROPE,
        sliding_window=262144,
        tie_word_embeddings=True,
    ),
    "gemma-2-2b": gemma(2304, 9216, 26, 8, 4, 256000, 8192, sliding_window=4096),
    "gemma-2-27b": gemma(
        4608, 36864, 46, 32, 16, 256000, 8192, head_dim=128, query_pre_attn_scalar=144, sliding_window=4096
    ),
    "gemma-3-1b": gemma(
        1152,
        6912,
        26,
        4,
        1,
        262144,
        32768,
        family="Gemma3",
        rope_scaling=None,
        sliding_window=512,
        sliding_window_pattern=6,
    ),
    "gemma-3-270m": gemma(
        640,
        2048,
        18,
        4,
        1,
        262144,
        32768,
        family="Gemma3",
        rope_scaling=None,
        sliding_window=512,
        _sliding_window_pattern=6,
        layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
        use_bidirectional_attention=False,
    ),
    "gemma-3-4b": gemma3_multimodal(hidden_size=2560, intermediate_size=10240, num_hidden_layers=34),
    "gemma-3-27b": gemma3_multimodal(
        hidden_size=5376,
        intermediate_size=21504,
        num_hidden_layers=62,
        num_attention_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        query_pre_attn_scalar=168,
    ),
    "Mixtral-8x7B": llama(
        4096,
        14336,
        32,
        32,
        8,
        32000,
        32768,
        family="Mixtral",
        num_experts_per_tok=2,
        num_local_experts=8,
        rope_theta=1e6,
        sliding_window=None,
    ),
    "Qwen1.5-MoE-A2.7B": qwen(
        2048,
        5632,
        24,
        16,
        16,
        151936,
        8192,
        family="Qwen2Moe",
        decoder_sparse_step=1,
        moe_intermediate_size=1408,
        norm_topk_prob=False,
        num_experts=60,
        num_experts_per_tok=4,
        shared_expert_intermediate_size=5632,
        sliding_window=32768,
    ),
    "Qwen3-30B-A3B": qwen(
        2048,
        6144,
        48,
        32,
        4,
        151936,
        40960,
        family="Qwen3Moe",
        head_dim=128,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        moe_intermediate_size=768,
        norm_topk_prob=True,
        num_experts=128,
        num_experts_per_tok=8,
    ),
    "Qwen3.5-0.8B": qwen35(1024, 3584, 24, 8, 2, 248320, 262144, linear_num_value_heads=16, tie_word_embeddings=True),
    "Qwen3.5-27B": {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": QWEN35_27B,
        "tie_word_embeddings": False,
        "vision_config": {"hidden_size": 1152},
    },
    "Ternary-Bonsai-2-27B-mlx-2bit": {
        "architectures": ["PrismHadamardQwen35ForConditionalGeneration"],
        "model_type": "prism_hadamard_qwen35",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "schema_version": 2,
        "text_config": {**QWEN35_27B, "mtp_num_hidden_layers": 0},
        "vision_config": {"hidden_size": 1152},
    },
    "OLMoE-1B-7B": llama(
        2048,
        1024,
        16,
        16,
        16,
        50304,
        4096,
        family="Olmoe",
        clip_qkv=None,
        norm_topk_prob=False,
        num_experts=64,
        num_experts_per_tok=8,
        rope_scaling=None,
    ),
    "Falcon3-7B-1.58bit": llama(
        3072,
        23040,
        28,
        12,
        4,
        131072,
        32768,
        activation="swiglu",
        head_dim=256,
        rms_norm_eps=1e-6,
        rope_scaling=None,
        rope_theta=1000042,
    ),
    "bitnet-b1.58-2B-4T": llama(
        2560,
        6912,
        30,
        20,
        5,
        128256,
        4096,
        family="BitNet",
        hidden_act="relu2",
        rope_theta=5e5,
        tie_word_embeddings=True,
    ),
    "bitnet_b1_58-3B": llama(
        3200,
        8640,
        26,
        32,
        32,
        32002,
        2048,
        family="Bitnet",
        input_bits=8,
        weight_bits=1,
        rope_scaling=None,
        tie_word_embeddings=True,
    ),
}
