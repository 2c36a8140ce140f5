"""Settings that hold for single layers: the rules of a checkpoint's configuration, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from .patterns import PatternError


@dataclass(frozen=True)
class Rule:
    """`text` is the rule as the file has it; `overrides` replace settings, None: the layer is not quantized."""

    text: str
    applies: Callable[[str], bool]
    overrides: dict[str, Any] | None


class Rules:
    """The rules under `key` of `file`; of those that apply to a layer the first counts."""

    def __init__(self, file: Path, key: str, rules: Iterable[Rule]):
        self.file, self.key, self._rules = file, key, list(rules)

    def overrides(self, module: str) -> dict[str, Any]:
        """What replaces settings for this quantized layer. Raises ConvertError if a rule leaves it in floats."""
        rule = self._find(module)
        if rule is None:
            return {}
        if rule.overrides is None:
            raise ConvertError(
                f"{self.file}: the rule {rule.text[:100]!r} of {self.key} leaves layer {module} in floats, but the "
                f"checkpoint has {module}.qweight, expected {module}.weight",
                "the configuration and the tensors do not belong together",
            )
        return rule.overrides

    def _find(self, module: str) -> Rule | None:
        for rule in self._rules:
            try:
                if rule.applies(module):
                    return rule
            except PatternError as error:
                raise refused_rule(self.file, self.key, rule.text, error) from error
        return None


def refused_rule(file: Path, key: str, text: str, error: PatternError) -> ConvertError:
    return ConvertError(
        f"{file}: the rule {text[:100]!r} of {key} cannot be used as a regular expression: {error}",
        "write it with literals, classes, groups, | and repetitions",
    )
