"""Random models: the same bytes everywhere, valid numbers in every type, and refusals that name what fits."""

import hashlib
import shutil

import gguf
import numpy as np
import pytest

from tmac.common.format import TYPES, TmacType
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write import layout
from tmac.tools.bench import random_model
from tmac.tools.bench.random_model import Recipe, parse_any_type
from tmac.tools.bench.shapes import SHAPES, DeltaNets, Shape
from tmac.tools.bench.stock_types import BENCH_TYPES, RIVALS
from tmac.tools.errors import ToolError

TINY = Shape("tiny", 256, 512, 4, 2, 64, 2)
HYBRID = Shape("tiny-hybrid", 256, 512, 4, 1, 64, 4, DeltaNets(2, 4, 64, 4, 4))
GROUPED = [kind for kind in TYPES if kind.group]
# Compared with gguf's own dequantizers; the package does not know Q2_0 yet.
JUDGED = [kind for kind in BENCH_TYPES.values() if kind.name in gguf.GGMLQuantizationType.__members__]


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
    assert (random_model.GENERATOR_VERSION, content.hexdigest()[:16]) == (2, digest)


def test_file_holds_the_layers_in_the_type(tmp_path):
    """Seven matrices a layer in the wanted type, embedding and head in Q8_0, norms in F32; 32 tokens have no texts."""
    random_model.write(recipe(), tmp_path / "m.gguf")
    header = read_gguf_header(tmp_path / "m.gguf")
    by_type = {}
    for tensor in header.tensors:
        by_type.setdefault(tensor.type_name.lower(), []).append(tensor.shape)
    assert sorted(by_type["tmac_w2g64z"]) == sorted(TINY.linear_layers)
    assert by_type["q8_0"] == [(32, 256), (32, 256)] and len(by_type["f32"]) == 3
    assert header.metadata["tokenizer.ggml.model"] == "no_vocab" and header.metadata["llama.vocab_size"] == 32


def test_a_text_has_its_bytes_as_tokens(tmp_path):
    random_model.write(Recipe(TINY, 1, 300, parse_any_type("w2g64z"), 1), tmp_path / "m.gguf")
    found = read_gguf_header(tmp_path / "m.gguf").metadata
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert found["tokenizer.ggml.model"] == "llama" and len(tokens) == len(kinds) == len(set(tokens)) == 300
    assert tokens[3 + ord("a")] == "<0x61>" and list(kinds) == [2, 3, 3] + [6] * 256 + [1] * 41


def test_hybrid_file_has_the_tensors_of_qwen35(tmp_path):
    """By hand: layers 0 to 2 have delta nets of 2 groups and 4 heads of 64, layer 3 has attention whose queries come
    with gates. GGUF's order of dimensions. The small matrices are in Q8_0, all that is no matrix of a product in F32.
    """
    random_model.write(Recipe(HYBRID, 4, 32, parse_any_type("w2g64z"), 1), tmp_path / "m.gguf")
    header = read_gguf_header(tmp_path / "m.gguf")
    found = {tensor.name: (tensor.type_name.lower(), tensor.shape) for tensor in header.tensors}
    low, small, floats = "tmac_w2g64z", "q8_0", "f32"
    both = {
        "attn_norm.weight": (floats, (256,)),
        "post_attention_norm.weight": (floats, (256,)),
        "ffn_gate.weight": (low, (512, 256)),
        "ffn_up.weight": (low, (512, 256)),
        "ffn_down.weight": (low, (256, 512)),
    }
    delta_net = {
        "attn_qkv.weight": (low, (2 * 128 + 256, 256)),
        "attn_gate.weight": (low, (256, 256)),
        "ssm_out.weight": (low, (256, 256)),
        "ssm_alpha.weight": (small, (4, 256)),
        "ssm_beta.weight": (small, (4, 256)),
        "ssm_norm.weight": (floats, (64,)),
        "ssm_a": (floats, (4,)),
        "ssm_dt.bias": (floats, (4,)),
        "ssm_conv1d.weight": (floats, (512, 4)),
    }
    attention = {
        "attn_q.weight": (low, (2 * 256, 256)),
        "attn_k.weight": (low, (64, 256)),
        "attn_v.weight": (low, (64, 256)),
        "attn_output.weight": (low, (256, 256)),
        "attn_q_norm.weight": (floats, (64,)),
        "attn_k_norm.weight": (floats, (64,)),
    }
    expected = {
        "token_embd.weight": (small, (32, 256)),
        "output_norm.weight": (floats, (256,)),
        "output.weight": (small, (32, 256)),
    }
    for layer, own in enumerate((delta_net, delta_net, delta_net, attention)):
        expected |= {f"blk.{layer}.{name}": facts for name, facts in {**both, **own}.items()}
    assert found == expected
    ssm = {key.removeprefix("qwen35.ssm."): value for key, value in header.metadata.items() if ".ssm." in key}
    assert ssm == {"conv_kernel": 4, "state_size": 64, "group_count": 2, "time_step_rank": 4, "inner_size": 256}
    rope = {key.removeprefix("qwen35.rope."): value for key, value in header.metadata.items() if ".rope." in key}
    assert rope == {"freq_base": 1e7, "dimension_count": 16, "dimension_sections": [3, 3, 2, 0]}
    assert header.metadata["qwen35.full_attention_interval"] == 4


