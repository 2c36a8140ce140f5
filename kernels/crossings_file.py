"""Reads and writes the crossings that `tmac build` and `tmac kernels tune` measured: one JSON file, for all CPUs.

The file is {"<cpu model> | <compiler> | <best instruction set>": {"kernels": <kernels_key>, "cpu": <tmac_cpu_name>,
"isa": <the best instruction set that the kernels see>, "least_tokens": {"<instruction set> <form>": {"<column>":
number}}}}; kernels/crossings.py says what the numbers mean. It may be edited: `tmac build` takes what is there, and
measures only where there is no entry for this CPU, this compiler and the present kernels.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from ..common import cpu, files, lock
from ..common.cpu import machine
from ..common.paths import work_folder
from . import generate, tuning_file
from .catalog import isas_for
from .crossings import BY_INSTRUCTION_SET, COLUMNS, MOST_TOKENS_TO_CROSS, Crossings
from .errors import KernelError
from .tuning import Tuning

LOCK = ("crossings", "changing the crossings")
NAME = "measured on this machine"
# Folders of the sources that are timed.
TIMED = ("activations/", "gemm/", "gemv/")


def path() -> Path:
    """The path of the file, which need not exist."""
    return work_folder() / "crossings.json"


def host_key() -> str:
    """The key of this CPU and compiler. Virtual machines of one CPU model may lack some of its instruction sets.

    Raises TmacError if there is no compiler.
    """
    # A system that does not list its features has none of such machines.
    isas = isas_for(machine()) if cpu.features() else ()
    best = next((isa.name for isa in isas if not cpu.lacking(isa.features)), None)
    return " | ".join(filter(None, (tuning_file.host_key(), best)))


def kernels_key() -> str:
    """A 12-digit hash of all that the times depend on: text and flags of the kernels for products, as tuned here."""
    return _hash_of(tuple(sorted(_timed_sources(tuning_file.kept().tuning).items())))


def _timed_sources(tuning: Tuning) -> generate.Sources:
    return {name: of for name, of in generate.sources(machine(), tuning).items() if name.startswith(TIMED)}


@functools.cache
def _hash_of(sources: tuple[tuple[str, tuple[str, tuple[str, ...]]], ...]) -> str:
    texts = tuning_file.header_texts((name, text) for name, (text, _) in sources)
    return hashlib.sha256(repr((sources, texts, generate.COMMON_FLAGS)).encode()).hexdigest()[:12]


def measured() -> Crossings | None:
    """What was measured with this CPU, this compiler and the present kernels; None if nothing was.

    Raises TmacError for a file that is not as it should be, and without a compiler.
    """
    # Without a file no compiler is asked for.
    entries = _read()
    entry = entries.get(host_key()) if entries else None
    if entry is None:
        return None
    _expect(isinstance(entry, dict) and isinstance(entry.get("least_tokens"), dict), "an object with least_tokens")
    if entry.get("kernels") != kernels_key():
        return None
    _expect(isinstance(entry.get("cpu"), str) and isinstance(entry.get("isa"), str), "texts as cpu and isa")
    _expect(entry["isa"] in {isa for isa, _ in BY_INSTRUCTION_SET}, "an instruction set as isa")
    return Crossings(NAME, (entry["cpu"],), entry["isa"], _numbers(entry["least_tokens"]))


def _numbers(rows: dict) -> dict[tuple[str, str], dict[str, int]]:
    known = {f"{isa} {form}": (isa, form) for isa, form in BY_INSTRUCTION_SET}
    for name, columns in rows.items():
        _expect(name in known, f"an instruction set and a form, such as {next(iter(known))!r}, found {name!r}")
        _expect(isinstance(columns, dict), f"an object as {name!r}")
        for column, number in columns.items():
            place = f"{name!r}: {column!r}: {json.dumps(number)}"
            _expect(column in COLUMNS, f"{', '.join(COLUMNS)}, found {place}")
            is_number = type(number) is int and (number == 0 or 2 <= number <= MOST_TOKENS_TO_CROSS)
            _expect(is_number, f"0, or 2 to {MOST_TOKENS_TO_CROSS}, found {place}")
    return {known[name]: dict(columns) for name, columns in rows.items()}


def rows(table: Crossings) -> dict[str, dict[str, int]]:
    """What a table says, as the file has it."""
    return {f"{isa} {form}": dict(columns) for (isa, form), columns in table.numbers.items()}


def save(found: Crossings) -> None:
    """Keeps what was measured on this machine, in place of what was there. Raises TmacError."""
    entry = {"kernels": kernels_key(), "cpu": found.cpus[0], "isa": found.isa, "least_tokens": rows(found)}
    with lock.held(*LOCK):
        _write(_read() | {host_key(): entry})


def reset() -> bool:
    """Deletes the entry of this CPU and compiler. Returns whether there was one. Raises TmacError."""
    with lock.held(*LOCK):
        entries = _read()
        found = entries.pop(host_key(), None)
        if found is not None:
            _write(entries)
    return found is not None


def _read() -> dict:
    if not path().is_file():
        return {}
    try:
        entries = json.loads(path().read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise KernelError(f"{path()} cannot be read: {problem}", "delete it; `tmac build` makes it anew") from None
    _expect(isinstance(entries, dict), "an object of JSON")
    return entries


def _write(entries: dict) -> None:
    if entries:
        files.write_text(path(), json.dumps(entries, indent=1) + "\n")
    else:
        path().unlink(missing_ok=True)


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise KernelError(f"{path()}: expected {what}", "correct it, or delete it: `tmac build` makes it anew")
