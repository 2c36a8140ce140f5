"""The base of the errors that a user is meant to read."""

from __future__ import annotations


class TmacError(Exception):
    """Work that cannot go on. `message` says what was found and what was expected, `hint` what to do next.

    Both are plain text; the command line prints them as `error:` and `hint:`. Each folder has a subclass of its own.
    """

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message
