"""The command line: help, usage, exit codes and error messages."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tmac.convert.errors import ConvertError
from tmac.kernels.errors import KernelError
from tmac.tools import cli, verbs
from tmac.tools.errors import ToolError

TMAC = (sys.executable, "-m", "tmac.tools.cli")
NAMES = (
    "demo",
    "run",
    "fetch",
    "convert",
    "build",
    "wheel",
    "kernels",
    "serve",
    "rpc-server",
    "python-path",
    "bench",
    "list",
    "show",
    "rm",
    "inspect",
    "completion",
    "doctor",
    "test",
    "format",
)


def tmac(*arguments, **options):
    """Runs the command as a user would."""
    return subprocess.run([*TMAC, *arguments], capture_output=True, text=True, **options)


def test_no_arguments_is_help_and_wrong_usage():
    """Help on stderr, nothing on stdout, exit code 2."""
    done = tmac()
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("usage: tmac")


def test_help_names_every_verb_and_the_exit_codes():
    """The list of verbs is complete and each has a line."""
    done = tmac("--help")
    assert done.returncode == 0
    for verb in NAMES:
        assert re.search(rf"\n    {verb}\s+\w", done.stdout)
    assert "130 interrupted" in done.stdout


@pytest.mark.parametrize("verb", NAMES)
def test_every_verb_has_help(verb, capsys):
    """`tmac VERB --help` ends with 0 and says what the verb does."""
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0 and f"usage: tmac {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["convert"],
        ["kernels"],
        ["build", "--jobs", "many"],
        ["demo", "extra"],
        ["demo", "--", "x"],
    ],
)
def test_wrong_arguments_end_with_2(arguments, capsys):
    """Usage and the reason on stderr, nothing on stdout."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2 and "error:" in said.err and said.out == ""


