"""The tensors of GPTQ layers, which other formats have too: AutoRound, EfficientQAT.

Tensors of a layer with K inputs, N outputs, b bits and groups of g inputs, in words of 32 bits:

    qweight  int32 [K*b/32, N]         codes along K, lowest bits first
    qzeros   int32 [ceil(K/g), N*b/32] zero-points along N, lowest bits first; version 1 stores z - 1
    scales   fp16  [ceil(K/g), N]
    g_idx    int32 or int64 [K], may be absent  group of each input, k // g unless the file has act-order

    W[n, k] = scales[g_idx[k], n] * (q[k, n] - z[g_idx[k], n])

Source: the packing code of AutoGPTQ and GPTQModel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import ConvertError
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .affine import AffineLayer, AffineReader, column_order, whole_zeros
from .gptq_settings import LayerSettings
from .rows import unpack_rows
from .words import Packing

_WRAPPED = (
    "{count} zero-points are stored as -1 in version 1 of GPTQ, where z - 1 is stored; they were read as 0, the value "
    "that wrapped around"
)


class GPTQLayers(AffineReader):
    """Reads layers with GPTQ's tensors.

    The values decide, not the `sym` flag: a layer whose zero-points are all 2**(bits-1) is symmetric (it means the
    same in fewer bytes), any other is asymmetric. With act-order the columns of a layer are sorted by group, and the
    Grid says which input each belongs to.

    Version 1 stores a zero-point of 0 as -1, in a field that has no sign. Readers of AutoGPTQ differ; as some of them
    do, the field of all ones is read as 0 here. GPTQModel subtracts a constant from a whole word, so that a 0 borrows
    from the next field, and undoes it by adding the constant.

    layer        gives the settings of a layer from its name, rows and columns
    zero_offset  what is added to a stored zero-point, 0 or 1
    subtracted   as in GPTQSettings
    """

    mark = "qweight"
    parts = ("qweight", "qzeros", "scales", "g_idx")

    def __init__(
        self,
        checkpoint: Checkpoint,
        file: Path,
        layer: Callable[[str, int, int], LayerSettings],
        *,
        packing: Packing = Packing.DENSE,
        zero_offset: int = 0,
        subtracted: Callable[[int, int], np.ndarray | None] = lambda bits, word_bits: None,
    ):
        super().__init__(checkpoint, file)
        self._settings_of = layer
        self._packing, self._zero_offset, self._subtracted = packing, zero_offset, subtracted

    def _shape_of(self, module: str) -> tuple[int, int]:
        """g_idx has the inputs, where it is there; else the words do, but where some of their bits are unused."""
        words, rows = self._checkpoint.info(f"{module}.qweight").shape
        order = self._checkpoint.tensors.get(f"{module}.g_idx")
        if order is not None and order.shape != (0,):
            return rows, order.shape[0]
        if self._packing is Packing.PADDED:
            return super()._shape_of(module)
        settings = self._settings_of(module, rows, 0)
        return rows, words * settings.word[1] // settings.bits

    def _layer(self, module: str, rows: int, columns: int) -> AffineLayer:
        settings = self._settings_of(module, rows, columns)
        self._check_tensors(module, rows, columns, settings)
        zeros = self._zeros(module, rows, settings)
        scales = self._half_scales(module, f"{module}.scales").T
        if settings.says_symmetric and zeros is not None:
            self._note_other_zeros("sym: true", module)
        order = self._column_order(module, columns, settings)
        return AffineLayer(settings.bits, settings.columns_per_scale(columns), scales, zeros, order)

    def _codes(self, module: str, rows: int, columns: int, layer: AffineLayer) -> np.ndarray:
        words = _unsigned(self._checkpoint.read(f"{module}.qweight"))
        return unpack_rows(words.T, layer.bits, columns, self._packing, layer.order)

    def _check_tensors(self, module: str, rows: int, columns: int, settings: LayerSettings) -> None:
        bits, (dtype, word_bits) = settings.bits, settings.word
        unit = self._packing.unit(bits, word_bits)
        if rows % unit or columns % unit:
            raise ConvertError(
                f"{self._file}: layer {module} is {rows} x {columns}, expected multiples of {unit}",
                f"{bits}-bit GPTQ fills whole {word_bits}-bit words",
            )
        groups = -(-columns // settings.columns_per_scale(columns))
        words_in, words_out = (self._packing.words(size, bits, word_bits) for size in (columns, rows))
        self._checkpoint.info(f"{module}.qweight", (dtype,), (words_in, rows))
        self._checkpoint.info(f"{module}.qzeros", (dtype,), (groups, words_out))
        self._checkpoint.info(f"{module}.scales", FLOAT_DTYPES, (groups, rows))

    def _column_order(self, module: str, columns: int, settings: LayerSettings) -> np.ndarray | None:
        """As Grid.column_order. The values of g_idx decide, `desc_act` only where there are none.

        Exporters for Marlin leave an empty g_idx where there is no reordering.
        """
        name, per_scale = f"{module}.g_idx", settings.columns_per_scale(columns)
        if name not in self._checkpoint or self._checkpoint.info(name).shape == (0,):
            if settings.reorders and per_scale < columns:
                raise ConvertError(
                    f"{self._file}: desc_act is true, but layer {module} has no {name} in the checkpoint, expected the "
                    "group of each input",
                    "without it the order is unknown; use a checkpoint with desc_act: false or static_groups: true",
                )
            return None
        info = self._checkpoint.info(name, ("I32", "I64"), (columns,))
        return column_order(f"{info.file}: tensor {name}", self._checkpoint.read(name), per_scale)

    def _zeros(self, module: str, rows: int, settings: LayerSettings) -> np.ndarray | None:
        """As AffineLayer.zeros."""
        bits, words = settings.bits, _unsigned(self._checkpoint.read(f"{module}.qzeros"))
        zeros = self._packing.unpack(words, bits, rows)
        if self._zero_offset:
            largest = (1 << bits) - 1
            if wrapped := int(np.count_nonzero(zeros == largest)):
                self._note(_WRAPPED, module, wrapped)
            constants = self._subtracted(bits, settings.word[1])
            if constants is None:
                zeros = zeros + np.uint8(1) & np.uint8(largest)
            else:
                zeros = self._packing.unpack(words + np.resize(constants, words.shape[1]), bits, rows)
        return whole_zeros(zeros.T, bits)


def _unsigned(words: np.ndarray) -> np.ndarray:
    return words.view(words.dtype.str.replace("i", "u"))
