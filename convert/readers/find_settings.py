"""Where a checkpoint says how it is quantized: config.json, or a file that a tool kept beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..settings import Settings
from ..sources.checkpoint import Checkpoint, read_json
from .reader import Format

METHOD_KEY = "quant_method"
_USUAL_KEY = "quantization_config"


def find_settings(checkpoint: Checkpoint, formats: Iterable[Format]) -> tuple[Path, dict[str, Any]] | None:
    """The settings, with a quant_method, and the file that they are in; None if the checkpoint does not say.

    quantization_config comes first if it names a method, then a format's own key in config.json, then its own file,
    then what a format infers from the tensors. Raises ConvertError if quantization_config is not an object.
    """
    file, usual = checkpoint.config_file, checkpoint.config.get(_USUAL_KEY)
    if not isinstance(usual, dict) or METHOD_KEY not in usual:
        for kind in formats:
            own = checkpoint.config.get(kind.config_key) if kind.config_key else None
            if isinstance(own, dict):
                return file, {**own, METHOD_KEY: kind.methods[0]}
    if usual is not None:
        if not isinstance(usual, dict):
            raise Settings(checkpoint.config, file).damaged(f"{_USUAL_KEY} is {usual!r}, expected an object")
        return file, usual
    for kind in formats:
        beside = checkpoint.folder / kind.settings_file
        if kind.settings_file and beside.exists():
            return beside, {METHOD_KEY: kind.methods[0], **kind.translate(read_json(beside))}
    for kind in formats:
        inferred = kind.infer(checkpoint)
        if inferred is not None:
            return file, {METHOD_KEY: kind.methods[0], **inferred}
    return None
