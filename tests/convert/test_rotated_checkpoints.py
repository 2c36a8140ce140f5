"""Rotated checkpoints (Bonsai 2): they become the file that the same model becomes as a GGUF; the rest is refused."""

import gguf
import numpy as np
import pytest

from support.rotated_checkpoints import write_floats, write_pack
from support.rotated_models import LAYERS, PQ2_0, PTQ1_0, TABLE, RotatedModel
from support.stock import entries, stored_tensors
from tmac.common import rotation as keys
from tmac.convert.architectures import architecture_for
from tmac.convert.inspect import inspect_checkpoint
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header

PACK, FLOATS = write_pack, write_floats
HEAD_SIGNS = "language_model.lm_head.signs"


@pytest.mark.parametrize(
    "write, model, type_id",
    [
        (PACK, RotatedModel(drafts=False), PTQ1_0),
        (PACK, RotatedModel(drafts=False), PQ2_0),
        (PACK, RotatedModel(most=3, drafts=False, seed=3), PQ2_0),
        (FLOATS, RotatedModel(), PTQ1_0),
        (lambda model, folder: write_floats(model, folder, without("signs")), RotatedModel(is_explicit=False), PTQ1_0),
    ],
    ids=["pack", "pack-as-pq2_0", "pack-all-codes", "floats", "floats-without-signs"],
)
def test_the_file_is_that_of_the_gguf(tmp_path, quietly, write, model, type_id):
    """Every tensor and every key of the model, but for the last bits of decays: checkpoints have their logarithms."""
    report = quietly(write(model, tmp_path / "checkpoint"), tmp_path / "a.gguf")
    quietly(model.write(tmp_path / "in.gguf", type_id), tmp_path / "b.gguf")
    found, expected = stored_tensors(tmp_path / "a.gguf"), stored_tensors(tmp_path / "b.gguf")
    assert found.keys() == expected.keys()
    for name, (*kind, data) in expected.items():
        *found_kind, found_data = found[name]
        assert found_kind == kind, name
        if name.endswith("ssm_a"):
            assert np.allclose(np.frombuffer(found_data, "<f4"), np.frombuffer(data, "<f4"), rtol=1e-6, atol=0)
        else:
            assert found_data == data, name
    one, other = (read_gguf_header(tmp_path / f"{name}.gguf").metadata for name in "ab")
    said = {key: value for key, value in other.items() if key.startswith(("qwen35.", "prism.", "tokenizer."))}
    assert {key: one.get(key) for key in said} == said
    assert any(f"{len(model.rotated)} weights stay rotated" in note for note in report.notes)


def test_keys_have_the_types_that_llama_cpp_reads(tmp_path, quietly):
    model = RotatedModel(drafts=False)
    quietly(write_pack(model, tmp_path / "checkpoint"), tmp_path / "a.gguf")
    found = read_gguf_header(tmp_path / "a.gguf").records
    expected = read_gguf_header(model.write(tmp_path / "in.gguf", PQ2_0)).records
    assert all(found[key] == expected[key] for key in model.metadata())


def test_inspecting_says_by_what_and_how_many(tmp_path):
    text = inspect_checkpoint(write_pack(RotatedModel(drafts=False), tmp_path / "checkpoint")).render()
    assert f"rotation: {keys.TRANSFORM} in blocks of 128, signs for 256, 384, 512 columns" in text
    assert "sees images was left out" in text


def test_another_embedding_type_is_taken_as_asked(tmp_path, quietly):
    folder = write_pack(RotatedModel(drafts=False), tmp_path / "checkpoint")
    quietly(folder, tmp_path / "a.gguf", embedding="f16")
    assert entries(tmp_path / "a.gguf")[TABLE].type_name == "f16"


def config(key, value):
    return lambda found, side, tensors: found.__setitem__(key, value)


def side(key, value):
    return lambda found, side, tensors: side.__setitem__(key, value)


def without(key):
    return lambda found, side, tensors: side.pop(key)


def module(number, key, value):
    return lambda found, side, tensors: found["modules"][number].__setitem__(key, value)


def inner(place, key, value):
    return lambda found, side, tensors: side[place].__setitem__(key, value)


def renamed(width):
    return lambda found, side, tensors: side["signs"].__setitem__(width, side["signs"].pop("384"))


def without_head(found, side, tensors):
    found["tie_word_embeddings"] = True
    del tensors["lm_head.weight"]


def other_sign(found, side, tensors):
    tensors[HEAD_SIGNS][7] *= -1


