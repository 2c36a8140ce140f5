"""The unit of `tmac serve --systemd`, read as systemd reads it."""

import configparser
import shutil
import subprocess
import sys

import pytest

from tmac.tools import systemd
from tmac.tools.errors import ToolError


def read(text):
    parsed = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    parsed.optionxform = str
    parsed.read_string(text)
    return parsed


def test_unit_starts_the_same_server(tmp_path, monkeypatch, work):
    """Whole paths, since a unit starts elsewhere; what systemd would replace or split is protected."""
    model = tmp_path / "a model 100%.gguf"
    model.touch()
    monkeypatch.chdir(tmp_path)
    unit = read(systemd.unit(["serve", model.name, "--systemd", "--port", "8081"]))
    command = unit["Service"]["ExecStart"]
    assert command.endswith(f' serve "{tmp_path}/a model 100%%.gguf" --port 8081') and command.startswith("/")
    assert unit["Service"]["Environment"] == f"TMAC_HOME={work}" and unit["Install"]["WantedBy"] == "multi-user.target"


def test_key_does_not_get_into_a_unit():
    with pytest.raises(ToolError, match="everybody can read") as caught:
        systemd.unit(["serve", "m", "--api-key=secret"])
    assert "--api-key-file" in caught.value.hint


def test_verb_prints_it_and_starts_nothing(work):
    done = subprocess.run(
        [sys.executable, "-m", "tmac.tools.cli", "serve", "org/name", "--systemd"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "serve org/name\n" in done.stdout and done.stderr == "" and not work.exists()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_it(tmp_path):
    (tmp_path / "tmac.service").write_text(systemd.unit(["serve", "org/name"]))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "tmac.service"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
