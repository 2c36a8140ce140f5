"""OlmoeForCausalLM as llama.cpp's `olmoe` architecture: experts, and norms over all queries and all keys at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf

from .decoder import FEED_FORWARD, QKV
from .experts import ExpertsArchitecture
from .part import Part


class OlmoeArchitecture(ExpertsArchitecture):
    family = "OlmoeForCausalLM"
    model = gguf.MODEL_ARCH.OLMOE
    defaults = {
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    }
    biased = QKV
    unscaled = FEED_FORWARD
    heads_fill_hidden = True
    ties = (False,)
    width_key = "intermediate_size"
    normalizes = False

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        self.refuse_unless("clip_qkv", config.get("clip_qkv"), None)
        self.refuse_unless("num_key_value_heads", self.kv_heads, self.heads)

    def attention_parts(self, attention: str) -> Iterator[Part]:
        yield from super().attention_parts(attention)
        yield self.norm(f"{attention}.q_norm")
        yield self.norm(f"{attention}.k_norm")
