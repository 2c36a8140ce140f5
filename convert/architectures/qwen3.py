"""Qwen3ForCausalLM as llama.cpp's `qwen3` architecture: Qwen2 with norms of queries and keys, one per head."""

from __future__ import annotations

import gguf

from .qwen2 import Qwen2Architecture


class Qwen3Architecture(Qwen2Architecture):
    family = "Qwen3ForCausalLM"
    model = gguf.MODEL_ARCH.QWEN3
    defaults = {**Qwen2Architecture.defaults, "head_dim": 128}
    unscaled = ()
    heads_fill_hidden = False
    normalizes_heads = True
