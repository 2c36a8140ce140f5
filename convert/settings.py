"""Checked access to the values of a config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import ConvertError

# More tokens than any model has; a number from a damaged file must not become a list of that length.
MAX_TOKENS = 1 << 21
DAMAGED = "the configuration is damaged or from another kind of model"


class Settings:
    """The values of one JSON object, with the file they are from, so that an error can name it."""

    def __init__(self, values: dict[str, Any], file: Path):
        self.values = values
        self.file = file

    def integer(self, key: str, default: int | None = None, at_most: int = 2**31 - 1) -> int:
        """A whole number in 1..at_most; `default` if the key is absent or null. Raises ConvertError otherwise."""
        value = self._value(key, default)
        if type(value) is not int or not 1 <= value <= at_most:
            raise self.damaged(f"{key} is {value!r}, expected a whole number from 1 to {at_most}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """A whole number above zero, None if the key is absent or null. Raises ConvertError otherwise."""
        return None if self.values.get(key) is None else self.integer(key)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above zero; `default` if the key is absent or null. Raises ConvertError otherwise."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not 0 < value <= 1e30:
            raise self.damaged(f"{key} is {value!r}, expected a number above zero")
        return float(value)

    def child(self, key: str) -> Settings | None:
        """The object under `key`, None if the key is absent or null. Raises ConvertError otherwise."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.damaged(f"{key} is {value!r}, expected an object")
        return None if value is None else Settings(value, self.file)

    def damaged(self, found: str) -> ConvertError:
        """The error for values that no configuration has. `found` names the key, its value, and what was expected."""
        return ConvertError(f"{self.file}: {found}", DAMAGED)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value
