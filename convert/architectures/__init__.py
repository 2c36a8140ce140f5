"""Model families: HF configuration and names -> GGUF metadata and names. One list, one file per family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from gguf import GGUFWriter

from ..checkpoint import Checkpoint
from ..errors import ConvertError
from .bitnet import BitNetArchitecture, OneBitLLMArchitecture
from .llama import LlamaArchitecture
from .part import Part


class Architecture(Protocol):
    """What a model family tells the rest of the converter."""

    name: str
    vocab_size: int
    tied_head: bool
    # Whether llama.cpp's graph has no output head but the embedding.
    head_is_embedding: bool

    def parts(self) -> Iterator[Part]:
        """Every layer, in the order of the GGUF file. A tied head has the embedding as its source."""

    def constants(self) -> dict[str, np.ndarray]:
        """float32 tensors that follow from the configuration, by GGUF name."""

    def is_redundant(self, name: str) -> bool:
        """Whether the checkpoint may hold this tensor although the GGUF has no place for it."""

    def add_metadata(self, writer: GGUFWriter) -> None:
        """Adds the hyperparameters."""


ARCHITECTURES: dict[str, type[Architecture]] = {
    "BitNetForCausalLM": BitNetArchitecture,
    "BitnetForCausalLM": OneBitLLMArchitecture,
    "LlamaForCausalLM": LlamaArchitecture,
}


def architecture_for(checkpoint: Checkpoint) -> Architecture:
    """The architecture in the checkpoint's configuration. Raises ConvertError, naming it, if there is none for it."""
    found = checkpoint.config.get("architectures")
    names = found if isinstance(found, list) else [found]
    known = [name for name in names if isinstance(name, str) and name in ARCHITECTURES]
    if not known:
        raise ConvertError(
            f"{checkpoint.config_file}: architectures is {found!r}, expected one of: {', '.join(ARCHITECTURES)}",
            "this version converts only these model families",
        )
    return ARCHITECTURES[known[0]](checkpoint.config, checkpoint.config_file)
