"""Opening checkpoint folders: what is read, and the ways in which a folder can be broken."""

import json
import struct

import numpy as np
import pytest

from tmac.convert.sources import checkpoint as sources
from tmac.convert.sources.checkpoint import MAX_HEADER_BYTES, Checkpoint, read_header


def write_raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F16", shape=(2,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_was_written(folder):
    """Every tensor, and a slice of rows, equals an independent reading of the file."""
    checkpoint = Checkpoint(folder.path)
    assert set(checkpoint.tensors) == set(folder.tensors)
    for name, values in folder.tensors.items():
        assert np.array_equal(checkpoint.read(name), values)
    rows = checkpoint.read("model.embed_tokens.weight", slice(10, 20))
    assert np.array_equal(rows, folder.tensors["model.embed_tokens.weight"][10:20])


SMALL = ("F8_E4M3", "F8_E5M2", "F8_E8M0")


@pytest.mark.parametrize(
    "code", ["BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", *SMALL]
)
def test_a_dtype_is_what_its_name_says(tmp_path, code):
    """Its kind, its bits, and little-endian; small floats are bytes, as truth values are."""
    kind, bits = ("U", 8) if code in ("BOOL", *SMALL) else (code[0], int(code[1:]))
    values = np.array([1, 2], f"<{kind.lower()}{bits // 8}")
    file = write_raw(tmp_path / "model.safetensors", {"x": entry(code, (2,), (0, values.nbytes))}, values.tobytes())
    (tmp_path / "config.json").write_text("{}")
    read = Checkpoint(file.parent).read("x")
    assert read.dtype == values.dtype and read.tolist() == [1, 2]


def test_bfloat16_becomes_float32(folder):
    """Bits by hand: 0x3FC0 is 1.5, 0xC000 is -2, 0x0001 is 2**-133."""
    folder.tensors = {"x": np.array([0x3FC0, 0xC000, 0x0001], np.uint16)}
    assert Checkpoint(folder.save()).read("x").tolist() == [1.5, -2.0, 2.0**-133]


def test_shards_are_one_checkpoint(folder):
    """Split into two shards with an index, the same tensors are found."""
    folder.shard()
    checkpoint = Checkpoint(folder.path)
    assert all(np.array_equal(checkpoint.read(name), values) for name, values in folder.tensors.items())


def test_a_single_file_of_another_name_is_found(folder):
    folder.weights.rename(folder.path / "gptq_model-2bit-64g.safetensors")
    assert len(Checkpoint(folder.path).tensors) == len(folder.tensors)


def test_missing_shard(folder, refused):
    shards = folder.shard()
    shards[1].unlink()
    refused(lambda: Checkpoint(folder.path), shards[1].name, "missing", "1 of the 2 shards", "fetch")


def test_two_sets_of_weights_are_refused(folder, refused):
    """model.safetensors beside an index that names other files; an index that names that file is fine."""
    index = folder.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(folder.tensors, "model.safetensors")}))
    assert len(Checkpoint(folder.path).tensors) == len(folder.tensors)
    folder.shard()
    folder.save()
    words = ("checkpoint", "model.safetensors,", index.name, "model-00001-of-00002", "expected one set of weights")
    refused(lambda: Checkpoint(folder.path), *words)


def test_tensor_missing_from_its_shard(folder, refused):
    first, second = folder.shard()
    second.write_bytes(first.read_bytes())
    refused(lambda: Checkpoint(folder.path), second.name, "expected it once")
    first.rename(second)
    write_raw(first, {})
    refused(lambda: Checkpoint(folder.path), first.name, "is missing, but", "lists it there")
    second.rename(first)
    write_raw(second, {})
    refused(lambda: Checkpoint(folder.path), second.name, "is missing", "index")


def test_shard_names_stay_inside_the_folder(folder, refused):
    index = folder.path / "model.safetensors.index.json"
    folder.shard()
    for shard in ("../model.safetensors", "/etc/passwd", 7, "model.bin"):
        index.write_text(json.dumps({"weight_map": {"x": shard}}))
        refused(lambda: Checkpoint(folder.path), index.name, "tensor x", repr(shard), "expected a .safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -1000])
def test_truncated_file(folder, refused, keep):
    """Cut inside the length, the header and the data."""
    folder.weights.write_bytes(folder.weights.read_bytes()[:keep])
    refused(lambda: Checkpoint(folder.path), "model.safetensors", "download", "the file has")


def test_header_longer_than_the_file(tmp_path, refused):
    for length in (10**15, 3):
        path = write_raw(tmp_path / "x.safetensors", b"{}", length=length)
        refused(lambda path=path: read_header(path), "x.safetensors", f"{length} bytes", "the file has 10")
    assert MAX_HEADER_BYTES < 10**15


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"{not json", b"", ["not valid JSON"]),
        (b"\xff\xfe", b"", ["not valid JSON"]),
        (b"[" * 100_000, b"", ["not valid JSON"]),
        ([1], b"", ["list", "expected an object"]),
        (b'{"a": 1, "a": 2}', b"", ["names a twice", "expected once"]),
        ({"a": 5}, b"", ["tensor a", "dtype None"]),
        ({"a": entry(dtype=["F16"])}, bytes(4), ["tensor a", "['F16']", "expected one of"]),
        ({"a": entry(dtype="F4")}, bytes(4), ["tensor a", "F4", "expected one of", "BF16"]),
        ({"a": entry(shape=(-2,))}, bytes(4), ["tensor a", "[-2]", "expected lists of sizes"]),
        ({"a": entry(shape=(True,))}, bytes(4), ["tensor a", "[True]"]),
        ({"a": entry(shape=(2.0,))}, bytes(4), ["tensor a", "[2.0]", "expected lists of sizes"]),
        ({"a": {**entry(), "shape": 2}}, bytes(4), ["tensor a", "shape 2", "expected lists of sizes"]),
        ({"a": entry(offsets=(0, 4, 4))}, bytes(4), ["tensor a", "[0, 4, 4]"]),
        ({"a": entry(shape=(2**63,))}, bytes(4), ["tensor a", "expected lists of sizes"]),
        ({"a": entry(shape=[2**62] * 1000)}, bytes(4), ["tensor a", "at most 9223372036854775807 bytes"]),
        ({"a": entry(offsets=(0, 10**4000))}, bytes(4), ["tensor a", "expected lists of sizes"]),
        (b'{"a": {"shape": [' + b"9" * 5000 + b"]}}", b"", ["not valid JSON"]),
        ({"a": entry(offsets=(4, 0))}, bytes(4), ["tensor a", "-4 bytes", "expected 4"]),
        ({"a": entry(shape=(3,))}, bytes(4), ["tensor a", "4 bytes", "expected 6 for F16 [3]"]),
        ({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6), ["tensor b", "overlaps", "byte"]),
        ({"a": entry(), "b": entry(offsets=(6, 10))}, bytes(10), ["tensor b", "hole"]),
        ({"a": entry()}, bytes(3), ["tensor a", "truncated"]),
        ({"a": entry()}, bytes(6), ["2 bytes follow the last tensor"]),
    ],
)
def test_damaged_header(tmp_path, refused, header, data, words):
    path = write_raw(tmp_path / "x.safetensors", header, data)
    refused(lambda: read_header(path), "x.safetensors", *words)


