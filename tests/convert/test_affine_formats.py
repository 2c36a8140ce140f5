"""Whole conversions of the demo in every affine format: the weights are the same, and damaged input gives at most an
error.
"""

import json
import random
import struct

import gguf
import numpy as np
import pytest

from support.damage import VALUES, damage_header_bytes, damage_header_entry
from support.llama_checkpoint import HEADS, checkpoint_weights, hf_module, interleaved
from support.notes import note_of
from support.reexpress import FORMATS, reexpress, stream
from support.stock import entries, tensor_bytes
from tmac.common.format import TYPES_BY_ID
from tmac.convert.write.layout import unpack

FUZZ_CASES = 14


def stored_weights(path, found, entry):
    """The weights that a tensor of the file represents, with columns in the order of the inputs."""
    data = tensor_bytes(path, entry)
    if entry.type_name == "q8_0":
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q8_0).reshape(entry.shape)
    weights = unpack(data, *entry.shape, TYPES_BY_ID[entry.type_id]).dequantize()
    order = found.get(entry.name.removesuffix(".weight") + ".order")
    if order is None:
        return weights
    ordered = np.empty_like(weights)
    ordered[:, tensor_bytes(path, order).view(np.int32)] = weights
    return ordered


@pytest.mark.parametrize("name", FORMATS)
def test_weights_equal_the_demos(folder, tmp_path, quietly, name):
    """All 28 quantized layers, unpacked from the file, equal a slow dequantization of the demo exactly."""
    modules = [key.removesuffix(".qweight") for key in folder.tensors if key.endswith(".qweight")]
    expected = {module: checkpoint_weights(folder, module) for module in modules}
    quietly(reexpress(folder, name), tmp_path / "x.gguf")
    found = entries(tmp_path / "x.gguf")
    names = [target for target in found if target.startswith("blk.") and len(found[target].shape) == 2]
    assert len(names) == len(expected) == 28
    for target in names:
        entry, part = found[target], target.split(".")[2]
        weights = expected[hf_module(target)]
        weights = interleaved(weights, HEADS[part]) if part in HEADS else weights
        assert entry.type_name == FORMATS[name][2], target
        assert np.array_equal(stored_weights(tmp_path / "x.gguf", found, entry), weights), target
    assert (sum(target.endswith(".order") for target in found) == 28) is (name == "compressed-w4-act-order")


