"""Bars and lines of long work."""

from tmac.common import console, progress
from tmac.common.progress import PercentBar


def test_short_build_shows_no_progress(capsys):
    """A build that had nothing to do says nothing."""
    bar = PercentBar("building")
    bar.reach(100)
    bar.close()
    assert capsys.readouterr().err == ""


def test_progress_without_terminal_is_a_few_lines(monkeypatch, capsys):
    """One line per ten percent; what is not more than before says nothing."""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    bar = PercentBar("building")
    for percent in (*range(101), 0, 5):
        bar.reach(percent)
    bar.close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 10 and said[-1].startswith("building 100 %  00:0")


def test_progress_on_a_terminal_redraws_one_line(monkeypatch, capsys):
    """A person sees one bar that grows, with the time."""
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    bar = PercentBar("building")
    bar.reach(50)
    bar.reach(100)
    bar.close()
    said = capsys.readouterr().err
    assert said.count("\r") >= 2 and said.count("\n") == 1 and "100 %  00:00" in said
    assert said.splitlines()[-1].startswith("building [##############################]")


def test_bytes_are_shown_at_a_terminal_and_leave_nothing(monkeypatch, capsys):
    for terminal, shown in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(console, "is_terminal", lambda: terminal)
        with progress.byte_bar(2_000_000, "reading", shown) as bar:
            bar.update(1_000_000)
        said = capsys.readouterr().err
        assert ("reading" in said) == (terminal and shown) and "\n" not in said
