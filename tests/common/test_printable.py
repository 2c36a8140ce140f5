"""What strangers wrote into a file reaches a terminal only as characters that can be seen."""

import pytest

from tmac.common import console
from tmac.common.errors import printable, printable_line

# Clears the screen, changes the window's title, C1's way to begin a sequence, right-to-left override, a null.
EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eabc\x00\r"


def test_what_acts_on_a_terminal_is_spelled():
    assert printable(EVIL) == "\\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202eabc\\x00\\r"
    assert printable("caf\xe9 \u4e2d \U0001f600\n\tb") == "caf\xe9 \u4e2d \U0001f600\n\tb"
    assert printable_line("a\nerror: b") == "a\\nerror: b"


@pytest.mark.parametrize("say", [console.log, console.command, console.error, lambda text: console.error("x", text)])
@pytest.mark.parametrize("coloured", [True, False])
def test_lines_on_stderr(capsys, monkeypatch, say, coloured):
    """The colours are ours, and nothing else is."""
    monkeypatch.setattr(console, "is_terminal", lambda: coloured)
    monkeypatch.delenv("NO_COLOR", raising=False)
    say(EVIL)
    said = capsys.readouterr().err
    for ours in (console.RED, console.CYAN, console.DIM):
        said = said.replace(f"\033[{ours}m", "")
    assert said.replace("\033[0m", "").replace("\n", "").isprintable() and "\\x1b[2J" in said
