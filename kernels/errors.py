"""The error class of this folder."""

from __future__ import annotations

from ..common.errors import TmacError


class KernelError(TmacError):
    """There is no such kernel, no compiler, or no kernel for this shape."""
