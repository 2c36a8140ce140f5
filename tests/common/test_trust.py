"""Code is loaded only from files and folders that nobody else can write to."""

import os

import pytest

from tmac.common import trust
from tmac.common.errors import TmacError
from tmac.kernels import compile as kernels_compile


@pytest.fixture
def library(tmp_path):
    """A file in a folder in a folder."""
    path = tmp_path / "native" / "key" / "library.so"
    path.parent.mkdir(parents=True)
    path.write_text("code")
    for place in (path, path.parent, path.parent.parent):
        place.chmod(0o755)
    return path


def check(path):
    trust.check_own(path, [path.parent.parent, path.parent])


@pytest.mark.parametrize("mode", [0o777, 0o757])
@pytest.mark.parametrize("up", [0, 1, 2])
def test_what_others_can_write_is_refused(library, mode, up):
    place = (library, library.parent, library.parent.parent)[up]
    check(library)
    place.chmod(mode)
    with pytest.raises(TmacError, match=f"others can write to {place} .mode {mode:o}"):
        check(library)


def test_group_of_the_owner_alone(library, monkeypatch):
    """Where every user has a group of his own, umask 002 is usual: that group is nobody else."""
    library.chmod(0o775)
    monkeypatch.setattr(trust, "_is_private", lambda facts: True)
    check(library)
    monkeypatch.setattr(trust, "_is_private", lambda facts: False)
    with pytest.raises(TmacError, match="others can write"):
        check(library)


def test_file_of_another_user(library, monkeypatch):
    """As it looks to a user who is neither its owner nor root."""
    owner = library.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        check(library)
        os.chown(library, 12345, -1)
    with pytest.raises(TmacError, match="belongs to the user"):
        check(library)


def test_cache_is_closed_whatever_the_umask(tmp_path, monkeypatch):
    """Made with umask 000, it is not writable for others; opened by hand, it is not used."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path))
    before = os.umask(0)
    try:
        path = kernels_compile.build_library({"x.c": ("int x;", ())})
    finally:
        os.umask(before)
    modes = [place.stat().st_mode & 0o022 for place in (path, path.parent, path.parent.parent)]
    assert modes == [0, 0, 0]
    assert kernels_compile.build_library({"x.c": ("int x;", ())}) == path
    path.parent.chmod(0o777)
    with pytest.raises(TmacError, match="is not loaded"):
        kernels_compile.build_library({"x.c": ("int x;", ())})
