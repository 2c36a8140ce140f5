"""Gemma2ForCausalLM as llama.cpp's `gemma2` architecture.

The checkpoint's norms hold w for a factor of 1 + w. Layers 0, 2, 4, ... have a sliding window, the others have not.
The head is always the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gguf

from .decoder import FEED_FORWARD, QKV, DecoderArchitecture
from .part import Part
from .windows import every, sliding_layers


class GemmaArchitecture(DecoderArchitecture):
    """What Gemma 2 and 3 share."""

    activation_key = "hidden_activation"
    hidden_acts = ("gelu_pytorch_tanh",)
    tied_by_default = True
    biased = QKV
    unscaled = FEED_FORWARD
    # One in so many layers has no window.
    pattern: ClassVar[int]
    # The number of layers by which llama.cpp recognises the largest model.
    largest_layers: ClassVar[int]

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        self.refuse_unless("use_bidirectional_attention", config.get("use_bidirectional_attention"), None, False)
        self.refuse_unless("query_pre_attn_scalar", self.settings.positive("query_pre_attn_scalar"), self._scalar())
        self.usual_sliding = every(self.pattern, self.layers)
        self.sliding = sliding_layers(self.settings, self.layers, self.usual_sliding)
        self.window = self.settings.integer("sliding_window")

    def norm(self, source: str, size: int = 0, **options) -> Part:
        return super().norm(source, size, offset=1.0, **options)

    def layer_parts(self, layer: int, block: str) -> Iterator[Part]:
        yield self.norm(f"{block}.input_layernorm")
        yield from self.attention_parts(f"{block}.self_attn")
        yield self.norm(f"{block}.post_attention_layernorm")
        yield self.norm(f"{block}.pre_feedforward_layernorm")
        yield from self.feed_forward_parts(layer, f"{block}.mlp")
        yield self.norm(f"{block}.post_feedforward_layernorm")

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        if any(self.sliding):
            writer.add_sliding_window(self.window)
        if self.sliding != self.usual_sliding:
            writer.add_array(f"{self.name}.attention.sliding_window_pattern", self.sliding)

    def _scalar(self) -> float:
        """The square of what llama.cpp divides attention scores by."""
        return float(self.hidden // self.heads if self.layers == self.largest_layers else self.head_dim)


class Gemma2Architecture(GemmaArchitecture):
    family = "Gemma2ForCausalLM"
    model = gguf.MODEL_ARCH.GEMMA2
    defaults = {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    head_is_embedding = True
    ties = (True,)
    pattern = 2
    largest_layers = 46

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        self.attention_cap = self.settings.positive("attn_logit_softcapping")
        self.final_cap = self.settings.positive("final_logit_softcapping")

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        writer.add_attn_logit_softcapping(self.attention_cap)
        writer.add_final_logit_softcapping(self.final_cap)
