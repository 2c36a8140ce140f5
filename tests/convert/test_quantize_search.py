"""The quantizer: never worse than plain rounding, exact if possible, and its reported error is right."""

from dataclasses import astuple

import numpy as np
import pytest

import tmac.convert.quantize.search as quantizing
from tmac.common.format import symmetric_zero
from tmac.convert.linear import QuantLinear
from tmac.convert.plan.options import QUANTIZE_TYPES
from tmac.convert.quantize.search import quantize

KINDS = [pytest.param(kind, id=name) for name, kind in QUANTIZE_TYPES.items()]
ROWS, COLUMNS = 32, 512


def weights(name):
    random = np.random.default_rng(7)
    normal = random.standard_normal((ROWS, COLUMNS)).astype(np.float32) * np.float32(0.02)
    if name == "outliers":
        normal[random.random(normal.shape) < 0.01] *= 30
    if name == "one-sided":
        normal = np.abs(normal) + np.float32(0.05)
        normal[::2] *= -1
    return normal


IMPORTANCE = np.exp(np.random.default_rng(8).standard_normal(COLUMNS)).astype(np.float32)


def test_types_that_a_model_can_be_quantized_to():
    """1 to 4 bits in each group, with zero-points or without, and ternary ones with scales in groups."""
    with_bit_planes = {
        f"w{bits}g{group}{zeros}" for bits in (1, 2, 3, 4) for group in (32, 64, 128) for zeros in ("", "z")
    }
    assert QUANTIZE_TYPES.keys() == with_bit_planes | {"t3g128", "t3g256"}


def plain(values, kind, extreme):
    """Rounds to nearest, with scale (in fp16) and zero-point from the range of each group, extended to include zero."""
    groups = values.reshape(ROWS, -1, kind.group)
    top = 2**kind.bits - 1
    if kind.asymmetric:
        low, high = np.minimum(groups.min(2, keepdims=True), 0), np.maximum(groups.max(2, keepdims=True), 0)
        scale = ((high - low) / top).astype(np.float16).astype(np.float32)
        zero = np.rint(-low / scale)
    else:
        zero = symmetric_zero(kind.bits) / 16
        signed = np.take_along_axis(groups, np.abs(groups).argmax(2)[..., None], 2)
        below = 1 if kind.ternary else zero
        scale = signed / -below if extreme == "low" else np.abs(signed) / max(zero - 1, 0.5)
        scale = scale.astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(groups / scale + zero), int(kind.ternary), top)
    return ((codes - zero) * scale).reshape(values.shape)


def error(found, values, importance):
    return float((np.square(found.astype(np.float64) - values) * importance).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["normal", "outliers", "one-sided"])
