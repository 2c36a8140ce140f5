"""The work folder: where it is, and who is told that there is none; logs in it."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from tmac.common import paths
from tmac.common.errors import TmacError


def test_work_folder_is_the_one_asked_for(monkeypatch, tmp_path):
    """TMAC_HOME wins over everything."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "here"))
    assert paths.work_folder() == tmp_path / "here"


def test_work_folder_of_a_checkout_is_inside_it(monkeypatch, tmp_path):
    """A checkout keeps what it makes in its git-ignored build folder."""
    monkeypatch.delenv("TMAC_HOME")
    (tmp_path / "pyproject.toml").touch()
    assert paths.work_folder(tmp_path) == tmp_path / "build"


def test_work_folder_of_an_installed_package_is_the_user_s_cache(monkeypatch, tmp_path):
    """Nothing is written into site-packages."""
    monkeypatch.delenv("TMAC_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.work_folder(tmp_path) == tmp_path / "cache" / "tmac"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert paths.work_folder(tmp_path) == Path.home() / ".cache" / "tmac"


def test_new_log_leaves_the_last_one_to_who_writes_it():
    """Two runs at once do not empty each other's log."""
    log = paths.log_file("run")
    with open(log, "a") as writing:
        assert paths.log_file("run").read_text() == ""
        writing.write("mine")
    assert log.read_text() == ""


def test_home_is_asked_for_only_where_it_is_needed(tmp_path, monkeypatch):
    """A service without a home works with TMAC_HOME, and is told of it without."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the system knows no home
    monkeypatch.setenv("TMAC_HOME", str(tmp_path))
    assert paths.work_folder(tmp_path) == tmp_path
    monkeypatch.delenv("TMAC_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.work_folder(tmp_path) == tmp_path / "tmac"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(TmacError, match="the user's home folder is not known") as caught:
        paths.work_folder(tmp_path)
    assert "TMAC_HOME" in caught.value.hint
    monkeypatch.setenv("TMAC_HOME", "~nobody")
    with pytest.raises(TmacError, match="TMAC_HOME=~nobody: the home folder"):
        paths.work_folder(tmp_path)


def test_logs_go_elsewhere_where_the_work_folder_cannot_be_written(tmp_path, monkeypatch):
    """Into a folder of this user alone; another one if somebody else could write the first."""
    monkeypatch.setenv("TMAC_HOME", "/proc/tmac")
    monkeypatch.setattr(paths, "_new_log", _unless_below(Path("/proc/tmac"), paths._new_log))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    log = paths.log_file("run")
    assert log.parent == tmp_path / f"tmac-logs-{os.getuid()}" and log.parent.stat().st_mode & 0o077 == 0
    assert paths.log_file("run") == log
    log.parent.chmod(0o777)
    other = paths.log_file("run")
    assert other != log and other.parent.parent == tmp_path and other.parent.stat().st_mode & 0o077 == 0


def _unless_below(folder, work):
    """`work`, which fails in `folder` as in a file system that is mounted to be read: root may write all others."""

    def attempt(place, name):
        if folder in place.parents:
            raise OSError(errno.EROFS, "Read-only file system", str(place))
        return work(place, name)

    return attempt
