"""Qwen3MoeForCausalLM (Qwen3-30B-A3B, 235B-A22B, Qwen3-Coder) as llama.cpp's `qwen3moe` architecture."""

from __future__ import annotations

import gguf

from .experts import ExpertsArchitecture
from .qwen3 import Qwen3Architecture


class Qwen3MoeArchitecture(ExpertsArchitecture, Qwen3Architecture):
    family = "Qwen3MoeForCausalLM"
    model = gguf.MODEL_ARCH.QWEN3MOE
    # transformers has no default head_dim here, unlike for Qwen3.
    defaults = {
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    }
    normalizes = True
