"""What scores go through in attention kernels: masks, slopes (ALiBi), soft caps, sinks."""

from dataclasses import replace

import numpy as np
import pytest

from support.attention import case, of_values, with_inputs
from support.targets import chosen_from

KINDS = ("none", "open", "causal", "window", "distance", "random", "patches", "blocked")


@pytest.mark.parametrize("positions", [40, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_masks(attend, kind, positions):
    """With 300 positions some blocks are wholly open, some wholly blocked, some neither; the last one is not full."""
    some = case(mask=kind, positions=positions, queries=attend.queries(2), widths=(32, 32))
    attend.check(some)


@pytest.mark.parametrize("mask_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("mask_sequences", [1, 2, 4])
def test_masks_of_several_heads_and_sequences(attend, mask_heads, mask_sequences):
    """Head h has mask h % mask heads, sequence s has mask s % mask sequences."""
    options = {"mask_heads": mask_heads, "mask_sequences": mask_sequences, "mask": "patches", "widths": (32, 32)}
    some = case(sequences=4, heads=6, kv_heads=3, queries=attend.queries(2), **options)
    attend.check(some)


@pytest.mark.parametrize("positions", [40, 300])
def test_query_that_sees_nothing_gives_zeros(attend, positions):
    """Exactly, beside others that see something, and where nothing is visible at all."""
    some = case(mask="blocked", positions=positions, queries=attend.queries(2) + 1)
    out = attend(some.inputs)
    assert not out[:, 0].any() and out[:, 1:].all()
    some = with_inputs(some, mask=np.full_like(some.inputs.mask, -np.inf))
    assert not attend(some.inputs).any()


@pytest.mark.parametrize("name", ["f16", "q5_1"])
def test_one_visible_position_gives_its_v(attend, name):
    """Exactly: its weight is 1, and nothing is added."""
    some = case(positions=150, queries=attend.queries(2), types=(name, name), widths=(32, 64))
    rows = some.inputs.q.shape
    for position in chosen_from(range(150), (0, 63, 64, 149)):
        mask = np.full_like(some.inputs.mask, -np.inf)
        mask[..., position] = 0
        wanted = np.repeat(some.v[:, position], rows[2] // some.v.shape[2], axis=1)
        out = attend(with_inputs(some, mask=mask).inputs)
        assert np.array_equal(out, np.broadcast_to(wanted[:, None], out.shape))


def test_every_position_has_its_own_place_in_the_mask(attend):
    """Of 70 positions, all are blocked but two that move; K and V differ everywhere."""
    some = case(positions=70, queries=attend.queries(1), heads=2, kv_heads=2, widths=(32, 32))
    queries = some.inputs.q.shape[1]
    for first in chosen_from(range(0, 70, queries), (0, 60)):
        mask = np.full_like(some.inputs.mask, -np.inf)
        for query in range(queries):
            mask[..., query, [(first + query) % 70, (first + 7 * query + 31) % 70]] = 0
        moved = with_inputs(some, mask=mask)
        attend.check(moved)


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 20])
@pytest.mark.parametrize("largest_bias", [4.0, 8.0])
def test_slopes(attend, heads, largest_bias):
    """ALiBi, with numbers of heads that are powers of two and others."""
    group = 2 if heads % 2 == 0 else 1
    some = case(
        heads=heads,
        kv_heads=heads // group,
        queries=attend.queries(group),
        largest_bias=largest_bias,
        mask="distance",
        widths=(32, 32),
        positions=70,
    )
    attend.check(some)


def test_slopes_by_hand(attend):
    """Eight heads have slopes 1/2, 1/4, ... 1/256; twelve have these and the odd powers of the root of 1/2.

    Two positions with equal scores and the mask 0 and -96: the second one has the weight 1 / (1 + e^(96 slope)).
    """
    queries = attend.queries(1)
    for heads, wanted in (
        (8, 2.0 ** -np.arange(1, 9)),
        (12, [*(2.0 ** -np.arange(1, 9)), *(2.0 ** -np.arange(0.5, 4, 1))]),
    ):
        q, v = np.ones((1, queries, heads, 16)), np.zeros((1, 2, heads, 16))
        v[:, 1] = 1
        mask = np.zeros((1, 1, queries, 2), np.float16)
        mask[..., 1] = -96
        out = attend(of_values(q, np.zeros_like(v), v, mask=mask, largest_bias=8).inputs)
        slopes = np.log(1 / np.float64(out[0, 0, :, 0]) - 1) / 96
        assert np.allclose(slopes, wanted, rtol=2**-20, atol=2**-28)


@pytest.mark.parametrize("positions", [40, 300])
@pytest.mark.parametrize("soft_cap, spread", [(50.0, 1.0), (50.0, 100.0), (2.0, 0.01), (1.0, 30.0), (1e-3, 1.0)])
def test_soft_caps(attend, soft_cap, spread, positions):
    """Scores far below the cap, around it, and far above."""
    some = case(soft_cap=soft_cap, spread=spread, positions=positions, queries=attend.queries(2), mask="random")
    attend.check(some)


@pytest.mark.parametrize("kind", ["causal", "random"])
@pytest.mark.parametrize("positions", [40, 300])
def test_sinks(attend, kind, positions):
    some = case(sinks=True, mask=kind, positions=positions, queries=attend.queries(2), heads=6, spread=0.3)
    attend.check(some)


@pytest.mark.parametrize("positions", [40, 300])
@pytest.mark.parametrize("sink", [-300.0, -3e38, 0.0, 20.0, 300.0, 3e38])
def test_sinks_of_any_size(attend, sink, positions):
    """A small one takes no weight, a large one all. A query that sees nothing else gives zeros."""
    queries = attend.queries(2) + 1
    some = case(positions=positions, queries=queries, mask="blocked")
    with_sinks = with_inputs(some, sinks=np.full(4, sink, np.float32))
    out = attend(with_sinks.inputs)
    with_sinks.check(out)
    assert not out[:, 0].any()
    if sink < -100:
        assert np.array_equal(out, attend(some.inputs))
    if sink > 100:
        assert not out.any()


@pytest.mark.parametrize("positions", [40, 300])
def test_all_rules_together(attend, positions):
    some = case(
        sequences=2,
        heads=6,
        queries=attend.queries(3),
        positions=positions,
        types=("q8_0", "q4_1"),
        mask="random",
        mask_heads=6,
        sinks=True,
        soft_cap=3.0,
        spread=2,
        largest_bias=8.0,
    )
    attend.check(some)


def test_mask_of_minus_zeros_is_open(attend):
    some = case(positions=70, queries=attend.queries(2), mask="open")
    minus = with_inputs(some, mask=-some.inputs.mask)
    assert np.signbit(minus.inputs.mask).all()
    assert np.array_equal(attend(minus.inputs), attend(some.inputs))


def test_open_mask_is_none(attend):
    some = case(positions=300, queries=attend.queries(2), mask="open")
    assert np.array_equal(attend(some.inputs), attend(with_inputs(some, mask=None).inputs))


@pytest.mark.parametrize("name", ["f16", "q8_0"])
def test_blocks_that_nobody_sees_are_not_read(attend, name):
    """64 more positions on either side, whose scales and values are NaN: the same bits."""
    some = case(positions=64, queries=attend.queries(2), types=(name, name), mask="random")
    inputs, wide = some.inputs, ((0, 0), (64, 64), (0, 0), (0, 0))
    longer = replace(
        inputs,
        k=replace(inputs.k, data=np.pad(inputs.k.data, wide, constant_values=0xFF)),
        v=replace(inputs.v, data=np.pad(inputs.v.data, wide, constant_values=0xFF)),
        mask=np.pad(inputs.mask, ((0, 0), (0, 0), (0, 0), (64, 64)), constant_values=-np.inf),
    )
    assert np.array_equal(attend(longer), attend(inputs))
