"""A checkpoint as llama.cpp's converter arranges it: floats, and quantized layers, under the names of the GGUF.

In: the checkpoint, the reader of its quantization, and the answer of the converter. Out: a Checkpoint and a Reader for
the planner. Each matrix of the GGUF is a layer `<name of the tensor>` (of experts `<name>#<number>`), whose rows come
from one or several layers of the checkpoint; the columns of quantized ones stay as the checkpoint has them. Rows that
the converter multiplies by a number have that number in their scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...common.format import symmetric_zero
from ..errors import ConvertError
from ..linear import LARGEST_HALF, QuantLinear
from ..readers.affine import MOST_OF_A_STEP, SMALLEST_NORMAL, TINY
from ..readers.grid import Grid
from ..readers.reader import Reader
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from .answer import Matrix, Run

WEIGHT = ".weight"
# The largest error of a number that is rounded to fp16, as a share of it.
LAST_PLACE = 2.0**-11


class Quantized:
    """The quantized layers of the checkpoint by the names of their weights. The last one that was read is kept."""

    def __init__(self, reader: Reader, shapes: dict[str, tuple[int, int]]):
        self.reader = reader
        self.shapes = {module + WEIGHT: shape for module, shape in shapes.items()}
        self._last: tuple[str, QuantLinear] | None = None

    def grid(self, weight: str) -> Grid:
        return self.reader.grid(weight.removesuffix(WEIGHT), *self.shapes[weight])

    def read(self, weight: str) -> QuantLinear:
        if self._last is None or self._last[0] != weight:
            self._last = None
            self._last = weight, self.reader.read(weight.removesuffix(WEIGHT), *self.shapes[weight])
        return self._last[1]

    def weights(self, weight: str) -> np.ndarray:
        """float32, in the order of the checkpoint."""
        return self.grid(weight).weights(self.read(weight))


@dataclass(frozen=True)
class _Place:
    """`rounded`: why the values of quantized layers are taken instead of their codes; empty if they are not."""

    matrix: Matrix
    quantized: bool
    rounded: str


class RearrangedCheckpoint(Checkpoint):
    """The floats of the GGUF as a checkpoint; quantized layers are there by name only, but for those of `rounded`."""

    def __init__(self, original: Checkpoint, quantized: Quantized):
        # Not that of Checkpoint: nothing is opened here.
        self.folder, self.config_file, self.config = original.folder, original.config_file, original.config
        self.tensors = {}
        self.original, self.quantized = original, quantized
        self._places: dict[str, _Place] = {}
        self._last: tuple[str, int, np.ndarray] | None = None

    def add(self, name: str, shape: tuple[int, ...], matrix: Matrix) -> None:
        """A layer of this shape: the tensor that it is made of first gives its file and its dtype."""
        first = matrix.runs[0].tensor
        of_codes = {run.tensor: run.tensor in self.quantized.shapes for run in matrix.runs}
        is_quantized = any(of_codes.values())
        info = self.original.info(self._stored_name(first))
        rounded = ""
        if is_quantized and not all(of_codes.values()):
            quantized, floats = (
                next(name for name, found in of_codes.items() if found is kind) for kind in (True, False)
            )
            rounded = f"{quantized} is quantized in the checkpoint, and {floats}, in the same tensor here, in floats"
        elif is_quantized and matrix.transposed:
            rounded = "is quantized in the checkpoint, and llama.cpp has it transposed"
        if is_quantized:
            # Dequantized where it is asked for, as what T-MAC stores weights in that it rounds.
            info = replace(info, dtype="F16")
        elif len({self.original.info(run.tensor).dtype for run in matrix.runs}) > 1:
            info = replace(info, dtype="F32")
        self.tensors[name + WEIGHT] = replace(info, shape=shape)
        self._places[name + WEIGHT] = _Place(matrix, is_quantized, rounded)

    def add_values(self, name: str, info: TensorInfo) -> None:
        """A tensor that the converter computed."""
        self.tensors[name] = info

    def notes(self) -> list[str]:
        return self.original.notes()

    def is_quantized(self, name: str) -> bool:
        """Whether layer `name` is quantized, with the rows and columns of the checkpoint."""
        place = self._places.get(name + WEIGHT)
        return place is not None and place.quantized and not place.rounded

    def rounded(self, name: str) -> str:
        """Why of layer `name` only the values are there, though it is quantized; empty if they are not."""
        place = self._places.get(name + WEIGHT)
        return "" if place is None else place.rounded

    def matrix(self, name: str) -> Matrix:
        return self._places[name + WEIGHT].matrix

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        place = self._places.get(name)
        if place is None:
            return super().read(name, rows)
        info, matrix = self.info(name), place.matrix
        if matrix.transposed:
            weights = self._gathered(matrix, slice(None))
            columns = slice(None) if matrix.columns is None else matrix.columns
            return np.ascontiguousarray(weights[:, columns][:, rows].T)
        weights = self._gathered(matrix, rows)
        weights = weights if matrix.columns is None else weights[:, matrix.columns]
        return weights.reshape(-1, *info.shape[1:])

    def _gathered(self, matrix: Matrix, rows: slice) -> np.ndarray:
        """Some rows of those that the runs are, times their factors."""
        values = self._of_runs(matrix.runs, rows)
        return values if matrix.factors is None else (values * matrix.factors[rows, None]).astype(np.float32)

    def _of_runs(self, runs: Sequence[Run], rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(sum(len(run.rows) for run in runs))
        parts, before = [], 0
        for run in runs:
            some = run.rows[max(0, start - before) : max(0, stop - before)]
            before += len(run.rows)
            if some.size:
                parts.append(self._rows(run, some))
        return parts[0] if len(parts) == 1 else np.concatenate([part.astype(np.float32) for part in parts])

    def _rows(self, run: Run, rows: np.ndarray) -> np.ndarray:
        """Neighbours are read as they are; else the whole matrix is kept until another one is asked for."""
        is_plain = run.tensor not in self.quantized.shapes and len(self.original.info(run.tensor).shape) == 2
        if is_plain and (np.diff(rows) == 1).all():
            return self.original.read(run.tensor, slice(int(rows[0]), int(rows[-1]) + 1))
        if self._last is None or self._last[:2] != (run.tensor, run.index):
            self._last = None
            self._last = run.tensor, run.index, self._whole(run)
        return self._last[2][rows]

    def _whole(self, run: Run) -> np.ndarray:
        if run.tensor in self.quantized.shapes:
            return self.quantized.weights(run.tensor)
        self.original.info(run.tensor, FLOAT_DTYPES)
        if len(self.original.info(run.tensor).shape) == 2:
            return self.original.read(run.tensor)
        return self.original.read(run.tensor, slice(run.index, run.index + 1))[0]

    def _stored_name(self, weight: str) -> str:
        if weight not in self.quantized.shapes:
            return weight
        return self.quantized.reader.names(weight.removesuffix(WEIGHT))[0]


@dataclass(frozen=True)
class _Errors:
    """The largest errors of a layer's scales that were multiplied and rounded to fp16.

    normal  as a share of the scale, of those in the normal range of fp16
    small   as a share of the layer's largest scale, of those below that range
    minima  as a share of a step of the codes
    """

    normal: float
    small: float
    minima: float = 0.0


# A note for each field of _Errors.
_ERRORS = {
    "normal": "scales of {count} layers, times such constants, were rounded to fp16, by at most {error:.2g} of "
    "themselves (in {first})",
    "small": "scales of {count} layers, times such constants, are below the normal range of fp16 and were rounded to "
    "its steps of 6e-8, by at most {error:.2g} of the largest scale of their layer (in {first})",
    "minima": "minima of {count} layers, times such constants, were rounded to fp16, by at most {error:.2g} "
    "of a step of the codes (in {first})",
}


class RearrangedReader:
    """See Reader: the quantized layers of the GGUF, made of those of the checkpoint."""

    def __init__(self, checkpoint: RearrangedCheckpoint):
        self._checkpoint, self._quantized = checkpoint, checkpoint.quantized
        self._reader = checkpoint.quantized.reader
        self.method, self.activations = self._reader.method, self._reader.activations
        self._errors: dict[str, _Errors] = {}

    def has(self, module: str) -> bool:
        return self._checkpoint.is_quantized(module)

    def names(self, module: str) -> list[str]:
        return [module + WEIGHT]

    def shapes(self) -> dict[str, tuple[int, int]]:
        return self._reader.shapes()

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Raises ConvertError for layers joined to one that have different grids, and for factors without groups."""
        matrix = self._checkpoint.matrix(module)
        runs = matrix.runs
        weights = list(dict.fromkeys(run.tensor for run in runs))
        grids = [self._quantized.grid(weight) for weight in weights]
        first = grids[0]
        for weight, grid in zip(weights[1:], grids[1:]):
            if not _is_alike(first, grid):
                raise ConvertError(
                    f"{self._checkpoint.folder}: {weights[0]} has {first.name}, {weight} {grid.name}, expected the "
                    f"same grid and order of inputs: they are one tensor in the GGUF, {module}",
                    "use a checkpoint that has both quantized alike",
                )
        asymmetric, ternary = any(grid.asymmetric for grid in grids), all(grid.ternary for grid in grids)
        if matrix.factors is not None and not first.group:
            raise ConvertError(
                f"{self._checkpoint.folder}: llama.cpp's converter multiplies rows of {module} by numbers, and it has "
                "one scale for all its weights, expected one for every group",
                "use a GPTQ, AWQ, AutoRound or compressed-tensors checkpoint of this model",
            )
        return replace(first, asymmetric=asymmetric, ternary=ternary)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        matrix = self._checkpoint.matrix(module)
        parts = [self._part(run) for run in matrix.runs]
        linear = parts[0] if len(parts) == 1 else _joined(parts)
        return linear if matrix.factors is None else self._multiplied(module, linear, matrix.factors)

    def _multiplied(self, module: str, linear: QuantLinear, factors: np.ndarray) -> QuantLinear:
        """Raises ConvertError for scales that fp16 does not hold to their last place, beside the layer's largest, and
        minima that it does not hold to MOST_OF_A_STEP of the codes.
        """
        exact = linear.scales.astype(np.float64) * factors[:, None]
        sizes = np.abs(exact)
        scales, error = self._rounded(module, "scale", exact, LAST_PLACE * sizes, sizes, factors)
        is_normal = sizes >= SMALLEST_NORMAL
        found = _Errors(_largest(error[is_normal], sizes[is_normal]), _largest(error[~is_normal], sizes.max(initial=0)))
        minima = None
        if linear.minima is not None:
            exact = linear.minima.astype(np.float64) * factors[:, None]
            minima, error = self._rounded(module, "minimum", exact, MOST_OF_A_STEP * sizes, sizes, factors)
            found = replace(found, minima=_largest(error, sizes))
        self._errors[module] = found
        return replace(linear, scales=scales, minima=minima)

    def _rounded(
        self, module: str, what: str, exact: np.ndarray, allowed: np.ndarray, sizes: np.ndarray, factors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`exact` in fp16, and its errors. Raises ConvertError for one that is not `allowed`, nor TINY of `sizes`."""
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = exact.astype(np.float16)
            error = np.abs(rounded.astype(np.float64) - exact)
        # What is not finite fails, too.
        bad = ~(error <= np.maximum(allowed, TINY * sizes.max(initial=0)))
        if bad.any():
            row, group = np.argwhere(bad)[0]
            value = exact[row, group]
            raise ConvertError(
                f"{self._checkpoint.folder}: llama.cpp's converter multiplies row {row} of {module} by "
                f"{factors[row]:.6g}, and the {what} of its group {group} becomes {value:.6g}, {_range_of(abs(value))} "
                f"(rounded with an error of {error[row, group]:.2g}), expected one that fp16 holds",
                "use a checkpoint that has this layer in floats",
            )
        return rounded, error

    def notes(self) -> list[str]:
        return self._reader.notes()

    def notes_of_factors(self) -> list[str]:
        """How exactly scales were multiplied by factors in the layers that were read until now."""
        notes = []
        for name, text in _ERRORS.items():
            errors = {module: error for module, found in self._errors.items() if (error := getattr(found, name))}
            if errors:
                worst = max(errors, key=errors.get)
                notes.append(text.format(count=len(errors), error=errors[worst], first=worst))
        if self._errors and not notes:
            notes.append("scales times such constants are exact")
        return notes

    def _part(self, run: Run) -> QuantLinear:
        linear = self._quantized.read(run.tensor)
        if not run.is_slice:
            return linear.take_rows(run.rows)
        first, count = int(run.rows[0]), len(run.rows)
        return linear if count == len(linear.codes) else linear.take_rows(slice(first, first + count))


def _range_of(size: float) -> str:
    """Where fp16 has a number that it does not hold well enough."""
    if size < SMALLEST_NORMAL:
        return "below fp16's normal range"
    return "above fp16's range" if size > LARGEST_HALF else "for which fp16 has too few digits"


def _largest(errors: np.ndarray, sizes: np.ndarray | np.float64) -> float:
    """The largest error as a share of `sizes`; where these are zero, there is none."""
    sizes = np.broadcast_to(sizes, errors.shape)
    return float(np.divide(errors, sizes, out=np.zeros_like(errors), where=sizes > 0).max(initial=0))


def _is_alike(first: Grid, other: Grid) -> bool:
    same = all(getattr(first, name) == getattr(other, name) for name in ("bits", "group", "tensor_scale", "minima"))
    # Inputs in order have None, which array_equal finds equal to None alone.
    return same and np.array_equal(first.column_order, other.column_order)


def _joined(parts: list[QuantLinear]) -> QuantLinear:
    """One layer of the rows of several on the same grid; with zero-points if one of them has some."""
    first = parts[0]
    given = next((part.zeros for part in parts if part.zeros is not None), None)
    zeros = None
    if given is not None:
        usual = given.dtype.type(symmetric_zero(first.bits))
        zeros = np.concatenate(
            [np.full(part.scales.shape, usual) if part.zeros is None else part.zeros for part in parts]
        )
    codes, scales = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scales"))
    minima = None if first.minima is None else np.concatenate([part.minima for part in parts])
    ternary = all(part.ternary for part in parts)
    return QuantLinear(codes, scales, zeros, first.bits, first.group, ternary, minima=minima)
