"""The error of this folder: everything that a user can cause by bad input, network or disk ends here."""

from __future__ import annotations

from ..common.errors import TmacError, printable_line

# Values and names of a damaged file can be as long as the file.
MAX_LENGTH = 2000


def _as_line(text: str) -> str:
    """Something that prints as one line: without control characters, its middle left out if it is too long."""
    line = printable_line(text)
    half = MAX_LENGTH // 2
    return line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}"


class ConvertError(TmacError):
    """A conversion that cannot go on: the file, the tensor, what was found and what was expected.

    Message and hint are one printable line each, whatever the input contained.
    """

    def __init__(self, message: str, hint: str = ""):
        super().__init__(_as_line(message), _as_line(hint))
