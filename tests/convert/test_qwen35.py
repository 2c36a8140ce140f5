"""Qwen3.5: what its delta nets become, in floats, quantized and freshly quantized, and what is noted or refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from support import tiny_checkpoints
from support.comparison import nmse
from support.gptq_files import Kind, random_layer
from support.safetensors_files import read_tensors, write_tensors
from support.stock import entries, stored_values, tensor_bytes
from support.tiny_families import QWEN35
from support.written import Written
from tmac.convert.architectures import ARCHITECTURES, architecture_for
from tmac.convert.architectures.qwen35 import DELTA, FULL, tiled_order
from tmac.convert.linear import QuantLinear
from tmac.convert.plan.columns import placed
from tmac.convert.readers.grid import Grid
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.text_names import stored_names

GROUPS, HEADS, STATE = 2, 8, 32
TILED, BY_HEAD = tiled_order(GROUPS, HEADS // GROUPS, STATE), tiled_order(GROUPS, HEADS // GROUPS, 1)
NET = "model.layers.0.linear_attn"
# With 8 heads, of which quantizers can make whole words, and its gates quantized too.
CHANNELS, VALUES = 2 * GROUPS * STATE + HEADS * STATE, HEADS * STATE
GATES = {"linear_attn.in_proj_a": (HEADS, 128), "linear_attn.in_proj_b": (HEADS, 128)}
QUANTIZED = replace(
    QWEN35,
    name="qwen35-gates",
    config={**QWEN35.config, "linear_num_value_heads": HEADS},
    linear={
        **QWEN35.linear,
        "linear_attn.in_proj_qkv": (CHANNELS, 128),
        "linear_attn.in_proj_z": (VALUES, 128),
        "linear_attn.out_proj": (128, VALUES),
        **GATES,
    },
    floats={},
    values={
        "linear_attn.A_log": ((HEADS,), 1.0),
        "linear_attn.dt_bias": ((HEADS,), 1.0),
        "linear_attn.conv1d.weight": ((CHANNELS, 1, 4), 0.5),
    },
)


def test_the_order_of_value_heads():
    """Two groups of three heads of two rows, after one row: head (g, r) of the checkpoint is head (r, g)."""
    assert tiled_order(2, 3, 2, 1).tolist() == [0, 1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12]


def test_two_tensors_that_are_one_of_the_text_model(refused):
    """A folder with the files of the text model and of the one that sees images: neither is taken in silence."""
    name = "layers.0.mlp.up_proj.weight"
    both = [f"model.language_model.{name}", f"model.{name}"]
    refused(lambda: stored_names("here", both), "here", *both, "expected one of them")
    assert stored_names("here", both[:1])[f"model.{name}"] == both[0]


@pytest.mark.parametrize("top", ["", "model."])
def test_what_sees_images_is_no_part_of_the_text_model(top):
    names = [f"{top}{part}.x.weight" for part in ("visual", "vision_tower", "multi_modal_projector")]
    assert stored_names("here", names) == {}


@pytest.mark.parametrize("has_order", [False, True], ids=["sorted", "act-order"])
@pytest.mark.parametrize("group", [0, 8, 16, 64])
def test_columns_keep_their_weights(
    group,
    has_order,
):
    """Groups of 8 or 16 columns in heads of 16 are moved; larger ones stay, and have an order beside them."""
    rng, order = np.random.default_rng(1), tiled_order(2, 4, 16)
    columns = len(order)
    scales = rng.uniform(1, 2, (4, columns // group if group else 0)).astype(np.float16)
    linear = QuantLinear(rng.integers(0, 4, (4, columns), np.uint8), scales, None, 2, group)
    act_order = rng.permutation(columns) if has_order else None
    grid = Grid(2, group, False, tensor_scale=None if group else 0.5, column_order=act_order)
    found = placed(grid, order)
    assert (found.column_order is None) is (not has_order and group <= 16)
    moved = linear.take_columns(order) if found.column_order is None else linear
    assert np.array_equal(found.weights(moved), grid.weights(linear)[:, order])


@pytest.mark.parametrize("group", [32, 64])
def test_quantized_layers_and_parameters_are_exact(tmp_path, quietly, group):
    """Gates and parameters in float32, in the order of llama.cpp; decays as -exp(A_log).

    Groups as large as heads move with them; larger ones stay, and a tensor says which input each column is of.
    """
    model = replace(QUANTIZED, group=group)
    report = quietly(tiny_checkpoints.write(model, tmp_path / "checkpoint"), tmp_path / "out.gguf")
    assert sum("says what a delta net forgets" in note for note in report.notes) == 1
    floats = {name: of.astype(np.float32) for name, of in tiny_checkpoints.tensors(model, False, False)}
    found = {
        name: tensor_bytes(tmp_path / "out.gguf", entry).view("<f4").reshape(entry.shape)
        for name, entry in entries(tmp_path / "out.gguf").items()
        if entry.type_name == "f32"
    }
    channels = tiled_order(GROUPS, HEADS // GROUPS, STATE, 2 * GROUPS * STATE)
    assert np.array_equal(found["blk.0.ssm_alpha.weight"], floats[f"{NET}.in_proj_a.weight"][BY_HEAD])
    assert np.array_equal(found["blk.0.ssm_beta.weight"], floats[f"{NET}.in_proj_b.weight"][BY_HEAD])
    assert np.array_equal(found["blk.0.ssm_dt.bias"], floats[f"{NET}.dt_bias"][BY_HEAD])
    assert np.array_equal(found["blk.0.ssm_conv1d.weight"], floats[f"{NET}.conv1d.weight"][channels, 0])
    decays = -np.exp(floats[f"{NET}.A_log"].astype(np.float64))[BY_HEAD]
    assert np.array_equal(found["blk.0.ssm_a"], decays.astype(np.float32))
    out = stored_values(tmp_path / "out.gguf", "blk.0.ssm_out.weight")
    order = entries(tmp_path / "out.gguf").get("blk.0.ssm_out.order")
    assert (order is not None) == (group > STATE)
    if order is not None:
        out = out[:, np.argsort(tensor_bytes(tmp_path / "out.gguf", order).view(np.int32))]
    assert np.array_equal(out, floats[f"{NET}.out_proj.weight"][:, TILED])


def test_fresh_quantization_moves_columns(tmp_path, quietly):
    """The error is that of 4 bits; columns in another order would be unrelated. The drafting matrix stays as it is."""
    source = tiny_checkpoints.write(QUANTIZED, tmp_path / "checkpoint", quantized=False)
    report = quietly(source, tmp_path / "out.gguf", quantize="w4g32")
    assert not any("says what a delta net forgets" in note for note in report.notes)
    expected = dict(tiny_checkpoints.tensors(QUANTIZED, False, False))[f"{NET}.out_proj.weight"][:, TILED]
    assert nmse(stored_values(tmp_path / "out.gguf", "blk.0.ssm_out.weight"), expected.astype(np.float32)) < 0.02
    assert entries(tmp_path / "out.gguf")["blk.4.nextn.eh_proj.weight"].type_name == "f16"


@pytest.fixture
def tiny(tmp_path):
    return tiny_checkpoints.write(QUANTIZED, tmp_path / "checkpoint")


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_tensors(folder, change):
    tensors = read_tensors(folder / "model.safetensors")
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def test_a_block_that_drafts_inside_of_the_model(tiny, tmp_path, quietly):
    """Some files have `model.mtp...` for `mtp...`: the same GGUF is made."""
    quietly(tiny, tmp_path / "expected.gguf")
    assert "blk.4.nextn.eh_proj.weight" in entries(tmp_path / "expected.gguf")

    def change(tensors):
        for name in [name for name in tensors if name.startswith("mtp.")]:
            tensors[f"model.{name}"] = tensors.pop(name)

    quietly(change_tensors(tiny, change), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()


def test_two_blocks_that_draft_are_left_out(tiny, tmp_path, quietly):
    def change(tensors):
        more = {
            name.replace("layers.0", "layers.1"): of for name, of in tensors.items() if name.startswith("mtp.layers")
        }
        tensors.update(more)

    report = quietly(change_tensors(tiny, change), tmp_path / "out.gguf")
    assert any("has 2 blocks that draft, and llama.cpp drafts with one" in note for note in report.notes)
    said = [note for note in report.notes if "tokens ahead (MTP)" in note]
    assert len(said) == 1 and re.match(r"mtp\.\S+ and \d+ other tensors only draft .*; left out", said[0])
    assert not any("nextn" in name or name.startswith("blk.4") for name in entries(tmp_path / "out.gguf"))


@pytest.mark.parametrize("promised", [0, 1])
@pytest.mark.parametrize("there", [False, True])
def test_a_block_that_drafts_which_is_not_there(tiny, promised, there):
    """Copies of checkpoints often lack it. What the file has counts; what it promises and lacks is noted."""
    change_config(tiny, mtp_num_hidden_layers=promised)
    if not there:
        names = [name for name in read_tensors(tiny / "model.safetensors") if name.startswith("mtp.")]
        change_tensors(tiny, lambda tensors: [tensors.pop(name) for name in names])
    architecture = architecture_for(Checkpoint(tiny))
    assert architecture.drafts == there
    assert all(part.target for part in architecture.parts())
    said = [note for note in architecture.notes if "draft" in note]
    assert [note.startswith("has no block that drafts") for note in said] == [True] * (promised and not there)


@pytest.mark.parametrize(("bits", "type_name"), [(4, "f16"), (8, "q8_0")])
def test_a_quantized_matrix_of_the_block_that_drafts(tiny, tmp_path, quietly, bits, type_name):
    """It has no T-MAC type. What rounds it is noted; 8 bits are kept exactly."""
    layer, _ = random_layer(np.random.default_rng(1), 128, 256, Kind(bits, 32, symmetric=True))
    settings = json.loads((tiny / "config.json").read_text())["quantization_config"]
    change_config(tiny, quantization_config={**settings, "dynamic": {r"+:mtp\.fc": {"bits": bits, "sym": True}}})

    def change(tensors):
        del tensors["mtp.fc.weight"]
        tensors.update({f"mtp.fc.{part}": of for part, of in layer.items()})

    report = quietly(change_tensors(tiny, change), tmp_path / "out.gguf")
    assert entries(tmp_path / "out.gguf")["blk.4.nextn.eh_proj.weight"].type_name == type_name
    said = [note for note in report.notes if note.startswith("blk.4.nextn.eh_proj")]
    assert len(said) == 1 and ("stored as f16, rounded" in said[0]) == (type_name == "f16")


def test_a_missing_part_of_the_block_that_drafts(tiny, tmp_path, refused, quietly):
    change_tensors(tiny, lambda tensors: tensors.pop("mtp.fc.weight"))
    refused(lambda: quietly(tiny, tmp_path / "out.gguf"), "tensor mtp.fc.weight is missing")


def test_an_unknown_part_of_the_block_that_drafts(tiny, tmp_path, refused, quietly):
    change_tensors(tiny, lambda tensors: tensors.update({"mtp.x.weight": np.ones((4, 4), np.float16)}))
    refused(lambda: quietly(tiny, tmp_path / "out.gguf"), "tensor mtp.x.weight is not part of the qwen35 architecture")


def test_a_convolution_of_another_shape(tiny, tmp_path, refused, quietly):
    name = f"{NET}.conv1d.weight"
    change_tensors(tiny, lambda tensors: tensors.update({name: tensors[name].reshape(CHANNELS, 4)}))
    words = f"tensor {name} has shape [{CHANNELS}, 4], expected [{CHANNELS}, 1, 4]"
    refused(lambda: quietly(tiny, tmp_path / "out.gguf"), words)


def test_a_decay_that_float32_does_not_hold(tiny, tmp_path, refused, quietly):
    name = f"{NET}.A_log"
    change_tensors(tiny, lambda tensors: tensors.update({name: np.full(HEADS, 1000, np.float32)}))
    refused(lambda: quietly(tiny, tmp_path / "out.gguf"), f"tensor {name}", "infinite")


def test_a_bias_of_the_convolution_is_refused(tiny, tmp_path, refused, quietly):
    """llama.cpp adds none, so it must not be left out silently."""
    change_tensors(tiny, lambda tensors: tensors.update({f"{NET}.conv1d.bias": np.ones(CHANNELS, np.float16)}))
    refused(lambda: quietly(tiny, tmp_path / "out.gguf"), f"tensor {NET}.conv1d.bias is not part of")


@pytest.mark.parametrize("has_head", [False, True])
def test_a_head_of_which_two_things_are_said(tiny, has_head):
    """The text part has transformers' default for it, the whole model what counts; or the other way round."""
    config = json.loads((tiny / "config.json").read_text())
    text = {**config, "tie_word_embeddings": has_head}
    whole = {"architectures": ["Qwen3_5ForConditionalGeneration"], "tie_word_embeddings": not has_head}
    (tiny / "config.json").write_text(json.dumps({**whole, "text_config": text}))
    if not has_head:
        change_tensors(tiny, lambda tensors: tensors.pop("lm_head.weight"))
    assert architecture_for(Checkpoint(tiny)).tied_head is not has_head


