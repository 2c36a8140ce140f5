"""Checked access to the settings of a quantization method, and the one way in which readers refuse them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from .grid import KNOWN_GROUPS, is_known_group


@dataclass(frozen=True)
class MethodSettings:
    """The object `values` of `file`, or what tensors of a layer say in its place.

    title      what the settings are of, as errors call it: `AWQ`, `layer m: HQQ`
    supported  what the reader supports, for the hint
    path       the keys, each with a dot, under which `values` lies within the settings
    """

    title: str
    supported: str
    file: Path
    values: dict[str, Any]
    path: str = ""

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def one_of(self, key: str, allowed: Iterable[Any], default: Any = None) -> Any:
        """The value of `key`, `default` if absent. Raises ConvertError unless it is `allowed`, also in its type."""
        value = self.values.get(key, default)
        # True is 1 and False is 0 in Python.
        if not any(type(value) is type(other) and value == other for other in allowed):
            raise self.refusal(key, value, either(allowed))
        return value

    def group_size(self, default: int | None = None) -> int:
        """`group_size`, `default` if absent. Raises ConvertError unless the layout keeps such groups exactly."""
        value = self.values.get("group_size", default)
        if type(value) is not int or not is_known_group(value):
            raise self.refusal("group_size", value, KNOWN_GROUPS)
        return value

    def require_harmless(self, harmless: dict[str, tuple[Any, ...]]) -> None:
        """Raises ConvertError if a key has a value that `harmless` does not list: it changes what tensors mean."""
        for key, values in harmless.items():
            if self.values.get(key) not in values:
                raise self.refusal(key, self.values.get(key), either(values))

    def child(self, key: str) -> MethodSettings:
        """The object under `key`. Raises ConvertError if there is something else."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.refusal(key, value, "an object")
        return replace(self, values=value, path=f"{self.path}{key}.")

    def overridden(self, overrides: dict[str, Any]) -> MethodSettings:
        """The same with other values for these keys."""
        return replace(self, values={**self.values, **overrides})

    def refusal(self, key: str, value: Any, expected: str = "", advice: str = "") -> ConvertError:
        """The error for a setting that is not supported; `advice` goes behind what is."""
        wanted = f", expected {expected}" if expected else ""
        return ConvertError(
            f"{self.file}: {self.title} with {self.path}{key} {value!r} is not supported{wanted}",
            f"supported: {self.supported}{advice}",
        )


def either(values: Iterable[Any]) -> str:
    """For messages: `2, 3 or 4`. What is empty is called none."""
    names = list(dict.fromkeys("none" if value in (None, "", {}) else str(value) for value in values))
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
