"""Progress of long work on stderr: one bar for a person at a terminal; elsewhere nothing, or a line now and then."""

from __future__ import annotations

import time

from tqdm import tqdm

from . import console

LINE_STEP = 10  # percent between two lines when nobody watches a terminal
QUIET_SECONDS = 2  # work that is over by then needs no progress
# Of every bar: no rate and no remaining time, which jump.
LOOK = {"bar_format": "{desc} [{bar:30}] {percentage:3.0f} %  {elapsed}", "ascii": ".#"}


def byte_bar(total: int, title: str | None = None, shown: bool = True) -> tqdm:
    """A bar over `total` bytes, a context manager with `update(bytes)`. Only a terminal shows it, while it runs."""
    hidden = not (shown and console.is_terminal())
    return tqdm(total=total, desc=title or "working", leave=False, disable=hidden, **LOOK)


class PercentBar:
    """Work that tells its progress in percent: a bar that stays, or without a terminal a line for every ten percent."""

    def __init__(self, title: str):
        self.title, self.percent, self.start = title, 0, time.monotonic()
        self.bar = tqdm(total=100, desc=title, delay=QUIET_SECONDS, disable=not console.is_terminal(), **LOOK)

    def reach(self, percent: int) -> None:
        """Shows that so much is done; a smaller number than before changes nothing."""
        if percent <= self.percent:
            return
        seconds = time.monotonic() - self.start
        if self.bar.disable and seconds >= QUIET_SECONDS and percent // LINE_STEP > self.percent // LINE_STEP:
            shown = percent // LINE_STEP * LINE_STEP
            console.log(f"{self.title} {shown:3d} %  {tqdm.format_interval(seconds)}")
        self.bar.update(percent - self.percent)
        self.percent = percent

    def close(self) -> None:
        """Ends the redrawn line, so that the next line starts on its own."""
        self.bar.close()


class ByteCount:
    """The same for work that tells how many of `total` bytes it has done since it last said so."""

    def __init__(self, title: str, total: int):
        self.bar, self.total, self.done = PercentBar(title), total, 0

    def __enter__(self) -> ByteCount:
        return self

    def __exit__(self, *ignored) -> None:
        self.bar.close()

    def update(self, nbytes: int) -> None:
        """More bytes are done."""
        self.reach(self.done + nbytes)

    def reach(self, nbytes: int) -> None:
        """So many bytes are done altogether."""
        self.done = nbytes
        if self.total:
            self.bar.reach(min(100, 100 * nbytes // self.total))
