"""Gemma3ForConditionalGeneration (4B, 12B, 27B): the text part alone, which is a Gemma3ForCausalLM under other names.

Its hyperparameters are in `text_config`, its tensors begin with `language_model.`; what sees images is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..settings import Settings
from .gemma3 import Gemma3Architecture

TEXT = "language_model."
IMAGES = ("vision_tower.", "multi_modal_projector.")


class Gemma3MultimodalArchitecture(Gemma3Architecture):
    family = "Gemma3ForConditionalGeneration"

    def __init__(self, config: dict[str, Any], file: Path):
        text = Settings(config, file).child("text_config")
        if text is None:
            raise ConvertError(
                f"{file}: text_config is missing, expected an object for {self.family}", "is config.json the right one?"
            )
        super().__init__({"tie_word_embeddings": config.get("tie_word_embeddings"), **text.values}, file)
        self.notes.append("the part of the model that sees images was left out; this is the text model")

    def place(self, source: str) -> str:
        return f"{TEXT}{source}"

    def is_redundant(self, name: str) -> bool:
        return name.startswith(IMAGES) or super().is_redundant(name)
