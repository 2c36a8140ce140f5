"""Reads and writes the results of `tmac kernels tune`: one JSON file per user, for all CPUs and compilers.

The file is {"<cpu model> | <compiler>": {"<instruction set>": {"<bits, or t3>": entry}}} with entries of the form
{"kernels": <kernels_key>, "parameters": {"<parameter>": value}}. Parameters that it does not
name keep their defaults. Only entries for this CPU, this compiler and the present kernels are used. Nothing in the file
can change results. This module does not search, and it compiles nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..common import console, cpu, files, lock
from ..common.compilers import compiler_name
from ..common.cpu import machine
from ..common.paths import work_folder
from . import generate
from .catalog import isas_for
from .errors import KernelError
from .isa import Isa
from .tuning import CODES, DEFAULTS, Tuning, candidates, codes_name

# Held while the file is changed; otherwise two tuners could lose each other's results.
LOCK = ("tuning", "changing the tuning")


class TuningError(KernelError):
    """The tuning file cannot be read, or an entry in it is invalid."""


def path() -> Path:
    """The path of the file, which need not exist."""
    return work_folder() / "tuning.json"


def host_key() -> str:
    """The key of this CPU and compiler. Raises TmacError if there is no compiler."""
    return f"{cpu.model()} | {compiler_name()}"


@dataclass(frozen=True)
class Kept:
    """The content of the file for this CPU and compiler.

    outdated: (instruction set, one of CODES) of entries that are ignored because the kernels have changed since;
    problems: one error for each invalid part of the file.
    """

    tuning: Tuning = DEFAULTS
    outdated: tuple[tuple[str, int | str], ...] = ()
    problems: tuple[TuningError, ...] = ()


def kernels_key(isa: Isa, codes: int | str) -> str:
    """A 12-digit hash of everything the timing depends on: default kernels' source, headers, flags."""
    file = generate.KernelFile.tuned(codes, isa)
    source = generate.kernel_source(file, DEFAULTS)
    texts = [source, *header_texts([(file.name, source)])]
    return hashlib.sha256(repr((texts, generate.COMMON_FLAGS, isa.flags)).encode()).hexdigest()[:12]


def header_texts(files: Iterable[tuple[str, str]]) -> list[str]:
    """The texts of all headers that files, given as name and text, include, in the order of the headers' names.

    catalog.h is left out: it has no code, and changes whenever another instruction set gets a kernel.
    """
    headers = generate.headers()
    names = set().union(*(_included(name, text, headers) for name, text in files))
    return [headers[name] for name in sorted(names - {"interface/catalog.h"})]


def _included(name: str, text: str, headers: Mapping[str, str]) -> set[str]:
    """The names of all `headers` that the file `name` with this text includes, directly or indirectly.

    As the compiler finds them: beside the file that includes, else below the root of the tree.
    """
    found: set[str] = set()
    pending = [(name, text)]
    while pending:
        includer, text = pending.pop()
        for included in re.findall(r'^#include "(.*)"', text, re.M):
            beside = (PurePosixPath(includer).parent / included).as_posix()
            header = beside if beside in headers else included
            if header in headers and header not in found:
                found.add(header)
                pending.append((header, headers[header]))
    return found


def kept() -> Kept:
    """Reads the file. Raises TmacError if there is no compiler, because its name is part of the key."""
    data, found, outdated, problems = {}, {}, [], []
    with _noted(problems):
        data = _read()
    if not data:
        return Kept(problems=tuple(problems))
    key = host_key()
    isas = {isa.name: isa for isa in isas_for(machine())}
    with _noted(problems):
        for name, by_codes in _mapping(data.get(key, {}), key).items():
            with _noted(problems):
                if name not in isas:
                    raise _wrong(f"{key}: {name!r} is no instruction set of {machine()}; known: {', '.join(isas)}")
                for text, entry in _mapping(by_codes, f"{key}: {name}").items():
                    with _noted(problems):
                        codes = _codes(text, f"{key}: {name}: {text}")
                        parameters = _parameters(entry, isas[name], codes, f"{key}: {name}: {text}")
                        if parameters is None:
                            outdated.append((name, codes))
                        else:
                            found[name, codes] = parameters
    return Kept(Tuning(found), tuple(outdated), tuple(problems))


