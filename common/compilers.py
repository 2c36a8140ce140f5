"""The C and C++ compilers of this machine: which command starts them, and what they are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import process
from .errors import TmacError


def find_c_compiler() -> list[str]:
    """The command of the C compiler: $CC with its arguments, else cc, gcc or clang. Raises TmacError for none."""
    return _find("C", "CC", ("cc", "gcc", "clang"))


def find_cxx_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX with its arguments, else c++, g++ or clang++. Raises TmacError for none."""
    return _find("C++", "CXX", ("c++", "g++", "clang++"))


def _find(language: str, variable: str, names: Sequence[str]) -> list[str]:
    chosen = os.environ.get(variable, "")
    if chosen and not chosen.strip():
        raise TmacError(f"{variable} is set, but blank", f"unset {variable}, or let it name a compiler")
    try:
        command = shlex.split(chosen)
    except ValueError as problem:
        what = f"the variable {variable} cannot be read: {problem}"
        raise TmacError(what, f"unset {variable}, or let it name a compiler") from None
    for candidate in [command] if command else [[name] for name in names]:
        if shutil.which(candidate[0]):
            return candidate
    looked_for = f"{command[0]}, which {variable} names," if command else ", ".join(names)
    raise TmacError(f"no {language} compiler was found (looked for {looked_for} on PATH)", process.install_hint("cc"))


def compiler_name(command: Sequence[str] = ()) -> str:
    """What a C compiler is, whatever its command is called: for example `gcc 12.2.0`. Raises TmacError for none.

    `command`: which (default that of this machine).
    """
    command = command or find_c_compiler()
    defined = process.output([*command, "-dM", "-E", "-x", "c", os.devnull])
    macros = dict(re.findall(r"^#define (__\w+__) (.*)$", defined, re.M))
    if "__clang_major__" in macros:
        kind = "Apple clang" if "__apple_build_version__" in macros else "clang"
        return f"{kind} {_version(macros, 'clang_major', 'clang_minor', 'clang_patchlevel')}"
    if "__GNUC__" in macros:
        return f"gcc {_version(macros, 'GNUC', 'GNUC_MINOR', 'GNUC_PATCHLEVEL')}"
    return (process.output([*command, "--version"]).splitlines() or [Path(command[0]).name])[0]


def _version(macros: dict[str, str], *numbers: str) -> str:
    return ".".join(macros[f"__{number}__"] for number in numbers)
