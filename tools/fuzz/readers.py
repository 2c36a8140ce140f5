"""Fuzzes the Python readers: random damage to valid files, until one does something else than read or refuse.

In: minutes or a number of cases, and a seed. Out: `Findings`. A fault is any exception that is not a TmacError, a case
that takes longer than SECONDS, or more memory than MEGABYTES. A damaged file that ends in a sentence not seen before
becomes a seed too: what is behind the first check is reached by files that pass it.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tmac.common import console
from tmac.common.errors import TmacError
from tmac.common.paths import checkout, work_folder

from ..errors import ToolError
from .mutate import mutate
from .targets import Files, Target, targets

SECONDS, MEGABYTES = 3.0, 700
# A case is stopped after so many times SECONDS on the clock; SECONDS are of the CPU.
ENDLESS = 4
# Seeds that are found on the way, for each target.
MOST_SEEDS = 400
REPORT_SECONDS = 30
KEPT = ("shapes.txt",)


class TooSlow(BaseException):
    """Raised by an alarm within a case; no reader may catch it."""


@dataclass
class Findings:
    """`cases` and `refused` by target; `faults`: what happened and the folder that keeps the files, by its place."""

    cases: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: dict[str, tuple[str, Path]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ours(self) -> tuple[str, ...]:
        """What is wrong, in a sentence each."""
        return tuple(what for what, _ in self.faults.values())

    def render(self) -> str:
        lines = [f"{count:9d} {name}: {self.refused[name]} refused" for name, count in self.cases.items()]
        lines.append(f"{sum(self.cases.values()):9d} cases in {self.seconds:.0f} s, {len(self.faults)} faults")
        return "\n".join([*lines, *(f"fault: {what}; its files: {folder}" for what, folder in self.faults.values())])


def run(minutes: float, seed: int, most: int | None = None) -> Findings:
    """Fuzzes all targets in turn, for so long or so many cases. Raises ToolError outside of a checkout."""
    found, rng = Findings(), random.Random(seed)
    every = [target for target in targets(required_checkout()) for _ in range(target.share)]
    pools: dict[str, list[Files]] = {target.name: [] for target in every}
    seen: set[str] = set()
    start = reported = time.monotonic()
    with tempfile.TemporaryDirectory(dir=fast_folder()) as cases, quiet():
        while time.monotonic() - start < 60 * minutes and (most is None or sum(found.cases.values()) < most):
            target = rng.choice(every)
            pool = pools[target.name]
            files = damaged(rng.choice(pool if pool and rng.random() < 0.4 else target.seeds), target, rng)
            sentence = read_case(target, files, Path(cases) / "case", found)
            key = f"{target.name} {re.sub(r'[0-9]+|[^a-z ]', '', sentence)[:160]}"
            if key not in seen:
                seen.add(key)
                if len(pool) < MOST_SEEDS and sum(map(len, files.values())) < 200_000:
                    pool.append(files)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                done = sum(found.cases.values())
                console.log(f"fuzzing: {done} cases, {len(seen)} outcomes, {len(found.faults)} faults")
    found.seconds = time.monotonic() - start
    return found


def required_checkout() -> Path:
    """The checkout that runs. Raises ToolError for an installed package."""
    folder = checkout()
    if folder is None:
        raise ToolError("the files to begin with are part of a checkout, and this is an installed package", "clone it")
    return folder


def fast_folder() -> str | None:
    """Where temporary files are kept in memory, if the system has such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def has_names(files: Files, target: Target) -> bool:
    """Whether all of the files have names that a case of the target can have."""
    return files.keys() <= {name for seed in target.seeds for name in seed}


def damaged(files: Files, target: Target, rng: random.Random) -> Files:
    names = [name for name in files if name not in (*KEPT, *target.keeps)]
    changed = dict(files)
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 1, 2)))):
        if rng.random() < 0.01:
            del changed[name]
        else:
            changed[name] = mutate(files[name], name, rng)
    return changed


def read_case(target: Target, files: Files, folder: Path, found: Findings) -> str:
    """Reads one case. Returns what it ended in, as text."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    found.cases[target.name] += 1
    problem, where, before, start = "", "", _peak_megabytes(), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, ENDLESS * SECONDS)
    try:
        target.read(folder)
        sentence = "read"
    except TmacError as refusal:
        found.refused[target.name] += 1
        sentence = refusal.message.replace(str(folder), "")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as fault:
        problem, sentence = f"{type(fault).__name__}: {str(fault)[:200]}", type(fault).__name__
        where = _innermost(fault)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took, grown = time.process_time() - start, _peak_megabytes() - before
    if not problem and (took > SECONDS or grown > MEGABYTES):
        problem = f"took {took:.1f} s and {grown:.0f} MB"
    if problem:
        _keep(target, files, problem, where, found)
    return sentence


def _innermost(fault: BaseException) -> str:
    """The last lines that were run, the innermost first, by which faults are told apart."""
    frames = traceback.extract_tb(fault.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))


def _keep(target: Target, files: Files, problem: str, where: str, found: Findings) -> None:
    """Keeps the files of the first case of each fault."""
    key = f"{target.name}: {re.sub('[0-9.]+', '', problem.split(':')[0])} {where}".strip()
    if key in found.faults:
        return
    name = f"{target.name.replace(' ', '-')}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    folder = work_folder() / "fuzz" / "readers" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    found.faults[key] = (f"{key}: {problem}", folder)
    console.log(f"fault: {key}: {problem}")


def _peak_megabytes() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def quiet() -> Iterator[None]:
    """Without numpy's warnings, and with an alarm for a case that does not end."""

    def too_slow(number, frame):
        raise TooSlow(f"more than {ENDLESS * SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            yield
    finally:
        signal.signal(signal.SIGALRM, before)
