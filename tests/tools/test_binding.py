"""Which version of the Python binding fits, and what is refused before it can go wrong."""

import sys
from pathlib import Path

import pytest

from tmac.tools.errors import ToolError
from tmac.tools.llama import binding
from tmac.tools.llama.build import Build
from tmac.tools.llama.source import read_pin

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_extra_is_the_pins_version():
    """One llama.h: its structs are mirrored in the binding."""
    pin = read_pin()
    project = tomllib.loads(PROJECT.read_text())["project"]
    assert project["optional-dependencies"]["python"] == [f"{pin.package}=={pin.version}"]


@pytest.mark.parametrize("found", [None, read_pin().version])
def test_no_binding_and_the_right_one_are_accepted(found, monkeypatch):
    monkeypatch.setattr(binding, "installed", lambda package: found)
    binding.check()


def test_binding_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(binding, "installed", lambda package: "0.3.9")
    with pytest.raises(ToolError, match=r"0\.3\.9 does not fit") as caught:
        binding.check()
    assert "LLAMA_BUILD=OFF" in caught.value.hint and read_pin().version in caught.value.hint


def test_build_without_libraries_is_refused(tmp_path):
    with pytest.raises(ToolError, match="has no libllama"):
        binding.folder(Build(tmp_path))
