"""Rotated ternary models (Bonsai 2) in the real binaries: they compute what the same model computed before it was
rotated, each part of the rotation matters, and what is not understood is refused.
"""

import re
from functools import partial

import gguf
import numpy as np
import pytest

from support.comparison import ROUNDED_DELTA_NETS, nmse
from support.rotated_checkpoints import write_floats, write_pack
from support.rotated_models import BLOCK, F16, F32, LAYERS, PQ2_0, PTQ1_0, Q2_0, Q8_0, TABLE, RotatedModel
from support.server import serving
from support.tiny_models import logits
from tmac.common import process
from tmac.common import rotation as keys
from tmac.common.errors import TmacError
from tmac.convert.pipeline import convert

# What a wrong rotation gives: other logits altogether.
FAR = 0.1
UINT32, INT32, INT8, STRING = (getattr(gguf.GGUFValueType, name) for name in ("UINT32", "INT32", "INT8", "STRING"))
# Codes to 2 as in PTQ1_0, codes to 3; every key; no signs; heads in the graph's order.
MODELS = {
    "ternary": RotatedModel(),
    "all codes": RotatedModel(most=3, seed=3),
    "no signs": RotatedModel(is_explicit=False, seed=5),
    "tiled heads": RotatedModel(is_grouped=False, seed=7),
    "no drafts": RotatedModel(drafts=False, seed=9),
}


@pytest.fixture(scope="module")
def before(build, tmp_path_factory):
    """A function: name of a model -> logits of its float32 weights before they were rotated."""
    folder, made = tmp_path_factory.mktemp("floats"), {}

    def get(name):
        if name not in made:
            made[name] = logits(build, MODELS[name].write(folder / f"{len(made)}.gguf"))
            assert np.isfinite(made[name]).all()
        return made[name]

    return get


def converted(source):
    convert(source, source.with_suffix(".tmac.gguf"), progress=False, log=lambda line: None)
    return source.with_suffix(".tmac.gguf")


@pytest.mark.parametrize(
    "name, type_id",
    [
        *(("ternary", type_id) for type_id in (PQ2_0, PTQ1_0, Q2_0)),
        *((name, PQ2_0) for name in MODELS if name != "ternary"),
        ("all codes", Q2_0),
    ],
)
def test_converted_models_compute_what_they_did_before(build, before, tmp_path, name, type_id):
    found = logits(build, converted(MODELS[name].write(tmp_path / "model.gguf", type_id)))
    assert nmse(found, before(name)) < ROUNDED_DELTA_NETS


@pytest.mark.parametrize("name", MODELS)
def test_the_rotation_is_exact(build, before, tmp_path, name):
    """Rotated weights in float32: only float32 arithmetic is between the two."""
    assert nmse(logits(build, MODELS[name].write(tmp_path / "model.gguf", F32)), before(name)) < 1e-9


@pytest.mark.parametrize("name, write", [("no drafts", write_pack), ("ternary", write_floats)])
def test_checkpoints_compute_what_they_did_before(build, before, tmp_path, name, write):
    """The MLX pack, and rotated floats."""
    assert (
        nmse(logits(build, converted(write(MODELS[name], tmp_path / "checkpoint"))), before(name)) < ROUNDED_DELTA_NETS
    )


@pytest.mark.parametrize("type_id", [F16, Q8_0, Q2_0])
def test_stock_types_are_rotated_too(build, before, tmp_path, type_id):
    """Files that llama.cpp knows by their types, and a file in which types are mixed."""
    model = MODELS["ternary"]
    assert nmse(logits(build, model.write(tmp_path / "model.gguf", type_id)), before("ternary")) < ROUNDED_DELTA_NETS
    others = {name: type_id for name in model.rotated if "blk.1." in name or "attn_k" in name or name == TABLE}
    mixed = converted(model.write(tmp_path / "mixed.gguf", PQ2_0, others=others))
    assert nmse(logits(build, mixed), before("ternary")) < ROUNDED_DELTA_NETS


def put(key, kind, value, metadata):
    metadata[key] = kind, value


