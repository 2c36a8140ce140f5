"""The fuzzing itself: its seeds are read, damage differs and repeats by seed, faults are seen and kept."""

import random
import time

import pytest

from tmac.common.errors import TmacError
from tmac.common.paths import checkout
from tmac.tools.fuzz import command, readers
from tmac.tools.fuzz.mutate import VALUES, mutate
from tmac.tools.fuzz.targets import Target, targets

EVERY = targets(checkout())
# Fixtures of what is refused, which are seeds too; and settings of one family that others refuse.
REFUSED = ("layers of every format", "configurations of families")


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_seeds_are_read(tmp_path, target):
    """What is not damaged gets to the end: otherwise only the first check would be fuzzed."""
    refused = 0
    for number, files in enumerate(target.seeds):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        try:
            target.read(folder)
        except TmacError:
            refused += 1
    assert refused <= (len(target.seeds) // 2 if target.name in REFUSED else 0)


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_damage_differs_and_repeats(target):
    before = repr(VALUES)
    made = [
        [readers.damaged(files, target, rng) for files in target.seeds[:5] for _ in range(40)]
        for rng in (random.Random(5), random.Random(5), random.Random(6))
    ]
    assert made[0] == made[1] and made[0] != made[2] and repr(VALUES) == before
    assert sum(files not in target.seeds for files in made[0]) > len(made[0]) * 0.8


def test_damaged_json_is_mostly_json():
    import json

    rng, valid = random.Random(1), 0
    for _ in range(300):
        try:
            json.loads(mutate(b'{"a": [1, 2, {"b": "x"}], "c": null}', "x.json", rng))
            valid += 1
        except (ValueError, RecursionError):
            pass
    assert valid > 200


def reading(read):
    return [Target("things", [{"x": b"12345678"}], read, 1)]


def slow(folder):
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass


def endless(folder):
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "words"), [(lambda folder: 1 / 0, "ZeroDivisionError"), (slow, "took"), (endless, "TooSlow")]
)
def test_faults_are_found_and_their_files_kept(work, monkeypatch, read, words):
    monkeypatch.setattr(readers, "targets", lambda folder: reading(read))
    monkeypatch.setattr(readers, "SECONDS", 0.1)
    monkeypatch.setattr(readers, "ENDLESS", 4 if read is endless else 600)
    found = readers.run(1, 1, most=3)
    assert len(found.ours) == 1 and words in found.ours[0]
    ((_, folder),) = found.faults.values()
    assert folder.is_relative_to(work) and (folder / "x").is_file()
    monkeypatch.setattr(command, "STAGES", (command.Stage(lambda minutes, seed: found, lambda: None),))
    with pytest.raises(TmacError, match="1 places of ours crash"):
        command.run(["--fuzz", "1"])


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "-inf", "1e999"])
def test_minutes_have_to_be_above_zero(monkeypatch, capsys, minutes):
    """Nothing is fuzzed: NaN minutes would never be over."""
    monkeypatch.setattr(command, "STAGES", ())
    with pytest.raises(SystemExit) as end:
        command.run([f"--fuzz={minutes}"])
    assert end.value.code == 2 and f"{minutes}: expected minutes above zero" in capsys.readouterr().err


def test_refusals_are_no_faults(monkeypatch, capsys):
    def refuse(folder):
        raise TmacError("no")

    monkeypatch.setattr(readers, "targets", lambda folder: reading(refuse))
    found = readers.run(1, 1, most=20)
    assert found.ours == () and found.refused == {"things": 20}


def test_some_cases_of_every_target():
    """A short run: the long ones are `tmac test --fuzz MINUTES`."""
    found = readers.run(1, 20, most=3000)
    assert found.ours == () and set(found.cases) == {target.name for target in EVERY}
