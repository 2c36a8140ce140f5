"""Checkpoints of plain floats whose matrices hold nothing but the values of a 1-bit or ternary grid.

Bonsai's `-unpacked` models (one magnitude d per 128 inputs) and TriLM's `_Unpacked` ones (one per matrix or per shard
of rows) are of this kind: each value of a group is -d or d, or one of -d, 0 and d. A matrix is taken only if every one
of its values is on the grid, so that it is kept exactly. Of these grids the first that holds is taken; it has the
fewest bytes:

    1 bit     W = 2 d (code - 0.5)   one d per group; zeros only where a whole group is zero
    ternary   W = d (code - 2)       one d for the tensor, as float32
    ternary   W = d (code - 2)       one d per group

Groups are the largest of the layout that will do. d per group, or its double for 1 bit, must be exact in fp16.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...common.format import GROUPS
from ...common.progress import byte_bar
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .grid import TERNARY_BITS, TERNARY_ZERO, Grid, in_block

# By bytes of a float: from this value on, its bits without the sign mean infinity or not a number.
_NOT_FINITE = {2: 0x7C00, 4: 0x7F800000}


class FloatGridReader:
    """Looks at all float matrices when it is made, and shows a bar. Raises ConvertError if none is on a grid."""

    method = "floats"
    activations = None

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._grids: dict[str, Grid] = {}
        names = [
            name
            for name, info in checkpoint.tensors.items()
            if name.endswith(".weight") and info.dtype in FLOAT_DTYPES and len(info.shape) == 2
        ]
        self._matrices = len(names)
        total = sum(checkpoint.info(name).nbytes for name in names)
        with byte_bar(total, "looking for a grid") as bar:
            for name in names:
                module = name.removesuffix(".weight")
                # llama.cpp multiplies by a tensor's scale in blocks only, not at the embedding or the output head.
                grid = _grid_of(checkpoint, name, tensor_scale=in_block(module))
                if grid is not None:
                    self._grids[module] = grid
                bar.update(checkpoint.info(name).nbytes)
        if not self._grids:
            raise ConvertError(
                f"{checkpoint.config_file}: quantization_config is None and none of the {len(names)} float matrices "
                "lies on a 1-bit or ternary grid, expected quantized weights",
                "the weights are not quantized; to quantize them freshly: --quantize w4g128z",
            )

    def has(self, module: str) -> bool:
        return module in self._grids

    def names(self, module: str) -> list[str]:
        return [f"{module}.weight"]

    def shapes(self) -> dict[str, tuple[int, int]]:
        shapes = {module: self._checkpoint.info(f"{module}.weight").shape for module in self._grids}
        return {module: (rows, columns) for module, (rows, columns) in shapes.items()}

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        self._checkpoint.info(f"{module}.weight", FLOAT_DTYPES, (rows, columns))
        return self._grids[module]

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        grid, name = self.grid(module, rows, columns), f"{module}.weight"
        codes = np.empty((rows, columns), np.uint8)
        scales = np.empty((rows, columns // grid.group if grid.group else 0), np.float16)
        for here, block in self._checkpoint.blocks(name):
            # By the bits of the floats, which is ten times as fast as numpy's fp16.
            signed, unsigned = block.view(f"i{block.itemsize}"), block.view(f"u{block.itemsize}")
            np.greater(signed, 0, out=codes[here].view(bool))
            if grid.bits == TERNARY_BITS:
                codes[here] += TERNARY_ZERO
                codes[here] -= unsigned > 1 << 8 * block.itemsize - 1
            if grid.group:
                sizes = _sizes(_magnitudes(block), grid.group).view(block.dtype)
                scales[here] = sizes * 2 if grid.bits == 1 else sizes
        return QuantLinear(codes, scales, None, grid.bits, grid.group, grid.ternary)

    def notes(self) -> list[str]:
        return [
            f"the checkpoint has plain floats; {len(self._grids)} of its {self._matrices} matrices lie on a 1-bit or "
            "ternary grid in every value, and were kept exactly"
        ]


def _grid_of(checkpoint: Checkpoint, name: str, tensor_scale: bool) -> Grid | None:
    """The grid of a float matrix [N, K], None if it is on none. A matrix of zeros alone is on none."""
    groups = [group for group in GROUPS if checkpoint.info(name).shape[1] % group == 0]
    if not groups or 0 in checkpoint.info(name).shape:
        return None
    found = _Candidates(set(groups), set(groups))
    for _, block in checkpoint.blocks(name):
        found.narrow(block)
        if not found.ternary:
            return None
    return found.best(tensor_scale)


@dataclass
class _Candidates:
    """The groups in which all values seen so far are on a 1-bit or on a ternary grid.

    A 1-bit grid is also a ternary one, and a grid in groups is also one in smaller groups.

    binary   the groups in which the values are on a 1-bit grid
    ternary  the groups in which they are on a ternary grid
    sizes    the different d seen, at most two: with more than one there is no scale for the tensor
    exact    per number of bits: whether the scales of all groups are exact in fp16
    """

    binary: set[int]
    ternary: set[int]
    sizes: list[float] = field(default_factory=list)
    exact: dict[int, bool] = field(default_factory=lambda: {1: True, TERNARY_BITS: True})

    def narrow(self, block: np.ndarray) -> None:
        """Looks at some more rows. No group is left if one of their values is not finite."""
        magnitudes = _magnitudes(block)
        smallest = min(self.ternary)
        largest = _sizes(magnitudes, smallest)
        if largest.max() >= _NOT_FINITE[magnitudes.itemsize]:
            self.ternary.clear()
            return
        if smallest in self.binary and _all_equal(magnitudes, smallest):
            self.binary = {group for group in self.binary if _all_equal(largest, group // smallest)}
        else:
            self.binary.clear()
            if not _on_ternary(magnitudes, largest):
                self.ternary.clear()
                return
        self.ternary = {group for group in self.ternary if _on_ternary(largest, _sizes(largest, group // smallest))}
        self._note_sizes(largest.view(block.dtype))

    def best(self, tensor_scale: bool) -> Grid | None:
        if not self.sizes:
            return None
        if self.binary and self.exact[1]:
            return Grid(1, max(self.binary), False)
        if tensor_scale and len(self.sizes) == 1:
            return Grid(TERNARY_BITS, 0, False, tensor_scale=self.sizes[0], ternary=True)
        if not self.exact[TERNARY_BITS]:
            return None
        return Grid(TERNARY_BITS, max(self.ternary), False, ternary=True)

    def _note_sizes(self, sizes: np.ndarray) -> None:
        present = sizes[sizes > 0].astype(np.float32)
        for value in (present.min(), present.max()) if present.size else ():
            if len(self.sizes) < 2 and float(value) not in self.sizes:
                self.sizes.append(float(value))
        with np.errstate(over="ignore"):
            for bits, scales in ((1, present * 2), (TERNARY_BITS, present)):
                halves = scales.astype(np.float16)
                self.exact[bits] &= bool((np.isfinite(halves) & (halves == scales)).all())


def _magnitudes(block: np.ndarray) -> np.ndarray:
    """The bits of floats without their signs: unsigned numbers in the order of the absolute values."""
    unsigned = np.dtype(f"u{block.itemsize}")
    return block.view(unsigned) & unsigned.type((1 << 8 * block.itemsize - 1) - 1)


def _sizes(magnitudes: np.ndarray, group: int) -> np.ndarray:
    """The largest of each `group` columns: [N, K] -> [N, K / group]. Along columns, numpy is twice as fast."""
    columns = np.ascontiguousarray(magnitudes.reshape(-1, group).T)
    return columns.max(axis=0).reshape(len(magnitudes), -1)


def _all_equal(magnitudes: np.ndarray, group: int) -> bool:
    """Whether each `group` columns are all the same."""
    groups = magnitudes.reshape(-1, group)
    return bool((groups == groups[:, :1]).all())


def _on_ternary(magnitudes: np.ndarray, largest: np.ndarray) -> bool:
    """Whether each value is zero or the largest of its group; [N, K] and [N, K / group]."""
    groups = magnitudes.reshape(*largest.shape, -1)
    return bool(((groups == largest[..., None]) | (groups == 0)).all())
