"""One process of guided.py: fuzzes one target with atheris for some seconds, and counts into a file.

atheris ends the process by itself. The readers are imported when it can see their lines.
"""

from __future__ import annotations

import json
import random
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import atheris

from tmac.common import files

with atheris.instrument_imports(include=["tmac.convert"], enable_loader_override=False):
    from tmac.tools.fuzz import readers, targets

# Bytes of a case, and cases between two counts.
MOST_BYTES, COUNT_EVERY = 300_000, 200


def pack(case: targets.Files) -> bytes:
    """The files of a case as one text of bytes, of which atheris keeps those that are of use."""
    parts = [struct.pack("<II", len(name.encode()), len(data)) + name.encode() + data for name, data in case.items()]
    return b"".join(parts)


def unpack(data: bytes) -> targets.Files | None:
    """The files of `pack`; None for other bytes."""
    case, at = {}, 0
    while at < len(data):
        if len(data) - at < 8:
            return None
        name, size = struct.unpack_from("<II", data, at)
        if name > 100 or at + 8 + name + size > len(data):
            return None
        try:
            case[data[at + 8 : at + 8 + name].decode()] = data[at + 8 + name : at + 8 + name + size]
        except UnicodeDecodeError:
            return None
        at += 8 + name + size
    return case


def _work(number: int, seconds: int, seed: int, counts: Path) -> None:
    """Fuzzes one target; never returns."""
    found = readers.Findings()
    target = targets.targets(readers.required_checkout())[number]

    def count() -> None:
        faults = {key: (what, str(place)) for key, (what, place) in found.faults.items()}
        sums = {name: sum(counter.values()) for name, counter in (("cases", found.cases), ("refused", found.refused))}
        files.write_text(counts, json.dumps({**sums, "faults": faults}))

    def read(data: bytes) -> None:
        case = unpack(data)
        if case and readers.has_names(case, target):
            readers.read_case(target, case, Path(cases) / "case", found)
        if sum(found.cases.values()) % COUNT_EVERY == 0 or len(found.faults) > len(known):
            known.update(dict.fromkeys(found.faults, 1))
            count()

    def damage(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        case = unpack(data) or rng.choice(target.seeds)
        changed = pack(readers.damaged(case, target, rng))
        return changed if len(changed) <= most else data

    known: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=readers.fast_folder()) as cases, readers.quiet():
        corpus = Path(cases) / "corpus"
        corpus.mkdir()
        for place, case in enumerate(target.seeds):
            (corpus / str(place)).write_bytes(pack(case))
        count()
        # An alarm of libFuzzer's own would take ours away.
        limits = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=0", "-rss_limit_mb=3000"]
        atheris.Setup([sys.argv[0], f"-seed={seed}", *limits, str(corpus)], read, custom_mutator=damage)
        atheris.Fuzz()


if __name__ == "__main__":
    _work(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
