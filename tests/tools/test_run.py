"""Running a model: the program, its arguments, and what reaches stdout."""

import io
import sys
from pathlib import Path

import gguf
import pytest

from tmac.common.errors import TmacError
from tmac.convert.errors import ConvertError
from tmac.tools.errors import ToolError
from tmac.tools.llama import run as llama_run
from tmac.tools.llama.build import Build
from tmac.tools.llama.context import Context
from tmac.tools.llama.prompt import PromptFiles

TEXTS = PromptFiles(Path("prompt"), None)
PERF = "I common_perf_print:"
LOG = f"""0.00.001.080 I llama_completion: llama backend init
tmac: w2g64 by tmac_gemv_w2g64_tables_avx2
0.00.008.487 {PERF} prompt eval time =       0.09 ms /     3 tokens (0.03 ms per token,    31.25 tokens per second)
0.00.008.500 {PERF}        eval time =       0.33 ms /    11 runs   (0.03 ms per token,    12.50 tokens per second)"""


@pytest.fixture
def model(tmp_path):
    """Writes a GGUF that holds only metadata."""

    def write(chat):
        path = tmp_path / ("chat.gguf" if chat else "plain.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        if chat:
            writer.add_chat_template("{{ messages }}")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def build(tmp_path):
    """A build whose llama-completion writes a fixed text and log, and records its arguments."""
    folder = tmp_path / "build"
    (folder / "bin").mkdir(parents=True)

    def make(text, code=0, log=LOG):
        binary = folder / "bin" / "llama-completion"
        (folder / "text").write_bytes(text)
        (folder / "log").write_text(log + "\n")
        binary.write_text(
            f'#!/bin/sh\necho "$TMAC_LOG $TMAC_KERNEL $TMAC_PRECISION $@" > {folder}/called\n'
            f"cat {folder}/log >&2\ncat {folder}/text\nexit {code}\n"
        )
        binary.chmod(0o755)
        return Build(folder)

    return make


def test_chat_is_seen_by_the_template(model):
    """A model with a chat template is a chat model, one without is not."""
    assert llama_run.is_chat_model(model(chat=True))
    assert not llama_run.is_chat_model(model(chat=False))


def test_file_that_is_not_gguf_is_refused(tmp_path):
    """Nothing is started for a file that is no model."""
    (tmp_path / "x.gguf").write_bytes(b"text")
    with pytest.raises(ConvertError, match="GGUF"):
        llama_run.is_chat_model(tmp_path / "x.gguf")


def test_plain_model_continues_the_text_within_a_limit(model, tmp_path):
    """No template and no conversation; a limit ends even a model that never ends by itself."""
    command = llama_run.generation_command(Build(tmp_path), model(False), TEXTS, llama_run.Options(), chat=False)
    assert command[0].name == "llama-completion" and "-no-cnv" in command
    assert command[command.index("-n") + 1] == str(llama_run.PLAIN_LIMIT)


def test_chat_model_answers_one_turn_by_its_template(model, tmp_path):
    """With a prompt a chat model gives one answer and ends."""
    command = llama_run.generation_command(Build(tmp_path), model(True), TEXTS, llama_run.Options(), chat=True)
    assert command[0].name == "llama-completion" and {"--jinja", "-cnv", "-st"} <= set(command) and "-n" not in command


def test_chat_at_the_terminal_is_llama_cli(model, tmp_path):
    """Without a prompt a chat model talks through llama-cli."""
    assert llama_run.chat_command(Build(tmp_path), model(True), TEXTS, llama_run.Options())[0].name == "llama-cli"


def test_chat_needs_template_and_terminal(model, monkeypatch):
    """Without a prompt, a plain model or a pipe is refused, and the hint says what to do."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for chat, reason in ((False, "no chat template"), (True, "neither a prompt nor a terminal")):
        with pytest.raises(ToolError, match=reason) as caught:
            llama_run.check(model(chat), chat=True)
        assert "-p" in caught.value.hint
        llama_run.check(model(chat), chat=False)


def test_options_reach_llama_cpp(build, model):
    """Every option of `tmac run` has its argument or variable; everything after -- comes last."""
    made = build(b"x")
    options = llama_run.Options(7, 2, 0.0, 42, "avx2", "exact", ["-c", "512"], context=Context(64))
    llama_run.generate(made, model(False), "Once", options, out=io.BytesIO())
    called = (made.folder / "called").read_text()
    assert called.startswith("1 avx2 exact ")
    assert called.endswith("-n 7 -t 2 --temp 0.0 -s 42 -c 64 --no-escape -c 512\n")


@pytest.mark.parametrize(
    "raw, text",
    [
        (b" a story. [end of text]\n\n\n", " a story."),
        (b" cut here\n\n", " cut here"),
        ("\u00e9 \u4e2d".encode() + b"\n\n", "\u00e9 \u4e2d"),
        (b"see [end of chapter]\n\n", "see [end of chapter]"),
        (b"two\n\nparts [", "two\n\nparts ["),
        (b"", ""),
    ],
)
def test_stdout_is_the_text_alone(build, model, capfdbinary, raw, text):
    """The end marker that llama-completion adds is removed; the model's text is complete."""
    result = llama_run.generate(build(raw), model(False), "p", llama_run.Options())
    assert result.text == text
    assert capfdbinary.readouterr().out == text.encode() + b"\n"


def test_opening_comes_with_the_text(build, model, capfdbinary):
    """The demo's prompt precedes the story on stdout, but does not count as the model's text."""
    result = llama_run.generate(build(b" there was."), model(False), "p", llama_run.Options(), opening="Once")
    assert capfdbinary.readouterr().out == b"Once there was.\n" and result.text == " there was."


@pytest.mark.parametrize("size", [1, 3])
def test_text_in_any_pieces_is_the_same(size):
    """The end marker is found however the pipe splits the bytes, and the text before it is not delayed."""
    out = io.BytesIO()
    text = llama_run._Text(out)
    raw = b" [end of t] is text\n\nmore [end of text]\n\n\n"
    for at in range(0, len(raw), size):
        text.feed(raw[at : at + size])
    assert out.getvalue() == b" [end of t] is text\n\nmore"
    assert text.finish() == " [end of t] is text\n\nmore"


def test_log_shows_kernels_and_speed_only(build, model, capfd):
    """On stderr: the command, the plugin's line, the speed; llama.cpp's own log stays in the log file."""
    result = llama_run.generate(build(b"x"), model(False), "p", llama_run.Options())
    said = capfd.readouterr().err.splitlines()
    assert said[1:] == [
        "tmac: w2g64 by tmac_gemv_w2g64_tables_avx2",
        "speed: prompt 31.2 tokens/s, generation 12.5 tokens/s",
    ]
    assert result.kernels == [said[1]] and result.rates == {"prompt": 31.25, "generation": 12.5}


def test_a_time_that_llama_cpp_lost_is_no_speed(build, model):
    """As of a prompt with an adapter."""
    log = LOG.replace("0.09 ms", "0.00 ms").replace("31.25 tokens", "3000000.00 tokens")
    assert llama_run.generate(build(b"x", log=log), model(False), "p", llama_run.Options()).rates == {
        "generation": 12.5
    }


def test_failure_of_llama_cpp_is_told(build, model, work):
    """The exit code, the last lines and the log's path reach the user."""
    with pytest.raises(TmacError) as caught:
        llama_run.generate(build(b"", code=9), model(False), "p", llama_run.Options(), out=io.BytesIO())
    assert "llama-completion ended with exit code 9" in caught.value.message
    assert "llama backend init" in caught.value.message and str(work / "logs" / "run.log") in caught.value.message


def test_errors_that_llama_cpp_goes_on_after_are_told(build, model, capfd):
    """It runs without a control vector that does not fit, and says so in the log alone."""
    log = f"{LOG}\n0.00.132.904 E apply: control vector n_embd does not match model"
    llama_run.generate(build(b"text", log=log), model(False), "p", llama_run.Options(), out=io.BytesIO())
    said = [line for line in capfd.readouterr().err.splitlines() if "an error" in line]
    assert said == ["llama.cpp went on after an error: apply: control vector n_embd does not match model"]
