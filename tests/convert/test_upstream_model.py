"""What the planner gets of an answer of llama.cpp's converter; the answers are written by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tmac.convert.plan.options import Options
from tmac.convert.plan.planner import plan
from tmac.convert.readers import reader_for
from tmac.convert.readers.grid import Grid
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.upstream.answer import Answer, Matrix, Output, Run
from tmac.convert.upstream.architecture import model_of
from tmac.convert.upstream.rearranged import WEIGHT, Quantized

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
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


LEFT = replace(KEPT, name="blk.2.attn_q.weight")


def computed(name, kind, shape, start=0):
    return Output(name, kind, shape, start=start, nbytes=4 * int(np.prod(shape)))


def planned(model, name):
    made = plan(model)
    return made, next(tensor for tensor in made.tensors if tensor.name == name)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8)])
@pytest.mark.parametrize("name", ["blk.0.ffn_mix.weight", "blk.0.ssm_a"])
def test_computed_matrices_are_kept_and_not_read_before_they_are_written(model, tmp_path, kind, shape, name):
    """Nothing says that they are quantized."""
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    given = model(KEPT, computed(name, kind, shape, start=8), values=[0, 0, *values.reshape(-1)])
    values_file = tmp_path / "values.bin"
    moved = values_file.rename(tmp_path / "elsewhere")
    made, tensor = planned(given, name)
    moved.rename(values_file)
    assert (tensor.shape, tensor.type_name) == (shape, "f32")
    assert np.array_equal(tensor.load().reshape(-1).view("<f4"), values.reshape(-1))
    assert list(made.origins) == ["w2g64 asymmetric"] and not any("is quantized" in note for note in made.notes)


def test_computed_linear_layers_can_be_quantized(model):
    """Of a checkpoint in floats, by --quantize, as those that are only rearranged."""
    values = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    given = model(computed("blk.0.ssm_in.weight", "F16", (64, 64)), values=values)
    made = plan(given, Options.of(None, "q8_0", "w4g32", None))
    assert [tensor.type_name for tensor in made.tensors] == ["tmac_w4g32"]


@pytest.mark.parametrize("shape", [(5, 1, 1, 4), (20,)])
@pytest.mark.parametrize("name", ["blk.0.lerp.weight", "blk.0.lerp"])
def test_small_computed_tensors_of_other_dimensions_keep_their_shape(model, shape, name):
    """RWKV mixes tokens by one of shape [5, 1, 1, n]."""
    values = np.arange(5 * 4, dtype=np.float32)
    _, tensor = planned(model(KEPT, computed(name, "F16", shape), values=values), name)
    assert (tensor.shape, tensor.type_name) == (shape, "f32") and np.array_equal(tensor.load().reshape(-1), values)


def test_types_of_ggml_stay_as_they_are(model, tmp_path):
    """4-bit floats and whole numbers, byte by byte."""
    data = np.random.default_rng(1).integers(0, 256, 16 + 2 * 34, np.uint8)
    outputs = [
        Output("blk.0.ffn_gate_tid2eid.weight", "I32", (2, 2), start=0, nbytes=16),
        Output("blk.0.ffn_up_exps.weight", "MXFP4", (2, 2, 32), start=16, nbytes=68),
    ]
    given = model(*outputs)
    data.tofile(tmp_path / "values.bin")
    made = plan(given)
    found = [(tensor.name, tensor.shape, tensor.type_name, tensor.nbytes) for tensor in made.tensors]
    assert found == [(o.name, o.shape, o.kind.lower(), o.nbytes) for o in outputs]
    assert np.array_equal(np.concatenate([tensor.load() for tensor in made.tensors]), data)
    assert made.origins == {"i32": ["blk.0.ffn_gate_tid2eid"], "mxfp4": ["blk.0.ffn_up_exps"]}


PLAIN = Matrix((Run(Q + WEIGHT, 0, np.arange(ROWS)),), None, False)
ORDER = np.random.default_rng(2).permutation(COLUMNS)
MOVED = replace(PLAIN, columns=ORDER)
TRANSPOSED = replace(PLAIN, runs=(Run(Q + WEIGHT, 0, np.arange(COLUMNS)),), transposed=True)
FLOATS = Matrix((Run(EMBEDDING + WEIGHT, 0, np.arange(ROWS)),), None, False)
EMBEDDED = Output("token_embd.weight", "F16", (ROWS, COLUMNS), (FLOATS,))


@pytest.mark.parametrize(
    ("name", "kind", "matrix", "type_name", "words"),
    [
        ("blk.0.ffn_mix.weight", "F16", PLAIN, "f32", "no low-bit type at this place"),
        ("blk.0.ffn_mix", "F16", PLAIN, "f32", "no low-bit type at this place"),
        ("blk.0.ffn_mix.weight", "F16", MOVED, "f32", "no low-bit type at this place"),
        ("blk.0.ffn_mix.weight", "F16", TRANSPOSED, "f32", "no low-bit type at this place"),
        ("blk.0.ffn_mix.weight", "F16", FLOATS, "f16", "not quantized in the checkpoint; kept as F16"),
        ("blk.0.attn_q.weight", "F16", TRANSPOSED, "f16", "transposed; stored as f16, rounded"),
        ("blk.0.attn_q.weight", "F16", FLOATS, "f16", "not quantized in the checkpoint; kept as F16"),
        ("blk.0.attn_q.weight", "F32", PLAIN, "f32", "chooses experts; stored as f32, exactly"),
        ("blk.0.attn_q.weight", "F32", MOVED, "f32", "chooses experts; stored as f32, exactly"),
        ("blk.0.ssm_alpha.weight", "F16", PLAIN, "f32", "what a delta net forgets; stored as f32, exactly"),
        ("blk.0.ssm_beta.weight", "F16", PLAIN, "f32", "what a delta net forgets; stored as f32, exactly"),
        ("blk.0.ssm_ba.weight", "F16", PLAIN, "f32", "what a delta net forgets; stored as f32, exactly"),
    ],
)
def test_what_gets_no_type_of_ours_has_its_values(model, demo, name, kind, matrix, type_name, words):
    checkpoint = Checkpoint(demo)
    reader = reader_for(checkpoint)
    whole = checkpoint.read(EMBEDDING + WEIGHT)
    if matrix is not FLOATS:
        whole = reader.grid(Q, COLUMNS, COLUMNS).weights(reader.read(Q, COLUMNS, COLUMNS))
    expected = whole[matrix.runs[0].rows][:, slice(None) if matrix.columns is None else matrix.columns]
    expected = expected.T if matrix.transposed else expected
    made, tensor = planned(model(LEFT, Output(name, kind, expected.shape, (matrix,))), name)
    assert (tensor.type_name, tensor.shape) == (type_name, expected.shape)
    stored = tensor.load().reshape(-1).view({"f32": "<f4", "f16": "<f2"}[type_name]).reshape(expected.shape)
    assert np.array_equal(stored, expected.astype(stored.dtype))
    assert any(words in note for note in made.notes)


def order_of(made, name):
    found = [tensor for tensor in made.tensors if tensor.name == f"{name}.order"]
    return found[0].load().tolist() if found else None


def test_inputs_in_another_order_are_said_beside_the_columns(model):
    made, tensor = planned(model(Output(KEPT.name, "F16", (ROWS, COLUMNS), (MOVED,))), KEPT.name)
    assert tensor.type_name == "tmac_w2g64z"
    assert order_of(made, "blk.0.attn_q") == np.argsort(ORDER).tolist()


EXPERTS = "blk.0.ffn_up_exps"


@pytest.mark.parametrize("columns", [None, ORDER], ids=["in order", "moved"])
def test_quantized_experts_are_one_tensor(model, columns):
    """Each matrix as it would be alone."""
    matrices = [Matrix((Run(name + WEIGHT, 0, np.arange(ROWS)),), columns, False) for name in (Q, K)]
    alone = [
        planned(model(Output(KEPT.name, "F16", (ROWS, COLUMNS), (matrix,))), KEPT.name)[1].load().reshape(-1)
        for matrix in matrices
    ]
    output = Output(f"{EXPERTS}.weight", "F16", (2, ROWS, COLUMNS), tuple(matrices))
    made, tensor = planned(model(output), output.name)
    assert (tensor.type_name, tensor.shape) == ("tmac_w2g64z", output.shape)
    assert np.array_equal(tensor.load().reshape(-1), np.concatenate(alone))
    order = None if columns is None else [np.argsort(ORDER).tolist()] * 2
    assert order_of(made, EXPERTS) == order


@pytest.mark.parametrize("moved", [(False, True), (True, False), (False, True, True), (False, False, True)])
def test_quantized_experts_with_inputs_in_different_orders_are_refused(model, refused, moved):
    matrices = tuple(MOVED if is_moved else PLAIN for is_moved in moved)
    output = Output(f"{EXPERTS}.weight", "F16", (len(matrices), ROWS, COLUMNS), matrices)
    refused(lambda: model(output), EXPERTS, "in different orders", "expected one")


def test_quantized_experts_beside_floats_are_rounded_with_a_note(model):
    output = Output(f"{EXPERTS}.weight", "F16", (2, ROWS, COLUMNS), (PLAIN, FLOATS))
    made, tensor = planned(model(KEPT, output), output.name)
    assert tensor.type_name == "f16" and any("1 of 2 experts in floats" in note for note in made.notes)


def test_one_scale_for_a_whole_layer_is_refused(model, refused):
    """It is not known whether llama.cpp's graph would multiply by it."""
    given = model(KEPT)
    given.checkpoint.quantized.grid = lambda weight: Grid(2, 0, False, tensor_scale=0.5, ternary=True)
    refused(lambda: plan(given), "blk.0.attn_q", "one scale for all its weights", "would not multiply")