@pytest.mark.parametrize("listed", [None, {}, [], ["model.safetensors"], 3])
def test_an_index_that_lists_nothing(folder, refused, listed):
    folder.save()
    (folder.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    refused(lambda: Checkpoint(folder.path), "weight_map is", "expected a non-empty object")


def test_tensors_with_the_same_values(folder, monkeypatch):
    """Of one shape, with any number of axes; matrices are looked at in blocks of rows."""
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    changed = values.copy()
    changed[5, 3] += 1
    folder.tensors = {"a": values, "b": values.copy(), "c": changed, "d": values.reshape(4, 6), "e": values[:5]}
    folder.tensors |= {"v": values[0], "w": values[0].copy(), "x": values[1], "y": values[0, :3]}
    folder.tensors |= {"k": values.reshape(2, 3, 4), "l": values.reshape(2, 3, 4)}
    checkpoint = Checkpoint(folder.save())
    for weights in (sources.BLOCK_WEIGHTS, 8):
        monkeypatch.setattr(sources, "BLOCK_WEIGHTS", weights)
        same = {(a, b) for a in folder.tensors for b in folder.tensors if a < b and checkpoint.same_values(a, b)}
        assert same == {("a", "b"), ("k", "l"), ("v", "w")}


def test_wrong_folder(tmp_path, refused):
    """No folder, no config, a config that is not an object, no weights, weights in another format, two files."""
    refused(lambda: Checkpoint(tmp_path / "none"), "none", "not a folder")
    refused(lambda: Checkpoint(tmp_path), "config.json is missing", "download")
    config = tmp_path / "config.json"
    config.write_text("[]")
    refused(lambda: Checkpoint(tmp_path), "config.json", "list", "expected an object")
    config.write_text('{"vocab_size": ' + "9" * 5000 + "}")
    refused(lambda: Checkpoint(tmp_path), "config.json", "not valid JSON", "damaged")
    config.write_text("{")
    refused(lambda: Checkpoint(tmp_path), "config.json", "not valid JSON")
    config.write_text("{}")
    refused(lambda: Checkpoint(tmp_path), "found no weights", "expected model.safetensors")
    (tmp_path / "pytorch_model.bin").touch()
    refused(lambda: Checkpoint(tmp_path), "only pytorch_model.bin", "safetensors")
    for name in ("a.safetensors", "b.safetensors"):
        write_raw(tmp_path / name, {})
    refused(lambda: Checkpoint(tmp_path), "a.safetensors, b.safetensors")


def test_a_file_that_changes_under_an_open_checkpoint(folder, refused):
    folder.tensors = {"x": np.arange(8, dtype=np.float32)}
    checkpoint = Checkpoint(folder.save())
    folder.weights.write_bytes(folder.weights.read_bytes()[:-4])
    refused(lambda: checkpoint.read("x"), "model.safetensors: the file changed while tensor x was read")
    assert checkpoint.read("x", slice(7)).tolist() == list(range(7))
    folder.weights.unlink()
    refused(lambda: checkpoint.read("x"), "model.safetensors: cannot read tensor x", "No such file")
    folder.weights.mkdir()
    refused(lambda: Checkpoint(folder.path), "model.safetensors: cannot be read", "Is a directory")
    (folder.path / "config.json").unlink()
    (folder.path / "config.json").mkdir()
    refused(lambda: Checkpoint(folder.path), "config.json: cannot be read", "Is a directory")


def test_tensor_expectations(folder, refused):
    """Missing tensor, wrong dtype, wrong shape: file, tensor, found and expected are named."""
    checkpoint = Checkpoint(folder.path)
    refused(lambda: checkpoint.info("x.weight"), "tensor x.weight is missing")
    name = "model.norm.weight"
    refused(lambda: checkpoint.info(name, ("I32",)), "model.safetensors", name, "F16", "expected I32")
    refused(lambda: checkpoint.info(name, (), (9,)), "model.safetensors", name, "[256]", "expected [9]")
