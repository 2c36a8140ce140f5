"""Layers that llama.cpp's converter rearranges: the weights stay those of the checkpoint, in other places."""

import numpy as np
import pytest

from tmac.convert.linear import QuantLinear
from tmac.convert.readers import reader_for
from tmac.convert.readers.grid import Grid
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.upstream.answer import Matrix, Run
from tmac.convert.upstream.rearranged import WEIGHT, Quantized, RearrangedCheckpoint, RearrangedReader

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
ROWS, COLUMNS = 256, 256
NAME = "blk.0.attn_q.weight"


@pytest.fixture
def view(demo):
    checkpoint = Checkpoint(demo)
    reader = reader_for(checkpoint)
    return RearrangedCheckpoint(checkpoint, Quantized(reader, reader.shapes()))


def weights_of(checkpoint, module):
    reader = reader_for(checkpoint)
    shape = reader.shapes()[module]
    return reader.grid(module, *shape).weights(reader.read(module, *shape))


def run(module, rows, index=0):
    return Run(module + WEIGHT, index, np.asarray(rows))


def read(view, matrix, rows):
    view.add(NAME, (rows, COLUMNS), matrix)
    reader = RearrangedReader(view)
    assert reader.has(NAME)
    return reader.grid(NAME, rows, COLUMNS).weights(reader.read(NAME, rows, COLUMNS))


@pytest.mark.parametrize(
    "order",
    [np.random.default_rng(1).permutation(ROWS), np.arange(ROWS)[::-1], np.arange(0, ROWS, 2)],
    ids=["any", "backwards", "every second"],
)
def test_rows_in_another_order(view, order):
    found = read(view, Matrix((run(Q, order),), None, False), len(order))
    assert np.array_equal(found, weights_of(view.original, Q)[order])


def test_part_of_a_layer(view):
    found = read(view, Matrix((run(Q, range(64, 128)),), None, False), 64)
    assert np.array_equal(found, weights_of(view.original, Q)[64:128])


def test_layers_joined(view):
    """Rows of two layers, one of them twice with a part of the other between."""
    runs = run(Q, range(32)), run(K, range(16, 48)), run(Q, range(96, 128))
    expected = [weights_of(view.original, r.tensor.removesuffix(WEIGHT))[r.rows] for r in runs]
    assert np.array_equal(read(view, Matrix(runs, None, False), 96), np.concatenate(expected))


def factors_of(rows):
    """Powers of two and others, in turns of rows, as float64."""
    return np.resize([0.5, 4.0, 0.39, 1 / 3], rows)


def test_rows_times_numbers(view):
    """Rows in another order, then multiplied: scales of powers of two exactly, others rounded once to fp16."""
    order, factors = np.random.default_rng(1).permutation(ROWS), factors_of(ROWS)
    found = read(view, Matrix((run(Q, order),), None, False, factors), ROWS)
    expected = weights_of(view.original, Q)[order] * factors[:, None]
    is_exact = np.isin(factors, (0.5, 4.0))
    assert np.array_equal(found[is_exact], expected[is_exact])
    assert not np.array_equal(found, expected)
    assert (np.abs(found - expected) <= np.abs(expected) * 2.0**-11).all()


def reader_of(view, linear, factors, grid=None):
    """A reader of NAME, `linear` times numbers, and a call that reads it."""
    rows = len(linear.codes)
    view.quantized.read = lambda weight: linear
    view.quantized.grid = lambda weight: grid or Grid(linear.bits, linear.group, False)
    view.add(NAME, linear.codes.shape, Matrix((run(Q, range(rows)),), None, False, factors))
    reader = RearrangedReader(view)
    return reader, lambda: reader.read(NAME, *linear.codes.shape)


def linear_of(scales, minima=None):
    """4 bits, groups of 32: as many as there are scales in a row."""
    rows, groups = np.shape(scales)
    halves = (None if values is None else np.float16(values) for values in (scales, minima))
    return QuantLinear(np.ones((rows, 32 * groups), np.uint8), next(halves), None, 4, 32, minima=next(halves))


@pytest.mark.parametrize(
    ("scales", "minima", "factors", "expected"),
    [
        ([[1.0, 3.0], [1.0, 3.0]], None, [0.5, 2.0], ["scales times such constants are exact"]),
        ([[0.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, -2.0]], [0.5, 2.0], ["scales times such constants are exact"]),
        ([[0.0, 0.0]], None, [0.7], ["scales times such constants are exact"]),
        # 1025 * 0.7 = 717.5: there are halves, and 1027 * 0.7 = 718.9 becomes 719.
        ([[1025.0, 1027.0]], None, [0.7], ["rounded to fp16, by at most 0.00014 of themselves"]),
        # 2**-24 is the smallest number that fp16 has; 3 * 2**-25 becomes twice that.
        ([[1.0, 3 * 2.0**-24]], None, [0.5], ["below the normal range of fp16", "by at most 6e-08 of the largest"]),
        # -1537.5 lies between two numbers of fp16; a step is 192.
        ([[256.0, 256.0]], [[-2050.0, -2.0]], [0.75], ["minima of 1 layers", "by at most 0.0026 of a step"]),
    ],
)
def test_note_on_scales_times_numbers(view, scales, minima, factors, expected):
    """The largest change that was made: none by powers of two, unless they leave fp16's normal range."""
    factors = np.array(factors)
    reader, read_it = reader_of(view, linear_of(scales, minima), factors)
    assert reader.notes_of_factors() == []
    found = read_it()
    for values, given in ((found.scales, scales), (found.minima, minima)):
        rounded = None if given is None else (np.array(given) * factors[:, None]).astype(np.float16)
        assert values is rounded is None or np.array_equal(values, rounded)
    (note,) = reader.notes_of_factors()
    assert all(words in note for words in expected) and (NAME in note or "exact" in note)


def test_note_on_scales_times_numbers_is_of_the_layer_that_was_changed_most(view):
    """By 0.2 of 718.2, and by 0.1 of 718.9."""
    linears = {Q + WEIGHT: linear_of([[1026.0]]), K + WEIGHT: linear_of([[1027.0]])}
    view.quantized.read = linears.get
    reader = RearrangedReader(view)
    for name, module in (("blk.0.a", Q), ("blk.0.b", K)):
        view.add(name, (1, 32), Matrix((run(module, range(1)),), None, False, np.array([0.7])))
        reader.read(name, 1, 32)
    (note,) = reader.notes_of_factors()
    assert "scales of 2 layers" in note and "0.00028" in note and "(in blk.0.a)" in note


def test_layers_with_minima_times_a_number_that_moves_them_too_far_are_refused(view, refused):
    """-1433.6 is rounded by 0.4, which is more than half a step."""
    _, read_it = reader_of(view, linear_of([[1.0, 1.0], [1.0, 1.0]], [[0, 0], [0, -2048]]), np.full(2, 0.7))
    refused(read_it, "row 1 of", NAME, "minimum of its group 1 becomes -1433.6", "too few digits")


def test_one_scale_for_all_times_a_number_is_refused(view, refused):
    grid = Grid(2, 0, False, tensor_scale=0.5, ternary=True)
    reader, _ = reader_of(view, linear_of([[1.0]]), np.array([2.0]), grid)
    refused(lambda: reader.grid(NAME, 1, 32), NAME, "one scale for all its weights")
    reader, _ = reader_of(view, linear_of([[1.0]]), None, grid)
    assert reader.grid(NAME, 1, 32).tensor_scale == 0.5


def test_values_of_layers_times_numbers(view):
    """Of a layer that is transposed only the values are there."""
    view.add(NAME, (COLUMNS, ROWS), Matrix((run(Q, range(ROWS)),), None, True, np.full(ROWS, 0.75)))
    assert np.array_equal(view.read(NAME + WEIGHT), weights_of(view.original, Q).T * np.float32(0.75))


def test_number_that_scales_cannot_hold_is_refused(view, refused):
    matrix = Matrix((run(Q, range(ROWS)),), None, False, np.full(ROWS, 1e9))
    words = "llama.cpp's converter multiplies row 0", NAME, "above fp16's range", "expected one that fp16 holds"
    refused(lambda: read(view, matrix, ROWS), *words)


def test_scale_below_the_normal_range_is_refused_by_its_own_value(view, refused):
    """Not by the layer's largest, which fp16 holds."""
    _, read_it = reader_of(view, linear_of([[2.0**-14, 2.0**-14], [2.0**-14, 0]]), np.array([1.0, 0.0112]))
    refused(read_it, "row 1 of", "by 0.0112", "group 0 becomes 6.83594e-07", "below fp16's normal range", "error of 2")


