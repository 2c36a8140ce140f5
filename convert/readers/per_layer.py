"""Settings of single layers: the rules of a checkpoint's configuration, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConvertError


@dataclass(frozen=True)
class Rule:
    """`text` is the rule as the file has it. `overrides` replace settings; None: the layer is not quantized."""

    text: str
    applies: Callable[[str], bool]
    overrides: dict[str, Any] | None


class Rules:
    """The rules under `key` of `file`. For a layer that in `named` counts, else the first of `rules` that applies."""

    def __init__(self, file: Path, key: str, rules: Iterable[Rule], named: dict[str, Rule] | None = None):
        self._file, self._key, self._rules, self._named = file, key, list(rules), named or {}

    def overrides(self, module: str) -> dict[str, Any]:
        """What replaces settings for this quantized layer. Raises ConvertError if a rule leaves it in floats."""
        rule = self._named.get(module) or next((rule for rule in self._rules if rule.applies(module)), None)
        if rule is None:
            return {}
        if rule.overrides is None:
            raise ConvertError(
                f"{self._file}: the rule {rule.text[:100]!r} of {self._key} leaves layer {module} in floats, but the "
                f"checkpoint has {module}.qweight, expected {module}.weight",
                "the configuration and the tensors do not belong together",
            )
        return rule.overrides
