"""The systems that binaries are made for: this machine's own, and those that it has a cross compiler for."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from . import compilers, cpu
from .errors import TmacError


@dataclass(frozen=True)
class Platform:
    """A system and an architecture.

    name      as in a wheel's tag, but with hyphens: linux-aarch64
    machine   the architecture as the kernels name it
    prefix    how the names of its cross compilers begin, and its folder below /usr; empty: this machine's own compilers
    emulator  what runs its programs elsewhere, a program of QEMU
    packages  of Debian and Ubuntu that have all of these
    """

    name: str
    machine: str
    prefix: str = ""
    emulator: str = ""
    packages: str = ""

    @property
    def is_crossed(self) -> bool:
        """Whether its binaries are made by a cross compiler."""
        return bool(self.prefix)

    @property
    def processor(self) -> str:
        """The architecture as CMake and Linux name it."""
        return self.name.partition("-")[2]

    @property
    def root(self) -> Path:
        """The folder that has `lib` with the libraries of its system."""
        return Path("/usr", self.prefix)

    @property
    def hint(self) -> str:
        """How to get its compilers and its emulator."""
        return f"Debian, Ubuntu: sudo apt install {self.packages}"

    def c_compiler(self) -> list[str]:
        """The command of its C compiler. Raises TmacError for none."""
        return [self._cross("gcc")] if self.is_crossed else compilers.find_c_compiler()

    def cxx_compiler(self) -> list[str]:
        """The command of its C++ compiler. Raises TmacError for none."""
        return [self._cross("g++")] if self.is_crossed else compilers.find_cxx_compiler()

    def _cross(self, kind: str) -> str:
        program = f"{self.prefix}-{kind}"
        if shutil.which(program) is None:
            raise TmacError(f"{program} is not installed (not found on PATH)", self.hint)
        return program


ARM64 = Platform(
    "linux-aarch64",
    "arm64",
    "aarch64-linux-gnu",
    "qemu-aarch64",
    "g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)
# Debian's names of cross compilers: there are such for Linux alone.
CROSS = (ARM64,)


def own() -> Platform:
    """This machine's."""
    return Platform(sysconfig.get_platform(), cpu.machine())


def names() -> list[str]:
    """All that binaries can be made for here, this machine's first."""
    crossed = CROSS if sys.platform == "linux" else ()
    return list(dict.fromkeys(platform.name for platform in (own(), *crossed)))


def named(name: str) -> Platform:
    """One of `names`."""
    return next(platform for platform in (own(), *CROSS) if platform.name == name)
