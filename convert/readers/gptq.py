"""GPTQ checkpoints of AutoGPTQ, GPTQModel and transformers: versions 1 and 2, and the planar format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint, read_json
from .gptq_layers import GPTQLayers
from .gptq_settings import FORMAT_KEYS, GPTQSettings

# Where AutoGPTQ kept the settings before transformers had a place for them. GPTQModel still writes both.
SETTINGS_FILE = "quantize_config.json"


class GPTQReader(GPTQLayers):
    """Raises ConvertError for settings that are not supported, by name."""

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        found = GPTQSettings(_with_format(settings, file, checkpoint.folder / SETTINGS_FILE), file)
        super().__init__(
            checkpoint,
            file,
            "gptq",
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
    other = read_json(other_file)
    here, there = (
        next((place[key] for key in FORMAT_KEYS if place.get(key) is not None), None) for place in (settings, other)
    )
    if here is None:
        return {**settings, FORMAT_KEYS[0]: there}
    if there not in (None, here):
        raise ConvertError(
            f"{file}: checkpoint_format is {here!r}, but {other_file.name} has {there!r}, expected one value",
            "the two differ in their zero-points; ask the maker of the checkpoint which one is right",
        )
    return settings
