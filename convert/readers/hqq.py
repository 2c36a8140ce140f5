"""HQQ checkpoints (hqq, transformers) in safetensors, axis 1, with 1, 2, 3, 4 and 8 bits.

Tensors of a layer with K inputs, N outputs and groups of g inputs; R = N * K / g rows of groups, in the order of W:

    W_q    [R / c, g] with c rows of codes in each element, the first row in the highest bits of the first R / c:
           8bit_u8, 4bit_u8, 2bit_u8, 1bit_u8: uint8 with c = 1, 2, 4, 8; 3bit_32: int32, c = 10, R filled up to that
    scale  [R, 1], zero [R, 1]: fp16, bf16 or float32
    nbits, group_size, axis, shape, packing, view_as_float, ...: one small tensor each, text as bytes

    W = (q - zero) * scale, then reshaped to [N, K]

The zero-points are floats; those with a fraction of sixteenths have a place in the layout. With view_as_float the bits
of W_q are called floats. nbits 1.58 are 2-bit codes of which one is not used.
Source: hqq, core/quantize.py (HQQLinear.state_dict), core/bitpack.py and core/utils.py, version 0.2.8.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import GROUPS
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .grid import Grid, check_stored_shape, exact_halves, exact_zeros, in_stored_groups, is_known_group, stored_group

# packing: bits of a code, rows of codes in an element, the element
PACKINGS = {
    "8bit_u8": (8, 1, np.uint8),
    "4bit_u8": (4, 2, np.uint8),
    "3bit_32": (3, 10, np.uint32),
    "2bit_u8": (2, 4, np.uint8),
    "1bit_u8": (1, 8, np.uint8),
}
NBITS = {8: 8, 4: 4, 3: 3, 2: 2, 1: 1, 1.58: 2}
SUPPORTED = (
    f"HQQ with axis 1, nbits {', '.join(map(str, sorted(NBITS)))}, group_size a multiple of {GROUPS[0]}, zero-points "
    "that are multiples of 1/16"
)
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
_HINT = (
    "T-MAC stores zero-points in sixteenths and never rounds them silently; HQQ leaves fractions unless it is run "
    "with optimize=False and round_zero=True; use that, or a GPTQ or AWQ checkpoint of the model"
)
# Each has one number or a short text; anything longer is not what it should be.
_MAX_META = 64
# Bounds the temporaries of 3-bit codes.
_BLOCK_ELEMENTS = 1 << 16


class HQQReader:
    """Reads HQQ layers. What a layer is, its own tensors say; the configuration only says that it is HQQ."""

    method = "hqq"
    activations = None

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        self._checkpoint = checkpoint

    def has(self, module: str) -> bool:
        return f"{module}.W_q" in self._checkpoint

    def names(self, module: str) -> list[str]:
        found = (f"{module}.{part}" for part in ("W_q", "scale", "zero", *META))
        return [name for name in found if name in self._checkpoint]

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads all but the codes. Raises ConvertError as `read` does."""
        bits, per_scale = self._layer(module, rows, columns)
        _, zeros = self._scales_and_zeros(module, rows, columns, bits, per_scale)
        return Grid(bits, stored_group(columns, per_scale, bits), zeros is not None)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer as QuantLinear of `rows` outputs and `columns` inputs.

        Raises ConvertError for wrong shapes or dtypes, groups along outputs (axis 0), scales that fp16 cannot hold
        exactly, and zero-points that are not multiples of 1/16 in range.
        """
        bits, per_scale = self._layer(module, rows, columns)
        scales, zeros = self._scales_and_zeros(module, rows, columns, bits, per_scale)
        codes = self._codes(module, rows * columns // per_scale, per_scale).reshape(rows, columns)
        return in_stored_groups(codes, scales, zeros, bits, per_scale)

    def notes(self) -> list[str]:
        return []

    def _layer(self, module: str, rows: int, columns: int) -> tuple[int, int]:
        """Bits and columns per scale of a layer; checks everything else that its small tensors say."""
        self._expect(module, "axis", 1)
        for name in ("quant_scale", "quant_zero"):
            if f"{module}.{name}" in self._checkpoint:
                self._expect(module, name, 0)
        nbits = round(self._number(module, "nbits"), 2)
        if nbits not in NBITS:
            self._refuse(module, "nbits", nbits)
        bits, packing = NBITS[nbits], self._packing(module)
        if PACKINGS[packing][0] != bits:
            self._refuse(module, "packing", packing)
        per_scale = self._number(module, "group_size")
        if per_scale == -1 or not is_known_group(per_scale) or columns % per_scale:
            self._refuse(module, "group_size", per_scale)
        check_stored_shape(self._checkpoint, f"{module}.shape", rows, columns)
        self._check_packed(module, packing, rows * columns // per_scale, per_scale)
        return bits, per_scale

    def _expect(self, module: str, name: str, value: int) -> None:
        found = self._number(module, name)
        if found != value:
            self._refuse(module, name, found)

    def _number(self, module: str, name: str) -> int | float:
        """A scalar; a whole number as int."""
        self._checkpoint.info(f"{module}.{name}", ("I32", "I64", "U8", "F32"), ())
        value = self._checkpoint.read(f"{module}.{name}").item()
        return int(value) if math.isfinite(value) and value == int(value) else value

    def _packing(self, module: str) -> str:
        info = self._checkpoint.info(f"{module}.packing", ("U8",))
        long = info.nbytes > _MAX_META
        packing = "" if long else self._checkpoint.read(f"{module}.packing").tobytes().decode("latin-1")
        if packing not in PACKINGS:
            self._refuse(module, "packing", f"{info.nbytes} bytes" if long else packing)
        return packing

    def _refuse(self, module: str, name: str, value: Any) -> None:
        raise ConvertError(
            f"{self._checkpoint.info(f'{module}.{name}').file}: layer {module} is HQQ with {name} {value!r}, which is "
            "not supported",
            f"supported: {SUPPORTED}",
        )

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

    def _codes(self, module: str, groups: int, per_scale: int) -> np.ndarray:
        """uint8 [R, g]."""
        bits, count, element = PACKINGS[self._packing(module)]
        name = f"{module}.W_q"
        stored = self._checkpoint.read(name)
        if self._checkpoint.info(name).dtype == "BF16":
            stored = (stored.view(np.uint32) >> 16).astype(np.uint16)
        packed = stored.reshape(-1).view(element).reshape(-1, per_scale)
        lines = len(packed)
        codes = np.empty((count * lines, per_scale), np.uint8)
        step = max(1, _BLOCK_ELEMENTS // per_scale)
        for start in range(0, lines, step):
            block = packed[start : start + step]
            for part in range(count):
                first = part * lines + start
                codes[first : first + len(block)] = block >> bits * (count - 1 - part) & ((1 << bits) - 1)
        return codes[:groups]

    def _scales_and_zeros(
        self, module: str, rows: int, columns: int, bits: int, per_scale: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Scales fp16 [N, K/g], zero-points in 4.4 fixed point [N, K/g], None if symmetric."""
        groups = columns // per_scale
        values = []
        for name in (f"{module}.scale", f"{module}.zero"):
            self._checkpoint.info(name, FLOAT_DTYPES, (rows * groups, 1))
            values.append(self._checkpoint.read(name).reshape(rows, groups))
        name = f"{module}.scale"
        scales = exact_halves(self._checkpoint.info(name), name, values[0])
        name = f"{module}.zero"
        return scales, exact_zeros(self._checkpoint.info(name), name, values[1], bits, _HINT)
