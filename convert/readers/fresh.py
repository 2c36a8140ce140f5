"""Checkpoints in floats, quantized when they are read: --quantize."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .. import layout
from ..architectures.part import Kind, Part
from ..checkpoint import FLOAT_DTYPES, Checkpoint, QuantLinear
from ..fresh import Fresh
from ..storage import stacked
from .grid import Grid

# Bounds the float32 copy of rows that are being quantized: 64 MB.
_BLOCK_WEIGHTS = 1 << 24


class FreshReader:
    """Quantizes the linear layers among `parts` that the layout can hold; all else stays in the floats it has."""

    method = "fresh"
    activations = None

    def __init__(self, checkpoint: Checkpoint, parts: Iterable[Part], fresh: Fresh):
        self._checkpoint = checkpoint
        self._fresh = fresh
        # The GGUF's name of each layer, by which importance is known; of an expert also its place, and their number.
        self._targets = {
            source: (f"{part.target}.weight", place, len(part.sources))
            for part in parts if part.kind is Kind.LINEAR and layout.can_hold(*part.shape, fresh.kind.group)
            for place, source in enumerate(part.sources)
        }
        self._importance: dict[str, np.ndarray | None] = {}

    def has(self, module: str) -> bool:
        return module in self._targets

    def names(self, module: str) -> list[str]:
        return [f"{module}.weight"]

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Raises ConvertError if the checkpoint has not such floats, or the importance matrix another shape."""
        self._checkpoint.info(f"{module}.weight", FLOAT_DTYPES, (rows, columns))
        target, _, matrices = self._targets[module]
        if target not in self._importance:
            self._importance[target] = self._fresh.importance(target, matrices, columns)
        kind = self._fresh.kind
        return Grid(kind.bits, kind.group, kind.asymmetric)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """Quantizes the layer. Raises ConvertError for values that are not finite."""
        name = f"{module}.weight"
        info = self._checkpoint.info(name, FLOAT_DTYPES, (rows, columns))
        target, place, _ = self._targets[module]
        importance = self._importance[target]
        step = max(1, _BLOCK_WEIGHTS // columns)
        blocks = (
            self._fresh.quantize(
                target, f"{info.file}: tensor {name}", self._checkpoint.read(name, slice(first, first + step)),
                None if importance is None else importance[place],
            )
            for first in range(0, rows, step)
        )
        return stacked(blocks, rows, columns, self._fresh.kind)

    def notes(self) -> list[str]:
        self._fresh.check_used()
        return []
