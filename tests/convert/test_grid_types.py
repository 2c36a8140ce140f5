"""Which of ggml's types hold a quantized layer without rounding."""

from pathlib import Path

import numpy as np
import pytest

from tmac.convert.architectures.part import Kind, Part
from tmac.convert.plan.grid_types import fits_q2_0, fits_q8_0, is_kept_in_head, tmac_type
from tmac.convert.readers.grid import Grid


@pytest.mark.parametrize(
    ("fits", "bits", "group"), [(fits_q8_0, 8, 32), (fits_q2_0, 2, 64), (fits_q2_0, 2, 128), (fits_q2_0, 2, 256)]
)
@pytest.mark.parametrize(
    ("change", "columns", "holds"),
    [
        ({}, 256, True),
        ({}, 240, False),
        ({"bits": 4}, 256, False),
        ({"group": 48}, 192, False),
        ({"group": 0, "tensor_scale": 0.5}, 256, False),
        ({"asymmetric": True}, 256, False),
        ({"column_order": np.arange(256)[::-1]}, 256, False),
    ],
    ids=["whole", "part of a block", "bits", "group", "tensor scale", "zero-points", "act-order"],
)
def test_layers_that_a_type_of_ggml_holds(fits, bits, group, change, columns, holds):
    """Symmetric, in groups of its blocks or of several, that fill the columns, which are in order."""
    part = Part(Kind.LINEAR, "m", "m", (32, columns))
    grid = Grid(**{"bits": bits, "group": group, "asymmetric": False, **change})
    assert fits(part, grid) is holds


@pytest.mark.parametrize(
    ("bits", "group", "rows", "columns", "is_kept"),
    [
        (4, 64, 1024, 256, True),
        (4, 64, 1000, 256, False),
        (4, 64, 1024, 96, False),
        (8, 32, 1000, 256, True),
        (8, 64, 1024, 256, False),
        (2, 0, 1024, 256, False),
    ],
)
def test_heads_that_are_stored_without_rounding(bits, group, rows, columns, is_kept):
    """In a T-MAC type or as Q8_0, which may have any rows; llama.cpp multiplies no head by a scale of its own."""
    grid = Grid(bits, group, False, tensor_scale=None if group else 0.5)
    assert is_kept_in_head(Part(Kind.HEAD, "m", "m", (rows, columns)), grid) is is_kept


@pytest.mark.parametrize(("group", "why"), [(32, ""), (64, "has 8-bit weights that q8_0 cannot hold")])
def test_8_bits_have_no_t_mac_type(group, why):
    """That needs a reason only where Q8_0 does not hold them."""
    kind, found = tmac_type(Part(Kind.LINEAR, "m", "m", (32, 256)), [Grid(8, group, False)], Path("here"))
    assert kind is None and found.startswith(why) and bool(found) == bool(why)
