"""What `tmac kernels tune` found, in one JSON file for all CPUs and compilers of a user. Reading it compiles nothing.

The file is {"<cpu model> | <compiler>": {"<instruction set>": {"<bits>": {"<parameter>": value}}}}. What it does not
name keeps its default. Only the entry of the CPU and the compiler at hand is read; nothing in it can change results.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .catalog import isas_for
from .errors import KernelError
from .host import compiler_name, cpu_model, home_folder
from .isa import machine
from .spec import FORMAT_TYPES
from .tuning import DEFAULTS, Tuning, candidates

BITS = tuple(sorted({weight_type.bits for weight_type in FORMAT_TYPES}))


def path() -> Path:
    """The file, whether or not it is there."""
    return home_folder() / "tuning.json"


def host_key() -> str:
    """The key of the CPU and the compiler at hand. Raises KernelError where there is no compiler."""
    return f"{cpu_model()} | {compiler_name()}"


def for_this_machine() -> Tuning:
    """What was found for the CPU and the compiler at hand; the defaults if nothing was. Raises KernelError."""
    if not path().exists():
        return DEFAULTS
    key = host_key()
    entry = _read().get(key, {})
    isas = {isa.name: isa for isa in isas_for(machine())}
    found = {}
    for name, by_bits in _mapping(entry, key).items():
        if name not in isas:
            raise _wrong(f"{key}: {name!r} is no instruction set of {machine()}; known: {', '.join(isas)}")
        for bits, parameters in _mapping(by_bits, f"{key}: {name}").items():
            place = f"{key}: {name}: {bits}"
            if bits not in map(str, BITS):
                raise _wrong(f"{place}: not a bit width; known: {', '.join(map(str, BITS))}")
            known = candidates(isas[name])
            for parameter, value in _mapping(parameters, place).items():
                if parameter not in known:
                    raise _wrong(f"{place}: {parameter!r} is no parameter of it; known: {', '.join(known) or 'none'}")
                if type(value) is not int or value not in known[parameter]:
                    values = ", ".join(map(str, known[parameter]))
                    raise _wrong(f"{place}: {parameter} is {json.dumps(value)}; possible: {values}")
            found[name, int(bits)] = parameters
    return Tuning(found)


def save(isa: str, bits: int, parameters: Mapping[str, int]) -> None:
    """Keeps the parameters of an instruction set and a bit width for this CPU and compiler; none: its defaults hold."""
    data, key = _read(), host_key()
    by_bits = _mapping(_mapping(data.setdefault(key, {}), key).setdefault(isa, {}), f"{key}: {isa}")
    by_bits.pop(str(bits), None)
    if parameters:
        by_bits[str(bits)] = dict(parameters)
    if not by_bits:
        del data[key][isa]
    if not data[key]:
        del data[key]
    _write(data)


def check_writable() -> None:
    """Raises KernelError or OSError now for what `save` would meet after minutes of search."""
    _mapping(_read().get(host_key(), {}), host_key())
    path().parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path().parent).close()


def reset() -> bool:
    """Forgets what was found for this CPU and compiler. Returns whether there was something. Raises KernelError."""
    data = _read()
    found = data.pop(host_key(), None)
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
        raise KernelError(f"{path()} cannot be read: {problem}", hint) from None


def _write(data: dict) -> None:
    """Replaces the file at once: no other process ever reads half of it. With nothing to say there is none."""
    if not data:
        path().unlink(missing_ok=True)
        return
    path().parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path().parent, prefix=f"{path().name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(data, indent=1, sort_keys=True) + "\n")
        os.replace(temporary, path())
    except BaseException:
        os.unlink(temporary)
        raise


def _mapping(value: object, place: str) -> dict:
    if not isinstance(value, dict):
        raise _wrong(f"{place}: expected an object of JSON, found {json.dumps(value)[:40]}")
    return value


def _wrong(what: str) -> KernelError:
    return KernelError(f"{path()}: {what}", "`tmac kernels tune --reset` removes the entry of this CPU and compiler")
