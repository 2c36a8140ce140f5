"""The targets of readers.py once more, guided by coverage: atheris keeps each damaged file that reached new lines of
`tmac.convert`, and damages it further, in the same ways.

atheris is an extra (`pip install 'tmac[fuzz]'`), and takes over a process: each target has one of its own, which leaves
what it counted in a file. In: minutes and a seed. Out: `Findings`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

from tmac.common import process
from tmac.common.paths import checkout, log_file

from . import readers, targets

WORKER = "tmac.tools.fuzz.guided_worker"


def is_possible() -> bool:
    return importlib.util.find_spec("atheris") is not None


def run(minutes: float, seed: int) -> readers.Findings:
    """Fuzzes each target in a process of its own, for its share of the time."""
    found, start = readers.Findings(), time.monotonic()
    every = targets.targets(readers.required_checkout())
    shares = sum(target.share for target in every)
    for number, target in enumerate(every):
        seconds = max(1, round(60 * minutes * target.share / shares))
        with tempfile.TemporaryDirectory() as folder:
            counts = Path(folder) / "counts.json"
            facts = [str(number), str(seconds), str(seed % (1 << 31)), str(counts)]
            process.run([sys.executable, "-m", WORKER, *facts], log=log_file("fuzz"), cwd=checkout())
            values = json.loads(counts.read_text())
        found.cases[target.name] += values["cases"]
        found.refused[target.name] += values["refused"]
        found.faults.update({key: (what, Path(place)) for key, (what, place) in values["faults"].items()})
    found.seconds = time.monotonic() - start
    return found
