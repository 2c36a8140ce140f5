"""A GGUF model of one or several files as metadata and lazy tensors.

In: a .gguf file; of a split model, any of its files. Out: what the header says, and bytes of the tensors, read on
request. What the bytes mean is the business of readers/ggml_blocks.py and plan/from_gguf.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ...common.rotation import MAKER_PREFIX
from ..errors import ConvertError
from .ggml_types import FORK_IDS, GgmlType
from .gguf_header import TensorEntry, kinds_of, read_gguf_header
from .rotation import read_rotation

MAGIC = b"GGUF"
SPLIT_KEYS = "split."
SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Weights to read at a time; bounds the temporaries of decoding and quantizing.
BLOCK_WEIGHTS = 1 << 22
_TOGETHER = "the files do not belong together; download the model again"


def is_gguf(source: Path | str) -> bool:
    """Whether `source` is named .gguf (it need not exist), or is a file that begins as GGUF does."""
    path = Path(source)
    if path.suffix == ".gguf":
        return not path.is_dir()
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}", "check the permissions of the file") from error


def model_name(path: Path) -> str:
    """The name of the file without its suffix and, in a split model, its number."""
    split = SPLIT_NAME.fullmatch(path.name)
    return split["stem"] if split else path.name.removesuffix(".gguf")


def has_fork_types(path: Path) -> bool:
    """Whether tensors of the model have types that llama.cpp does not know. Raises as read_gguf_header does."""
    headers = map(read_gguf_header, model_files(path))
    return any(tensor.type_id in FORK_IDS for header in headers for tensor in header.tensors)


@dataclass(frozen=True)
class SourceTensor:
    """A tensor and the file that it is in. Three dimensions: one matrix per expert."""

    entry: TensorEntry
    file: Path

    @property
    def matrices(self) -> int:
        return self.entry.shape[0] if len(self.entry.shape) == 3 else 1

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.file}: tensor {self.entry.name}"

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` bytes of the tensor from its byte `start`, uint8."""
        try:
            data = np.fromfile(self.file, np.uint8, count, offset=self.entry.offset + start)
        except OSError as error:
            raise ConvertError(
                f"{self.file}: cannot read tensor {self.entry.name}: {error.strerror}", "check the disk that it is on"
            ) from error
        if data.size != count:
            raise ConvertError(
                f"{self.file}: the file changed while tensor {self.entry.name} was read",
                "let no one write to it, and run again",
            )
        return data

    def read_matrix(self, matrix: int) -> np.ndarray:
        """The bytes of one matrix, uint8."""
        size = self.entry.nbytes // self.matrices
        return self.read(matrix * size, size)

    def row_blocks(self, matrix: int = 0) -> Iterator[np.ndarray]:
        """The rows of one matrix in order, at most BLOCK_WEIGHTS weights at a time: uint8 [rows, bytes of a row]."""
        rows, columns = self.entry.shape[-2:]
        row_bytes = self.entry.nbytes // self.matrices // rows
        step = max(1, BLOCK_WEIGHTS // columns)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            yield self.read((matrix * rows + first) * row_bytes, count * row_bytes).reshape(count, row_bytes)

    def blocks(self, kind: GgmlType) -> Iterator[np.ndarray]:
        """All blocks of the tensor, whose type is `kind`: uint8 [n, bytes of a block], n bounded by BLOCK_WEIGHTS."""
        step = BLOCK_WEIGHTS // kind.block * kind.nbytes
        for start in range(0, self.entry.nbytes, step):
            yield self.read(start, min(step, self.entry.nbytes - start)).reshape(-1, kind.nbytes)


class GgufSource:
    """`metadata` and `records` (see Header) without the keys of a split model; `tensors` in file order;
    `rotation` of its weights, if they are rotated.

    Raises ConvertError as read_gguf_header and read_rotation do, and for files that do not belong together.
    """

    def __init__(self, path: Path, *, whole: bool = True):
        """`whole`: all files of a split model are read; otherwise `path` alone."""
        self.path = path
        self.files = model_files(path) if whole else [path]
        headers = [read_gguf_header(file) for file in self.files]
        self._check_count(headers[0].metadata, whole)
        self.metadata: dict[str, Any] = _without_split(headers[0].metadata)
        self.records = _without_split(headers[0].records)
        self.tensors: list[SourceTensor] = []
        found: dict[str, Path] = {}
        for file, header in zip(self.files, headers):
            if header is not headers[0] and any(key.startswith(MAKER_PREFIX) for key in header.metadata):
                raise ConvertError(f"{file}: has keys {MAKER_PREFIX}*, expected them in the first file", _TOGETHER)
            for entry in header.tensors:
                if entry.name in found:
                    other = found[entry.name].name
                    raise ConvertError(f"{file}: tensor {entry.name} is also in {other}, expected it once", _TOGETHER)
                found[entry.name] = file
                self.tensors.append(SourceTensor(entry, file))
        expected = headers[0].metadata.get(gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
        if whole and expected is not None and expected != len(self.tensors):
            raise ConvertError(f"{path}: found {len(self.tensors)} tensors, expected {expected!r}", _TOGETHER)
        shapes = {tensor.entry.name: tensor.entry.shape for tensor in self.tensors}
        is_whole = whole or headers[0].metadata.get(gguf.Keys.Split.LLM_KV_SPLIT_COUNT, 1) == 1
        self.rotation = read_rotation(path, self.metadata, kinds_of(self.records), shapes, whole=is_whole)

    @property
    def architecture(self) -> str:
        """The name in the metadata. Raises ConvertError if there is none."""
        found = self.metadata.get(gguf.Keys.General.ARCHITECTURE)
        if not isinstance(found, str) or not found:
            raise ConvertError(
                f"{self.path}: {gguf.Keys.General.ARCHITECTURE} is {found!r}, expected the name of an architecture",
                "this is not a model; an importance matrix or an adapter?",
            )
        return found

    def _check_count(self, metadata: dict[str, Any], whole: bool) -> None:
        count = metadata.get(gguf.Keys.Split.LLM_KV_SPLIT_COUNT, 1)
        if whole and type(count) is int and count > 1 and count != len(self.files):
            raise ConvertError(
                f"{self.path}: is one of {count} files of a model, expected a name in -0000N-of-{count:05d}.gguf",
                "give all files the names that they had",
            )


def model_files(path: Path) -> list[Path]:
    """All files of the model that `path` is a file of, in order."""
    split = SPLIT_NAME.fullmatch(path.name)
    if not split:
        return [path]
    count = int(split["count"])
    missing = (number for number in range(1, count + 1) if not _part(path, split, number).is_file())
    first = next(missing, None)
    if first:
        raise ConvertError(
            f"{_part(path, split, first)} is missing, expected {count} files", "finish the download of the model"
        )
    return [_part(path, split, number) for number in range(1, count + 1)] or [path]


def present_files(path: Path) -> list[Path]:
    """Those files of the model that `path` is a file of that are there, in order: also of a model that is cut short."""
    split = SPLIT_NAME.fullmatch(path.name)
    parts = [_part(path, split, number) for number in range(1, int(split["count"]) + 1)] if split else [path]
    return [part for part in parts if part.is_file()] or [path]


def _part(path: Path, split: re.Match[str], number: int) -> Path:
    return path.with_name(f"{split['stem']}-{number:05d}-of-{split['count']}.gguf")


def _without_split(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith(SPLIT_KEYS)}
