"""`tmac run` as a user starts it, with the real binaries: where the prompt comes from, what is said where."""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress

import pytest

from support.checkpoints import CHECKPOINTS
from tmac.convert.pipeline import convert
from tmac.tools.llama import options as llama_options
from tmac.tools.llama import ready as llama_ready

TMAC = (sys.executable, "-m", "tmac.tools.cli")
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
EXACT = ("--temp", "0", "-t", "1")


def tmac(*arguments, env=None, **options):
    """Runs the command; without an input, nothing is at its standard input."""
    options = {"stdin": subprocess.DEVNULL} | options if "input" not in options else options
    return subprocess.run(
        [*TMAC, *map(str, arguments)], capture_output=True, env={**os.environ, **(env or {})}, timeout=120, **options
    )


@pytest.fixture(scope="module")
def model(build, converted):
    """The bundled model, and a build that is ready to run."""
    llama_ready.mark(build.folder, llama_ready.state(portable=False))
    return converted("w2g64z")


@pytest.fixture(scope="module")
def chat_model(model, tmp_path_factory):
    """The same weights with a chat template, and a long context by the word of the header."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(CHECKPOINTS["w2g64z"], folder / "checkpoint")
    (folder / "checkpoint" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    config = folder / "checkpoint" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 1 << 18}))
    convert(folder / "checkpoint", folder / "chat.gguf", progress=False, log=lambda line: None)
    return folder / "chat.gguf"


def test_stdout_is_the_answer_and_stderr_is_short(model):
    """The answer is that of the reference; stderr has at most five lines, none of them a command or a log."""
    expected = json.loads((CHECKPOINTS["w2g64z"] / "expected.json").read_text())
    done = tmac("run", model, "-p", expected["prompt"], "-n", len(expected["greedy_ids"]), *EXACT)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 0 and done.stdout.decode().split()[:12] == expected["greedy_text"].split()[:12]
    assert 1 <= len(said) <= 5 and said[-1].startswith("speed: prompt ")


def test_first_word_within_two_seconds_of_cpu(model):
    """Of the bundled checkpoint, which is already converted; the build is not looked at."""
    tmac("run", CHECKPOINTS["w2g64z"], "-p", "Once", "-n", "1", *EXACT)
    command = [*TMAC, "run", CHECKPOINTS["w2g64z"], "-p", "Once", "-n", "1", *EXACT]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        text = child.stdout.read()
        _, child.returncode, usage = os.wait4(child.pid, 0)
    assert child.returncode == 0 and text.strip() != b"" and usage.ru_utime + usage.ru_stime < 2


def test_build_is_not_touched(build, model):
    """Not with other compilers and flags in the environment, nor without any compiler, cmake and git."""
    before = {path: path.stat().st_mtime_ns for path in build.folder.rglob("*") if path.is_file()}
    env = {"CC": "no-such-compiler", "CFLAGS": "-O0", "PATH": "/nonexistent"}
    assert tmac("run", model, "-p", "Once", "-n", "1", env=env).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in build.folder.rglob("*") if path.is_file()} == before


def test_verbose_says_how_but_not_the_prompt(model):
    """The command line, the log and the kernels, without the prompt, which stands in no argument of the child."""
    said = tmac("run", model, "-v", "-p", "Once upon a secret", "-n", "1").stderr.decode()
    assert (
        "llama-completion" in said
        and "sampler" in said
        and "tmac: 28 x tmac_w2g64z by" in said
        and "secret" not in said
    )


@pytest.mark.parametrize("how", ["word", "option", "pipe", "dash", "file"])
def test_prompt_comes_from_anywhere(model, tmp_path, how):
    """The same answer, whether it is an argument or on standard input."""
    common = ["-n", "8", *EXACT]
    if how == "file":
        # What stands in the file comes on a line of its own.
        expected = tmac("run", model, "-p", "One day\nTom saw a big red dog", *common).stdout
        (tmp_path / "prompt").write_text("Tom saw a big red dog\n")
        with open(tmp_path / "prompt") as file:
            assert tmac("run", model, "-p", "One day", *common, stdin=file).stdout == expected != b""
        return
    expected = tmac("run", model, "-p", "Once upon a time", "-n", "8", *EXACT).stdout
    arguments, given = {
        "word": (["Once upon a time"], None),
        "option": (["--prompt", "Once upon a time"], None),
        "pipe": ([], b"Once upon a time\n"),
        "dash": (["-p", "-"], b"Once upon a time\n"),
    }[how]
    done = tmac("run", model, *arguments, *common, **({} if given is None else {"input": given}))
    assert done.stdout == expected != b""


def test_prompt_is_literal(model, tmp_path):
    """Backslashes reach the model as they are, unless --escape asks for more."""
    literal, real, escaped = (
        tmac("run", model, "-p", prompt, "-n", "12", *EXACT, *more).stdout
        for prompt, more in ((r"Once\nupon", ()), ("Once\nupon", ()), (r"Once\nupon", ("--escape",)))
    )
    assert literal != real == escaped


def test_long_prompt(chat_model):
    """No limit of arguments, and the context grows with it; a context that is asked for and too short is told."""
    text = ("Once upon a time. " * 2_000).encode()
    refused = tmac("run", chat_model, "--ctx-size", "1024", input=text)
    said = refused.stderr.decode()
    assert refused.returncode == 1 and len(said.splitlines()) == 2
    assert "tokens, the context holds 1020" in said and "--ctx-size" in said
    small = tmac("run", chat_model, "-n", "1", input=text)
    assert small.returncode == 0 and "for a prompt of this length" in small.stderr.decode()


def test_200_kilobytes_of_prompt(chat_model):
    """All of it reaches llama.cpp: no limit of arguments, and no limit of a pipe."""
    text = ("Once upon a time. " * 11_200).encode()
    refused = tmac("run", chat_model, "--ctx-size", "1024", input=text).stderr.decode()
    assert int(re.search(r"the prompt has (\d+) tokens", refused)[1]) > 50_000


def test_options_of_llama_cpp_need_no_dashes(model):
    """One with a value and one without; the same after --; a misspelled one ends with 2 before anything is done."""
    plain = tmac("run", model, "Once", "-n", "8", "--temp", "9", "--top-k", "1", "--ignore-eos").stdout
    assert plain == tmac("run", model, "Once", "-n", "8", "--", "--temp", "0", "--ignore-eos").stdout != b""
    wrong = tmac("run", model, "Once", "--top-kk", "1")
    assert wrong.returncode == 2 and b"did you mean --top-k" in wrong.stderr


def test_system_prompt_reaches_the_template(chat_model, model):
    """Another answer than without; a model without a template is refused."""
    plain, ruled = (
        tmac("run", chat_model, "hi", "-n", "8", *EXACT, *more).stdout for more in ((), ("--system", "Say nothing."))
    )
    assert plain != ruled != b""
    assert b"no chat template" in tmac("run", model, "hi", "--system", "x").stderr


def test_drafts_change_no_text(model, chat_model):
    """Neither those of n-grams nor those of a model, with a template and without."""
    for file, most in ((model, "120"), (chat_model, "60")):
        texts = {
            tmac("run", file, "Once upon a time", "-n", most, *EXACT, *draft).stdout
            for draft in ((), ("--draft", "ngram"), ("--draft", model))
        }
        assert len(texts) == 1 and texts != {b""}


@pytest.mark.parametrize("draft", [(), ("--draft", "ngram")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_answer_ends_with_its_programs(model, draft, number):
    """Ctrl-C, which all processes at the terminal get, and SIGTERM, which only tmac gets: what was written stays."""
    endless = ["-n", "100000", "--ignore-eos", "-c", "128", "--context-shift"]
    with started("run", model, "-p", "Once", *endless, *draft) as child:
        text = child.stdout.read(1)
        if number == signal.SIGINT:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
        text += child.stdout.read()
        code = child.wait(30)
    assert code == 128 + number and text.endswith(b"\n") and text.strip() != b""
    assert running_with(model) == []


def test_server_of_drafts_ends_with_the_answer(model):
    assert tmac("run", model, "Once", "-n", "8", *EXACT, "--draft", "ngram").returncode == 0
    assert running_with(model) == []


@pytest.mark.skipif(os.name == "nt", reason="no terminals of this kind")
def test_chat_at_a_terminal(chat_model):
    """Words are answered, and its end is success."""
    terminal, inner = os.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), inner)
    command = ["run", chat_model, "-n", "24", *EXACT]
    with started(*command, **streams, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) as child:
        os.close(inner)
        seen = read_until(terminal, b"\n> ")
        os.write(terminal, b"Tell a story\n")
        answered = read_until(terminal, b"\n> ")
        os.write(terminal, b"/exit\n")
        assert child.wait(60) == 0, seen
    os.close(terminal)
    assert b"context of 8192 tokens" in seen and len(answered.partition(b"Tell a story")[2].split()) > 5
    assert running_with(chat_model) == []


@pytest.mark.skipif(os.name == "nt", reason="no terminals of this kind")
def test_ctrl_c_in_a_chat(chat_model):
    """The first one stops the answer and the chat goes on; one where nothing is answered ends it as /exit does; the
    terminal echoes and reads lines as before.
    """
    terminal, inner = os.openpty()
    before = termios.tcgetattr(inner)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), inner)
    endless = ["-t", "1", "--kernel", "scalar", "--", "--ignore-eos", "-c", "512", "--context-shift"]
    with started(
        "run", chat_model, *endless, **streams, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    ) as child:
        read_until(terminal, b"\n> ")
        os.write(terminal, b"Tell a story\n")
        read_until(terminal, b" the", anywhere=True)
        os.write(terminal, b"\x03")
        read_until(terminal, b"\n> ")
        assert child.poll() is None
        wait_until_read(chat_model)
        os.write(terminal, b"\x03")
        assert child.wait(60) == 0
    after = termios.tcgetattr(inner)
    os.close(inner)
    os.close(terminal)
    assert after == before
    assert running_with(chat_model) == []


@contextmanager
def started(*arguments, **streams):
    """The command in a session of its own, as at a terminal of its own; killed with its children if a test fails."""
    streams = streams or {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([*TMAC, *map(str, arguments)], bufsize=0, start_new_session=True, **streams)
    try:
        with child:
            try:
                yield child
            except BaseException:
                # Else the block waits for an end that nothing brings about.
                kill_session(child)
                raise
    finally:
        kill_session(child)


def kill_session(child):
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def read_until(terminal, end, seconds=60, anywhere=False):
    """What is written to a terminal until it ends so, or has this anywhere."""
    seen, last = b"", time.monotonic() + seconds
    while not (end in seen if anywhere else seen.replace(b"\r", b"").endswith(end)):
        assert select.select([terminal], [], [], max(0, last - time.monotonic()))[0], seen
        seen += os.read(terminal, 4096)
    return seen


def wait_until_read(model, seconds=60):
    """Until a chat sleeps at its prompt, which it writes a moment before: a signal between the two wakes nobody."""
    last = time.monotonic() + seconds
    while not any(line.startswith("S") for line in running_with(model, "stat,args") if "llama-cli" in line):
        assert time.monotonic() < last, running_with(model, "stat,args")
        time.sleep(0.01)


def running_with(model, columns="args"):
    """What ps says of processes that have this file among their arguments, in lines of any length."""
    done = subprocess.run(["ps", "-wweo", columns], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if str(model) in line]


def test_list_of_options_is_the_programs_own(build, request):
    """options.txt is what the three programs say with --help; --update-golden writes it."""
    said = {
        program: subprocess.run([build.binary(f"llama-{program}"), "--help"], capture_output=True, text=True).stdout
        for program in llama_options.PROGRAMS
    }
    lines = [option.line for option in llama_options.from_help(said)]
    if request.config.getoption("--update-golden"):
        llama_options.LIST.write_text("\n".join(lines) + "\n")
    assert lines == llama_options.LIST.read_text().splitlines()


def test_llama_bench_names_types_by_bits_and_group(build, model):
    """In the column of models."""
    done = subprocess.run(
        [build.binary("llama-bench"), "-m", model, "-p", "0", "-n", "1", "-r", "1", "-t", "1", "-o", "json"],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)[0]["model_type"].endswith(" tmac_w2g64z")
