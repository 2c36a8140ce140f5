"""Checkpoints in floats, quantized when they are read: --quantize."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...common.format import why_not
from ..architectures.part import Kind, Part
from ..checkpoint import FLOAT_DTYPES, Checkpoint, QuantLinear
from ..fresh import Fresh
from ..notes import Notes
from ..quantize import SLAB_WEIGHTS
from ..storage import stacked
from .grid import Grid


class FreshReader:
    """Quantizes the linear layers among `parts` that the layout can hold; all else stays in the floats it has."""

    method = "fresh"
    activations = None

    def __init__(self, checkpoint: Checkpoint, parts: Iterable[Part], fresh: Fresh):
        self._checkpoint = checkpoint
        self._fresh = fresh
        # The GGUF's name of each layer, by which importance is known; of an expert also its place, and their number.
        self._targets: dict[str, tuple[str, int, int]] = {}
        self._notes = Notes()
        for part in parts:
            if part.kind is not Kind.LINEAR:
                continue
            if why := why_not(*part.shape, fresh.kind.group):
                self._notes.add(f"cannot be {fresh.kind.ggml_name}: {why}", part.target)
                continue
            for place, source in enumerate(part.sources):
                self._targets[source] = (f"{part.target}.weight", place, len(part.sources))
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
        of_inputs = None if importance is None else importance[place]
        blocks = (
            self._fresh.quantize(target, f"{info.file}: tensor {name}", block, of_inputs)
            for _, block in self._checkpoint.blocks(name, SLAB_WEIGHTS)
        )
        return stacked(blocks, rows, columns, self._fresh.kind)

    def notes(self) -> list[str]:
        self._fresh.check_used()
        return self._notes.lines()
