"""AWQ checkpoints (AutoAWQ, llm-awq, GPTQModel, transformers) with 4 bits, in the three layouts that are stored.

Tensors of a layer with K inputs, N outputs and groups of g inputs; z is the zero-point itself, in W = s * (q - z):

    gemm       qweight int32 [K, N/8]   along N, in a word the outputs 0, 2, 4, 6, 1, 3, 5, 7
               qzeros  int32 [K/g, N/8] the same
               scales  fp16  [K/g, N]
    gemv       qweight int32 [N, K/8]   along K, lowest bits first
               qzeros  int32 [N, w]     the same along the groups; w = ceil(K/g / 8), rounded up (see GEMV_WORDS)
               scales  fp16  [N, 8 w]
    gemv_fast, qweight int16 [N/4, K]   four outputs in turns of 64 inputs, shuffled in each 32 (see _unpack_fast)
    llm-awq    qzeros  fp16  [8 w, N]   -s * z, rounded to fp16; llm-awq calls it scaled_zeros
               scales  fp16  [8 w, N]

Source: the packing code of AutoAWQ (modules/linear/gemm.py, gemv.py, gemv_fast.py) and of GPTQModel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import ZERO_UNITS, symmetric_zero
from ..errors import ConvertError
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint, row_blocks
from .affine import AffineLayer, AffineReader, columns_per_scale, whole_zeros
from .grid import KNOWN_GROUPS
from .method_settings import MethodSettings
from .reader import Format
from .rows import unpack_rows

METHOD = "awq"
BITS, PER_WORD = 4, 8
SYMMETRIC = symmetric_zero(BITS) // ZERO_UNITS
GEMM, GEMV, FAST, LLM_AWQ = VERSIONS = ("gemm", "gemv", "gemv_fast", "llm-awq")
# Two names of one tensor; the second is llm-awq's.
QZEROS, SCALED_ZEROS = "qzeros", "scaled_zeros"
# The output, of the eight in a word of gemm, that is in nibble 0, 1, ...
GEMM_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
FAST_ROWS, FAST_COLUMNS = 4, 64
# The kernels of gemv read zero-points in vectors: words come in multiples of this, by group; 1 from 128 on.
GEMV_WORDS = {32: 4, 64: 2}
GEMV_GROUP = 128
SUPPORTED = (
    f"AWQ with {BITS} bits, group_size {KNOWN_GROUPS}, version {', '.join(VERSIONS)}; the last three have no "
    f"group_size below {GEMV_GROUP} but {' and '.join(map(str, GEMV_WORDS))}"
)
# Bounds the temporaries to what a second-level cache holds.
_BLOCK_WORDS = 1 << 16
# Words of gemm to turn at a time, along N and K: the lines that they are in stay in a first-level cache meanwhile.
_TURNED_ROWS, _TURNED_COLUMNS = 64, 512


class AWQReader(AffineReader):
    """Reads AWQ layers.

    The values decide, as with GPTQ. Zero-points that are all 8 make a layer symmetric, whatever `zero_point` says. A
    layer is quantized if it has a qweight, whatever `modules_to_not_convert` says: loaders differ in its rules.
    """

    method = METHOD
    mark = "qweight"

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        super().__init__(checkpoint, file)
        self._settings = MethodSettings("AWQ", SUPPORTED, file, settings)
        self._settings.one_of("bits", (BITS,))
        self.group_size = self._settings.group_size(128)
        self.version = _version(self._settings)
        self._is_fast = self.version in (FAST, LLM_AWQ)

    def names(self, module: str) -> list[str]:
        return [f"{module}.qweight", self._zeros_name(module), f"{module}.scales"]

    def _zeros_name(self, module: str) -> str:
        scaled = f"{module}.{SCALED_ZEROS}"
        return scaled if self._is_fast and scaled in self._checkpoint else f"{module}.{QZEROS}"

    def _shape_of(self, module: str) -> tuple[int, int]:
        first, second = self._checkpoint.info(f"{module}.qweight").shape
        if self.version == GEMM:
            return second * PER_WORD, first
        return (first, second * PER_WORD) if self.version == GEMV else (first * FAST_ROWS, second)

    def _layer(self, module: str, rows: int, columns: int) -> AffineLayer:
        per_scale = columns_per_scale(self.group_size, columns)
        self._check_multiples(module, rows, columns, per_scale)
        self._check_tensors(module, rows, columns, per_scale)
        scales, zeros = self._scales_and_zeros(module, columns // per_scale)
        if zeros is not None and self._settings.get("zero_point") is False:
            self._note_other_zeros("zero_point: false", module)
        return AffineLayer(BITS, per_scale, scales, zeros)

    def _check_multiples(self, module: str, rows: int, columns: int, per_scale: int) -> None:
        if self.version != GEMM and per_scale < GEMV_GROUP and per_scale not in GEMV_WORDS:
            raise self._settings.refusal("group_size", per_scale)
        outputs, inputs = {GEMM: (PER_WORD, 1), GEMV: (1, PER_WORD)}.get(self.version, (FAST_ROWS, FAST_COLUMNS))
        if rows % outputs or columns % inputs or columns % per_scale:
            raise ConvertError(
                f"{self._file}: layer {module} is {rows} x {columns}, expected a multiple of {outputs} outputs and of "
                f"{' and '.join(map(str, sorted({inputs, per_scale})))} inputs",
                f"AWQ version {self.version} stores nothing else",
            )

    def _check_tensors(self, module: str, rows: int, columns: int, per_scale: int) -> None:
        groups = columns // per_scale
        step = GEMV_WORDS.get(per_scale, 1)
        padded = -(-groups // PER_WORD // step) * step
        info, zeros = self._checkpoint.info, self._zeros_name(module)
        if self.version == GEMM:
            info(f"{module}.qweight", ("I32",), (columns, rows // PER_WORD))
            info(zeros, ("I32",), (groups, rows // PER_WORD))
            info(f"{module}.scales", FLOAT_DTYPES, (groups, rows))
        elif self.version == GEMV:
            info(f"{module}.qweight", ("I32",), (rows, columns // PER_WORD))
            info(zeros, ("I32",), (rows, padded))
            info(f"{module}.scales", FLOAT_DTYPES, (rows, PER_WORD * padded))
        else:
            info(f"{module}.qweight", ("I16",), (rows // FAST_ROWS, columns))
            info(zeros, ("F16",), (PER_WORD * padded, rows))
            info(f"{module}.scales", ("F16",), (PER_WORD * padded, rows))

    def _codes(self, module: str, rows: int, columns: int, layer: AffineLayer) -> np.ndarray:
        packed = self._checkpoint.read(f"{module}.qweight")
        if self._is_fast:
            return _unpack_fast(packed.view(np.uint16))
        words = packed.view(np.uint32)
        return _unpack_gemm(words) if self.version == GEMM else unpack_rows(words, BITS, columns)

    def _scales_and_zeros(self, module: str, groups: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As AffineLayer has them, without the padding of the last dimension of groups."""
        name = f"{module}.scales"
        scales, stored = self._checkpoint.read(name), self._checkpoint.read(self._zeros_name(module))
        scales = self._half_scales(module, name, scales[:, :groups] if self.version == GEMV else scales[:groups].T)
        if self._is_fast:
            zeros = self._divided_zeros(module, scales, stored[:groups].T)
        elif self.version == GEMV:
            zeros = unpack_rows(stored.view(np.uint32), BITS, groups)
        else:
            zeros = _unpack_gemm(stored.view(np.uint32))
        return scales, whole_zeros(zeros, BITS)

    def _divided_zeros(self, module: str, scales: np.ndarray, scaled: np.ndarray) -> np.ndarray:
        """The whole zero-points z whose -s * z the checkpoint holds; any z does where s is 0.

        Notes how many of these products are not exact in fp16.
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
        if rounded := int(np.count_nonzero(as_stored != whole * exact)):
            self._note(
                f"{{count}} groups have -scale * zero-point rounded to fp16, as AWQ version {self.version} stores it; "
                "here both factors are exact and nothing is rounded",
                module,
                rounded,
            )
        return whole.astype(np.uint8)


def _version(settings: MethodSettings) -> str:
    """AutoAWQ and transformers write `version`, GPTQModel `format` and `checkpoint_format`; all mean the same."""
    if settings.get("backend") == LLM_AWQ:
        return LLM_AWQ
    keys = ("version", "format", "checkpoint_format")
    found = [value for key in keys if (value := settings.get(key)) is not None]
    versions = {value.lower().replace("llm_awq", LLM_AWQ) if isinstance(value, str) else None for value in found}
    if not versions:
        return GEMM
    if len(versions) > 1 or not versions <= set(VERSIONS):
        raise settings.refusal("version", found[0] if len(versions) == 1 else found)
    return versions.pop()


def _translate(settings: dict[str, Any]) -> dict[str, Any]:
    """AutoAWQ kept its settings in a file of their own, under other names, before transformers had a place for them."""
    renamed = {"bits": settings.get("w_bit"), "group_size": settings.get("q_group_size")}
    return {**settings, **renamed, "quant_method": METHOD}


def _unpack_gemm(words: np.ndarray) -> np.ndarray:
    """uint32 [K, N/8] into codes uint8 [N, K]."""
    columns, count = words.shape
    codes = np.empty((count, PER_WORD, columns), np.uint8)
    for first in range(0, count, _TURNED_ROWS):
        for start in range(0, columns, _TURNED_COLUMNS):
            across, along = slice(first, first + _TURNED_ROWS), slice(start, start + _TURNED_COLUMNS)
            turned = np.ascontiguousarray(words[along, across].T)
            for low, high in zip(range(0, PER_WORD, 2), range(1, PER_WORD, 2)):
                # From here on there are bytes, which vectors hold four times as many of.
                pairs = (turned >> BITS * low).astype(np.uint8)
                np.bitwise_and(pairs, 15, out=codes[across, GEMM_ORDER[low], along])
                np.right_shift(pairs, BITS, out=codes[across, GEMM_ORDER[high], along])
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
    for block in row_blocks(quads, columns, 2 * _BLOCK_WORDS):
        for nibble in range(4):
            eights = (parts[block] >> BITS * nibble & 15).astype(np.uint8).view(np.uint64)[..., 0]
            codes[block, ..., nibble] = eights.transpose(0, 2, 1, 3)
    return codes.view(np.uint8).reshape(quads * FAST_ROWS, columns)


FORMAT = Format((METHOD,), AWQReader, settings_file="quant_config.json", translate=_translate)
