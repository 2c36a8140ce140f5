"""compressed-tensors checkpoints (llm-compressor, vLLM) with whole-number weights, packed or as int8.

Tensors of a layer with K inputs, N outputs, b bits and groups of g inputs, G = ceil(K/g) of them (1 for a channel):

    weight_packed      int32 [N, w], format pack-quantized: q along K, lowest bits first
    weight             int8  [N, K], formats int-quantized and naive-quantized: q - 2**(b-1)
    weight_scale       fp16 or bf16 [N, G]; [1] or [] if the layer has one scale
    weight_zero_point  int32 [w, G], packed as weight_packed is, but along N; or int8 [N, G], z - 2**(b-1);
                       absent: z = 2**(b-1)
    weight_shape       int64 [2], N and K
    weight_g_idx       int32 [K], the group of each input, if they are in another order; -1 throughout means none

    W[n, k] = weight_scale[n, k // g] * (q[n, k] - z[n, k // g])

3-bit codes have two packings: 32 codes in 3 words (since version 0.17), or 10 in each word, its top bits unused. The
width of weight_packed says which: w = ceil(3 K / 32) or ceil(K / 10).
Source: compressed-tensors, compressors/pack_quantized and compressors/naive_quantized, versions 0.15 and 0.20.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import symmetric_zero
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .compressed_schemes import Scheme, Schemes
from .grid import Grid, check_stored_shape, column_order, exact_halves, in_stored_groups, stored_group
from .rows import unpack_rows
from .words import Packing

PARTS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
# What is there for activations, which are not converted.
ACTIVATION_PARTS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
# The scales of a quantized cache lie beside the projection that makes its entries.
CACHE_PARTS = {"q_proj": ("q_scale",), "k_proj": ("k_scale", "k_zero_point"), "v_proj": ("v_scale", "v_zero_point")}
_CONTRADICTION = "the tensors and quantization_config do not belong together"
# Bounds the copies of reordered codes.
_BLOCK_ROWS = 64


class CompressedTensorsReader:
    """Reads compressed-tensors layers. Zero-points that are all 2**(bits-1) make a layer symmetric."""

    method = "compressed-tensors"
    activations = None

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        self._checkpoint = checkpoint
        self._file = file
        self._schemes = Schemes(settings, file)

    def has(self, module: str) -> bool:
        weight = f"{module}.weight"
        is_plain = weight in self._checkpoint and self._checkpoint.info(weight).dtype == "I8"
        return is_plain or f"{module}.weight_packed" in self._checkpoint

    def names(self, module: str) -> list[str]:
        parent, _, own = module.rpartition(".")
        codes = "weight_packed" if f"{module}.weight_packed" in self._checkpoint else "weight"
        found = [f"{module}.{part}" for part in (codes, *PARTS, *ACTIVATION_PARTS)]
        found += [f"{parent}.{part}" for part in CACHE_PARTS.get(own, ())]
        return [name for name in found if name in self._checkpoint]

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads only zero-points, scales and g_idx. Raises ConvertError as `read` does."""
        scheme = self._scheme(module)
        self._check_shapes(module, scheme, rows, columns)
        self._scales(module, scheme, rows, columns)
        zeros = self._zeros(module, scheme, rows, columns)
        order = self._order(module, scheme, columns)
        group = stored_group(columns, _per_scale(scheme, columns), scheme.bits)
        return Grid(scheme.bits, group, zeros is not None, column_order=order)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer as QuantLinear of `rows` outputs and `columns` inputs, these in the order that the grid says.

        Raises ConvertError for wrong shapes or dtypes, scales that fp16 cannot hold exactly, codes beyond their bits,
        and groups that do not have their number of inputs.
        """
        scheme = self._scheme(module)
        self._check_shapes(module, scheme, rows, columns)
        scales, zeros = self._scales(module, scheme, rows, columns), self._zeros(module, scheme, rows, columns)
        codes, order = self._codes(module, scheme, columns), self._order(module, scheme, columns)
        codes = codes if order is None else _reordered(codes, order)
        return in_stored_groups(codes, scales, zeros, scheme.bits, _per_scale(scheme, columns))

    def notes(self) -> list[str]:
        return self._schemes.notes()

    def _scheme(self, module: str) -> Scheme:
        scheme = self._schemes.of(module)
        if scheme is None:
            raise ConvertError(
                f"{self._file}: layer {module} is quantized, but config_groups and ignore leave it out, expected a "
                "target that fits it",
                _CONTRADICTION,
            )
        wanted = f"{module}.weight{'_packed' if scheme.packed else ''}"
        other = f"{module}.weight{'' if scheme.packed else '_packed'}"
        if wanted not in self._checkpoint:
            raise ConvertError(
                f"{self._checkpoint.info(other).file}: tensor {other} is not what the format of its config group asks "
                f"for, expected {wanted}",
                _CONTRADICTION,
            )
        return scheme

    def _check_shapes(self, module: str, scheme: Scheme, rows: int, columns: int) -> None:
        if f"{module}.weight_shape" in self._checkpoint:
            check_stored_shape(self._checkpoint, f"{module}.weight_shape", rows, columns)
        if not scheme.packed:
            self._checkpoint.info(f"{module}.weight", ("I8",), (rows, columns))
            return
        words = self._packing(module, scheme, columns).words(columns, scheme.bits)
        self._checkpoint.info(f"{module}.weight_packed", ("I32",), (rows, words))

    def _packing(self, module: str, scheme: Scheme, columns: int) -> Packing:
        """Whether words have unused bits. Raises ConvertError if few, odd inputs leave both ways open."""
        if 32 % scheme.bits == 0:
            return Packing.DENSE
        dense, padded = (way.words(columns, scheme.bits) for way in (Packing.DENSE, Packing.PADDED))
        info = self._checkpoint.info(f"{module}.weight_packed")
        if dense == padded and columns > 32 // scheme.bits:
            raise ConvertError(
                f"{info.file}: tensor {module}.weight_packed of {columns} inputs has {dense} words in both packings of "
                f"{scheme.bits}-bit codes, expected inputs that tell them apart",
                "any multiple of 32 inputs does",
            )
        return Packing.PADDED if info.shape[-1:] == (padded,) and padded != dense else Packing.DENSE

    def _codes(self, module: str, scheme: Scheme, columns: int) -> np.ndarray:
        """uint8 [N, K]."""
        if scheme.packed:
            words = self._checkpoint.read(f"{module}.weight_packed").view(np.uint32)
            return unpack_rows(words, scheme.bits, columns, self._packing(module, scheme, columns))
        return self._unsigned(f"{module}.weight", scheme)

    def _unsigned(self, name: str, scheme: Scheme) -> np.ndarray:
        """int8 codes or zero-points as uint8, 2**(bits-1) larger."""
        codes = self._checkpoint.read(name).view(np.uint8) + np.uint8(1 << (scheme.bits - 1))
        if codes.size and codes.max() >> scheme.bits:
            limit = 1 << (scheme.bits - 1)
            raise ConvertError(
                f"{self._checkpoint.info(name).file}: tensor {name} has values that do not fit {scheme.bits} bits, "
                f"expected {-limit} to {limit - 1}",
                "the tensors and num_bits do not belong together",
            )
        return codes

    def _scales(self, module: str, scheme: Scheme, rows: int, columns: int) -> np.ndarray:
        """fp16 [N, G]; exactly the checkpoint's, or ConvertError."""
        name = f"{module}.weight_scale"
        info = self._checkpoint.info(name, FLOAT_DTYPES, self._shape(name, scheme, rows, columns))
        scales = exact_halves(info, name, self._checkpoint.read(name))
        return np.broadcast_to(scales.reshape(-1, 1), (rows, 1)) if scheme.per_scale == 0 else scales

    def _zeros(self, module: str, scheme: Scheme, rows: int, columns: int) -> np.ndarray | None:
        """Zero-points in 4.4 fixed point [N, G], uint8 or, for 8 bits, uint16; None if symmetric."""
        name = f"{module}.weight_zero_point"
        if scheme.symmetric and name not in self._checkpoint:
            return None
        info = self._checkpoint.info(name, ("I8", "I32"))
        if info.dtype == "I8":
            self._checkpoint.info(name, shape=self._shape(name, scheme, rows, columns))
            zeros = self._unsigned(name, scheme)
        else:
            packing = self._packing(module, scheme, columns) if scheme.packed else Packing.DENSE
            groups = -(-columns // _per_scale(scheme, columns))
            self._checkpoint.info(name, shape=(packing.words(rows, scheme.bits), groups))
            words = np.ascontiguousarray(self._checkpoint.read(name).view(np.uint32).T)
            zeros = unpack_rows(words, scheme.bits, rows, packing).T
        if (zeros == symmetric_zero(scheme.bits) // 16).all():
            return None
        if scheme.per_scale == 0:
            zeros = np.broadcast_to(zeros.reshape(-1, 1), (rows, 1))
        return zeros.astype(np.uint16) << 4 if scheme.bits == 8 else zeros << 4

    def _shape(self, name: str, scheme: Scheme, rows: int, columns: int) -> tuple[int, ...]:
        if scheme.per_scale == 0:
            return () if name in self._checkpoint and self._checkpoint.info(name).shape == () else (1,)
        return rows, -(-columns // _per_scale(scheme, columns))

    def _order(self, module: str, scheme: Scheme, columns: int) -> np.ndarray | None:
        """The inputs in the order of their groups, int64 [K]; None for the order that they have.

        As in the reference the values decide; the setting does only where there are none.
        """
        name = f"{module}.weight_g_idx"
        per_scale = _per_scale(scheme, columns)
        if name not in self._checkpoint and not (scheme.reorders and per_scale < columns):
            return None
        info = self._checkpoint.info(name, ("I32", "I64"), (columns,))
        groups = self._checkpoint.read(name)
        return None if (groups == -1).all() else column_order(f"{info.file}: tensor {name}", groups, per_scale)


def _per_scale(scheme: Scheme, columns: int) -> int:
    return scheme.per_scale if scheme.per_scale > 0 else columns


def _reordered(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Column i of the result is column order[i]."""
    out = np.empty_like(codes)
    for start in range(0, len(codes), _BLOCK_ROWS):
        out[start : start + _BLOCK_ROWS] = np.take(codes[start : start + _BLOCK_ROWS], order, axis=1)
    return out