def test_version_is_the_distribution_s(capsys):
    """`tmac --version` is one line on stdout."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("tmac 0.")


@pytest.mark.parametrize("kind", [ToolError, ConvertError, KernelError])
def test_expected_failures_are_error_and_hint(monkeypatch, capsys, kind):
    """The three kinds of errors look alike: error, hint, exit code 1, no traceback."""

    def work(args):
        raise kind("what", "do this")

    monkeypatch.setitem(verbs.VERBS, "demo", verbs.Verb(work, "works"))
    assert cli.main(["demo"]) == 1
    said = capsys.readouterr()
    assert said.err == "error: what\nhint: do this\n" and said.out == ""


def test_system_errors_are_sentences(monkeypatch, capsys):
    """A full disk or a forbidden folder gives a message, not a traceback."""

    def work(args):
        raise OSError(28, "No space left on device", "/work/x")

    monkeypatch.setitem(verbs.VERBS, "demo", verbs.Verb(work, "works"))
    assert cli.main(["demo"]) == 1
    assert "error: [Errno 28] No space left on device: '/work/x'\nhint: " in capsys.readouterr().err


def test_interrupt_ends_with_130(monkeypatch, capsys):
    """Ctrl-C is neither success nor failure."""

    def work(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(verbs.VERBS, "demo", verbs.Verb(work, "works"))
    assert cli.main(["demo"]) == 130 and "interrupted" in capsys.readouterr().err


def test_missing_model_has_its_message():
    """A .gguf that does not exist is named; nothing is downloaded or built for it."""
    done = tmac("run", "nothing.gguf", "-p", "x")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: nothing.gguf does not exist\nhint: ")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("org/name", "name.gguf"),
        ("org/name@v1", "name.gguf"),
        ("org/name:PTQ1_0@v1", "name-PTQ1_0.gguf"),
        ("stock-00001-of-00002.gguf", "stock-tmac.gguf"),
    ],
)
def test_name_of_the_output(monkeypatch, tmp_path, source, name):
    """In the current folder, after the source, when the user gives none."""
    monkeypatch.chdir(tmp_path)
    assert verbs._output_name(source) == name


def test_convert_refuses_to_overwrite(tmp_path):
    """An existing output needs --force."""
    output = tmp_path / "out.gguf"
    output.write_text("mine")
    done = tmac("convert", str(tmp_path), "-o", str(output))
    assert done.returncode == 1 and "--force" in done.stderr and "Traceback" not in done.stderr
    assert output.read_text() == "mine"


def test_run_passes_everything_on(monkeypatch, tmp_path):
    """The arguments of `tmac run` become options; everything after -- is passed on unread."""
    from tmac.tools import advice, pipeline
    from tmac.tools.llama import run as llama_run

    seen = []
    monkeypatch.setattr(advice, "of", lambda model: "")
    monkeypatch.setattr(pipeline, "ensure_model", lambda name: name)
    monkeypatch.setattr(pipeline, "ready_llama", lambda: "build")
    monkeypatch.setattr(llama_run, "check", lambda model, chat, system: None)
    monkeypatch.setattr(llama_run, "generate", lambda *given: seen.append(given))
    assert (
        cli.main(
            [
                "run",
                "m.gguf",
                "-n",
                "5",
                "-t",
                "2",
                "--temp",
                "0",
                "--seed",
                "3",
                "--kernel",
                "avx2",
                "--precision",
                "exact",
                "--top-k",
                "7",
                "-e",
                r"H\x69",
                "--",
                "-c",
                "64",
                "--mlock",
            ]
        )
        == 0
    )
    extra = ["--top-k", "7", "-c", "64", "--mlock"]
    assert seen == [("build", "m.gguf", "Hi", llama_run.Options(5, 2, 0.0, 3, "avx2", "exact", extra))]


@pytest.mark.parametrize("verb", [["run", "-p", "x"], ["serve"]])
def test_model_is_looked_at_before_the_build(monkeypatch, tmp_path, capsys, verb):
    """A file that is not a model is refused at once, not after minutes of building."""
    from tmac.tools import pipeline

    monkeypatch.setattr(pipeline, "ready_llama", lambda: pytest.fail("nothing is to be built"))
    (tmp_path / "m.gguf").write_bytes(b"text")
    assert cli.main([*verb, str(tmp_path / "m.gguf")]) == 1
    assert "not a GGUF file" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["run", "-p", "x"], ["serve"]])
@pytest.mark.parametrize("name", ["nope", ""])
def test_unknown_kernel_is_refused_before_anything_is_done(monkeypatch, capsys, verb, name):
    """`--kernel` must be an instruction set or a kernel of the catalog; the hint lists the instruction sets."""
    from tmac.tools import pipeline

    monkeypatch.setattr(pipeline, "ensure_model", lambda name: pytest.fail("nothing is to be converted"))
    assert cli.main([*verb, "m", "--kernel", name]) == 1
    said = capsys.readouterr().err
    assert f"--kernel {name!r}" in said and "scalar" in said


def test_types_are_the_converter_s(capsys):
    """`convert --head` takes exactly the types that the converter knows, and names them."""
    from tmac.convert.plan.options import EMBEDDING_TYPES, HEAD_TYPES

    for option, types in (("--embedding", EMBEDDING_TYPES), ("--head", HEAD_TYPES)):
        with pytest.raises(SystemExit) as ended:
            cli.main(["convert", "x", option, "q9"])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and all(name in said for name in types)


def test_convert_takes_a_gguf(monkeypatch, capsys):
    """The output is named after it, without the number of a split model; the options of quantization are passed on."""
    from tmac.convert import pipeline
    from tmac.convert.plan.options import QUANTIZE_TYPES

    calls = []
    report = argparse.Namespace(render=lambda: "done")
    monkeypatch.setattr(pipeline, "convert", lambda *args, **options: calls.append((args, options)) or report)
    for name, output in (("m.gguf", "m-tmac.gguf"), ("m-00002-of-00003.gguf", "m-tmac.gguf"), ("org/m@x", "m.gguf")):
        assert cli.main(["convert", name, "--quantize", "w3g64z", "--imatrix", "i.gguf"]) == 0
        args, options = calls.pop()
        assert args == (name, Path(output))
        assert (options["quantize"], options["imatrix"]) == ("w3g64z", Path("i.gguf"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", "m.gguf", "--quantize", "w5g7"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and all(name in said for name in QUANTIZE_TYPES)


@pytest.mark.parametrize("refusals", [[], [ConvertError("no", "do this")]])
def test_inspect_gives_programs_all_it_knows(monkeypatch, tmp_path, capsys, refusals):
    """The JSON has notes and refusals beside facts and tensors; the exit code says whether it would convert."""
    import tmac.convert.inspect as inspecting

    found = inspecting.Inspection([("folder", "x")], [], ["one", "two"], refusals)
    monkeypatch.setattr(inspecting, "inspect_checkpoint", lambda folder: found)
    assert cli.main(["inspect", str(tmp_path), "--json"]) == len(refusals)
    expected = [{"error": "no", "hint": "do this"}] * len(refusals)
    assert json.loads(capsys.readouterr().out) == {
        "facts": {"folder": "x"},
        "notes": ["one", "two"],
        "refusals": expected,
        "tensors": [],
    }


def test_inspect_says_what_a_tensor_becomes(monkeypatch, tmp_path, capsys):
    """For a GGUF that is not T-MAC's yet; in JSON too."""
    import tmac.convert.inspect as inspecting
    from tmac.convert.sources.gguf_header import TensorEntry

    tensor = TensorEntry("w", (32, 64), 2, "q4_0", 0, 1152)
    found = inspecting.Inspection([], [tensor], becomes=["tmac_w4g32"])
    monkeypatch.setattr(inspecting, "inspect_gguf", lambda path: found)
    assert cli.main(["inspect", str(tmp_path / "m.gguf"), "--json"]) == 0
    expected = {"name": "w", "type": "q4_0", "shape": [32, 64], "bytes": 1152, "becomes": "tmac_w4g32"}
    assert json.loads(capsys.readouterr().out)["tensors"] == [expected]


