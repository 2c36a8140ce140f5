"""The one exception of the converter. Everything a user can cause by bad input, network or disk ends here."""

# Values and names of a damaged file can be as long as the file.
MAX_LENGTH = 2000


def _as_line(text: str) -> str:
    """Something that prints as one line: without control characters, its middle left out if it is too long."""
    printable = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    half = MAX_LENGTH // 2
    return printable if len(printable) <= MAX_LENGTH else f"{printable[:half]} ... {printable[-half:]}"


class ConvertError(Exception):
    """A conversion that cannot go on.

    `message` names the file, the tensor, what was found and what was expected; `hint` says what to do next.
    Both are one line of plain text; the command line prints them as `error:` and `hint:`.
    """

    def __init__(self, message: str, hint: str = ""):
        self.message = _as_line(message)
        self.hint = _as_line(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message
