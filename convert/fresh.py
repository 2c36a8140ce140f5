"""What fresh quantization does to a model: the type asked for, importance, and the errors it made, told per type."""

from __future__ import annotations

import numpy as np

from ..common.format import TYPES, TmacType
from .checkpoint import QuantLinear
from .errors import ConvertError
from .imatrix import Imatrix
from .quantize import Deviation, quantize
from .readers.grid import Grid

# By the names that --quantize has.
FRESH_TYPES = {kind.name: kind for kind in TYPES if kind.group}


class Fresh:
    """A fresh quantization of float weights to the type `name`, by an importance matrix if there is one.

    Raises ConvertError for a type that is unknown.
    """

    def __init__(self, name: str, imatrix: Imatrix | None = None):
        if name not in FRESH_TYPES:
            raise ConvertError(f"quantize type {name!r} is unknown", f"choose one of: {', '.join(FRESH_TYPES)}")
        self.kind: TmacType = FRESH_TYPES[name]
        self.imatrix = imatrix
        self._deviations: dict[str, Deviation] = {}
        self._asked = 0
        self._unweighted: list[str] = []

    @property
    def grid_name(self) -> str:
        """For people and for tmac.source: `fresh w4g128 asymmetric`."""
        return f"fresh {Grid(self.kind.bits, self.kind.group, self.kind.asymmetric).name}"

    def importance(self, name: str, matrices: int, columns: int) -> np.ndarray | None:
        """float32 [matrices, columns] for tensor `name`, None if nothing is known of it."""
        if self.imatrix is None:
            return None
        self._asked += 1
        found = self.imatrix.of(name, matrices, columns)
        if found is None:
            self._unweighted.append(name)
        return found

    def quantize(self, name: str, where: str, weights: np.ndarray, importance: np.ndarray | None) -> QuantLinear:
        """Rows of tensor `name`, float [M, K]; `importance` float32 [K]. Raises ConvertError as `quantize` does."""
        linear, deviation = quantize(weights, self.kind, importance, where)
        self._deviations[name] = self._deviations.get(name, Deviation()) + deviation
        return linear

    def check_used(self) -> None:
        """Raises ConvertError if the importance matrix had entries for none of the tensors it was asked for."""
        if self._asked and self._asked == len(self._unweighted):
            raise ConvertError(
                f"{self.imatrix.path}: has no entry for any tensor of this model (first: {self._unweighted[0]})",
                "the importance matrix is another model's",
            )

    def notes(self) -> list[str]:
        """What was done, for when it is done."""
        if not self._deviations:
            return []
        total, count = sum(self._deviations.values(), Deviation()), _tensors(len(self._deviations))
        if not total.error:
            return [f"every weight of {count} lies on the grid of {self.kind.ggml_name}; none was changed"]
        worst = max(self._deviations, key=lambda name: self._deviations[name].weighted)
        weighted = f" ({total.weighted:.4f} weighted by importance)" if self.imatrix else ""
        lines = [
            f"quantized freshly to {self.kind.ggml_name}, with a relative RMS error of {total.relative:.4f}{weighted}: "
            f"{count}; the worst is {worst} with {self._deviations[worst].weighted:.4f}"
        ]
        if self._unweighted:
            lines.append(
                f"without an entry in the importance matrix, so that all inputs counted the same: "
                f"{_tensors(len(self._unweighted))} (first: {self._unweighted[0]})"
            )
        return lines


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' if count > 1 else ''}"
