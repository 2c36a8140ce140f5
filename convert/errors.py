"""The one exception of the converter. Everything a user can cause by bad input, network or disk ends here."""


class ConvertError(Exception):
    """A conversion that cannot go on.

    `message` names the file, the tensor, what was found and what was expected; `hint` says what to do next.
    Both are plain text; the command line prints them as `error:` and `hint:`.
    """

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message
