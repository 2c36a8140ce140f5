"""What the system says about the processor; nothing where it says nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tmac.kernels.host import cpu_model

CPU_FILE = Path("/proc/cpuinfo")
LINUX_NAMES = {"asimddp": "dotprod"}


def name() -> str:
    """The model and the number of cores, for people."""
    return f"{cpu_model()}, {os.cpu_count()} cores"


def features() -> frozenset[str]:
    """Linux's names of the instruction sets; empty where the system does not list them."""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)", _text(), re.M)
    return frozenset(listed[1].split()) if listed else frozenset()


def lacking(wanted: Sequence[str]) -> list[str]:
    """Those of the compilers' names of instruction sets (kernels/isa.py) that the CPU lacks, as far as is listed."""
    # Linux writes avx512_vnni where the compilers' name is avx512vnni, and asimddp for dotprod.
    has = {LINUX_NAMES.get(flag, flag).replace("_", "") for flag in features()}
    return [feature for feature in wanted if feature.replace("_", "") not in has]


def _text() -> str:
    return CPU_FILE.read_text("utf-8", "replace") if CPU_FILE.exists() else ""
