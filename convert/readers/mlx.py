"""MLX checkpoints (mlx-lm), mode affine, with 1, 2, 3, 4 and 8 bits.

Tensors of a layer with K inputs, N outputs, b bits and groups of g inputs:

    weight  uint32 [N, K*b/32]                   codes along K, a dense stream of bits, lowest bits first
    scales  fp16, bf16 or float32 [N, K/g]
    biases  the same [N, K/g]

    W[n, k] = scales[n, k // g] * q[n, k] + biases[n, k // g]

so that the zero-point is -bias / scale: it has a place in the layout if it is a multiple of 1/16 and in range.
config.json has `quantization`: bits, group_size and mode of all layers, and under the names of single layers what is
otherwise there; false for those that are not quantized. The embedding is usually quantized.
Source: mlx-lm, utils.py; MLX, the documentation of mlx.core.quantize and its results (version 0.32).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import symmetric_zero
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .grid import Grid, exact_halves, exact_zeros, in_stored_groups, stored_group
from .rows import unpack_rows

BITS, GROUP_SIZES = (1, 2, 3, 4, 8), (32, 64, 128)
SUPPORTED = (
    f"MLX in mode affine with {', '.join(map(str, BITS))} bits, group_size {', '.join(map(str, GROUP_SIZES))}, biases "
    "that are the scales times a multiple of 1/16"
)
_HINT = (
    "-bias / scale is the zero-point; T-MAC stores it in sixteenths and never rounds it silently; use a GPTQ or AWQ "
    "checkpoint of the model"
)


class MLXReader:
    """Reads MLX layers. A layer is quantized if it has scales."""

    method = "mlx"
    activations = None

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        self._checkpoint = checkpoint
        self._settings = settings
        self._file = file
        self._check("quantization", settings)

    def has(self, module: str) -> bool:
        return f"{module}.scales" in self._checkpoint

    def names(self, module: str) -> list[str]:
        return [f"{module}.{part}" for part in ("weight", "scales", "biases")]

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads only scales and biases. Raises ConvertError as `read` does."""
        bits, per_scale = self._layer(module, rows, columns)
        _, zeros = self._scales_and_zeros(module, bits)
        return Grid(bits, stored_group(columns, per_scale, bits), zeros is not None)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer as QuantLinear of `rows` outputs and `columns` inputs.

        Raises ConvertError for wrong shapes or dtypes, scales that fp16 cannot hold exactly, and biases that are not
        those of a zero-point in 4.4 fixed point.
        """
        bits, per_scale = self._layer(module, rows, columns)
        scales, zeros = self._scales_and_zeros(module, bits)
        codes = unpack_rows(self._checkpoint.read(f"{module}.weight"), bits, columns)
        return in_stored_groups(codes, scales, zeros, bits, per_scale)

    def notes(self) -> list[str]:
        return []

    def _layer(self, module: str, rows: int, columns: int) -> tuple[int, int]:
        """Bits and group size of a layer; checks its tensors."""
        own = self._settings.get(module)
        if own is False:
            raise ConvertError(
                f"{self._file}: quantization says that layer {module} is not quantized, but the checkpoint has "
                f"{module}.scales, expected none",
                "the tensors and config.json do not belong together",
            )
        settings = self._settings
        if own is not None and own is not True:
            settings = {**self._settings, **own} if isinstance(own, dict) else {}
            self._check(f"quantization of layer {module}", settings)
        bits, per_scale = settings["bits"], settings["group_size"]
        if columns % per_scale or columns * bits % 32:
            raise ConvertError(
                f"{self._file}: layer {module} is {rows} x {columns}, expected inputs that are a multiple of "
                f"{per_scale}",
                "MLX quantizes nothing else",
            )
        self._checkpoint.info(f"{module}.weight", ("U32",), (rows, columns * bits // 32))
        for part in ("scales", "biases"):
            self._checkpoint.info(f"{module}.{part}", FLOAT_DTYPES, (rows, columns // per_scale))
        return bits, per_scale

    def _check(self, where: str, settings: dict[str, Any]) -> None:
        allowed = {"bits": BITS, "group_size": GROUP_SIZES, "mode": ("affine",)}
        for key, values in allowed.items():
            found = settings.get(key, "affine" if key == "mode" else None)
            if not any(type(found) is type(value) and found == value for value in values):
                raise ConvertError(
                    f"{self._file}: {where} with {key} {found!r} is not supported", f"supported: {SUPPORTED}"
                )

    def _scales_and_zeros(self, module: str, bits: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Scales fp16 [N, K/g], zero-points in 4.4 fixed point [N, K/g], None if symmetric.

        The quotient is exact where it is a multiple of 1/16: it is rounded to 53 bits, and no other one of numbers of
        at most 24 bits comes so near to a multiple. Any zero-point does where scale and bias are 0.
        """
        name = f"{module}.scales"
        scales = exact_halves(self._checkpoint.info(name), name, self._checkpoint.read(name))
        name = f"{module}.biases"
        exact, points = scales.astype(np.float64), np.full(scales.shape, symmetric_zero(bits) / 16)
        with np.errstate(divide="ignore", invalid="ignore"):
            biases = self._checkpoint.read(name).astype(np.float64)
            np.divide(-biases, exact, out=points, where=(exact != 0) | (biases != 0))
        return scales, exact_zeros(self._checkpoint.info(name), name, points, bits, _HINT)