def test_layers_with_minima_joined(view):
    """As of HQQ: they keep them."""
    first, second = linear_of([[1.0]] * 4, [[-3.0]] * 4), linear_of([[2.0]] * 4, [[-5.0]] * 4)
    view.quantized.read = lambda weight: first if weight.startswith(Q) else second
    view.quantized.grid = lambda weight: Grid(4, 32, True, minima=True)
    view.add(NAME, (8, 32), Matrix((run(Q, range(4)), run(K, range(4))), None, False))
    reader = RearrangedReader(view)
    assert reader.grid(NAME, 8, 32).minima
    found = reader.read(NAME, 8, 32).dequantize()
    assert np.array_equal(found, np.repeat([[-2.0], [-3.0]], 4, axis=0) * np.ones((1, 32)))


def grid_of_joined(view, first, second):
    view.quantized.grid = lambda weight: first if weight.startswith(Q) else second
    view.add(NAME, (8, 32), Matrix((run(Q, range(4)), run(K, range(4))), None, False))
    return RearrangedReader(view).grid(NAME, 8, 32)


def test_layers_with_and_without_minima_are_not_joined(view, refused):
    grids = (Grid(4, 32, True, minima=has_minima) for has_minima in (True, False))
    refused(lambda: grid_of_joined(view, *grids), Q, K, "asymmetric with minima", "expected the same grid")


IN_ORDER = np.arange(32)


@pytest.mark.parametrize("others", [(None, IN_ORDER), (IN_ORDER, None), (IN_ORDER, IN_ORDER[::-1])])
def test_layers_with_inputs_in_different_orders_are_not_joined(view, refused, others):
    """A tensor has one order for all its rows."""
    grids = [Grid(4, 32, True, column_order=order) for order in others]
    refused(lambda: grid_of_joined(view, *grids), Q, K, "expected the same grid and order of inputs")


@pytest.mark.parametrize("change", [{"bits": 2}, {"group": 64}])
def test_layers_with_inputs_in_the_same_order_are_joined_if_all_else_is_the_same(view, refused, change):
    given = {"bits": 4, "group": 32, "asymmetric": True, "column_order": IN_ORDER[::-1]}
    grids = [Grid(**{**given, "column_order": IN_ORDER[::-1].copy()}) for _ in range(2)]
    assert np.array_equal(grid_of_joined(view, *grids).column_order, IN_ORDER[::-1])
    refused(lambda: grid_of_joined(view, Grid(**given), Grid(**{**given, **change})), Q, K, "expected the same grid")


@pytest.mark.parametrize("is_first", [True, False])
def test_joined_layers_have_zero_points_if_one_has_and_are_ternary_if_all_are(view, is_first):
    grids = Grid(2, 32, True), Grid(2, 32, False, ternary=True)
    found = grid_of_joined(view, *(grids if is_first else grids[::-1]))
    assert (found.asymmetric, found.ternary) == (True, False)
    assert grid_of_joined(view, grids[1], grids[1]).ternary


def test_floats_of_different_types_joined(folder):
    """They are F32, which holds both; of one type, they keep it."""
    rng = np.random.default_rng(1)
    kinds = {"a": np.float16, "b": np.float32, "c": np.float32}
    values = {name: rng.standard_normal((4, COLUMNS)).astype(kind) for name, kind in kinds.items()}
    folder.tensors |= {f"{name}.weight": tensor for name, tensor in values.items()}
    checkpoint = Checkpoint(folder.save())
    view = RearrangedCheckpoint(checkpoint, Quantized(reader_for(checkpoint), {}))
    for names, dtype in (("ab", "F32"), ("ba", "F32"), ("bc", "F32"), ("aa", "F16")):
        view.add(NAME, (8, COLUMNS), Matrix(tuple(run(name, range(4)) for name in names), None, False))
        assert view.info(NAME + WEIGHT).dtype == dtype
        assert np.array_equal(view.read(NAME + WEIGHT), np.concatenate([values[name] for name in names]))


def test_8_bit_layers_with_and_without_zero_points_joined(view):
    """The usual zero-point of 8 bits has no place in a byte."""
    codes, scales = np.full((4, 32), 130, np.uint8), np.ones((4, 1), np.float16)
    first = QuantLinear(codes, scales, None, 8, 32)
    second = QuantLinear(codes, scales, np.full((4, 1), 129 * 16, np.uint16), 8, 32)
    view.quantized.read = lambda weight: first if weight.startswith(Q) else second
    view.add(NAME, (8, 32), Matrix((run(Q, range(4)), run(K, range(4))), None, False))
    found = RearrangedReader(view).read(NAME, 8, 32).dequantize()
    assert (found[:4] == 2).all() and (found[4:] == 1).all()


