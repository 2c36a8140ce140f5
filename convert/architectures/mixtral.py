"""MixtralForCausalLM as llama.cpp's `llama` architecture, with experts."""

from __future__ import annotations

from collections.abc import Iterator

from .experts import ExpertsArchitecture
from .mistral import MistralArchitecture
from .part import Part


class MixtralArchitecture(ExpertsArchitecture, MistralArchitecture):
    family = "MixtralForCausalLM"
    defaults = {
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    default_theta = 1000000.0
    count_keys = ("num_local_experts", "num_experts")
    width_key = "intermediate_size"
    matrices = ("w1", "w3", "w2")
    # As transformers does, whatever the configuration says.
    normalizes = True
    says_routing = False

    def feed_forward_parts(self, layer: int, mlp: str) -> Iterator[Part]:
        return super().feed_forward_parts(layer, mlp.removesuffix("mlp") + "block_sparse_moe")
