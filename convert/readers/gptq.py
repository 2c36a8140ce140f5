"""GPTQ checkpoints (AutoGPTQ, GPTQModel, transformers), versions 1 and 2, with 2 and 4 bits.

Tensors of a layer with K inputs, N outputs, b bits and groups of g inputs:

    qweight  int32 [K*b/32, N]         codes along K, lowest bits first
    qzeros   int32 [ceil(K/g), N*b/32] zero-points along N, lowest bits first; version 1 stores z - 1
    scales   fp16  [ceil(K/g), N]
    g_idx    int32 [K], may be absent  group of each input; only k // g is accepted

    W[n, k] = scales[k // g, n] * (q[k, n] - z[k // g, n])

Source: the packing code of AutoGPTQ and GPTQModel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import FLOAT_DTYPES, Checkpoint, QuantLinear, symmetric_zero
from ..errors import ConvertError
from ..layout import GROUPS
from .grid import Grid, exact_halves, is_known_group, spread, stored_group
from .words import unpack_words

BITS = (2, 4)
ZERO_OFFSET = {"gptq": 1, "gptq_v2": 0}
SUPPORTED = (
    f"GPTQ with {' or '.join(map(str, BITS))} bits, group_size {', '.join(map(str, GROUPS))}, "
    f"a multiple of {GROUPS[-1]} or -1, format {' or '.join(ZERO_OFFSET)}"
)
# Settings that change what the tensors mean, with the values that change nothing.
HARMLESS = {
    "pack_dtype": (None, "int32", "torch.int32"),
    "rotation": (None, False, ""),
    "is_marlin_format": (None, False),
    "method": (None, "gptq"),
}


class GPTQReader:
    """Reads GPTQ layers.

    The type of a layer follows its values, not the `sym` flag: a layer whose zero-points are all 2**(bits-1) is
    symmetric (it means the same in fewer bytes), any other is asymmetric. A group_size the layout does not have,
    but that is a multiple of one that it has, is stored exactly by repeating its scales.
    """

    method = "gptq"
    activations = None

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        self._checkpoint = checkpoint
        self._file = file
        self.bits = self._choice(settings, "bits", BITS)
        self.group_size = settings.get("group_size", -1)
        if type(self.group_size) is not int or not is_known_group(self.group_size):
            self._refuse("group_size", self.group_size)
        for key, harmless in HARMLESS.items():
            if settings.get(key) not in harmless:
                self._refuse(key, settings[key])
        self._check_dynamic(settings.get("dynamic"))
        self._zero_offset = ZERO_OFFSET[self._format(settings)]
        # With static groups the inputs are quantized in another order, but stored in their own.
        self._reorders = settings.get("desc_act") not in (None, False) and settings.get("static_groups") is not True
        self._says_symmetric = settings.get("sym") is True
        self._wrapped = 0
        self._unexpected_zeros: list[str] = []

    def has(self, module: str) -> bool:
        return f"{module}.qweight" in self._checkpoint

    def names(self, module: str) -> list[str]:
        parts = ("qweight", "qzeros", "scales", "g_idx")
        return [name for part in parts if (name := f"{module}.{part}") in self._checkpoint]

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads only zero-points, scales and g_idx. Raises ConvertError as `read` does."""
        self._check_shapes(module, rows, columns)
        self._check_order(module, columns)
        zeros, wrapped = self._zeros(module, rows)
        self._scales(module)
        self._wrapped += wrapped
        if self._says_symmetric and zeros is not None:
            self._unexpected_zeros.append(module)
        return Grid(self.bits, self._stored_group(columns), zeros is not None)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer as QuantLinear of `rows` outputs and `columns` inputs.

        Raises ConvertError for wrong shapes or dtypes, scales that fp16 cannot hold exactly, and a g_idx that
        reorders the inputs.
        """
        self._check_shapes(module, rows, columns)
        words = self._checkpoint.read(f"{module}.qweight").view(np.uint32)
        per_scale, group = self._columns_per_scale(columns), self._stored_group(columns)
        zeros, _ = self._zeros(module, rows)
        return QuantLinear(
            codes=unpack_words(np.ascontiguousarray(words.T), self.bits),
            scales=spread(self._scales(module).T, per_scale, group, columns),
            zeros=None if zeros is None else spread(zeros.T, per_scale, group, columns),
            bits=self.bits,
            group=group,
        )

    def notes(self) -> list[str]:
        found = []
        if self._wrapped:
            found.append(
                f"{self._wrapped} zero-points are stored as {2 ** self.bits - 1} in version 1 of GPTQ, where z - 1 is "
                "stored; they were read as 0, the value that wrapped around"
            )
        if self._unexpected_zeros:
            found.append(
                f"the settings say sym: true, but {len(self._unexpected_zeros)} layers have other zero-points "
                f"(first: {self._unexpected_zeros[0]}); they were kept as they are"
            )
        return found

    def _choice(self, settings: dict[str, Any], key: str, allowed: tuple[int, ...]) -> int:
        value = settings.get(key)
        if type(value) is not int or value not in allowed:
            self._refuse(key, value)
        return value

    def _format(self, settings: dict[str, Any]) -> str:
        """`checkpoint_format` and `format` mean the same; files of some years have one, others both, old ones none."""
        found = [settings[key] for key in ("checkpoint_format", "format") if settings.get(key) is not None]
        for value in found:
            if not isinstance(value, str) or value not in ZERO_OFFSET:
                self._refuse("checkpoint_format", value)
        if len(set(found)) > 1:
            raise ConvertError(
                f"{self._file}: checkpoint_format is {found[0]!r} but format is {found[1]!r}, expected one value",
                "the two differ in their zero-points; ask the maker of the checkpoint which one is right",
            )
        return found[0] if found else "gptq"

    def _check_dynamic(self, dynamic: Any) -> None:
        """Excluded modules (`-:regex`) hold ordinary weights and need no rule; overrides of settings do."""
        if dynamic in (None, {}):
            return
        if not isinstance(dynamic, dict) or any(not rule.startswith("-:") for rule in dynamic):
            self._refuse("dynamic", dynamic)

    def _refuse(self, key: str, value: Any) -> None:
        raise ConvertError(f"{self._file}: GPTQ with {key} {value!r} is not supported", f"supported: {SUPPORTED}")

    def _columns_per_scale(self, columns: int) -> int:
        return columns if self.group_size == -1 else self.group_size

    def _stored_group(self, columns: int) -> int:
        return stored_group(columns, self._columns_per_scale(columns), self.bits)

    def _check_shapes(self, module: str, rows: int, columns: int) -> None:
        per_word = 32 // self.bits
        if rows % per_word or columns % per_word:
            raise ConvertError(
                f"{self._file}: layer {module} is {rows} x {columns}, expected multiples of {per_word}",
                f"{self.bits}-bit GPTQ fills whole 32-bit words",
            )
        groups = -(-columns // self._columns_per_scale(columns))
        self._checkpoint.info(f"{module}.qweight", ("I32",), (columns // per_word, rows))
        self._checkpoint.info(f"{module}.qzeros", ("I32",), (groups, rows // per_word))
        self._checkpoint.info(f"{module}.scales", FLOAT_DTYPES, (groups, rows))

    def _check_order(self, module: str, columns: int) -> None:
        """The values of g_idx decide, not `desc_act`; the flag does only where there are none.

        Exporters for Marlin leave an empty g_idx where there is no reordering.
        """
        name = f"{module}.g_idx"
        if name not in self._checkpoint or self._checkpoint.info(name).shape == (0,):
            if self._reorders and self._columns_per_scale(columns) < columns:
                raise ConvertError(
                    f"{self._file}: desc_act is true, but layer {module} has no {name} in the checkpoint, expected the "
                    "group of each input",
                    "without it the order is unknown; use a checkpoint with desc_act: false or static_groups: true",
                )
            return
        info = self._checkpoint.info(name, ("I32",), (columns,))
        expected = np.arange(columns) // self._columns_per_scale(columns)
        found = self._checkpoint.read(name)
        if not np.array_equal(found, expected):
            first = int(np.argmax(found != expected))
            raise ConvertError(
                f"{info.file}: tensor {name} reorders the inputs (act-order): input {first} is in group "
                f"{found[first]}, expected {expected[first]}",
                "use a checkpoint quantized with desc_act: false, or with static_groups: true",
            )

    def _zeros(self, module: str, rows: int) -> tuple[np.ndarray | None, int]:
        """Zero-points in 4.4 fixed point, uint8 [groups, rows], None if symmetric; and how many wrapped to 0."""
        words = self._checkpoint.read(f"{module}.qzeros").view(np.uint32)
        stored = unpack_words(words, self.bits)
        zeros = (stored + self._zero_offset) % (1 << self.bits) * 16
        wrapped = int(np.count_nonzero(zeros < stored * 16)) if self._zero_offset else 0
        return (None if (zeros == symmetric_zero(self.bits)).all() else zeros.astype(np.uint8)), wrapped

    def _scales(self, module: str) -> np.ndarray:
        """Scales as fp16 [groups, rows]; exactly the checkpoint's, or ConvertError."""
        name = f"{module}.scales"
        return exact_halves(self._checkpoint.info(name), name, self._checkpoint.read(name))
