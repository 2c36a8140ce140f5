"""GEMM kernels of bfloat16 activations against exact integers and float64 on the same numbers; how they are rounded."""

import numpy as np
import pytest

from support.matrices import (
    by_column,
    lowest_code,
    make,
    matrix_of,
    minima_of,
    random_factors,
    scales_of,
    unit_linear,
    with_factors,
    zero_points,
)
from tmac.kernels.activations import Activations

pytestmark = pytest.mark.only_form("bf16")

FLOAT_EPS, BF16_EPS = np.finfo(np.float32).eps, 2.0**-8


def bfloat16(x):
    """float32 numbers rounded to nearest even: uint16."""
    bits = np.float32(x).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def floats(rounded):
    return (rounded.astype(np.uint32) << 16).view(np.float32)


def values_of(x):
    """The values of prepared activations: float64 [K]."""
    return floats(x.entries.view(np.uint16)[:, 0]).astype(np.float64)


def tokens_of(library, kernel, x):
    return [library.prepare(kernel.name, each) for each in np.float32(x)]


def bfloat16_weights(linear):
    """The bfloat16 weights that a kernel multiplies by: float64 [M, K]. Each is rounded once, with minima to a float
    before.
    """
    centred = linear.codes - by_column(linear, zero_points(linear))
    exact = centred * by_column(linear, scales_of(linear)) + by_column(linear, minima_of(linear))
    return floats(bfloat16(exact)).astype(np.float64)


def whole_numbers(kernel, rows, groups, rng):
    """Packed weights that are integers below 256 or halves below 128, and their values."""
    cols = groups * kernel.type.block_weights
    codes = rng.integers(lowest_code(kernel.type), 1 << kernel.type.bits, (rows, cols))
    chosen = {
        "scales": [-2, -1, 0.5, 1, 2],
        "zeros": 16 * np.arange(16),
        "minima": np.arange(-4, 5),
        "levels": [0, 1, 2],
        "minimum_levels": [0, 1, 2],
    }
    factors = {
        name: None if like is None else rng.choice(chosen[name], like.shape).astype(like.dtype)
        for name, like in random_factors(kernel.type, rows, cols, rng).items()
    }
    matrix = matrix_of(with_factors(kernel.type, codes, factors))
    return matrix.packed, matrix.weights


@pytest.mark.parametrize("tokens", [1, 5, 33])
def test_small_whole_numbers_are_exact(library, gemm_kernel, rng, tokens):
    packed, weights = whole_numbers(gemm_kernel, 96, 5, rng)
    x = rng.integers(-8, 9, (tokens, weights.shape[1]))
    y = library.gemm(gemm_kernel.name, packed, *weights.shape, tokens_of(library, gemm_kernel, x))
    assert np.array_equal(y, x @ weights.T)


def test_each_column_and_bit_counts_once(library, gemm_kernel):
    """One-hot codes, and activations that all differ, so that a swapped column, bit or row is found."""
    group, bits = gemm_kernel.type.block_weights, gemm_kernel.type.bits
    values = np.arange(group) * 37 % 255 - 127
    x = tokens_of(library, gemm_kernel, values[None])
    for bit in range(bits):
        lowest = lowest_code(gemm_kernel.type)
        codes = np.full((max(32, group), group), lowest, np.uint8)
        codes[np.arange(group), np.arange(group)] = lowest + (1 << bit)
        linear = unit_linear(gemm_kernel.type, codes)
        if linear.zeros is not None:
            linear.zeros[:] = 0
        matrix = matrix_of(linear)
        y = library.gemm(gemm_kernel.name, matrix.packed, *codes.shape, x)
        assert np.array_equal(y[0], matrix.weights @ values)


def shapes(kernel):
    """(rows, cols, tokens): one group, odd tiles, ragged last ranges, more columns than a slab, more tokens than a
    part.
    """
    block = kernel.type.block_weights
    return [(32, block, 1), (96, 3 * block, 2), (160, 7 * block, 17), (32, 4096 + 3 * block, 33), (64, 9 * block, 150)]


@pytest.mark.parametrize("index", range(5))
def test_float_arithmetic_within_rounding_of_float64(library, gemm_kernel, rng, index):
    """On the same bfloat16 numbers: at most eps * columns * (sum of the magnitudes that are added)."""
    rows, cols, tokens = shapes(gemm_kernel)[index]
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = tokens_of(library, gemm_kernel, rng.standard_t(4, (tokens, cols)))
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x)
    weights, values = bfloat16_weights(matrix.linear), np.array([values_of(each) for each in x])
    assert (np.abs(y - values @ weights.T) <= FLOAT_EPS * cols * (np.abs(values) @ np.abs(weights.T))).all()


