"""Random models: the same bytes everywhere, valid numbers in every type, and refusals that name what fits."""

import hashlib
import shutil

import gguf
import numpy as np
import pytest

from tmac.common.format import TYPES, TmacType, type_of
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write import layout
from tmac.tools.bench import random_model
from tmac.tools.bench.random_model import Recipe, parse_any_type
from tmac.tools.bench.shapes import SHAPES, Shape
from tmac.tools.bench.stock_types import RIVALS, STOCK_TYPES
from tmac.tools.errors import ToolError

TINY = Shape("tiny", 256, 512, 4, 2, 64, 2)
GROUPED = [kind for kind in TYPES if kind.group]
# Compared with gguf's own dequantizers; the package does not know Q2_0 yet.
JUDGED = [kind for kind in STOCK_TYPES.values() if kind.name in gguf.GGMLQuantizationType.__members__]


def recipe(name="w2g64z", shape=TINY, seed=1):
    return Recipe(shape, 1, 32, parse_any_type(name), seed)


@pytest.mark.parametrize(
    "name, digest",
    [
        ("w2g64z", "9c9ed787c0f9fbbd"),
        ("q2_k", "a1dd986ee80cebed"),
    ],
)
def test_bytes_are_the_same_on_every_machine(name, digest):
    """If you change them on purpose, raise GENERATOR_VERSION, so that old files are not used again."""
    content = hashlib.sha256()
    for tensor in random_model.tensors(recipe(name)):
        content.update(tensor.load().tobytes())
    assert (random_model.GENERATOR_VERSION, content.hexdigest()[:16]) == (1, digest)


def test_file_holds_the_layers_in_the_type(tmp_path):
    """Seven matrices a layer in the wanted type, embedding and head in Q8_0, norms in F32, and no vocabulary texts."""
    random_model.write(recipe(), tmp_path / "m.gguf")
    header = read_gguf_header(tmp_path / "m.gguf")
    by_type = {}
    for tensor in header.tensors:
        by_type.setdefault(tensor.type_name.lower(), []).append(tensor.shape)
    assert sorted(by_type["tmac_w2g64z"]) == sorted(TINY.linear_layers)
    assert by_type["q8_0"] == [(32, 256), (32, 256)] and len(by_type["f32"]) == 3
    assert header.metadata["tokenizer.ggml.model"] == "no_vocab" and header.metadata["llama.vocab_size"] == 32


def test_seeds_and_layers_differ():
    """Another seed, or another place in the model, gives other bytes."""
    first, second = ({t.name: t for t in random_model.tensors(recipe(seed=seed))} for seed in (1, 2))
    key, value = "blk.0.attn_k.weight", "blk.0.attn_v.weight"
    data = [tensor.load().tobytes() for tensor in (first[key], first[value], second[key])]
    assert len(set(data)) == 3 and len(set(map(len, data))) == 1


def test_tensor_scale_type_has_its_scale_beside_it():
    """W2T stores no scales; each matrix gets the tensor <name>.scale that llama.cpp multiplies by."""
    tensors = {tensor.name: tensor for tensor in random_model.tensors(recipe("w2t"))}
    assert tensors["blk.0.ffn_up.scale"].load().tolist() == [2.0**-7]
    assert tensors["blk.0.ffn_up.weight"].nbytes == 512 * 256 * 2 // 8


@pytest.mark.parametrize("kind", STOCK_TYPES.values(), ids=lambda kind: kind.name)
def test_block_sizes_are_ggml_s(kind):
    """Numbers, weights and bytes of a block are those of the gguf package, for every type that it knows."""
    if kind not in JUDGED:
        assert kind.name == "Q2_0"
        return
    known = gguf.GGMLQuantizationType[kind.name]
    assert (kind.id, (kind.block_weights, kind.block_bytes)) == (known, gguf.GGML_QUANT_SIZES[known])


@pytest.mark.parametrize("kind", JUDGED, ids=lambda kind: kind.name)
def test_stock_weights_are_small_and_finite(kind):
    """gguf's dequantizer gives no NaN, and a root mean square that overflows in no layer."""
    data = random_model.random_matrix(kind, 64, 512, (1, 2))
    known = gguf.GGMLQuantizationType[kind.name]
    try:
        weights = gguf.quants.dequantize(data.reshape(64, -1), known)
    except NotImplementedError:
        weights = dequantize_q1_0(data)
    assert weights.size == 64 * 512 and np.isfinite(weights).all()
    assert 0.005 < np.sqrt(np.square(weights).mean()) < 0.3


