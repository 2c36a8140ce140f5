"""A look at a large checkpoint in a second or two: one layer of each name and form stands for all that are like it.

For `tmac inspect` alone: a conversion looks at every layer.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from math import prod

from ..linear import QuantLinear
from ..sources.checkpoint import Checkpoint
from .grid import Grid
from .reader import Reader

# Scales and zero-points of a whole model that are read within a second; all are, if there are no more.
MOST_VALUES = 1 << 26
_NUMBER = re.compile(r"\.(\d+)\.")


class SampledReader:
    """See Reader. Of layers with the same name, but for numbers in it, and the same forms the first is read."""

    def __init__(self, reader: Reader, checkpoint: Checkpoint):
        self.method, self.activations = reader.method, reader.activations
        self.has, self.names, self.shapes, self._reader = reader.has, reader.names, reader.shapes, reader
        self._checkpoint = checkpoint
        self._grids: dict[Hashable, Grid] = {}
        self._asked: set[str] = set()

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        self._asked.add(module)
        kind = form(self._checkpoint, self._reader, module, (rows, columns))
        if kind not in self._grids:
            self._grids[kind] = self._reader.grid(module, rows, columns)
        return self._grids[kind]

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        return self._reader.read(module, rows, columns)

    def notes(self) -> list[str]:
        return [looked_at(len(self._asked), len(self._grids)), *self._reader.notes()]


def sampled(checkpoint: Checkpoint, reader: Reader) -> Reader:
    """The reader itself, unless there is more to read than that takes."""
    values = 0
    for name, info in checkpoint.tensors.items():
        module = name.rpartition(".")[0]
        # The codes are not looked at, and are the first.
        if len(info.shape) == 2 and reader.has(module) and name in reader.names(module)[1:]:
            values += prod(info.shape)
    return SampledReader(reader, checkpoint) if values > MOST_VALUES else reader


def form(checkpoint: Checkpoint, reader: Reader, module: str, shape: tuple[int, int]) -> Hashable:
    """The same for layers that are quantized alike: rules for single layers show in the shapes of their parts."""
    parts = tuple((info.dtype, info.shape) for info in map(checkpoint.info, reader.names(module)))
    return _NUMBER.sub(".#.", module), shape, parts


def looked_at(count: int, forms: int) -> str:
    return f"of {count} quantized layers {forms} were looked at, one of each name and form; a conversion looks at all"
