"""Quantization methods: which reader turns a checkpoint's tensors into QuantLinear. One list, one file per method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..checkpoint import Checkpoint, QuantLinear, read_json
from ..errors import ConvertError
from . import auto_round, efficientqat
from .bitnet import bitnet_reader, masters_reader
from .float_grid import FloatGridReader
from .gptq import SETTINGS_FILE, GPTQReader
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


# By quant_method.
READERS: dict[str, Callable[[Checkpoint, dict[str, Any], Path], Reader]] = {
    "bitnet": bitnet_reader,
    "gptq": GPTQReader,
    **dict.fromkeys(auto_round.METHODS, auto_round.AutoRoundReader),
    efficientqat.METHOD: efficientqat.EfficientQATReader,
}
_CODEBOOK = "its weights are entries of a codebook, not codes on an even grid"
_FLOAT8 = "its weights are 8-bit floats, not codes on an even grid"
_FLOAT4 = "its weights are 4-bit floats, not codes on an even grid"
# What is known, and why it is not converted.
UNSUPPORTED = {
    "aqlm": _CODEBOOK,
    "bitsandbytes": "its weights are of the types nf4, fp4 or int8 with outliers, not codes on an even grid",
    "deepspeedfp": "its weights are small floats, not codes on an even grid",
    "eetq": "it has 8 bits per weight, in the order of a GPU kernel",
    "exl2": "its groups have different bits and sizes",
    "exl3": _CODEBOOK,
    "fbgemm_fp8": _FLOAT8,
    "fouroversix": _FLOAT4,
    "fp8": _FLOAT8,
    "fp_quant": "its weights are 4-bit floats in rotated space",
    "gguf": "give the GGUF file itself",
    "gptq_marlin": "its weights are in the order of a GPU kernel",
    "higgs": "its weights are entries of a codebook in rotated space",
    "marlin": "its weights are in the order of a GPU kernel",
    "modelopt": "its weights are 8-bit or 4-bit floats",
    "mxfp4": _FLOAT4,
    "mxfp8": _FLOAT8,
    "nvfp4": _FLOAT4,
    "paroquant": "its activations have to be scaled and rotated before each layer",
    "ptpc_fp8": _FLOAT8,
    "qqq": "its weights are in the order of a GPU kernel, and its activations have 8 bits",
    "qtip": _CODEBOOK,
    "quanto": "its tensors are saved in the order of a kernel",
    "quark": "its tensors are those of AMD's tools",
    "quip": _CODEBOOK,
    "sinq": "its weights have scales for rows and for columns",
    "spqr": "it keeps outliers beside the quantized weights",
    "torchao": "its tensors are pickled objects",
    "vptq": _CODEBOOK,
}


def _packed_without_settings(checkpoint: Checkpoint) -> Reader | None:
    if not efficientqat.has_lost_settings(checkpoint):
        return None
    return efficientqat.EfficientQATReader(checkpoint, {}, checkpoint.config_file)


# For checkpoints without a quantization_config, in order: each returns None for what is not its own; the last raises
# ConvertError.
RECOGNISERS: tuple[Callable[[Checkpoint], Reader | None], ...] = (
    _packed_without_settings,
    masters_reader,
    FloatGridReader,
)


def reader_for(checkpoint: Checkpoint) -> Reader:
    """The reader for the checkpoint's `quant_method`, or for what its tensors show if it names none.

    Raises ConvertError, naming the method, when there is none or when the reader refuses its settings.
    """
    found = _quantization_config(checkpoint)
    if found is None:
        return next(reader for recognise in RECOGNISERS if (reader := recognise(checkpoint)) is not None)
    file, settings = found
    if settings.get("quant_method") in auto_round.METHODS:
        settings = auto_round.as_other_method(settings, file)
    method = settings.get("quant_method", "nothing")
    supported = ", ".join(READERS)
    if isinstance(method, str) and method in UNSUPPORTED:
        raise ConvertError(
            f"{file}: quant_method is {method!r}, which is not supported: {UNSUPPORTED[method]}",
            f"T-MAC converts checkpoints quantized with: {supported}",
        )
    if not isinstance(method, str) or method not in READERS:
        raise ConvertError(
            f"{file}: quant_method is {method!r}, expected one of: {supported}",
            f"T-MAC converts checkpoints quantized with: {supported}",
        )
    return READERS[method](checkpoint, settings, file)


def _quantization_config(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """The settings and the file they are from; None if there are none. Raises ConvertError if they are no object."""
    settings = checkpoint.config.get("quantization_config")
    if isinstance(settings, dict):
        return checkpoint.config_file, settings
    if settings is not None:
        raise ConvertError(
            f"{checkpoint.config_file}: quantization_config is {settings!r}, expected an object",
            "the configuration is damaged or from another kind of model",
        )
    # AutoGPTQ kept the settings in a file of their own before transformers had a place for them.
    separate = checkpoint.folder / SETTINGS_FILE
    return (separate, {"quant_method": "gptq", **read_json(separate)}) if separate.exists() else None
