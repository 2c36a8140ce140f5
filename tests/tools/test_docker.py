"""The Dockerfile of docs/running.md, built where Docker is there."""

import re
import shutil
import subprocess

import pytest

from tmac.common.paths import ROOT

PAGE = ROOT / "docs" / "running.md"


def dockerfile():
    return re.search(r"^```dockerfile\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)[1]


def has_docker():
    """Whether there is a daemon, not only the client."""
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_docker(), reason="no Docker daemon")
def test_image_is_built_and_answers(tmp_path):
    """The image has a build that is ready: the bundled checkpoint writes a word without compiling."""
    (tmp_path / "Dockerfile").write_text(dockerfile())
    subprocess.run(["docker", "build", "-t", "tmac-test", "-f", tmp_path / "Dockerfile", ROOT], check=True)
    run = ["docker", "run", "--rm", "tmac-test", "run", "convert/demo", "Once", "-n", "4", "--temp", "0"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() and "building" not in done.stderr


def test_what_the_image_copies_is_in_the_checkout():
    """And what it needs is installed in it: the programs of `tools build`."""
    text = dockerfile()
    assert all((ROOT / name).exists() for name in ("tools", "pyproject.toml", "constraints.txt", ".dockerignore"))
    assert all(program in text for program in ("git", "g++", "ninja-build", "python3-venv"))
