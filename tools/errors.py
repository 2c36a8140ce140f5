"""The error of this folder."""

from __future__ import annotations

from tmac.common.errors import TmacError


class ToolError(TmacError):
    """Work of the tools that cannot go on: what a user can cause, or repair."""
