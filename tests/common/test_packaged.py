"""Which binaries are used: those that a wheel carries, or a build of the machine's own."""

import json

import pytest

from tmac.common import packaged


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The folder of an installed package with binaries, whose user has built nothing."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "work"))
    folder = tmp_path / "site-packages" / "tmac"
    (folder / packaged.FOLDER).mkdir(parents=True)
    (folder / packaged.FOLDER / packaged.ABOUT).write_text(json.dumps({"compiler": "gcc 1.2"}))
    return folder


def test_a_checkout_and_a_plain_package_carry_nothing(tmp_path):
    assert packaged.carried(tmp_path) is None and packaged.used(tmp_path) is None
    assert packaged.carried() is None


def test_a_wheel_uses_what_it_carries(wheel):
    assert packaged.used(wheel) == packaged.carried(wheel) == wheel / "binaries"


def test_a_build_of_the_users_own_comes_first(wheel, tmp_path):
    """`tmac build` leaves the file of its choice; without it the package's binaries serve again."""
    (tmp_path / "work").mkdir()
    choice = tmp_path / "work" / packaged.CHOICE_FILE
    choice.write_text("{}")
    assert packaged.used(wheel) is None and packaged.carried(wheel)
    choice.unlink()
    assert packaged.used(wheel)


def test_small_libraries_are_found_by_what_they_are_made_of(wheel, monkeypatch):
    monkeypatch.setattr(packaged, "used", lambda: wheel / "binaries")
    made = wheel / "binaries" / "native" / packaged.native_name(("text", ("-O2",)))
    made.parent.mkdir()
    made.touch()
    assert packaged.native(("text", ("-O2",))) == made
    assert packaged.native(("other text", ("-O2",))) is None
    assert packaged.compiler() == "gcc 1.2"


def test_nothing_is_compiled_where_a_wheel_has_the_kernels(wheel, monkeypatch):
    """The kernels for Python are the library that llama.cpp's backends share, whatever is on PATH."""
    from tmac.kernels import compile as compiling

    monkeypatch.setattr(packaged, "used", lambda: wheel / "binaries")
    (wheel / "binaries" / "bin").mkdir()
    (wheel / "binaries" / "bin" / packaged.KERNELS).touch()
    monkeypatch.setattr(compiling, "build_library", lambda *ignored: pytest.fail("nothing is to be compiled"))
    assert compiling.build() == wheel / "binaries" / "bin" / packaged.KERNELS
