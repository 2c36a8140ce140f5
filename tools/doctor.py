"""What this machine has for T-MAC, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tmac.common import cpu, packaged, process
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.common.paths import work_folder
from tmac.kernels import crossings_file, tuning_file
from tmac.kernels.catalog import isas_for
from tmac.kernels.crossings import Crossings
from tmac.kernels.forms import PRECISIONS
from tmac.kernels.spec import KernelSpec
from tmac.kernels.tuning import codes_name

from . import crossings, pipeline
from .llama import build as llama_build
from .llama import source as llama_source

OK, MISSING, NOTE = "ok", "missing", "note"
# Of the names, most of them.
WIDTH = 16
MEMORY_FILE = Path("/proc/meminfo")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state` is ok, missing (a build or run will fail) or note."""

    name: str
    state: str
    value: str
    hint: str = ""


def examine(with_speed: bool = False) -> Iterator[Finding]:
    """All findings, in the order in which one would read them, each as soon as it is known.

    `with_speed` adds what the CPU's peaks allow.
    """
    yield Finding("python", OK, f"{platform.python_version()}  {sys.executable}")
    yield Finding("cpu", OK, cpu.name())
    yield from _instruction_sets()
    yield Finding("memory", OK, _memory())
    yield _bandwidth()
    if with_speed:
        yield from _speed()
    yield _program("C compiler", llama_build.c_compiler)
    yield _program("C++ compiler", llama_build.cxx_compiler)
    yield _program("cmake", llama_build.find_cmake)
    yield _program("git", lambda: process.find("git"))
    yield _program("ninja or make", lambda: process.find("ninja" if llama_build.has_ninja() else "make"))
    yield _build_state()
    yield from _kernels()
    yield _tuning()
    yield _crossings()
    yield _work_folder()


def render(finding: Finding) -> str:
    """One line, and its hint below."""
    hint = f"\n{'':{8 + WIDTH}}  -> {finding.hint}" if finding.hint else ""
    return f"{finding.state:8}{finding.name:{WIDTH}}  {finding.value}{hint}"


