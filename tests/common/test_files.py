"""Files that are complete or not there."""

import os
import signal
import subprocess
import sys

import pytest

from tmac.common import files, lock


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    """Until then the old one is there; the folder is made; nothing else stays."""
    path = tmp_path / "made" / "a.json"
    files.write_text(path, "old")
    with files.replacing(path) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(path.parent) == ["a.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "a") as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_two_writers_do_not_meet(tmp_path):
    """Each writes beside the other; the last to finish wins."""
    with files.replacing(tmp_path / "a") as one:
        with files.replacing(tmp_path / "a") as other:
            one.write_text("one")
            other.write_text("other")
        assert (tmp_path / "a").read_text() == "other"
    assert (tmp_path / "a").read_text() == "one"


def test_several_files_are_published_all_or_none(tmp_path):
    """A rename that fails takes back those before it; files move in the order given."""
    moved = []

    def rename(file, target):
        if target.name == "c" and moved:
            raise FileExistsError(target)
        file.rename(target)
        moved.append(target.name)

    for order, expected in ((("b", "c"), []), (("c", "b"), ["b", "c"])):
        moved.clear()
        with files.folder_beside(tmp_path / "x") as folder:
            for name in order:
                (folder / name).write_text(name)
            if expected:
                files.publish([folder / name for name in order], tmp_path, rename)
                assert moved == list(order)
            else:
                with pytest.raises(FileExistsError):
                    files.publish([folder / name for name in order], tmp_path, rename)
        assert names(tmp_path) == expected


def test_a_folder_that_moved_away_is_no_error(tmp_path):
    """A whole tree is made beside its place, too."""
    with files.folder_beside(tmp_path / "tree") as folder:
        (folder / "file").touch()
        folder.rename(tmp_path / "tree")
    assert names(tmp_path) == ["tree"] and names(tmp_path / "tree") == ["file"]


def killed_while(folder, work):
    """Runs Python lines in a process that kills itself after them, within the folder beside `folder`/x."""
    script = f"""
import os, signal
from pathlib import Path
from tmac.common import files
place = Path({str(folder)!r})
with files.folder_beside(place / "x") as folder:
{work}
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, capfd):
    """Only of the same name, only where no process is at work, and with a sentence."""
    killed_while(tmp_path, '    (folder / "x").write_text("half")')
    (tmp_path / ".xy.abcdefgh.partial").mkdir()
    with files.folder_beside(tmp_path / "x") as folder:
        (folder / "x").write_text("being made")
        files.write_text(tmp_path / "x", "whole")
        assert (folder / "x").read_text() == "being made"
    said = capfd.readouterr().err
    assert said.count("removed ") == 1 and "which a tmac that was killed had left" in said
    assert names(tmp_path) == [".xy.abcdefgh.partial", "x"] and (tmp_path / "x").read_text() == "whole"


def test_what_cannot_be_removed_is_not_said_to_be(tmp_path, capfd, monkeypatch):
    killed_while(tmp_path, '    (folder / "x").write_text("half")')
    monkeypatch.setattr(files.shutil, "rmtree", lambda folder, ignore_errors: None)
    files.sweep(tmp_path, "x")
    assert "could not remove " in (said := capfd.readouterr().err) and not said.startswith("removed")


def test_a_partial_folder_without_a_lock_is_left_for_an_hour(tmp_path):
    """It may be one that is just being made; later it is one of an older T-MAC."""
    stale = tmp_path / ".x.abcd_123.partial"
    stale.mkdir()
    files.write_text(tmp_path / "x", "new")
    assert stale.exists()
    os.utime(stale, (0, 0))
    foreign = tmp_path / ".x.download.1.partial", tmp_path / ".x.abcdefgh.partial"
    foreign[0].mkdir()
    foreign[1].touch()
    for path in foreign:
        os.utime(path, (0, 0))
    files.write_text(tmp_path / "x", "new")
    assert names(tmp_path) == [*sorted(path.name for path in foreign), "x"]


def test_without_locks_nothing_is_removed_but_said(tmp_path, capfd, monkeypatch):
    killed_while(tmp_path, '    (folder / "x").write_text("half")')

    def fail(path):
        raise lock.NoLocks

    monkeypatch.setattr(lock, "take_if_free", fail)
    files.write_text(tmp_path / "x", "new")
    said = capfd.readouterr().err
    assert "delete " in said and len(names(tmp_path)) == 2 and (tmp_path / "x").read_text() == "new"


CUT_OFF = """
    for name in "abc":
        (folder / name).write_text("new " + name)
    def cut_off(file, target):
        if target.name == {name!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        link(file, target)
    link, files.link_or_move = files.link_or_move, cut_off
    files.publish([folder / name for name in "cba"], place)"""


NO_LINKS = """
    def fail(*names):
        raise PermissionError(1, "no hard links")
    os.link = fail"""


@pytest.mark.parametrize("at", ["c", "b", "a"])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("links", ["", NO_LINKS], ids=["links", "no links"])
def test_a_set_that_was_cut_off_is_undone_by_the_next_run(tmp_path, at, old, links):
    """Until its last file has its name, a set is not there; the next run puts back what was there before."""
    for name in "abc" if old else "":
        (tmp_path / name).write_text(f"old {name}")
    (tmp_path / "other").write_text("other")
    killed_while(tmp_path, links + CUT_OFF.format(name=at))
    assert not (tmp_path / "a").exists()
    files.write_text(tmp_path / "x", "next")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "x": "next",
        "other": "other",
        **({name: f"old {name}" for name in "abc"} if old else {}),
    }


@pytest.mark.parametrize("links", ["", NO_LINKS], ids=["links", "no links"])
def test_a_set_that_was_complete_stays(tmp_path, links):
    for name in "abc":
        (tmp_path / name).write_text(f"old {name}")
    killed_while(tmp_path, links + CUT_OFF.format(name="none"))
    files.write_text(tmp_path / "x", "next")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["new a", "new b", "new c", "next"]


def test_a_failure_in_a_set_puts_back_what_was_there(tmp_path, monkeypatch):
    """Also the files that were replaced already."""
    for name in "ab":
        (tmp_path / name).write_text(f"old {name}")
    link = files.link_or_move

    def fail(file, target):
        if target.name == "a":
            raise OSError("the disk has gone")
        link(file, target)

    monkeypatch.setattr(files, "link_or_move", fail)
    with pytest.raises(OSError, match="has gone"), files.folder_beside(tmp_path / "x") as folder:
        for name in "abc":
            (folder / name).write_text("new")
        files.publish([folder / name for name in "cba"], tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old a", "b": "old b"}


def test_files_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    """Every file and then the folder are flushed; a power cut leaves no empty file under a final name."""
    order = []
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(os.readlink(f"/proc/self/fd/{handle}")))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    with files.folder_beside(tmp_path / "x") as folder:
        (folder / "x").write_text("whole")
        files.publish([folder / "x"], tmp_path, os.replace)
        written = str(folder / "x")
    assert order == [written, "rename", str(tmp_path)]
