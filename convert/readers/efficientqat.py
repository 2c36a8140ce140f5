"""EfficientQAT's own checkpoints: GPTQ's tensor names, no quantization_config, zero-points without an offset.

Words hold 32 // b codes each, with 3 bits ten: in qweight along K, in qzeros along N. g_idx is not used. The package
is told bits and group by its user and writes them nowhere; with K and N known from the architecture, they follow from
the shapes of qweight and scales. Repositories whose names end in -GPTQ are ordinary GPTQ.

Source: quantize/int_linear_real.py of OpenGVLab/EfficientQAT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint
from .gptq_layers import GPTQLayers
from .gptq_settings import BITS, LayerSettings
from .grid import KNOWN_GROUPS, is_known_group
from .method_settings import either
from .reader import Format
from .words import Packing

METHOD = "efficientqat"
_NO_SETTINGS = "config.json has no quantization_config; without one only checkpoints of EfficientQAT are read"


class EfficientQATReader(GPTQLayers):
    """Reads layers whose bits and groups follow from their shapes.

    Version 1 of GPTQ has the same shapes but other zero-points, and other tools have lost their configuration too. So
    something has to show that the checkpoint is of EfficientQAT: the padded words of 3 bits, its name, or a
    quantization_config with quant_method efficientqat that the user adds. Raises ConvertError if nothing does.
    """

    method = METHOD

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        self._is_known = checkpoint.config.get("quantization_config") is not None or _is_named(checkpoint)
        super().__init__(checkpoint, file, self._by_shapes, packing=Packing.PADDED)

    def _by_shapes(self, module: str, rows: int, columns: int) -> LayerSettings:
        bits, groups = self._bits(module, columns), self._groups(module, columns)
        if bits != 3 and not self._is_known:
            raise ConvertError(
                f"{self._file}: quantization_config is missing, but layer {module} is packed, expected the settings",
                'if the checkpoint is of EfficientQAT itself, add "quantization_config": {"quant_method": '
                f'"{METHOD}"}}; if of GPTQ, one with quant_method gptq, bits, group_size and checkpoint_format',
            )
        return LayerSettings(bits, columns // groups)

    def _bits(self, module: str, columns: int) -> int:
        info = self._checkpoint.info(f"{module}.qweight", ("I32",))
        words = info.shape[0] if info.shape else 0
        fitting = [bits for bits in BITS if Packing.PADDED.words(columns, bits) == words]
        if len(fitting) != 1:
            raise ConvertError(
                f"{info.file}: tensor {module}.qweight has shape {list(info.shape)}, expected as many words as "
                f"{columns} inputs fill with {either(BITS)} bits",
                _NO_SETTINGS,
            )
        return fitting[0]

    def _groups(self, module: str, columns: int) -> int:
        info = self._checkpoint.info(f"{module}.scales")
        groups = info.shape[0] if info.shape else None
        if not groups or columns % groups or not is_known_group(columns // groups):
            found = "no" if groups is None else groups
            raise ConvertError(
                f"{info.file}: tensor {module}.scales has {found} groups for {columns} inputs, expected groups of "
                f"{KNOWN_GROUPS}",
                _NO_SETTINGS,
            )
        return groups

    def _column_order(self, module: str, columns: int, settings: LayerSettings) -> None:
        """The package reads no g_idx: the inputs are in their order."""
        return


def _infer(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """No settings are needed where layers are packed."""
    return {} if any(name.endswith(f".{GPTQLayers.mark}") for name in checkpoint.tensors) else None


def _is_named(checkpoint: Checkpoint) -> bool:
    """Whether its folder, its repository in the hub's cache, or config.json's name of it names EfficientQAT."""
    folder = checkpoint.folder.resolve()
    names = [folder.name, checkpoint.config.get("_name_or_path")]
    if folder.parent.name == "snapshots":
        names.append(folder.parent.parent.name)
    return any(isinstance(name, str) and METHOD in name.lower() for name in names)


FORMAT = Format((METHOD,), EfficientQATReader, infer=_infer)
