"""The base of the errors that a user is meant to read."""

from __future__ import annotations


def printable(text: str, kept: str = "\n\t") -> str:
    """The text without characters that do something to a terminal, which are spelled; those in `kept` stay.

    Names of tensors, architectures and tokens are from files of strangers.
    """
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


def printable_line(text: str) -> str:
    """The same on one line: a name must not look like lines of ours."""
    return printable(text, kept="")


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
