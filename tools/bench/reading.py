"""How fast threads read memory: the limit that kernels and whole models are compared with.

Comes in: a number of threads. Goes out: seconds in each way of reading that reads.c has, and the bandwidth.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from .loops import time_reads
from .matrices import huge_pages

# More than caches hold.
READ_BYTES = 500_000_000


def memory_to_read() -> np.ndarray:
    """READ_BYTES that are there, uint8. Raises ToolError without memory."""
    data = huge_pages(READ_BYTES)
    data[:] = 1
    return data


def read_bandwidth(threads: int, rounds: int = 3) -> float:
    """1e9 bytes a second that `threads` threads read from memory: median of the rounds. Raises TmacError."""
    data = memory_to_read()
    return data.size / 1e9 / statistics.median(read_limit([time_reads(data, threads) for _ in range(rounds)]))


def read_limit(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Each round's seconds in the way of reading that is the fastest by its median.

    One way for all rounds: the fastest of each round would be the luckiest of three, which no kernel gets to be.
    """
    return list(min(zip(*rounds), key=statistics.median))
