"""`tmac bench drafts`: what it asks for and shows. A real server is asked in tests/e2e."""

import json
import os
import re
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tmac.kernels import attention, repack
from tmac.tools import cli, pipeline
from tmac.tools.bench import drafts
from tmac.tools.bench.drafts import DraftTiming, Task
from tmac.tools.llama.build import Build


@pytest.fixture
def asked(monkeypatch, work):
    """What is measured, without a server: model, task, options and arguments for drafts each."""
    found = []

    def measure(build, model, task, options, draft, rounds, log):
        found.append((model, task, options, draft))
        return DraftTiming(
            model.name,
            options.precision,
            task.tokens,
            options.threads,
            50.0,
            125.0,
            2.5,
            160,
            120,
            same_text=model.name != "odd",
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
    assert "| one | the model's own | 50.0 | 125.0 | 2.50 | 120 of 160 | yes |" in said
    assert "| odd | the model's own | 50.0" in said and "| no |" in said
    assert [task for _, task, *_ in asked] == [Task("abc", 96)] * 2
    assert all(options.threads == 2 and "ngram-simple" in draft for *_, options, draft in asked)


def test_variables_of_the_shell_do_not_count(asked):
    """What is not asked for is unset: it would be reported as the model's own."""
    assert cli.main(["bench", "drafts", "--precision", "exact"]) == 0 == cli.main(["bench", "drafts"])
    (exact, own) = [options.environment() for _, _, options, _ in asked]
    assert exact["TMAC_PRECISION"] == "exact" and own["TMAC_PRECISION"] is None
    for variable in ("TMAC_KERNEL", attention.VARIABLE, repack.VARIABLE):
        assert exact[variable] is own[variable] is None


def test_prompt_is_read_once(asked, tmp_path, capsys):
    """From a pipe, too."""
    os.mkfifo(tmp_path / "prompt")
    writer = threading.Thread(target=(tmp_path / "prompt").write_text, args=["abc"], daemon=True)
    writer.start()
    assert cli.main(["bench", "drafts", "--prompt", str(tmp_path / "prompt")]) == 0
    assert asked[0][1] == Task("abc", 96) and "96 tokens of a text" in capsys.readouterr().out


def test_json_and_the_bundled_checkpoint(asked, capsys):
    assert cli.main(["bench", "drafts", "--json", "--precision", "exact"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["ratio"] == 2.5 and found["same_text"] is True
    assert asked[0][0] == pipeline.DEMO_CHECKPOINT and asked[0][1] == Task(drafts.TEXT * drafts.TIMES, 96)


def test_models_of_random_weights_write_records_with_each_precision(asked, capsys):
    """By one command: models are made, and the context holds the longer answer."""
    one_layer = ["--shape", "qwen3-0.6b", "--layers", "1"]
    assert cli.main(["bench", "drafts", *one_layer, "--types", "w1g128,w2g128", "--precision", "rounded,exact"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("llama-server, 512 tokens of records that a grammar asks for;") and "| exact |" in said
    assert [(model.is_file(), options.precision) for model, _, options, _ in asked] == [
        (True, "rounded"),
        (True, "exact"),
    ] * 2
    assert len({model for model, *_ in asked}) == 2
    assert all(task == Task(drafts.RECORDS_PROMPT, 512, drafts.records(512)) for _, task, *_ in asked)
    assert all(options.context.tokens > 512 for _, _, options, _ in asked)


def test_grammar_outlasts_the_answer():
    """Its words and numbers alone, were each a token, are more than the answer has: the list does not end in it."""
    answer = drafts.records(512).partition("::=")[2].partition("number ::=")[0].replace("\\n", "")
    words = re.findall(r"[a-z]+|[0-9]+", answer)
    assert len(words) > 512
    assert '\\"name\\": \\"pear\\"' in drafts.records(1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["model.gguf", "--shape", "qwen3-0.6b"], "--shape qwen3-0.6b makes models, and model.gguf is one"),
        (["--shape", "bitnet-3b"], "bitnet-3b has a matrix of 3200 x 8640, but w2g128 needs"),
        (["--precision", "exact,half"], "'half' is no precision; expected rounded"),
        (["--layers", "2"], "--layers says what models --shape makes, and there is no --shape"),
        (["model.gguf", "--types", "w2g128"], "--types says what models --shape makes"),
    ],
)
def test_what_cannot_be_measured_is_refused(asked, capsys, monkeypatch, arguments, words):
    """Before anything is built."""
    monkeypatch.setattr(pipeline, "ready_llama", lambda: pytest.fail("nothing is to be built"))
    with suppress(SystemExit):
        assert cli.main(["bench", "drafts", *arguments]) == 1
    assert words in capsys.readouterr().err and asked == []
