"""Child processes: what is said, what is kept, what a failure looks like."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tmac.common import console, process
from tmac.common.errors import TmacError


def test_command_line_is_said_before_it_runs(tmp_path, capfd):
    """The line on stderr can be pasted into a shell: quoted, with the variables that were set."""
    process.run(["sh", "-c", 'test "$GREETING" = "a b"'], env={"GREETING": "a b"}, log=tmp_path / "log")
    assert """+ GREETING='a b' sh -c 'test "$GREETING" = "a b"'""" in capfd.readouterr().err


def test_failure_shows_last_lines_and_log(tmp_path):
    """A failed command's error has its name, its code, its last lines, the log's path and the hint."""
    log = tmp_path / "logs" / "work.log"
    with pytest.raises(TmacError) as caught:
        process.run(["sh", "-c", "seq 100; echo the reason >&2; exit 3"], log=log, hint="try this")
    message = caught.value.message
    assert message.startswith("sh ended with exit code 3")
    assert "the reason" in message and "  100\n" in message and "  50\n" not in message
    assert str(log) in message and caught.value.hint == "try this"
    assert log.read_text().splitlines()[0] == "1"


def test_signal_is_named(tmp_path):
    """A child that crashed is said to have crashed, with the signal's name."""
    with pytest.raises(TmacError, match="was ended by SIGILL"):
        process.run(["sh", "-c", "kill -ILL $$"], log=tmp_path / "log")


def test_missing_program_has_a_hint():
    """A program that is not there is named, with the package it is in."""
    with pytest.raises(TmacError, match="no-such-program is not installed"):
        process.run(["no-such-program"])
    assert "build-essential" in process.install_hint("cc")


def test_stream_separates_data_from_log(tmp_path):
    """stdout pieces and stderr lines come through different calls, and only stderr is logged."""
    out, lines = [], []
    process.stream(
        ["sh", "-c", "echo data; echo note >&2"],
        env={},
        log=tmp_path / "log",
        on_output=out.append,
        on_line=lines.append,
    )
    assert b"".join(out) == b"data\n" and lines == ["note"]
    assert (tmp_path / "log").read_text() == "note\n"


def test_command_need_not_be_said_twice(tmp_path, capfd):
    """`announce=False` says nothing; the process id is told before any output."""
    seen = []
    process.stream(
        ["sh", "-c", "echo $$"],
        env={},
        log=tmp_path / "log",
        on_output=seen.append,
        on_line=seen.append,
        on_start=seen.append,
        announce=False,
    )
    assert seen[0] == int(seen[1]) and capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_cpu_time_of_a_running_child_grows(tmp_path):
    """Read before and after a pause, and after a computation: it grows with work, not with time."""
    times, pids = [], []
    script = "import os, time; say = lambda word: os.write(1, word)\n"
    script += "say(b'1'); time.sleep(0.3); say(b'2'); sum(range(10**7)); say(b'3')"
    process.stream(
        [sys.executable, "-c", script],
        env={},
        log=tmp_path / "log",
        on_start=pids.append,
        on_output=lambda piece: times.append(process.cpu_seconds(pids[0])),
        on_line=lambda line: None,
    )
    assert len(times) == 3 and times[2] - times[1] > times[1] - times[0] >= 0


def is_gone(group):
    """Whether a process group is empty; a child that has ended is in it until the system has taken note of its end."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_interrupt_ends_the_child_too(tmp_path):
    """After Ctrl-C no child is left behind, and the command's exit code is 130."""
    script = (
        "import sys; from pathlib import Path; from tmac.common import process\n"
        "from tmac.tools import cli; from tmac.tools.verbs import Verb\n"
        "def work(args): process.run(['sleep', '60'], log=Path(sys.argv[1]))\n"
        "cli.VERBS['demo'] = Verb(work, 'works')\n"
        "sys.exit(cli.main(['demo']))"
    )
    # Shells start background jobs with Ctrl-C ignored, and programs inherit that: also these tests may have.
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert b"sleep 60" in child.stderr.readline()
    time.sleep(0.3)
    os.killpg(child.pid, signal.SIGINT)
    assert b"interrupted" in child.stderr.read()
    assert child.wait(timeout=10) == 130
    assert is_gone(child.pid)


SIGTERM_SCRIPT = """
import sys, tempfile
from pathlib import Path
from tmac.common import process
from tmac.tools import cli
from tmac.tools.verbs import Verb
def work(args):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
        process.run(["sleep", "60"], log=Path(folder) / "log" if sys.argv[2] == "log" else None)
cli.VERBS["demo"] = Verb(work, "works")
sys.exit(cli.main(["demo"]))
"""


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("output", ["log", "own"])
def test_sigterm_cleans_up(tmp_path, output, number, code):
    """SIGTERM or SIGHUP to tmac alone: temporary files are removed, the child ends at once, the code says which."""
    child = subprocess.Popen(
        [sys.executable, "-c", SIGTERM_SCRIPT, str(tmp_path), output], stderr=subprocess.PIPE, start_new_session=True
    )
    assert b"sleep 60" in child.stderr.readline()
    time.sleep(0.3)
    start = time.monotonic()
    child.send_signal(number)
    assert child.wait(timeout=10) == code and time.monotonic() - start < process.INTERRUPT_SECONDS - 1
    assert b"terminated" in child.stderr.read() and list(tmp_path.iterdir()) == []
    assert is_gone(child.pid)


