"""The error of this folder."""

from __future__ import annotations

from ..common.errors import TmacError


class KernelError(TmacError):
    """No kernel, no compiler, or a shape that no kernel takes."""
