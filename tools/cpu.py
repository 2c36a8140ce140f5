"""What the system says about the processor; nothing where it says nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tmac.kernels.host import cpu_model

CPU_FILE = Path("/proc/cpuinfo")


def name() -> str:
    """The model and the number of cores, for people."""
    return f"{cpu_model()}, {os.cpu_count()} cores"


def features() -> frozenset[str]:
    """Linux's names of the instruction sets; empty where the system does not list them."""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)", _text(), re.M)
    return frozenset(listed[1].split()) if listed else frozenset()


def _text() -> str:
    return CPU_FILE.read_text("utf-8", "replace") if CPU_FILE.exists() else ""
