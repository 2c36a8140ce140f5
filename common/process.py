"""Starts child processes: says the command line, keeps the output, explains a failure.

Two others start their own: kernels/worker (a pipe that stays open) and tools/__main__.py (standard library only).
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from . import console, lock
from .errors import TmacError

LAST_LINES = 20
INTERRUPT_SECONDS = 5


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received. Unlike Ctrl-C it may not have reached the child processes."""

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__()
        self.signal = number


# What to install when a program is missing: Debian's name, and macOS's command.
PACKAGES = {
    "git": ("git", "xcode-select --install"),
    "cc": ("build-essential", "xcode-select --install"),
    "make": ("build-essential", "xcode-select --install"),
}


def install_hint(program: str) -> str:
    """How to get a program that is not on this machine."""
    if program not in PACKAGES:
        return f"install {program}, or add its folder to PATH"
    debian, macos = PACKAGES[program]
    return f"Debian, Ubuntu: sudo apt install {debian}    macOS: {macos}"


def find(program: str) -> Path:
    """The path of a program on PATH. Raises TmacError with how to install it."""
    found = shutil.which(program)
    if not found:
        raise TmacError(f"{program} is not installed (not found on PATH)", install_hint(program))
    return Path(found)


# What is for the child alone: variables, and options with a value after them.
SECRETS = ("LLAMA_API_KEY", "HF_TOKEN")
SECRET_OPTIONS = ("--api-key", "--hf-token", "-hft")


def is_secret(argument: str) -> bool:
    """Whether it is one of SECRET_OPTIONS, with its value or without, with dashes or underscores."""
    name = argument.partition("=")[0]
    return (name.replace("_", "-") if name.startswith("--") else name) in SECRET_OPTIONS


def command_line(command: Sequence[str | Path], env: Mapping[str, str | None] | None = None) -> str:
    """The command as one would type it in a shell, with the variables that are set, or unset (None), for it.

    Variables in SECRETS are left out, values of SECRET_OPTIONS are ***.
    """
    env = {name: value for name, value in (env or {}).items() if name not in SECRETS}
    unset = [f"-u {name}" for name, value in env.items() if value is None]
    variables = [f"{name}={shlex.quote(value)}" for name, value in env.items() if value is not None]
    shown, hides_next = [], False
    for part in map(str, command):
        name, has_value, _ = part.partition("=")
        shown.append("***" if hides_next else f"{name}=***" if has_value and is_secret(part) else part)
        hides_next = not hides_next and not has_value and is_secret(part)
    return " ".join([*(["env", *unset] if unset else []), *variables, shlex.join(shown)])


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    hint: str = "",
    starts_others: bool = False,
) -> None:
    """Runs a command to its end.

    With `log`, stdout and stderr go to that file (appended) and line by line to `on_line`; without, they stay the
    caller's own. `env` is added to the environment. With `starts_others` and `log`, what the command starts ends and
    pauses with this process. Raises TmacError on failure: last lines, path of the log, `hint`.
    """
    console.command(command_line(command, env))
    drain = _Drain(log, on_line)
    if log is None:
        child = _start(command, cwd, env)
        _wait_for_person(child)
    else:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with _started(command, cwd, env, has_session=starts_others, **pipes) as child:
            drain.read(child.stdout)
    if child.returncode:
        raise failure(command, child.returncode, drain.tail, log, hint)
    drain.check()


def stream(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str | None],
    log: Path,
    on_output: Callable[[bytes], None],
    on_line: Callable[[str], None],
    on_start: Callable[[int], None] = lambda pid: None,
    announce: bool = True,
) -> None:
    """Runs a command whose stdout is data: pieces go to `on_output` as they come, stderr lines to `log` and `on_line`.

    `on_start` is told the child's process id before any of them. The child reads no input. A command that was said
    before need not be said again (`announce`). Raises TmacError on failure, like `run`.
    """
    if announce:
        console.command(command_line(command, env))
    drain = _Drain(log, on_line)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with _started(command, None, env, **pipes) as child:
        on_start(child.pid)
        reader = threading.Thread(target=drain.read, args=(child.stderr,), daemon=True)
        reader.start()
        while piece := child.stdout.read1():
            on_output(piece)
        reader.join()
    if child.returncode:
        raise failure(command, child.returncode, drain.tail, log, "")
    drain.check()


class Server:
    """A child of `serving`."""

    def __init__(self, command: Sequence[str | Path], child: subprocess.Popen, drain: _Drain):
        self._command, self._child, self._drain = command, child, drain

    def check(self) -> None:
        """Raises TmacError if it has ended."""
        if self._child.poll() is not None:
            raise failure(self._command, self._child.returncode, self._drain.tail, self._drain.log, "")


