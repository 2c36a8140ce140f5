"""Extreme numbers in attention kernels: exponential and tanh, peaked scores, the ends of fp16, NaN, infinity."""

import numpy as np
import pytest

from support.attention import case, of_values, with_inputs
from support.attention_model import UNIT
from support.targets import chosen_from

# Below it e^x counts as 0 (kernels/c/attention/exponential.h).
LEAST_EXPONENT = np.float32(-86.9)


def two_positions(queries, x, gap, is_last_larger):
    """One head for each x, which is at most 0. Two positions `gap` apart are visible, with the scores 0 and x.

    Of V, value 0 is the weight of the one with score x, value 1 that of the other one.
    """
    heads, positions = len(x), gap + 1
    small, large = (0, gap) if is_last_larger else (gap, 0)
    q, k, v = (
        np.zeros((1, queries, heads, 16)),
        np.zeros((1, positions, heads, 16)),
        np.zeros((1, positions, heads, 16)),
    )
    q[..., 0], k[:, small, :, 0] = x, 1
    v[:, small, :, 0] = v[:, large, :, 1] = 1
    mask = np.full((1, 1, queries, positions), -np.inf, np.float16)
    mask[..., [0, gap]] = 0
    return of_values(q, k, v, mask=mask).inputs


@pytest.mark.parametrize("is_last_larger", [False, True], ids=["larger_first", "larger_last"])
@pytest.mark.parametrize("gap", [1, 20, 70])
def test_exponential(attend, gap, is_last_larger):
    """Of the difference of two scores: within a step or a block, from one to the next, from one range to the next.

    The error of a weight w / (1 + w) is at most that of e^x, 4 roundings, and 3 of the sum and the division.
    """
    steps = chosen_from(10_001 if gap == 1 else 1001, 101)
    x = np.concatenate([np.linspace(0, -100, steps), LEAST_EXPONENT + np.arange(-20, 21) * 2.0**-17])
    x = np.float64(np.float32(x))
    inputs = two_positions(attend.queries(1), x, gap, is_last_larger)
    out, weights = np.float64(attend(inputs)), np.exp(x)
    is_counted = x >= LEAST_EXPONENT
    error = out[..., 0] / (weights / (1 + weights)) - 1
    assert np.abs(error[..., is_counted]).max() <= 7 * UNIT
    assert np.abs(out[..., 1] * (1 + weights) - 1).max() <= 7 * UNIT
    # States of ranges are put together by the C library's expf.
    lost = out[..., ~is_counted, 0]
    assert (lost <= np.exp(LEAST_EXPONENT)).all() if attend.plan(inputs).ranges > 1 else not lost.any()


@pytest.mark.parametrize("sign", [1, -1])
def test_tanh(attend, sign):
    """For scores s from far below the cap to far above: cap tanh(s / cap) is 40, so the logarithm of the weight shows
    its relative error. That of tanh is at most 2^-21 = 8 roundings; the scaling of q takes two, the cap one.
    """
    queries, worst = attend.queries(1), 0
    for part in chosen_from(np.geomspace(1e-7, 12, 150), np.geomspace(1e-7, 12, 20)):
        cap = np.float32(40 / np.tanh(part))
        q, k, v = np.zeros((1, queries, 1, 16)), np.zeros((1, 2, 1, 16)), np.zeros((1, 2, 1, 16))
        score = sign * np.float64(np.float32(cap * part))
        q[..., 0], k[:, 1, :, 0] = 1, score
        v[:, 1, :, 0] = v[:, 0, :, 1] = 1
        out = np.float64(attend(of_values(q, k, v, soft_cap=float(cap)).inputs))
        capped = np.log(out[..., 0] / out[..., 1])
        worst = max(worst, np.abs(capped / (cap * np.tanh(score / cap)) - 1).max())
    assert worst <= 12 * UNIT


def test_soft_cap_saturates(attend):
    """Scores far above the cap all count as the cap: V is averaged over them, and the others have no weight."""
    rng = np.random.default_rng(3)
    q, v = np.zeros((1, attend.queries(1), 2, 32)), rng.standard_normal((1, 30, 2, 32))
    q[..., 0] = 1
    k = np.zeros((1, 30, 2, 32))
    k[:, ::3, :, 0], k[:, 1::3, :, 0], k[:, 2::3, :, 0] = 1e4, 3e38, -3e38
    out = attend(of_values(q, k, v, soft_cap=50).inputs)
    wanted = np.delete(v, np.s_[2::3], axis=1).mean(1)
    assert np.abs(out - wanted[:, None]).max() <= 40 * UNIT * np.abs(v).max()


@pytest.mark.parametrize("positions", [40, 300])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 30.0, 1e3, 1e5])
def test_flat_and_peaked_scores(attend, spread, positions):
    """From equal weights to one that is 1."""
    some = case(spread=spread, positions=positions, queries=attend.queries(2), widths=(64, 64), mask="random")
    attend.check(some)


@pytest.mark.parametrize("largest", [0, 17, 63, 64, 149])
def test_scores_far_apart(attend, largest):
    """One score is 10,000, the others are 0 and -10,000: the result is the V of that position, exactly."""
    rng = np.random.default_rng(4)
    q, k, v = np.zeros((1, attend.queries(2), 4, 32)), np.zeros((1, 150, 2, 32)), rng.standard_normal((1, 150, 2, 32))
    q[..., 7], k[:, ::2, :, 7], k[:, largest, :, 7] = 1e4, -1, 1
    some = of_values(q, k, v)
    wanted = np.repeat(some.v[:, largest], 2, axis=1)[:, None]
    assert np.array_equal(attend(some.inputs), np.broadcast_to(wanted, some.expected.shape))


