"""Phi3ForCausalLM (Phi-3, 3.5, Phi-4, Phi-4-mini) as llama.cpp's `phi3` architecture.

Query, key and value are one matrix, as are gate and up, in the checkpoint and in the GGUF. LongRoPE's two lists of
factors become tensors. llama.cpp takes the long ones when its context (`-c`) is longer than the original one;
transformers decides by the length of the text. llama.cpp reads sliding windows and ignores them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..settings import Settings
from .decoder import DecoderArchitecture
from .part import Part
from .rope import partial_width, rope_settings

LONGROPE = ("longrope", "su")


class Phi3Architecture(DecoderArchitecture):
    family = "Phi3ForCausalLM"
    model = gguf.MODEL_ARCH.PHI3
    defaults = {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    rope_types = ("default", *LONGROPE)
    biased = ("qkv_proj",)
    unscaled = ("gate_up_proj", "down_proj")
    heads_fill_hidden = True

    def __init__(self, config: dict[str, Any], file: Path):
        super().__init__(config, file)
        self.window = self.settings.optional_integer("sliding_window")
        self.note_window(self.window)

    def attention_parts(self, attention: str) -> Iterator[Part]:
        queries = self.heads * self.head_dim
        yield self.linear(f"{attention}.qkv_proj", queries + 2 * self.kv_heads * self.head_dim, self.hidden)
        yield self.linear(f"{attention}.o_proj", self.hidden, queries)

    def feed_forward_parts(self, layer: int, mlp: str) -> Iterator[Part]:
        yield self.linear(f"{mlp}.gate_up_proj", 2 * self.feed_forward, self.hidden)
        yield self.linear(f"{mlp}.down_proj", self.hidden, self.feed_forward)

    def constants(self) -> dict[str, np.ndarray]:
        return {f"rope_factors_{length}.weight": values for length, values in self._factors.items()}

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        # llama.cpp takes 0 to mean that there is none.
        writer.add_sliding_window(self.window or 0)

    def add_rope_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_rope_metadata(writer)
        writer.add_rope_scaling_orig_ctx_len(self._original)
        if self._factors:
            writer.add_rope_scaling_attn_factors(self._attention_factor)

    def rotary_width(self, rope: Settings) -> int:
        return partial_width(self.settings, rope, self.head_dim, 1.0)

    def _read_rope(self, settings: Settings) -> None:
        super()._read_rope(settings)
        rope = rope_settings(settings)
        place = settings if rope.values.get("original_max_position_embeddings") is None else rope
        self._original = place.integer("original_max_position_embeddings", self.context)
        self._factors = {}
        if self.rope_type in LONGROPE:
            self._factors = {length: self._list(rope, f"{length}_factor") for length in ("long", "short")}
            self._note_long_context()
            self._attention_factor = rope.positive("attention_factor", self._usual_attention_factor(rope))

    def _note_long_context(self) -> None:
        if self.context > self._original:
            self.notes.append(
                f"with a context (-c) above {self._original}, llama.cpp rotates every text as a long one, transformers "
                f"only one of more than {self._original} tokens: for shorter ones give -c {self._original}"
            )

    def _usual_attention_factor(self, rope: Settings) -> float:
        """What transformers multiplies cosines and sines by, where the configuration does not say it."""
        factor = rope.positive("factor", self.context / self._original)
        return math.sqrt(1 + math.log(factor) / math.log(self._original)) if factor > 1 else 1.0

    def _list(self, rope: Settings, key: str) -> np.ndarray:
        """float32 [rotary_dim / 2]: what each rotary frequency is divided by."""
        found, count = rope.values.get(key), self.rotary_dim // 2
        numbers = isinstance(found, list) and all(type(value) in (int, float) for value in found)
        if not numbers or len(found) != count or not all(0 < value < 1e30 for value in found):
            what = f"a list of {len(found)}" if isinstance(found, list) else repr(found)
            raise rope.damaged(f"{key} is {what}, expected {count} numbers above zero")
        return np.array(found, np.float32)
