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
    assert unit["Service"]["Environment"] == f"TMAC_HOME={work}"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_only_what_is_a_path_becomes_one(tmp_path, monkeypatch, work):
    """In both spellings; an alias, or a draft by copying, may be called as a file here is."""
    for name in ("tools", "ngram", "small.gguf", "serve", "keys"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    given = ["serve", "org/name", "-a", "tools", "--draft", "ngram", "--api_key_file", "keys", "--draft=small.gguf"]
    given += ["--log-file=new.log", "--top-k", "tools", "--", "-mm", "keys"]
    said = read(systemd.unit(given))["Service"]["ExecStart"].partition(" serve ")[2].split()
    here = str(tmp_path)
    assert said == [
        *(
            "org/name",
            "-a",
            "tools",
            "--draft",
            "ngram",
            "--api_key_file",
            f"{here}/keys",
            f"--draft={here}/small.gguf",
        ),
        *(f"--log-file={here}/new.log", "--top-k", "tools", "--", "-mm", f"{here}/keys"),
    ]


def test_server_finds_the_same_downloads(tmp_path, monkeypatch):
    """The hub client's folders are carried over; a percent sign is not one of systemd's."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "100% mine"))
    monkeypatch.setenv("HF_HOME", "/data/hub")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    lines = [line for line in systemd.unit(["serve", "m"]).splitlines() if line.startswith("Environment=")]
    assert lines == [f'Environment="TMAC_HOME={tmp_path}/100%% mine"', "Environment=HF_HOME=/data/hub"]


@pytest.mark.parametrize("option", ["--api-key=secret", "--api-key", "--api_key", "--hf-token", "--hf_token=s", "-hft"])
def test_key_does_not_get_into_a_unit(option):
    with pytest.raises(ToolError, match="everybody can read") as caught:
        systemd.unit(["serve", "m", option, "secret"])
    assert ("--api-key-file" if "api" in option else "hf auth login") in caught.value.hint


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
