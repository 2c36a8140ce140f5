"""The reader of checkpoints in floats that are to be quantized freshly (--quantize): it finds no layer quantized.

What becomes of the floats is decided in plan/policies.py and done by quantize/quantizer.py.
"""

from __future__ import annotations

from ..linear import QuantLinear
from .grid import Grid


class FloatsReader:
    """See Reader. `names`, `grid` and `read` are for quantized layers, of which there are none."""

    method = "fresh"
    activations = None

    def has(self, module: str) -> bool:
        return False

    def names(self, module: str) -> list[str]:
        raise KeyError(module)

    def shapes(self) -> dict[str, tuple[int, int]]:
        return {}

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        raise KeyError(module)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        raise KeyError(module)

    def notes(self) -> list[str]:
        return []
