"""The header of a GGUF file: metadata and tensor entries, without reading any tensor.

The gguf package's own reader refuses types that it does not know, T-MAC's among them; this one reads those too. Every
length is checked against the file before it is used. Source: the GGUF specification, ggml/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFValueType

from ...common.format import LAYOUT_VERSION, LAYOUT_VERSION_KEY, TYPES_BY_ID
from ..errors import ConvertError
from .ggml_types import EARLY_Q2_0, Q2_0, TYPES, fork_name
from .lfs import require_no_pointer

VERSIONS = (2, 3)
_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}
_UNSIGNED = (GGUFValueType.UINT8, GGUFValueType.UINT16, GGUFValueType.UINT32, GGUFValueType.UINT64)
_REPEAT = "the file is damaged or incomplete; convert or download it again"
# ggml tensors have at most four dimensions.
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: `shape` counts weights, outermost first; `offset` is its first byte in the file."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """`metadata` by key (arrays as lists) and the tensors in file order; `layout_version` is None without T-MAC.

    `records` are the same metadata as the bytes of the file: key, type and value, by key.
    """

    metadata: dict[str, Any]
    tensors: list[TensorEntry]
    layout_version: int | None
    records: dict[str, bytes]


# The type of a value; of an array that, and the type of its elements.
Kind = tuple[GGUFValueType, ...]


def kinds_of(records: Mapping[str, bytes]) -> dict[str, Kind]:
    """The types of the values in `records` of a Header, by key."""
    return {key: _kind_of(record) for key, record in records.items()}


def _kind_of(record: bytes) -> Kind:
    """Of the length of a key, the key, its type, and for arrays the type of the elements."""
    at = 8 + struct.unpack_from("<Q", record)[0]
    kind = GGUFValueType(struct.unpack_from("<I", record, at)[0])
    if kind is not GGUFValueType.ARRAY:
        return (kind,)
    return kind, GGUFValueType(struct.unpack_from("<I", record, at + 4)[0])


def read_gguf_header(path: Path) -> Header:
    """Reads the header of `path`.

    Raises ConvertError if the file is not GGUF, is truncated or inconsistent, has a type that is not known, has another
    layout version than this one, or has T-MAC tensors and no layout version, unless it is a later file of a split.
    """
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(path, data))
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}", "check the path and its permissions") from error
    # An empty file cannot be mapped.
    except ValueError as error:
        raise ConvertError(f"{path}: not a GGUF file ({error})", _REPEAT) from error


class _Cursor:
    """Reads forward through the file; never beyond its end."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.at = path, data, 0

    def damaged(self, what: str) -> ConvertError:
        return ConvertError(f"{self.path}: {what}", _REPEAT)

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.damaged(f"truncated: {count} bytes expected at byte {self.at}, the file has {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode(errors="replace")

    def kind(self) -> GGUFValueType:
        found = self.number("<I")
        if found not in list(GGUFValueType):
            raise self.damaged(f"metadata type {found} is unknown")
        return GGUFValueType(found)

    def value(self, kind: GGUFValueType) -> Any:
        if kind is GGUFValueType.STRING:
            return self.text()
        if kind is not GGUFValueType.ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.kind(), self.number("<Q")
        if inner in _SCALARS:
            form = _SCALARS[inner]
            packed = self.take(count * struct.calcsize(form))
            return [value for (value,) in struct.iter_unpack(form, packed)]
        if inner is GGUFValueType.ARRAY:
            raise self.damaged("metadata has an array of arrays")
        return [self.text() for _ in range(count)]


def _read(cursor: _Cursor) -> Header:
    if cursor.data[:4] != b"GGUF":
        require_no_pointer(cursor.path)
        raise cursor.damaged(f"starts with {bytes(cursor.data[:4])!r}, expected b'GGUF': not a GGUF file")
    cursor.at = 4
    version, tensor_count, value_count = (cursor.number(form) for form in ("<I", "<Q", "<Q"))
    if version.to_bytes(4, "big") in [known.to_bytes(4, "little") for known in VERSIONS]:
        raise ConvertError(
            f"{cursor.path}: the numbers are big-endian, expected little-endian",
            "look for the little-endian file of this model",
        )
    if version not in VERSIONS:
        raise cursor.damaged(f"GGUF version {version}, expected {' or '.join(map(str, VERSIONS))}")
    metadata: dict[str, Any] = {}
    records: dict[str, bytes] = {}
    layout_version = None
    for _ in range(value_count):
        start = cursor.at
        key, kind = cursor.text(), cursor.kind()
        if key in metadata:
            raise cursor.damaged(f"metadata key {key} occurs twice")
        metadata[key] = cursor.value(kind)
        records[key] = cursor.data[start : cursor.at]
        if key == LAYOUT_VERSION_KEY:
            layout_version = _layout_version(cursor, kind, metadata[key])
    alignment = metadata.get(gguf.Keys.General.ALIGNMENT, gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0:
        raise cursor.damaged(f"{gguf.Keys.General.ALIGNMENT} is {alignment!r}, expected a whole number above zero")
    raw = [_raw_entry(cursor) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    _check_entries(cursor, start, alignment, raw)
    tensors = [_entry(cursor, start, *fields) for fields in raw]
    _check_places(cursor, start, alignment, tensors)
    unversioned = next((t for t in tensors if layout_version is None and t.type_id in TYPES_BY_ID), None)
    # llama.cpp's own tools write the keys of a split model into its first file only.
    if unversioned and not metadata.get(gguf.Keys.Split.LLM_KV_SPLIT_NO):
        raise ConvertError(
            f"{cursor.path}: tensor {unversioned.name} has type {unversioned.type_name}, but the file has no "
            f"{LAYOUT_VERSION_KEY}, expected version {LAYOUT_VERSION}",
            "the order of its bytes is unknown; convert the checkpoint again",
        )
    return Header(metadata, tensors, layout_version, records)


def _layout_version(cursor: _Cursor, kind: GGUFValueType, value: Any) -> int:
    if kind not in _UNSIGNED:
        raise cursor.damaged(f"{LAYOUT_VERSION_KEY} is of type {kind.name.lower()}, expected an unsigned integer")
    if value != LAYOUT_VERSION:
        raise ConvertError(
            f"{cursor.path}: {LAYOUT_VERSION_KEY} is {value}, but this T-MAC reads version {LAYOUT_VERSION}",
            "update T-MAC, or convert the checkpoint again with this version",
        )
    return value


# Name, shape, type number, offset from the first tensor's place.
RawEntry = tuple[str, tuple[int, ...], int, int]


def _raw_entry(cursor: _Cursor) -> RawEntry:
    name, dimensions = cursor.text(), cursor.number("<I")
    if dimensions > MAX_DIMENSIONS:
        raise cursor.damaged(f"tensor {name} has {dimensions} dimensions, expected at most {MAX_DIMENSIONS}")
    shape = tuple(reversed([cursor.number("<Q") for _ in range(dimensions)]))
    return name, shape, cursor.number("<I"), cursor.number("<Q")


def _check_entries(cursor: _Cursor, start: int, alignment: int, raw: list[RawEntry]) -> None:
    """Raises ConvertError for names that occur twice, and for files from before Q2_0 had blocks of 64."""
    names = set()
    for name, *_ in raw:
        if name in names:
            raise cursor.damaged(f"tensor {name} occurs twice")
        names.add(name)
    offsets = sorted(offset for *_, offset in raw)
    following = dict(zip(offsets, [*offsets[1:], len(cursor.data) - start]))
    for name, shape, type_id, offset in raw:
        if type_id != Q2_0.id or not shape or shape[-1] % EARLY_Q2_0.block:
            continue
        nbytes, room = _nbytes(shape, EARLY_Q2_0.block, EARLY_Q2_0.nbytes), following[offset] - offset
        if room < _nbytes(shape, Q2_0.block, Q2_0.nbytes) and nbytes <= room < nbytes + alignment:
            raise ConvertError(
                f"{cursor.path}: tensor {name} has q2_0 blocks of 128 weights, an early form of Prism's, expected 64",
                "take the file of this model that ends in g64, or its Hugging Face checkpoint",
            )


def _check_places(cursor: _Cursor, start: int, alignment: int, tensors: list[TensorEntry]) -> None:
    """Raises ConvertError unless the tensors lie one behind the other, in their order, as llama.cpp has them.

    Where a type means something else than its number says here, its tensors have another size: they overlap, or there
    are holes between them.
    """
    expected, before = start, None
    for tensor in tensors:
        if tensor.offset != expected:
            kind = "overlaps what is before it" if tensor.offset < expected else "follows a hole"
            sized = before or tensor
            name, fork = fork_name(sized.type_id)
            other = f"; in files of {fork}, type {sized.type_id} is {name}" if fork else ""
            raise ConvertError(
                f"{cursor.path}: tensor {tensor.name} {kind}: it begins at byte {tensor.offset}, expected {expected}, "
                f"the end of {sized.name} in {sized.type_name} (type {sized.type_id}){other}",
                f"convert a file of this model that llama.cpp itself or Prism made, or the checkpoint; {_REPEAT}",
            )
        end = tensor.offset + tensor.nbytes
        expected, before = start + -(-(end - start) // alignment) * alignment, tensor


def _nbytes(shape: tuple[int, ...], block: int, size: int) -> int:
    return math.prod(shape) // block * size


def _entry(cursor: _Cursor, start: int, name: str, shape: tuple[int, ...], type_id: int, offset: int) -> TensorEntry:
    type_name, block, size = _type(cursor, name, type_id)
    if not shape or 0 in shape or shape[-1] % block:
        raise cursor.damaged(f"tensor {name} has shape {list(shape)}, expected some rows in blocks of {block}")
    nbytes = _nbytes(shape, block, size)
    if start + offset + nbytes > len(cursor.data):
        raise cursor.damaged(
            f"truncated: tensor {name} ends at byte {start + offset + nbytes}, the file has {len(cursor.data)}"
        )
    return TensorEntry(name, shape, type_id, type_name, start + offset, nbytes)


def _type(cursor: _Cursor, name: str, type_id: int) -> tuple[str, int, int]:
    """Name of type `type_id`, which tensor `name` has, and the weights and bytes of its block."""
    if type_id in TYPES_BY_ID:
        kind = TYPES_BY_ID[type_id]
        return kind.ggml_name, kind.block_weights, kind.block_bytes
    if type_id in TYPES:
        kind = TYPES[type_id]
        return kind.name, kind.block, kind.nbytes
    other, fork = fork_name(type_id)
    if fork:
        raise ConvertError(
            f"{cursor.path}: tensor {name} has type {type_id}, {other} of {fork}, expected one of ggml",
            "convert the Hugging Face checkpoint of this model, or a GGUF in types of llama.cpp, instead",
        )
    raise cursor.damaged(f"tensor {name} has type {type_id:#x}, which is neither ggml's nor T-MAC's")
