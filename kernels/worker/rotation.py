"""Runs rotation kernels in a worker process.

Comes in: a Worker. Goes out: `WorkerRotations`, which has the interface of `native_rotation.NativeRotations`.
"""

from __future__ import annotations

import numpy as np

from ..native_rotation import NativeRotations, Rotation
from . import NOTHING, Worker, packed_arrays
from .protocol import NAME_BYTES, ROTATING, ROTATION_ROW, ROTATION_SELECTION, operation, text_of


class WorkerRotations(NativeRotations):
    """The rotation kernels of a worker's target."""

    def __init__(self, worker: Worker):
        self.library = worker
        self.rows = worker.list_rows("list_rotations", ROTATION_ROW)

    def select(self, cpu_features: int | None = None) -> str:
        request = operation("select_rotation") + ROTATION_SELECTION.pack(self.features_or_own(cpu_features))
        return text_of(self.library.ask(request, NAME_BYTES))

    def rotate(self, name: str, rotation: Rotation, x: np.ndarray, *, back: bool = False) -> np.ndarray:
        """float32 [rows, width]: the rows of x, of the same shape, rotated; or rotated back."""
        asked = {"rows": len(x), "kernel": self.row(name).index, "is_back": int(back), "unused": 0}
        signs = NOTHING if rotation.signs is None else rotation.signs
        request = operation("rotate") + ROTATING.pack_named(rotation.numbers() | asked) + packed_arrays([signs, x])
        return np.frombuffer(self.library.ask(request, x.nbytes), np.float32).reshape(x.shape)
