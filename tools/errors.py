"""The one exception of the tools: what a user can cause, or repair."""

from __future__ import annotations


class ToolError(Exception):
    """Work that cannot go on. `message` says what was found, `hint` what to do next; both are plain text."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint
