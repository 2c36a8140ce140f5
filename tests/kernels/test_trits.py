"""Lookup tables of ternary weights: the bytes of every builder, against hand-computed ones and each other."""

import numpy as np
import pytest

from support import targets
from support.matrices import TRIPLES, entries_of
from tmac.common.format import TYPES_BY_NAME
from tmac.kernels.activations import Activations
from tmac.kernels.catalog import gemv_isas_for
from tmac.kernels.isa import ISAS
from tmac.kernels.spec import KernelSpec

TYPE = TYPES_BY_NAME["t3g128"]


def name_of(isa, form):
    return KernelSpec(TYPE, isa, "gemv", form).name


@pytest.fixture(params=["trits", "exact_trits"])
def form(request):
    return request.param


@pytest.fixture(params=gemv_isas_for(targets.target_machine()), ids=lambda isa: isa.name)
def isa(request, library):
    if not library.runs_here(name_of(request.param, "trits")):
        pytest.skip(f"this CPU lacks {' '.join(request.param.features)}")
    return request.param


def sums_of(x):
    """float64 [K / 128, 43, 14]: the sums of three that index 0 to 13 stand for, by their digits."""
    index = np.arange(14)
    digits, rest = [], index
    for _ in range(3):
        digits.append((rest + 1) % 3 - 1)
        rest = (rest - digits[-1]) // 3
    columns = np.zeros((len(x) // 128, 3 * TRIPLES))
    columns[:, :128] = np.asarray(x, np.float64).reshape(-1, 128)
    return columns.reshape(len(columns), TRIPLES, 3) @ np.array(digits)


def same(ours, plain):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours.arrays(), plain.arrays()))


def test_entries_by_hand(library, isa):
    """x0 = 3, x1 = 2, x2 = 1: the largest sum is 6, an entry of 127 with step 31."""
    x = np.zeros(128, np.float32)
    x[:3] = 3, 2, 1
    found = library.prepare(name_of(isa, "trits"), x)
    sums = [0, 3, 2 - 3, 2, 2 + 3, 1 - 2 - 3, 1 - 2, 1 - 2 + 3, 1 - 3, 1, 1 + 3, 1 + 2 - 3, 1 + 2, 1 + 2 + 3]
    assert entries_of(found)[0, 0, :14].tolist() == [round(127 * sum_ / 6) for sum_ in sums]
    assert not entries_of(found)[0, 1:].any() and not entries_of(found)[0, 0, 14:].any()
    assert found.steps[..., 0].reshape(-1).tolist() == [31, 31] + 14 * [1] and found.scale[0] == np.float32(6) / (
        127 * 31
    )


def test_all_builders_write_the_same_bytes(library, isa, form, rng):
    for scale in (1e-30, 1, 1e30):
        x = np.float32(rng.standard_t(4, 512) * scale)
        plain = library.prepare(name_of(ISAS[-1], form), x)
        assert same(library.prepare(name_of(isa, form), x), plain)
        assert np.abs(entries_of(plain)).max() <= (127 if form == "trits" else 381)


@pytest.mark.parametrize("special", [0, 1e-40, 9e-35, 1.1e-34, 1e38, np.inf, -np.inf, np.nan])
def test_all_builders_agree_at_the_ends_of_the_range(library, isa, form, rng, special):
    x = np.float32(np.where(rng.random(384) < 0.1, special, 0))
    found = library.prepare(name_of(isa, form), x)
    assert same(found, library.prepare(name_of(ISAS[-1], form), x))
    if form == "trits":
        assert np.isfinite(found.sum).all() == (np.isfinite(special) and 3 * abs(special) < 3.4e38)


def test_rounding_error_is_at_most_half_a_step(library, isa, rng):
    """Of each line, four triples: half an entry's step, and the rounding of the factor."""
    x = np.float32(rng.standard_t(4, 1024))
    found = library.prepare(name_of(isa, "trits"), x)
    steps = np.repeat(found.steps[..., 0].reshape(-1, 16), 4, axis=1)[:, :TRIPLES, None].astype(float)
    units = steps * found.scale[:, None, None]
    values = entries_of(found)[:, :TRIPLES, :14] * units
    assert (np.abs(values - sums_of(x)) <= units * (0.5 + 1e-4)).all()


def test_steps_follow_their_columns(library, isa):
    """Each 24 columns have a step of their own, also the last 8 of a block."""
    x = np.ones(128, np.float32)
    x[24:48], x[120:] = 0.5, 1 / 30
    found = library.prepare(name_of(isa, "trits"), x)
    assert found.steps[..., 0].reshape(-1)[:11].tolist() == [31, 31, 16, 16] + 6 * [31] + [2]


def test_tables_of_prompts_are_the_same(library, isa, rng):
    """Behind the others, by block: entries + 128, then steps, pairs of steps, the scale, and 0 or a NaN."""
    x = np.float32(rng.standard_t(4, 384))
    x[300] = np.inf
    found = library.prepare(name_of(isa, "trits"), x)
    blocks = found.entries.reshape(2, 3, 12, 64)
    assert np.array_equal(blocks[1, :, :11], blocks[0, :, :11] ^ 128)
    steps = found.steps[..., 0].reshape(3, 16).astype(np.uint32)[:, :11:2]
    numbers = np.ascontiguousarray(blocks[1, :, 11]).view(np.uint32)
    assert np.array_equal(numbers[:, :6], steps)
    assert np.array_equal(numbers[:, 6:9], steps[:, ::2] | steps[:, 1::2] << 16)
    assert np.array_equal(numbers[:, 9].copy().view(np.float32), found.scale)
    start = numbers[:, 10].copy().view(np.float32)
    assert (start[:2] == 0).all() and np.isnan(start[2]) and not numbers[:, 11:].any()


def test_exact_entries_are_the_sums(library, isa, rng):
    x = np.int8(rng.integers(-128, 128, 512))
    found = library.prepare(name_of(isa, "exact_trits"), x, scale=0.37)
    assert np.array_equal(entries_of(found)[:, :TRIPLES, :14], sums_of(x))
    assert not entries_of(found)[:, TRIPLES:].any()
    assert found.output_scale[0] == np.float32(0.37) and found.scale.tolist() == [1] * 4


def test_parts_and_other_inputs(library, isa, form, rng):
    x = rng.standard_normal(512).astype(np.float16)
    whole = library.prepare(name_of(isa, form), x)
    parts = Activations.empty(form, 512)
    for first, last in ((2, 4), (0, 2)):
        library.prepare(name_of(isa, form), np.float32(x), first, last, into=parts)
    assert same(parts, whole)
