"""Families whose feed-forward layers are experts: a router chooses some of them for every token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gguf

from .decoder import FEED_FORWARD, DecoderArchitecture
from .part import Kind, Part

# llama.cpp's own limit (LLAMA_MAX_EXPERTS).
MAX_EXPERTS = 1024


class ExpertsArchitecture(DecoderArchitecture):
    """A decoder with experts in every layer. All experts of a layer become one tensor for each of their matrices."""

    # Keys of the number of experts, which transformers reads and writes under either name; and of their width.
    count_keys: ClassVar[tuple[str, str]] = ("num_experts", "num_local_experts")
    width_key: ClassVar[str] = "moe_intermediate_size"
    # Names of an expert's gate, up and down.
    matrices: ClassVar[tuple[str, str, str]] = FEED_FORWARD
    # What llama.cpp does: whether the weights of the chosen experts are scaled to a sum of 1.
    normalizes: ClassVar[bool]
    # Whether the configuration says how experts are weighed, and which layers have them.
    says_routing: ClassVar[bool] = True

    def __init__(self, config: dict[str, Any], file: Path):
        key = next((key for key in self.count_keys if config.get(key) is not None), self.count_keys[0])
        super().__init__(config, file)
        settings = self.settings
        self.experts = settings.integer(key, at_most=MAX_EXPERTS)
        self.experts_used = settings.integer("num_experts_per_tok", at_most=MAX_EXPERTS)
        self.expert_width = settings.integer(self.width_key)
        if self.experts_used > self.experts:
            raise settings.damaged(f"num_experts_per_tok is {self.experts_used}, expected at most {key} {self.experts}")
        if self.says_routing:
            self._check_routing()

    def _check_routing(self) -> None:
        values = self.settings.values
        self.refuse_unless("norm_topk_prob", values.get("norm_topk_prob") or False, self.normalizes)
        self.refuse_unless("decoder_sparse_step", values.get("decoder_sparse_step"), None, 1)
        self.refuse_unless("mlp_only_layers", values.get("mlp_only_layers"), None, [])

    def feed_forward_parts(self, layer: int, mlp: str) -> Iterator[Part]:
        gate, up, down = self.matrices
        yield self.part(Kind.ROUTER, f"{mlp}.gate", self.experts, self.hidden)
        yield self.expert_part(mlp, gate, self.expert_width, self.hidden)
        yield self.expert_part(mlp, up, self.expert_width, self.hidden)
        yield self.expert_part(mlp, down, self.hidden, self.expert_width)

    def expert_part(self, mlp: str, matrix: str, *shape: int) -> Part:
        sources = tuple(self.place(f"{mlp}.experts.{expert}.{matrix}") for expert in range(self.experts))
        return self.linear(f"{mlp}.experts.{matrix}", *shape, expert_sources=sources, bias=False)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.experts_used)
        # The key intermediate_size is in the GGUF already, as the width of feed-forward layers.
        if self.width_key != "intermediate_size":
            writer.add_expert_feed_forward_length(self.expert_width)