def other_width(found, side, tensors):
    tensors[HEAD_SIGNS] = np.ones(7, np.float32)


def bias(found, side, tensors):
    tensors["language_model.lm_head.biases"] = tensors["language_model.lm_head.biases"] * np.float16(np.nan)


OUT = "language_model.model.layers.0.linear_attn.out_proj"
REFUSED = [
    (PACK, config("model_type", "qwen3_5"), "model_type is 'qwen3_5', expected 'prism_hadamard_qwen35'"),
    (PACK, config("schema_version", 1), "schema_version is 1, expected 2"),
    (PACK, config("tensor_namespace", "mlx-lm"), "tensor_namespace is 'mlx-lm'"),
    (PACK, config("gdn_activation_layout", "tiled"), "gdn_activation_layout is 'tiled'"),
    (PACK, config("hadamard_config", "elsewhere.json"), "hadamard_config is 'elsewhere.json'"),
    *((PACK, config("modules", value), "there is no list of modules") for value in (None, ["lm_head"])),
    (PACK, lambda found, side, tensors: found["modules"].pop(), "expected in both"),
    (PACK, module(0, "block", 64), "block of module model.embed_tokens is 64, expected 128"),
    (PACK, module(1, "embedding", True), "embedding of module lm_head is True"),
    (PACK, module(1, "dtype", "bfloat16"), "dtype of module lm_head is 'bfloat16'"),
    (PACK, side("prism.hadamard.order", "x"), "key prism.hadamard.order is unknown"),
    (PACK, side("schema", 1), "key schema is unknown"),
    (PACK, side(keys.VERSION_KEY, 2), "version is 2, expected 1"),
    (PACK, side(keys.VERSION_KEY, 1.0), "version is 1.0, of another type"),
    (PACK, without(keys.VERSION_KEY), "no key prism.hadamard.version"),
    (PACK, without(keys.WEIGHTS_KEY), "no key prism.hadamard.weight_names"),
    (PACK, side(keys.TRANSFORM_KEY, "dct"), "transform is 'dct'"),
    (PACK, side(keys.AXIS_KEY, "output"), "axis is 'output'"),
    (PACK, side(keys.SIGN_MODE_KEY, "random"), "'random', expected 'explicit' or 'identity'"),
    (PACK, side(keys.GROUPED_KEY, False), "gdn_v_grouped is False, expected true"),
    (PACK, without(keys.GROUPED_KEY), "gdn_v_grouped is None, expected true"),
    (PACK, lambda found, side, tensors: side[keys.SIGN_VALUES_KEY].pop(), "1151 signs, expected 1152"),
    (PACK, inner(keys.SIGN_VALUES_KEY, 0, 0.5), "the sign 0.5, expected 1 or -1"),
    (PACK, side(keys.SIGN_WIDTHS_KEY, [-2, 514, 640]), "the sum of prism.hadamard.sign_widths"),
    (PACK, inner(keys.SIGN_WIDTHS_KEY, 0, "256"), "sign_widths has '256', of another type"),
    (PACK, inner(keys.WEIGHTS_KEY, 0, "language_model.model.layers.9.mlp.up_proj.weight"), "expected in both"),
    *(
        (PACK, change, f"tensor {HEAD_SIGNS} has other signs than hadamard.json")
        for change in (other_sign, other_width)
    ),
    (PACK, lambda found, side, tensors: tensors.pop(f"{OUT}.signs"), "out_proj.signs is missing"),
    (
        PACK,
        lambda found, side, tensors: tensors.update({"surprise": np.ones(3, np.float32)}),
        "tensor surprise is not part of the qwen35",
    ),
    (PACK, bias, "biases gives output 0, group 0 the minimum nan"),
    (FLOATS, side("schema_version", 3), "schema_version is 3, expected 1 or 2"),
    (FLOATS, side("tied_output", True), "key tied_output is unknown"),
    (FLOATS, side("kind", "fold"), "kind is 'fold', expected 'hadamard-weight-fold'"),
    (FLOATS, side("status", "done"), "status is 'done'"),
    (FLOATS, side("transform", None), "transform is None, expected name, block_size and sign_mode"),
    (FLOATS, inner("transform", "name", "dct"), "transform is 'dct'"),
    (FLOATS, inner("transform", "seed", 1), "expected name, block_size and sign_mode"),
    (FLOATS, inner("transform", "block_size", 96), "block_size is 96, expected a power of two"),
    (FLOATS, inner("transform", "block_size", "128"), "values of another type"),
    (FLOATS, inner("transform", "sign_mode", "identity"), "but there are signs"),
    (FLOATS, inner("signs", "256", [1] * 255), "255 signs for 256 columns"),
    (FLOATS, inner("signs", "256", [0] * 256), "the sign 0"),
    (FLOATS, inner("signs", "256", [True] * 256), "the sign True"),
    *(
        (FLOATS, renamed(width), "signs is not a list of signs for each width")
        for width in ("0384", "３８４", "9" * 5000)
    ),
    (FLOATS, side("signs", ["256"]), "signs is not a list of signs for each width"),
    (FLOATS, side("signs", {}), "no key prism.hadamard.sign_widths"),
    (FLOATS, lambda found, side, tensors: side["signs"].pop("384"), "384 columns, for which there are no signs"),
    *((FLOATS, side("tensors", value), "there is no list of tensors") for value in (None, ["lm_head.weight"])),
    (
        FLOATS,
        lambda found, side, tensors: side["tensors"][0].update(axis=0),
        "axis of tensor model.embed_tokens.weight",
    ),
    (FLOATS, lambda found, side, tensors: side["tensors"][0].update(role="other"), "is not understood"),
    (FLOATS, lambda found, side, tensors: side["tensors"][0].update(role=["x"]), "is not understood"),
    (FLOATS, lambda found, side, tensors: side["tensors"][0].update(name=3), "is not understood"),
    (FLOATS, lambda found, side, tensors: side["tensors"][0].update(scale=2), "is not understood"),
    (FLOATS, lambda found, side, tensors: side["tensors"][0].update(name="x.weight"), "x.weight is listed"),
    (FLOATS, without_head, "tie_word_embeddings (of a rotated model) True is not supported"),
]


