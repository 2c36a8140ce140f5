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

from ..errors import ConvertError
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .affine import AffineLayer, AffineReader, check_stored_shape, column_order, present, whole_zeros
from .compressed_schemes import Scheme, Schemes
from .per_layer import Layouts
from .reader import Format
from .rows import unpack_rows
from .words import Packing

PLAIN, PACKED = "weight", "weight_packed"
PARTS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
# What is there for activations, which are not converted.
ACTIVATION_PARTS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
# The scales of a quantized cache lie beside the projection that makes its entries.
CACHE_PARTS = {"q_proj": ("q_scale",), "k_proj": ("k_scale", "k_zero_point"), "v_proj": ("v_scale", "v_zero_point")}
_CONTRADICTION = "the tensors and quantization_config do not belong together"


class CompressedTensorsReader(AffineReader):
    """Reads compressed-tensors layers. Zero-points that are all 2**(bits-1) make a layer symmetric."""

    method = "compressed-tensors"

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        super().__init__(checkpoint, file)
        self._schemes = Schemes(settings, file, Layouts(checkpoint.tensors))

    def has(self, module: str) -> bool:
        plain = f"{module}.{PLAIN}"
        is_plain = plain in self._checkpoint and self._checkpoint.info(plain).dtype == "I8"
        return is_plain or f"{module}.{PACKED}" in self._checkpoint

    def names(self, module: str) -> list[str]:
        parent, _, own = module.rpartition(".")
        codes = PACKED if f"{module}.{PACKED}" in self._checkpoint else PLAIN
        found = present(self._checkpoint, module, (codes, *PARTS, *ACTIVATION_PARTS))
        return found + present(self._checkpoint, parent, CACHE_PARTS.get(own, ()))

    def notes(self) -> list[str]:
        return [*self._schemes.notes(), *super().notes()]

    def _shape_of(self, module: str) -> tuple[int, int]:
        stored = f"{module}.weight_shape"
        if stored in self._checkpoint:
            self._checkpoint.info(stored, ("I64", "I32"), (2,))
            rows, columns = self._checkpoint.read(stored).tolist()
            return rows, columns
        if f"{module}.{PACKED}" in self._checkpoint:
            return super()._shape_of(module)
        rows, columns = self._checkpoint.info(f"{module}.{PLAIN}").shape
        return rows, columns

    def _layer(self, module: str, rows: int, columns: int) -> AffineLayer:
        scheme = self._scheme(module, rows, columns)
        self._check_codes(module, scheme, rows, columns)
        scales = self._scales(module, scheme, rows, columns)
        zeros = self._zeros(module, scheme, rows, columns)
        order = self._order(module, scheme, columns)
        return AffineLayer(scheme.bits, scheme.columns_per_scale(columns), scales, zeros, order)

    def _codes(self, module: str, rows: int, columns: int, layer: AffineLayer) -> np.ndarray:
        scheme = self._scheme(module, rows, columns)
        if scheme.packed:
            words = self._checkpoint.read(f"{module}.{PACKED}").view(np.uint32)
            return unpack_rows(words, layer.bits, columns, self._packing(module, scheme, columns), layer.order)
        codes = self._unsigned(f"{module}.{PLAIN}", scheme)
        return codes if layer.order is None else np.take(codes, layer.order, axis=1)

    def _scheme(self, module: str, rows: int, columns: int) -> Scheme:
        """The scheme of a layer that has tensors of it; of several the one that they fit.

        Raises ConvertError if scheme and tensors do not fit.
        """
        schemes = self._schemes.of(module)
        fitting = [scheme for scheme in schemes if scheme and self._has_shapes(module, scheme, rows, columns)]
        if len(dict.fromkeys(fitting)) > 1:
            found = " and ".join(f"{scheme.bits} bits, group_size {scheme.group_size}" for scheme in fitting)
            raise ConvertError(
                f"{self._file}: config_groups has {found} for the same target, and layer {module} could be either, "
                "expected one group for it",
                _CONTRADICTION,
            )
        scheme = fitting[0] if fitting else schemes[0]
        if scheme is None:
            raise ConvertError(
                f"{self._file}: layer {module} is quantized, but config_groups and ignore leave it out, expected a "
                "target that fits it",
                _CONTRADICTION,
            )
        wanted, other = (PACKED, PLAIN) if scheme.packed else (PLAIN, PACKED)
        if f"{module}.{wanted}" not in self._checkpoint:
            raise ConvertError(
                f"{self._checkpoint.info(f'{module}.{other}').file}: tensor {module}.{other} is not what the format of "
                f"its config group asks for, expected {module}.{wanted}",
                _CONTRADICTION,
            )
        return scheme

    def _has_shapes(self, module: str, scheme: Scheme, rows: int, columns: int) -> bool:
        """Whether codes and scales of the layer have shapes of this scheme."""
        tensors, name = self._checkpoint.tensors, f"{module}.weight_scale"
        codes = tensors.get(f"{module}.{PACKED if scheme.packed else PLAIN}")
        ways = (Packing.DENSE, Packing.PADDED) if scheme.packed else ()
        widths = [way.words(columns, scheme.bits) for way in ways] or [columns]
        if codes is None or codes.shape not in [(rows, width) for width in widths] or name not in tensors:
            return False
        return tensors[name].shape == self._shape(name, scheme, rows, columns)

    def _check_codes(self, module: str, scheme: Scheme, rows: int, columns: int) -> None:
        if f"{module}.weight_shape" in self._checkpoint:
            check_stored_shape(self._checkpoint, f"{module}.weight_shape", rows, columns)
        if not scheme.packed:
            self._checkpoint.info(f"{module}.{PLAIN}", ("I8",), (rows, columns))
            return
        words = self._packing(module, scheme, columns).words(columns, scheme.bits)
        self._checkpoint.info(f"{module}.{PACKED}", ("I32",), (rows, words))

    def _packing(self, module: str, scheme: Scheme, columns: int) -> Packing:
        """Whether words have unused bits. Raises ConvertError if few, odd inputs leave both ways open."""
        if 32 % scheme.bits == 0:
            return Packing.DENSE
        dense, padded = (way.words(columns, scheme.bits) for way in (Packing.DENSE, Packing.PADDED))
        info = self._checkpoint.info(f"{module}.{PACKED}")
        if dense == padded and columns > 32 // scheme.bits:
            raise ConvertError(
                f"{info.file}: tensor {module}.{PACKED} of {columns} inputs has {dense} words in both packings of "
                f"{scheme.bits}-bit codes, expected inputs that tell them apart",
                "any multiple of 32 inputs does",
            )
        return Packing.PADDED if info.shape[-1:] == (padded,) and padded != dense else Packing.DENSE

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
        """As AffineLayer.scales."""
        name = f"{module}.weight_scale"
        self._checkpoint.info(name, FLOAT_DTYPES, self._shape(name, scheme, rows, columns))
        return _per_row(self._half_scales(module, name), scheme, rows)

    def _zeros(self, module: str, scheme: Scheme, rows: int, columns: int) -> np.ndarray | None:
        """As AffineLayer.zeros."""
        name = f"{module}.weight_zero_point"
        if scheme.symmetric and name not in self._checkpoint:
            return None
        info = self._checkpoint.info(name, ("I8", "I32"))
        if info.dtype == "I8":
            self._checkpoint.info(name, shape=self._shape(name, scheme, rows, columns))
            zeros = self._unsigned(name, scheme)
        else:
            packing = self._packing(module, scheme, columns) if scheme.packed else Packing.DENSE
            groups = -(-columns // scheme.columns_per_scale(columns))
            self._checkpoint.info(name, shape=(packing.words(rows, scheme.bits), groups))
            zeros = unpack_rows(self._checkpoint.read(name).view(np.uint32).T, scheme.bits, rows, packing).T
        return whole_zeros(_per_row(zeros, scheme, rows), scheme.bits)

    def _shape(self, name: str, scheme: Scheme, rows: int, columns: int) -> tuple[int, ...]:
        """What the shape of scales and of zero-points in int8 should be."""
        if scheme.group_size == 0:
            return () if self._checkpoint.info(name).shape == () else (1,)
        return rows, -(-columns // scheme.columns_per_scale(columns))

    def _order(self, module: str, scheme: Scheme, columns: int) -> np.ndarray | None:
        """As Grid.column_order. The values of g_idx decide, as in the reference; `actorder` only where it is absent."""
        name, per_scale = f"{module}.weight_g_idx", scheme.columns_per_scale(columns)
        if name not in self._checkpoint and not (scheme.reorders and per_scale < columns):
            return None
        info = self._checkpoint.info(name, ("I32", "I64"), (columns,))
        groups = self._checkpoint.read(name)
        return None if (groups == -1).all() else column_order(f"{info.file}: tensor {name}", groups, per_scale)


def _per_row(values: np.ndarray, scheme: Scheme, rows: int) -> np.ndarray:
    """Scales or zero-points of the layer, [N, G], where there may be one for all of it."""
    return np.broadcast_to(values.reshape(-1, 1), (rows, 1)) if scheme.group_size == 0 else values


FORMAT = Format((CompressedTensorsReader.method,), CompressedTensorsReader)
