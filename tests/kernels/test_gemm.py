"""GEMM kernels of tables and int8 activations against the plain-C and GEMV kernels (bit for bit) and float64."""

import numpy as np
import pytest

from support.matrices import (
    FORM,
    TRITS_FORM,
    extreme,
    integer_sums,
    lowest_code,
    magnitude_of_int8,
    make,
    model_of_int8,
    unit_linear,
)
from tmac.convert.write.layout import pack
from tmac.kernels.activations import Activations
from tmac.kernels.forms import gemv_form
from tmac.kernels.isa import ISAS
from tmac.kernels.spec import KernelSpec

TABLES, TRITS, INT8, EXACT_INT8, BF16 = "tables", "trits", "int8", "exact_int8", "bf16"
pytestmark = pytest.mark.only_form(TABLES, TRITS, INT8, EXACT_INT8)


def scalar(kernel):
    return KernelSpec(kernel.type, ISAS[-1], "gemm", kernel.form).name


def tokens_of(library, kernel, x):
    return [library.prepare(kernel.name, each) for each in np.float32(x)]


def shapes(kernel):
    """(rows, cols, tokens): odd tiles; one group; several groups with a ragged last block; more columns than one and
    than two cache blocks; more tokens than a part.
    """
    block = kernel.type.block_weights
    usual = [(32, block, 1), (96, 3 * block, 2), (160, 7 * block, 5), (64, 13 * block, 13)]
    return (
        usual
        if kernel.type.group in (32, 64)
        else [*usual, (32, 4096 + 3 * block, 3), (32, 8192 + block, 2), (64, 2 * block, 131)]
    )


def test_equals_the_plain_c_kernel_bit_for_bit(library, gemm_kernel, rng):
    for rows, cols, tokens in shapes(gemm_kernel):
        matrix = make(gemm_kernel.type, rows, cols, rng)
        x = tokens_of(library, gemm_kernel, rng.standard_t(4, (tokens, cols)))
        y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x)
        assert np.isfinite(y).all()
        assert np.array_equal(y, library.gemm(scalar(gemm_kernel), matrix.packed, rows, cols, x)), (rows, cols, tokens)


def test_any_number_of_tokens(library, gemm_kernel, rng):
    """Each token has the same result as alone, however tokens are divided into blocks."""
    rows, cols = 96, 2 * gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = tokens_of(library, gemm_kernel, rng.standard_normal((48, cols)))
    alone = np.concatenate([library.gemm(gemm_kernel.name, matrix.packed, rows, cols, [each]) for each in x])
    for tokens in (*range(2, 14), 16, 17, 24, 25, 31, 32, 33, 48):
        y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x[:tokens])
        assert np.array_equal(y, alone[:tokens]), tokens


@pytest.mark.only_form(TABLES, TRITS, EXACT_INT8)
def test_gives_the_bits_of_the_gemv(library, gemm_kernel, rng):
    """A prompt gives the same numbers whether it is computed at once or token by token."""
    rows, cols, gemv = (
        96,
        5 * gemm_kernel.type.block_weights,
        KernelSpec(gemm_kernel.type, ISAS[-1], "gemv", gemv_form(gemm_kernel.precision, gemm_kernel.type.ternary)),
    )
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = np.float32(rng.standard_t(4, (14, cols)))
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, tokens_of(library, gemm_kernel, x))
    assert gemv.form == (TRITS_FORM if gemv.type.ternary else FORM)[gemv.precision]
    for token, each in zip(y, x):
        assert np.array_equal(
            token, library.gemv(gemv.name, matrix.packed, rows, cols, library.prepare(gemv.name, each))
        )


def unit_matrix(kernel, codes):
    """Packed codes with scale 1 (and any zero-points or minima: the sum of activations they multiply is 0)."""
    return pack(unit_linear(kernel.type, codes))


