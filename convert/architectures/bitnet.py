"""BitNet b1.58 with norms inside attention and feed-forward, as llama.cpp's `bitnet` architecture.

1bitLLM's checkpoints call themselves BitnetForCausalLM; transformers and microsoft/bitnet-b1.58-2B-4T say
BitNetForCausalLM. The two differ in the names of two norms and in the default activation function.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from .decoder import DecoderArchitecture
from .part import Kind, Part

# Without this key llama.cpp computes SiLU. A patch of ours reads it.
ACTIVATION_KEY = "bitnet.hidden_activation"
SQUARED_RELU = "relu2"
# The gguf package knows the two norms by 1bitLLM's names.
ATTENTION_NORM, FEED_FORWARD_NORM = "inner_attn_ln", "ffn_layernorm"


class OneBitLLMArchitecture(DecoderArchitecture):
    family = "BitnetForCausalLM"
    model = gguf.MODEL_ARCH.BITNET
    hidden_acts = ("silu", "swish", SQUARED_RELU)
    head_is_embedding = True
    ties = (True,)
    biased = ()
    heads_fill_hidden = True
    attention_norm: ClassVar[str] = ATTENTION_NORM
    feed_forward_norm: ClassVar[str] = FEED_FORWARD_NORM

    def attention_parts(self, attention: str) -> Iterator[Part]:
        yield from super().attention_parts(attention)
        yield self._sub_norm(attention, self.attention_norm, ATTENTION_NORM, self.hidden)

    def feed_forward_parts(self, layer: int, mlp: str) -> Iterator[Part]:
        yield from super().feed_forward_parts(layer, mlp)
        yield self._sub_norm(mlp, self.feed_forward_norm, FEED_FORWARD_NORM, self.feed_forward)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        if self.hidden_act(self.settings.values) == SQUARED_RELU:
            writer.add_string(ACTIVATION_KEY, SQUARED_RELU)

    def _sub_norm(self, block: str, name: str, known_name: str, size: int) -> Part:
        return Part(Kind.NORM, f"{block}.{name}", self.names.get_name(f"{block}.{known_name}"), (size,))


class BitNetArchitecture(OneBitLLMArchitecture):
    family = "BitNetForCausalLM"
    hidden_acts = (SQUARED_RELU, "silu", "swish")
    defaults = {"num_key_value_heads": 5, "rms_norm_eps": 1e-5}
    default_theta = 500000.0
    attention_norm = "attn_sub_norm"
    feed_forward_norm = "ffn_sub_norm"