@pytest.mark.parametrize("slabs", [1, 2])
def test_many_results_wherever_they_lie(library, gemm_kernel, rng, slabs):
    """Results of more than a megabyte bypass the caches, if each row begins a cache line and there is one slab of
    columns.
    """
    rows, tokens, cols = 2048, 131, gemm_kernel.type.block_weights + (4096 if slabs == 2 else 0)
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = tokens_of(library, gemm_kernel, rng.standard_normal((tokens, cols)))
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x)
    elsewhere = np.zeros((tokens, rows + 1), np.float32)[:, 1:]
    library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x, into=elsewhere)
    assert y.ctypes.data % 64 == 0 and np.array_equal(y, elsewhere)
    assert np.array_equal(y[:, :64], library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x, 0, 2)[:, :64])


def test_result_is_close_to_exact_arithmetic(library, gemm_kernel, rng):
    """Weights and activations are each rounded by at most eps / 2; a third of its square is 5e-6."""
    rows, cols = 256, 2048
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = rng.standard_normal((2, cols))
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, tokens_of(library, gemm_kernel, x))
    exact = x @ matrix.weights.T
    assert ((y - exact) ** 2).sum() <= 2 * (BF16_EPS / 2) ** 2 * (exact**2).sum()


@pytest.mark.parametrize("tokens", [2, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 129])
def test_any_number_of_tokens(library, gemm_kernel, rng, tokens):
    """Each token has the same result as alone, however tokens are divided into blocks."""
    rows, cols = 64, 9 * gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = tokens_of(library, gemm_kernel, rng.standard_normal((tokens, cols)))
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x)
    for t in {0, tokens // 2, tokens - 1}:
        assert np.array_equal(y[t], library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x[t : t + 1])[0])


def in_one_buffer(x):
    """The same activations, with the entries of all tokens in one buffer."""
    entries = np.stack([each.entries for each in x])
    return [
        Activations(own, each.steps, each.scale, each.sum, each.half_sum, each.output_scale)
        for own, each in zip(entries, x)
    ]


@pytest.mark.parametrize("tokens", [3, 40])
def test_tokens_may_lie_anywhere(library, gemm_kernel, rng, tokens):
    """Tokens at a constant distance from each other, in reverse order, or at unrelated places."""
    rows, cols = 32, 2 * gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = in_one_buffer(tokens_of(library, gemm_kernel, rng.standard_normal((tokens, cols))))
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x)
    for order in (np.arange(tokens)[::-1], rng.permutation(tokens)):
        shuffled = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, [x[t] for t in order])
        assert np.array_equal(shuffled, y[order])


@pytest.mark.parametrize("bad", [np.nan, np.inf, np.finfo(np.float32).max])
def test_non_finite_activation_reaches_every_row_of_its_token(library, gemm_kernel, rng, bad):
    """As in a dot product; no other token is affected. A number that rounds to infinity counts as infinite."""
    rows, cols = 32, 2 * gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = rng.standard_normal((3, cols))
    x[1, cols // 2 + 5] = bad
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, tokens_of(library, gemm_kernel, x))
    assert not np.isfinite(y[1]).any() and np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize("value", [0, 1e-45])
def test_zeros_and_denormals_give_zero(library, gemm_kernel, rng, value):
    cols = gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, 32, cols, rng)
    x = tokens_of(library, gemm_kernel, np.full((2, cols), value))
    assert not library.gemm(gemm_kernel.name, matrix.packed, 32, cols, x).any()


def test_preparation_rounds_to_nearest_even(library, gemm_kernel, rng):
    """Ties and numbers that round up into the next exponent included; a short last block."""
    x = np.float32(rng.standard_t(4, 416))
    x[:8] = [1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 2 - 2.0**-9, 0, -0.0, 1e-40, -3e38]
    prepared = library.prepare(gemm_kernel.name, x)
    assert np.array_equal(prepared.entries.view(np.uint16)[:, 0], bfloat16(x))


def test_preparation_of_parts_and_other_inputs(library, gemm_kernel, rng):
    x = rng.standard_normal(512).astype(np.float16)
    whole = library.prepare(gemm_kernel.name, x)
    parts = Activations.empty(gemm_kernel.form, 512)
    for first, last in ((2, 4), (0, 2)):
        library.prepare(gemm_kernel.name, np.float32(x), first, last, into=parts)
    assert np.array_equal(parts.entries, whole.entries)
