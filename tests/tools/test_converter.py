"""Where llama.cpp's own converter runs, without torch: what is installed is said by fakes."""

import sys
import threading
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from tmac.common import process
from tmac.tools.errors import ToolError
from tmac.tools.llama import converter

WANTED = "torch==2.13.0\nsentencepiece>=0.2"


@pytest.fixture
def packages(monkeypatch):
    """The versions in T-MAC's own environment, by name, to change."""
    found = {}

    def version(name):
        if name not in found:
            raise PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(converter.importlib.metadata, "version", version)
    monkeypatch.setattr(converter, "wanted", lambda: WANTED)
    return found


@pytest.fixture
def commands(monkeypatch, packages, work):
    """The commands that were run; the first of an installation makes the interpreter."""
    calls = []

    def run(command, **options):
        calls.append(list(map(str, command)))
        if "venv" in calls[-1]:
            python = converter._python(Path(command[-1]))
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setattr(process, "run", run)
    return calls


def test_missing_packages_are_said_with_the_command_that_installs_them(commands):
    with pytest.raises(ToolError, match="needs torch and transformers") as caught:
        converter.find("build")
    assert converter.COMMAND in str(caught.value) and commands == []


def test_installed_once(commands, work):
    python = converter.install()
    assert python == converter._python(work / "all-models") and converter.install() == python
    assert commands[1][1:] == ["-m", "pip", "install", *WANTED.split()] and len(commands) == 2


def test_another_index_is_asked_too(commands):
    converter.install("https://example.org/cpu")
    assert commands[1][3:6] == ["install", "--extra-index-url", "https://example.org/cpu"]


@pytest.mark.parametrize("what", ["no stamp", "another stamp", "no python"])
def test_environment_that_is_not_whole_is_made_again(commands, work, what):
    """Half made, made for other versions, or with a Python that is gone since."""
    python = converter.install()
    (left := work / "all-models" / "left").touch()
    stamp = work / "all-models" / converter.STAMP
    if what == "no stamp":
        stamp.unlink()
    elif what == "another stamp":
        stamp.write_text("torch==1.0")
    else:
        python.unlink()
        python.symlink_to(work / "gone")
    assert converter.interpreter() is None
    assert converter.install() == python and len(commands) == 4 and not left.exists()


def test_failed_installation_is_no_installation(commands, monkeypatch):
    ran = process.run

    def fail(command, **options):
        ran(command)
        if "pip" in command:
            raise ToolError("pip failed")

    monkeypatch.setattr(process, "run", fail)
    with pytest.raises(ToolError, match="pip failed"):
        converter.install()
    assert converter.interpreter() is None


def test_two_at_once_install_once(commands, monkeypatch):
    """The second waits for the first, and takes what that made."""
    ran, waiting = process.run, threading.Event()
    found = []
    second = threading.Thread(target=lambda: found.append(converter.install()))

    def run(command, **options):
        if "venv" in command:
            second.start()
            assert waiting.wait(10)
        ran(command)

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr("tmac.common.lock.console.log", lambda line: waiting.set() if "waiting" in line else None)
    found.append(converter.install())
    second.join(10)
    assert len(found) == 2 and found[0] == found[1] and len(commands) == 2


@pytest.mark.parametrize(
    ("versions", "is_taken"),
    [
        ({"torch": "2.13.0", "sentencepiece": "0.2.1"}, True),
        ({"torch": "2.13.0+cpu", "sentencepiece": "0.2.1"}, True),
        ({"torch": "2.9.0", "sentencepiece": "0.2.1"}, False),
        ({"torch": "2.13.0"}, False),
    ],
)
def test_own_environment_is_taken_in_the_wanted_versions(packages, work, versions, is_taken):
    packages.update(versions)
    assert converter.interpreter() == (Path(sys.executable) if is_taken else None)


def test_package_that_asks_for_nothing_is_told(commands, monkeypatch):
    monkeypatch.setattr(converter, "wanted", lambda: "")
    for call in (converter.install, lambda: converter.find("build")):
        with pytest.raises(ToolError, match="does not say what its extra all-models asks for"):
            call()
    assert commands == []


def test_the_extra_asks_for_torch():
    assert {"torch", "transformers"} <= {line.partition("==")[0] for line in converter.wanted().splitlines()}
