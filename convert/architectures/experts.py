"""What families share whose feed-forward layers are experts, of which a router chooses some for every token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gguf

from ..errors import ConvertError
from .decoder import DecoderArchitecture
from .part import Kind, Part

# llama.cpp's own limit (LLAMA_MAX_EXPERTS).
MAX_EXPERTS = 1024


class ExpertsArchitecture(DecoderArchitecture):
    """A decoder with experts in every layer. All experts of a layer become one tensor for each of their matrices."""

    # Where the configuration has the number of experts, and their width; transformers reads and writes the number
    # under either name.
    count_keys: ClassVar[tuple[str, str]] = ("num_experts", "num_local_experts")
    width_key: ClassVar[str] = "moe_intermediate_size"
    # Names of an expert's gate, up and down.
    matrices: ClassVar[tuple[str, str, str]] = ("gate_proj", "up_proj", "down_proj")
    # What llama.cpp does: whether the weights of the chosen experts are scaled to a sum of 1.
    normalizes: ClassVar[bool]

    def __init__(self, config: dict[str, Any], file: Path):
        key = next((key for key in self.count_keys if config.get(key) is not None), self.count_keys[0])
        super().__init__(config, file)
        settings = self.settings
        self.experts = settings.integer(key, at_most=MAX_EXPERTS)
        self.experts_used = settings.integer("num_experts_per_tok", at_most=MAX_EXPERTS)
        self.expert_width = settings.integer(self.width_key)
        if self.experts_used > self.experts:
            raise ConvertError(
                f"{file}: num_experts_per_tok is {self.experts_used}, expected at most {key} {self.experts}",
                "the configuration is damaged or from another kind of model",
            )

    def refuse_other_routing(self) -> None:
        """For configurations that say how experts are weighed, and which layers have them."""
        values = self.settings.values
        self.refuse_unless("norm_topk_prob", values.get("norm_topk_prob") or False, self.normalizes)
        self.refuse_unless("decoder_sparse_step", values.get("decoder_sparse_step"), None, 1)
        self.refuse_unless("mlp_only_layers", values.get("mlp_only_layers"), None, [])

    def feed_forward_parts(self, layer: int, mlp: str) -> Iterator[Part]:
        gate, up, down = self.matrices
        yield self.part(Kind.ROUTER, f"{mlp}.gate", self.experts, self.hidden, bias=False)
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
