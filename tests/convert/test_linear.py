"""A layer as codes, scales and zero-points: columns in another order, and the same values for another type."""

import numpy as np
import pytest

from tmac.common.format import parse_type
from tmac.convert.linear import QuantLinear
from tmac.convert.plan.columns import placed
from tmac.convert.readers.grid import Grid

ROWS = 8


def layer(rng, columns, group):
    """4 bits, random numbers."""
    groups = columns // group if group else 0
    scales = rng.uniform(0.5, 2, (ROWS, groups)).astype(np.float16)
    return QuantLinear(rng.integers(0, 16, (ROWS, columns), np.uint8), scales, None, 4, group)


def shifted(columns, by):
    return np.roll(np.arange(columns), by)


# Columns that move one by one, in runs of 16 that begin at multiples of 16 or do not, and widths that runs do not fill.
ORDERS = {
    "as they are": np.arange(96),
    "reversed": np.arange(96)[::-1].copy(),
    "any": np.random.default_rng(6).permutation(96),
    "runs": np.concatenate([np.arange(at, at + 16) for at in (48, 0, 80, 32, 64, 16)]),
    "runs with one exchange": np.concatenate((np.arange(48, 96), np.arange(46), [47, 46])),
    "the first of runs alone": np.concatenate(
        [np.r_[at, np.arange(at + 15, at, -1)] for at in (48, 0, 80, 32, 64, 16)]
    ),
    "shifted by eight": shifted(96, 8),
    "shifted by one": shifted(96, 1),
    "40 columns": shifted(40, 16),
    "no multiple of 16": np.random.default_rng(7).permutation(7),
}


@pytest.mark.parametrize("name", ORDERS)
def test_columns_in_any_order(name):
    """With one scale for all of them."""
    order = ORDERS[name]
    linear = layer(np.random.default_rng(6), len(order), 0)
    assert np.array_equal(linear.take_columns(order).codes, linear.codes[:, order])


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("kind", ["scales", "zeros", "minima"])
def test_groups_in_another_order(group, kind):
    """Scales, zero-points and minima move with their columns, and the rows stay."""
    rng = np.random.default_rng(6)
    linear = layer(rng, 256, group)
    values = rng.integers(0, 256, linear.scales.shape)
    arrays = {"zeros": values.astype(np.uint8), "minima": values.astype(np.float16)}
    if kind != "scales":
        linear = QuantLinear(linear.codes, linear.scales, bits=4, group=group, **{"zeros": None, kind: arrays[kind]})
    order = np.concatenate([np.arange(at, at + group) for at in rng.permutation(256 // group) * group])
    assert np.array_equal(linear.take_columns(order).dequantize(), linear.dequantize()[:, order])


@pytest.mark.parametrize(("columns", "group"), [(96, 64), (48, 32), (128, 32)])
def test_orders_that_break_groups_leave_columns_where_they_are(columns, group):
    """Groups that are cut, or whose last one is shorter: the order says which input each column belongs to."""
    order = shifted(columns, group // 2 if columns % group == 0 else group)
    found = placed(Grid(4, group, False), order)
    assert np.array_equal(order[found.column_order], np.arange(columns))


@pytest.mark.parametrize(("order", "group"), [(shifted(128, 32), 32), (shifted(128, 1), 0)])
def test_orders_that_keep_groups_move_columns(order, group):
    assert placed(Grid(4, group, False), order).column_order is None


def with_zeros(zero, scale):
    zeros = None if zero is None else np.full((ROWS, 2), zero, np.uint8)
    codes = np.random.default_rng(6).integers(0, 16, (ROWS, 64), np.uint8)
    return QuantLinear(codes, np.full((ROWS, 2), scale, np.float16), zeros, 4, 32)


@pytest.mark.parametrize("zero", [None, 0, 1, 100, 255])
@pytest.mark.parametrize("kind", ["w4g32z", "w4g32m"])
def test_zero_points_for_a_type_that_stores_them(kind, zero):
    """Written out, or as minima: the values stay."""
    linear, kind = with_zeros(zero, 0.375), parse_type(kind)
    found = linear.as_type(kind)
    assert (found.zeros is not None, found.minima is not None) == (kind.asymmetric, kind.has_minima)
    assert np.array_equal(found.dequantize(), linear.dequantize())


@pytest.mark.parametrize(("zero", "scale"), [(49, 1 + 2**-10), (255, 60000), (1, 2**-24)])
def test_zero_points_that_fp16_minima_do_not_hold(zero, scale, refused):
    """More digits, too large, too small."""
    refused(lambda: with_zeros(zero, scale).as_type(parse_type("w4g32m")), "fp16 minima do not hold")
