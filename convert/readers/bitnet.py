"""BitNet b1.58 checkpoints: ternary weights with one scale per tensor, and activations rounded to int8 per token.

`linear_class` and `quantization_mode` tell three conventions apart; the size of a scale does not. t is -1, 0 or 1:

    bitlinear, or no linear_class   W = t / weight_scale, packed
    autobitlinear, offline          W = t * weight_scale, packed
    autobitlinear, online           float masters V, of which the model makes, each time it runs,
                                    s = 1 / max(mean |V|, 1e-5), t = clamp(round(V * s), -1, 1), W = t / s

1bitLLM's checkpoints have no quantization_config and are of the third kind.

Packed tensors of a layer with K inputs and N outputs:

    weight        uint8 [N/4, K]  byte [r, k] holds t + 1 of rows r, r + N/4, r + 2N/4, r + 3N/4 in bits 0, 2, 4, 6
    weight_scale  float [1]

Sources: transformers (integrations/bitnet.py), utils_quant.py of 1bitLLM/bitnet_b1_58-3B.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ...common.format import ACTIVATIONS_INT8
from ..errors import ConvertError
from ..linear import QuantLinear
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint, finite, nearest_bfloat16
from .affine import present
from .grid import TERNARY_BITS, TERNARY_ZERO, Grid, in_block
from .method_settings import MethodSettings
from .reader import Format

METHOD = "bitnet"
BITLINEAR, AUTOBITLINEAR = "bitlinear", "autobitlinear"
OFFLINE, ONLINE = "offline", "online"
# Rows of one packed byte.
PER_BYTE = 4
SMALLEST_MEAN = np.float32(1e-5)
HEAD = "lm_head"
NOT_CONVERTED = "modules_to_not_convert"
# What a checkpoint calls the norm that some layers have in front of them.
INNER_NORMS = ("norm", "rms_norm")
SUPPORTED = (
    f"BitNet with linear_class {BITLINEAR}, or {AUTOBITLINEAR} and quantization_mode {OFFLINE} or {ONLINE}; another "
    "setting would change what the weights mean"
)
_NAME = re.compile(r"[\w.]+")


def bitnet_reader(checkpoint: Checkpoint, values: dict[str, Any], file: Path) -> PackedReader | MasterReader:
    """The reader for the convention that the settings name. Raises ConvertError for settings that name none."""
    settings = _settings(values, file)
    # The first is meant where there is none.
    linear_class = settings.one_of("linear_class", (None, BITLINEAR, AUTOBITLINEAR)) or BITLINEAR
    mode = settings.one_of("quantization_mode", (None, OFFLINE, ONLINE)) or OFFLINE
    settings.require_harmless({"use_rms_norm": (None, False)})
    if mode == OFFLINE:
        return PackedReader(checkpoint, settings, divides=linear_class == BITLINEAR)
    if linear_class == BITLINEAR:
        raise settings.refusal("quantization_mode", mode, f"{OFFLINE} for linear_class {BITLINEAR}")
    return MasterReader(checkpoint, settings)


def masters_reader(checkpoint: Checkpoint) -> MasterReader | None:
    """For a checkpoint without quantization_config: its reader if it is of 1bitLLM's kind, else None.

    Raises ConvertError if it is, but with other than 1.58-bit weights and 8-bit activations.
    """
    architectures = checkpoint.config.get("architectures")
    if not isinstance(architectures, list) or "BitnetForCausalLM" not in architectures:
        return None
    settings = _settings(checkpoint.config, checkpoint.config_file)
    settings.one_of("weight_bits", (1,), 1)
    settings.one_of("input_bits", (8,), 8)
    return MasterReader(checkpoint, _settings({}, checkpoint.config_file))


def _settings(values: dict[str, Any], file: Path) -> MethodSettings:
    return MethodSettings("BitNet", SUPPORTED, file, values)


class _BitNetReader:
    """What the conventions share: which layers are ternary, and what is refused beside them."""

    method = METHOD
    activations = ACTIVATIONS_INT8

    def __init__(self, checkpoint: Checkpoint, settings: MethodSettings):
        self._checkpoint, self._settings = checkpoint, settings
        listed = settings.get(NOT_CONVERTED)
        if listed is not None and not (isinstance(listed, list) and all(map(_is_name, listed))):
            raise settings.refusal(NOT_CONVERTED, listed, "a list of names")
        self._left_out = listed

    def names(self, module: str) -> list[str]:
        return present(self._checkpoint, module, ("weight", "weight_scale"))

    def shapes(self) -> dict[str, tuple[int, int]]:
        raise ConvertError(
            f"{self._settings.file}: BitNet's one scale per layer has a place only in the graphs of the families that "
            "T-MAC has itself, expected one of those",
            "use a checkpoint of this model in another quantization format",
        )

    def notes(self) -> list[str]:
        return []

    def _is_converted(self, module: str) -> bool:
        """Whether transformers makes this layer ternary: all in blocks are, but for the names in the settings."""
        left_out = (module.endswith(name) or module.startswith(f"{name}.") for name in self._left_out or ())
        return in_block(module) and not any(left_out)

    def _check_no_norm(self, module: str) -> None:
        for norm in INNER_NORMS:
            if (name := f"{module}.{norm}.weight") in self._checkpoint:
                raise ConvertError(
                    f"{self._checkpoint.info(name).file}: tensor {name} is a norm in front of one layer, expected none",
                    "llama.cpp has no graph for BitNet models that normalise the input of each layer",
                )


class PackedReader(_BitNetReader):
    """Layers as codes of 2 bits with a weight_scale that multiplies or, if it `divides`, divides."""

    def __init__(self, checkpoint: Checkpoint, settings: MethodSettings, divides: bool):
        super().__init__(checkpoint, settings)
        self._divides = divides

    def has(self, module: str) -> bool:
        """A layer that should be packed and is not counts as one, so that `grid` refuses it."""
        return f"{module}.weight_scale" in self._checkpoint or self._is_converted(module)

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Raises ConvertError for a weight or a scale of another shape or dtype, and a scale that is not above zero."""
        self._check_no_norm(module)
        if rows % PER_BYTE:
            raise ConvertError(
                f"{self._settings.file}: layer {module} has {rows} outputs, expected a multiple of {PER_BYTE}",
                "a byte of a packed BitNet weight holds four rows",
            )
        self._checkpoint.info(f"{module}.weight", ("U8",), (rows // PER_BYTE, columns))
        return Grid(TERNARY_BITS, 0, False, tensor_scale=self._scale(f"{module}.weight_scale"), ternary=True)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer. Raises ConvertError for code 3, which means nothing."""
        name = f"{module}.weight"
        info = self._checkpoint.info(name, ("U8",), (rows // PER_BYTE, columns))
        packed = self._checkpoint.read(name)
        if (packed & packed >> 1 & 0b01010101).any():
            raise ConvertError(
                f"{info.file}: tensor {name} holds the code 3, expected 0, 1 or 2 for -1, 0 or 1",
                "the file is damaged, or packed by an unknown tool",
            )
        codes = np.empty((PER_BYTE, *packed.shape), np.uint8)
        for i, quarter in enumerate(codes):
            np.bitwise_and(packed >> 2 * i, 3, out=quarter)
        codes += TERNARY_ZERO - 1
        return _ternary(codes.reshape(rows, columns))

    def notes(self) -> list[str]:
        if not self._divides:
            return []
        return ["weight_scale divides in this kind of BitNet; its reciprocal is stored, rounded to float32"]

    def _scale(self, name: str) -> float:
        """What multiplies t, as a float32."""
        info = self._checkpoint.info(name, FLOAT_DTYPES)
        if info.shape not in ((1,), ()):
            self._checkpoint.info(name, shape=(1,))
        stored = np.float32(self._checkpoint.read(name).item())
        with np.errstate(divide="ignore", over="ignore"):
            scale = np.float32(1) / stored if self._divides else stored
        if not (np.isfinite(stored) and np.isfinite(scale) and scale > 0):
            raise ConvertError(
                f"{info.file}: tensor {name} is {stored:g}, expected a finite number above zero",
                "the checkpoint is damaged; download it again, or ask its maker",
            )
        return float(scale)


class MasterReader(_BitNetReader):
    """Layers as the float weights of training, rounded here as the model rounds them when it runs.

    As in the model, V * s is rounded to float32 before it is rounded to t, and W to the dtype of V. The model sums for
    the mean in float32, in an order that depends on the machine; here the sum is in float64, rounded to float32 once.
    """

    def __init__(self, checkpoint: Checkpoint, settings: MethodSettings):
        super().__init__(checkpoint, settings)
        if self._left_out is not None and not any(map(HEAD.endswith, self._left_out)):
            raise settings.refusal(NOT_CONVERTED, self._left_out, f"a list with {HEAD}")
        self._inverses: dict[str, np.float32] = {}

    def has(self, module: str) -> bool:
        return self._is_converted(module)

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """Reads the whole layer, once. Raises ConvertError for another shape or dtype or values that are not finite."""
        self._check_no_norm(module)
        info = self._checkpoint.info(f"{module}.weight", FLOAT_DTYPES, (rows, columns))
        with np.errstate(over="ignore"):
            scale = _rounded(np.float32(1) / self._inverse(module), info.dtype)
        finite(f"{info.file}: tensor {module}.weight, as rounded by the model,", np.float32(scale))
        return Grid(TERNARY_BITS, 0, False, tensor_scale=scale, ternary=True)

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        inverse, codes = self._inverse(module), np.empty((rows, columns), np.uint8)
        for place, masters in self._checkpoint.blocks(f"{module}.weight"):
            scaled = masters.astype(np.float32, copy=False) * inverse
            # Exactly one half rounds to even, which is 0.
            block = codes[place]
            np.add(scaled > 0.5, np.uint8(TERNARY_ZERO), out=block)
            block -= scaled < -0.5
        return _ternary(codes)

    def notes(self) -> list[str]:
        return ["the weights are floats that the model rounds to -1, 0 or 1 when it runs; they were rounded so"]

    def _inverse(self, module: str) -> np.float32:
        """s of the layer."""
        if module not in self._inverses:
            name = f"{module}.weight"
            where = f"{self._checkpoint.info(name).file}: tensor {name}"
            total, count = 0.0, 0
            for _, masters in self._checkpoint.blocks(name):
                total += float(np.abs(finite(where, masters)).sum(dtype=np.float64))
                count += masters.size
            mean = np.float32(total / max(1, count))
            self._inverses[module] = np.float32(1) / max(mean, SMALLEST_MEAN)
        return self._inverses[module]


def _ternary(codes: np.ndarray) -> QuantLinear:
    return QuantLinear(codes, np.empty((len(codes), 0), np.float16), None, TERNARY_BITS, 0)


def _rounded(value: np.float32, dtype: str) -> float:
    """`value` rounded to `dtype`, ties to even."""
    if dtype == "F16":
        return float(np.float16(value))
    if dtype == "BF16":
        return float(nearest_bfloat16(value))
    return float(value)


def _is_name(value: Any) -> bool:
    """Of a module. transformers takes regular expressions too; none is known to be used."""
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


FORMAT = Format((METHOD,), bitnet_reader)
