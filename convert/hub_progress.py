"""The hub client's progress as one bar of ours, over bytes that are known before.

The client draws several bars, whose totals grow while it finds out what it downloads.
"""

from __future__ import annotations

from tqdm import tqdm

from ..common.progress import ByteCount

# How the client names its bar of bytes that come over the network, some of which are written twice or never.
_TRANSFER = "Downloading bytes"


def bars_into(count: ByteCount) -> type[tqdm]:
    """A class that the client takes for tqdm: its bars of bytes tell `count` how far they are, nothing is drawn."""

    class Bar(tqdm):
        def __init__(self, *args, **options):
            self._counts = options.get("unit") == "B" and options.get("desc") != _TRANSFER
            self._bytes = int(options.get("initial") or 0)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n=1):
            self._bytes += int(n or 0)
            if self._counts:
                count.reach(max(count.done, self._bytes))

    return Bar
