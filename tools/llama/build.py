"""Compiles a patched llama.cpp tree into the binaries that T-MAC runs. Nothing here needs the network."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tmac.common import console, cpu, platforms, process
from tmac.common.compilers import find_c_compiler, find_cxx_compiler
from tmac.common.paths import log_file, place_key, work_folder
from tmac.common.platforms import Platform
from tmac.common.progress import PercentBar

from ..errors import ToolError

TARGETS = (
    "llama-cli",
    "llama-completion",
    "llama-bench",
    "llama-batched-bench",
    "llama-perplexity",
    "llama-server",
    "llama-quantize",
    "llama-gguf-split",
    "llama-results",
    "llama-tokenize",
    "llama-imatrix",
    "ggml-rpc-server",
)
# Found by building in such folders, with make and with ninja.
UNBUILDABLE = '";[]|\\'
# How the output lines of make (percent) and ninja (steps done, all steps) begin.
STEP = re.compile(r"^\[\s*(\d+)(?:%|/(\d+))\]")
STAMP = ".tmac-configured.json"
# In a build folder while it is compiled in; it stays there only if the process was killed.
UNFINISHED = ".tmac-compiling"
# Facts of a configured folder that cmake has written down there, so that it can be compiled in with others around.
KEPT = ("generator", "compilers", "environment")
# What cmake reads from the environment when it configures, and never again.
FLAGS = ("CFLAGS", "CXXFLAGS", "LDFLAGS")
VARIABLES = ("CC", "CXX", *FLAGS)

# Metal is on by default on a Mac, and would take T-MAC's tensors without being able to compute them.
COMMON_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_CCACHE=OFF",
    "-DGGML_METAL=OFF",
    # A model on several machines. Without --rpc there is one backend more, which has no device.
    "-DGGML_RPC=ON",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # Compiled only where `tests/e2e/test_upstream_suite.py` asks for some.
    "-DLLAMA_BUILD_TESTS=ON",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
)
# What CMake links: without symbols, which are most of their bytes. The flags of releases come after those of LDFLAGS.
LINKED = ("EXE", "SHARED", "MODULE")
# Shared, because Python's binding loads the same libraries. Their paths are relative to the binaries.
SHARED_OPTIONS = (
    "-DBUILD_SHARED_LIBS=ON",
    # The build's own rpath ends with a colon, which stands for the current folder.
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    f"-DCMAKE_INSTALL_RPATH={'@loader_path' if sys.platform == 'darwin' else '$ORIGIN'}",
)
NATIVE_OPTIONS = ("-DGGML_NATIVE=ON", *SHARED_OPTIONS)
# The folder bin/ can be taken to another machine: a library's name is that of its file (a wheel cannot hold the links
# of versions). Threads are OpenMP's, as in a build for this machine: ggml's own wait without sleeping, which takes
# minutes for a token where there are fewer processors than threads.
PORTABLE_OPTIONS = (
    "-DGGML_NATIVE=OFF",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    "-DGGML_OPENMP=ON",
    *SHARED_OPTIONS,
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    *(f"-DCMAKE_{kind}_LINKER_FLAGS_RELEASE=-s" for kind in LINKED if sys.platform == "linux"),
)


@dataclass(frozen=True)
class Build:
    """A folder with compiled binaries."""

    folder: Path

    def binary(self, name: str) -> Path:
        """The path of one of TARGETS."""
        return self.folder / "bin" / (f"{name}.exe" if os.name == "nt" else name)

    def libraries(self) -> list[Path]:
        """The shared libraries, which the programs find beside themselves."""
        return sorted(path for kind in ("so", "dylib", "dll") for path in (self.folder / "bin").glob(f"*.{kind}"))

    def is_complete(self) -> bool:
        """Whether every program is there."""
        return all(self.binary(name).is_file() for name in TARGETS)


def build_folder(
    portable: bool = False,
    llama_src: Path | None = None,
    variants: Sequence[str] = (),
    platform: Platform | None = None,
) -> Path:
    """Where the binaries of one kind of build lie, whether or not they are there yet.

    `platform`: what it is for (default this machine's).
    """
    crossed = [platform.name] if platform and platform.is_crossed else []
    name = "-".join(["llama-build", "portable" if portable else "native", *crossed, *variants])
    return work_folder() / (f"{name}-from-{place_key(llama_src)}" if llama_src else name)


def compile_tree(
    source: Path,
    folder: Path,
    *,
    portable: bool = False,
    variants: Sequence[str] = (),
    platform: Platform | None = None,
    jobs: int | None = None,
    keeps: bool = False,
) -> Build:
    """Configures and compiles a patched tree into `folder`; quick when nothing changed. `keeps` as of `configure`.

    `variants`: those of ggml's CPU backends that a portable build has (default all). `platform`: what a portable build
    is for (default this machine's). Raises TmacError.
    """
    build = Build(folder)
    chosen = [f"-DGGML_CPU_VARIANTS={';'.join(variants)}"] if variants else []
    crossed, compilers = _cross_build(platform) if platform and platform.is_crossed else ([], [])
    options = [*COMMON_OPTIONS, *(PORTABLE_OPTIONS if portable else NATIVE_OPTIONS), *chosen, *crossed]
    configure(source, folder, options, compilers, keeps=keeps)
    compile_targets(source, folder, TARGETS, jobs)
    if not build.is_complete():
        missing = [name for name in TARGETS if not build.binary(name).is_file()]
        raise ToolError(f"the build made no {', '.join(missing)} in {build.folder / 'bin'}", "tmac build --clean")
    return build


def _cross_build(platform: Platform) -> tuple[list[str], list[Path]]:
    """What tells CMake to build for another platform, and the compilers that this names. Raises TmacError for none."""
    compilers = [process.find(command[0]) for command in (platform.c_compiler(), platform.cxx_compiler())]
    # Libraries of this machine are none of that platform's; programs are to run here.
    kinds = {"PROGRAM": "NEVER", "LIBRARY": "ONLY", "INCLUDE": "ONLY", "PACKAGE": "ONLY"}
    return [
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={platform.processor}",
        f"-DCMAKE_C_COMPILER={compilers[0]}",
        f"-DCMAKE_CXX_COMPILER={compilers[1]}",
        f"-DCMAKE_FIND_ROOT_PATH={platform.root}",
        *(f"-DCMAKE_FIND_ROOT_PATH_MODE_{kind}={mode}" for kind, mode in kinds.items()),
    ], compilers


def compile_targets(source: Path, folder: Path, targets: Sequence[str], jobs: int | None = None) -> None:
    """Compiles some programs of a folder that `configure` has configured. Raises TmacError.

    The caller holds the lock of the build: otherwise another run takes what is half made here for what was cut off.
    """
    progress = PercentBar("building llama.cpp")
    (folder / UNFINISHED).touch()
    try:
        process.run(
            [find_cmake(), "--build", folder, "--target", *targets, "-j", str(jobs or os.cpu_count() or 1)],
            env=_environment(source),
            log=log_file("build"),
            on_line=lambda line: progress.reach(percent_of(line)),
            hint=(
                "llama.cpp needs a compiler with C++17, gcc 11 or clang 12 and later; "
                "if files were changed by hand: tmac build --clean"
            ),
            starts_others=True,
        )
    finally:
        progress.close()
        (folder / UNFINISHED).unlink(missing_ok=True)


def _environment(source: Path) -> dict[str, str]:
    return {"GIT_CEILING_DIRECTORIES": str(source.parent)}


def _remove_half_made(folder: Path) -> bool:
    """Deletes what a run that was killed has made: make takes half an object file for one that is up to date.

    True if there was such a run: cmake, which make and ninja run by themselves, has to write again what it wrote then.
    After an interruption or an error, make and the compiler delete such files themselves.
    """
    mark = folder / UNFINISHED
    if not mark.exists():
        return False
    console.log(f"the last build in {folder} was cut off: what it made is made again")
    since = mark.stat().st_mtime_ns
    for path in list(folder.rglob("*")):
        if path != mark and path.is_file() and path.stat().st_mtime_ns >= since:
            path.unlink()
    return True


def percent_of(line: str) -> int:
    """How much is done by a line that make or ninja prints; 0 for any other line."""
    step = STEP.match(line)
    return 100 * int(step[1]) // max(int(step[2] or 100), 1) if step else 0


def require_tools(platform: Platform | None = None) -> None:
    """Raises TmacError for the first program that a build would miss, before anything is downloaded for it.

    Also for a work folder with characters in its path that a build cannot have, and for flags of the shell, which are
    this machine's, where a cross compiler would get them. `platform`: what it is for (default this machine's).
    """
    _check_path(work_folder(), _generator())
    process.find("git")
    find_cmake()
    if os.name != "nt":
        platform = platform or platforms.own()
        for name in FLAGS:
            if platform.is_crossed and (value := os.environ.get(name)):
                found = f"{name}={value} would reach the compiler for {platform.name}, expected none"
                raise ToolError(found, f"unset {name}, which is for this machine's compiler")
        for command in (platform.c_compiler(), platform.cxx_compiler()):
            process.find(command[0])
    _generator()


def _check_path(folder: Path, generator: str) -> None:
    """Raises ToolError for characters that CMake, or what it writes for make and ninja, takes for something else."""
    refused = UNBUILDABLE + (":" if generator == "Unix Makefiles" else "")
    if os.name == "nt":
        refused = refused.replace("\\", "")
    found = [char for char in str(folder) if char in refused or not char.isprintable()]
    if found:
        raise ToolError(
            f"{folder} has {found[0]!r} in its path, with which CMake cannot build",
            "set TMAC_HOME to a folder without it, or move the checkout",
        )


def find_cmake() -> Path:
    """cmake of this Python environment, else of PATH. Raises TmacError."""
    beside = shutil.which("cmake", path=str(Path(sys.executable).parent))
    return Path(beside) if beside else process.find("cmake")


def c_compiler() -> Path:
    """The program that cmake takes for C. Raises TmacError for none."""
    return process.find(find_c_compiler()[0])


def cxx_compiler() -> Path:
    """The program that cmake takes for C++. Raises TmacError for none."""
    return process.find(find_cxx_compiler()[0])


def configure(
    source: Path, folder: Path, options: Sequence[str], compilers: Sequence[Path] = (), *, keeps: bool = False
) -> None:
    """Runs cmake unless it ran before with the same facts and no run was cut off since. Raises TmacError.

    A folder of other facts is emptied first; with `keeps`, KEPT are no such facts. `compilers`: those that the options
    name, if they do.
    """
    again, cmake, generator = _remove_half_made(folder), find_cmake(), _generator()
    stamp = folder / STAMP
    today = _facts(cmake, source, generator, options, compilers)
    facts = today | (_kept(stamp) if keeps else {})
    is_same = stamp.is_file() and stamp.read_bytes() == json.dumps(facts, indent=1).encode()
    has_cache = (folder / "CMakeCache.txt").is_file()
    if is_same and not again and has_cache:
        return
    # Without its cache, cmake asks the environment again.
    facts = facts if is_same and has_cache else today
    generator = facts["generator"]
    if folder.exists() and not (is_same and again):
        shutil.rmtree(folder)
    command = [cmake, "-S", source, "-B", folder, *(["-G", generator] if generator else []), *options]
    console.detail("configuring llama.cpp")
    process.run(
        command,
        env=_environment(source),
        log=log_file("configure"),
        hint="tmac doctor lists what a build needs",
        starts_others=True,
    )
    stamp.write_bytes(json.dumps(facts, indent=1).encode())


def _kept(stamp: Path) -> dict[str, object]:
    """KEPT, as the folder was configured; nothing for one that was not, or whose stamp is damaged."""
    try:
        before = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return {name: before[name] for name in KEPT if name in before} if isinstance(before, dict) else {}


def _facts(
    cmake: Path, source: Path, generator: str, options: Sequence[str], compilers: Sequence[Path]
) -> dict[str, object]:
    """All that decides what a configured folder compiles; machines of several kinds may share the work folder."""
    compilers = compilers or ([] if os.name == "nt" else [c_compiler(), cxx_compiler()])
    native = "-DGGML_NATIVE=ON" in options
    return {
        "source": str(source),
        "generator": generator,
        "options": list(options),
        "cmake": _identity(cmake),
        "compilers": [_identity(path) for path in compilers],
        "environment": {name: os.environ.get(name, "") for name in VARIABLES},
        "machine": cpu.machine(),
        "features": sorted(cpu.features()) if native else [],
    }


def has_ninja() -> bool:
    """Whether cmake is told to use Ninja, which is quicker than make when there is nothing to do."""
    return shutil.which("ninja") is not None


def _generator() -> str:
    if has_ninja():
        return "Ninja"
    if os.name == "nt":
        return ""
    process.find("make")
    return "Unix Makefiles"


def _identity(program: Path) -> str:
    """Tells a program from another of the same name: its path, its real path, and when it was last changed."""
    real = program.resolve()
    return f"{program} {real} {real.stat().st_mtime_ns}"
