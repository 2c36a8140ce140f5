"""What probes find out of transformations of matrices, in the interpreter that has torch."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tmac.convert.upstream.answer import CHILD

PROGRAM = Path(__file__).parents[1] / "support" / "families" / "probe_cases.py"
IN_ORDER = list(range(24))
PAIRS = [6 * head + 3 * half + i for head in range(4) for i in range(3) for half in range(2)]
ARITHMETIC = "computes with its values"


def matrix(*runs, columns=None, transposed=False, factors=None):
    return {
        **({} if factors is None else {"factors": factors}),
        "runs": [[name, index, list(rows)] for name, index, rows in runs],
        "columns": columns,
        "transposed": transposed,
    }


EXPECTED = {
    "as it is": [matrix(("w", 0, IN_ORDER))],
    "pairs of rows": [matrix(("w", 0, PAIRS))],
    "second part": [matrix(("w", 0, range(8, 24)))],
    "joined": [matrix(("w", 0, IN_ORDER), ("v", 0, range(8)))],
    "stacked": [matrix(("v", 0, range(8))), matrix(("u", 0, range(8)))],
    "columns": [matrix(("v", 0, range(8)), columns=list(range(7, -1, -1)))],
    "transposed": [matrix(("w", 0, IN_ORDER), transposed=True)],
    "slices of three dimensions": [matrix(("e", index, (0, 2))) for index in range(3)],
    "slices transposed": [matrix(("e", index, range(4)), transposed=True) for index in range(3)],
    "half of a head transposed": [matrix(("w", 0, range(first, first + 4)), transposed=True) for first in (0, 12)],
    "one more": ARITHMETIC,
    "twice": ARITHMETIC,
    "single weight twice": ARITHMETIC,
    "positive": ARITHMETIC,
    "without negatives": ARITHMETIC,
    "bounded": ARITHMETIC,
    "bounded by fp16": ARITHMETIC,
    "rounded": ARITHMETIC,
    "negative": ARITHMETIC,
    "product": ARITHMETIC,
    "sum of two": ARITHMETIC,
    "repeated": "repeats rows",
    "columns left out": ARITHMETIC,
    "padded": "mixes rows with columns",
    "mixed": "mixes rows with columns",
    "two in turns": [matrix(*((name, 0, [row]) for row in (0, 1) for name in "vu"))],
    "two in turns, too many pieces": "takes single rows of many tensors",
    "too many rows": "has more rows than can be numbered",
    "factor: as it is": [matrix(("w", 0, IN_ORDER), factors=[1.0] * 24)],
    "factor: twice": [matrix(("w", 0, IN_ORDER), factors=[2.0] * 24)],
    "factor: a third": [matrix(("w", 0, IN_ORDER), factors=[1 / 3] * 24)],
    "factor: rows by other factors": [matrix(("w", 0, IN_ORDER), factors=[3.0] * 8 + [1.2] * 8 + [4.0] * 8)],
    "factor: pairs of rows, half": [matrix(("w", 0, PAIRS), factors=[0.5] * 24)],
    "factor: transposed, twice": [matrix(("w", 0, IN_ORDER), transposed=True, factors=[2.0] * 24)],
    "factor: what was taken before a change": [matrix(("w", 0, range(8)), factors=[1.0] * 8)],
    "factor: one more": ARITHMETIC,
    "factor: negative": "multiplies its values by a number that is not positive",
    "factor: by nothing": "multiplies its values by a number that is not positive",
    "factor: by its largest": ARITHMETIC,
    "factor: square": ARITHMETIC,
    "factor: sum of two": ARITHMETIC,
    "factor: columns by other factors": "multiplies columns by different numbers",
    "factor: rows over others": "repeats rows",
    "factor: number assigned": ARITHMETIC,
}


@pytest.fixture(scope="module")
def told(upstream, tmp_path_factory):
    folders = map(str, (CHILD.parent, upstream.source, upstream.source / "gguf-py"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [str(upstream.python), str(PROGRAM), str(tmp_path_factory.mktemp("probes"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", EXPECTED)
def test_case(told, name):
    assert told["cases"][name] == EXPECTED[name]


def test_every_case_is_looked_at(told):
    assert told["cases"].keys() == EXPECTED.keys()


def test_probes_take_no_memory(told):
    """A matrix of 16 GiB in float32 with rows or columns reordered, 128 experts of 64 MiB each: less than 100 MB."""
    assert told["large"] == [1, 1, 128]
    assert told["kilobytes"] < 100_000


def test_as_many_rows_as_can_be_numbered(told):
    """7 million, of one matrix."""
    assert told["rows"] == (1 << 23) - (1 << 20)


def test_as_many_pieces_as_a_matrix_may_have(told):
    assert told["pieces"] == 1024


def test_numbers_assigned_to_values(told):
    """Where nothing is quantized, `w[:8] = 3` and `w[8:16] *= 2` are what they are in torch; w counts from 0."""
    assert told["assigned"] == [[3, 3, 3], [192, 194, 196], [144, 145, 146]]


def test_scales_of_8_bit_floats_are_placed_by_their_shape(told):
    """Of a matrix of 6 x 4: in blocks of 2 x 2, too, there are 6 of them."""
    rows = [[float(row + 1)] for row in range(6)]
    blocks = [[2.0 * (row // 2) + 1] * 2 + [2.0 * (row // 2) + 2] * 2 for row in range(6)]
    expected = {"()": [[1]], "(1,)": [[1]], "(6,)": rows, "(6, 1)": rows, "(3, 2)": blocks}
    assert told["scales"] == expected
