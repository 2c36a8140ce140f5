"""From how many tokens on kernels serve on this machine: measured once with the kernels of a build, and kept.

Comes in: a native build. Goes out: an entry of kernels/crossings_file.py, which the build is then made with again. A
build for other machines has the tables of kernels/crossings.py alone.
"""

from __future__ import annotations

import os
from dataclasses import replace

from tmac.common import console
from tmac.common.progress import PercentBar
from tmac.kernels import crossings_file, native
from tmac.kernels.crossings import DEFAULT, Crossings, rows_in_words
from tmac.kernels.isa import Isa

from .errors import ToolError
from .llama.build import Build

# Set to anything: a build measures nothing and uses nothing of it, as with `tmac build --no-measure`.
SKIP = "TMAC_NO_MEASURE"


def are_wanted() -> bool:
    """Whether the environment lets builds use what is measured."""
    return not os.environ.get(SKIP)


def measure_once(build: Build) -> bool:
    """Measures and keeps what follows, unless it is known or not wanted. Returns whether it did. Raises TmacError."""
    if not are_wanted() or crossings_file.measured() is not None:
        return False
    library = library_of(build)
    if library is None:
        console.detail("the kernels are not timed: this system's build has no library that exports them")
        return False
    measure(library)
    return True


def measure(library: native.Library) -> Crossings:
    """Measures and keeps from how many tokens on each kernel of a library serves here. Raises TmacError."""
    console.log("timing which kernel serves how many tokens on this machine: some seconds, at most about 20")
    found = _timed(library, library.crossings())
    crossings_file.save(found)
    for line in rows_in_words(found.numbers):
        console.detail(line)
    console.log(f"which kernels serve how many tokens is measured and kept in {crossings_file.path()}")
    return found


def measure_set(library: native.Library, isa: Isa) -> Crossings:
    """From how many tokens on the kernels of an instruction set serve on a CPU that has none above it, to judge the
    table by instruction set: nothing is kept. Raises TmacError.
    """
    if not library.runs_isa(isa):
        raise ToolError(f"this CPU has no {isa.name}", "`tmac doctor` lists what it has")
    console.log(f"timing which kernel serves how many tokens with {isa.name} and what is below it")
    found = _timed(library, DEFAULT, isa)
    return replace(found, numbers={key: row for key, row in found.numbers.items() if key[0] == isa.name})


def _timed(library: native.Library, before: Crossings, top: Isa | None = None) -> Crossings:
    # It compiles loops that time, and imports numpy.
    from .bench import crossing

    bar = PercentBar("timing kernels")
    try:
        return crossing.measure(library, before, bar.reach, top)
    except OSError as problem:
        raise _cannot("the kernels cannot be timed", problem) from None
    finally:
        bar.close()


def library_of(build: Build) -> native.Library | None:
    """The kernels of a build; None where no library exports them, as on Windows. Raises ToolError."""
    exporting = [path for path in build.libraries() if path.suffix != ".dll"]
    # With loadable backends the kernels are a library of their own.
    for stem in ("libtmac-kernels", "libggml-cpu"):
        for path in exporting:
            if path.stem == stem:
                try:
                    return native.Library(path)
                except OSError as problem:
                    raise _cannot(f"{path} cannot be loaded to time its kernels", problem) from None
    return None


def _cannot(what: str, problem: OSError) -> ToolError:
    return ToolError(f"{what}: {problem}", "tmac build --no-measure takes the tables for kinds of CPUs instead")
