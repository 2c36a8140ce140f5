"""Quantization methods: which reader turns a checkpoint's tensors into QuantLinear. One list, one file per method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import Checkpoint
from . import auto_round, efficientqat
from .awq import AWQReader
from .bitnet import bitnet_reader, masters_reader
from .compressed_tensors import CompressedTensorsReader
from .float_grid import FloatGridReader
from .gptq import GPTQReader
from .grid import Grid
from .hqq import HQQReader
from .mlx import MLXReader
from .settings_places import find_settings
from .unsupported import UNSUPPORTED


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


# By quant_method.
READERS: dict[str, Callable[[Checkpoint, dict[str, Any], Path], Reader]] = {
    "gptq": GPTQReader,
    "awq": AWQReader,
    "compressed-tensors": CompressedTensorsReader,
    **dict.fromkeys(auto_round.METHODS, auto_round.auto_round_reader),
    efficientqat.METHOD: efficientqat.EfficientQATReader,
    "bitnet": bitnet_reader,
    "hqq": HQQReader,
    "mlx": MLXReader,
}


def reader_for(checkpoint: Checkpoint, for_floats: Callable[[], Reader] | None = None) -> Reader:
    """The reader for the checkpoint's `quant_method`, or for what its tensors show if it names none.

    `for_floats` makes the reader of a checkpoint in floats that is to be quantized freshly. Raises ConvertError, naming
    the method, when there is no reader, when it refuses the settings, and when what is quantized was to be so freshly.
    """
    found = find_settings(checkpoint)
    if found is None:
        return masters_reader(checkpoint) or (for_floats() if for_floats else FloatGridReader(checkpoint))
    file, settings = found
    method = settings.get("quant_method", "nothing")
    supported = f"T-MAC converts checkpoints quantized with: {', '.join(READERS)}"
    if isinstance(method, str) and method in UNSUPPORTED:
        raise ConvertError(
            f"{file}: quant_method is {method!r}, which is not supported: {UNSUPPORTED[method]}", supported
        )
    if not isinstance(method, str) or method not in READERS:
        raise ConvertError(f"{file}: quant_method is {method!r}, expected one of: {', '.join(READERS)}", supported)
    if for_floats:
        raise ConvertError(
            f"{file}: quant_method is {method!r}, expected a checkpoint in floats for --quantize",
            "it is quantized already: leave out --quantize",
        )
    return READERS[method](checkpoint, settings, file)