def test_what_the_converter_computes_of_quantized_weights_is_refused(model, refused):
    given = model(KEPT, Output("blk.1.attn_q.weight", "F16", (8, 64), refused="mixes rows with columns (a.weight)"))
    refused(
        lambda: plan(given), "converter mixes rows with columns (a.weight) to make blk.1.attn_q.weight", "in floats"
    )


def test_answer_without_quantized_layers_is_refused(model, refused):
    """The checkpoint promises some."""
    refused(lambda: plan(model(EMBEDDED, computed("blk.0.attn_q.weight", "F16", (2, 4)))), "no layer is quantized")


@pytest.mark.parametrize("has_head", [True, False])
def test_head_is_the_embedding_where_the_converter_writes_none(model, has_head):
    outputs = [KEPT, EMBEDDED, *[replace(EMBEDDED, name="output.weight")] * has_head]
    for options in (Options(), Options.of("q8_0", "f16", None, None)):
        made = plan(model(*outputs), options)
        assert [tensor.name for tensor in made.tensors] == [output.name for output in outputs]
        assert any("head is the embedding" in note for note in made.notes) is not has_head


@pytest.mark.parametrize(("others", "words"), [((), KEPT.name), ((Q,), f"{KEPT.name} and 1 more")])
def test_quantized_layers_times_numbers_are_named(model, others, words):
    """Floats times numbers are computed by llama.cpp's converter as always."""
    scaled = [replace(PLAIN, factors=np.full(ROWS, 2.0)), replace(FLOATS, factors=np.full(ROWS, 2.0))]
    of_floats = Output("a.weight", "F16", (ROWS, COLUMNS), (scaled[1],))
    outputs = [replace(KEPT, matrices=(scaled[0],)), of_floats, LEFT]
    outputs += [Output("blk.1.attn_q.weight", "F16", (ROWS, COLUMNS), (scaled[0],)) for _ in others]
    assert any(note.startswith(f"{words}: llama.cpp has constants") for note in plan(model(*outputs)).notes)
    assert not any("constants" in note for note in plan(model(KEPT)).notes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tensors_left_out_are_counted(model, count):
    notes = plan(model(KEPT, unused=[f"vision.{number}.weight" for number in range(count)])).notes
    others = f" and {count - 1} more" if count > 1 else ""
    assert any(note.startswith(f"vision.0.weight{others} are no part of") for note in notes)


HEAD, TIED = "lm_head.weight", "tie_word_embeddings"


def refusals_of(folder, left_out=None, outputs=(KEPT, EMBEDDED)):
    """Of an answer that has an embedding and no head, or other outputs."""
    checkpoint = Checkpoint(folder.save())
    reader = reader_for(checkpoint)
    header = SimpleNamespace(metadata={"llama.block_count": 4}, records={})
    left_out = left_out or [HEAD] * (HEAD in folder.tensors)
    answer = Answer("llama", list(outputs), header, folder.path / "values.bin", left_out)
    model = model_of(checkpoint, Quantized(reader, reader.shapes()), answer, [])
    return [refusal.message for refusal in model._refusals]


@pytest.mark.parametrize("is_same", [True, False])
def test_head_that_is_left_out_has_to_be_the_embedding(folder, is_same):
    embedding = folder.tensors[EMBEDDING + WEIGHT]
    folder.tensors[HEAD] = embedding.copy() if is_same else embedding[::-1].copy()
    found = refusals_of(folder)
    assert found == [] if is_same else HEAD in found[0] and "other values" in found[0]
    folder.tensors["wte.weight"] = folder.tensors.pop(EMBEDDING + WEIGHT)
    assert refusals_of(folder, outputs=[KEPT]) == []


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
    folder.config[TIED] = False
    found = refusals_of(folder, [HEAD])
    assert not any("no output head" in message for message in found)
    assert any(HEAD in message and "other values" in message for message in found) is is_refused


BASE = {"architectures": ["LlamaModel"]}


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({TIED: False}, True),
        ({TIED: True}, False),
        ({TIED: None}, False),
        ({TIED: True, "text_config": {TIED: False}}, True),
        ({TIED: False, "text_config": {TIED: True}}, False),
        ({TIED: False, "text_config": None}, True),
        ({TIED: False, **BASE}, False),
    ],
)
def test_head_that_is_promised_has_to_be_there(folder, settings, is_refused):
    """By the model's own settings, or those of its text part; of a base model none is."""
    folder.tensors.pop(HEAD, None)
    folder.config |= settings
    assert any("no output head" in message for message in refusals_of(folder)) is is_refused


def test_head_that_is_promised_is_there(folder):
    """As the converter writes it, or, named otherwise, where nothing says that this is not it."""
    folder.config[TIED] = False
    folder.tensors.pop(HEAD, None)
    assert refusals_of(folder, outputs=[replace(EMBEDDED, name="output.weight")]) == []
    folder.tensors = {name.replace("model.layers.", "model.h."): values for name, values in folder.tensors.items()}
    assert refusals_of(folder, outputs=[]) == []


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