def test_states_of_bonsai_by_hand():
    """48 heads of 128 x 128 floats, and 3 inputs of a convolution of 2 * 16 * 128 + 48 * 128 channels, in 48 of 64
    layers: what llama-server keeps for each slot.
    """
    shape = SHAPES["bonsai-2-27b"]
    assert shape.attention_layers(64) == 16 and shape.attention_layers(8) == 2 and shape.attention_layers(3) == 0
    assert shape.state_bytes(64) == 48 * 4 * (48 * 128 * 128 + 3 * 10240)
    assert SHAPES["qwen3-4b"].state_bytes(36) == 0 and SHAPES["qwen3-4b"].attention_layers(36) == 36


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


@pytest.mark.parametrize("kind", BENCH_TYPES.values(), ids=lambda kind: kind.name)
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
    """The converter's unpacking gives all codes, scales near 0.01 or with levels less, and zeros among the weights."""
    data = random_model.random_matrix(kind, 64, 512, (1, 2))
    linear = layout.unpack(data, 64, 512, kind)
    assert set(np.unique(linear.codes)) == ({1, 2, 3} if kind.ternary else set(range(1 << kind.bits)))
    least = 2.0**-13 if kind.has_levels else 2.0**-7
    for numbers in (linear.scales, linear.minima if kind.has_minima else linear.scales):
        assert numbers.min() >= least and numbers.max() < 2 * least and len(np.unique(numbers)) > 50
    if kind.has_levels:
        assert linear.levels.min() >= 0 and linear.levels.max() == (15 if kind.bits == 2 else 63)
    assert np.abs(linear.dequantize()).max() < 1
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
            for kind in (*TYPES, *BENCH_TYPES.values()):
                random_model.check(shape, kind)


def test_shapes_are_those_of_the_model_s_layers():
    """The table's matrices are what the converter's Llama architecture has in a layer, or a hybrid model in four."""
    for shape in SHAPES.values():
        model = Recipe(shape, 4 if shape.delta_nets else 1, 32, parse_any_type("w2t"), 1)
        found = {}
        for tensor in random_model.tensors(model):
            if tensor.type_name.endswith("w2t"):
                found.setdefault(tensor.name.split(".")[1], []).append(tensor.shape)
        expected = [shape.linear_layers]
        if shape.delta_nets:
            expected = [shape.delta_layers] * 3 + expected
        assert [sorted(layer) for layer in found.values()] == [sorted(layer) for layer in expected]
        assert set(shape.matrices) == {matrix for layer in expected for matrix in layer}


def test_repacked_types_are_the_same_files():
    """`q4_k@tmac` is the file of q4_k, which T-MAC's kernels compute; `q4_k@no-repack` is llama.cpp's other way."""
    stock, ours = parse_any_type("q4_k"), parse_any_type("Q4_K@tmac")
    shape = SHAPES["llama-2-7b"]
    assert Recipe(shape, 1, 32, stock, 1).path == Recipe(shape, 1, 32, ours, 1).path
    assert (random_model.is_ours(stock), random_model.is_ours(ours)) == (False, True)
    assert ours.name == "Q4_K@tmac" and random_model.is_ours(parse_any_type("w2g128"))
    unpacked = parse_any_type("iq3_s@no-repack")
    assert (unpacked.name, unpacked.stored_name) == ("IQ3_S@no-repack", "IQ3_S") and not random_model.is_ours(unpacked)
    with pytest.raises(ToolError, match="'q4_k@stock' is no weight type"):
        parse_any_type("q4_k@stock")
    with pytest.raises(ToolError, match="'q8_0@tmac': T-MAC does not repack weights of Q8_0"):
        parse_any_type("q8_0@tmac")


def test_type_names_are_read_in_any_case():
    assert parse_any_type("Q2_k") == BENCH_TYPES["q2_k"] and parse_any_type("W2G128") == TmacType(2, 128)
    with pytest.raises(ToolError, match="'w5g1' is no weight type") as caught:
        parse_any_type("w5g1")
    assert "w2t" in caught.value.hint and "tq2_0" in caught.value.hint


def test_rivals_are_types_that_can_be_measured():
    assert all(name.lower() in BENCH_TYPES for names in RIVALS.values() for name in names)