def edit(key, change, metadata):
    kind, value = metadata[key]
    metadata[key] = kind, change(value)


def without_signs(metadata):
    put(keys.SIGN_MODE_KEY, STRING, keys.IDENTITY, metadata)
    del metadata[keys.SIGN_WIDTHS_KEY], metadata[keys.SIGN_VALUES_KEY]


PARTS = {
    "signs": without_signs,
    "transform": partial(put, keys.BLOCK_KEY, UINT32, 1),
    "blocks": partial(put, keys.BLOCK_KEY, UINT32, BLOCK // 2),
    "permutation": partial(put, keys.GROUPED_KEY, gguf.GGUFValueType.BOOL, False),
    "inverse": lambda metadata: metadata.pop(keys.TABLES_KEY),
    "a weight": partial(edit, keys.WEIGHTS_KEY, lambda names: [name for name in names if name != "output.weight"]),
    "all": lambda metadata: metadata.clear(),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_matters(build, before, tmp_path, part):
    found = logits(build, MODELS["ternary"].write(tmp_path / "model.gguf", F32, PARTS[part]))
    assert nmse(found, before("ternary")) > FAR


def tables(*names):
    return partial(edit, keys.TABLES_KEY, lambda found: [*found, *names])


def weights(*names):
    return partial(edit, keys.WEIGHTS_KEY, lambda found: [*found, *names])


def with_blocks_of_4(change, metadata):
    """Also signs for the 4 columns of the convolutions."""
    put(keys.BLOCK_KEY, UINT32, 4, metadata)
    edit(keys.SIGN_WIDTHS_KEY, lambda widths: [4, *widths], metadata)
    edit(keys.SIGN_VALUES_KEY, lambda values: [1] * 4 + values, metadata)
    change(metadata)


REFUSED = {
    "unknown key": (partial(put, keys.PREFIX + "order", STRING, "x"), "key 'prism.hadamard.order' is unknown"),
    "unknown key of the maker": (partial(put, "prism.scales", STRING, "x"), "key 'prism.scales' is unknown"),
    "version": (partial(put, keys.VERSION_KEY, UINT32, 2), "version 2, this build reads version 1"),
    "type of a key": (partial(put, keys.VERSION_KEY, STRING, "1"), "is of type str, expected u32"),
    "no version": (lambda metadata: metadata.pop(keys.VERSION_KEY), "no key 'prism.hadamard.version'"),
    "transform": (partial(put, keys.TRANSFORM_KEY, STRING, "dct"), "is 'dct', expected 'normalized-sylvester"),
    "axis": (partial(put, keys.AXIS_KEY, STRING, "output"), "is 'output', expected 'input-last-dimension'"),
    "blocks": (partial(put, keys.BLOCK_KEY, UINT32, 96), "blocks of 96 columns, expected a power of two"),
    "blocks that do not divide": (partial(put, keys.BLOCK_KEY, UINT32, 256), "no multiple of the blocks of 256"),
    "sign mode": (partial(put, keys.SIGN_MODE_KEY, STRING, "random"), "is 'random', expected 'explicit' or 'identity'"),
    "identity with signs": (partial(put, keys.SIGN_MODE_KEY, STRING, "identity"), "beside the signs 'identity'"),
    "widths": (partial(edit, keys.SIGN_WIDTHS_KEY, lambda v: v[:-1]), "add up to 640, but there are 1152 signs"),
    "a width without signs": (
        partial(edit, keys.SIGN_WIDTHS_KEY, lambda v: [*v[:-1], v[-1] - 1, 1]),
        "has 512 columns, for which there are no signs",
    ),
    "a sign of 0": (partial(edit, keys.SIGN_VALUES_KEY, lambda v: [0, *v[1:]]), "the sign 0, expected 1 or -1"),
    "type of names": (partial(put, keys.WEIGHTS_KEY, INT32, [1]), "is an array of i32, expected str"),
    "a missing tensor": (weights("blk.9.attn_q.weight"), "tensor 'blk.9.attn_q.weight' is listed, but"),
    "a missing table": (tables("embd.weight"), "tensor 'embd.weight' is listed, but"),
    "a norm": (weights("output_norm.weight"), "tensor 'output_norm.weight' is no matrix"),
    "rows of a permuted matrix": (tables("blk.0.ssm_out.weight"), "whose input is permuted cannot be read"),
    "a weight that is no product": (
        partial(with_blocks_of_4, weights("blk.0.ssm_conv1d.weight")),
        "tensor 'blk.0.ssm_conv1d.weight' is used by SSM_CONV",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(build, tmp_path, case):
    change, words = REFUSED[case]
    path = MODELS["ternary"].write(tmp_path / "model.gguf", F16, change)
    with pytest.raises(TmacError, match=re.escape("tmac: rotated weights: ") + ".*" + re.escape(words)):
        logits(build, path)


def renamed(path, architecture):
    """A copy of a model that names another architecture."""
    name, changed = (len(text).to_bytes(8, "little") + text for text in (b"qwen35", architecture.encode()))
    copy = path.with_name(f"{architecture}.gguf")
    copy.write_bytes(path.read_bytes().replace(name, changed, 1))
    return copy


def test_other_architectures_are_refused(build, tmp_path):
    """Grouped heads where graphs may have another order."""
    path = renamed(MODELS["ternary"].write(tmp_path / "model.gguf", F16), "mamba2")
    with pytest.raises(TmacError, match=re.escape("in the architecture 'mamba2'")):
        logits(build, path)


def test_encoders_of_images_are_refused(build, tmp_path):
    """Their graphs are their own, and do not rotate."""
    path = MODELS["ternary"].write(tmp_path / "model.gguf", F16)
    command = [build.binary("llama-server"), "-m", path, "--mmproj", renamed(path, "clip"), "--port", "0"]
    with pytest.raises(TmacError, match=re.escape("in an encoder, whose graph does not rotate")):
        process.run(command, log=tmp_path / "log")


def test_weights_with_the_same_input_share_its_rotation(build, tmp_path):
    """Of a layer the graph has four more nodes: for q, k and v (or a delta net's qkv and gate), for the output, for
    gate and up, and for down. Besides these there are the head and the embedding.
    """
    counts = []
    for type_id in (None, F32):
        model = MODELS["ternary"].write(tmp_path / "model.gguf", type_id)
        command = [build.binary("llama-results"), "-m", model, "-p", "x", "-o", tmp_path / "results.gguf", "-v"]
        done = process.capture(command)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        counts.append(int(re.search(r"graph: nodes = (\d+)", said)[1]))
    assert counts[1] - counts[0] == 4 * LAYERS + 2


@pytest.mark.parametrize("type_id", [None, F32, PQ2_0], ids=["before", "rotated", "converted"])
def test_drafts_of_the_mtp_block(build, tmp_path, monkeypatch, type_id):
    """The same text with and without them, and most are accepted: the block reads the embedding rotated back.

    In the precision that gives single tokens and several the same bits.
    """
    monkeypatch.setenv("TMAC_PRECISION", "exact")
    model = RotatedModel(is_shallow=True, seed=9).write(tmp_path / "model.gguf", type_id)
    model = converted(model) if type_id == PQ2_0 else model
    alone = answers(build, model)
    drafted = answers(build, model, "--spec-type", "draft-mtp", "--spec-draft-n-max", "2")
    assert [text for text, *_ in drafted] == [text for text, *_ in alone]
    for (_, none, _), (_, drafts, accepted) in zip(alone, drafted):
        assert none == 0 and accepted > 0.8 * drafts > 10


def answers(build, model, *options):
    """What llama-server writes at temperature 0, and how many drafted tokens there were and were accepted."""
    with serving(build, model, "-c", "256", "-np", "1", *options) as server:
        return [_answer(server, prompt) for prompt in ("Once upon a time", "The dog and the cat")]


def _answer(server, prompt):
    request = {"prompt": prompt, "n_predict": 48, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    found = server.ask("/completion", request)
    return found["content"], found["timings"].get("draft_n", 0), found["timings"].get("draft_n_accepted", 0)
