"""Fresh quantization of the float weights of a model, wherever they come from: the only way to it.

In: float matrices that are not read yet, a T-MAC type, an importance matrix. Out: functions that return QuantLinear,
and notes on the errors made. The arithmetic is in search.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...common.format import TmacType
from ..errors import ConvertError
from ..linear import QuantLinear, join_rows
from ..readers.grid import Grid
from .imatrix import Imatrix
from .search import Deviation, quantize

# Rounding to so few bits costs a model of fewer weights most of what it knows.
WARNED_BITS, LARGE_MODEL = 2, 4_000_000_000
# How a note begins that is more than one.
WARNING = "warning: "


@dataclass(frozen=True)
class FloatMatrix:
    """One matrix of float weights, not read yet.

    where      its file and tensor, for messages
    blocks     returns its rows in order, some at a time: float [rows, K]
    row_order  if given, returns int64 [M]: row i of the result is row row_order()[i] of the matrix
    """

    where: str
    blocks: Callable[[], Iterator[np.ndarray]]
    row_order: Callable[[], np.ndarray] | None = None


class Quantizer:
    """Quantizes tensors to the type `kind`, by an importance matrix if there is one, and keeps count of the errors."""

    def __init__(self, kind: TmacType, imatrix: Imatrix | None = None):
        self.kind = kind
        self.imatrix = imatrix
        self._deviations: dict[str, Deviation] = {}
        self._asked = self._weights = 0
        self._unweighted: list[str] = []

    @property
    def grid_name(self) -> str:
        """For people and for tmac.source: `w4g128 asymmetric`, or of ternary types `t3g128`."""
        if self.kind.ternary:
            return self.kind.name
        return Grid(self.kind.bits, self.kind.group, self.kind.asymmetric).name

    def loads(self, name: str, shape: tuple[int, ...], matrices: list[FloatMatrix]) -> list[Callable[[], QuantLinear]]:
        """For each matrix of tensor `name` a function that quantizes it; several are experts.

        `name` and `shape` are those of the GGUF; importance is known by that name. Raises ConvertError if the
        importance matrix has an entry of another shape; the functions raise it for values that `quantize` refuses.
        """
        rows, columns = shape[-2:]
        importance = self._importance(name, len(matrices), columns)
        inputs = [None] * len(matrices) if importance is None else importance
        return [partial(self._quantize, name, rows, columns, *pair) for pair in zip(matrices, inputs)]

    def check_used(self) -> None:
        """Raises ConvertError if the importance matrix had no entry for any tensor that was quantized."""
        if self._asked and self._asked == len(self._unweighted):
            raise ConvertError(
                f"{self.imatrix.path}: has no entry for any tensor of this model (first: {self._unweighted[0]})",
                "the importance matrix is another model's",
            )

    def notes(self) -> list[str]:
        """The errors made and the tensors without importance. Call it when all tensors are written."""
        if not self._deviations:
            return []
        total, count = sum(self._deviations.values(), Deviation()), _tensors(len(self._deviations))
        if not total.error:
            return [f"every weight of {count} lies on the grid of {self.kind.ggml_name}; none was changed"]
        worst = max(self._deviations, key=lambda name: self._deviations[name].weighted)
        weighted = f" ({total.weighted:.4f} weighted by importance)" if self.imatrix else ""
        lines = [
            f"quantized freshly to {self.kind.ggml_name}, with a relative RMS error of {total.relative:.4f}{weighted}: "
            f"{count}; the worst is {worst} with {self._deviations[worst].weighted:.4f}",
        ]
        if self._unweighted:
            lines.append(
                f"without an entry in the importance matrix, so that all inputs counted the same: "
                f"{_tensors(len(self._unweighted))} (first: {self._unweighted[0]})"
            )
        return lines + self._warnings(total)

    def _warnings(self, total: Deviation) -> list[str]:
        """Of few bits for a model that has no weights to spare."""
        if self.kind.bits > WARNED_BITS or self._weights >= LARGE_MODEL:
            return []
        return [
            f"{WARNING}{self.kind.ggml_name} changes the weights by {100 * total.relative:.0f} % (relative RMS error "
            f"{total.relative:.4f}): expect much worse text of a model of {self._weights / 1e6:.1f} million of them, "
            "unless it was trained for so few bits; w3g32z and w4g32z change them less"
        ]

    def _importance(self, name: str, matrices: int, columns: int) -> np.ndarray | None:
        """float32 [matrices, columns] for tensor `name`, None if nothing is known of it."""
        if self.imatrix is None:
            return None
        self._asked += 1
        found = self.imatrix.of(name, matrices, columns)
        if found is None:
            self._unweighted.append(name)
        return found

    def _quantize(
        self, name: str, rows: int, columns: int, matrix: FloatMatrix, importance: np.ndarray | None
    ) -> QuantLinear:
        def blocks() -> Iterator[QuantLinear]:
            for weights in matrix.blocks():
                linear, deviation = quantize(weights, self.kind, importance, matrix.where)
                self._deviations[name] = self._deviations.get(name, Deviation()) + deviation
                self._weights += weights.size
                yield linear

        linear = join_rows(blocks(), rows)
        return linear if matrix.row_order is None else linear.take_rows(matrix.row_order())


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' if count > 1 else ''}"
