"""What people read on stderr: log lines, command lines, errors and progress. Results never pass through here."""

from __future__ import annotations

import os
import re
import sys
import time

BOLD, DIM, RED, CYAN = "1", "2", "31", "36"
BAR_WIDTH = 30
PLAIN_STEP = 10  # percent between two lines when nobody watches a terminal
QUIET_SECONDS = 2  # a build that is over by then had nothing to do, and needs no progress


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


class BuildProgress:
    """Turns the output lines of make or ninja into one bar on a terminal, or an occasional line elsewhere."""

    STEP = re.compile(r"^\[\s*(\d+)(?:%|/(\d+))\]")

    def __init__(self, title: str):
        self.title = title
        self.start = time.monotonic()
        self.percent = 0

    def feed(self, line: str) -> None:
        """Takes one line of the build's output."""
        step = self.STEP.match(line)
        if not step:
            return
        percent = 100 * int(step[1]) // max(int(step[2] or 100), 1)
        if percent <= self.percent or time.monotonic() - self.start < QUIET_SECONDS:
            return
        if is_terminal():
            self._draw(percent)
        elif percent // PLAIN_STEP > self.percent // PLAIN_STEP:
            log(f"{self.title} {percent:3d} %  {self.elapsed()}")
        self.percent = percent

    def close(self) -> None:
        """Ends the redrawn line, so that the next log line starts on its own."""
        if is_terminal() and self.percent:
            log("")

    def elapsed(self) -> str:
        """Minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
        return f"{minutes}:{seconds:02d}"

    def _draw(self, percent: int) -> None:
        filled = BAR_WIDTH * percent // 100
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        print(f"\r{self.title} [{bar}] {percent:3d} %  {self.elapsed()}", end="", file=sys.stderr, flush=True)
