"""Importance matrices of llama.cpp: the mean square of each input of each linear layer, measured on a text.

In: a file of llama-imatrix in either of its formats. Out: float32 per tensor. The first format is GGUF (general.type is
`imatrix`): per tensor `<name>.in_sum2`, float32 [matrices, inputs], the sums of squares, and `<name>.counts`, float32
[matrices, 1], the numbers of tokens; several matrices are experts. The older format:

    int32 entries; per entry: int32 length, name, int32 calls, int32 values, float32 values; what follows is not needed

where values are mean squares times `calls`. Source: tools/imatrix/imatrix.cpp of the pinned llama.cpp.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import ConvertError
from ..sources.gguf_header import read_gguf_header
from ..sources.gguf_model import SourceTensor, is_gguf

_SUMS, _COUNTS = ".in_sum2", ".counts"
_HINT = "make it with llama-imatrix, on this model and with this llama.cpp"
_TYPE_KEY, _TYPE = "general.type", "imatrix"
_F32 = 0


class Imatrix:
    """The entries of the importance matrix in file `path`. Raises ConvertError for a file that is none."""

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise ConvertError(f"{path} does not exist, expected an importance matrix", _HINT)
        self._entries = _read_gguf(self.path) if is_gguf(self.path) else _read_old(self.path)
        for name, values in self._entries.items():
            # The comparison is false for what is not a number.
            if not ((values >= 0) & (values < np.inf)).all():
                raise ConvertError(
                    f"{path}: the entry of {name} has values that are not finite or below zero, expected mean squares",
                    _HINT,
                )

    def of(self, name: str, matrices: int, columns: int) -> np.ndarray | None:
        """float32 [matrices, columns] for tensor `name` (matrices: experts, else 1); None if it has no entry.

        Raises ConvertError if the entry is for another shape.
        """
        values = self._entries.get(name)
        if values is None:
            return None
        if values.size == columns:
            return np.broadcast_to(values.reshape(1, columns), (matrices, columns))
        if values.size != matrices * columns:
            raise ConvertError(
                f"{self.path}: the entry of {name} has {values.size} values, expected {columns} for each of {matrices}",
                _HINT,
            )
        return values.reshape(matrices, columns)


def _read_gguf(path: Path) -> dict[str, np.ndarray]:
    header = read_gguf_header(path)
    if header.metadata.get(_TYPE_KEY) != _TYPE:
        found = header.metadata.get(_TYPE_KEY)
        raise ConvertError(f"{path}: {_TYPE_KEY} is {found!r}, expected {_TYPE!r}: this is no importance matrix", _HINT)
    tensors = {entry.name: SourceTensor(entry, path) for entry in header.tensors}
    entries = {}
    for name, sums in tensors.items():
        if not name.endswith(_SUMS):
            continue
        module = name.removesuffix(_SUMS)
        counts = tensors.get(module + _COUNTS)
        if counts is None or any(tensor.entry.type_id != _F32 for tensor in (sums, counts)):
            raise ConvertError(f"{path}: {name} has no {_COUNTS} beside it, or is not float32", _HINT)
        matrices = math.prod(counts.entry.shape)
        if not matrices or math.prod(sums.entry.shape) % matrices:
            shapes = f"{list(sums.entry.shape)} and {list(counts.entry.shape)}"
            raise ConvertError(f"{path}: {name} and its counts have shapes {shapes}, expected one count a row", _HINT)
        entries[module] = _means(_floats(sums).reshape(matrices, -1), _floats(counts).reshape(-1, 1))
    return entries


def _floats(tensor: SourceTensor) -> np.ndarray:
    return tensor.read(0, tensor.entry.nbytes).view("<f4").astype(np.float32)


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean squares, flat; ones for experts that no token reached."""
    # What is not finite is refused later, by name.
    with np.errstate(invalid="ignore", over="ignore"):
        means = np.divide(sums, counts, out=np.ones(sums.shape, np.float32), where=counts > 0)
    return means.reshape(-1)


def _read_old(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            entries = _read_entries(path, file)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}", "check the permissions of the file") from error
    if not entries:
        raise ConvertError(f"{path}: has no entries, expected an importance matrix", _HINT)
    return entries


def _read_entries(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    size = path.stat().st_size

    def take(count: int) -> bytes:
        at = file.tell()
        if not 0 < count <= size - at:
            raise ConvertError(f"{path}: ends early or is damaged at byte {at}, expected an importance matrix", _HINT)
        return file.read(count)

    def number() -> int:
        return struct.unpack("<i", take(4))[0]

    entries = {}
    for _ in range(number()):
        name = take(number()).decode(errors="replace")
        calls, count = number(), number()
        values = np.frombuffer(take(4 * count), "<f4").astype(np.float32)
        with np.errstate(invalid="ignore"):
            entries[name] = values / np.float32(calls) if calls > 0 else values
    return entries
