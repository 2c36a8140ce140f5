"""`tmac bench drafts`: a real server with drafts and without writes the same text, and the guesses are right."""

import json

import pytest

from tmac.tools import cli, pipeline

DRAFTED = ("bench", "drafts", "-n", "150", "--rounds", "1", "--json")


@pytest.fixture
def bench(build, monkeypatch, capsys, tmp_path):
    """The bundled model repeats itself some time after these words."""
    prompt = tmp_path / "prompt"
    prompt.write_text("Once upon a time")
    monkeypatch.setattr(pipeline, "ready_llama", lambda: build)

    def run(*arguments):
        assert cli.main([*DRAFTED, "--prompt", str(prompt), *map(str, arguments)]) == 0
        return json.loads(capsys.readouterr().out)["results"]

    return run


def test_drafts_leave_a_text_that_repeats_as_it_is(bench, converted):
    """With the kernels in plain C, which round several tokens as one. Some guesses are right."""
    model = converted("w2g64z")
    (found,) = bench(model, "--kernel", "scalar")
    assert found["model"] == model.name and found["same_text"]
    assert 0 < found["accepted"] <= found["drafted"]
    assert found["tokens_per_s"] > 0 and found["tokens_per_s_with_drafts"] > 0


def test_model_of_random_weights_writes_records(build, monkeypatch, capsys):
    """What a grammar dictates repeats, so drafts are made and some are right; names differ, so others are not."""
    monkeypatch.setattr(pipeline, "ready_llama", lambda: build)
    shape = ("--shape", "qwen3-0.6b", "--layers", "1", "--precision", "exact")
    assert cli.main(["bench", "drafts", *shape, "-n", "300", "--rounds", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["same_text"] and 100 < found["accepted"] < found["drafted"]


def test_another_text_is_told(build, converted, monkeypatch):
    """What the two servers write is compared, token by token."""
    from tmac.tools.bench import drafts
    from tmac.tools.llama.draft import NGRAM, arguments
    from tmac.tools.llama.run import Options

    def ask(server, path, body, ask=drafts.ServerOfAnswers.ask):
        answer = ask(server, path, body)
        is_drafting = "draft_n" in answer["timings"]
        return answer | {"tokens": answer["tokens"][::-1]} if is_drafting else answer

    monkeypatch.setattr(drafts.ServerOfAnswers, "ask", ask)
    draft = arguments(NGRAM, lambda name: None)
    task = drafts.Task("Once upon a time", 150)
    found = drafts.measure(build, converted("w2g64z"), task, Options(threads=1), draft, 1)
    assert not found.same_text and found.drafted > 0
