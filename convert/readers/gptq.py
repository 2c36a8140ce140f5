"""GPTQ checkpoints of AutoGPTQ, GPTQModel and transformers: versions 1 and 2, and the planar format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint, read_json
from .gptq_layers import GPTQLayers
from .gptq_settings import CONTRADICTION, FORMAT_KEYS, GPTQSettings
from .per_layer import Layouts
from .reader import Format

# Where AutoGPTQ kept the settings before transformers had a place for them. GPTQModel still writes both.
SETTINGS_FILE = "quantize_config.json"


class GPTQReader(GPTQLayers):
    """GPTQ's tensors with GPTQ's settings. Raises ConvertError for settings that are not supported, by name."""

    method = "gptq"

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        settings = _with_format(settings, file, checkpoint.folder / SETTINGS_FILE)
        found = GPTQSettings(settings, file, Layouts(checkpoint.tensors))
        super().__init__(
            checkpoint,
            file,
            lambda module, rows, columns: found.layer(module),
            packing=found.packing,
            zero_offset=found.zero_offset,
            subtracted=found.subtracted,
        )


def _with_format(settings: dict[str, Any], file: Path, other_file: Path) -> dict[str, Any]:
    """`settings`, with the format of `other_file` if they have none.

    GPTQModel reads the other file first, transformers never; versions of transformers have dropped the format when
    they wrote config.json. Raises ConvertError if the two differ, as their zero-points would.
    """
    if file == other_file or not other_file.exists():
        return settings
    here, there = (
        next((place[key] for key in FORMAT_KEYS if place.get(key) is not None), None)
        for place in (settings, read_json(other_file))
    )
    if here is None:
        return {**settings, FORMAT_KEYS[0]: there}
    if there not in (None, here):
        raise ConvertError(
            f"{file}: {FORMAT_KEYS[0]} is {here!r}, but {other_file.name} has {there!r}, expected one value",
            CONTRADICTION,
        )
    return settings


FORMAT = Format((GPTQReader.method,), GPTQReader, settings_file=SETTINGS_FILE)
