"""Importance matrices in both formats of llama-imatrix, made by hand from its source."""

import random
import struct

import numpy as np
import pytest

from support.imatrix_files import write_new, write_old
from tmac.convert.errors import ConvertError
from tmac.convert.quantize.imatrix import Imatrix

WRITERS = pytest.mark.parametrize("write", [write_new, write_old])


@WRITERS
def test_mean_squares(tmp_path, write):
    """Sums divided by counts. An expert that no token reached has ones; an absent layer has None."""
    found = Imatrix(write(tmp_path / "x.imatrix"))
    assert found.of("blk.0.attn_q.weight", 1, 4).tolist() == [[0.5, 1, 1.5, 2]]
    assert found.of("blk.0.ffn_up_exps.weight", 2, 2).tolist() == [[1, 2], [1, 1]]
    assert found.of("blk.1.attn_q.weight", 1, 4) is None
    # One row is for all experts alike.
    assert found.of("blk.0.attn_q.weight", 3, 4).shape == (3, 4)


def test_old_files_that_end_with_their_last_entry(tmp_path):
    """As early releases wrote them; without calls, values are what they are. A name may have one letter."""
    entries = [(b"a", 0, [3.0, 4.0]), (b"blk.0.attn_q.weight", 4, [8.0, 2.0])]
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii2f", calls, len(values), *values)
    (tmp_path / "x").write_bytes(data)
    found = Imatrix(tmp_path / "x")
    assert found.of("a", 1, 2).tolist() == [[3, 4]] and found.of("blk.0.attn_q.weight", 1, 2).tolist() == [[2, 0.5]]


@WRITERS
def test_an_entry_of_another_shape(tmp_path, write, refused):
    found = Imatrix(write(tmp_path / "x.imatrix"))
    refused(lambda: found.of("blk.0.attn_q.weight", 1, 8), "x.imatrix", "blk.0.attn_q.weight", "4 values", "expected 8")


@WRITERS
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_are_no_squares(tmp_path, write, value, refused):
    path = write(tmp_path / "x", {"blk.0.attn_q.weight": (np.array([[1.0, value]]), [1])})
    refused(lambda: Imatrix(path), "blk.0.attn_q.weight", "not finite or below zero")


def test_files_that_are_none(tmp_path, refused):
    refused(lambda: Imatrix(tmp_path / "none"), "none", "does not exist")
    model = write_new(tmp_path / "model.gguf", kind="model")
    refused(lambda: Imatrix(model), "model.gguf", "'model'", "no importance matrix")
    refused(lambda: Imatrix(write_new(tmp_path / "a.gguf", counts=False)), "a.gguf", ".in_sum2", "no .counts")
    two = {"x": (np.array([[1, 2, 3]]), [1, 1])}
    refused(lambda: Imatrix(write_new(tmp_path / "b.gguf", two)), "b.gguf", "[1, 3] and [2, 1]", "one count a row")
    (tmp_path / "empty").write_bytes(b"")
    refused(lambda: Imatrix(tmp_path / "empty"), "empty", "ends early")
    (tmp_path / "nameless").write_bytes(struct.pack("<iiii", 9, 0, 1, 1) + bytes(8))
    refused(lambda: Imatrix(tmp_path / "nameless"), "nameless", "damaged at byte 8")
    (tmp_path / "nothing").write_bytes(bytes(8))
    refused(lambda: Imatrix(tmp_path / "nothing"), "nothing", "no entries")


@WRITERS
def test_damaged_files(tmp_path, write):
    """100 of each format, truncated or with changed bytes: read or refused."""
    path = write(tmp_path / "x")
    data, random_ = path.read_bytes(), random.Random(3)
    refusals = 0
    for case in range(100):
        broken = bytearray(data[: random_.randrange(len(data))] if case % 2 else data)
        for _ in range(0 if case % 2 else 3):
            broken[random_.randrange(len(broken))] = random_.choice((0, 1, 127, 255))
        path.write_bytes(broken)
        try:
            Imatrix(path)
        except ConvertError:
            refusals += 1
    assert refusals >= 50
