"""Every GEMV kernel against exact integers, the plain-C kernel and float64."""

import numpy as np
import pytest

from support.matrices import (
    FORM,
    TRIPLES,
    TRIT_TABLES,
    TRITS_FORM,
    by_column,
    extreme,
    integer_sums,
    lowest_code,
    make,
    minima_of,
    model_of_tables,
    scale_by_group,
    scales_of,
    steps_of,
    unit_linear,
    zero_points,
)
from tmac.convert.write.layout import pack
from tmac.kernels.activations import Activations
from tmac.kernels.isa import ISAS
from tmac.kernels.spec import KernelSpec

COLUMNS_IN_GROUPS = (1, 3, 8)


LIMITS = {"rounded": (-128, 127), "exact": (-512, 512), "fast": (-128, 127)}
# Of ternary weights, whose entries may be subtracted.
TRITS_LIMITS = {"rounded": (-127, 127), "exact": (-384, 384)}


def limits(kernel):
    return (TRITS_LIMITS if kernel.type.ternary else LIMITS)[kernel.precision]


def table_count(kernel, cols):
    """Tables in memory for so many columns."""
    return cols // 128 * TRIT_TABLES if kernel.type.ternary else cols // 4


def integer_tables(kernel, entries: np.ndarray) -> Activations:
    """Tables of signed entries [tables, 16] with which y is the integer sum: scale 1, sums of activations 0."""
    return trit_tables(kernel.precision, entries) if kernel.type.ternary else plane_tables(kernel.precision, entries)


