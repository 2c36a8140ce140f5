"""One process at a time: who waits, who is told, and what happens where a file system has no locks."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tmac.common import lock, process


def test_second_waits_for_the_first_and_says_so(capsys):
    order, first_holds = [], threading.Event()

    def first():
        with lock.held("x", "building"):
            first_holds.set()
            while "waiting for another tmac: building" not in capsys.readouterr().err:
                time.sleep(0.01)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert first_holds.wait(10)
    with lock.held("x", "building"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_is_free_says_nothing(work, capsys):
    for _ in range(2):
        with lock.held("x", "building"), lock.held("y", "converting"):
            pass
    assert capsys.readouterr().err == "" and (work / lock.FOLDER).is_dir()


def test_a_failure_inside_releases_the_lock(capsys):
    with pytest.raises(ZeroDivisionError), lock.held("x", "building"):
        raise ZeroDivisionError
    with lock.held("x", "building"):
        assert capsys.readouterr().err == ""


HOLDER = """
import sys
from pathlib import Path
from tmac.common import lock, process
script = f"echo started; sleep 1; echo whole > {sys.argv[1]}/output"
with lock.held("x", "building"):
    process.run(["sh", "-c", script], log=Path(sys.argv[1]) / "log", on_line=lambda line: print(line, flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="a child inherits no lock")
def test_what_a_killed_process_left_running_holds_its_lock(work, tmp_path, capsys):
    """SIGKILL to tmac alone: its child works on, and nobody works beside it."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"started\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not (tmp_path / "output").exists()
    with lock.held("x", "building"):
        assert (tmp_path / "output").read_text() == "whole\n"
    holder.stdout.close()
    assert "waiting for what a tmac that was killed has left running: building" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="a child inherits no lock")
def test_a_daemon_that_a_child_left_behind_holds_nothing(capsys):
    """Compiler caches leave servers, which inherited the lock."""
    with lock.held("x", "building"):
        daemon = int(process.output(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]))
    try:
        with lock.held("x", "building"):
            assert capsys.readouterr().err == ""
    finally:
        os.kill(daemon, signal.SIGKILL)


@pytest.mark.parametrize("problem", [OSError(errno.ENOLCK, "no locks"), NotImplementedError()])
def test_system_without_locks_gets_a_note(monkeypatch, capsys, problem):
    """Where the file system has no locks, the work is done all the same."""

    def fail(*given, **options):
        raise problem

    monkeypatch.setattr(lock.FileLock, "acquire", fail)
    with lock.held("x", "building"):
        pass
    assert "cannot be locked here; let no other tmac do this: building" in capsys.readouterr().err
