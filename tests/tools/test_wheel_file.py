"""Taking a wheel apart and putting it together: what an installer reads is as the guide says."""

import argparse
import base64
import csv
import hashlib
import os
import zipfile

import pytest

from tmac.common import platforms
from tmac.tools import wheel_command, wheel_file

METADATA = """Metadata-Version: 2.4
Name: x
Requires-Dist: numpy<3,>=1.26
Requires-Dist: cmake>=3.28
Requires-Dist: cmakelang>=1
Provides-Extra: build
Requires-Dist: cmake>=3.28; extra == "build"

The text of the page.
Requires-Dist: cmake
"""


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    information = folder / "x-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(METADATA)
    (information / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (information / "RECORD").write_text("of the old wheel\n")
    (folder / "x").mkdir()
    (folder / "x" / "program").write_bytes(b"\x7fELF")
    (folder / "x" / "program").chmod(0o755)
    (folder / "x" / "text, with a comma").write_text("a")
    return folder


def test_requirements_are_dropped_but_not_from_extras(tree):
    wheel_file.drop_requirements(tree, ["cmake"])
    assert (tree / "x-1.0.dist-info" / "METADATA").read_text() == METADATA.replace(
        "Requires-Dist: cmake>=3.28\n", "", 1
    )


def test_a_packed_wheel_is_what_an_installer_expects(tree, tmp_path):
    """Its name, its tag, a hash of every file, and which files are programs."""
    wheel = wheel_file.pack(tree, tmp_path, "linux_x86_64")
    assert wheel.name == "x-1.0-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel) as archive:
        header = archive.read("x-1.0.dist-info/WHEEL").decode()
        assert "Tag: py3-none-linux_x86_64\n" in header and "Root-Is-Purelib: false\n" in header
        assert archive.getinfo("x/program").external_attr >> 16 == 0o100755
        assert archive.getinfo("x/text, with a comma").external_attr >> 16 == 0o100644
        rows = list(csv.reader(archive.read("x-1.0.dist-info/RECORD").decode().splitlines()))
        assert [name for name, *_ in rows] == archive.namelist()
        for name, digest, size in rows[:-1]:
            content = archive.read(name)
            hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert digest == f"sha256={hashed}" and int(size) == len(content)
        assert rows[-1] == ["x-1.0.dist-info/RECORD", "", ""]


def test_the_same_tree_makes_the_same_wheel(tree, tmp_path):
    first = wheel_file.pack(tree, tmp_path, "linux_x86_64").read_bytes()
    for path in tree.rglob("*"):
        os.utime(path, (0, 0))
    assert wheel_file.pack(tree, tmp_path, "linux_x86_64").read_bytes() == first


def test_what_was_packed_is_unpacked(tree, tmp_path):
    wheel = wheel_file.pack(tree, tmp_path, "any")
    wheel_file.unpack(wheel, tmp_path / "again")
    names = {path.relative_to(tree) for path in tree.rglob("*")}
    assert {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*")} == names


@pytest.mark.parametrize("others", [[], ["linux-aarch64"]])
def test_help_names_what_can_be_crossed(monkeypatch, others):
    """Nothing of cross compilers where there is none."""
    monkeypatch.setattr(platforms, "names", lambda: ["here-x86_64", *others])
    parser = argparse.ArgumentParser()
    wheel_command.configure_parser(parser)
    said = " ".join(parser.format_help().split())
    crossed = ", or by a cross compiler linux-aarch64" if others else ""
    assert f"what the package is for: here-x86_64 (default){crossed} --variants" in said