def as_data(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """The same for programs."""
    return [asdict(finding) for finding in findings]


def _program(name: str, find: Callable[[], Path]) -> Finding:
    try:
        path = find()
    except TmacError as problem:
        if packaged.used():
            return Finding(name, NOTE, f"{problem.message}; only `tmac build` and `tmac kernels tune` need it")
        return Finding(name, MISSING, problem.message, problem.hint)
    return Finding(name, OK, f"{process.version(path)}  {path}")


def _instruction_sets() -> list[Finding]:
    """Which of the catalog's instruction sets the CPU has; nothing where the system does not list its features."""
    if not cpu.features():
        return []
    findings = []
    for isa in isas_for(machine()):
        lacking = cpu.lacking(isa.features)
        value = f"no: the CPU lacks {', '.join(lacking)}" if lacking else "yes"
        findings.append(Finding(f"ISA {isa.name}", NOTE if lacking else OK, value))
    return findings


def _memory() -> str:
    if not MEMORY_FILE.exists():
        return "unknown"
    kilobytes = {key: int(value) for key, value in re.findall(r"(\w+):\s+(\d+) kB", MEMORY_FILE.read_text())}
    return f"{kilobytes['MemTotal'] / 2**20:.1f} GiB, {kilobytes['MemAvailable'] / 2**20:.1f} GiB free"


def _bandwidth() -> Finding:
    """The read bandwidth, which limits decoding: each token reads every weight once."""
    from .bench.loops import MAX_THREADS
    from .bench.reading import read_bandwidth

    cores = min(os.cpu_count() or 1, MAX_THREADS)
    try:
        rates = {threads: read_bandwidth(threads) for threads in sorted({1, cores})}
    except TmacError as problem:
        return Finding("reading memory", MISSING, problem.message, problem.hint)
    except OSError as problem:
        return Finding("reading memory", NOTE, f"not measured: {problem}")
    said = [f"{rate:.0f} GB/s by {count} thread{'s' if count > 1 else ''}" for count, rate in rates.items()]
    return Finding("reading memory", OK, ", ".join(said))


def _speed() -> list[Finding]:
    """The peak of each instruction set that has one, and what these and the read bandwidth allow."""
    from .bench import limits

    try:
        found = limits.measure()
    except TmacError as problem:
        return [Finding("speed", MISSING, problem.message, problem.hint)]
    shown = [Finding(f"peak {name}", OK, text) for name, text in limits.peaks_in_words(found).items()]
    return [*shown, *(Finding(f"limit {name}", OK, text) for name, text in limits.limits_in_words(found).items())]


def _kernels() -> list[Finding]:
    """Which kernels dispatch chooses here, where they are compiled for Python already; a build has them besides."""
    # numpy is needed only from here on.
    from tmac.kernels import compile as kernel_cache
    from tmac.kernels.native import dispatch_table, library, prompt_table
    from tmac.kernels.native_attention import NativeAttention
    from tmac.kernels.native_delta_net import NativeDeltaNet
    from tmac.kernels.native_rotation import NativeRotations

    try:
        if not kernel_cache.is_built():
            said = (
                "as the build has them: tmac run -v says which serve a model; tmac kernels explain NAME, what they do"
            )
            return [Finding("kernels", OK if _build().is_complete() else NOTE, said)]
        found = [Finding(f"{precision} kernels", OK, _by_isa(dispatch_table(precision))) for precision in PRECISIONS]
        found.append(Finding("prompts", OK, _by_type(prompt_table(library().crossings(_measured())))))
        found.append(Finding("attention", OK, NativeAttention(library()).select()))
        found.append(Finding("delta nets", OK, NativeDeltaNet(library()).select()))
        return [*found, Finding("rotations", OK, NativeRotations(library()).select())]
    except TmacError as problem:
        return [Finding("kernels", MISSING, problem.message, problem.hint)]
    except OSError as problem:
        return [Finding("kernels", NOTE, f"not looked at: {problem}")]


def _by_type(kernels: Mapping[str, Sequence[tuple[int, KernelSpec]]]) -> str:
    """Such as `w1g128, w2g128 by avx512_vbmi tables, from 8 tokens amx bf16; ...`."""
    types_of: dict[str, list[str]] = {}
    for weight_type, steps in kernels.items():
        names = [f"{'' if least == 2 else f'from {least} tokens '}{k.isa.name} {k.form}" for least, k in steps]
        types_of.setdefault(", ".join(names), []).append(weight_type)
    return "; ".join(f"{', '.join(types)} by {names}" for names, types in types_of.items())


def _by_isa(rows: list[dict[str, str]]) -> str:
    """Which types each instruction set serves, by priority, and last the one of most types with their number."""
    found = {row["isa"] for row in rows}
    isas = [isa.name for isa in isas_for(machine()) if isa.name in found]
    if len(isas) == 1:
        return f"all {len(rows)} types by {isas[0]}"
    served = {isa: [row["type"] for row in rows if row["isa"] == isa] for isa in isas}
    most = max(reversed(isas), key=lambda isa: len(served[isa]))
    words = [f"{', '.join(served[isa])} by {isa}" for isa in isas if isa != most]
    count = len(served[most])
    return "; ".join([*words, f"the other {count} types by {most}" if count > 1 else f"{served[most][0]} by {most}"])


def _tuning() -> Finding:
    """Whether the kernels have the parameters that were found for this CPU and compiler."""
    if packaged.used():
        return Finding("tuning", OK, "none: the package's kernels have their default parameters")
    try:
        kept = tuning_file.kept()
        for problem in kept.problems:
            raise problem
    except TmacError as problem:
        return Finding("tuning", MISSING, problem.message, problem.hint)
    found = kept.tuning.found
    if kept.outdated:
        return Finding("tuning", NOTE, tuning_file.outdated_sentence(kept.outdated))
    if not found:
        return Finding("tuning", OK, "none: the kernels have their default parameters (tmac kernels tune)")
    return Finding(
        "tuning", OK, f"{', '.join(f'{codes_name(codes)} {isa}' for isa, codes in found)}  {tuning_file.path()}"
    )


def _crossings() -> Finding:
    """Which table says from how many tokens on kernels serve."""
    name, hint = "crossings", _hint_for_crossings()
    try:
        found, folder = _measured(), packaged.used()
        library = crossings.library_of(llama_build.Build(folder) if folder else _build())
    except TmacError as problem:
        return Finding(name, MISSING, problem.message, problem.hint)
    # A table that was kept counts only on the CPU that C finds.
    if found and (library is None or library.crossings(found) is found):
        return Finding(name, OK, f"{found.name}: {crossings_file.path()}")
    if library is None:
        return Finding(name, NOTE, "not measured on this machine", hint)
    table = library.crossings()
    if table.cpus:
        return Finding(name, OK, f"those of {table.name} ({', '.join(table.cpus)})")
    cpu_name = library.cpu_name() or "this kind of CPU"
    return Finding(name, NOTE, f"by instruction set: {cpu_name} was not measured", hint)


def _hint_for_crossings() -> str:
    """How the binaries come to have what is measured here."""
    choice = pipeline.last_choice()
    if packaged.used() or choice.portable:
        return "these binaries are for any CPU; `tmac build` makes some for this machine, and measures it"
    if not choice.measures:
        return "the last build was made with --no-measure; `tmac build` without it measures"
    if not crossings.are_wanted():
        return f"`tmac build` measures it where {crossings.SKIP} is not set"
    return "`tmac build` measures it; `tmac kernels tune --crossings` measures again"


def _measured() -> Crossings | None:
    """What was measured on this machine, where the binaries in use are made with it."""
    return None if packaged.used() else pipeline.measured_for(pipeline.last_choice())


def _work_folder() -> Finding:
    """Whether it, or the folder that it will be made in, can be written to."""
    folder = work_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(there, os.W_OK):
        return Finding("work folder", OK, str(folder))
    hint = "set TMAC_HOME to a folder of your own, or make this one writable"
    return Finding("work folder", MISSING, f"{folder} cannot be written to", hint)


def _build() -> llama_build.Build:
    choice = pipeline.last_choice()
    return llama_build.Build(llama_build.build_folder(choice.portable, choice.source))


def _build_state() -> Finding:
    if folder := packaged.used():
        return Finding("llama.cpp", OK, f"the package's, compiled by {packaged.compiler()}, in {folder / 'bin'}")
    build = _build()
    if build.is_complete():
        return Finding("llama.cpp", OK, f"built in {build.folder}")
    source = llama_source.source_folder(pipeline.last_choice().source)
    have = "source is there, not built" if source.exists() else "not downloaded, not built"
    return Finding("llama.cpp", NOTE, have, "tmac build (tmac run and tmac demo do it too)")
