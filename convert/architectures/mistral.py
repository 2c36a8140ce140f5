"""MistralForCausalLM (Mistral 7B, Nemo, Small) as llama.cpp's `llama` architecture, which has no sliding window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .llama import LlamaArchitecture


class MistralArchitecture(LlamaArchitecture):
    family = "MistralForCausalLM"
    defaults = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        self.note_window(self.settings.optional_integer("sliding_window"))