OTHERS_SCRIPT = """
import sys
from pathlib import Path
from tmac.common import process
from tmac.tools import cli
from tmac.tools.verbs import Verb
def work(args):
    command = ["sh", "-c", "echo $$; (sleep 60; echo late) & wait"]
    say = lambda line: print(line, flush=True)
    process.run(command, log=Path(sys.argv[1]), on_line=say, starts_others=True)
cli.VERBS["demo"] = Verb(work, "works")
sys.exit(cli.main(["demo"]))
"""


@pytest.fixture
def others(tmp_path):
    """A tmac whose child has started another, with the number of the session in which these are."""
    # Not a session of its own: what nobody could continue is not stopped by Ctrl-Z.
    child = subprocess.Popen(
        [sys.executable, "-c", OTHERS_SCRIPT, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: (os.setpgrp(), signal.signal(signal.SIGINT, signal.SIG_DFL)),
    )
    session = int(child.stdout.readline())
    time.sleep(0.3)
    yield child, session
    child.kill()
    child.communicate()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_what_a_child_has_started_ends_with_it(others, number, code):
    """A signal to tmac alone ends compilers that cmake started."""
    child, session = others
    child.send_signal(number)
    assert child.wait(timeout=10) == code and is_gone(session)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux for the states of processes")
@pytest.mark.parametrize("goes_on", [True, False], ids=["fg", "kill"])
def test_what_a_child_has_started_pauses_with_tmac(others, goes_on):
    """Ctrl-Z stops compilers too, which the terminal's signal does not reach; `fg` continues, `kill` ends them."""
    child, session = others

    def becomes(state):
        for _ in range(200):
            if Path(f"/proc/{session}/stat").read_text().rpartition(")")[2].split()[0] == state:
                return True
            time.sleep(0.02)
        return False

    assert becomes("S")
    child.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and becomes("T")
    if goes_on:
        child.send_signal(signal.SIGCONT)
        assert becomes("S")
        child.send_signal(signal.SIGTERM)
    else:
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGCONT)
    assert child.wait(timeout=10) == 143 and is_gone(session)


def test_nohup_is_respected():
    """Who starts tmac with SIGHUP ignored wants it to go on without a terminal."""
    script = """
import os, signal, sys
from tmac.tools import cli
from tmac.tools.verbs import Verb
cli.VERBS["demo"] = Verb(lambda args: os.kill(os.getpid(), signal.SIGHUP), "works")
sys.exit(cli.main(["demo"]))
"""
    done = subprocess.run(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", script])
    assert done.returncode == 0


CHATTY = ["sh", "-c", "seq 100000 >&2; echo done"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_full_disk_under_the_log_does_not_stop_the_child():
    """The child writes more than a pipe holds and ends; then the log's error is told, and the output was complete."""
    out, full = [], Path("/dev/full")
    with pytest.raises(TmacError, match="/dev/full cannot be written: No space left"):
        process.stream(CHATTY, env={}, log=full, on_output=out.append, on_line=lambda line: None)
    assert b"".join(out) == b"done\n"
    with pytest.raises(TmacError, match="/dev/full cannot be written"):
        process.run(CHATTY, log=full)
    with pytest.raises(TmacError, match="(?s)exit code 3.*the reason"):
        process.run(["sh", "-c", "seq 100000; echo the reason; exit 3"], log=full)


def test_mistake_in_reading_a_line_does_not_stop_the_child(tmp_path):
    """What the reader of lines raises is raised after the child has ended."""
    with pytest.raises(ZeroDivisionError):
        process.stream(CHATTY, env={}, log=tmp_path / "log", on_output=lambda piece: None, on_line=lambda line: 1 / 0)


@pytest.mark.parametrize("terminal, variable, coloured", [(True, None, True), (True, "1", False), (False, None, False)])
def test_colour_only_for_terminals_without_no_color(monkeypatch, terminal, variable, coloured):
    """NO_COLOR and pipes get plain text."""
    monkeypatch.setattr(console, "is_terminal", lambda: terminal)
    if variable:
        monkeypatch.setenv("NO_COLOR", variable)
    assert ("\033[" in console.paint("text", console.RED)) == coloured


@pytest.mark.parametrize("option", [*process.SECRET_OPTIONS, "--api_key", "--hf_token"])
def test_values_of_secret_options_are_not_said(option):
    """Neither after the option nor joined to it; a value that is called as such an option hides no other."""
    said = process.command_line(["llama", option, "s3cret", "-c", "1", f"{option}=s3cret"], {"HF_TOKEN": "s3cret"})
    assert said == f"llama {option} '***' -c 1 '{option}=***'"
