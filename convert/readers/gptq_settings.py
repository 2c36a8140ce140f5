"""What the configuration of a GPTQ checkpoint says of its layers: one setting for all, and rules for single ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConvertError
from .grid import KNOWN_GROUPS
from .method_settings import MethodSettings, either
from .patterns import Pattern
from .per_layer import Layouts, Rule, Rules
from .words import Packing

BITS = (2, 3, 4, 8)
# Names in the configuration -> dtype in the file, and bits of a word. AutoGPTQ knew only the first.
WORDS = {"int32": ("I32", 32), "int16": ("I16", 16), "int8": ("I8", 8)}
# Both mean the same; files of some years have one, others both, old ones none.
FORMAT_KEYS = ("checkpoint_format", "format")
VERSION_1, VERSION_2, PLANAR = "gptq", "gptq_v2", "gptq_p"
# What is added to a stored zero-point. The planar format differs from version 2 only with 3 bits.
ZERO_OFFSET = {VERSION_1: 1, VERSION_2: 0, PLANAR: 0}
SUPPORTED = f"{either(BITS)} bits, group_size {KNOWN_GROUPS}, format {', '.join(ZERO_OFFSET)}, integer codes"
CONTRADICTION = "the two differ in their zero-points; ask the maker of the checkpoint which one is right"
_GPTQMODEL = re.compile(r"gptqmodel(?::(\d{1,9}))?")
# The major version of GPTQModel whose 3-bit zero-points are sound; also assumed where the version is not given.
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


def layer_settings(settings: MethodSettings) -> LayerSettings:
    """Raises ConvertError for what is not supported."""
    bits, group_size, word = settings.one_of("bits", BITS), settings.group_size(-1), settings.get("pack_dtype")
    known = "int32" if word is None else word.removeprefix("torch.") if isinstance(word, str) else ""
    if known not in WORDS or (bits == 3 and known != "int32"):
        raise settings.refusal("pack_dtype", word, "int32" if bits == 3 else either(WORDS))
    # With static groups the inputs are quantized in another order, but stored in their own.
    reorders = settings.get("desc_act") not in (None, False) and settings.get("static_groups") is not True
    return LayerSettings(bits, group_size, WORDS[known], settings.get("sym") is True, reorders)


class GPTQSettings:
    """The settings of a GPTQ checkpoint. Raises ConvertError for what is not supported, by name."""

    def __init__(self, values: dict[str, Any], file: Path, layouts: Layouts):
        self._settings = MethodSettings("GPTQ", SUPPORTED, file, values)
        _check(self._settings)
        found = _format(self._settings)
        self.zero_offset = ZERO_OFFSET[found]
        self.packing = Packing.PLANAR if found == PLANAR else Packing.DENSE
        self._gptqmodel = _gptqmodel_version(values.get("meta"))
        self._rules = Rules(file, "dynamic", _dynamic_rules(self._settings), layouts=layouts)

    def layer(self, module: str) -> LayerSettings:
        """Raises ConvertError for a layer that a rule says is in floats, or whose rule changes the format."""
        overrides = self._rules.overrides(module)
        if any(key in overrides for key in FORMAT_KEYS):
            raise self._settings.refusal(f"dynamic, for layer {module},", overrides)
        return _check(self._settings.overridden(overrides))

    def subtracted(self, bits: int, word_bits: int) -> np.ndarray | None:
        """The words that version 1 subtracted, in turn, from those of zero-points; None: 1 from each single field.

        Before SOUND_3_BITS, GPTQModel took the constants of the three words of 3-bit fields in the wrong order.
        """
        if self._gptqmodel is None or (bits == 3 and self._gptqmodel >= SOUND_3_BITS):
            return None
        if bits == 3:
            return np.array([0x24924924, 0x92492492, 0x49249249], np.uint32)
        ones = sum(1 << shift for shift in range(0, word_bits, bits))
        return np.array([ones], f"u{word_bits // 8}")


def _check(settings: MethodSettings) -> LayerSettings:
    settings.require_harmless(HARMLESS)
    return layer_settings(settings)


def _format(settings: MethodSettings) -> str:
    found = [value for key in FORMAT_KEYS if (value := settings.get(key)) is not None]
    for value in found:
        if not isinstance(value, str) or value not in ZERO_OFFSET:
            raise settings.refusal(FORMAT_KEYS[0], value, either(ZERO_OFFSET))
    if len(set(found)) > 1:
        raise ConvertError(
            f"{settings.file}: {FORMAT_KEYS[0]} is {found[0]!r} but {FORMAT_KEYS[1]} is {found[1]!r}, expected one "
            "value",
            CONTRADICTION,
        )
    return found[0] if found else VERSION_1


def _dynamic_rules(settings: MethodSettings) -> list[Rule]:
    """In GPTQModel's order: first the layers that are left out (`-:`), then the others, each as in the file.

    A rule is a regular expression that matches a beginning of the layer's name.
    """
    dynamic = settings.get("dynamic")
    if dynamic is None:
        return []
    if not isinstance(dynamic, dict) or not all(isinstance(value, dict) for value in dynamic.values()):
        raise settings.refusal("dynamic", dynamic, "objects by expression")
    rules = []
    for text, overrides in sorted(dynamic.items(), key=lambda item: not item[0].startswith("-")):
        excludes = text.startswith("-:")
        expression = text[2:] if text.startswith(("-:", "+:")) else text
        pattern = Pattern(expression, f"{settings.file}: dynamic")
        rules.append(Rule(text, pattern.match, None if excludes else overrides))
    return rules


def _gptqmodel_version(meta: Any) -> int | None:
    """The major version of GPTQModel that `meta.quantizer` names: a text like `gptqmodel:2.0.0`, or a list of such."""
    found = meta.get("quantizer") if isinstance(meta, dict) else None
    for name in found if isinstance(found, list) else [found]:
        if isinstance(name, str) and (match := _GPTQMODEL.match(name)):
            return int(match[1] or SOUND_3_BITS)
    return None