@contextmanager
def serving(
    command: Sequence[str | Path], *, env: Mapping[str, str | None], log: Path, on_line: Callable[[str], None]
) -> Iterator[Server]:
    """A command that runs until the block ends, its output line by line to `log` and `on_line`. It reads no input."""
    console.command(command_line(command, env))
    drain = _Drain(log, on_line)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with _start(command, None, env, **pipes) as child:
        reader = threading.Thread(target=drain.read, args=(child.stdout,), daemon=True)
        reader.start()
        try:
            yield Server(command, child, drain)
        finally:
            child.terminate()
            try:
                child.wait(timeout=INTERRUPT_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
            reader.join()
    drain.check()


def capture(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Asks a program a short question, unannounced: the exit code and both outputs, whatever they are."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with _started(command, cwd, env, **pipes) as child:
        out, err = child.communicate(stdin)
    return subprocess.CompletedProcess(list(map(str, command)), child.returncode, out, err)


def output(command: Sequence[str | Path]) -> str:
    """What a command writes to stdout; nothing where it cannot be started."""
    try:
        return capture(command).stdout.decode("utf-8", "replace")
    except TmacError:
        return ""


def version(program: Path) -> str:
    """The first line that a program answers to --version."""
    lines = capture([program, "--version"]).stdout.decode("utf-8", "replace").splitlines()
    return lines[0] if lines else "version unknown"


def cpu_seconds(pid: int) -> float | None:
    """User and system CPU seconds of all threads of a child that has not been waited for; only Linux tells."""
    if sys.platform != "linux":
        return None
    # Linux's number for the CPU clock of another process: ~pid << 3, plus 2 for the scheduler's exact count.
    return time.clock_gettime(~pid << 3 | 2)


def failure(command: Sequence[str | Path], code: int, tail: Sequence[str], log: Path | None, hint: str) -> TmacError:
    """The error for a command that ended with a code other than 0."""
    lines = [f"{Path(str(command[0])).name} {_ending(code)}"]
    lines += [f"  {line}" for line in tail]
    if log is not None:
        lines.append(f"  full output: {log}")
    return TmacError("\n".join(lines), hint)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _start(command: Sequence[str | Path], cwd: Path | None, env: Mapping[str, str | None] | None, **pipes):
    full = {**os.environ, **(env or {})}
    full = {name: value for name, value in full.items() if value is not None}
    try:
        return subprocess.Popen([str(part) for part in command], cwd=cwd, env=full, pass_fds=lock.inherited(), **pipes)
    except FileNotFoundError:
        program = str(command[0])
        raise TmacError(f"{program} is not installed (not found)", install_hint(Path(program).name)) from None
    except OSError as problem:
        raise TmacError(f"{command[0]} cannot be started: {problem.strerror}") from None


@contextmanager
def _started(
    command: Sequence[str | Path],
    cwd: Path | None,
    env: Mapping[str, str | None] | None,
    *,
    has_session: bool = False,
    **pipes,
):
    """A child whose pipes we read; on leaving it has ended. After Ctrl-C it has a moment to end by itself.

    With `has_session` it is the leader of a session of its own: what the terminal sends does not reach it, and is sent
    on to all that it has started.
    """
    has_session = has_session and os.name == "posix"
    with _start(command, cwd, env, start_new_session=has_session, **pipes) as child:
        try:
            with _paused_together(child) if has_session else nullcontext():
                yield child
                child.wait()
        except BaseException as problem:
            send = partial(_send_to_all, child) if has_session else child.send_signal
            if isinstance(problem, Terminated):
                send(signal.SIGTERM)
            elif has_session:
                send(signal.SIGINT)
            try:
                child.wait(timeout=INTERRUPT_SECONDS)
            except subprocess.TimeoutExpired:
                send(signal.SIGTERM)
            finally:
                if has_session:
                    # Some of what a shell starts in the background ignores Ctrl-C, and a second one ends the wait.
                    send(signal.SIGTERM)
            raise


@contextmanager
def _paused_together(child: subprocess.Popen) -> Iterator[None]:
    """Within it, Ctrl-Z stops a child's whole session too, which goes on when this process does."""

    def pause(number, frame):
        _send_to_all(child, signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, pause)
        finally:
            # Also where this process was continued to be terminated: what is stopped takes no other signal.
            _send_to_all(child, signal.SIGCONT)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _send_to_all(leader: subprocess.Popen, number: int) -> None:
    """Sends a signal to the process group of a child that leads one, if anything of it is left."""
    # macOS says of a group whose processes have all ended that it may not be sent to.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, number)


def _wait_for_person(child: subprocess.Popen) -> None:
    """Waits for a child that owns the terminal. It decides what Ctrl-C means: in a chat, the end of the answer."""
    interrupted = False
    while child.returncode is None:
        try:
            child.wait()
        except Terminated:
            child.terminate()
            child.wait()
            raise
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and child.returncode:
        raise KeyboardInterrupt


class _Drain:
    """Copies a pipe to a log and its lines to a function. Reads to the end whatever goes wrong with either: a child
    whose pipe nobody reads would never end.
    """

    def __init__(self, log: Path | None, on_line: Callable[[str], None] | None):
        self.log, self.on_line = log, on_line
        self.tail: deque[str] = deque(maxlen=LAST_LINES)
        self.problem: Exception | None = None

    def read(self, pipe: BinaryIO) -> None:
        """Copies until the pipe ends."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "ab", buffering=0) as file:
                for raw in pipe:
                    self._note(raw)
                    file.write(raw)
        except Exception as problem:
            self.problem = problem
            for raw in pipe:
                self._note(raw)

    def check(self) -> None:
        """Raises what went wrong, a log that could not be written as TmacError."""
        if isinstance(self.problem, OSError):
            hint = "check the free disk space and the permissions, or set TMAC_HOME to another folder"
            raise TmacError(f"the log {self.log} cannot be written: {self.problem.strerror}", hint)
        if self.problem:
            raise self.problem

    def _note(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip()
        self.tail.append(line)
        if self.on_line and not self.problem:
            self.on_line(line)
