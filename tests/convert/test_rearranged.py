"""Layers that llama.cpp's converter rearranges: the weights stay those of the checkpoint, in other places."""

import json
import sys

import numpy as np
import pytest

from support.reexpress import reexpress
from tmac.convert.inspect import inspect_checkpoint
from tmac.convert.linear import QuantLinear
from tmac.convert.readers import reader_for
from tmac.convert.readers.grid import Grid
from tmac.convert.readers.native import native_reader
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.upstream.answer import Matrix, Run
from tmac.convert.upstream.models import goes_upstream
from tmac.convert.upstream.prepare import shown, upstream_model
from tmac.convert.upstream.rearranged import WEIGHT, Quantized, RearrangedCheckpoint, RearrangedReader

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
ROWS, COLUMNS = 256, 256
NAME = "blk.0.attn_q.weight"
# A pre-tokenizer that nobody knows.
SPLIT = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}


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


def test_rows_in_another_order(view):
    order = np.random.default_rng(1).permutation(ROWS)
    found = read(view, Matrix((run(Q, order),), None, False), ROWS)
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
    reader, read_it = reader_of(view, linear_of(scales, minima), np.array(factors))
    assert reader.notes_of_factors() == []
    read_it()
    (note,) = reader.notes_of_factors()
    assert all(words in note for words in expected) and (NAME in note or "exact" in note)


def test_layers_with_minima_times_a_number_that_moves_them_too_far_are_refused(view, refused):
    """-1433.6 is rounded by 0.4, which is more than half a step."""
    _, read_it = reader_of(view, linear_of([[1.0, 1.0], [1.0, 1.0]], [[0, 0], [0, -2048]]), np.full(2, 0.7))
    refused(read_it, "row 1 of", NAME, "minimum of its group 1 becomes -1433.6", "too few digits")


def test_one_scale_for_all_times_a_number_is_refused(view, refused):
    grid = Grid(2, 0, False, tensor_scale=0.5, ternary=True)
    reader, _ = reader_of(view, linear_of([[1.0]]), np.array([2.0]), grid)
    refused(lambda: reader.grid(NAME, 1, 32), NAME, "one scale for all its weights")


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


def test_layers_with_and_without_minima_are_not_joined(view, refused):
    view.quantized.grid = lambda weight: Grid(4, 32, True, minima=weight.startswith(Q))
    view.add(NAME, (8, 32), Matrix((run(Q, range(4)), run(K, range(4))), None, False))
    reader = RearrangedReader(view)
    refused(lambda: reader.grid(NAME, 8, 32), Q, K, "asymmetric with minima", "expected the same grid")


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
    assert all(name + WEIGHT in view.rounded(NAME) for name in order) and view.info(NAME + WEIGHT).dtype == "F16"
    whole = {Q: weights_of(view.original, Q), order[order[0] == Q]: view.original.read("model.embed_tokens.weight")}
    expected = np.concatenate([whole[name][16:48] for name in order])
    assert np.array_equal(np.concatenate([rows for _, rows in view.blocks(NAME + WEIGHT, 1000)]), expected)


def test_floats_rearranged(view):
    """Neighbouring rows, others, and other columns; each read in blocks."""
    name = "model.embed_tokens"
    whole = view.original.read(name + WEIGHT)
    order, columns = np.random.default_rng(3).permutation(len(whole)), np.arange(COLUMNS)[::-1]
    for rows, at in ((np.arange(8, 200), None), (order, None), (np.arange(len(whole)), columns)):
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


def test_what_the_converter_is_shown(demo):
    """A quantized layer is one weight without values; everything else is where it is."""
    checkpoint = Checkpoint(demo)
    reader = reader_for(checkpoint)
    tensors, aside = shown(checkpoint, Quantized(reader, reader.shapes()))
    assert aside == []
    assert tensors[Q + WEIGHT] == ("", "F32", (ROWS, COLUMNS), 0, 0)
    assert not any(name.endswith(("qweight", "scales", "g_idx")) for name in tensors)
    info = checkpoint.info("model.norm.weight")
    assert tensors["model.norm.weight"] == (str(info.file.resolve()), info.dtype, info.shape, info.start, info.nbytes)


def test_inspecting_a_family_that_only_llama_cpp_has(folder):
    """Every quantized layer with its type, and the way that it would go; torch is not imported."""
    folder.config["architectures"] = ["ArceeForCausalLM"]
    checkpoint = Checkpoint(folder.save())
    assert goes_upstream(checkpoint)
    found = inspect_checkpoint(checkpoint.folder)
    assert found.refusals == []
    assert {tensor.type_name for tensor in found.tensors} == {"tmac_w2g64z"}
    assert len(found.tensors) == len(reader_for(checkpoint).shapes())
    assert "llama.cpp's own converter (tmac build --all-models)" in dict(found.facts)["architecture"]
    assert ("quantization", "gptq w2g64 asymmetric") in found.facts
    assert "torch" not in sys.modules


def inspected(folder):
    folder.config["architectures"] = ["ArceeForCausalLM"]
    return inspect_checkpoint(folder.save())


