"""This machine's CPU: architecture, model, instruction sets; empty where the system does not say."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from . import process

CPU_FILE = Path("/proc/cpuinfo")
LINUX_NAMES = {"asimddp": "dotprod"}


def machine() -> str:
    """The architecture as the kernels name it: x86_64, arm64, or the system's own name in lower case."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name)


def model() -> str:
    """The CPU's name, with the numbers that tell models of one name apart."""
    text = _text()
    # Virtual machines call every generation "AMD EPYC" or "Intel Xeon Processor"; Arm has no name, but a part number
    # for each kind of core.
    words = _values(text, "model name")
    labels = ("cpu family", "model") if words else ("CPU implementer", "CPU part")
    words += [f"{label} {' '.join(_values(text, label))}" for label in labels if _values(text, label)]
    if not words and platform.system() == "Darwin":
        words = process.output(["sysctl", "-n", "machdep.cpu.brand_string"]).split("\n")[:1]
    return ", ".join(filter(None, words)) or platform.processor() or platform.machine()


def name() -> str:
    """The model and the number of cores, for people."""
    return f"{model()}, {os.cpu_count()} cores"


def features() -> frozenset[str]:
    """Linux's names of the instruction sets; empty where the system does not list them."""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)", _text(), re.M)
    return frozenset(listed[1].split()) if listed else frozenset()


def lacking(wanted: Sequence[str]) -> list[str]:
    """Those of the compilers' names of instruction sets (kernels/isa.py) that the CPU lacks, as far as is listed."""
    # Linux writes avx512_vnni where the compilers' name is avx512vnni, and asimddp for dotprod.
    has = {LINUX_NAMES.get(flag, flag).replace("_", "") for flag in features()}
    return [feature for feature in wanted if feature.replace("_", "") not in has]


def _values(text: str, label: str) -> list[str]:
    """The different values of a line of /proc/cpuinfo over all cores, in order."""
    return list(dict.fromkeys(re.findall(rf"^{label}[ \t]*:[ \t]*(.*\S)", text, re.M)))


def _text() -> str:
    return CPU_FILE.read_text("utf-8", "replace") if CPU_FILE.exists() else ""
