"""The error of the kernels against that of llama.cpp's activation rounding: the project's limits, from fixed seeds."""

import gguf
import numpy as np
import pytest

from support.matrices import make
from tmac.common.format import ZEROS, TmacType, parse_type
from tmac.kernels.forms import has_table_gemm
from tmac.tools.bench import accuracy
from tmac.tools.bench.accuracy_command import DEFAULT_TYPES, random_matrices
from tmac.tools.errors import ToolError

# Native only: the kernels of every other target return the same bits (test_gemv.py), but much more slowly.
pytestmark = pytest.mark.targets("native")

ROWS, COLS, VECTORS, SEED = 128, 1024, 64, 5


def measured(matrices, library):
    return {(e.activations, e.type): e for e in accuracy.measure(matrices, VECTORS, SEED, library)}


@pytest.fixture(scope="module")
def uniform(library):
    """Uniformly distributed codes, scales of both signs."""
    rng = np.random.default_rng(SEED)
    made = ((t, make(t, ROWS, COLS, rng)) for t in DEFAULT_TYPES)
    return measured((accuracy.ReferenceMatrix(t, m.packed, m.weights) for t, m in made), library)


@pytest.fixture(scope="module")
def normal(library):
    """Codes of normally distributed weights, few of which are large: the same error is larger relative to W x."""
    return measured(random_matrices(DEFAULT_TYPES, ROWS, COLS, SEED), library)


@pytest.mark.parametrize("weight_type", DEFAULT_TYPES, ids=lambda t: t.name)
def test_limits_hold_for_random_codes(uniform, weight_type):
    """Rounded: at most 1.3 x Q8_K for normal activations, below Q8_0 for heavy tails; all bits, all groups."""
    assert all(uniform[name, weight_type.name].holds() for name in accuracy.DISTRIBUTIONS)


@pytest.mark.parametrize("weight_type", DEFAULT_TYPES, ids=lambda t: t.name)
def test_limits_for_codes_of_normal_weights(normal, weight_type):
    """The same limits, except Student t: of 3 bits and more the error is up to 18 % larger than Q8_0's, the more the
    bits, and a third of Q8_K's.
    """
    by_name = {name: normal[name, weight_type.name] for name in accuracy.DISTRIBUTIONS}
    assert by_name["normal"].holds() and by_name["0.3 % outliers x 30"].holds()
    tails = by_name["student t, 4 degrees"]
    assert tails.ratio("q8_0") < (1.15 if weight_type.bits < 5 else 1.2) and tails.ratio("q8_k") < 0.5


def test_exact_is_int8_one_scale_and_fast_is_worse_than_rounded(normal):
    """Exact rounds only the activations. The averages of fast lose most where many planes are added; ternary types have
    no fast kernels, and some types only rounded ones.
    """
    for found in normal.values():
        if "exact" not in found.nmse:
            assert not has_table_gemm(parse_type(found.type))
            continue
        assert found.nmse["exact"] == pytest.approx(found.nmse["int8"], rel=0.02)
        if parse_type(found.type).ternary:
            assert found.kernels["fast"] == found.kernels["rounded"]
        else:
            assert 3 < found.nmse["fast"] / found.nmse["rounded"] < 15


def test_zero_points_do_not_add_error(library):
    """A type with stored zero-points has the error of the type without."""
    types = [TmacType(4, 64), TmacType(4, 64, ZEROS)]
    errors = accuracy.measure(random_matrices(types, ROWS, COLS, SEED), VECTORS, SEED, library)
    for symmetric, asymmetric in zip(errors[::2], errors[1::2]):
        assert asymmetric.nmse["rounded"] == pytest.approx(symmetric.nmse["rounded"], rel=0.3)


def test_errors_follow_from_the_seed(library):
    types = [TmacType(2, 32)]
    first, second = (accuracy.measure(random_matrices(types, 64, 256, 3), 4, 3, library) for _ in range(2))
    assert first == second
    assert first != accuracy.measure(random_matrices(types, 64, 256, 4), 4, 4, library)


def test_q8_0_is_that_of_the_gguf_package(rng):
    x = np.float32(rng.standard_t(4, (8, 512)))
    x[0, :32] = 0
    stored = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0)
    theirs = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_allclose(accuracy.q8_0(x.astype(np.float64)), theirs, rtol=1e-6, atol=1e-7)


def test_q8_k_by_hand():
    """The largest magnitude becomes -127 steps of a scale that has its sign; zeros stay zeros."""
    x = np.zeros((2, 512))
    x[0, :4] = 254, 1.9, -3.2, -254
    assert accuracy.q8_k(x)[0, :4].tolist() == [254, 2, -4, -254]
    assert not accuracy.q8_k(x)[1].any() and not accuracy.q8_0(x)[1].any() and not accuracy.int8_one_scale(x)[1].any()


def test_shape_without_stock_groups_is_refused(library):
    with pytest.raises(ToolError, match="64 x 96 cannot be compared with Q8_K"):
        accuracy.measure(random_matrices([TmacType(2, 32)], 64, 96, 1), 1, 1, library)
