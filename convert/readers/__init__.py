"""Quantization methods: which reader turns a checkpoint's tensors into QuantLinear. One list, one file per method."""

from __future__ import annotations

from typing import Protocol

from ..checkpoint import Checkpoint, QuantLinear, read_json
from ..errors import ConvertError
from .awq import AWQReader
from .compressed_tensors import CompressedTensorsReader
from .gptq import GPTQReader
from .grid import Grid


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


def _quantization_config(checkpoint: Checkpoint):
    settings = checkpoint.config.get("quantization_config")
    if isinstance(settings, dict):
        return checkpoint.config_file, settings
    # AutoGPTQ kept the settings in a file of their own before transformers had a place for them.
    separate = checkpoint.folder / "quantize_config.json"
    if settings is None and separate.exists():
        return separate, {"quant_method": "gptq", **read_json(separate)}
    raise ConvertError(
        f"{checkpoint.config_file}: quantization_config is {settings!r}, expected an object",
        "the weights are not quantized; T-MAC converts checkpoints quantized with: " + ", ".join(READERS),
    )
