"""Float weights on a grid: which grids are found, that every bit is kept, and cases that are easy to get wrong."""

import numpy as np
import pytest

from support.ternary_models import bfloat16, make, widened
from tmac.common.format import TYPES_BY_ID
from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write.layout import unpack

LAYER = "model.layers.0.mlp.up_proj"
ROWS, COLUMNS = 64, 256


@pytest.fixture
def reader(folder):
    """reader(**tensors by module): of a checkpoint without quantization_config that has these matrices."""

    def open_checkpoint(tensors):
        folder.config.pop("quantization_config", None)
        folder.tensors = {f"{module}.weight": values for module, values in tensors.items()}
        return reader_for(Checkpoint(folder.save()))

    return open_checkpoint


def on_grid(values, group=128, dtype=np.float16, shape=(ROWS, COLUMNS), sizes=None, seed=0):
    """Random values among `values`, times a random size per group, both exact in fp16."""
    rng = np.random.default_rng(seed)
    if sizes is None:
        sizes = rng.uniform(0.01, 2, (shape[0], shape[1] // group)).astype(np.float16)
    return (rng.choice(values, shape) * np.repeat(sizes, group, axis=1)).astype(dtype)


BINARY, TERNARY = (-1, 1), (-1, 0, 1)


def kept(reader, expected, module=LAYER):
    """The name of the layer's grid, after its weights were compared with the floats."""
    grid = reader.grid(module, *expected.shape)
    values = reader.read(module, *expected.shape).dequantize().astype(np.float64)
    assert np.array_equal(values * (grid.tensor_scale or 1), expected.astype(np.float64))
    return grid.name


@pytest.mark.parametrize("group", [128, 64, 32])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("values", "bits"), [(BINARY, 1), (TERNARY, 2)])
def test_groups(reader, values, bits, group, dtype):
    """The largest group size with which the whole matrix is on a grid, in fp16 or in float32 with scales that fp16
    holds.
    """
    matrix = on_grid(values, group, dtype)
    assert kept(reader({LAYER: matrix}), matrix) == f"w{bits}g{group} symmetric"


def test_bfloat16(reader):
    matrix = on_grid(TERNARY, sizes=widened(bfloat16(np.random.default_rng(1).uniform(0.1, 1, (ROWS, 2)))))
    reader = reader({LAYER: bfloat16(matrix.astype(np.float32))})
    assert kept(reader, widened(bfloat16(matrix.astype(np.float32)))) == "w2g128 symmetric"


def test_one_size_per_row_or_shard(reader):
    """TriLM in fp16: two shards of rows with one scale each, and a row of 96 columns with its own."""
    shards = on_grid(TERNARY, COLUMNS, sizes=np.repeat(np.float16([[0.3], [0.7]]), ROWS // 2, axis=0))
    assert kept(reader({LAYER: shards}), shards) == "w2g128 symmetric"
    rows = on_grid(BINARY, 96, shape=(ROWS, 96))
    assert kept(reader({LAYER: rows}), rows) == "w1g32 symmetric"


@pytest.mark.parametrize("size", [0.3, 1e-30, 3e38])
def test_one_size_per_matrix(reader, size):
    """In float32, any scale. Outside of blocks, where llama.cpp applies no scale: in groups, if fp16 holds it."""
    sizes = np.full((ROWS, 1), size, np.float32)
    matrix = on_grid(TERNARY, COLUMNS, np.float32, sizes=sizes)
    found = reader({LAYER: matrix, "lm_head": matrix})
    assert kept(found, matrix) == "w2 one scale per tensor"
    assert not found.has("lm_head")
    half = on_grid(TERNARY, COLUMNS, sizes=np.full((ROWS, 1), 0.5))
    assert kept(reader({"lm_head": half}), half, "lm_head") == "w2g128 symmetric"


def test_zero_groups_and_groups_of_one_sign(reader):
    """Zeros of either sign are on a 1-bit grid with scale 0. A group with values of one sign is on a 1-bit grid too."""
    matrix = on_grid(BINARY)
    matrix[0, :128], matrix[1, 128:], matrix[2, :128] = 0, -0.0, np.abs(matrix[2, :128])
    found = reader({LAYER: matrix})
    assert kept(found, matrix) == "w1g128 symmetric"
    assert found.read(LAYER, ROWS, COLUMNS).scales[0, 0] == 0


def test_zero_in_a_smaller_group_keeps_one_bit(reader):
    """64 zeros in a group of 128: 1 bit in groups of 64 is smaller than ternary in groups of 128."""
    matrix = on_grid(BINARY)
    matrix[5, 64:128] = 0
    assert kept(reader({LAYER: matrix}), matrix) == "w1g64 symmetric"


def test_negative_zero_is_zero(reader):
    matrix = on_grid(TERNARY)
    matrix[matrix == 0] = -0.0
    found = reader({LAYER: matrix})
    assert kept(found, matrix) == "w2g128 symmetric"
    assert set(np.unique(found.read(LAYER, ROWS, COLUMNS).codes)) == {1, 2, 3}


def test_subnormal_sizes(reader):
    """The smallest fp16 number and its neighbour."""
    sizes = np.full((ROWS, 2), 2.0**-24, np.float16)
    sizes[3, 1] = 3 * 2.0**-24
    for values, bits in ((BINARY, 1), (TERNARY, 2)):
        matrix = on_grid(values, sizes=sizes)
        assert kept(reader({LAYER: matrix}), matrix) == f"w{bits}g128 symmetric"


def test_size_whose_double_overflows(reader):
    """1 bit needs 2 d in fp16. Twice 40000 overflows, but two bits can store d itself."""
    sizes = np.ones((ROWS, 2), np.float16)
    sizes[63, 1] = 40000
    matrix = on_grid(BINARY, sizes=sizes)
    assert kept(reader({LAYER: matrix}), matrix) == "w2g128 symmetric"
    single = on_grid(BINARY, sizes=np.full((ROWS, 2), 3e38), dtype=np.float32)
    assert kept(reader({LAYER: single}), single) == "w2 one scale per tensor"


@pytest.mark.parametrize("values", [BINARY, TERNARY])
@pytest.mark.parametrize("at", [(0, 0), (63, 255), (31, 130)])
@pytest.mark.parametrize("change", ["next", "minus", "half", "inf", "nan"])
def test_one_value_off_the_grid(reader, values, at, change):
    """Any single value off the grid, first or last, keeps the matrix in floats."""
    matrix = on_grid(values, seed=2)
    where = np.abs(matrix[at[0]]).max()
    matrix[at] = {
        "next": np.nextafter(where, np.float16(9)),
        "minus": -np.nextafter(where, np.float16(0)),
        "half": where / 2,
        "inf": np.inf,
        "nan": np.nan,
    }[change]
    assert not reader({LAYER: matrix, "model.layers.1.mlp.up_proj": on_grid(values)}).has(LAYER)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_group_of_infinities(reader, dtype):
    """All values are equal, but no scale exists."""
    matrix = on_grid(BINARY, dtype=dtype)
    matrix[7, :128] = np.inf
    assert not reader({LAYER: matrix, "model.layers.1.mlp.up_proj": on_grid(BINARY)}).has(LAYER)


def test_sizes_that_fp16_does_not_hold(reader):
    sizes = np.random.default_rng(4).uniform(0.1, 1, (ROWS, 2)).astype(np.float32)
    matrix = on_grid(TERNARY, dtype=np.float32, sizes=sizes)
    assert not reader({LAYER: matrix, "model.layers.1.mlp.up_proj": on_grid(TERNARY)}).has(LAYER)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((ROWS, COLUMNS), np.float16),
        on_grid(BINARY, 1, shape=(ROWS, 40)),
        np.zeros((0, 256), np.float16),
        np.zeros((ROWS, 0), np.float16),
        np.random.default_rng(3).standard_normal((ROWS, COLUMNS)).astype(np.float16),
        np.ones((4, 4, 32), np.float16),
    ],
    ids=["zeros", "40 columns", "no rows", "no columns", "floats", "three axes"],
)
def test_unquantized_checkpoint_is_refused(reader, refused, matrix):
    words = ("config.json", "quantization_config is None", "grid", "not quantized", "--quantize")
    refused(lambda: reader({LAYER: matrix}), *words)


def test_small_blocks_give_the_same(reader, monkeypatch):
    matrix = on_grid(BINARY)
    matrix[40, 64:128] = 0
    for weights in (1, 1000):
        monkeypatch.setattr("tmac.convert.sources.checkpoint.BLOCK_WEIGHTS", weights)
        assert kept(reader({LAYER: matrix}), matrix) == "w1g64 symmetric"


def test_whole_conversion(tmp_path, quietly):
    """Matrices on a grid become T-MAC types with the same weights; others stay fp16; the head is kept too."""
    model = make(tmp_path / "m", "llama-bitlinear")
    del model.config["quantization_config"]
    for name in [name for name in model.tensors if name.endswith("weight_scale")]:
        del model.tensors[name]
        module = name.removesuffix("_scale")
        rows, columns = model.weights[module.removesuffix(".weight")].shape
        model.tensors[module] = on_grid(BINARY, 96 if columns == 288 else 128, shape=(rows, columns))
    shard = on_grid(TERNARY, 256, shape=(256, 256), sizes=np.full((256, 1), 0.7))
    model.tensors["model.layers.1.self_attn.o_proj.weight"] = shard
    model.tensors["model.layers.0.mlp.gate_proj.weight"][9, 9] *= 2
    model.tensors["lm_head.weight"] = on_grid(BINARY, 128, shape=(1024, 256))
    report = quietly(model.save(), tmp_path / "x.gguf")
    header = read_gguf_header(tmp_path / "x.gguf")
    found = {entry.name: entry for entry in header.tensors}
    assert {total.type_name: total.tensors for total in report.totals} == {
        "tmac_w1g128": 11,
        "tmac_w1g32": 2,
        "tmac_t3t": 1,
        "f16": 1,
        "f32": 6,
        "q8_0": 1,
    }
    assert found["blk.0.ffn_gate.weight"].type_name == "f16"
    entry = found["output.weight"]
    data = np.fromfile(tmp_path / "x.gguf", np.uint8, entry.nbytes, offset=entry.offset)
    values = unpack(data, *entry.shape, TYPES_BY_ID[entry.type_id]).dequantize()
    assert np.array_equal(values, model.tensors["lm_head.weight"].astype(np.float32))
    assert "tmac.activations" not in header.metadata
    assert header.metadata["tmac.source"] == ("floats w1g128 symmetric, w1g32 symmetric, w2 one scale per tensor")
    assert any("14 of its 16 matrices lie on a 1-bit or ternary grid" in note for note in report.notes)


def test_shapes(reader, refused):
    """Those of the matrices; a layer that should have another shape is refused, not reshaped."""
    found = reader({LAYER: on_grid(TERNARY), "lm_head": on_grid((-1.5, 0.5, 1))})
    assert found.shapes() == {LAYER: (ROWS, COLUMNS)}
    for read in (found.grid, found.read):
        refused(lambda read=read: read(LAYER, COLUMNS, ROWS), LAYER, "[64, 256]", "expected [256, 64]")
