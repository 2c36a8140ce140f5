"""EfficientQAT's own checkpoints: GPTQ's tensor names, no quantization_config, zero-points without an offset.

Words hold 32 // b codes each, so with 3 bits ten, in qweight along K and in qzeros along N; g_idx is not used. The
package is told bits and group by its user, and writes them nowhere; but with K and N known from the architecture the
shapes of qweight, qzeros and scales leave no choice. The repositories whose names end in -GPTQ are ordinary GPTQ.

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
from .words import Packing

METHOD = "efficientqat"


class EfficientQATReader(GPTQLayers):
    """Reads layers whose bits and groups follow from their shapes.

    Other tools have lost their configuration too, and version 1 of GPTQ has the same shapes but other zero-points. So
    the checkpoint has to say that it is of EfficientQAT: by the padded words of 3 bits, by its name, or by a
    quantization_config with quant_method efficientqat that the user adds. Raises ConvertError if it does not.
    """

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        self._is_known = checkpoint.config.get("quantization_config") is not None or _is_named(checkpoint)
        super().__init__(checkpoint, file, METHOD, self._by_shapes, packing=Packing.PADDED)

    def _by_shapes(self, module: str, rows: int, columns: int) -> LayerSettings:
        info = self._checkpoint.info(f"{module}.qweight", ("I32",))
        words = info.shape[0] if info.shape else 0
        fitting = [bits for bits in BITS if Packing.PADDED.words(columns, bits) == words]
        if len(fitting) != 1:
            raise ConvertError(
                f"{info.file}: tensor {module}.qweight has shape {list(info.shape)}, expected as many words as "
                f"{columns} inputs fill with {', '.join(map(str, BITS))} bits",
                "config.json has no quantization_config; without one only checkpoints of EfficientQAT are read",
            )
        groups = self._checkpoint.info(f"{module}.scales").shape[:1]
        if not groups or not groups[0] or columns % groups[0] or not is_known_group(columns // groups[0]):
            raise ConvertError(
                f"{info.file}: tensor {module}.scales has {groups[0] if groups else 'no'} groups for {columns} inputs, "
                f"expected groups of {KNOWN_GROUPS}",
                "config.json has no quantization_config; without one only checkpoints of EfficientQAT are read",
            )
        if fitting != [3] and not self._is_known:
            raise ConvertError(
                f"{self._file}: quantization_config is missing, but layer {module} is packed, expected the settings",
                'if the checkpoint is of EfficientQAT itself, add "quantization_config": {"quant_method": '
                f'"{METHOD}"}}; if of GPTQ, one with quant_method gptq, bits, group_size and checkpoint_format',
            )
        return LayerSettings(fitting[0], columns // groups[0])

    def _column_order(self, module: str, columns: int, settings: LayerSettings) -> None:
        """The package reads no g_idx: the inputs are in their order."""
        return


def has_lost_settings(checkpoint: Checkpoint) -> bool:
    """Whether there are packed layers in a checkpoint (without a quantization_config)."""
    return any(name.endswith(".qweight") for name in checkpoint.tensors)


def _is_named(checkpoint: Checkpoint) -> bool:
    """Whether its folder, its repository in the hub's cache, or config.json's name of it names EfficientQAT."""
    folder = checkpoint.folder.resolve()
    names = [folder.name, checkpoint.config.get("_name_or_path")]
    if folder.parent.name == "snapshots":
        names.append(folder.parent.parent.name)
    return any(isinstance(name, str) and METHOD in name.lower() for name in names)
