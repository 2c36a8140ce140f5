"""Gemma3ForConditionalGeneration (4B, 12B, 27B): the text part alone, which is a Gemma3ForCausalLM under other names.

Its hyperparameters are in `text_config`; what sees images is left out. Tensors have one of two sets of names. Files of
transformers have `language_model.model.` and `language_model.lm_head`; those of quantizers have `model.language_model.`
and `lm_head`, the names that transformers has in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..settings import Settings
from ..sources.checkpoint import Checkpoint
from .gemma3 import Gemma3Architecture

MODEL = "model."
TEXT = "language_model."
IMAGES = tuple(f"{place}{name}." for place in ("", MODEL) for name in ("vision_tower", "multi_modal_projector"))


class Gemma3MultimodalArchitecture(Gemma3Architecture):
    family = "Gemma3ForConditionalGeneration"
    # Which of the two sets of names the tensors have.
    named_as_in_memory = False

    def __init__(self, config: dict[str, Any], file: Path):
        text = Settings(config, file).child("text_config")
        if text is None:
            raise ConvertError(
                f"{file}: text_config is missing, expected an object for {self.family}", "is config.json the right one?"
            )
        super().__init__({"tie_word_embeddings": config.get("tie_word_embeddings"), **text.values}, file)
        self.notes.append("the part of the model that sees images was left out; this is the text model")

    def look_at(self, checkpoint: Checkpoint) -> None:
        self.named_as_in_memory = any(name.startswith(f"{MODEL}{TEXT}") for name in checkpoint.tensors)
        super().look_at(checkpoint)

    def place(self, source: str) -> str:
        if not self.named_as_in_memory:
            return f"{TEXT}{source}"
        return f"{MODEL}{TEXT}{source.removeprefix(MODEL)}" if source.startswith(MODEL) else source

    def is_redundant(self, name: str) -> bool:
        return name.startswith(IMAGES) or super().is_redundant(name)