def test_never_worse_than_plain_rounding(kind, name):
    """In every group, plain and weighted, with both usual symmetric scales. On normal weights clearly better."""
    values = weights(name)
    for importance in (None, IMPORTANCE):
        factors = np.ones(COLUMNS) if importance is None else importance
        found = quantize(values, kind, importance)[0].dequantize()
        for extreme in ("low", "both"):
            other = plain(values, kind, extreme)
            errors = [
                (np.square(result.astype(np.float64) - values) * factors).reshape(ROWS, -1, kind.group).sum(axis=2)
                for result in (found, other)
            ]
            assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
            assert errors[0].sum() < 0.95 * errors[1].sum() or kind.bits == 1 or name != "normal"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_on_the_grid_come_back_exactly(kind):
    """Random codes, zero-points and scales of both signs; also weights that are all positive or all negative."""
    random = np.random.default_rng(9)
    groups = (ROWS, COLUMNS // kind.group)
    linear = QuantLinear(
        codes=random.integers(kind.ternary, 2**kind.bits, (ROWS, COLUMNS), np.uint8),
        scales=(random.uniform(0.001, 2, groups) * random.choice((-1, 1), groups)).astype(np.float16),
        zeros=random.integers(0, 256, groups).astype(np.uint8) if kind.asymmetric else None,
        bits=kind.bits,
        group=kind.group,
    )
    values = linear.dequantize()
    for importance in (None, IMPORTANCE):
        found, deviation = quantize(values, kind, importance)
        assert np.array_equal(found.dequantize(), values)
        assert deviation.error == 0 and deviation.relative == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_coarser_grid_comes_back_exactly(kind):
    """Ternary weights -d, 0 and d on every grid of at least 2 bits; -d and d on 1 bit."""
    random = np.random.default_rng(10)
    steps = random.choice((-1, 1) if kind.bits == 1 else (-1, 0, 1), (ROWS, COLUMNS))
    span = max(128, kind.group)
    sizes = random.uniform(0.01, 1, (ROWS, COLUMNS // span)).astype(np.float16)
    values = (steps * np.repeat(sizes, span, axis=1)).astype(np.float32)
    if kind.bits > 1 or not kind.asymmetric:
        assert np.array_equal(quantize(values, kind)[0].dequantize(), values)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_constants(kind):
    """A matrix of zeros stays zero; groups of one fp16 value are exact if there are zero-points."""
    assert not quantize(np.zeros((32, 256), np.float32), kind)[0].dequantize().any()
    assert quantize(np.zeros((32, 256), np.float32), kind)[1].relative == 0
    for value in (0.3, -0.3, 65504, 6e-8):
        constant = np.full((32, 256), np.float16(value), np.float32)
        if kind.asymmetric:
            assert np.array_equal(quantize(constant, kind)[0].dequantize(), constant)
    assert np.array_equal(quantize(constant, kind)[0].codes.shape, (32, 256))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70000.0])
def test_values_that_no_grid_has(kind, value, refused):
    values = weights("normal")
    values[5, 6] = value
    refused(lambda: quantize(values, kind, where="m.gguf: tensor t"), "m.gguf: tensor t has values", "65504")


@pytest.mark.parametrize("name", ["w2g64z", "w4g128"])
def test_importance_decides(name):
    """By the given importance, a search that knows it does better. Importance of zero everywhere has no effect."""
    values, kind = weights("normal"), QUANTIZE_TYPES[name]
    aware, unaware = (quantize(values, kind, importance)[0].dequantize() for importance in (IMPORTANCE, None))
    assert error(aware, values, IMPORTANCE) < 0.98 * error(unaware, values, IMPORTANCE)
    silent = quantize(values, kind, np.zeros(COLUMNS, np.float32))[0].dequantize()
    assert np.array_equal(silent, unaware)
    faint = np.zeros(COLUMNS, np.float32)
    faint[7] = 1e-45  # its mean is too small for float32
    assert np.isfinite(quantize(values, kind, faint)[1].weighted) and quantize(values, kind, faint)[0].scales.any()
    partly = np.where(np.arange(COLUMNS) % 2, 1, 0).astype(np.float32)
    assert np.isfinite(quantize(values, kind, partly)[0].dequantize()).all()


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_only_ratios_of_importance_count(unit):
    """Its unit is that of the text it was measured with."""
    values, kind = weights("normal"), QUANTIZE_TYPES["w3g64z"]
    found, expected = quantize(values, kind, IMPORTANCE * np.float32(unit))[0], quantize(values, kind, IMPORTANCE)[0]
    for name in ("codes", "scales", "zeros"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_deviations_are_those_of_the_result():
    values, kind = weights("outliers"), QUANTIZE_TYPES["w3g64z"]
    linear, deviation = quantize(values, kind, IMPORTANCE)
    difference = linear.dequantize().astype(np.float64) - values
    squares = np.square(difference), np.square(values, dtype=np.float64)
    assert deviation.relative == pytest.approx(np.sqrt(squares[0].sum() / squares[1].sum()))
    weighted = [(square @ IMPORTANCE).sum() for square in squares]
    assert deviation.weighted == pytest.approx(np.sqrt(weighted[0] / weighted[1]), rel=1e-5)


def test_blocks_of_rows_give_the_same(monkeypatch):
    """In one block, or in many blocks by several threads."""
    values, kind = weights("normal"), QUANTIZE_TYPES["w4g32z"]
    whole, deviation = quantize(values, kind, IMPORTANCE)
    monkeypatch.setattr(quantizing, "_BLOCK_WEIGHTS", 1000)
    parts, same = quantize(values, kind, IMPORTANCE)
    assert all(np.array_equal(getattr(whole, name), getattr(parts, name)) for name in ("codes", "scales", "zeros"))
    assert astuple(same) == pytest.approx(astuple(deviation)) and all(astuple(deviation))


def test_half_precision_input_is_the_same_as_float():
    values = weights("normal").astype(np.float16)
    kind = QUANTIZE_TYPES["w2g64"]
    assert np.array_equal(quantize(values, kind)[0].codes, quantize(values.astype(np.float32), kind)[0].codes)
