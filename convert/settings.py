"""Checked access to the numbers of a config.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .errors import ConvertError


class Settings:
    """The values of one JSON object, with the file they are from, so that an error can name it."""

    def __init__(self, values: dict[str, Any], file: Path):
        self.values = values
        self.file = file

    def integer(self, key: str, default: int | None = None, at_most: int = 2**31 - 1) -> int:
        """A whole number in 1..at_most; `default` if the key is absent or null. Raises ConvertError otherwise."""
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= at_most:
            raise ConvertError(
                f"{self.file}: {key} is {value!r}, expected a whole number from 1 to {at_most}",
                "the configuration is damaged or from another kind of model",
            )
        return value

    def optional_integer(self, key: str) -> int | None:
        """A whole number above zero, None if the key is absent or null. Raises ConvertError otherwise."""
        return None if self.values.get(key) is None else self.integer(key)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above zero; `default` if the key is absent or null. Raises ConvertError otherwise."""
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not 0 < value <= 1e30 or not math.isfinite(value):
            raise ConvertError(
                f"{self.file}: {key} is {value!r}, expected a number above zero",
                "the configuration is damaged or from another kind of model",
            )
        return float(value)

    def child(self, *keys: str) -> Settings | None:
        """The first of these keys that holds an object, None if all are absent or null; else raises ConvertError."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, dict):
                return Settings(value, self.file)
            if value is not None:
                raise ConvertError(
                    f"{self.file}: {key} is {value!r}, expected an object",
                    "the configuration is damaged or from another kind of model",
                )
        return None