def test_inspecting_says_that_rotated_weights_are_refused(folder):
    (folder.path / "hadamard_packing.json").write_text("{}")
    assert any("rotated" in refusal.message for refusal in inspected(folder).refusals)


@pytest.mark.parametrize("known", [True, False])
def test_inspecting_says_where_only_a_conversion_knows_the_pre_tokenizer(folder, tokenizer, known):
    if not known:
        tokenizer.json["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [SPLIT, tokenizer.json["pre_tokenizer"]],
        }
    (folder.path / "tokenizer.json").write_text(json.dumps(tokenizer.json))
    assert any("only a conversion tells" in note for note in inspected(folder).notes) is not known


def test_inspecting_sees_a_rule_for_one_layer(folder):
    """Layer 2 has larger groups than the others of its name."""
    module = "model.layers.2.mlp.up_proj"
    folder.config["quantization_config"]["dynamic"] = {r"+:.*\.2\.mlp\.up_proj": {"group_size": 128}}
    for part in ("qzeros", "scales"):
        folder.tensors[f"{module}.{part}"] = folder.tensors[f"{module}.{part}"][::2].copy()
    folder.tensors[f"{module}.g_idx"] = (np.arange(COLUMNS) // 128).astype(np.int32)
    types = {tensor.name: tensor.type_name for tensor in inspected(folder).tensors}
    assert types.pop(module) == "tmac_w2g128z" and set(types.values()) == {"tmac_w2g64z"}


def test_8_bit_floats_beside_are_refused(folder):
    """Their scales would be lost."""
    folder.config["architectures"] = ["ArceeForCausalLM"]
    folder.save()
    raw = folder.weights.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    name, entry = next((name, entry) for name, entry in header.items() if entry.get("dtype") == "F16")
    header[name] = {**entry, "dtype": "F8_E4M3", "shape": [*entry["shape"][:-1], 2 * entry["shape"][-1]]}
    text = json.dumps(header).encode()
    folder.weights.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    found = inspect_checkpoint(folder.path)
    assert any(name in refusal.message and "F8_E4M3" in refusal.message for refusal in found.refusals)


def test_mlx_is_refused(folder, refused):
    """mlx-lm has added 1 to norms of some families already, which llama.cpp's converter would do again."""
    reexpress(folder, "mlx-2bit")
    folder.config["architectures"] = ["ArceeForCausalLM"]
    checkpoint = Checkpoint(folder.save())
    words = "config.json", "mlx", "1 added to norms", "a second time"
    reader = reader_for(checkpoint)
    refused(lambda: upstream_model(checkpoint, reader, None, None, name="", keeps_settings=False), *words)
    found = inspect_checkpoint(checkpoint.folder)
    assert found.tensors == [] and all(word in found.render() for word in words)


def test_4_bit_floats_are_said_to_stay_so(folder):
    folder.config["architectures"] = ["GptOssForCausalLM"]
    folder.config["quantization_config"] = {"quant_method": "mxfp4"}
    found = inspect_checkpoint(folder.save())
    assert found.refusals == [] and any("keep their type of ggml" in note for note in found.notes)


@pytest.mark.parametrize("settings", [None, {"quant_method": "modelopt"}])
def test_4_bit_floats_named_by_nvidias_tool_alone(folder, settings):
    """hf_quant_config.json, which llama.cpp's converter reads too; an 8-bit algorithm there is none of these."""
    folder.config["architectures"] = ["ArceeForCausalLM"]
    folder.config["quantization_config"] = settings
    kinds = {}
    for algorithm in ("NVFP4", "FP8"):
        (folder.path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": algorithm}}))
        kinds[algorithm] = native_reader(Checkpoint(folder.save()))
    assert kinds["NVFP4"].method == "nvfp4" and kinds["FP8"] is None


def test_options_that_would_have_no_effect_are_refused(folder, demo, tmp_path, quietly, refused):
    """--quantize of what stays as it is, and --upstream of what llama.cpp's converter does not read."""

    def refused_with(source, *words, **options):
        refused(lambda: quietly(source, tmp_path / "out.gguf", find_upstream=lambda: None, **options), *words)

    quietly(demo, tmp_path / "model.gguf")
    refused_with(tmp_path / "model.gguf", "is a GGUF", "--upstream", prefer_upstream=True)
    folder.config["architectures"] = ["MadeUpForCausalLM"]
    refused_with(folder.save(), "no architecture 'MadeUpForCausalLM'", "--upstream", prefer_upstream=True)
    folder.config["architectures"] = ["GptOssForCausalLM"]
    for settings in ({"quant_method": "mxfp4"}, {"quant_method": "modelopt", "quant_algo": "NVFP4"}):
        folder.config["quantization_config"] = settings
        refused_with(folder.save(), "config.json", "fp4, expected one in floats", "--quantize", quantize="w4g32")


def test_family_that_nobody_has_is_refused(folder):
    folder.config["architectures"] = ["MadeUpForCausalLM"]
    found = inspect_checkpoint(folder.save())
    assert any("MadeUpForCausalLM" in refusal.message and "llama.cpp" in refusal.hint for refusal in found.refusals)
