"""The Python binding llama-cpp-python on T-MAC's build: which version fits, and where it finds the libraries."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib import metadata
from pathlib import Path

from ..errors import ToolError
from .build import Build
from .source import read_pin

MODULE, VARIABLE = "llama_cpp", "LLAMA_CPP_LIB_PATH"
# What the binding opens, and what knows the backends of a build that chooses them when it runs.
LIBRARY, BACKENDS = "llama", "ggml"
INSTALL = 'CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" pip install "{package}=={version}"'


def installed(package: str) -> str | None:
    """The version of a package in this Python environment; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check() -> None:
    """Raises ToolError if another version of the binding than the pin's is installed in this Python environment.

    Its structs mirror those of one llama.h: another version's calls would write past them.
    """
    pin = read_pin()
    found = installed(pin.package)
    if found not in (None, pin.version):
        hint = INSTALL.format(package=pin.package, version=pin.version)
        raise ToolError(f"{pin.package} {found} does not fit T-MAC's llama.cpp, which is that of {pin.version}", hint)


def folder(build: Build) -> Path:
    """The folder with the shared libraries of a build. Raises ToolError if they are not there."""
    found = build.folder / "bin"
    if not _library(found, LIBRARY).is_file():
        raise ToolError(f"{found} has no {_library(found, LIBRARY).name}", "tmac build")
    return found


def use(build: Build) -> None:
    """Makes this process's binding load the build's libraries, from now on. Raises ToolError.

    A build for many CPUs has its backends in files beside them, where llama.cpp does not look: it looks beside the
    program, which is Python.
    """
    if MODULE in sys.modules:
        raise ToolError(f"{MODULE} is imported already, with libraries of its own", "import tmac.python before")
    check()
    found = folder(build)
    os.environ[VARIABLE] = str(found)
    backends = ctypes.CDLL(str(_library(found, BACKENDS)))
    backends.ggml_backend_reg_count.restype = ctypes.c_size_t
    if not backends.ggml_backend_reg_count():
        backends.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        backends.ggml_backend_load_all_from_path(os.fsencode(found))


def _library(folder: Path, name: str) -> Path:
    if os.name == "nt":
        return folder / f"{name}.dll"
    return folder / f"lib{name}.{'dylib' if sys.platform == 'darwin' else 'so'}"
