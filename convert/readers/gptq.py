"""GPTQ checkpoints of AutoGPTQ, GPTQModel and transformers: versions 1 and 2, and the planar format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from .gptq_layers import GPTQLayers
from .gptq_settings import GPTQSettings


class GPTQReader(GPTQLayers):
    """Raises ConvertError for settings that are not supported, by name."""

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        found = GPTQSettings(settings, file)
        super().__init__(
            checkpoint, file, "gptq", lambda module, rows, columns: found.layer(module),
            packing=found.packing, zero_offset=found.zero_offset, carries=found.carries,
        )
