"""`tmac bench drafts`: what it asks for and shows. A real server is asked in tests/e2e."""

import json
from pathlib import Path

import pytest

from tmac.tools import cli, pipeline
from tmac.tools.bench import drafts, random_model
from tmac.tools.bench.drafts import DraftTiming
from tmac.tools.bench.random_model import RandomModel
from tmac.tools.llama.build import Build


@pytest.fixture
def asked(monkeypatch, work):
    """What is measured, without a server: a pair of model and prompt each."""
    found = []

    def measure(build, model, prompt, options, draft, tokens, rounds, log):
        found.append((model, prompt, options, draft))
        return DraftTiming(
            model.name, tokens, options.threads, 50.0, 125.0, 2.5, 160, 120, same_text=model.name != "odd"
        )

    monkeypatch.setattr(pipeline, "ready_llama", lambda: Build(work))
    monkeypatch.setattr(pipeline, "ensure_model", lambda name: Path(name))
    monkeypatch.setattr(random_model, "ensure", lambda recipes: [RandomModel(one.path, 0, 0) for one in recipes])
    monkeypatch.setattr(drafts, "measure", measure)
    return found


def test_models_and_what_is_shown(asked, capsys, tmp_path):
    """Models by name get a text, random ones numbers; a text that differs is said."""
    (tmp_path / "prompt").write_text("abc")
    rest = ["--random", "llama-3.2-1b:w2g128", "--prompt", tmp_path / "prompt", "-t", "2"]
    assert cli.main(["bench", "drafts", "one", "odd", *map(str, rest)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "| one | 50.0 | 125.0 | 2.50 | 120 of 160 | yes |" in said and "| odd | 50.0" in said and "| no |" in said
    assert [prompt for _, prompt, *_ in asked] == ["abc", "abc", list(drafts.NUMBERS) * drafts.TIMES]
    assert all(options.threads == 2 and "ngram-simple" in draft for *_, options, draft in asked)
    assert asked[2][0].name.startswith("llama-3.2-1b-16layers-")


def test_json_and_the_bundled_checkpoint(asked, capsys):
    assert cli.main(["bench", "drafts", "--json", "--precision", "exact"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["ratio"] == 2.5 and found["same_text"] is True
    assert asked[0][0] == pipeline.DEMO_CHECKPOINT and asked[0][1] == drafts.TEXT * drafts.TIMES


@pytest.mark.parametrize(
    "given, words",
    [("llama-9:w2g128", "no shape is called 'llama-9'"), ("llama-2-7b:w9", "'w9' is no weight type"), ("x", "'x'")],
)
def test_unknown_random_models_are_refused(given, words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "drafts", "--random", given])
    assert words in capsys.readouterr().err
