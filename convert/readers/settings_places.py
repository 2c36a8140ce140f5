"""Where a checkpoint says how it is quantized: config.json, or a file that a tool kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint, read_json
from . import efficientqat
from .gptq import SETTINGS_FILE

AWQ_SETTINGS_FILE = "quant_config.json"
Place = Callable[[Checkpoint], tuple[Path, dict[str, Any]] | None]


def find_settings(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """The settings, with a quant_method, and the file that they are in; None if the checkpoint does not say.

    Raises ConvertError if config.json has something else than an object in their place.
    """
    return next((found for place in PLACES if (found := place(checkpoint)) is not None), None)


def _mlx(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """mlx-lm writes `quantization`, and later the same again as quantization_config, without a quant_method."""
    settings, usual = (checkpoint.config.get(key) for key in ("quantization", "quantization_config"))
    if not isinstance(settings, dict) or (isinstance(usual, dict) and "quant_method" in usual):
        return None
    return checkpoint.config_file, {**settings, "quant_method": "mlx"}


def _usual(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    settings = checkpoint.config.get("quantization_config")
    if settings is None or isinstance(settings, dict):
        return None if settings is None else (checkpoint.config_file, settings)
    raise ConvertError(
        f"{checkpoint.config_file}: quantization_config is {settings!r}, expected an object",
        "the configuration is damaged or from another kind of model",
    )


def _auto_gptq(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """AutoGPTQ kept the settings in a file of their own before transformers had a place for them."""
    file = checkpoint.folder / SETTINGS_FILE
    return (file, {"quant_method": "gptq", **read_json(file)}) if file.exists() else None


def _auto_awq(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """So did AutoAWQ, under other names."""
    file = checkpoint.folder / AWQ_SETTINGS_FILE
    if not file.exists():
        return None
    settings = read_json(file)
    renamed = {"bits": settings.get("w_bit"), "group_size": settings.get("q_group_size")}
    return file, {**settings, **renamed, "quant_method": "awq"}


def _lost(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """EfficientQAT writes none."""
    found = efficientqat.has_lost_settings(checkpoint)
    return (checkpoint.config_file, {"quant_method": efficientqat.METHOD}) if found else None


# In the order in which they are looked for.
PLACES: tuple[Place, ...] = (_mlx, _usual, _auto_gptq, _auto_awq, _lost)