def dequantize_q1_0(data):
    """fp16 scale, then 128 signs."""
    blocks = data.reshape(-1, 18)
    signs = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") * 2.0 - 1
    return blocks[:, :2].copy().view("<f2").astype(np.float32) * signs


@pytest.mark.parametrize("kind", GROUPED, ids=lambda kind: kind.name)
def test_tmac_weights_are_small_and_finite(kind):
    """The converter's unpacking gives all codes, scales near 0.01, and zeros among the weights."""
    data = random_model.random_matrix(kind, 64, 512, (1, 2))
    linear = layout.unpack(data, 64, 512, type_of(kind.bits, kind.group, kind.asymmetric))
    assert set(np.unique(linear.codes)) == set(range(1 << kind.bits))
    assert linear.scales.min() >= 2.0**-7 and linear.scales.max() < 2.0**-6 and len(np.unique(linear.scales)) > 100
    if kind.asymmetric:
        assert linear.zeros.max() < 16 << kind.bits and len(np.unique(linear.zeros)) > 10


def test_models_are_made_once(work, capsys, monkeypatch):
    """A second call writes nothing; files of another generator version are deleted."""
    old = random_model.folder() / "tiny-1layers-vocabulary32-q4_0-seed1-generator0.gguf"
    old.parent.mkdir(parents=True)
    old.touch()
    random_model.check_space([recipe()])
    (model,) = random_model.ensure([recipe()])
    assert not old.exists() and model.path.parent == work / "models" / "random"
    assert model.nbytes == sum(tensor.nbytes for tensor in read_gguf_header(model.path).tensors)
    assert model.nbytes - model.nbytes_per_token == 32 * 256 // 32 * 34
    monkeypatch.setattr(random_model, "write", lambda *given: pytest.fail("it is there"))
    assert random_model.ensure([recipe()]) == [model]
    assert "deleted" in capsys.readouterr().err


def test_full_disk_is_told_before_anything_is_written(work, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(ToolError, match=r"the models need 0\.\d GB, but the disk has 0\.0 GB free"):
        random_model.check_space([recipe("q8_0")])
    assert list(random_model.folder().iterdir()) == []


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "w2g128",
            "bitnet-3b has a matrix of 3200 x 8640, but w2g128 needs columns in multiples of 128 and rows of 32",
        ),
        ("Q2_K", "bitnet-3b has a matrix of 3200 x 3200, but Q2_K needs columns in multiples of 256"),
    ],
)
def test_shape_that_a_type_cannot_hold_is_refused(name, words):
    """The error names the matrix and the requirement; the hint names all types that fit."""
    with pytest.raises(ToolError) as caught:
        random_model.check(SHAPES["bitnet-3b"], parse_any_type(name))
    assert caught.value.message == words
    fitting = caught.value.hint.split("shape: ")[1].split(", ")
    assert {"w2g64", "q4_0"} <= set(fitting) and not {"w2g128", "q2_k", "tq2_0", "q1_0"} & set(fitting)


def test_every_other_shape_holds_every_type():
    """BitNet-3B is the table's only exception."""
    for shape in SHAPES.values():
        if shape.name != "bitnet-3b":
            for kind in (*TYPES, *STOCK_TYPES.values()):
                random_model.check(shape, kind)


def test_shapes_are_those_of_the_model_s_layers():
    """The table's matrices are what the converter's Llama architecture has in a layer."""
    for shape in SHAPES.values():
        one = Recipe(shape, 1, 32, parse_any_type("q8_0"), 1)
        in_layer = [tensor for tensor in random_model.tensors(one) if tensor.name.startswith("blk.0.")]
        matrices = [tensor.shape for tensor in in_layer if len(tensor.shape) == 2]
        assert sorted(matrices) == sorted(shape.linear_layers) and set(shape.matrices) == set(matrices)


def test_type_names_are_read_in_any_case():
    assert parse_any_type("Q2_k") == STOCK_TYPES["q2_k"] and parse_any_type("W2G128") == TmacType(2, 128, False)
    with pytest.raises(ToolError, match="'w5g1' is no weight type") as caught:
        parse_any_type("w5g1")
    assert "w2t" in caught.value.hint and "tq2_0" in caught.value.hint


def test_rivals_are_types_that_can_be_measured():
    assert all(name.lower() in STOCK_TYPES for names in RIVALS.values() for name in names)
