"""4-bit floats, which llama.cpp's own converter reads into types of ggml. No layer of them is read here.

In MXFP4 (gpt-oss) 32 weights share a power of two, in NVFP4 16 weights share an 8-bit float.
"""

from __future__ import annotations

from typing import Any

from ..sources.checkpoint import Checkpoint, read_json
from .find_settings import METHOD_KEY
from .floats import FloatsReader

MXFP4, NVFP4 = "mxfp4", "nvfp4"
# Where a format, or an algorithm, of NVFP4 is named.
_NVFP4_FORMATS, _NVFP4_ALGORITHMS = ("nvfp4-pack-quantized",), ("NVFP4", "W4A16_NVFP4")
# Where NVIDIA's tool names the algorithm, beside config.json or alone.
_TOOL, TOOL_FILE = "modelopt", "hf_quant_config.json"


class NativeReader(FloatsReader):
    """The reader of a checkpoint of which everything is left to llama.cpp's converter."""

    def __init__(self, method: str):
        self.method = method


def native_reader(checkpoint: Checkpoint) -> NativeReader | None:
    """The reader, if quantization_config or the file of NVIDIA's tool names one of these quantizations.

    Raises ConvertError if that file is damaged.
    """
    settings = checkpoint.config.get("quantization_config") or {}
    if not isinstance(settings, dict):
        return None
    if settings.get(METHOD_KEY) == MXFP4:
        return NativeReader(MXFP4)
    if settings.get(METHOD_KEY, _TOOL) == _TOOL and "quant_algo" not in settings:
        settings = _of_tool(checkpoint)
    return NativeReader(NVFP4) if _is_nvfp4(settings) else None


def _of_tool(checkpoint: Checkpoint) -> dict[str, Any]:
    file = checkpoint.folder / TOOL_FILE
    found = read_json(file).get("quantization") if file.is_file() else None
    return found if isinstance(found, dict) else {}


def _is_nvfp4(settings: dict[str, Any]) -> bool:
    return settings.get("format") in _NVFP4_FORMATS or settings.get("quant_algo") in _NVFP4_ALGORITHMS
