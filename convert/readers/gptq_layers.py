"""The tensors of GPTQ layers, which other formats have too: AutoRound, EfficientQAT.

Tensors of a layer with K inputs, N outputs, b bits and groups of g inputs, in words of 32 bits:

    qweight  int32 [K*b/32, N]         codes along K, lowest bits first
    qzeros   int32 [ceil(K/g), N*b/32] zero-points along N, lowest bits first; version 1 stores z - 1
    scales   fp16  [ceil(K/g), N]
    g_idx    int32 [K], may be absent  group of each input, k // g unless the file has act-order

    W[n, k] = scales[g_idx[k], n] * (q[k, n] - z[g_idx[k], n])

Source: the packing code of AutoGPTQ and GPTQModel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...common.format import symmetric_zero
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .gptq_settings import LayerSettings
from .grid import Q8_BITS, Grid, column_order, exact_halves, in_stored_groups, stored_group
from .words import Packing

# Bounds the temporaries to what a second-level cache holds.
_BLOCK_WORDS = 1 << 15


class GPTQLayers:
    """Reads layers with GPTQ's tensors.

    The type of a layer follows its values, not the `sym` flag: a layer whose zero-points are all 2**(bits-1) is
    symmetric (it means the same in fewer bytes), any other is asymmetric. A group_size the layout does not have, but
    that is a multiple of one that it has, is stored exactly by repeating its scales. With act-order the columns of a
    layer are sorted by group, and the Grid says which input each belongs to.

    A zero-point of 0 is stored by version 1 as -1, in a field that has no sign. Of AutoGPTQ's readers some take the
    field of all ones as 0, which is what is done here. GPTQModel subtracts a constant from a whole word, so that a 0
    borrows from the next field, and adds it again in the same way.

    layer       gives the settings of a layer from its name, rows and columns
    subtracted  of GPTQSettings
    """

    activations = None

    def __init__(
        self,
        checkpoint: Checkpoint,
        file: Path,
        method: str,
        layer: Callable[[str, int, int], LayerSettings],
        *,
        packing: Packing = Packing.DENSE,
        zero_offset: int = 0,
        subtracted: Callable[[int, int], np.ndarray | None] = lambda bits, word_bits: None,
    ):
        self.method = method
        self._checkpoint, self._file, self._layer = checkpoint, file, layer
        self._packing, self._zero_offset, self._subtracted = packing, zero_offset, subtracted
        self._wrapped: dict[str, int] = {}
        self._unexpected_zeros: set[str] = set()

    def has(self, module: str) -> bool:
        return f"{module}.qweight" in self._checkpoint

    def names(self, module: str) -> list[str]:
        parts = ("qweight", "qzeros", "scales", "g_idx")
        return [name for part in parts if (name := f"{module}.{part}") in self._checkpoint]

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads only zero-points, scales and g_idx. Raises ConvertError as `read` does."""
        settings = self._checked(module, rows, columns)
        zeros = self._zeros(module, rows, settings)
        self._scales(module)
        if settings.says_symmetric and zeros is not None:
            self._unexpected_zeros.add(module)
        group = stored_group(columns, settings.columns_per_scale(columns), settings.bits)
        order = self._column_order(module, columns, settings)
        return Grid(settings.bits, group, zeros is not None, column_order=order)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer as QuantLinear of `rows` outputs and `columns` inputs.

        Raises ConvertError for wrong shapes or dtypes, scales that fp16 cannot hold exactly, and a g_idx that is not
        an order of the inputs.
        """
        settings = self._checked(module, rows, columns)
        per_scale = settings.columns_per_scale(columns)
        zeros = self._zeros(module, rows, settings)
        return in_stored_groups(
            self._codes(module, rows, columns, settings),
            self._scales(module).T,
            None if zeros is None else zeros.T,
            settings.bits,
            per_scale,
        )

    def notes(self) -> list[str]:
        found = []
        if self._wrapped:
            found.append(
                f"{sum(self._wrapped.values())} zero-points are stored as -1 in version 1 of GPTQ, where z - 1 is "
                "stored; they were read as 0, the value that wrapped around"
            )
        if self._unexpected_zeros:
            found.append(
                f"the settings say sym: true, but {len(self._unexpected_zeros)} layers have other zero-points "
                f"(first: {min(self._unexpected_zeros)}); they were kept as they are"
            )
        return found

    def _checked(self, module: str, rows: int, columns: int) -> LayerSettings:
        """The settings of the layer, to which its tensors fit in dtype and shape. Raises ConvertError."""
        settings = self._layer(module, rows, columns)
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
        return settings

    def _codes(self, module: str, rows: int, columns: int, settings: LayerSettings) -> np.ndarray:
        """uint8 [rows, columns], the columns in their stored order."""
        words = _unsigned(self._checkpoint.read(f"{module}.qweight"))
        order = self._column_order(module, columns, settings)
        codes = np.empty((rows, columns), np.uint8)
        step = max(16, _BLOCK_WORDS // max(1, len(words)))
        for start in range(0, rows, step):
            block = np.ascontiguousarray(words[:, start : start + step].T)
            unpacked = self._packing.unpack(block, settings.bits, columns)
            # np.take is five times as fast here as an index.
            codes[start : start + step] = unpacked if order is None else np.take(unpacked, order, axis=1)
        return codes

    def _column_order(self, module: str, columns: int, settings: LayerSettings) -> np.ndarray | None:
        """int64 [columns] that sorts the inputs by group, None if they are sorted.

        The values of g_idx decide, not `desc_act`; the flag does only where there are none. Exporters for Marlin
        leave an empty g_idx where there is no reordering.
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
        info = self._checkpoint.info(name, ("I32",), (columns,))
        return column_order(f"{info.file}: tensor {name}", self._checkpoint.read(name), per_scale)

    def _zeros(self, module: str, rows: int, settings: LayerSettings) -> np.ndarray | None:
        """Zero-points in 4.4 fixed point, uint8 (uint16 for 8 bits) [groups, rows], None if symmetric."""
        bits = settings.bits
        words = _unsigned(self._checkpoint.read(f"{module}.qzeros"))
        zeros = self._packing.unpack(words, bits, rows).astype(np.uint16)
        if self._zero_offset:
            wrapped = int(np.count_nonzero(zeros == (1 << bits) - 1))
            if wrapped:
                self._wrapped[module] = wrapped
            constants = self._subtracted(bits, settings.word[1])
            if constants is None:
                zeros = zeros + 1 & (1 << bits) - 1
            else:
                whole = words + np.resize(constants, words.shape[1])
                zeros = self._packing.unpack(whole, bits, rows).astype(np.uint16)
        zeros *= 16
        if (zeros == symmetric_zero(bits)).all():
            return None
        return zeros if bits == Q8_BITS else zeros.astype(np.uint8)

    def _scales(self, module: str) -> np.ndarray:
        """Scales as fp16 [groups, rows]; exactly the checkpoint's, or ConvertError."""
        name = f"{module}.scales"
        return exact_halves(self._checkpoint.info(name), name, self._checkpoint.read(name))


def _unsigned(words: np.ndarray) -> np.ndarray:
    return words.view(words.dtype.str.replace("i", "u"))
