"""One process at a time: who waits, who is told, and what happens where a file system has no locks."""

import errno
import threading
import time

import pytest

from tmac.common import lock


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


@pytest.mark.parametrize("problem", [OSError(errno.ENOLCK, "no locks"), NotImplementedError()])
def test_system_without_locks_gets_a_note(monkeypatch, capsys, problem):
    """Where the file system has no locks, the work is done all the same."""

    def fail(*given, **options):
        raise problem

    monkeypatch.setattr(lock.FileLock, "acquire", fail)
    with lock.held("x", "building"):
        pass
    assert "cannot be locked here; let no other tmac do this: building" in capsys.readouterr().err
