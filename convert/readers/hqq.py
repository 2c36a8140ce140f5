"""HQQ checkpoints (hqq, transformers) in safetensors, axis 1, with 1, 2, 3, 4 and 8 bits.

Tensors of a layer with K inputs, N outputs and groups of g inputs; R = N * K / g rows of groups, in the order of W:

    W_q    [R / c, g] with c rows of codes in each element, the first row in the highest bits of the first R / c:
           8bit_u8, 4bit_u8, 2bit_u8, 1bit_u8: uint8 with c = 1, 2, 4, 8; 3bit_32: int32, c = 10, R filled up to that
    scale  [R, 1], zero [R, 1]: fp16, bf16 or float32
    nbits, group_size, axis, shape, packing, view_as_float, ...: one small tensor each, text as bytes

    W = (q - zero) * scale, then reshaped to [N, K]

The zero-points are floats. They are stored as such if all of a layer are sixteenths, else as minima, -zero * scale.
With view_as_float the bits of W_q are called floats. nbits 1.58 are 2-bit codes of which one is not used.
Source: hqq, core/quantize.py (HQQLinear.state_dict), core/bitpack.py and core/utils.py, version 0.2.8.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import GROUPS
from ..errors import ConvertError
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint, row_blocks
from .affine import AffineLayer, AffineReader, check_stored_shape
from .grid import is_known_group
from .method_settings import MethodSettings, either
from .reader import Format

# packing -> bits of a code, rows of codes in an element, dtype of the element
PACKINGS = {
    "8bit_u8": (8, 1, np.uint8),
    "4bit_u8": (4, 2, np.uint8),
    "3bit_32": (3, 10, np.uint32),
    "2bit_u8": (2, 4, np.uint8),
    "1bit_u8": (1, 8, np.uint8),
}
# nbits -> bits of a code.
NBITS = {8: 8, 4: 4, 3: 3, 2: 2, 1: 1, 1.58: 2}
SUPPORTED = f"HQQ with axis 1, nbits {either(sorted(NBITS))}, group_size a multiple of {GROUPS[0]}"
# The small tensors.
META = (
    "nbits",
    "group_size",
    "shape",
    "axis",
    "packing",
    "unpack_view_dtype",
    "view_as_float",
    "quant_scale",
    "quant_zero",
    "compute_dtype",
    "offload_meta",
    "encoded_state_dict",
    "stores_quant_config",
    "channel_wise",
    "optimize",
    "round_zero",
)
# Each has one number or a short text; anything longer is not what it should be.
_MAX_META = 64
# Bounds the temporaries of 3-bit codes.
_BLOCK_ELEMENTS = 1 << 16


class HQQReader(AffineReader):
    """Reads HQQ layers. What a layer is, its own tensors say; the configuration only says that it is HQQ."""

    method = "hqq"
    mark = "W_q"
    parts = ("W_q", "scale", "zero", *META)

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        super().__init__(checkpoint, file)

    def _shape_of(self, module: str) -> tuple[int, int]:
        self._checkpoint.info(f"{module}.shape", shape=(2,))
        rows, columns = map(int, self._checkpoint.read(f"{module}.shape").tolist())
        return rows, columns

    def _layer(self, module: str, rows: int, columns: int) -> AffineLayer:
        bits, per_scale = self._meta(module, rows, columns)
        groups = columns // per_scale
        for name in (f"{module}.scale", f"{module}.zero"):
            self._checkpoint.info(name, FLOAT_DTYPES, (rows * groups, 1))
        scales = self._half_scales(module, f"{module}.scale").reshape(rows, groups)
        points = self._checkpoint.read(f"{module}.zero").reshape(rows, groups)
        with np.errstate(invalid="ignore"):
            minima = -points.astype(np.float64) * scales.astype(np.float64)
        offsets = self._offsets(module, f"{module}.zero", points, scales, minima, bits)
        return AffineLayer(bits, per_scale, scales, **offsets)

    def _codes(self, module: str, rows: int, columns: int, layer: AffineLayer) -> np.ndarray:
        bits, count, element = PACKINGS[self._packing(module)]
        name, per_scale = f"{module}.W_q", layer.per_scale
        stored = self._checkpoint.read(name)
        if self._checkpoint.info(name).dtype == "BF16":
            stored = (stored.view(np.uint32) >> 16).astype(np.uint16)
        packed = stored.reshape(-1).view(element).reshape(-1, per_scale)
        codes = np.empty((count, *packed.shape), np.uint8)
        for lines in row_blocks(*packed.shape, _BLOCK_ELEMENTS):
            for part in range(count):
                codes[part, lines] = packed[lines] >> bits * (count - 1 - part) & ((1 << bits) - 1)
        # What fills up the last lines is left out.
        return codes.reshape(-1, per_scale)[: rows * columns // per_scale].reshape(rows, columns)

    def _meta(self, module: str, rows: int, columns: int) -> tuple[int, int]:
        """Bits and columns per scale of a layer; checks everything else that its small tensors say, and W_q."""
        self._expect(module, "axis", 1)
        for name in ("quant_scale", "quant_zero"):
            if f"{module}.{name}" in self._checkpoint:
                self._expect(module, name, 0)
        nbits = round(self._number(module, "nbits"), 2)
        if nbits not in NBITS:
            raise self._refusal(module, "nbits", nbits, either(sorted(NBITS)))
        bits, packing = NBITS[nbits], self._packing(module)
        if PACKINGS[packing][0] != bits:
            raise self._refusal(module, "packing", packing, f"one of {bits} bits")
        per_scale = self._number(module, "group_size")
        if per_scale == -1 or not is_known_group(per_scale) or columns % per_scale:
            raise self._refusal(module, "group_size", per_scale, f"a multiple of {GROUPS[0]} that divides {columns}")
        check_stored_shape(self._checkpoint, f"{module}.shape", rows, columns)
        self._check_packed(module, packing, rows * columns // per_scale, per_scale)
        return bits, per_scale

    def _expect(self, module: str, name: str, value: int) -> None:
        found = self._number(module, name)
        if found != value:
            raise self._refusal(module, name, found, str(value))

    def _number(self, module: str, name: str) -> int | float:
        """A scalar; a whole number as int."""
        self._checkpoint.info(f"{module}.{name}", ("I32", "I64", "U8", "F32"), ())
        value = self._checkpoint.read(f"{module}.{name}").item()
        return int(value) if math.isfinite(value) and value == int(value) else value

    def _packing(self, module: str) -> str:
        info = self._checkpoint.info(f"{module}.packing", ("U8",))
        is_long = info.nbytes > _MAX_META
        packing = "" if is_long else self._checkpoint.read(f"{module}.packing").tobytes().decode("latin-1")
        if packing not in PACKINGS:
            found = f"{info.nbytes} bytes" if is_long else packing
            raise self._refusal(module, "packing", found, either(PACKINGS))
        return packing

    def _refusal(self, module: str, name: str, value: Any, expected: str) -> ConvertError:
        file = self._checkpoint.info(f"{module}.{name}").file
        return MethodSettings(f"layer {module}: HQQ", SUPPORTED, file, {}).refusal(name, value, expected)

    def _check_packed(self, module: str, packing: str, groups: int, per_scale: int) -> None:
        """W_q by its bytes: with view_as_float it can have any dtype."""
        _, count, element = PACKINGS[packing]
        name = f"{module}.W_q"
        info = self._checkpoint.info(name, ("U8", "I32", *FLOAT_DTYPES))
        lines = -(-groups // count)
        expected = lines * per_scale * np.dtype(element).itemsize
        if info.nbytes != expected or info.shape[:1] != (lines,) or (packing != "3bit_32" and groups % count):
            raise ConvertError(
                f"{info.file}: tensor {name} has {info.nbytes} bytes in shape {list(info.shape)}, expected {expected} "
                f"in {lines} rows for {groups} groups of {per_scale} in {packing}",
                "the tensors of the layer do not belong together",
            )


FORMAT = Format((HQQReader.method,), HQQReader)