@pytest.mark.parametrize("write, change, words", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_understood_is_refused(tmp_path, quietly, refused, write, change, words):
    """By `convert` and by `inspect`: without the rotation the tensors would be converted to nonsense."""
    folder = write(RotatedModel(drafts=write is FLOATS), tmp_path / "checkpoint", change)
    refused(lambda: quietly(folder, tmp_path / "out.gguf"), words)
    assert not (tmp_path / "out.gguf").exists()
    assert any(words in refusal.message for refusal in inspect_checkpoint(folder).refusals)


@pytest.mark.parametrize("mark", ["model_type", "key", "jang", "file", "tensor", "class"])
def test_any_mark_of_a_pack_is_noticed(folder, refused, mark):
    """Its tensors alone look like those of others."""
    if mark == "model_type":
        folder.config["model_type"] = "prism_hadamard_qwen35"
    if mark == "key":
        folder.config["hadamard_config"] = "elsewhere.json"
    if mark == "jang":
        folder.config["hadamard"] = {"forward_modules": []}
    if mark == "file":
        (folder.path / "hadamard.json").write_text("{}")
    if mark == "tensor":
        folder.tensors["model.layers.0.mlp.up_proj.signs"] = np.ones(4, np.float32)
    if mark == "class":
        folder.config["architectures"] = ["PrismHadamardQwen35ForConditionalGeneration"]
    folder.save()
    refused(lambda: architecture_for(Checkpoint(folder.path)), str(folder.path), "rotated", "GGUF")
    assert any("rotated" in refusal.message for refusal in inspect_checkpoint(folder.path).refusals)


def test_two_contracts_are_refused(tmp_path, refused):
    folder = write_pack(RotatedModel(drafts=False), tmp_path / "checkpoint")
    (folder / "hadamard_packing.json").write_text("{}")
    refused(lambda: architecture_for(Checkpoint(folder)), "expected one of them")


def test_a_manifest_beside_another_family(folder, refused):
    """The demo's Llama with the manifest of another model."""
    source = write_floats(RotatedModel(), folder.path / "other")
    (folder.path / "hadamard_packing.json").write_bytes((source / "hadamard_packing.json").read_bytes())
    refused(lambda: architecture_for(Checkpoint(folder.path)), "expected some without rotation for LlamaForCausalLM")


def test_blocks_that_draft_are_named_after_the_others(tmp_path, quietly):
    quietly(write_floats(RotatedModel(), tmp_path / "checkpoint"), tmp_path / "a.gguf")
    header = read_gguf_header(tmp_path / "a.gguf")
    assert header.metadata["qwen35.block_count"] == LAYERS + 1
    assert header.metadata[gguf.Keys.LLM.NEXTN_PREDICT_LAYERS.format(arch="qwen35")] == 1
