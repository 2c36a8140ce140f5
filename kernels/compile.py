"""Compiles C sources into a shared library or a program, kept in a cache.

The cache key is a hash of sources, headers, flags and compiler version.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..common import files, lock, packaged, process, trust
from ..common.compilers import find_c_compiler
from ..common.cpu import machine
from ..common.paths import work_folder
from . import generate, tuning_file
from .errors import KernelError
from .tuning import Tuning

LIBRARY, SHARED = "libtmac.so", ("-shared",)


def _run(command: list[str]) -> None:
    done = process.capture(command)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise KernelError(
            f"compiling the kernels failed: {' '.join(command)}\n{said}",
            "a newer gcc (11+) or clang (12+) may know the flags",
        )


def compile_into(
    cc: list[str], extra_flags: tuple[str, ...], link_flags: tuple[str, ...], sources: generate.Sources, output: Path
) -> None:
    """Compiles and links C files into `output`, which appears only when it is complete.

    The C files may include the kernels' headers and those entries of `sources` whose names do not end in .c.
    Raises KernelError.
    """
    with files.folder_beside(output) as folder:
        for name, text in (generate.headers() | {name: text for name, (text, _) in sources.items()}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        base = [*cc, *generate.COMMON_FLAGS, *extra_flags, "-fPIC", f"-I{folder}", "-c"]
        commands = [
            [*base, *own, str(folder / name), "-o", str(folder / f"{name}.o")]
            for name, (_, own) in sources.items()
            if name.endswith(".c")
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        objects = [command[-1] for command in commands]
        _run([*cc, *extra_flags, *link_flags, *objects, "-lm", "-pthread", "-o", str(folder / output.name)])
        trust.close_to_others(folder / output.name)
        files.publish([folder / output.name], output.parent)


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return work_folder() / "native"


def build(extra_flags: tuple[str, ...] = (), tuning: Tuning | None = None) -> Path:
    """Compiles all kernels for this machine, unless the cache has them. Returns the shared library. Raises KernelError.

    `tuning` defaults to what `tmac kernels tune` found on this machine. Where a wheel's binaries are used, they have
    the kernels, and nothing is compiled unless flags or a tuning are given.
    """
    if tuning is None and not extra_flags and (library := packaged.kernels()):
        return library
    tuning = tuning_file.for_this_machine() if tuning is None else tuning
    return build_library(generate.sources(machine(), tuning), extra_flags)


def build_library(sources: generate.Sources, extra_flags: tuple[str, ...] = ()) -> Path:
    """Compiles C files, which may include the kernels' headers, into a shared library unless the cache has it.

    Returns the library; the packaged one, where a wheel's binaries are used and have it. Raises KernelError.
    """
    if not extra_flags and (library := packaged.native(_library_inputs(sources))):
        return library
    return build_file(LIBRARY, find_c_compiler(), sources, extra_flags, SHARED)


def is_built() -> bool:
    """Whether `build` has nothing to compile. Raises KernelError without a compiler."""
    if packaged.kernels():
        return True
    sources = generate.sources(machine(), tuning_file.for_this_machine())
    return _place(LIBRARY, find_c_compiler(), sources, (), SHARED).exists()


def _place(
    name: str, cc: list[str], sources: generate.Sources, extra_flags: tuple[str, ...], link_flags: tuple[str, ...]
) -> Path:
    """Where in the cache the result is kept."""
    identity = process.output([*cc, "--version"])
    inputs = (cc, identity, generate.COMMON_FLAGS, extra_flags, link_flags, sources, generate.headers())
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:24]
    return cache_folder() / key / name


def package_library(sources: generate.Sources, folder: Path, cc: list[str]) -> None:
    """Compiles, by the command `cc`, what `build_library` will find in a wheel with the folder `folder`.

    Raises KernelError.
    """
    output = folder / packaged.native_name(_library_inputs(sources))
    compile_into(cc, (), ("-shared", "-s"), sources, output)


def _library_inputs(sources: generate.Sources) -> tuple[object, ...]:
    return generate.COMMON_FLAGS, sources, generate.headers()


def build_file(
    name: str, cc: list[str], sources: generate.Sources, extra_flags: tuple[str, ...], link_flags: tuple[str, ...]
) -> Path:
    """Compiles C files, which may include the kernels' headers, into a library or program unless the cache has it.

    Raises TmacError for a cache that others can write to: what is in it becomes part of the process.
    """
    output = _place(name, cc, sources, extra_flags, link_flags)
    if not output.exists():
        with lock.held(f"native-{output.parent.name}", "compiling kernels"):
            if not output.exists():
                for folder in (cache_folder(), output.parent):
                    if not folder.exists():
                        folder.mkdir(parents=True, exist_ok=True)
                        trust.close_to_others(folder)
                compile_into(cc, extra_flags, link_flags, sources, output)
    trust.check_own(output, [cache_folder(), output.parent])
    return output