@pytest.mark.parametrize("debug", [False, True])
def test_bug_is_a_sentence_and_a_log(monkeypatch, capsys, work, debug):
    """An unforeseen exception: its type and text on stderr, the traceback in a file that is named; on stderr only with
    TMAC_DEBUG.
    """

    def work_(args):
        raise IndexError("list index out of range")

    monkeypatch.setitem(verbs.VERBS, "demo", verbs.Verb(work_, "works"))
    monkeypatch.setenv("TMAC_DEBUG", "1" if debug else "")
    assert cli.main(["demo"]) == 1
    said, log = capsys.readouterr().err, work / "logs" / "bug.log"
    assert f"this is a bug in tmac: IndexError: list index out of range\nhint: please report it with {log}" in said
    assert "Traceback" in log.read_text() and ("Traceback" in said) == debug


def test_bug_without_a_log_is_still_told(monkeypatch, capsys, tmp_path):
    """If no log can be written, the traceback goes to stderr."""

    def work_(args):
        raise IndexError

    monkeypatch.setitem(verbs.VERBS, "demo", verbs.Verb(work_, "works"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "file"))
    assert cli.main(["demo"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "this is a bug in tmac: IndexError" in said


@pytest.mark.parametrize(
    "arguments, variables, words",
    [
        (["run", "~nouser/x"], {}, "~nouser/x: the home folder"),
        (["run", ""], {}, "MODEL is empty"),
        (["kernels", "generate"], {"TMAC_HOME": "~nouser"}, "home folder"),
        (["build"], {"CC": " "}, "CC is set, but blank"),
    ],
)
def test_odd_values_have_their_message(arguments, variables, words):
    """An unknown home, an empty name, a blank variable: one sentence each, no traceback, no bug report."""
    done = tmac(*arguments, env={**os.environ, "HF_HUB_OFFLINE": "1", **variables})
    assert done.returncode == 1 and words in done.stderr and "bug" not in done.stderr
    assert done.stderr.startswith("error: ") and "\nhint: " in done.stderr


def test_closed_streams_are_empty_ones(tmp_path):
    """With `<&-`, `>&-` or `2>&-` the program ends with a message if stderr is open, and never as a bug."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "chat.gguf", "llama")
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    line = f"exec {' '.join(TMAC)} run {tmp_path / 'chat.gguf'}"
    done = subprocess.run(["sh", "-c", f"{line} <&-"], capture_output=True, text=True)
    assert done.returncode == 1 and "neither a prompt nor a terminal" in done.stderr and "bug" not in done.stderr
    assert subprocess.run(["sh", "-c", f"exec {' '.join(TMAC)} kernels list >&- 2>&-"]).returncode == 0


def test_test_passes_its_arguments_to_pytest(monkeypatch):
    """Known or unknown to us, with or without --, they arrive in order."""
    from tmac.common import process

    seen = []
    monkeypatch.setattr(process, "run", lambda command, **options: seen.append(command[3:]))
    cli.main(["test", "tests/tools", "-q", "-k", "a or b", "--", "-x"])
    assert seen == [["tests/tools", "-q", "-k", "a or b", "-x"]]


@pytest.mark.parametrize("obstacle, words", [("checkout", "installed package"), ("pytest", "python3 -m tools test")])
def test_test_without_checkout_or_pytest_is_told(monkeypatch, capsys, obstacle, words):
    """Each obstacle has its message."""
    if obstacle == "checkout":
        monkeypatch.setattr(verbs, "checkout", lambda: None)
    else:
        monkeypatch.setattr(verbs.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["test"]) == 1 and words in capsys.readouterr().err


def test_parser_has_no_verb_that_is_not_documented():
    """The list of verbs in this file equals the parser's."""
    actions = cli.make_parser()._actions
    verbs = next(action for action in actions if isinstance(action, argparse._SubParsersAction))
    assert tuple(verbs.choices) == NAMES
