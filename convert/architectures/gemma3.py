"""Gemma3ForCausalLM (the text models) as llama.cpp's `gemma3` architecture.

As Gemma 2, with norms of queries and keys instead of a cap on attention scores. Layers with a sliding window have
their own base frequency of RoPE, without scaling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

from ..settings import Settings
from .gemma2 import GemmaArchitecture
from .rope import rope_type
from .windows import FULL, SLIDING, every

LOCAL_THETA = 10000.0


class Gemma3Architecture(GemmaArchitecture):
    family = "Gemma3ForCausalLM"
    model = gguf.MODEL_ARCH.GEMMA3
    defaults = {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
    }
    default_theta = 1000000.0
    normalizes_heads = True
    pattern = 6
    largest_layers = 62

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        self.refuse_unless("attn_logit_softcapping", config.get("attn_logit_softcapping"), None)
        self.final_cap = None
        if config.get("final_logit_softcapping") is not None:
            self.final_cap = self.settings.positive("final_logit_softcapping")
        if self.settings.values.get("layer_types") is None:
            self.sliding = every(self.settings.integer("sliding_window_pattern", self.pattern), self.layers)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        if self.final_cap is not None:
            writer.add_final_logit_softcapping(self.final_cap)

    def add_rope_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_rope_metadata(writer)
        writer.add_float32(f"{self.name}.rope.freq_base_swa", self.local_theta)

    def _read_rope(self, settings: Settings) -> None:
        """transformers 5 has an object of settings for each of the two kinds of layers."""
        self.local_theta = settings.positive("rope_local_base_freq", LOCAL_THETA)
        both = settings.child("rope_parameters")
        if both and (FULL in both.values or SLIDING in both.values):
            local = both.child(SLIDING) or Settings({}, settings.file)
            self.local_theta = local.positive("rope_theta", self.local_theta)
            self.refuse_unless(f"rope_type of {SLIDING}", rope_type(local), "default")
            settings = Settings({**settings.values, "rope_parameters": both.values.get(FULL)}, settings.file)
        super()._read_rope(settings)
