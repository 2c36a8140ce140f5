"""`tmac serve` as a user starts it, with the real server: names of models, several models, drafts, systemd."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request

import pytest

from support.server import served
from tmac.kernels import crossings_file, tuning_file
from tmac.tools.llama import ready as llama_ready

TMAC = (sys.executable, "-m", "tmac.tools.cli")


@pytest.fixture(scope="module")
def model(build, converted, tmp_path_factory):
    """The bundled model under a name of its own, and a build that is ready."""
    llama_ready.mark(build.folder, llama_ready.state(portable=False))
    path = tmp_path_factory.mktemp("served") / "story-teller.gguf"
    shutil.copy(converted("w2g64z"), path)
    return path


def names_of(server):
    with urllib.request.urlopen(f"{server.url}/v1/models", timeout=30) as answer:
        return [entry["id"] for entry in json.load(answer)["data"]]


def complete(server, name):
    body = {"model": name, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    return server.ask("/v1/completions", body)["choices"][0]["text"]


def test_model_is_called_by_its_name(model):
    """The API's id is the file's name, or --alias; what is said is a few lines without logs."""
    with served(model) as server:
        assert names_of(server) == ["story-teller"]
        text = complete(server, "story-teller")
    assert str(model) not in subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    said = server.process.said
    assert len(said.splitlines()) <= 5 and f"open {server.url} in a browser" in said and "srv" not in said
    with served(model, "--alias", "other", "--draft", "ngram", "--top-k", "1") as server:
        assert names_of(server) == ["other"] and complete(server, "other") == text


def test_without_a_model_all_are_served(build, model, tmp_path):
    """Those of `tmac list`, under the names there, each loaded when it is asked for."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    # A build is ready beside what was tuned and measured for it.
    for path in (build.folder, tuning_file.path(), crossings_file.path()):
        if path.exists():
            (home / path.name).symlink_to(path)
    for name in ("one", "two"):
        shutil.copy(model, home / "models" / f"{name}.gguf")
    env = {"TMAC_HOME": str(home), "HF_HUB_CACHE": str(tmp_path / "hub")}
    with served(env=env) as server:
        assert sorted(names_of(server)) == ["one", "two"]
        assert complete(server, "two") == complete(server, "one") != ""


def test_no_model_to_serve_is_told(build, tmp_path):
    env = {**os.environ, "TMAC_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([*TMAC, "serve"], capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "there is no model to serve" in done.stderr and "tmac run" in done.stderr