@pytest.mark.parametrize("name", ["f32", "f16"])
@pytest.mark.parametrize("positions", [40, 300])
@pytest.mark.parametrize("size", [6e-8, 3e-5, 3e4])
def test_ends_of_fp16(attend, size, positions, name):
    """K and V near the largest fp16 number, and subnormal ones; q makes the scores ordinary numbers."""
    rng = np.random.default_rng(5)
    queries = attend.queries(2)
    q = rng.standard_normal((1, queries, 4, 64)) / 8 / size
    k, v = (np.clip(rng.standard_normal((1, positions, 2, 64)) * size, -65504, 65504) for _ in "kv")
    some = of_values(q, k, v, (name, name))
    attend.check(some)


@pytest.mark.parametrize("name", ["f32", "f16", "q8_0", "q4_1"])
def test_zeros(attend, name):
    """K of zeros weighs all V alike; V of zeros gives zeros."""
    rng = np.random.default_rng(6)
    q, zeros = rng.standard_normal((1, attend.queries(2), 4, 32)), np.zeros((1, 100, 2, 32))
    values = rng.standard_normal((1, 100, 2, 32))
    flat = of_values(q, zeros, values, (name, name))
    attend.check(flat)
    assert np.abs(flat.expected - np.repeat(flat.v.mean(1), 2, axis=1)[:, None]).max() < 1e-15
    assert not attend(of_values(q, values, zeros, (name, name)).inputs).any()


def special(attend, where, number, at=(1, 30, 1, 5)):
    """A case of two sequences and two KV heads, without and with a number in q, K or V.

    at: sequence, query or position, head, value
    """
    rng, queries = np.random.default_rng(7), attend.queries(2)
    arrays = {
        "q": rng.standard_normal((2, queries, 4, 32)),
        "k": rng.standard_normal((2, 40, 2, 32)),
        "v": rng.standard_normal((2, 40, 2, 32)),
    }
    plain = of_values(**arrays)
    changed = arrays | {where: arrays[where].copy()}
    changed[where][at] = number
    return plain, of_values(**changed)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_bad_number_in_q(attend, number):
    """Its row has no finite result, all others have the same bits as without it."""
    plain, changed = special(attend, "q", number, at=(1, 0, 2, 5))
    out, wanted = attend(changed.inputs), attend(plain.inputs)
    assert np.isnan(out[1, 0, 2]).all()
    wanted[1, 0, 2] = np.nan
    assert np.array_equal(out, wanted, equal_nan=True)


def test_nan_in_k(attend):
    """The rows of the query heads that share the head see it, and no others."""
    plain, changed = special(attend, "k", np.nan)
    out, wanted = attend(changed.inputs), attend(plain.inputs)
    wanted[1, :, 2:] = np.nan
    assert np.array_equal(out, wanted, equal_nan=True)


def test_nan_in_v(attend):
    """Of the rows that see it, this value, and no other one."""
    plain, changed = special(attend, "v", np.nan)
    out, wanted = attend(changed.inputs), attend(plain.inputs)
    wanted[1, :, 2:, 5] = np.nan
    assert np.array_equal(out, wanted, equal_nan=True)


@pytest.mark.parametrize("where", ["k", "v"])
def test_nan_behind_a_mask(attend, where):
    """Rows that see it are NaN; other sequences and KV heads are not. A row that does not see it may be NaN, too."""
    _, changed = special(attend, where, np.nan)
    mask = np.zeros((2, 1, changed.inputs.q.shape[1], 40), np.float16)
    mask[:, :, 0, 30] = -np.inf
    out = attend(with_inputs(changed, mask=mask).inputs)
    assert np.isnan(out[1, 1:, 2:, 5]).all() and np.isfinite(out[0]).all() and np.isfinite(out[1, :, :2]).all()


@pytest.mark.parametrize("number", [np.inf, -np.inf])
def test_infinity_in_k(attend, number):
    """A score of infinity makes NaN. One of -infinity has no weight, or makes NaN too if floats are split (AMX)."""
    plain, changed = special(attend, "k", number)
    out, wanted = attend(changed.inputs), attend(plain.inputs)
    is_positive = changed.inputs.q[1, :, 2:, 5] * number > 0
    assert is_positive.any() and not is_positive.all()
    that_see_it, others = out[1, :, 2:], np.ones(out.shape[:3], bool)
    others[1, :, 2:] = False
    assert np.isnan(that_see_it[is_positive]).all() and np.array_equal(out[others], wanted[others])
    mask = np.zeros((2, 1, out.shape[1], 40), np.float16)
    mask[1, :, :, 30] = -np.inf
    without = with_inputs(plain, mask=mask)
    is_nan = np.isnan(that_see_it).all(-1)
    away, bound = np.abs(that_see_it - without.expected[1, :, 2:]), without.bound()[1, :, 2:]
    assert (away <= bound)[~is_nan].all()


@pytest.mark.parametrize("number", [np.inf, -np.inf])
def test_infinity_in_v(attend, number):
    """Every row that sees it has no finite number there, and the others are what they were."""
    plain, changed = special(attend, "v", number)
    out, wanted = attend(changed.inputs), attend(plain.inputs)
    assert not np.isfinite(out[1, :, 2:, 5]).any()
    out[1, :, 2:, 5] = wanted[1, :, 2:, 5]
    assert np.array_equal(out, wanted)
