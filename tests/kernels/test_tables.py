"""The table builders: hand-computed entries, the same bytes on every instruction set, and non-finite input."""

import numpy as np
import pytest

from support.matrices import entries_of, scale_by_group, steps_of
from support.targets import target_machine
from tmac.common.format import TmacType
from tmac.kernels.catalog import gemv_isas_for
from tmac.kernels.spec import KernelSpec

ANY_TYPE = TmacType(4, 32)
KERNELS = [KernelSpec(ANY_TYPE, isa, "gemv", "tables") for isa in gemv_isas_for(target_machine())]
EXACT_KERNELS = [KernelSpec(ANY_TYPE, isa, "gemv", "exact_tables") for isa in gemv_isas_for(target_machine())]


@pytest.fixture(params=KERNELS, ids=lambda k: k.prepare_symbol)
def builder(request, library):
    if not library.runs_here(request.param.name):
        pytest.skip(f"this CPU lacks {' '.join(request.param.isa.features)}")
    return lambda x, *args, **kwargs: library.prepare(request.param.name, np.float32(x), *args, **kwargs)


@pytest.fixture(params=EXACT_KERNELS, ids=lambda k: k.prepare_symbol)
def exact_builder(request, library):
    if not library.runs_here(request.param.name):
        pytest.skip(f"this CPU lacks {' '.join(request.param.isa.features)}")
    return lambda x, *args, **kwargs: library.prepare(request.param.name, x, *args, **kwargs)


def same(a, b):
    return all(np.array_equal(u, v, equal_nan=True) for u, v in zip(a.arrays(), b.arrays()))


def test_entries_by_hand(builder):
    """x = 1, 2, 4, 8 then zeros: entry i is 2i - 15 in units of 15/127, by the definition in tmac.h."""
    x = np.zeros(32)
    x[:4] = 1, 2, 4, 8
    tables = builder(x)
    expected = np.rint((2 * np.arange(16) - 15) * np.float32(127 / 15))
    assert entries_of(tables)[0].tolist() == expected.tolist()
    assert not entries_of(tables)[1:].any()
    assert tables.steps.tolist() == [[[31 << plane] * 4 for plane in range(4)]]
    assert tables.scale.tolist() == [np.float32(15) / np.float32(254 * 31)]
    assert tables.sum.tolist() == [15]