@pytest.mark.only_form(TABLES)
def test_each_table_group_has_its_own_step(library, gemm_kernel, rng):
    """Steps 1 to 31, extreme codes and entries: the integer part is exact (below 2^24 in each block)."""
    cols, top = 13 * 128, (1 << gemm_kernel.type.bits) - 1
    codes = rng.choice([0, top], (96, cols))
    linear = unit_linear(gemm_kernel.type, codes)
    x, expected = [], []
    for entries in (
        rng.choice([-128, 127], (cols // 4, 16)),
        np.full((cols // 4, 16), -128),
        np.full((cols // 4, 16), 127),
    ):
        x.append(Activations.empty(TABLES, cols))
        x[-1].entries[:], x[-1].scale[:] = entries & 255, 1
        steps = np.concatenate([[31] * 8, rng.integers(1, 32, cols // 32 - 8)])
        x[-1].steps[:] = steps[:, None, None] << np.arange(4)[:, None]
        sums = (integer_sums(linear, x[-1], "rounded") * steps).reshape(96, -1, 4).sum(axis=2)
        assert np.abs(sums.cumsum(axis=1)).max() < 1 << 24
        expected.append(sums.sum(axis=1).tolist())
    # So often that every way of computing several tokens at once is taken.
    y = library.gemm(gemm_kernel.name, unit_matrix(gemm_kernel, codes), 96, cols, 6 * x)
    assert y.tolist() == 6 * expected


@pytest.mark.only_form(TRITS)
def test_largest_sums_of_triples(library, gemm_kernel, rng):
    """Entries of 127 at step 31, codes of one sign and of both, indices that no code has: the bits of plain C."""
    rows, cols = 96, 3 * gemm_kernel.type.block_weights
    x = tokens_of(library, gemm_kernel, [*rng.choice([-1, 1], (3, cols)), [1] * cols, [-1] * cols])
    # More than VBMI adds up in registers.
    x = 5 * x
    assert all((each.steps[..., 0].reshape(-1, 16)[:, :11] == 31).all() for each in x)
    alike = [make(gemm_kernel.type, rows, cols, rng, np.full((rows, cols), code)).packed for code in (1, 3)]
    any_bytes = make(gemm_kernel.type, rows, cols, rng).packed
    any_bytes[: rows * cols // 128 * 27] = rng.integers(0, 256, rows * cols // 128 * 27)
    for packed in (*alike, any_bytes):
        y = library.gemm(gemm_kernel.name, packed, rows, cols, x)
        assert np.array_equal(y, library.gemm(scalar(gemm_kernel), packed, rows, cols, x))


@pytest.mark.only_form(INT8)
@pytest.mark.only_type("w4g128")
def test_preparation_as_int8(library, gemm_kernel, rng):
    """Rounding errs by at most half a step; sums are those of the rounded values; the bytes equal plain C's at all
    magnitudes.
    """
    x = np.float32(rng.standard_t(4, 416))
    prepared = library.prepare(gemm_kernel.name, x)
    values, scale = prepared.entries.view(np.int8).astype(float), np.repeat(prepared.scale.astype(float), 32)
    assert (np.abs(values * scale - x) <= scale / 2 * (1 + 1e-5)).all()
    assert np.abs(values).reshape(-1, 32).max(axis=1).tolist() == [127] * 13
    assert prepared.sum == pytest.approx((values * scale).reshape(-1, 32).sum(axis=1), rel=1e-6, abs=1e-30)
    for special in (0, 1e-40, 9e-36, 1.1e-35, 1e30, 3e38, np.inf, np.nan):
        extreme = np.float32(np.where(rng.random(416) < 0.1, special, 0))
        ours, plain = library.prepare(gemm_kernel.name, extreme), library.prepare(scalar(gemm_kernel), extreme)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours.arrays(), plain.arrays()))
    for other in (np.float16(x), np.int8(rng.integers(-128, 128, 416))):
        ours, plain = library.prepare(gemm_kernel.name, other), library.prepare(gemm_kernel.name, np.float32(other))
        assert all(np.array_equal(a, b) for a, b in zip(ours.arrays(), plain.arrays()))


@pytest.mark.only_form(INT8, EXACT_INT8)
def test_integer_part_is_exact(library, gemm_kernel, rng):
    """Random and extreme codes and int8 values, -128 included: y equals the integer sum, which a float can hold."""
    rows, top = 96, (1 << gemm_kernel.type.bits) - 1
    # Without groups, sums run on over 512 columns.
    cols = 3 * gemm_kernel.type.block_weights if gemm_kernel.type.group else 1024
    for codes, values in (
        (rng.integers(lowest_code(gemm_kernel.type), top + 1, (rows, cols)), rng.integers(-128, 128, (3, cols))),
        (np.full((rows, cols), top), np.full((3, cols), -128)),
        (np.full((rows, cols), top), np.full((3, cols), 127)),
    ):
        x = []
        for each in values:
            x.append(Activations.empty(gemm_kernel.form, cols))
            x[-1].entries[:] = each.astype(np.int8).view(np.uint8)
            x[-1].scale[:] = 1
        # Few tokens are multiplied 128 columns at a time, more than 8 are not.
        y = library.gemm(gemm_kernel.name, unit_matrix(gemm_kernel, codes), rows, cols, 3 * x)
        assert y.tolist() == 3 * (values @ codes.T).tolist()


@pytest.mark.only_form(INT8, EXACT_INT8)
def test_each_column_and_bit_counts_once(library, gemm_kernel):
    """One-hot codes, and values that differ from their neighbours, so that a swapped column, bit or row is found."""
    group, bits = gemm_kernel.type.block_weights, gemm_kernel.type.bits
    values = (np.arange(group) * 37 % 255 - 127).astype(np.int8)
    x = Activations.empty(gemm_kernel.form, group)
    x.entries[:], x.scale[:] = values.view(np.uint8), 1
    for bit in range(bits):
        lowest = lowest_code(gemm_kernel.type)
        codes = np.full((max(32, group), group), lowest, np.uint8)
        codes[np.arange(group), np.arange(group)] = lowest + (1 << bit)
        y = library.gemm(gemm_kernel.name, unit_matrix(gemm_kernel, codes), *codes.shape, [x])
        assert y[0].tolist() == (codes.astype(int) @ values.astype(int)).tolist()


def check_float_arithmetic(library, kernel, matrix, x):
    """At most eps * (operations on a row) * (sum of the magnitudes that it adds)."""
    rows, cols = matrix.shape
    y = library.gemm(kernel.name, matrix.packed, rows, cols, x)
    operations = 2 * cols // 32 + 6 * cols // (kernel.type.group or cols)
    for token, each in zip(y, x):
        bound = np.finfo(np.float32).eps * operations * magnitude_of_int8(matrix.linear, each)
        assert (np.abs(token - model_of_int8(matrix.linear, each)) <= bound).all()


@pytest.mark.only_form(INT8)
def test_float_arithmetic_within_rounding_of_float64(library, gemm_kernel, rng):
    """On the same int8 values."""
    cols = 8 * gemm_kernel.type.block_weights
    x = tokens_of(library, gemm_kernel, rng.standard_normal((2, cols)))
    check_float_arithmetic(library, gemm_kernel, make(gemm_kernel.type, 64, cols, rng), x)


@pytest.mark.only_form(INT8)
def test_extreme_weights(library, gemm_kernel, rng):
    """The lowest and the highest codes, levels and zero-points; scales and minima that are 0, subnormal, largest, of
    both signs.
    """
    cols = 5 * gemm_kernel.type.block_weights
    x = tokens_of(library, gemm_kernel, rng.standard_normal((2, cols)))
    check_float_arithmetic(library, gemm_kernel, extreme(gemm_kernel.type, 64, cols, rng), x)


# NMSE of W x, normal activations, as tests/kernels/test_gemv.py has it; int8 with a scale per 32 columns is better
NMSE_LIMIT = {TABLES: 1e-4, TRITS: 1e-4, INT8: 6e-5, EXACT_INT8: 1.6e-4}


def test_result_is_close_to_exact_arithmetic(library, gemm_kernel, rng):
    rows, cols = 256, 2048
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = rng.standard_normal((2, cols))
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, tokens_of(library, gemm_kernel, x))
    exact = x @ matrix.weights.T
    assert ((y - exact) ** 2).sum() <= NMSE_LIMIT[gemm_kernel.form] * (exact**2).sum()


@pytest.mark.only_form(TABLES, TRITS, INT8, EXACT_INT8, BF16)
def test_tile_ranges_are_independent(library, gemm_kernel, rng):
    """Any split of the tiles gives the same rows and writes no others. 7 tiles as 0+1+2+4; other rows keep a mark."""
    tiles, cols = 7, 2 * gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, 32 * tiles, cols, rng)
    x = tokens_of(library, gemm_kernel, rng.standard_normal((3, cols)))
    whole = library.gemm(gemm_kernel.name, matrix.packed, 32 * tiles, cols, x)
    y = np.full((3, 32 * tiles), 12345, np.float32)
    for first, last in ((0, 0), (0, 1), (1, 3), (3, 7)):
        y[:, 32 * first :] = 12345
        library.gemm(gemm_kernel.name, matrix.packed, 32 * tiles, cols, x, first, last, into=y)
        assert np.array_equal(y[:, : 32 * last], whole[:, : 32 * last]) and (y[:, 32 * last :] == 12345).all()


@pytest.mark.only_form(TABLES, TRITS, INT8, EXACT_INT8, BF16)
def test_memory_need_not_be_aligned(library, gemm_kernel, rng):
    """Packed bytes aligned only for uint16_t, outputs aligned only for float."""
    rows, cols = 64, gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = tokens_of(library, gemm_kernel, rng.standard_normal((2, cols)))
    shifted = np.zeros(matrix.packed.size + 2, np.uint8)[2:]
    shifted[:] = matrix.packed
    y = np.zeros((2, rows + 1), np.float32)[:, 1:]
    library.gemm(gemm_kernel.name, shifted, rows, cols, x, into=y)
    assert np.array_equal(y, library.gemm(gemm_kernel.name, matrix.packed, rows, cols, x))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_activation_reaches_every_row_of_its_token(library, gemm_kernel, rng, bad):
    """As in a dot product; no other token is affected."""
    rows, cols = 32, 2 * gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, rows, cols, rng)
    x = rng.standard_normal((3, cols))
    x[1, cols // 2 + 5] = bad
    y = library.gemm(gemm_kernel.name, matrix.packed, rows, cols, tokens_of(library, gemm_kernel, x))
    assert not np.isfinite(y[1]).any() and np.isfinite(y[[0, 2]]).all()


def test_extreme_activations(library, gemm_kernel, rng):
    """Zeros give zero, huge values no overflow."""
    cols = gemm_kernel.type.block_weights
    matrix = make(gemm_kernel.type, 32, cols, rng)
    x = tokens_of(library, gemm_kernel, [[value] * cols for value in (0, 1e-40, 1e30)])
    y = library.gemm(gemm_kernel.name, matrix.packed, 32, cols, x)
    assert np.isfinite(y).all() and (np.abs(y[:2]) <= 1e-30).all()


def test_wrong_shapes_are_refused(library, gemm_kernel):
    """Python checks what the C side has to trust."""
    x = Activations.empty(gemm_kernel.form, gemm_kernel.type.block_weights)
    with pytest.raises(ValueError, match="expected .* of uint8"):
        library.gemm(gemm_kernel.name, np.zeros(7, np.uint8), 32, gemm_kernel.type.block_weights, [x])
