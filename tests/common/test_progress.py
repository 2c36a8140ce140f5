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


def test_a_line_does_not_run_into_a_bar(monkeypatch, capsys):
    """The bar is taken away before the line, which begins at the left, and drawn again after it."""
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    bar = PercentBar("building")
    bar.reach(50)
    capsys.readouterr()
    console.log("a line")
    said = capsys.readouterr().err
    bar.close()
    before, _, after = said.partition("a line\n")
    assert before.rpartition("\r")[2] == "" and " " * 20 in before and "building [" in after


def test_bytes_are_percent_without_jumps(monkeypatch, capsys):
    """Of a total that is known before; what a client counts twice does not go beyond it."""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    with progress.ByteCount("downloading", 1000) as count:
        for nbytes in (95, 410, 600):
            count.update(nbytes)
    said = [line.split("%")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["downloading  50 ", "downloading 100 "]
