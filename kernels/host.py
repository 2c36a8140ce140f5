"""The machine at hand: its CPU's model, its C compiler, and the folder in which what is made for them is kept."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from .errors import KernelError

CPU_FILE = Path("/proc/cpuinfo")


def home_folder() -> Path:
    """Where compiled libraries and the tuning are kept: in $TMAC_HOME, else in the user's cache. Raises KernelError."""
    chosen = os.environ.get("TMAC_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tmac"
    except RuntimeError:
        what = f"TMAC_HOME={chosen}: the home folder that ~ stands for" if chosen else "the user's home folder"
        raise KernelError(f"{what} is not known", "set TMAC_HOME to the whole path of a folder") from None


def cpu_model() -> str:
    """The CPU's name, with the numbers that tell models of one name apart."""
    text = CPU_FILE.read_text("utf-8", "replace") if CPU_FILE.exists() else ""
    # Virtual machines call every generation "AMD EPYC" or "Intel Xeon Processor"; Arm has no name, but a part number
    # for each kind of core.
    labels = ("cpu family", "model") if _values(text, "model name") else ("CPU implementer", "CPU part")
    words = _values(text, "model name")
    words += [f"{label} {' '.join(_values(text, label))}" for label in labels if _values(text, label)]
    if not words and platform.system() == "Darwin":
        words = _output(["sysctl", "-n", "machdep.cpu.brand_string"]).split("\n")[:1]
    return ", ".join(filter(None, words)) or platform.processor() or platform.machine()


def _values(text: str, label: str) -> list[str]:
    """The different values of a line of /proc/cpuinfo over all cores, in order."""
    return list(dict.fromkeys(re.findall(rf"^{label}[ \t]*:[ \t]*(.*\S)", text, re.M)))


def compiler() -> list[str]:
    """The command of the C compiler: $CC with its arguments, else cc, gcc or clang. Raises KernelError for none."""
    try:
        chosen = shlex.split(os.environ.get("CC", ""))
    except ValueError as problem:
        raise KernelError(f"the variable CC cannot be read: {problem}", "set it to a compiler, or unset it") from None
    for command in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    raise KernelError(
        f"no C compiler was found (looked for {chosen[0] + ', from CC' if chosen else 'cc, gcc, clang'})",
        "Debian, Ubuntu: sudo apt install build-essential    macOS: xcode-select --install",
    )


def compiler_name() -> str:
    """What the C compiler is, however it is called: for example `gcc 12.2.0`. Raises KernelError for none."""
    command = compiler()
    defined = _output([*command, "-dM", "-E", "-x", "c", os.devnull])
    macros = dict(re.findall(r"^#define (__\w+__) (.*)$", defined, re.M))
    if "__clang_major__" in macros:
        kind = "Apple clang" if "__apple_build_version__" in macros else "clang"
        return f"{kind} {_version(macros, 'clang_major', 'clang_minor', 'clang_patchlevel')}"
    if "__GNUC__" in macros:
        return f"gcc {_version(macros, 'GNUC', 'GNUC_MINOR', 'GNUC_PATCHLEVEL')}"
    return (_output([*command, "--version"]).splitlines() or [Path(command[0]).name])[0]


def _version(macros: dict[str, str], *numbers: str) -> str:
    return ".".join(macros[f"__{number}__"] for number in numbers)


def _output(command: list[str]) -> str:
    """What a command prints; nothing where it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    except OSError:
        return ""