def test_layers_with_different_grids_are_refused(folder, refused):
    """Half of the groups of k_proj: another number of columns per scale."""
    folder.config["quantization_config"]["dynamic"] = {f"+:.*{K.rpartition('.')[2]}": {"group_size": 128}}
    for part in ("qzeros", "scales"):
        folder.tensors[f"{K}.{part}"] = folder.tensors[f"{K}.{part}"][::2].copy()
    folder.tensors[f"{K}.g_idx"] = (np.arange(COLUMNS) // 128).astype(np.int32)
    checkpoint = Checkpoint(folder.save())
    reader = reader_for(checkpoint)
    view = RearrangedCheckpoint(checkpoint, Quantized(reader, reader.shapes()))
    view.add(NAME, (64, COLUMNS), Matrix((run(Q, range(32)), run(K, range(32))), None, False))
    grid = RearrangedReader(view).grid
    refused(lambda: grid(NAME, 64, COLUMNS), Q, K, "w2g64", "w2g128", "expected the same grid", NAME)


def test_transposed_layer_is_there_as_its_values(view):
    order = np.random.default_rng(2).permutation(COLUMNS)
    view.add(NAME, (COLUMNS, 64), Matrix((run(Q, range(64, 128)),), order, True))
    assert not RearrangedReader(view).has(NAME) and "transposed" in view.rounded(NAME)
    expected = weights_of(view.original, Q)[64:128][:, order].T
    assert np.array_equal(view.read(NAME + WEIGHT), expected)
    assert np.array_equal(np.concatenate([rows for _, rows in view.blocks(NAME + WEIGHT, 1000)]), expected)


@pytest.mark.parametrize("order", [(Q, "model.embed_tokens"), ("model.embed_tokens", Q)])
def test_quantized_layer_joined_with_floats_is_there_as_its_values(view, order):
    runs = [run(name, range(16, 48)) for name in order]
    view.add(NAME, (64, COLUMNS), Matrix(tuple(runs), None, False))
    assert not RearrangedReader(view).has(NAME)
    assert view.rounded(NAME).startswith(f"{Q}.weight is quantized in the checkpoint, and model.embed_tokens.weight, ")
    assert view.info(NAME + WEIGHT).dtype == "F16"
    whole = {Q: weights_of(view.original, Q), order[order[0] == Q]: view.original.read("model.embed_tokens.weight")}
    expected = np.concatenate([whole[name][16:48] for name in order])
    assert np.array_equal(np.concatenate([rows for _, rows in view.blocks(NAME + WEIGHT, 1000)]), expected)


def test_floats_rearranged(view):
    """Neighbouring rows, others, and other columns; each read in blocks."""
    name = "model.embed_tokens"
    whole = view.original.read(name + WEIGHT)
    order, columns = np.random.default_rng(3).permutation(len(whole)), np.arange(COLUMNS)[::-1]
    every = np.arange(len(whole))
    for rows, at in (
        (np.arange(8, 200), None),
        (order, None),
        (every[::2], None),
        (every[::-1], None),
        (every, columns),
    ):
        view.add(NAME, (len(rows), COLUMNS), Matrix((run(name, rows),), at, False))
        expected = whole[rows] if at is None else whole[rows][:, at]
        found = np.concatenate([block for _, block in view.blocks(NAME + WEIGHT, 5000)])
        assert np.array_equal(found, expected) and found.dtype == whole.dtype


def test_floats_of_three_dimensions(folder):
    values = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    folder.tensors["experts.weight"] = values
    checkpoint = Checkpoint(folder.save())
    view = RearrangedCheckpoint(checkpoint, Quantized(reader_for(checkpoint), {}))
    view.add("x", (3, 8), Matrix((run("experts", (5, 0, 2), index=2),), None, False))
    view.add("y", (8, 6), Matrix((run("experts", range(6), index=3),), None, True))
    assert np.array_equal(view.read("x.weight"), values[2][[5, 0, 2]])
    assert np.array_equal(view.read("y.weight"), values[3].T)
    assert view.rounded("x") == view.rounded("y") == view.rounded("none") == ""