def test_quantized_embedding_of_mlx(folder, tmp_path, quietly):
    """A 4-bit embedding on a symmetric grid. llama.cpp reads it by rows, so it becomes Q8_0, and a note says so."""
    reexpress(folder, "mlx-2bit")
    folder.config["quantization"]["model.embed_tokens"] = {"bits": 4, "group_size": 32}
    rows, columns = folder.tensors.pop("model.embed_tokens.weight").shape
    codes = np.random.default_rng(2).integers(0, 16, (rows, columns))
    # One of the largest in each block, so that Q8_0 rounds nothing: 127 / 8 is its scale then.
    codes[:, ::32] = 0
    folder.tensors |= {
        "model.embed_tokens.weight": stream(codes, 4),
        "model.embed_tokens.scales": np.full((rows, columns // 32), 127 / 512, np.float32).astype(np.float16),
        "model.embed_tokens.biases": np.full((rows, columns // 32), -127 / 64, np.float32).astype(np.float16),
    }
    report = quietly(folder.save(), tmp_path / "x.gguf")
    found = entries(tmp_path / "x.gguf")
    assert found["token_embd.weight"].type_name == "q8_0"
    assert any("token_embd is quantized in the checkpoint" in note for note in report.notes)
    stored = stored_weights(tmp_path / "x.gguf", found, found["token_embd.weight"])
    assert np.abs(stored - (codes - 8) * (127 / 512)).max() <= 127 / 64 / 127 / 2 * 1.01


@pytest.mark.parametrize(("bits", "stored"), [(4, "tmac_w4g32"), (8, None)])
def test_tied_head_of_a_quantized_embedding(folder, tmp_path, quietly, bits, stored):
    """The embedding, read by rows, is rounded, and a note says so. The head keeps the codes if a type can hold them."""
    reexpress(folder, "mlx-2bit")
    folder.config["quantization"]["model.embed_tokens"] = {"bits": bits, "group_size": 32}
    folder.config["tie_word_embeddings"] = True
    del folder.tensors["lm_head.weight"]
    rows, columns = folder.tensors.pop("model.embed_tokens.weight").shape
    codes = np.random.default_rng(2).integers(0, 1 << bits, (rows, columns))
    zero = 8 if bits == 4 else 3
    folder.tensors |= {
        "model.embed_tokens.weight": stream(codes, bits),
        "model.embed_tokens.scales": np.full((rows, columns // 32), 0.25, np.float16),
        "model.embed_tokens.biases": np.full((rows, columns // 32), -zero / 4, np.float16),
    }
    report = quietly(folder.save(), tmp_path / "x.gguf")
    found = entries(tmp_path / "x.gguf")
    assert "token_embd is quantized in the checkpoint, and read by row; stored as q8_0, rounded" in report.notes
    assert any("head is quantized in the checkpoint and was kept so" in note for note in report.notes) is bool(stored)
    assert any("stored once" in note for note in report.notes) is not bool(stored)
    if stored:
        assert found["output.weight"].type_name == stored
        assert np.array_equal(stored_weights(tmp_path / "x.gguf", found, found["output.weight"]), (codes - 8) / 4)
    else:
        assert "output.weight" not in found


def damage_settings(folder, random_):
    """One value anywhere in the settings, or one more key."""
    config = json.loads(json.dumps(folder.config))
    place = config.get("quantization_config") or config["quantization"]
    while True:
        key = random_.choice([*place, "format", "quant_config", "model.layers.0.mlp.up_proj"])
        if isinstance(place.get(key), dict) and place[key] and random_.random() < 0.8:
            place = place[key]
            continue
        value = random_.choice(VALUES)
        place[key] = [value, "re:(a*)*$", "re:("] if isinstance(place.get(key), list) else value
        break
    (folder.path / "config.json").write_text(json.dumps(config))


def damage_data(folder, random_):
    """Random bytes in one of the tensors of the quantized layers."""
    data = bytearray(folder.weights.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = random_.choice([name for name in header if "_proj." in name])
    start, end = header[name]["data_offsets"]
    for _ in range(4):
        data[8 + length + random_.randrange(start, end)] = random_.randrange(256)
    folder.weights.write_bytes(data)


@pytest.mark.parametrize("name", FORMATS)
def test_random_damage(folder, is_refused, name):
    """Damaged settings, headers and values: a file, or a ConvertError and no file. The seed is fixed."""
    random_ = random.Random(list(FORMATS).index(name))
    reexpress(folder, name)
    originals = {path: path.read_bytes() for path in (folder.weights, folder.path / "config.json")}
    damages = (damage_settings, damage_data, damage_header_entry, damage_settings, damage_data, damage_header_bytes)
    for case in range(FUZZ_CASES):
        damage = damages[case % len(damages)]
        damage(folder, random_)
        is_refused(folder.path, (case, damage.__name__))
        for path, data in originals.items():
            path.write_bytes(data)


@pytest.mark.parametrize("above", [False, True])
def test_inexact_scales_at_the_least_normal_number_of_fp16(folder, tmp_path, quietly, refused, above):
    """A scale in float32 between two numbers of fp16 is rounded just below its normal range, and not above."""
    name = "model.layers.2.mlp.down_proj.scales"
    folder.tensors[name] = folder.tensors[name].astype(np.float32)
    folder.tensors[name][0, 5] = 2.0**-14 * (1 + 2.0**-12 if above else 1 - 2.0**-12)

    def run():
        return quietly(folder.save(), tmp_path / "x.gguf")

    if above:
        refused(run, name, "not exact in fp16")
    else:
        assert note_of(run(), "1 scales are below the normal range of fp16")
