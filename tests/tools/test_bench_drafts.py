"""`tmac bench drafts`: what it asks for and shows. A real server is asked in tests/e2e."""

import json
from pathlib import Path

import pytest

from tmac.tools import cli, pipeline
from tmac.tools.bench import drafts
from tmac.tools.bench.drafts import DraftTiming
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
    monkeypatch.setattr(drafts, "measure", measure)
    return found


def test_models_and_what_is_shown(asked, capsys, tmp_path):
    """Every model gets the text; an answer that differs is said."""
    (tmp_path / "prompt").write_text("abc")
    rest = ["--prompt", tmp_path / "prompt", "-t", "2"]
    assert cli.main(["bench", "drafts", "one", "odd", *map(str, rest)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "| one | 50.0 | 125.0 | 2.50 | 120 of 160 | yes |" in said and "| odd | 50.0" in said and "| no |" in said
    assert [prompt for _, prompt, *_ in asked] == ["abc", "abc"]
    assert all(options.threads == 2 and "ngram-simple" in draft for *_, options, draft in asked)


def test_json_and_the_bundled_checkpoint(asked, capsys):
    assert cli.main(["bench", "drafts", "--json", "--precision", "exact"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["ratio"] == 2.5 and found["same_text"] is True
    assert asked[0][0] == pipeline.DEMO_CHECKPOINT and asked[0][1] == drafts.TEXT * drafts.TIMES
