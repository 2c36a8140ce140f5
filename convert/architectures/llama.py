"""LlamaForCausalLM (Llama 1, 2, 3.x and the many models of that shape) as llama.cpp's `llama` architecture.

Biases of all linear layers are kept. `pretraining_tp` only cuts the products into slices and changes no result.
"""

from __future__ import annotations

import gguf

from .decoder import DecoderArchitecture


class LlamaArchitecture(DecoderArchitecture):
    family = "LlamaForCausalLM"
    model = gguf.MODEL_ARCH.LLAMA
    rope_types = ("default", "linear", "llama3", "yarn")
    rotates_pairs = True