ROPE = QWEN35.config["rope_parameters"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attn_output_gate": False}, "attn_output_gate False is not supported"),
        ({"linear_value_head_dim": 64}, "linear_value_head_dim 64 is not supported"),
        ({"linear_num_value_heads": 7}, "linear_num_value_heads is 7, expected a multiple"),
        ({"layer_types": [FULL, FULL, FULL, "other"]}, "'other'], expected linear_attention or"),
        ({"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], expected linear_attention or"),
        ({"rope_parameters": {**ROPE, "mrope_interleaved": False}}, "mrope_interleaved False is not supported"),
        *(
            ({"rope_parameters": {**ROPE, "mrope_section": found}}, f"mrope_section is {found}, expected three or four")
            for found in (4, [4], [1, 1, 1, 1, 0], [2, 1, -1], [2, 1, 1.0], [2, 1, "1"])
        ),
        ({"rope_parameters": {**ROPE, "partial_rotary_factor": 0.1}}, "partial_rotary_factor is 0.1"),
        ({"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}}, "rope_type 'linear' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ],
)
def test_configurations_that_llama_cpp_computes_otherwise(tmp_path, refused, changes, words):
    config = {**QUANTIZED.full_config, **changes}
    refused(lambda: ARCHITECTURES["Qwen3_5ForCausalLM"](config, tmp_path / "config.json"), words)


@pytest.mark.parametrize(
    ("changes", "is_delta"),
    [
        ({}, [True, True, True, False]),
        ({"full_attention_interval": 2}, [True, False, True, False]),
        ({"layer_types": [FULL, DELTA, DELTA, FULL]}, [False, True, True, False]),
    ],
)
def test_layers_that_are_delta_nets(tmp_path, changes, is_delta):
    """By a list, or all but one in so many; the block that drafts is none."""
    metadata = Written()
    config = {**QUANTIZED.full_config, **changes}
    ARCHITECTURES["Qwen3_5ForCausalLM"](config, tmp_path / "config.json").add_metadata(metadata)
    assert metadata["qwen35.attention.recurrent_layers"] == [*is_delta, False]
    assert metadata["full_attention_interval"] == changes.get("full_attention_interval", 4)


@pytest.mark.parametrize("sections", [[2, 1, 1], [4, 0, 0], [2, 1, 1, 0], None])
def test_sections_of_frequencies(tmp_path, sections):
    """llama.cpp wants four numbers. Without any, transformers' modeling_qwen3_5.py takes 11, 11 and 10."""
    config = {**QUANTIZED.full_config, "rope_parameters": {**ROPE, "mrope_section": sections}}
    metadata = Written()
    ARCHITECTURES["Qwen3_5ForCausalLM"](config, tmp_path / "config.json").add_metadata(metadata)
    assert metadata["rope_dimension_sections"] == [*(sections or [11, 11, 10]), 0][:4]


def test_own_embeddings_of_the_block_that_drafts(tmp_path, refused):
    config = {**QUANTIZED.config, "mtp_use_dedicated_embeddings": True}
    folder = tiny_checkpoints.write(replace(QUANTIZED, config=config), tmp_path / "checkpoint")
    refused(lambda: architecture_for(Checkpoint(folder)), "mtp_use_dedicated_embeddings True is not supported")


# As other families: cases of test_public_reports.py and test_heads.py.


@pytest.mark.parametrize("is_same", [True, False])
def test_a_head_beside_a_tied_flag(tmp_path, quietly, is_same):
    tiny = tiny_checkpoints.write(QUANTIZED, tmp_path / "checkpoint", quantized=False)
    change_config(tiny, tie_word_embeddings=True)

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + np.float16(not is_same)

    report = quietly(change_tensors(tiny, change), tmp_path / "x.gguf", quantize="w4g32", head="f16", embedding="f16")
    assert any("other values than the embedding; it was kept" in note for note in report.notes) == (not is_same)
    assert ("output.weight" in entries(tmp_path / "x.gguf")) == (not is_same)


@pytest.mark.parametrize("wrapper", ["", "language_model."])
def test_a_base_model_without_prefix_and_head(tiny, tmp_path, quietly, wrapper):
    """Alone and inside one that sees images; its way of pooling is kept. All else is as with the prefix."""
    quietly(tiny, tmp_path / "whole.gguf")
    change_config(tiny, architectures=["Qwen3_5Model"])

    def change(tensors):
        del tensors["lm_head.weight"]
        for name in [name for name in tensors if name.startswith("model.")]:
            tensors[wrapper + name.removeprefix("model.")] = tensors.pop(name)

    (tiny / "1_Pooling").mkdir()
    (tiny / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    report = quietly(change_tensors(tiny, change), tmp_path / "x.gguf")
    assert any("no output head" in note for note in report.notes)
    assert read_gguf_header(tmp_path / "x.gguf").metadata["qwen35.pooling_type"] == 3
    whole = entries(tmp_path / "whole.gguf")
    del whole["output.weight"]
    found = entries(tmp_path / "x.gguf")
    assert found.keys() == whole.keys()
    for name, entry in whole.items():
        assert np.array_equal(
            tensor_bytes(tmp_path / "x.gguf", found[name]), tensor_bytes(tmp_path / "whole.gguf", entry)
        )