@contextmanager
def _noted(problems: list[TuningError]) -> Iterator[None]:
    """Appends a TuningError to `problems`, so that the rest of the file is still read."""
    try:
        yield
    except TuningError as problem:
        problems.append(problem)


def _codes(text: str, place: str) -> int | str:
    for codes in CODES:
        if text == str(codes):
            return codes
    raise _wrong(f"{place}: not a bit width; known: {', '.join(map(str, CODES))}")


def _parameters(entry: object, isa: Isa, codes: int | str, place: str) -> dict[str, int] | None:
    """The parameters of an entry; None if the kernels have changed since. Raises TuningError if invalid."""
    if _mapping(entry, place).get("kernels") != kernels_key(isa, codes):
        return None
    known = candidates(isa)
    parameters = _mapping(entry.get("parameters"), place)
    for parameter, value in parameters.items():
        if parameter not in known:
            raise _wrong(f"{place}: {parameter!r} is no parameter of it; known: {', '.join(known) or 'none'}")
        if type(value) is not int or value not in known[parameter]:
            values = ", ".join(map(str, known[parameter]))
            raise _wrong(f"{place}: {parameter} is {json.dumps(value)}; possible: {values}")
    return parameters


@functools.cache
def _say_once(line: str) -> None:
    console.log(line)


def for_this_machine(log: Callable[[str], None] = _say_once) -> Tuning:
    """The tuning that builds and runs use: what was found for this CPU and compiler, else the defaults.

    Tuning changes only speed, so invalid and outdated entries are skipped and passed to `log`.
    Raises TmacError if there is no compiler.
    """
    state = kept()
    for problem in state.problems:
        log(f"warning: this tuning is not used: {problem.message} ({problem.hint})")
    if state.outdated:
        log(outdated_sentence(state.outdated))
    return state.tuning


def outdated_sentence(outdated: Iterable[tuple[str, int | str]]) -> str:
    """The message about entries that are outdated."""
    names = ", ".join(f"{codes_name(codes)} {isa}" for isa, codes in outdated)
    return f"tuning of {names} in {path()} was found for other kernels and is not used; run `tmac kernels tune` again"


def save(isa: Isa, codes: int | str, parameters: Mapping[str, int]) -> None:
    """Saves the parameters of an instruction set and of one of CODES for this CPU and compiler; empty: the defaults."""
    key = host_key()
    with lock.held(*LOCK):
        data = _read()
        by_codes = _mapping(_mapping(data.setdefault(key, {}), key).setdefault(isa.name, {}), f"{key}: {isa.name}")
        by_codes.pop(str(codes), None)
        if parameters:
            by_codes[str(codes)] = {"kernels": kernels_key(isa, codes), "parameters": dict(parameters)}
        if not by_codes:
            del data[key][isa.name]
        if not data[key]:
            del data[key]
        _write(data)


def check_writable() -> None:
    """Raises TmacError or OSError if `save` would. Call it before a search, which takes minutes."""
    for problem in kept().problems:
        raise problem
    path().parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path().parent).close()


def reset() -> bool:
    """Deletes the entry of this CPU and compiler. Returns whether there was one. Raises TmacError."""
    key = host_key()
    with lock.held(*LOCK):
        data = _read()
        found = data.pop(key, None)
        if found is not None:
            _write(data)
    return found is not None


def _read() -> dict:
    try:
        return _mapping(json.loads(path().read_text("utf-8")), "the whole")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        hint = "delete it; `tmac kernels tune` makes it anew"
        raise TuningError(f"{path()} cannot be read: {problem}", hint) from None


def _write(data: dict) -> None:
    """Replaces the file, or deletes it if there is no data."""
    if data:
        files.write_text(path(), json.dumps(data, indent=1, sort_keys=True) + "\n")
    else:
        path().unlink(missing_ok=True)


def _mapping(value: object, place: str) -> dict:
    if not isinstance(value, dict):
        raise _no_object(value, place)
    return value


def _no_object(value: object, place: str) -> TuningError:
    return _wrong(f"{place}: expected an object of JSON, found {json.dumps(value)[:40]}")


def _wrong(what: str) -> TuningError:
    return TuningError(f"{path()}: {what}", "`tmac kernels tune --reset` removes the entry of this CPU and compiler")
