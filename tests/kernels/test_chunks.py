"""How tiles are handed out to threads: every tile once, in order, in chunks that let the threads end together."""

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


TILES = (0, 1, 2, 3, 5, 8, 31, 32, 80, 128, 344, 4008)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16, 64])
@pytest.mark.parametrize("tiles", TILES)
def test_chunks_are_all_tiles_once(library, threads, tiles):
    chunks = chunks_of(library, tiles, threads)
    ends = [0, *(last for _, last in chunks)]
    assert [first for first, _ in chunks] == ends[:-1] and ends[-1] == tiles


def test_one_thread_takes_all_at_once(library):
    assert chunks_of(library, 128, 1) == [(0, 128)]


def test_half_in_equal_shares_then_quarters(library):
    """128 tiles, 2 threads, by hand: a share is 64, of which 32 each come first, then 16 at a time."""
    assert [last - first for first, last in chunks_of(library, 128, 2)] == [32, 32, 16, 16, 16, 16]


def test_small_shares_are_not_divided(library):
    """32 tiles (1024 rows), 16 threads: 2 each."""
    assert [last - first for first, last in chunks_of(library, 32, 16)] == [2] * 16


def finish(chunks, paces):
    """The time at which the last core ends, if each takes the next chunk as soon as it is free. pace: time per tile of
    each core.
    """
    clock = [0] * len(paces)
    for first, last in chunks:
        core = clock.index(min(clock))
        clock[core] += (last - first) * paces[core]
    return max(clock)


@pytest.mark.parametrize("threads", [2, 3, 7, 16, 64])
@pytest.mark.parametrize("tiles", TILES)
def test_equal_cores_end_together(library, tiles, threads):
    """They end no later than with equal shares, apart from one small chunk."""
    share = -(-tiles // threads)
    assert finish(chunks_of(library, tiles, threads), [1] * threads) <= share + (share + 3) // 4


@pytest.mark.parametrize("paces", [(1, 3), (1, 1, 1, 1, 3, 3, 3, 3), (1, 1, 1, 2)])
def test_slow_cores_do_not_hold_the_rest(library, paces):
    """With cores at a third or half of the speed, at most half of the time that equal shares waste is wasted."""
    tiles = 344
    best = tiles / sum(1 / pace for pace in paces)
    equal = -(-tiles // len(paces)) * max(paces)
    assert finish(chunks_of(library, tiles, len(paces)), paces) - best <= 0.5 * (equal - best)
