"""Headers of GGUF files, byte by byte: what is read of them, and what is refused."""

import struct

import pytest
from gguf import GGUFValueType, GGUFWriter

from tmac.common.format import type_of
from tmac.convert.sources.gguf_header import read_gguf_header

U16, U32, I32, F32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def number(form, value):
    return struct.pack(f"<{form}", value)


def array(kind, *values):
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def tensor(name, *shape, kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def write(path, keys=(), tensors=(), data=b"", alignment=32):
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join((*keys, *tensors))
    path.write_bytes(start + bytes(-len(start) % alignment) + data)
    return path


WORD = key("x", STRING, text("y"))


def test_metadata_and_tensors(tmp_path):
    numbers = array(I32, number("i", 7), number("i", -1))
    keys = (
        WORD,
        key("n", I32, number("i", -3)),
        key("l", ARRAY, array(STRING, text("a"), text(""))),
        key("i", ARRAY, numbers),
    )
    alignment = key("general.alignment", U32, number("I", 128))
    for all_keys, width in ((keys, 32), ((*keys, alignment), 128)):
        tensors, data = (tensor("a", 3, 2), tensor("b", 2, 1, 1, 2, offset=width)), bytes(width + 16)
        found = read_gguf_header(write(tmp_path / "x.gguf", all_keys, tensors, data, width))
        metadata = {name: value for name, value in found.metadata.items() if name != "general.alignment"}
        assert metadata == {"x": "y", "n": -3, "l": ["a", ""], "i": [7, -1]}
        assert [(each.name, each.shape, each.nbytes) for each in found.tensors] == [
            ("a", (2, 3), 24),
            ("b", (2, 1, 1, 2), 16),
        ]
        first, second = (each.offset for each in found.tensors)
        assert second - first == width and first % width == 0


@pytest.mark.parametrize("kind", [kind.name for kind in GGUFValueType if kind.name not in ("STRING", "ARRAY")])
def test_numbers_of_every_type(tmp_path, kind):
    """As the gguf package writes them: alone, and the next key is where it should be."""
    value = {"FLOAT32": -0.5, "FLOAT64": -0.1, "BOOL": True}.get(kind, 200 if kind.startswith("U") else -100)
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_key_value("number", value, GGUFValueType[kind])
    writer.add_string("after", "y")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_gguf_header(tmp_path / "x.gguf").metadata
    assert (metadata["number"], metadata["after"]) == (value, "y")
    assert type(metadata["number"]) is type(value)


@pytest.mark.parametrize(
    ("keys", "tensors", "words"),
    [
        ([WORD, WORD], [], ["metadata key x occurs twice"]),
        ([key("x", 13, b"")], [], ["metadata type 13 is unknown"]),
        ([key("x", ARRAY, array(13, b""))], [], ["metadata type 13 is unknown"]),
        ([key("x", ARRAY, array(ARRAY, array(U32)))], [], ["array of arrays"]),
        ([key("general.alignment", U32, number("I", 0))], [], ["general.alignment is 0", "whole number above zero"]),
        ([key("general.alignment", I32, number("i", -32))], [], ["general.alignment is -32"]),
        ([key("general.alignment", F32, number("f", 32))], [], ["general.alignment is 32.0"]),
        ([key("general.alignment", BOOL, number("?", True))], [], ["general.alignment is True"]),
        ([key("general.alignment", STRING, text("32"))], [], ["general.alignment is '32'"]),
        ([], [tensor("a", kind=42)], ["tensor a has shape []", "expected some rows"]),
        ([], [tensor("a", 48, kind=8)], ["tensor a has shape [48]", "some rows in blocks of 32"]),
        # Too few bytes for the early form of Q2_0, too: the file is not of that form, it is cut short.
        ([], [tensor("a", 1024, kind=42)], ["truncated: tensor a ends at byte 352"]),
        ([], [tensor("a", 1, 1, 1, 1, 1)], ["tensor a has 5 dimensions", "at most 4"]),
    ],
)
def test_what_is_refused(tmp_path, refused, keys, tensors, words):
    path = write(tmp_path / "x.gguf", keys, tensors, bytes(64))
    refused(lambda: read_gguf_header(path), "x.gguf", *words)


def test_later_files_of_a_split_need_no_layout_version(tmp_path, refused):
    """llama.cpp's own tools write the keys of a split model into its first file only."""
    kind = type_of(2, 64)
    first, second = (
        write(
            tmp_path / f"{i}.gguf",
            [key("split.no", U16, number("H", i))],
            [tensor("a", 64, 32, kind=kind.id)],
            bytes(kind.nbytes(32, 64)),
        )
        for i in (0, 1)
    )
    refused(lambda: read_gguf_header(first), "0.gguf: tensor a has type tmac_w2g64", "no tmac.layout_version")
    assert read_gguf_header(second).layout_version is None
