"""Qwen2MoeForCausalLM (Qwen1.5-MoE, Qwen2-57B-A14B) as llama.cpp's `qwen2moe` architecture: a shared expert, gated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf

from .experts import ExpertsArchitecture
from .part import Kind, Part
from .qwen2 import Qwen2Architecture


class Qwen2MoeArchitecture(ExpertsArchitecture, Qwen2Architecture):
    family = "Qwen2MoeForCausalLM"
    model = gguf.MODEL_ARCH.QWEN2MOE
    defaults = {
        **Qwen2Architecture.defaults,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    }
    normalizes = False
    ties = (False,)

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        self.shared_width = self.settings.integer("shared_expert_intermediate_size")

    def feed_forward_parts(self, layer: int, mlp: str) -> Iterator[Part]:
        yield from super().feed_forward_parts(layer, mlp)
        yield self.part(Kind.ROUTER, f"{mlp}.shared_expert_gate", 1, self.hidden)
        yield from self.gated_parts(f"{mlp}.shared_expert", self.shared_width)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        writer.add_expert_shared_feed_forward_length(self.shared_width)
