"""Quantization methods: which reader turns a checkpoint's tensors into QuantLinear. One list, one file per method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..checkpoint import Checkpoint, QuantLinear, read_json
from ..errors import ConvertError
from .awq import AWQReader
from .compressed_tensors import CompressedTensorsReader
from .gptq import GPTQReader
from .grid import Grid
from .hqq import HQQReader
from .mlx import MLXReader


class Reader(Protocol):
    """Turns the tensors of one quantization method into QuantLinear. `module` is a name without `.weight`."""

    method: str
    # How the model was trained to round its activations, for the GGUF key tmac.activations; None: not at all.
    activations: str | None

    def has(self, module: str) -> bool:
        """Whether the checkpoint holds this layer quantized."""

    def names(self, module: str) -> list[str]:
        """The tensors that hold the layer."""

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """The layer's grid; checks everything but the codes. Raises ConvertError for what cannot be kept exactly."""

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer."""

    def notes(self) -> list[str]:
        """What the user should know about the layers whose grid was asked for."""


READERS: dict[str, type[Reader]] = {
    "gptq": GPTQReader,
    "awq": AWQReader,
    "compressed-tensors": CompressedTensorsReader,
    "hqq": HQQReader,
    "mlx": MLXReader,
}


def reader_for(checkpoint: Checkpoint) -> Reader:
    """The reader for the checkpoint's `quant_method`.

    Raises ConvertError, naming the method, when there is none or when the reader refuses its settings.
    """
    file, settings = _quantization_config(checkpoint)
    method = settings.get("quant_method", "nothing")
    supported = ", ".join(READERS)
    if not isinstance(method, str) or method not in READERS:
        raise ConvertError(
            f"{file}: quant_method is {method!r}, expected one of: {supported}",
            f"T-MAC converts checkpoints quantized with: {supported}",
        )
    return READERS[method](checkpoint, settings, file)


def _quantization_config(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]]:
    for recognise in RECOGNISERS:
        found = recognise(checkpoint)
        if found is not None:
            return found
    settings = checkpoint.config.get("quantization_config")
    raise ConvertError(
        f"{checkpoint.config_file}: quantization_config is {settings!r}, expected an object",
        "the weights are not quantized; T-MAC converts checkpoints quantized with: " + ", ".join(READERS),
    )


def _usual_settings(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    settings = checkpoint.config.get("quantization_config")
    return (checkpoint.config_file, settings) if isinstance(settings, dict) else None


def _mlx_settings(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """mlx-lm writes `quantization`, and later the same again as quantization_config, without a quant_method."""
    settings, usual = (checkpoint.config.get(key) for key in ("quantization", "quantization_config"))
    if not isinstance(settings, dict) or (isinstance(usual, dict) and "quant_method" in usual):
        return None
    return checkpoint.config_file, {**settings, "quant_method": "mlx"}


def _auto_gptq_settings(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """AutoGPTQ kept the settings in a file of their own before transformers had a place for them."""
    file = checkpoint.folder / "quantize_config.json"
    if checkpoint.config.get("quantization_config") is not None or not file.exists():
        return None
    return file, {"quant_method": "gptq", **read_json(file)}


def _auto_awq_settings(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """So did AutoAWQ, under other names."""
    file = checkpoint.folder / "quant_config.json"
    if checkpoint.config.get("quantization_config") is not None or not file.exists():
        return None
    settings = read_json(file)
    renamed = {"bits": settings.get("w_bit"), "group_size": settings.get("q_group_size")}
    return file, {**settings, **renamed, "quant_method": "awq"}


# Where a checkpoint's settings can be, in the order in which they are looked for.
RECOGNISERS: tuple[Callable[[Checkpoint], tuple[Path, dict[str, Any]] | None], ...] = (
    _mlx_settings,
    _usual_settings,
    _auto_gptq_settings,
    _auto_awq_settings,
)
