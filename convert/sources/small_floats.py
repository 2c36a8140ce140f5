"""Floats of 8 bits with scales beside them, as some recipes leave layers beside codes: the same as BF16.

In: a checkpoint. Out: one in which such a weight is BF16 and its scales are not there: values are multiplied and
rounded when they are read. What has no such scales stays as it is, for others to refuse.

W = F8_E4M3 value * scale; scales are `weight_scale` (compressed-tensors) or `weight_scale_inv` (transformers): one for
the tensor, one a row, or one a block of 128 x 128.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo, nearest_bfloat16

DTYPE, AS_DTYPE = "F8_E4M3", "BF16"
WEIGHT, SCALES, ASIDE = ".weight", (".weight_scale", ".weight_scale_inv"), ".input_scale"
BLOCK = 128


def widened(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, unless it has such weights."""
    scales = {}
    for name, info in checkpoint.tensors.items():
        if info.dtype == DTYPE and name.endswith(WEIGHT) and len(info.shape) == 2:
            layer = name.removesuffix(WEIGHT)
            found = next((layer + part for part in SCALES if layer + part in checkpoint), None)
            if found is not None and _fits(checkpoint.tensors[found], info.shape):
                scales[name] = found
    return WidenedCheckpoint(checkpoint, scales) if scales else checkpoint


def _fits(scale: TensorInfo, shape: tuple[int, ...]) -> bool:
    return scale.dtype in FLOAT_DTYPES and scale.shape in (*_SINGLE, *_per_row(shape), _blocks(shape))


_SINGLE = ((), (1,))


def _per_row(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return (shape[:1], (shape[0], 1))


def _blocks(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // BLOCK) for size in shape)


class WidenedCheckpoint(Checkpoint):
    """See above. `scales`: by the names of the weights the tensors of their scales."""

    def __init__(self, original: Checkpoint, scales: dict[str, str]):
        # Not that of Checkpoint: nothing is opened here.
        self.folder, self.config_file, self.config = original.folder, original.config_file, original.config
        self._original, self._scales = original, scales
        aside = {name.removesuffix(WEIGHT) + ASIDE for name in scales} | set(scales.values())
        self.tensors = {
            name: replace(info, dtype=AS_DTYPE) if name in scales else info
            for name, info in original.tensors.items()
            if name not in aside
        }

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        if name not in self._scales:
            return super().read(name, rows)
        bits = self._original.read(name, rows)
        start, stop, _ = rows.indices(self.info(name).shape[0])
        exact = _VALUES[bits] * self._row_scales(name, start, stop)
        return nearest_bfloat16(exact)

    def scale_of(self, name: str) -> TensorInfo | None:
        """Where the scales of a weight are; None if it is none of these."""
        return self._original.info(self._scales[name]) if name in self._scales else None

    def stored(self, name: str) -> TensorInfo:
        """The tensor as it is in its file."""
        return self._original.info(name)

    def notes(self) -> list[str]:
        first, more = min(self._scales), len(self._scales) - 1
        others = f" and {more} more" if more else ""
        return [
            f"{first}{others} are floats of 8 bits times scales in the checkpoint; they were rounded to bf16, by less "
            "than 1/256 of each weight, but for those that llama.cpp's converter computes with, in f32"
        ]

    def _row_scales(self, name: str, start: int, stop: int) -> np.ndarray:
        """float32, of as many rows, and of one or all columns."""
        shape, scales = self.info(name).shape, self._original.read(self._scales[name]).astype(np.float32)
        if scales.shape in _SINGLE:
            return scales.reshape(1, 1)
        if scales.shape in _per_row(shape):
            return scales.reshape(-1, 1)[start:stop]
        blocks = scales[np.arange(start, stop) // BLOCK]
        return np.repeat(blocks, BLOCK, axis=1)[:, : shape[1]]


def _e4m3() -> np.ndarray:
    """float32 [256]: 1 sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, 127 and 255 are no numbers."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    sizes = np.where(exponent > 0, np.ldexp(8.0 + mantissa, exponent - 10), np.ldexp(1.0 * mantissa, -9))
    sizes[bits & 127 == 127] = np.nan
    return np.where(bits < 128, sizes, -sizes).astype(np.float32)


_VALUES = _e4m3()