def test_one_hot_activation_fills_the_range(builder):
    """A single non-zero activation gives +127 or -127 in its quad, by the sign bit in the index."""
    for k in range(32):
        tables = builder(np.eye(32)[k] * -3)
        bit = np.arange(16) >> k % 4 & 1
        assert entries_of(tables)[k // 4].tolist() == np.where(bit, -127, 127).tolist()
        assert np.count_nonzero(entries_of(tables)) == 16
        assert tables.sum[0] == -3


@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_all_builders_write_the_same_bytes(builder, library, rng, scale):
    """Random activations of every magnitude: equal to the plain-C builder, floats included."""
    x = np.float32(rng.standard_normal(4096) * scale)
    x[::97] *= 30
    assert same(builder(x), library.prepare(KERNELS[-1].name, x))


@pytest.mark.parametrize(
    "special", [0, 1e-45, 1e-38, 2.4e-35, 2.6e-35, 1e-34, 8e37, 9e37, 3e38, np.inf, -np.inf, np.nan]
)
def test_all_builders_agree_at_the_ends_of_the_range(builder, library, rng, special):
    """Zero, denormals, both sides of the smallest usable table (1e-34) and of overflow, infinities, NaN."""
    for x in (
        np.full(32, special),
        np.where(rng.random(32) < 0.2, special, 0),
        np.where(rng.random(32) < 0.2, special, rng.standard_normal(32)),
    ):
        ours, plain = builder(x), library.prepare(KERNELS[-1].name, np.float32(x))
        assert np.array_equal(ours.entries, plain.entries) and np.array_equal(ours.scale, plain.scale)
        assert np.array_equal(ours.steps, plain.steps)
        assert np.array_equal(np.isfinite(ours.sum), np.isfinite(plain.sum))
        assert np.array_equal(ours.sum[np.isfinite(ours.sum)], plain.sum[np.isfinite(plain.sum)])


def test_rounding_error_is_at_most_half_a_step(builder, rng):
    """Against float64 sums: |entry * step * 2 * scale - sum| <= step * scale, plus float rounding of the sum."""
    x = np.float32(rng.standard_t(4, 1024))
    tables = builder(x)
    signs = np.where(np.arange(16)[:, None] >> np.arange(4) & 1, 1.0, -1.0)
    exact = x.astype(np.float64).reshape(-1, 4) @ signs.T
    step = 2 * np.repeat(scale_by_group(tables), 8)[:, None]
    rounding = 8 * np.finfo(np.float32).eps * np.abs(x).reshape(-1, 4).sum(axis=1, keepdims=True)
    assert (np.abs(entries_of(tables) * step - exact) <= step / 2 + rounding).all()


def test_sums_are_those_of_the_activations(builder, rng):
    x = np.float32(rng.standard_normal(512))
    bound = 32 * np.finfo(np.float32).eps * np.abs(x).reshape(-1, 32).sum(axis=1)
    tables = builder(x)
    assert (np.abs(tables.sum - x.astype(np.float64).reshape(-1, 32).sum(axis=1)) <= bound).all()
    halves = x.astype(np.float64).reshape(-1, 2, 16).sum(axis=2)
    assert not tables.half_sum.size or (np.abs(tables.half_sum - halves) <= bound[:, None]).all()


def test_zeros_and_what_counts_as_zero(builder):
    """All-zero and denormal activations: entries 0, scale 0, no division by zero."""
    for x in (np.zeros(64), np.full(64, 1e-40)):
        tables = builder(x)
        assert not entries_of(tables).any() and not tables.scale.any()
        assert np.isfinite(tables.sum).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_non_finite_activation_makes_its_sum_non_finite(builder, bad):
    """NaN, infinity, or four activations that overflow: the group's sum is not finite; other groups are unaffected."""
    x = np.ones(96)
    x[40:42] = bad
    x[42] = -bad
    tables = builder(x)
    assert not np.isfinite(tables.sum[1])
    assert not tables.half_sum.size or not np.isfinite(tables.half_sum[1]).all()
    assert tables.sum[[0, 2]].tolist() == [32, 32] and (np.abs(entries_of(tables)[:8]) <= 127).all()


def test_steps_follow_the_groups(builder):
    """Groups whose largest sums are in the ratio 31 : 15.5 : 1 : 0.01 get steps 31, 16, 1 and 1, so no entry is
    clipped.
    """
    x = np.zeros(128)
    x[[0, 32, 64, 96]] = 31, 15.5, 1, 0.01
    tables = builder(x)
    assert steps_of(tables).tolist() == [31, 16, 1, 1]
    assert [np.abs(entries_of(tables)[8 * i]).max() for i in range(4)] == [127, 123, 127, 1]


def test_steps_leave_little_of_the_range_unused(builder, rng):
    """A step is at most one larger than its group needs, so the group's largest entry is at least 127 * s / (s + 1)."""
    tables = builder(np.float32(rng.standard_t(4, 128 * 64)))
    highest = np.abs(entries_of(tables)).reshape(-1, 128).max(axis=1)
    steps = steps_of(tables)
    assert steps.reshape(-1, 4).max(axis=1).tolist() == [31] * 64 and steps.min() >= 1
    assert (highest[steps > 1] >= 127 * (steps[steps > 1] - 1) / steps[steps > 1] - 1).all() and highest.max() == 127


def test_last_block_may_be_short(builder, library, rng):
    for groups in (1, 2, 3, 5, 7):
        x = np.float32(rng.standard_normal(32 * groups))
        tables = builder(x)
        assert tables.scale.size == -(-groups // 4) and tables.scale.all()
        assert same(tables, library.prepare(KERNELS[-1].name, x))


def test_parts_make_the_whole(builder, rng):
    """Threads build ranges of blocks in one buffer; nothing outside a range is written."""
    x = np.float32(rng.standard_normal(32 * 11))
    whole = builder(x)
    parts = builder(x, 0, 1)
    assert not parts.entries[32:].any() and not parts.sum[4:].any() and not parts.scale[1:].any()
    builder(x, 1, 2, into=parts)
    builder(x, 2, 3, into=parts)
    assert same(parts, whole)


def test_float16_input_is_its_value(builder, library, rng):
    """Every half-precision number, and random ones: the same tables as from the same numbers in float32."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for x in (every[np.isfinite(every)].reshape(-1, 32).ravel(), np.float16(rng.standard_normal(512))):
        name = KERNELS[-1].name
        assert same(library.prepare(name, x), builder(np.float32(x)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_float16_input(builder, library, bad):
    x = np.ones(96, np.float16)
    x[40] = bad
    tables = library.prepare(KERNELS[0].name, x)
    assert not np.isfinite(tables.sum[1])
    assert not tables.half_sum.size or (
        not np.isfinite(tables.half_sum[1]).all() and tables.sum[[0, 2]].tolist() == [32, 32]
    )


def test_int8_input_is_scaled(builder, library, rng):
    x = rng.integers(-128, 128, 512).astype(np.int8)
    for kernel in KERNELS:
        if library.runs_here(kernel.name):
            tables = library.prepare(kernel.name, x, scale=0.37)
            assert same(tables, builder(np.float32(x) * np.float32(0.37)))


def test_exact_entries_by_hand(exact_builder):
    """x = 1, 2, 4, 127, then zeros: int8 activations are x, the scale is 1, entry i is the signed sum in two bytes."""
    x = np.zeros(32, np.float32)
    x[:4] = 1, 2, 4, 127
    tables = exact_builder(x)
    signs = np.where(np.arange(16)[:, None] >> np.arange(4) & 1, 1, -1)
    expected = signs @ [1, 2, 4, 127]
    assert tables.entries[0, 0, 0].tolist() == (expected & 255).tolist()
    assert tables.entries[0, 1, 0].tolist() == (expected >> 8 & 255).tolist()
    assert not entries_of(tables)[1:].any()
    assert (tables.scale.tolist(), tables.sum.tolist(), tables.output_scale.tolist()) == ([0.5], [134], [1])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_exact_builders_write_the_same_bytes(exact_builder, library, rng, dtype):
    x = (rng.standard_normal(4096) * 20).astype(dtype)
    x[::97] = -128 if dtype == np.int8 else 300
    assert same(exact_builder(x, scale=0.5), library.prepare(EXACT_KERNELS[-1].name, x, scale=0.5))


def test_exact_scale_is_that_of_the_whole_vector(exact_builder, rng):
    """Threads build ranges of one vector. All use the largest magnitude of all columns; the first writes the scale."""
    x = np.float32(rng.standard_normal(32 * 7))
    x[-1] = 9
    whole, parts = exact_builder(x), exact_builder(x, 0, 1)
    assert whole.output_scale == np.float32(9) / np.float32(127)
    exact_builder(x, 1, 2, into=parts)
    assert same(parts, whole)


def test_exact_int8_activations_stay_as_they_are(exact_builder, rng):
    x = rng.integers(-128, 128, 512).astype(np.int8)
    tables = exact_builder(x, scale=0.25)
    assert tables.output_scale == np.float32(0.25)
    assert entries_of(tables)[:, 15].tolist() == x.astype(int).reshape(-1, 4).sum(axis=1).tolist()
    assert tables.sum.tolist() == x.astype(int).reshape(-1, 32).sum(axis=1).tolist()


@pytest.mark.parametrize("special", [0, 1e-45, 1e-38, 9e-6, 1e-5, 1.1e-5, 3e38])
def test_exact_tables_at_the_ends_of_the_range(exact_builder, library, rng, special):
    """For magnitudes below 1e-5 the scale stays that of 1e-5, as in BitNet's training. Nothing overflows."""
    x = np.float32(np.where(rng.random(64) < 0.5, special, -special))
    tables = exact_builder(x)
    assert same(tables, library.prepare(EXACT_KERNELS[-1].name, x))
    assert tables.output_scale == max(np.float32(special), np.float32(1e-5)) / np.float32(127)
    assert np.abs(entries_of(tables)).max() <= 508


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_activation_makes_the_exact_scale_non_finite(exact_builder, bad):
    x = np.ones(96, np.float32)
    x[40] = bad
    tables = exact_builder(x)
    assert not np.isfinite(tables.output_scale) and not entries_of(tables).any()
