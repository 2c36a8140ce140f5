"""Model families: HF configuration and names -> GGUF metadata and names. One list, one file per family."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from gguf import GGUFWriter

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint
from ..sources.folded import Folded, read_folded
from ..sources.rotation import Rotation
from .bitnet import BitNetArchitecture, OneBitLLMArchitecture
from .gemma2 import Gemma2Architecture
from .gemma3 import Gemma3Architecture
from .gemma3_multimodal import Gemma3MultimodalArchitecture
from .llama import LlamaArchitecture
from .mistral import MistralArchitecture
from .mixtral import MixtralArchitecture
from .olmoe import OlmoeArchitecture
from .part import Part
from .phi3 import Phi3Architecture
from .qwen2 import Qwen2Architecture
from .qwen2_moe import Qwen2MoeArchitecture
from .qwen3 import Qwen3Architecture
from .qwen3_moe import Qwen3MoeArchitecture
from .qwen35 import Qwen35Architecture


class Architecture(Protocol):
    """What a model family tells the rest of the converter."""

    name: str
    vocab_size: int
    tied_head: bool
    # Whether llama.cpp's graph has no output head but the embedding.
    head_is_embedding: bool
    # What the user should know of the model.
    notes: list[str]
    # How the weights are rotated; None if they are not.
    rotation: Rotation | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Architecture:
        """That of the checkpoint's configuration. Raises ConvertError for values llama.cpp could not reproduce."""

    def rotate(self, folded: Folded) -> None:
        """Takes what a file says of rotated weights. Raises ConvertError where they cannot be kept."""

    def parts(self) -> Iterator[Part]:
        """Every layer, in the order of the GGUF file. The source of a tied head is the embedding."""

    def constants(self) -> dict[str, np.ndarray]:
        """float32 tensors that follow from the configuration, by GGUF name."""

    def is_redundant(self, name: str) -> bool:
        """Whether the checkpoint may hold this tensor although the GGUF has no place for it."""

    def is_draft(self, name: str) -> bool:
        """Whether it is of blocks that only draft tokens ahead, and are left out with a note."""

    def add_metadata(self, writer: GGUFWriter) -> None:
        """Adds the hyperparameters."""


# By the name in `architectures` of config.json. A new family adds its class here.
ARCHITECTURES: dict[str, type[Architecture]] = {
    "BitNetForCausalLM": BitNetArchitecture,
    "BitnetForCausalLM": OneBitLLMArchitecture,
    "LlamaForCausalLM": LlamaArchitecture,
    # The name of files from before transformers 4.28.
    "LLaMAForCausalLM": LlamaArchitecture,
    "MistralForCausalLM": MistralArchitecture,
    "MixtralForCausalLM": MixtralArchitecture,
    "Qwen2ForCausalLM": Qwen2Architecture,
    "Qwen2MoeForCausalLM": Qwen2MoeArchitecture,
    "Qwen3ForCausalLM": Qwen3Architecture,
    "Qwen3MoeForCausalLM": Qwen3MoeArchitecture,
    "Phi3ForCausalLM": Phi3Architecture,
    "Gemma2ForCausalLM": Gemma2Architecture,
    "Gemma3ForCausalLM": Gemma3Architecture,
    "Gemma3ForConditionalGeneration": Gemma3MultimodalArchitecture,
    "OlmoeForCausalLM": OlmoeArchitecture,
    "Qwen3_5ForCausalLM": Qwen35Architecture,
    "Qwen3_5ForConditionalGeneration": Qwen35Architecture,
    # The MLX pack of Bonsai 2, which is rotated (sources/folded.py).
    "PrismHadamardQwen35ForConditionalGeneration": Qwen35Architecture,
}


def architecture_for(checkpoint: Checkpoint) -> Architecture:
    """The architecture in the checkpoint's configuration. Raises ConvertError, naming it, if there is none for it.

    Also for rotated weights that are not understood, or that this family cannot have.
    """
    folded = read_folded(checkpoint)
    known = known_names(checkpoint.config)
    if not known:
        raise ConvertError(
            f"{checkpoint.config_file}: architectures is {checkpoint.config.get('architectures')!r}, expected one of: "
            f"{', '.join(ARCHITECTURES)}",
            _hint(checkpoint.config),
        )
    architecture = ARCHITECTURES[known[0]].of(checkpoint)
    if folded is not None:
        architecture.rotate(folded)
    return architecture


def known_names(config: dict[str, Any]) -> list[str]:
    """Those of the names in a configuration that are of a family in the list."""
    found = config.get("architectures")
    names = found if isinstance(found, list) else [found]
    # A base model, without a head, is called LlamaModel where the whole is called LlamaForCausalLM.
    full = [re.sub("Model$", "ForCausalLM", name) for name in names if isinstance(name, str)]
    return [name for name in full if name in ARCHITECTURES]


def _hint(config: dict[str, Any]) -> str:
    if isinstance(config.get("text_config"), dict):
        return "this model takes more than text; look for the model of text alone, or for a GGUF of its text part"
    return "the pinned llama.cpp's own converter does not have it either; look for a GGUF of the model"
