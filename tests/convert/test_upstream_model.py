"""What the planner gets of an answer of llama.cpp's converter; the answers are written by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from tmac.convert.plan.options import Options
from tmac.convert.plan.planner import plan
from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.upstream.answer import Answer, Matrix, Output, Run
from tmac.convert.upstream.architecture import model_of
from tmac.convert.upstream.rearranged import WEIGHT, Quantized

Q = "model.layers.0.self_attn.q_proj"
EMBEDDING = "model.embed_tokens"
ROWS, COLUMNS = 64, 256
KEPT = Output(
    "blk.0.attn_q.weight", "F16", (ROWS, COLUMNS), (Matrix((Run(Q + WEIGHT, 0, np.arange(ROWS)),), None, False),)
)


@pytest.fixture
def model(demo, tmp_path):
    """model(*outputs, values): what the planner gets; `values` are those that the converter computed."""
    checkpoint = Checkpoint(demo)
    reader = reader_for(checkpoint)

    def make(*outputs, values=(), unused=(), aside=(), quantized=()):
        np.asarray(values, "<f4").tofile(tmp_path / "values.bin")
        header = SimpleNamespace(metadata={"llama.block_count": 4}, records={})
        answer = Answer("llama", list(outputs), header, tmp_path / "values.bin", list(unused))
        return model_of(
            checkpoint, Quantized(reader, {**reader.shapes(), **dict.fromkeys(quantized, (8, 64))}), answer, list(aside)
        )

    return make


def computed(name, kind, shape, start=0):
    return Output(name, kind, shape, start=start, nbytes=4 * int(np.prod(shape)))


def planned(model, name):
    made = plan(model)
    return made, next(tensor for tensor in made.tensors if tensor.name == name)


@pytest.mark.parametrize("kind", ["F32", "F16"])
@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8)])
def test_computed_matrices_are_kept_and_not_read_before_they_are_written(model, tmp_path, kind, shape):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    given = model(KEPT, computed("blk.0.ffn_mix.weight", kind, shape), values=values)
    values_file = tmp_path / "values.bin"
    moved = values_file.rename(tmp_path / "elsewhere")
    _, tensor = planned(given, "blk.0.ffn_mix.weight")
    moved.rename(values_file)
    assert (tensor.shape, tensor.type_name) == (shape, "f32")
    assert np.array_equal(tensor.load().reshape(-1).view("<f4"), values.reshape(-1))


def test_computed_linear_layers_can_be_quantized(model):
    """Of a checkpoint in floats, by --quantize, as those that are only rearranged."""
    values = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    given = model(computed("blk.0.ssm_in.weight", "F16", (64, 64)), values=values)
    made = plan(given, Options.of(None, "q8_0", "w4g32", None))
    assert [tensor.type_name for tensor in made.tensors] == ["tmac_w4g32"]


def test_small_computed_tensors_of_other_dimensions_keep_their_shape(model):
    """RWKV mixes tokens by one of shape [5, 1, 1, n]."""
    values = np.arange(5 * 4, dtype=np.float32)
    _, tensor = planned(
        model(KEPT, computed("blk.0.lerp.weight", "F16", (5, 1, 1, 4)), values=values), "blk.0.lerp.weight"
    )
    assert (tensor.shape, tensor.type_name) == ((5, 1, 1, 4), "f32") and np.array_equal(
        tensor.load().reshape(-1), values
    )


HEAD = "lm_head.weight"


def refusals_of(folder, left_out=None):
    """Of an answer that has an embedding and no head."""
    checkpoint = Checkpoint(folder.save())
    reader = reader_for(checkpoint)
    matrix = Matrix((Run(EMBEDDING + WEIGHT, 0, np.arange(ROWS)),), None, False)
    header = SimpleNamespace(metadata={"llama.block_count": 4}, records={})
    outputs = [KEPT, Output("token_embd.weight", "F16", (ROWS, COLUMNS), (matrix,))]
    answer = Answer("llama", outputs, header, folder.path / "values.bin", left_out or [HEAD] * (HEAD in folder.tensors))
    model = model_of(checkpoint, Quantized(reader, reader.shapes()), answer, [])
    return [refusal.message for refusal in model._refusals]


@pytest.mark.parametrize("is_same", [True, False])
def test_head_that_is_left_out_has_to_be_the_embedding(folder, is_same):
    embedding = folder.tensors[EMBEDDING + WEIGHT]
    folder.tensors[HEAD] = embedding.copy() if is_same else embedding[::-1].copy()
    found = refusals_of(folder)
    assert found == [] if is_same else HEAD in found[0] and "other values" in found[0]


@pytest.mark.parametrize(
    ("head", "embedding", "is_refused"),
    [
        ("quantized", "quantized", False),
        ("other", "quantized", True),
        ("quantized", "floats", True),
        ("floats", "quantized", True),
    ],
)
def test_quantized_head_that_is_left_out_has_to_be_the_embedding(folder, head, embedding, is_refused):
    """Both quantized with the same tensors, or it is another one: of floats beside codes nobody knows."""
    floats = folder.tensors[EMBEDDING + WEIGHT]
    folder.tensors.pop(HEAD, None)
    for module, kind in ((HEAD.removesuffix(WEIGHT), head), (EMBEDDING, embedding)):
        folder.tensors.pop(module + WEIGHT, None)
        if kind == "floats":
            folder.tensors[module + WEIGHT] = floats.copy()
            continue
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            folder.tensors[f"{module}.{part}"] = folder.tensors[f"{Q}.{part}"].copy()
        if kind == "other":
            folder.tensors[f"{module}.scales"][0, 0] *= 2
    found = refusals_of(folder, [HEAD])
    assert any(HEAD in message and "other values" in message for message in found) is is_refused


@pytest.mark.parametrize(("tied", "is_refused"), [(False, True), (True, False)])
def test_head_that_is_promised_has_to_be_there(folder, tied, is_refused):
    folder.tensors.pop(HEAD, None)
    folder.config["tie_word_embeddings"] = tied
    assert any("no output head" in message for message in refusals_of(folder)) is is_refused


def test_matrices_have_to_fill_the_shape(model):
    matrices = (Matrix((Run(EMBEDDING + WEIGHT, 0, np.arange(1)),), None, False),) * 5
    with pytest.raises(AssertionError, match="blk.0.lerp.weight"):
        model(Output("blk.0.lerp.weight", "F16", (5, 1, 1, COLUMNS), matrices))


def test_quantized_layer_joined_with_floats_is_rounded_with_a_note(model):
    runs = (Run(Q + WEIGHT, 0, np.arange(32)), Run(EMBEDDING + WEIGHT, 0, np.arange(32)))
    output = Output("blk.0.attn_qkv.weight", "F16", (ROWS, COLUMNS), (Matrix(runs, None, False),))
    made, tensor = planned(model(KEPT, output), output.name)
    assert tensor.type_name == "f16" and tensor.load().nbytes == 2 * ROWS * COLUMNS
    assert any(Q in note and EMBEDDING in note and "rounded" in note for note in made.notes)


def test_quantized_experts_with_columns_in_another_order_beside_floats_are_refused(model, refused):
    order = np.arange(COLUMNS)[::-1]
    experts = tuple(Matrix((Run(name + WEIGHT, 0, np.arange(ROWS)),), order, False) for name in (Q, EMBEDDING))
    output = Output("blk.0.ffn_up_exps.weight", "F16", (2, ROWS, COLUMNS), experts)
    refused(lambda: model(KEPT, output), "blk.0.ffn_up_exps.weight", EMBEDDING, "is not quantized")


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("model.layers.3.mlp.up_proj", True),
        ("model.layers.3.mlp.experts.weight", False),
        (None, False),
    ],
)
def test_quantized_layers_of_text_blocks_are_not_left_out(model, refused, name, is_refused):
    """What has floats, or is aside, is said instead."""
    unused = [] if name is None else [name + WEIGHT]
    given = model(KEPT, unused=unused, aside=["model.layers.0.k_scale"])
    if is_refused:
        refused(lambda: plan(given), "leaves out model.layers.3.mlp.up_proj.weight")
        return
    notes = plan(given).notes
    assert any(note.startswith("model.layers.0.k_scale are for activations") for note in notes)
    assert any("no part of what llama.cpp computes" in note for note in notes) is bool(unused)


def test_quantized_layers_of_other_blocks_may_be_left_out(model):
    """Of what sees, and of blocks that draft."""
    names = [f"{place}.mlp.up_proj" for place in ("model.visual.blocks.0", "vision_tower.layers.1", "model.layers.4")]
    given = model(KEPT, unused=[name + WEIGHT for name in names], quantized=names)
    assert any("no part of what llama.cpp computes" in note for note in plan(given).notes)
