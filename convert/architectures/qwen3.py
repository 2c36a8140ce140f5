"""Qwen3ForCausalLM as llama.cpp's `qwen3` architecture: Qwen2 with norms of queries and keys, one per head."""

from __future__ import annotations

from collections.abc import Iterator

import gguf

from .part import Part
from .qwen2 import Qwen2Architecture


class Qwen3Architecture(Qwen2Architecture):
    family = "Qwen3ForCausalLM"
    model = gguf.MODEL_ARCH.QWEN3
    defaults = {**Qwen2Architecture.defaults, "head_dim": 128}
    unscaled = ()
    heads_fill_hidden = False

    def attention_parts(self, attention: str) -> Iterator[Part]:
        yield from super().attention_parts(attention)
        yield self.norm(f"{attention}.q_norm", self.head_dim)
        yield self.norm(f"{attention}.k_norm", self.head_dim)
