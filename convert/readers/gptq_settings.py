"""What the configuration of a GPTQ checkpoint says of its layers: one setting for all, and rules for single ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..errors import ConvertError
from .grid import KNOWN_GROUPS, is_known_group
from .patterns import Pattern
from .per_layer import Rule, Rules
from .words import Packing

BITS = (2, 3, 4, 8)
# Names in the configuration -> dtype in the file, and bits of a word. AutoGPTQ knew only the first.
WORDS = {"int32": ("I32", 32), "int16": ("I16", 16), "int8": ("I8", 8)}
# Both mean the same; files of some years have one, others both, old ones none.
FORMAT_KEYS = ("checkpoint_format", "format")
# What is added to a stored zero-point. The planar format changes only 3 bits.
ZERO_OFFSET = {"gptq": 1, "gptq_v2": 0, "gptq_p": 0}
SUPPORTED = (
    f"{', '.join(map(str, BITS[:-1]))} or {BITS[-1]} bits, group_size {KNOWN_GROUPS}, "
    f"format {', '.join(ZERO_OFFSET)}, integer codes"
)
_GPTQMODEL = re.compile(r"gptqmodel(?::(\d{1,9}))?")
# From this version on, what it does to 3-bit zero-points is sound; so is a version that is not given taken to be.
SOUND_3_BITS = 7
# Settings that change what the tensors mean, with the values that change nothing.
HARMLESS = {
    "rotation": (None, False, ""),
    "is_marlin_format": (None, False),
    "method": (None, "gptq"),
}


@dataclass(frozen=True)
class LayerSettings:
    """What the configuration says of one layer.

    group_size      inputs per scale, -1 for all
    word            dtype of the packed words, and its bits
    says_symmetric  what `sym` says; the values decide
    reorders        whether g_idx is needed to know the order of the inputs
    """

    bits: int
    group_size: int
    word: tuple[str, int] = WORDS["int32"]
    says_symmetric: bool = False
    reorders: bool = False

    def columns_per_scale(self, columns: int) -> int:
        return columns if self.group_size == -1 else min(self.group_size, columns)


def layer_settings(file: Path, format_name: str, settings: dict[str, Any]) -> LayerSettings:
    """Raises ConvertError, beginning with `file` and `format_name`, for what is not supported."""
    bits, group_size, word = settings.get("bits"), settings.get("group_size", -1), settings.get("pack_dtype")
    if type(bits) is not int or bits not in BITS:
        refuse(file, format_name, "bits", bits)
    if type(group_size) is not int or not is_known_group(group_size):
        refuse(file, format_name, "group_size", group_size)
    known = "int32" if word is None else word.removeprefix("torch.") if isinstance(word, str) else ""
    if known not in WORDS or (bits == 3 and known != "int32"):
        refuse(file, format_name, "pack_dtype", word)
    # With static groups the inputs are quantized in another order, but stored in their own.
    reorders = settings.get("desc_act") not in (None, False) and settings.get("static_groups") is not True
    return LayerSettings(bits, group_size, WORDS[known], settings.get("sym") is True, reorders)


def refuse(file: Path, format_name: str, key: str, value: Any) -> NoReturn:
    raise ConvertError(f"{file}: {format_name} with {key} {value!r} is not supported", f"supported: {SUPPORTED}")


class GPTQSettings:
    """The settings of a GPTQ checkpoint. Raises ConvertError for what is not supported, by name."""

    def __init__(self, settings: dict[str, Any], file: Path):
        self._settings, self._file = settings, file
        self._check(settings)
        found = self._format(settings)
        self.zero_offset = ZERO_OFFSET[found]
        self.packing = Packing.PLANAR if found == "gptq_p" else Packing.DENSE
        self._gptqmodel = _gptqmodel_version(settings.get("meta"))
        self._rules = Rules(file, "dynamic", self._dynamic(settings.get("dynamic")))

    def layer(self, module: str) -> LayerSettings:
        """Raises ConvertError for a layer that a rule says is in floats."""
        overrides = self._rules.overrides(module)
        if any(key in overrides for key in FORMAT_KEYS):
            refuse(self._file, "GPTQ", f"dynamic, for layer {module},", overrides)
        return self._check({**self._settings, **overrides})

    def subtracted(self, bits: int, word_bits: int) -> np.ndarray | None:
        """What version 1 subtracted from the words of zero-points, again and again; None: 1 from each single field.

        Before SOUND_3_BITS, GPTQModel took the constants of the three words of 3-bit fields in the wrong order.
        """
        if self._gptqmodel is None or (bits == 3 and self._gptqmodel >= SOUND_3_BITS):
            return None
        if bits == 3:
            return np.array([0x24924924, 0x92492492, 0x49249249], np.uint32)
        ones = sum(1 << shift for shift in range(0, word_bits, bits))
        return np.array([ones], f"u{word_bits // 8}")

    def _check(self, settings: dict[str, Any]) -> LayerSettings:
        for key, harmless in HARMLESS.items():
            if settings.get(key) not in harmless:
                refuse(self._file, "GPTQ", key, settings[key])
        return layer_settings(self._file, "GPTQ", settings)

    def _format(self, settings: dict[str, Any]) -> str:
        found = [settings[key] for key in FORMAT_KEYS if settings.get(key) is not None]
        for value in found:
            if not isinstance(value, str) or value not in ZERO_OFFSET:
                refuse(self._file, "GPTQ", "checkpoint_format", value)
        if len(set(found)) > 1:
            raise ConvertError(
                f"{self._file}: checkpoint_format is {found[0]!r} but format is {found[1]!r}, expected one value",
                "the two differ in their zero-points; ask the maker of the checkpoint which one is right",
            )
        return found[0] if found else "gptq"

    def _dynamic(self, dynamic: Any) -> list[Rule]:
        """In GPTQModel's order: first the layers that are left out (`-:`), then the others, each as in the file.

        A rule is a regular expression that matches a beginning of the layer's name.
        """
        if dynamic is None:
            return []
        if not isinstance(dynamic, dict) or not all(isinstance(value, dict) for value in dynamic.values()):
            refuse(self._file, "GPTQ", "dynamic", dynamic)
        rules = []
        for text, overrides in sorted(dynamic.items(), key=lambda item: not item[0].startswith("-")):
            excludes = text.startswith("-:")
            expression = text[2:] if text.startswith(("-:", "+:")) else text
            pattern = Pattern(expression, f"{self._file}: dynamic")
            rules.append(Rule(text, pattern.match, None if excludes else overrides))
        return rules


def _gptqmodel_version(meta: Any) -> int | None:
    """The major one of the GPTQModel that `meta.quantizer`, a text like `gptqmodel:2.0.0` or a list of them, names."""
    found = meta.get("quantizer") if isinstance(meta, dict) else None
    for name in found if isinstance(found, list) else [found]:
        if isinstance(name, str) and (match := _GPTQMODEL.match(name)):
            return int(match[1] or SOUND_3_BITS)
    return None
