"""What people read on stderr: log lines, command lines and errors. Results never pass through here."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

from .errors import printable

BOLD, DIM, RED, CYAN = "1", "2", "31", "36"
# Whether details and command lines are left out, as `tmac run` does without -v.
_quiet = False


def be_quiet(quiet: bool) -> None:
    """From now on, `detail` and `command` say nothing, or something again."""
    global _quiet
    _quiet = quiet


def is_terminal() -> bool:
    """Whether a person watches stderr, so that a line may be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """The text in a colour, or as it is when stderr is no terminal or NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or not is_terminal():
        return text
    return f"\033[{colour}m{text}\033[0m"


def log(text: str, colour: str = "") -> None:
    """Lines for people, printable whatever they contain."""
    text = printable(text)
    _write(paint(text, colour) if colour else text)


def detail(text: str) -> None:
    """Lines for people who want to know how it is done."""
    if not _quiet:
        log(text)


def command(line: str) -> None:
    """A command line that is about to run."""
    if not _quiet:
        log(f"+ {line}", DIM)


def error(message: str, hint: str = "") -> None:
    """What went wrong and what to do about it."""
    _write(f"{paint('error:', RED)} {printable(message)}")
    if hint:
        _write(f"{paint('hint:', CYAN)} {printable(hint)}")


def _write(text: str) -> None:
    """A line of its own: a bar that is being drawn (progress.py) is taken away before, and drawn again below."""
    drawing = sys.modules.get("tqdm") if is_terminal() else None
    with drawing.tqdm.external_write_mode(file=sys.stderr) if drawing else nullcontext():
        print(text, file=sys.stderr, flush=True)
