"""MLX checkpoints (mlx-lm), mode affine, with 1, 2, 3, 4 and 8 bits.

Tensors of a layer with K inputs, N outputs, b bits and groups of g inputs:

    weight  uint32 [N, K*b/32]                   codes along K, a dense stream of bits, lowest bits first
    scales  fp16, bf16 or float32 [N, K/g]
    biases  the same [N, K/g]

    W[n, k] = scales[n, k // g] * q[n, k] + biases[n, k // g]

so that the zero-point is -bias / scale: it is stored as one if it is a multiple of 1/16 and in range, else as the
minimum that the bias is. With 2 bits and the zero-point 1 throughout (the packs of Bonsai), weights are -1, 0, 1 or 2
times the scale: ternary where the code 3 does not occur, and in any case on the symmetric grid, whose codes 0 to 3 mean
-2 to 1, with the scales negated.
config.json has `quantization`: bits, group_size and mode of all layers, and under the names of single layers what is
otherwise there; false for those that are not quantized. The embedding is usually quantized.
Source: mlx-lm, utils.py; MLX, the documentation of mlx.core.quantize and its results (version 0.32).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import BITS, GROUPS, ZERO_UNITS, symmetric_zero
from ..errors import ConvertError
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .affine import AffineLayer, AffineReader
from .grid import Q8_BITS, TERNARY_BITS
from .method_settings import MethodSettings, either
from .per_layer import names_of
from .reader import Format
from .rows import unpack_rows

# Of MLX's own, those that the layout or Q8_0 holds.
KNOWN_BITS = (*BITS, Q8_BITS)
MODE = "affine"
SUPPORTED = f"MLX in mode {MODE} with {either(KNOWN_BITS)} bits, group_size {either(GROUPS)}"


class MLXReader(AffineReader):
    """Reads MLX layers. A layer is quantized if it has scales."""

    method = "mlx"
    mark = "scales"
    parts = ("weight", "scales", "biases")

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        super().__init__(checkpoint, file)
        self._settings = MethodSettings("MLX quantization", SUPPORTED, file, settings)
        _grid(self._settings)
        self._top_codes: dict[str, bool] = {}

    def _shape_of(self, module: str) -> tuple[int, int]:
        rows, words = self._checkpoint.info(f"{module}.weight").shape
        return rows, words * 32 // self._layer_grid(module)[0]

    def _layer(self, module: str, rows: int, columns: int) -> AffineLayer:
        bits, per_scale = self._layer_grid(module)
        if columns % per_scale or columns * bits % 32:
            raise ConvertError(
                f"{self._file}: layer {module} is {rows} x {columns}, expected inputs that are a multiple of "
                f"{per_scale}",
                "MLX quantizes nothing else",
            )
        self._checkpoint.info(f"{module}.weight", ("U32",), (rows, columns * bits // 32))
        for part in ("scales", "biases"):
            self._checkpoint.info(f"{module}.{part}", FLOAT_DTYPES, (rows, columns // per_scale))
        scales = self._half_scales(module, f"{module}.scales")
        # The zero-points follow from the scales before any of them is rounded.
        offsets = self._zeros_or_minima(module, bits, self._checkpoint.read(f"{module}.scales"), scales)
        zeros = offsets["zeros"]
        if bits != TERNARY_BITS or zeros is None or (zeros != ZERO_UNITS).any():
            return AffineLayer(bits, per_scale, scales, **offsets)
        if self._has_top_code(module):
            return _AroundOne(bits, per_scale, np.negative(scales) + np.float16(0), None)
        return _AroundOne(bits, per_scale, scales, None, ternary=True)

    def _codes(self, module: str, rows: int, columns: int, layer: AffineLayer) -> np.ndarray:
        codes = unpack_rows(self._checkpoint.read(f"{module}.weight"), layer.bits, columns)
        # In place: an embedding can have more than a GB of codes.
        if isinstance(layer, _AroundOne) and layer.ternary:
            codes += np.uint8(1)
        elif isinstance(layer, _AroundOne):
            codes ^= np.uint8(3)
        return codes

    def _has_top_code(self, module: str) -> bool:
        """Whether a 2-bit layer has the code 3. Its words are read once, some rows at a time."""
        if module not in self._top_codes:
            words = (words for _, words in self._checkpoint.blocks(f"{module}.weight"))
            self._top_codes[module] = any((some & some >> 1 & np.uint32(0x55555555)).any() for some in words)
        return self._top_codes[module]

    def _layer_grid(self, module: str) -> tuple[int, int]:
        """Bits and group size of a layer."""
        own = next((own for name in names_of(module) if (own := self._settings.get(name)) is not None), None)
        if own is False:
            raise ConvertError(
                f"{self._file}: quantization says that layer {module} is not quantized, but the checkpoint has "
                f"{module}.scales, expected none",
                "the tensors and config.json do not belong together",
            )
        if own is None or own is True:
            return _grid(self._settings)
        values = {**self._settings.values, **own} if isinstance(own, dict) else {}
        return _grid(MethodSettings(f"MLX quantization of layer {module}", SUPPORTED, self._file, values))

    def _zeros_or_minima(
        self, module: str, bits: int, scales: np.ndarray, halves: np.ndarray
    ) -> dict[str, np.ndarray | None]:
        """As AffineLayer has them. scales: as the checkpoint has them; halves: as they are stored.

        The quotient is exact where it is a multiple of 1/16: it is rounded to 53 bits, and no other one of numbers of
        at most 24 bits comes so near to a multiple. Any zero-point does where scale and bias are 0: for 2 bits 1 if
        that is the one of all others.
        """
        name = f"{module}.biases"
        exact, points = scales.astype(np.float64), np.full(scales.shape, symmetric_zero(bits) / ZERO_UNITS)
        with np.errstate(divide="ignore", invalid="ignore"):
            biases = self._checkpoint.read(name).astype(np.float64)
            np.divide(-biases, exact, out=points, where=(used := (exact != 0) | (biases != 0)))
        if bits == TERNARY_BITS and (points[used] == 1).all():
            points[~used] = 1
        return self._offsets(module, name, points, halves, biases, bits)


class _AroundOne(AffineLayer):
    """2 bits with the zero-point 1, in terms of the symmetric grid: code + 1 if ternary, else 3 - code."""


def _grid(settings: MethodSettings) -> tuple[int, int]:
    """Bits and group size that the settings say. Raises ConvertError for others than those supported."""
    bits, group_size = settings.one_of("bits", KNOWN_BITS), settings.one_of("group_size", GROUPS)
    settings.one_of("mode", (MODE,), MODE)
    return bits, group_size


# mlx-lm writes `quantization`, and later the same again as quantization_config, without a quant_method.
FORMAT = Format((MLXReader.method,), MLXReader, config_key="quantization")
