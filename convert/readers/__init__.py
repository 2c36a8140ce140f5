"""Quantization methods: which reader turns a checkpoint's tensors into QuantLinear. One list, one file per method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..checkpoint import Checkpoint, QuantLinear, read_json
from ..errors import ConvertError
from . import auto_round, efficientqat
from .awq import AWQReader
from .compressed_tensors import CompressedTensorsReader
from .gptq import SETTINGS_FILE, GPTQReader
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


def reader_for(checkpoint: Checkpoint, for_floats: Callable[[], Reader] | None = None) -> Reader:
    """The reader for the checkpoint's `quant_method`; `for_floats` makes that of a checkpoint that has none.

    Raises ConvertError, naming the method, when there is none, when the reader refuses its settings, and when what is
    quantized already was to be read as floats.
    """
    found = _quantization_config(checkpoint)
    if found is None:
        if for_floats:
            return for_floats()
        raise ConvertError(
            f"{checkpoint.config_file}: quantization_config is None: the weights are not quantized",
            f"T-MAC converts checkpoints quantized with: {', '.join(READERS)}; "
            "to quantize this one freshly: --quantize w4g128z",
        )
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
    if for_floats:
        raise ConvertError(
            f"{file}: quant_method is {method!r}, expected a checkpoint in floats for --quantize",
            "it is quantized already: leave out --quantize",
        )
    return READERS[method](checkpoint, settings, file)


def _quantization_config(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    """The settings and the file that they are in; None if the checkpoint says nothing of quantization."""
    for recognise in RECOGNISERS:
        found = recognise(checkpoint)
        if found is not None:
            return found
    settings = checkpoint.config.get("quantization_config")
    if settings is None:
        return None
    raise ConvertError(
        f"{checkpoint.config_file}: quantization_config is {settings!r}, expected an object",
        "the configuration is damaged; download it again",
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
    file = checkpoint.folder / SETTINGS_FILE
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


def _lost_settings(checkpoint: Checkpoint) -> tuple[Path, dict[str, Any]] | None:
    if checkpoint.config.get("quantization_config") is not None or not efficientqat.has_lost_settings(checkpoint):
        return None
    return checkpoint.config_file, {"quant_method": efficientqat.METHOD}


# Where a checkpoint's settings can be, in the order in which they are looked for.
RECOGNISERS: tuple[Callable[[Checkpoint], tuple[Path, dict[str, Any]] | None], ...] = (
    _mlx_settings,
    _usual_settings,
    _auto_gptq_settings,
    _auto_awq_settings,
    _lost_settings,
)
