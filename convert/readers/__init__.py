"""Quantization formats: which reader turns a checkpoint's tensors into QuantLinear. One list, one file per format."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint
from . import auto_round, awq, bitnet, compressed_tensors, efficientqat, gptq, hqq, mlx
from .find_settings import METHOD_KEY, find_settings
from .float_grid import FloatGridReader
from .reader import Format, Reader
from .unsupported import UNSUPPORTED

# A new format adds its module here. Where several formats find settings of their own, the first counts.
FORMATS: tuple[Format, ...] = (
    gptq.FORMAT,
    awq.FORMAT,
    compressed_tensors.FORMAT,
    auto_round.FORMAT,
    efficientqat.FORMAT,
    bitnet.FORMAT,
    hqq.FORMAT,
    mlx.FORMAT,
)


def settings_files() -> list[str]:
    """The files beside config.json that hold the settings of some format."""
    return [kind.settings_file for kind in FORMATS if kind.settings_file]


def reader_for(checkpoint: Checkpoint, for_floats: Callable[[], Reader] | None = None) -> Reader:
    """The reader for the checkpoint's `quant_method`, or for what its tensors show if it names none.

    `for_floats` makes the reader of a checkpoint in floats that is to be quantized freshly. Raises ConvertError, naming
    the method, when there is no reader, when the reader refuses the settings, and when `for_floats` is given for a
    checkpoint that is quantized.
    """
    found = find_settings(checkpoint, FORMATS)
    if found is None:
        return bitnet.masters_reader(checkpoint) or (for_floats() if for_floats else FloatGridReader(checkpoint))
    file, settings = found
    method = settings.get(METHOD_KEY, "nothing")
    readers = {name: kind.reader for kind in FORMATS for name in kind.methods}
    if not isinstance(method, str) or method not in readers:
        known = ", ".join(readers)
        reason = UNSUPPORTED.get(method) if isinstance(method, str) else None
        found_text = f"{file}: {METHOD_KEY} is {method!r}, "
        raise ConvertError(
            found_text + (f"which is not supported: {reason}" if reason else f"expected one of: {known}"),
            f"T-MAC converts checkpoints quantized with: {known}",
        )
    if for_floats:
        raise ConvertError(
            f"{file}: {METHOD_KEY} is {method!r}, expected a checkpoint in floats for --quantize",
            "it is quantized already: leave out --quantize",
        )
    return readers[method](checkpoint, settings, file)