def trit_tables(precision, entries):
    tables = Activations.empty(TRITS_FORM[precision], len(entries) // TRIT_TABLES * 128)
    tables.scale[:], tables.steps[:] = 1, 1
    sums = np.asarray(entries, np.int64).reshape(-1, TRIT_TABLES, 16).copy()
    sums[:, TRIPLES:] = 0  # the tables that a block does not have
    sums = sums.reshape(-1, TRIT_TABLES // 4, 4, 16)
    high = (sums + 2) >> 2
    signed = (np.stack([sums - 4 * high, high], axis=2) if precision == "exact" else sums) & 255
    tables.entries.reshape(-1)[: signed.size] = signed.reshape(-1)  # the tables of a GEMM follow
    return tables


def plane_tables(precision, entries):
    cols = 4 * len(entries)
    tables = Activations.empty(FORM[precision], cols)
    tables.scale[:] = 1
    tables.steps[:] = (1 << np.arange(4))[:, None]
    if precision == "exact":
        sums = np.asarray(entries, np.int64).reshape(-1, 4, 16)
        tables.entries[:] = np.stack([sums & 255, sums >> 8 & 255], axis=1)
    else:
        tables.entries[:] = np.asarray(entries, np.int64) & 255
    return tables


def unit_matrix(kernel, codes):
    """Packed codes with scale 1 (and any zero-points: the sum of activations they multiply is 0)."""
    linear = unit_linear(kernel.type, codes)
    return linear, pack(linear)


def scalar(kernel):
    return KernelSpec(kernel.type, ISAS[-1], "gemv", kernel.form).name


@pytest.mark.parametrize("entry_kind", ["random", "lowest", "highest"])
@pytest.mark.parametrize("code_kind", ["random", "lowest", "highest"])
def test_integer_part_is_exact(library, kernel, rng, code_kind, entry_kind):
    """Random and extreme codes and table entries: y equals the integer sum, which a float can hold."""
    rows, cols = 96, 3 * kernel.type.block_weights
    bottom, top = lowest_code(kernel.type), (1 << kernel.type.bits) - 1
    codes = {
        "random": rng.integers(bottom, top + 1, (rows, cols)),
        "lowest": np.full((rows, cols), bottom),
        "highest": np.full((rows, cols), top),
    }[code_kind]
    (lowest, highest), shape = limits(kernel), (table_count(kernel, cols), 16)
    entries = {
        "random": rng.integers(lowest, highest + 1, shape),
        "lowest": np.full(shape, lowest),
        "highest": np.full(shape, highest),
    }[entry_kind]
    tables = integer_tables(kernel, entries)
    linear, packed = unit_matrix(kernel, codes)
    expected = integer_sums(linear, tables, kernel.precision).sum(axis=1)
    assert np.abs(expected).max() < 1 << 24
    assert library.gemv(kernel.name, packed, rows, cols, tables).tolist() == expected.tolist()


@pytest.mark.only_precision("rounded", "fast")
def test_each_table_group_has_its_own_step(library, kernel, rng):
    """Steps 1 to 31, extreme codes and entries: the integer part is exact (below 2^24 in each block)."""
    cols = 14 * 128
    top = (1 << kernel.type.bits) - 1
    linear, packed = unit_matrix(kernel, rng.choice([lowest_code(kernel.type), top], (32, cols)))
    entries = rng.choice(limits(kernel), (table_count(kernel, cols), 16))
    tables = integer_tables(kernel, entries)
    steps = np.concatenate([[31] * 8, rng.integers(1, 32, cols // 32 - 8)])
    tables.steps[:] = steps[:, None, None] << np.arange(4)[:, None]
    if kernel.type.ternary:
        tables.steps[:] = np.concatenate([np.full((8, 4, 1), 31), rng.integers(1, 32, (len(steps) - 8, 4, 1))])
    sums = integer_sums(linear, tables, kernel.precision) * steps_of(tables)
    expected = sums.reshape(32, cols // 128, -1).sum(axis=2)
    assert np.abs(expected).max() < 1 << 24 and np.abs(expected.cumsum(axis=1)).max() < 1 << 24
    assert library.gemv(kernel.name, packed, 32, cols, tables).tolist() == expected.sum(axis=1).tolist()


def test_each_column_and_bit_finds_its_own_entry(library, kernel):
    """One-hot codes, and table entries that differ from their neighbours: finds a swapped lane, quad, bit or row."""
    group, bits = kernel.type.block_weights, kernel.type.bits
    lowest, highest = limits(kernel)
    entries = lowest + (np.arange(table_count(kernel, group) * 16) * 37 % (highest - lowest + 1)).reshape(-1, 16)
    tables = integer_tables(kernel, entries)
    for bit in range(bits):
        codes = np.full((max(32, group), group), 2 if kernel.type.ternary else 0, np.uint8)
        codes[np.arange(group), np.arange(group)] = 1 + 2 * bit if kernel.type.ternary else 1 << bit
        linear, packed = unit_matrix(kernel, codes)
        expected = integer_sums(linear, tables, kernel.precision).sum(axis=1)
        assert library.gemv(kernel.name, packed, *codes.shape, tables).tolist() == expected.tolist()


@pytest.mark.parametrize("groups", COLUMNS_IN_GROUPS)
@pytest.mark.parametrize("tiles", [1, 2, 5])
def test_equals_the_plain_c_kernel_bit_for_bit(library, kernel, rng, tiles, groups):
    """Float results too: all kernels use the same order of operations."""
    rows, cols = 32 * tiles, groups * kernel.type.block_weights
    matrix = make(kernel.type, rows, cols, rng)
    x = rng.standard_t(4, cols)
    tables = library.prepare(scalar(kernel), x)
    y = library.gemv(kernel.name, matrix.packed, rows, cols, tables)
    assert np.array_equal(y, library.gemv(scalar(kernel), matrix.packed, rows, cols, tables))


def test_float_arithmetic_within_rounding_of_float64(library, kernel, rng):
    """Against float64 on the same tables."""
    cols = 8 * kernel.type.block_weights
    check_float_arithmetic(library, kernel, make(kernel.type, 64, cols, rng), rng.standard_normal(cols))


def test_extreme_weights(library, kernel, rng):
    """The lowest and the highest codes, levels and zero-points; scales and minima that are 0, subnormal, largest, of
    both signs.
    """
    cols = 5 * kernel.type.block_weights
    check_float_arithmetic(library, kernel, extreme(kernel.type, 64, cols, rng), rng.standard_normal(cols))


def check_float_arithmetic(library, kernel, matrix, x):
    """At most eps * (operations per row) * (sum of magnitudes of the terms)."""
    rows, cols = matrix.shape
    tables = library.prepare(kernel.name, x)
    y = library.gemv(kernel.name, matrix.packed, rows, cols, tables)
    magnitude = model_magnitude(matrix, tables, kernel.precision)
    operations = 2 * cols // 32 + 7 * cols // (kernel.type.group or cols)
    assert (
        np.abs(y - model_of_tables(matrix.linear, tables, kernel.precision))
        <= np.finfo(np.float32).eps * operations * magnitude
    ).all()


def model_magnitude(matrix, tables, precision):
    """Sum of |terms| per row, to which rounding errors are relative."""
    scales, is_halved = np.abs(scales_of(matrix.linear)), matrix.linear.group == 16
    looked_up = integer_sums(matrix.linear, tables, precision, 4 if is_halved else 8)
    looked_up = np.abs(looked_up * np.repeat(scale_by_group(tables), 2 if is_halved else 1))
    looked_up = looked_up.reshape(*scales.shape, -1).sum(axis=2)
    sums = tables.half_sum if is_halved else tables.sum
    sum_x = np.abs(sums.astype(np.float64)).reshape(scales.shape[1], -1).sum(axis=1)
    zeros = 16 if matrix.linear.zeros is not None else 1 << matrix.linear.bits
    magnitude = ((looked_up + (zeros + (1 << matrix.linear.bits)) * sum_x) * scales).sum(axis=1)
    magnitude = magnitude + np.abs(minima_of(matrix.linear)) @ sum_x
    return magnitude * tables.output_scale if precision == "exact" else magnitude


# NMSE of W x for normal activations: twice what docs/kernels.md measured; fast loses more by its averages of bytes
NMSE_LIMIT = {"rounded": 1e-4, "exact": 1.6e-4, "fast": 1e-2}


def test_result_is_close_to_exact_arithmetic(library, kernel, rng):
    """The method's own error against float64."""
    rows, cols = 256, 2048
    matrix = make(kernel.type, rows, cols, rng)
    x = rng.standard_normal(cols)
    y = library.gemv(kernel.name, matrix.packed, rows, cols, library.prepare(kernel.name, x))
    exact = matrix.weights @ x
    assert ((y - exact) ** 2).sum() <= NMSE_LIMIT[kernel.precision] * (exact**2).sum()


@pytest.mark.only_precision("exact")
@pytest.mark.parametrize("cols", [384, 8192, 32768])
def test_exact_is_the_model_of_int8_activations(library, kernel, rng, cols):
    """Bit for bit with one scale per tensor (only integers are added), else up to the rounding of the scaled sums."""
    rows, groups = 64, cols // kernel.type.block_weights
    cols = groups * kernel.type.block_weights
    matrix = make(kernel.type, rows, cols, rng)
    x = np.float32(rng.standard_t(4, cols))
    y = library.gemv(kernel.name, matrix.packed, rows, cols, library.prepare(kernel.name, x))
    top = np.abs(x).max()
    rounded = np.rint(x * (np.float32(127) / top)).astype(np.float64)
    model = matrix.weights @ rounded
    if not kernel.type.group:
        assert y.tolist() == (np.float32(model) * (top / np.float32(127))).tolist()
        return
    terms = (by_column(matrix.linear, scales_of(matrix.linear)) * matrix.linear.codes) * rounded
    offsets = minima_of(matrix.linear) - scales_of(matrix.linear) * zero_points(matrix.linear)
    zeros = by_column(matrix.linear, offsets) * rounded
    bound = np.finfo(np.float32).eps * (groups + 2) * (np.abs(terms) + np.abs(zeros)).sum(axis=1) * float(top) / 127
    assert (np.abs(y - model * (float(top) / 127)) <= bound).all()


def test_tile_ranges_are_independent(library, kernel, rng):
    """Any split of the tiles gives the same rows and writes no others. 7 tiles as 0+1+2+4; other rows keep a mark."""
    tiles, cols = 7, 2 * kernel.type.block_weights
    matrix = make(kernel.type, 32 * tiles, cols, rng)
    tables = library.prepare(kernel.name, rng.standard_normal(cols))
    whole = library.gemv(kernel.name, matrix.packed, 32 * tiles, cols, tables)
    y = np.full(32 * tiles, 12345, np.float32)
    for first, last in ((0, 0), (0, 1), (1, 3), (3, 7)):
        y[32 * first :] = 12345
        library.gemv(kernel.name, matrix.packed, 32 * tiles, cols, tables, first, last, into=y)
        assert np.array_equal(y[: 32 * last], whole[: 32 * last]) and (y[32 * last :] == 12345).all()


def test_memory_need_not_be_aligned(library, kernel, rng):
    """Packed bytes aligned only for uint16_t, outputs aligned only for float."""
    rows, cols = 64, kernel.type.block_weights
    matrix = make(kernel.type, rows, cols, rng)
    tables = library.prepare(kernel.name, rng.standard_normal(cols))
    shifted = np.zeros(matrix.packed.size + 2, np.uint8)[2:]
    shifted[:] = matrix.packed
    y = np.zeros(rows + 1, np.float32)[1:]
    library.gemv(kernel.name, shifted, rows, cols, tables, into=y)
    assert np.array_equal(y, library.gemv(kernel.name, matrix.packed, rows, cols, tables))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_activation_reaches_every_row(library, kernel, rng, bad):
    """As in a dot product: no finite result, no crash."""
    rows, cols = 32, 2 * kernel.type.block_weights
    matrix = make(kernel.type, rows, cols, rng)
    x = rng.standard_normal(cols)
    x[cols // 2 + 5] = bad
    y = library.gemv(kernel.name, matrix.packed, rows, cols, library.prepare(kernel.name, x))
    assert not np.isfinite(y).any()


def test_zero_activations_give_zero(library, kernel, rng):
    matrix = make(kernel.type, 32, kernel.type.block_weights, rng)
    tables = library.prepare(kernel.name, np.zeros(kernel.type.block_weights))
    assert not library.gemv(kernel.name, matrix.packed, 32, kernel.type.block_weights, tables).any()


def test_widest_matrix_is_exact(library, kernel, rng):
    """K = 32768 with extreme codes and entries stays exact per table group; the groups' terms are equal."""
    cols = 32768
    linear, packed = unit_matrix(kernel, np.full((32, cols), (1 << kernel.type.bits) - 1))
    tables = integer_tables(kernel, np.full((table_count(kernel, cols), 16), limits(kernel)[1]))
    tables.scale[:] = 2.0**-10
    (expected,) = set(integer_sums(linear, tables, kernel.precision).sum(axis=1) * 2.0**-10)
    assert library.gemv(kernel.name, packed, 32, cols, tables).tolist() == [expected] * 32


def test_wrong_shapes_are_refused(library, kernel):
    """Python checks what the C side has to trust."""
    tables = integer_tables(kernel, np.zeros((table_count(kernel, kernel.type.block_weights), 16)))
    with pytest.raises(ValueError, match="expected .* of uint8"):
        library.gemv(kernel.name, np.zeros(7, np.uint8), 32, kernel.type.block_weights, tables)
    with pytest.raises(ValueError, match="expected .* of uint8"):
        library.gemv(kernel.name, np.zeros(7, np.uint8), 33, kernel.type.block_weights, tables)
