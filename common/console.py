"""What people read on stderr: log lines, command lines and errors. Results never pass through here."""

from __future__ import annotations

import os
import sys

BOLD, DIM, RED, CYAN = "1", "2", "31", "36"


def is_terminal() -> bool:
    """Whether a person watches stderr, so that a line may be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """The text in a colour, or as it is when stderr is no terminal or NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or not is_terminal():
        return text
    return f"\033[{colour}m{text}\033[0m"


def log(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def command(line: str) -> None:
    """A command line that is about to run."""
    log(paint(f"+ {line}", DIM))


def error(message: str, hint: str = "") -> None:
    """What went wrong and what to do about it."""
    log(f"{paint('error:', RED)} {message}")
    if hint:
        log(f"{paint('hint:', CYAN)} {hint}")
