"""Where the prompt comes from: arguments, a file or a pipe at standard input; and the file that the child reads."""

import os
import subprocess
import sys
import threading

import pytest

from tmac.tools.llama import prompt
from tmac.tools.llama.prompt import in_files

GATHER = "import sys; from tmac.tools.llama.prompt import gather; print(repr(gather(*sys.argv[1:])))"


def gathered(*written, **stdin):
    """What a process of its own, with its own standard input, gathers; its error otherwise."""
    done = subprocess.run([sys.executable, "-c", GATHER, *(written or ())], capture_output=True, **stdin)
    return done.stdout.decode().strip() or done.stderr.decode()


GATHER_NONE = GATHER.replace("*sys.argv[1:]", "None")


@pytest.mark.parametrize(
    ("written", "stdin", "prompt"),
    [
        ("hi", b"", "'hi'"),
        ("-", b"said\n", "'said'"),
        ("question", b"a file\n\n", r"'question\na file\n'"),
        (r"C:\new\table", b"", r"'C:\\new\\table'"),
    ],
)
def test_pipe_comes_below_what_is_written(written, stdin, prompt):
    """One line end at the end of stdin is no part of it; backslashes stay."""
    assert gathered(written, input=stdin) == prompt


def test_file_alone_is_the_prompt(tmp_path):
    """200 kB of it too; the null device is no prompt."""
    text = "word " * 40_000
    (tmp_path / "text").write_text(text)
    command = [sys.executable, "-c", GATHER_NONE]
    with open(tmp_path / "text") as file:
        assert subprocess.check_output(command, stdin=file, text=True) == f"{text!r}\n"
    assert subprocess.check_output(command, stdin=subprocess.DEVNULL, text=True) == "None\n"


def test_text_that_is_not_utf_8_is_refused():
    """With the place, and how to convert it."""
    said = gathered("-", input=b"na\xefve")
    assert "standard input is not UTF-8: byte 2 is 0xef" in said and "iconv" in said


def test_empty_stdin_is_no_prompt():
    assert "standard input is empty" in gathered("-", input=b"")


def test_silent_pipe_is_mentioned():
    """Whoever started it with an open pipe learns why nothing happens."""
    read, write = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", GATHER, "hi"], stdin=read, stderr=subprocess.PIPE, text=True)
    os.close(read)
    assert "</dev/null" in child.stderr.readline()
    os.close(write)
    child.communicate()
    assert child.returncode == 0


def test_silent_pipe_does_not_hold_up_what_is_written(monkeypatch, capsys):
    """After a while it is left alone; for a prompt that must come from there it is waited for."""
    monkeypatch.setattr(prompt, "PATIENCE", 0.05)
    monkeypatch.setattr(prompt, "LAST_PATIENCE", 0.1)
    read, write = os.pipe()
    with open(read) as stdin, open(write, "w") as other:
        assert prompt.gather("hi", stdin) == "hi" and "goes on without" in capsys.readouterr().err
        threading.Timer(0.5, lambda: (other.write("late"), other.close())).start()
        assert prompt.gather(None, stdin) == "late"


def test_files_are_private_and_gone_after():
    """Byte by byte what the prompt is; nobody else can read it."""
    with in_files("a\r\n\x00é\n", None) as files:
        assert files.prompt.read_bytes() == b"a\r\n\x00\xc3\xa9\n" and files.system is None
        assert files.prompt.parent.stat().st_mode & 0o077 == 0
    assert not files.prompt.parent.exists()
