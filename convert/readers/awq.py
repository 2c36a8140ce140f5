"""AWQ checkpoints (AutoAWQ, llm-awq, GPTQModel, transformers) with 4 bits, in the three layouts that are stored.

Tensors of a layer with K inputs, N outputs and groups of g inputs; z is the zero-point itself, in W = s * (q - z):

    gemm       qweight int32 [K, N/8]   along N, in a word the outputs 0, 2, 4, 6, 1, 3, 5, 7
               qzeros  int32 [K/g, N/8] the same
               scales  fp16  [K/g, N]
    gemv       qweight int32 [N, K/8]   along K, lowest bits first
               qzeros  int32 [N, w]     the same along the groups; w = ceil(K/g / 8), rounded up (see GEMV_WORDS)
               scales  fp16  [N, 8 w]
    gemv_fast  qweight int16 [N/4, K]   four outputs in turns of 64 inputs, shuffled in each 32 (see _unpack_fast)
    llm-awq    qzeros  fp16  [8 w, N]   -s * z, rounded to fp16; llm-awq names it scaled_zeros
               scales  fp16  [8 w, N]

Source: the packing code of AutoAWQ (modules/linear/gemm.py, gemv.py, gemv_fast.py) and of GPTQModel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import GROUPS, symmetric_zero
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint
from .grid import KNOWN_GROUPS, Grid, exact_halves, in_stored_groups, is_known_group, stored_group
from .rows import unpack_rows

BITS, PER_WORD = 4, 8
SYMMETRIC = symmetric_zero(BITS) // 16
VERSIONS = ("gemm", "gemv", "gemv_fast", "llm-awq")
SUPPORTED = (
    f"AWQ with {BITS} bits, group_size {KNOWN_GROUPS}, version {', '.join(VERSIONS)}; the last three have no "
    f"group_size below {GROUPS[-1]} but 32 and 64"
)
# The output, of the eight in a word of gemm, that is in nibble 0, 1, ...
GEMM_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
FAST_ROWS, FAST_COLUMNS = 4, 64
# The kernels of gemv read zero-points in vectors: words come in multiples of this, 1 for larger groups.
GEMV_WORDS = {32: 4, 64: 2}
# Bounds the temporaries to what a second-level cache holds.
_BLOCK_WORDS = 1 << 16


class AWQReader:
    """Reads AWQ layers.

    As with GPTQ the values decide: zero-points that are all 8 make a layer symmetric, whatever `zero_point` says, and
    a layer is quantized if it has a qweight, whatever `modules_to_not_convert` says (its rules differ by the loader).
    """

    method = "awq"
    activations = None

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        self._checkpoint = checkpoint
        self._file = file
        if type(settings.get("bits")) is not int or settings["bits"] != BITS:
            self._refuse("bits", settings.get("bits"))
        self.group_size = settings.get("group_size", 128)
        if type(self.group_size) is not int or not is_known_group(self.group_size):
            self._refuse("group_size", self.group_size)
        self.version = self._version(settings)
        self._says_symmetric = settings.get("zero_point") is False
        self._unexpected_zeros: set[str] = set()
        self._rounded_products: dict[str, int] = {}

    def has(self, module: str) -> bool:
        return f"{module}.qweight" in self._checkpoint

    def names(self, module: str) -> list[str]:
        return [f"{module}.qweight", self._zeros_name(module), f"{module}.scales"]

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads only zero-points and scales. Raises ConvertError as `read` does."""
        self._check_shapes(module, rows, columns)
        _, zeros, rounded = self._scales_and_zeros(module, columns)
        if rounded:
            self._rounded_products[module] = rounded
        if self._says_symmetric and zeros is not None:
            self._unexpected_zeros.add(module)
        return Grid(BITS, stored_group(columns, self._columns_per_scale(columns), BITS), zeros is not None)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer as QuantLinear of `rows` outputs and `columns` inputs.

        Raises ConvertError for wrong shapes or dtypes, scales that fp16 cannot hold exactly, and scaled zero-points
        that are not those of whole numbers.
        """
        self._check_shapes(module, rows, columns)
        scales, zeros, _ = self._scales_and_zeros(module, columns)
        return in_stored_groups(self._codes(module, columns), scales, zeros, BITS, self._columns_per_scale(columns))

    def notes(self) -> list[str]:
        found = []
        if self._unexpected_zeros:
            found.append(
                f"the settings say zero_point: false, but {len(self._unexpected_zeros)} layers have other zero-points "
                f"than {SYMMETRIC} (first: {min(self._unexpected_zeros)}); they were kept as they are"
            )
        if self._rounded_products:
            found.append(
                f"{sum(self._rounded_products.values())} groups have -scale * zero-point rounded to fp16, as AWQ "
                f"version {self.version} stores it; here both factors are exact and nothing is rounded"
            )
        return found

    def _version(self, settings: dict[str, Any]) -> str:
        """AutoAWQ and transformers write `version`, GPTQModel `format` and `checkpoint_format`; all mean the same."""
        keys = ("version", "format", "checkpoint_format")
        found = [settings[key] for key in keys if settings.get(key) is not None]
        if settings.get("backend") == "llm-awq":
            return "llm-awq"
        versions = {value.lower().replace("llm_awq", "llm-awq") if isinstance(value, str) else None for value in found}
        if not versions:
            return "gemm"
        if len(versions) > 1 or not versions <= set(VERSIONS):
            self._refuse("version", found[0] if len(versions) == 1 else found)
        return versions.pop()

    def _refuse(self, key: str, value: Any) -> None:
        raise ConvertError(f"{self._file}: AWQ with {key} {value!r} is not supported", f"supported: {SUPPORTED}")

    def _zeros_name(self, module: str) -> str:
        scaled = f"{module}.scaled_zeros"
        return scaled if self._is_fast and scaled in self._checkpoint else f"{module}.qzeros"

    @property
    def _is_fast(self) -> bool:
        return self.version in ("gemv_fast", "llm-awq")

    def _columns_per_scale(self, columns: int) -> int:
        return columns if self.group_size == -1 else self.group_size

    def _check_shapes(self, module: str, rows: int, columns: int) -> None:
        per_scale = self._columns_per_scale(columns)
        if self.version != "gemm" and per_scale < GROUPS[-1] and per_scale not in GEMV_WORDS:
            self._refuse("group_size", per_scale)
        outputs, inputs = {"gemm": (PER_WORD, 1), "gemv": (1, PER_WORD)}.get(self.version, (FAST_ROWS, FAST_COLUMNS))
        if rows % outputs or columns % inputs or columns % per_scale:
            raise ConvertError(
                f"{self._file}: layer {module} is {rows} x {columns}, expected a multiple of {outputs} outputs and of "
                f"{' and '.join(map(str, sorted({inputs, per_scale})))} inputs",
                f"AWQ version {self.version} stores nothing else",
            )
        groups = columns // per_scale
        words = -(-groups // PER_WORD)
        step = GEMV_WORDS.get(per_scale, 1)
        padded = -(-words // step) * step
        info, zeros = self._checkpoint.info, self._zeros_name(module)
        if self.version == "gemm":
            info(f"{module}.qweight", ("I32",), (columns, rows // PER_WORD))
            info(zeros, ("I32",), (groups, rows // PER_WORD))
            info(f"{module}.scales", FLOAT_DTYPES, (groups, rows))
        elif self.version == "gemv":
            info(f"{module}.qweight", ("I32",), (rows, columns // PER_WORD))
            info(zeros, ("I32",), (rows, padded))
            info(f"{module}.scales", FLOAT_DTYPES, (rows, PER_WORD * padded))
        else:
            info(f"{module}.qweight", ("I16",), (rows // FAST_ROWS, columns))
            info(zeros, ("F16",), (PER_WORD * padded, rows))
            info(f"{module}.scales", ("F16",), (PER_WORD * padded, rows))

    def _codes(self, module: str, columns: int) -> np.ndarray:
        """uint8 [N, K]."""
        packed = self._checkpoint.read(f"{module}.qweight")
        if self._is_fast:
            return _unpack_fast(packed.view(np.uint16))
        words = packed.view(np.uint32)
        return _unpack_gemm(words) if self.version == "gemm" else unpack_rows(words, BITS, columns)

    def _scales_and_zeros(self, module: str, columns: int) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Scales fp16 [N, K/g] and zero-points uint8 [N, K/g] in 4.4 fixed point, None if all are 8.

        And how many of the scaled zero-points are stored rounded.
        """
        rounded = 0
        groups = columns // self._columns_per_scale(columns)
        name = f"{module}.scales"
        scales, stored = self._checkpoint.read(name), self._checkpoint.read(self._zeros_name(module))
        if self._is_fast:
            scales = exact_halves(self._checkpoint.info(name), name, scales[:groups].T)
            zeros, rounded = self._whole_zeros(module, scales, stored[:groups].T)
        elif self.version == "gemv":
            scales = exact_halves(self._checkpoint.info(name), name, scales[:, :groups])
            zeros = unpack_rows(stored.view(np.uint32), BITS, groups)
        else:
            scales = exact_halves(self._checkpoint.info(name), name, scales.T)
            zeros = _unpack_gemm(stored.view(np.uint32))
        return scales, None if (zeros == SYMMETRIC).all() else zeros << 4, rounded

    def _whole_zeros(self, module: str, scales: np.ndarray, scaled: np.ndarray) -> tuple[np.ndarray, int]:
        """The zero-points z whose -s * z the checkpoint holds, rounded to fp16; any z does where s is 0.

        And how many of these products are not exact in fp16.
        """
        exact = scales.astype(np.float64)
        zeros = np.full(scales.shape, SYMMETRIC, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            np.divide(-scaled.astype(np.float64), exact, out=zeros, where=exact != 0)
            whole = np.rint(zeros)
            # AutoAWQ multiplies in float32 and rounds once more; the product of 11 and 4 bits is exact in both.
            as_stored = (whole * exact).astype(np.float16)
        wrong = (as_stored != -scaled) | ~((whole >= 0) & (whole < 1 << BITS))
        if wrong.any():
            name = self._zeros_name(module)
            row, group = np.argwhere(wrong)[0]
            raise ConvertError(
                f"{self._checkpoint.info(name).file}: tensor {name} has {scaled[row, group]} for output {row}, group "
                f"{group} with scale {scales[row, group]}: zero-point {zeros[row, group]:.6g}, expected a whole number "
                f"from 0 to {(1 << BITS) - 1}",
                "AWQ stores -scale * zero-point; these are not the values of an integer grid",
            )
        return whole.astype(np.uint8), int(np.count_nonzero(as_stored != whole * exact))


def _unpack_gemm(words: np.ndarray) -> np.ndarray:
    """uint32 [K, N/8] into codes uint8 [N, K]."""
    columns, count = words.shape
    turned = np.ascontiguousarray(words.T)
    codes = np.empty((count, PER_WORD, columns), np.uint8)
    step = max(1, _BLOCK_WORDS // max(1, columns))
    for start in range(0, count, step):
        block = turned[start : start + step]
        for nibble, output in enumerate(GEMM_ORDER):
            codes[start : start + step, output] = block >> BITS * nibble & 15
    return codes.reshape(count * PER_WORD, columns)


def _unpack_fast(words: np.ndarray) -> np.ndarray:
    """uint16 [N/4, K] into codes uint8 [N, K].

    64 words hold 64 inputs of each of 4 outputs, one output after the other. Of 32 inputs, word w = 0..7 holds in its
    nibble a = 0..3 the input 8 a + w.
    """
    quads, columns = words.shape
    spans = columns // FAST_COLUMNS
    parts = words.reshape(quads, spans, FAST_ROWS, 2, 8)
    # Eight codes of one row move as one 64-bit word.
    codes = np.empty((quads, FAST_ROWS, spans, 2, 4), np.uint64)
    step = max(1, 2 * _BLOCK_WORDS // max(1, columns))
    for start in range(0, quads, step):
        block = parts[start : start + step]
        for nibble in range(4):
            eights = (block >> BITS * nibble & 15).astype(np.uint8).view(np.uint64)[..., 0]
            codes[start : start + step, ..., nibble] = eights.transpose(0, 2, 1, 3)
    return codes.view(np.uint8).reshape(quads * FAST_ROWS, columns)
