"""ggml's CPU backends, of which a build for many CPUs has several: which there are, and which a compiler can make."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tmac.common import compilers, console, process
from tmac.common.platforms import Platform

from ..errors import ToolError

# CMake's list of them, below a tree, and how its lines tell the architecture, the system, and one backend.
LIST = Path("ggml/src/CMakeLists.txt")
ARCHITECTURE = re.compile(r'GGML_SYSTEM_ARCH STREQUAL "(\w+)"\)')
SYSTEM = re.compile(r'CMAKE_SYSTEM_NAME MATCHES "([\w|]+)"\)|elseif \((APPLE)\)')
BACKEND = re.compile(r"^ +ggml_add_cpu_backend_variant\(([\w.]+)([^)]*)\)")
ARCHITECTURES = {"x86_64": "x86", "arm64": "ARM"}
SYSTEMS = {"linux": "Linux", "macosx": "APPLE"}
# What a backend may need of the compiler: a flag that older ones do not know, and which do.
NEEDS = {"SME": ("-march=armv9.2-a+sme", "gcc 14 or clang 17")}


def backends(source: Path, platform: Platform) -> dict[str, tuple[str, ...]]:
    """Those that a tree has for a platform: name -> what each asks of a CPU, by ggml's names."""
    wanted = ARCHITECTURES.get(platform.machine), SYSTEMS.get(platform.name.partition("-")[0])
    found, architecture, system = {}, "", ""
    for line in (source / LIST).read_text("utf-8").splitlines():
        if match := ARCHITECTURE.search(line):
            architecture, system = match[1], ""
        elif match := SYSTEM.search(line):
            system = match[1] or match[2]
        elif (match := BACKEND.match(line)) and architecture == wanted[0] and system in ("", wanted[1]):
            found[match[1]] = tuple(match[2].split())
    return found


def choose(source: Path, platform: Platform, wanted: Sequence[str]) -> list[str]:
    """Those to build, by name; none: all. Those of `wanted`, or all that the compiler can make.

    Raises ToolError for a name that the tree does not have, and for one that is wanted and cannot be made.
    """
    known = backends(source, platform)
    for name in wanted:
        if name not in known:
            raise ToolError(f"llama.cpp has no CPU backend {name!r}", f"one of: {', '.join(known)}")
    chosen = {name: known[name] for name in wanted or known}
    lacking = _unknown_needs(platform, {need for asked in chosen.values() for need in asked})
    left_out = [name for name, asked in chosen.items() if lacking & set(asked)]
    if not left_out:
        return list(wanted)
    who = " or ".join(NEEDS[need][1] for need in sorted(lacking))
    what = f"{compilers.compiler_name(platform.c_compiler())} cannot compile ggml's {', '.join(left_out)}"
    if wanted:
        raise ToolError(what, f"{who} can; or leave them out")
    console.log(f"{what} ({who} can): their CPUs get the best of the others")
    return [name for name in chosen if name not in left_out]


def _unknown_needs(platform: Platform, asked: set[str]) -> set[str]:
    """Those of NEEDS that the compiler does not know."""
    probe = [*platform.c_compiler(), "-x", "c", "-c", os.devnull, "-o", os.devnull]
    return {need for need in NEEDS.keys() & asked if process.capture([*probe, NEEDS[need][0]]).returncode}
