"""Calls the compiled rotation kernels from Python, with numpy arrays in and out.

All arithmetic is the kernels' own. `Rotation` says how rows are rotated, `NativeRotations` does it in this process;
worker/rotation.py does the same in another one.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .interface import ROTATION, ROTATION_KERNEL
from .native import Library
from .native_rows import NativeRows

CRotation, CKernel = ROTATION.as_ctypes(), ROTATION_KERNEL.as_ctypes()


@dataclass(frozen=True)
class Rotation:
    """y = H(signs * P x), as `struct tmac_rotation` has it.

    signs  float32 [width] of +-1, or None
    """

    width: int
    block: int
    signs: np.ndarray | None = None
    repeats: int = 1
    groups: int = 1
    head: int = 1

    @property
    def scale(self) -> float:
        return float(np.float32(1 / np.sqrt(self.block)))

    def numbers(self) -> dict[str, float]:
        """The fields of the C structure that are numbers."""
        return {field.name: getattr(self, field.name) for field in ROTATION.fields if field.is_number}


class NativeRotations(NativeRows):
    """The rotation kernels of a library. Checks nothing."""

    SYMBOL, KIND = "rotation", "rotation kernel"

    def __init__(self, library: Library):
        super().__init__(library, CKernel)
        self.c_select.argtypes = [ctypes.c_uint32]
        for function in (library.c.tmac_rotate, library.c.tmac_rotate_back):
            function.restype = None
            function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2 + [ctypes.c_void_p]

    def select(self, cpu_features: int | None = None) -> str:
        """The name of the kernel that dispatch chooses."""
        return self.c_select(self.features_or_own(cpu_features)).contents.name.decode()

    def rotate(self, name: str, rotation: Rotation, x: np.ndarray, *, back: bool = False) -> np.ndarray:
        """float32 [rows, width]: the rows of x, of the same shape, rotated; or rotated back."""
        y = np.full_like(x, np.nan)
        signs = None if rotation.signs is None else rotation.signs.ctypes.data
        c_rotation = CRotation(**rotation.numbers(), signs=signs)
        function = self.library.c.tmac_rotate_back if back else self.library.c.tmac_rotate
        arguments = ctypes.addressof(c_rotation), ctypes.addressof(self.row(name))
        for from_row, to_row in zip(x, y):
            # In two calls, as threads share a row.
            edges = 0, rotation.width // rotation.block // 2, rotation.width // rotation.block
            for first, last in pairwise(edges):
                function(*arguments, from_row.ctypes.data, first, last, to_row.ctypes.data)
        return y
