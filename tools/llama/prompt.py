"""The prompt of `tmac run`: what the user wrote, what stands on standard input, and files of it for the child.

A prompt goes to llama.cpp in a file, byte by byte: arguments are limited in length, and every user of the machine can
read them, as those of `tmac` itself.
"""

from __future__ import annotations

import os
import re
import select
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tmac.common import console

from ..errors import ToolError

STDIN = "-"
# Seconds after which a pipe that says nothing is mentioned, and after which a prompt that is written goes without it.
PATIENCE, LAST_PATIENCE = 2, 10
# As of llama.cpp: what any other letter follows stays a backslash.
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([nrt'\"\\]))")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


@dataclass(frozen=True)
class PromptFiles:
    """The files of one run; None: there is no such text."""

    prompt: Path | None
    system: Path | None


def gather(written: str | None, stdin: TextIO | None = None) -> str | None:
    """The prompt: `written`, with what a file or pipe at stdin says below it; None if there is neither.

    `-` is stdin alone, even if that is a terminal. One line end at the end of stdin is not part of it, as in a shell's
    $(...). A pipe that stays open and silent is not waited for when something is written. Raises ToolError for text
    that is not UTF-8, and for `-` without any.
    """
    stdin = sys.stdin if stdin is None else stdin
    if written is not None and written != STDIN:
        _check(written.encode("utf-8", "surrogateescape"), "the prompt")
    if written != STDIN and not _is_given(stdin):
        return written
    said = _read(stdin, must_wait=written in (None, STDIN))
    if written in (None, STDIN):
        if written == STDIN and not said:
            raise ToolError("standard input is empty, expected the prompt there", 'give it: tmac run MODEL -p "..."')
        return said or None
    return f"{written}\n{said}" if said else written


def _is_given(stdin: TextIO) -> bool:
    """Whether stdin is a file or a pipe: neither a terminal nor the null device."""
    try:
        mode = os.fstat(stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _read(stdin: TextIO, must_wait: bool) -> str:
    if os.name != "nt" and not stdin.isatty() and not _speaks(stdin, PATIENCE):
        rest = LAST_PATIENCE - PATIENCE
        end = "" if must_wait else f"; in {rest} seconds it goes on without"
        console.log(
            f"waiting for {'the prompt' if must_wait else 'more'} at standard input (for none: </dev/null){end}"
        )
        if not must_wait and not _speaks(stdin, rest):
            return ""
    return _check(stdin.buffer.read(), "standard input").removesuffix("\n")


def _speaks(stdin: TextIO, seconds: float) -> bool:
    """Whether it says something, or ends, in that time."""
    return bool(select.select([stdin], [], [], seconds)[0])


def unescape(text: str) -> str:
    r"""The text with \n, \r, \t, \', \", \\ and \xHH (a byte) replaced. Raises ToolError for what is not UTF-8 then."""
    raw = text.encode("utf-8")
    return _check(_ESCAPE.sub(_replaced, raw), "the prompt with what --escape makes of it")


def _replaced(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPED.get(match[2], match[2])


def _check(raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise ToolError(
            f"{what} is not UTF-8: byte {problem.start} is 0x{raw[problem.start]:02x}",
            "convert it first: iconv -f ENCODING -t UTF-8",
        ) from None


@contextmanager
def in_files(prompt: str | None, system: str | None) -> Iterator[PromptFiles]:
    """Files that only this user can read, which are gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="tmac-prompt-") as folder:
        paths = []
        for name, text in (("prompt.txt", prompt), ("system.txt", system)):
            paths.append(None if text is None else Path(folder) / name)
            if text is not None:
                paths[-1].write_bytes(text.encode("utf-8"))
        yield PromptFiles(*paths)
