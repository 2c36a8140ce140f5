"""How tiles are handed out to threads: every tile once, in order, and so that nobody waits long."""

import ctypes

import pytest


# Plain arithmetic, called by ctypes.
pytestmark = pytest.mark.targets("native")


class Tiles(ctypes.Structure):
    _fields_ = [("first", ctypes.c_int64), ("last", ctypes.c_int64)]


def chunks_of(library, tiles, threads):
    function = library.c.tmac_chunk
    function.restype, function.argtypes = Tiles, [ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    found = []
    for index in range(10_000):
        chunk = function(tiles, threads, index)
        if chunk.first == tiles:
            return found
        found.append((chunk.first, chunk.last))
    raise AssertionError("the chunks do not end")


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 64])
def test_chunks_are_all_tiles_once(library, threads):
    for tiles in (0, 1, 2, 3, 5, 8, 31, 128, 344, 4008):
        chunks = chunks_of(library, tiles, threads)
        assert all(first < last for first, last in chunks)
        ends = [0, *(last for _, last in chunks)]
        assert [first for first, _ in chunks] == ends[:-1] and ends[-1] == tiles


def test_one_thread_takes_all_at_once(library):
    assert chunks_of(library, 128, 1) == [(0, 128)]


def test_chunks_halve_what_is_left(library):
    """128 tiles, 2 threads, by hand: 32 each of the first half, then 16, 8, and 4, of which none is smaller."""
    sizes = [last - first for first, last in chunks_of(library, 128, 2)]
    assert sizes == [32, 32, 16, 16, 8, 8, 4, 4, 4, 4]


def test_slow_core_does_not_hold_the_rest(library):
    """Two cores, one at a third of the speed: handed out chunk by chunk, both end within the time of a tenth of the work."""
    tiles, pace, clock = 344, (1, 3), [0, 0]
    for first, last in chunks_of(library, tiles, 2):
        core = clock.index(min(clock))
        clock[core] += (last - first) * pace[core]
    assert max(clock) - tiles / (1 / pace[0] + 1 / pace[1]) < 0.1 * tiles
