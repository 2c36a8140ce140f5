"""Qwen2ForCausalLM (Qwen 1.5, 2, 2.5, QwQ) as llama.cpp's `qwen2` architecture, which has no sliding window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

from .decoder import FEED_FORWARD, QKV, DecoderArchitecture


class Qwen2Architecture(DecoderArchitecture):
    family = "Qwen2ForCausalLM"
    model = gguf.MODEL_ARCH.QWEN2
    defaults = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096}
    rope_types = ("default", "linear", "yarn")
    biased = QKV
    unscaled = FEED_FORWARD
    heads_fill_hidden = True

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        used = self.settings.values.get("use_sliding_window")
        self.refuse_unless("use_sliding_window", used, None, False, True)
        if used:
            self.note_window(self.settings.optional_integer("sliding_window"))
