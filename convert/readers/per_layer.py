"""Settings of single layers: the rules of a checkpoint's configuration, in their order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConvertError

_WRAPPER, _TOP = "language_model.", "model."
_PREFIX, _LOOKS_AROUND = re.compile(r"model\\?\."), re.compile(r"\(\?<?[=!]")


def names_of(module: str) -> tuple[str, ...]:
    """The layer's own name, then those that it has in other layouts of the same model.

    A text model inside one that also sees images has another prefix, and a base model has none. The settings of a
    checkpoint may have been written for another layout than its tensors have.
    """
    bare = module
    for prefix in (_TOP + _WRAPPER, _WRAPPER, _TOP):
        bare = bare.removeprefix(prefix)
    prefixes = _TOP, _WRAPPER + _TOP, _TOP + _WRAPPER, _WRAPPER, ""
    return tuple(dict.fromkeys((module, *(prefix + bare for prefix in prefixes))))


class Layouts:
    """For which layout of a checkpoint's model an expression was written. `tensors`: all names in the checkpoint."""

    def __init__(self, tensors: Iterable[str] = ()):
        self._modules = {name.rpartition(".")[0] for name in tensors}
        self._is_other: dict[str, bool] = {}

    def fits(self, expression: str, applies: Callable[[str], bool], module: str) -> bool:
        """Whether the expression applies to the layer, under a name of another layout only if it was written for one.

        It was if it speaks of a prefix and applies to no module under the names of the checkpoint. One that looks
        around may be about what a name lacks, and all other layouts lack it.
        """
        if applies(module):
            return True
        if expression not in self._is_other:
            speaks_of_prefix = _PREFIX.search(expression) and not _LOOKS_AROUND.search(expression)
            self._is_other[expression] = bool(speaks_of_prefix) and not any(map(applies, self._modules))
        return self._is_other[expression] and any(map(applies, names_of(module)))


@dataclass(frozen=True)
class Rule:
    """`text` is the rule as the file has it. `overrides` replace settings; None: the layer is not quantized."""

    text: str
    applies: Callable[[str], bool]
    overrides: dict[str, Any] | None


class Rules:
    """The rules under `key` of `file`. For a layer that in `named` counts, else the first of `rules` that applies."""

    def __init__(
        self,
        file: Path,
        key: str,
        rules: Iterable[Rule],
        named: dict[str, Rule] | None = None,
        layouts: Layouts | None = None,
    ):
        self._file, self._key, self._rules, self._named = file, key, list(rules), named or {}
        self._layouts = layouts or Layouts()

    def overrides(self, module: str) -> dict[str, Any]:
        """What replaces settings for this quantized layer. Raises ConvertError if a rule leaves it in floats."""
        named = next((self._named[name] for name in names_of(module) if name in self._named), None)
        applying = (rule for rule in self._rules if self._layouts.fits(rule.text, rule.applies, module))
        rule = named or next(applying, None)
        if rule is None:
            return {}
        if rule.overrides is None:
            raise ConvertError(
                f"{self._file}: the rule {rule.text[:100]!r} of {self._key} leaves layer {module} in floats, but the "
                f"checkpoint has {module}.qweight, expected {module}.weight",
                "the configuration and the tensors do not belong together",
            )
        return rule.overrides
