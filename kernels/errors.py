"""The one error of this package that a user is meant to read."""


class KernelError(Exception):
    """Something the user can act on: `message` says what was found and expected, `hint` what to do."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint
