"""`tmac run` and `tmac serve` down to what llama.cpp is given; programs that note it stand for llama.cpp's."""

import argparse
import json
import os
import sys
from itertools import pairwise

import gguf
import pytest
from huggingface_hub import constants

from tmac.common import console
from tmac.tools import arguments as types
from tmac.tools import cli, pipeline
from tmac.tools.llama import prompt_cache
from tmac.tools.llama.build import Build

# The server of several says where it listens after one of its models' own servers has.
FAKE = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
options = dict(zip(arguments, arguments[1:]))
texts = [open(options[name]).read() for name in ("-bf", "-sysf", "--models-preset") if name in options]
json.dump([os.path.basename(sys.argv[0]), arguments, texts], open({calls!r}, "w"))
print("[49999] 0.00.100.000 I srv  llama_server: listening on http://127.0.0.1:49999")
print("0.00.100.000 I srv  llama_server: listening on http://127.0.0.1:4711")
"""


@pytest.fixture
def model(tmp_path):
    """A GGUF of metadata alone, with a chat template."""

    def write(path, layers=0, width=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_context_length(2048)
        writer.add_chat_template("{{ messages }}")
        if layers:
            writer.add_block_count(layers)
            writer.add_embedding_length(width)
            writer.add_head_count(8)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return str(path)

    return write


@pytest.fixture
def started(tmp_path, monkeypatch, work):
    """Runs the command; returns its code, and the program, the arguments and the texts that llama.cpp was given."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    build = Build(tmp_path / "llama")
    build.binary("x").parent.mkdir(parents=True)
    for name in ("llama-completion", "llama-server"):
        build.binary(name).write_text(FAKE.format(python=sys.executable, calls=str(tmp_path / "calls")))
        build.binary(name).chmod(0o755)
    monkeypatch.setattr(pipeline, "ready_llama", lambda: build)
    monkeypatch.setattr(console, "_quiet", False)

    def start(*arguments):
        code = cli.main(list(arguments))
        return code, json.loads((tmp_path / "calls").read_text()) if (tmp_path / "calls").exists() else None

    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield start


@pytest.mark.parametrize("options", [["-n", "8"], ["-n8"], ["--n-predict=8", "-t4"], ["--n_predict", "8"]])
def test_prompt_may_follow_options(started, model, tmp_path, options):
    """Options between the model and the prompt, joined to their values or not."""
    file = model(tmp_path / "m.gguf")
    code, (program, arguments, texts) = started("run", file, *options, "hi")
    assert code == 0 and program == "llama-completion" and texts == ["hi"]
    assert arguments[arguments.index("-n") + 1] == "8"


def test_escapes_are_replaced_in_both_texts(started, model, tmp_path):
    """As llama.cpp does in a prompt: what is no escape stays; literal without the option."""
    file = model(tmp_path / "m.gguf")
    prompt, system = r"a\n\t\x41\q\\n", r"b\n"
    assert started("run", file, "-p", prompt, "--system", system)[1][2] == [prompt, system]
    code, (_, arguments, texts) = started("run", file, "-p", prompt, "--system", system, "-e")
    assert code == 0 and texts == ["a\n\tA\\q\\n", "b\n"] and "--escape" not in arguments
    assert started("run", file, "-p", r"\xff", "-e")[0] == 1


def test_options_are_those_of_the_program_that_is_started(started, model, tmp_path, capsys):
    """One answer is llama-completion's, with drafts llama-server's; what stands after -- is not read."""
    file = model(tmp_path / "m.gguf")
    assert started("run", file, "hi", "--metrics") == (1, None)
    assert "one answer comes from llama-completion" in capsys.readouterr().err
    assert started("run", file, "hi", "--draft", "ngram", "--prompt-cache", "x") == (1, None)
    assert "one answer with --draft comes from llama-server" in capsys.readouterr().err
    assert started("run", file, "hi", "--", "--metrics")[0] == 0


@pytest.mark.parametrize("option", ["--api-key", "--api_key", "--hf-token", "-hft"])
@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_no_secret_is_said(started, model, tmp_path, capfd, option, dashes):
    """Not with -v either, however it is written."""
    file = model(tmp_path / "m.gguf")
    code, _ = started("serve", file, "-v", "--port", "0", *dashes, option, "s3cret")
    said = capfd.readouterr()
    assert code == 0 and "llama-server -m" in said.err and "s3cret" not in said.err + said.out


def test_router_gets_what_was_asked(started, model, work, monkeypatch, capsys):
    """A context for all models; an alias is of one. Its own address is said, none of its models' servers."""
    monkeypatch.delenv(prompt_cache.VARIABLE, raising=False)
    model(work / "models" / "one.gguf")
    code, (_, arguments, texts) = started("serve", "--port", "0")
    assert code == 0 and "ctx-size = 2048" in texts[0] and "-c" not in arguments
    said = capsys.readouterr().err
    assert "http://127.0.0.1:4711" in said and "49999" not in said
    for asked in (["-c", "512"], ["--", "-c", "512"]):
        code, (_, arguments, texts) = started("serve", "--port", "0", *asked)
        assert arguments[arguments.index("-c") + 1] == "512" and "ctx-size" not in texts[0]
    _, (_, arguments, texts) = started("serve", "--port", "0", "--cache-ram", "7")
    assert arguments[arguments.index("--cache-ram") + 1] == "7" and "cache-ram" not in texts[0]
    assert started("serve", "--alias", "x")[0] == 1 and "--alias x names one model" in capsys.readouterr().err


def test_size_of_the_cache():
    """-1 is no bound, as llama.cpp has it; no other number below zero is a size."""
    assert [types.cache_size(text) for text in ("-1", "0", "512")] == [-1, 0, 512]
    for text in ("-2", "1.5", "8G", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number"):
            types.cache_size(text)


@pytest.fixture
def memory(monkeypatch):
    """100 MiB of it are free."""
    monkeypatch.delenv(prompt_cache.VARIABLE, raising=False)
    monkeypatch.setattr(prompt_cache, "free_memory", lambda: 100 << 20)


# 100 MiB hold a context of 2048 tokens with 33 KiB each in f16; half of what it leaves is less than that.
LAYERS_OF_33_KIB = {"layers": 33, "width": 256}


def test_router_divides_memory_among_what_it_loads(started, model, work, memory, monkeypatch):
    """An equal part for each of at most four, or of as many as the user lets it load."""
    monkeypatch.delenv("LLAMA_ARG_MODELS_MAX", raising=False)

    def bounds(*options):
        lines = started("serve", "--port", "0", *options)[1][2][0].splitlines()
        return {line for line in lines if line.startswith("cache-ram")}

    model(work / "models" / "one.gguf")
    assert bounds() == {"cache-ram = 49"}
    for name in "abcd":
        model(work / "models" / f"{name}.gguf")
    assert bounds() == {"cache-ram = 12"}
    assert bounds("--models-max", "2") == {"cache-ram = 24"}
    assert bounds("--models-max", "0") == {"cache-ram = 9"}
    # Of models on several machines, this one's memory says nothing.
    assert bounds("--rpc", "127.0.0.1:50052") == set()


@pytest.mark.parametrize("of_one", [False, True])
@pytest.mark.parametrize("asked", [["-c", "512"], ["-c", "0"], ["--", "-c", "512"], ["-c", "64", "--", "-c", "512"]])
def test_asked_context_is_said_once(started, model, work, of_one, asked):
    """To a server of one model and of several. What is after -- counts."""
    file = model(work / "models" / "one.gguf")
    _, (_, arguments, _) = started("serve", *([file] if of_one else []), "--port", "0", *asked)
    assert [value for name, value in pairwise(arguments) if name == "-c"] == asked[-1:]


def test_bound_is_for_the_context_that_was_asked(started, model, work, memory):
    """By either side of --; one whose length is no number leaves the bound to llama.cpp."""
    file = model(work / "models" / "one.gguf", **LAYERS_OF_33_KIB)

    def bound(*options):
        return started("serve", "--port", "0", *options)[1]

    for options in (["-c", "512"], ["--", "-c", "2048", "--ctx_size", "512"]):
        assert "cache-ram = 41" in bound(*options)[2][0]
        arguments = bound(file, *options)[1]
        assert arguments[arguments.index("--cache-ram") + 1] == "41"
    arguments = bound(file)[1]
    assert arguments[arguments.index("--cache-ram") + 1] == "0" and "cache-ram = 0" in bound()[2][0]
    for options in (["--", "-c", "many"], ["--rpc", "127.0.0.1:50052"]):
        assert "--cache-ram" not in bound(file, *options)[1] and "cache-ram" not in bound(*options)[2][0]


def test_odd_model_stops_no_other(started, model, work, capsys):
    """It is left out by name: a character that the list cannot hold, and a file that is none."""
    for name in ("good", "a#b", "a;b", "a]b"):
        model(work / "models" / f"{name}.gguf")
    (work / "models" / "broken.gguf").write_bytes(b"GGUF")
    code, (_, _, texts) = started("serve", "--port", "0")
    assert code == 0 and [line for line in texts[0].splitlines() if line.startswith("[")] == ["[good]"]
    said = capsys.readouterr().err
    assert said.count("left out: ") == 4 and "models: good\n" in said


def test_earlier_prompts_have_what_memory_allows(started, model, tmp_path, memory, capsys):
    """A server says so, unless the user chose; one answer has no earlier prompts."""
    file = model(tmp_path / "m.gguf")
    _, (_, arguments, _) = started("serve", file, "--port", "0")
    assert arguments[arguments.index("--cache-ram") + 1] == "49"
    assert "earlier prompts: 49 MiB" in capsys.readouterr().err
    for asked in (["--cache-ram", "7"], ["-cram", "7"], ["--", "--cache-ram", "7"]):
        _, (_, arguments, _) = started("serve", file, "--port", "0", *asked)
        at = [index for index, argument in enumerate(arguments) if argument in prompt_cache.OPTIONS]
        assert [arguments[index + 1] for index in at] == ["7"], arguments
        assert "earlier prompts" not in capsys.readouterr().err
    assert "--cache-ram" not in started("run", file, "hi")[1][1]
