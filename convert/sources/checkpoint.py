"""A checkpoint folder as lazy tensors.

In: config.json and safetensors files, one or several that an index names. Out: tensors, read one at a time. All headers
are checked when the folder is opened; the bytes of a tensor are read only on request. What the tensors mean is the
business of readers/ and architectures/.
Source: the safetensors format description, https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConvertError
from .lfs import require_no_pointer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# The limit of the reference implementation. A longer header is an attack, or the file is not safetensors.
MAX_HEADER_BYTES = 100_000_000

# No file has larger offsets or sizes. Checked early, as Python refuses to print numbers of thousands of digits.
MAX_SIZE = 2**63 - 1

# Printing a value takes several calls for each level, on top of those of whoever prints it.
MAX_DEPTH = 100

# Weights to read at a time by default: their float32 copy fits a second-level cache, which is twice as fast as more.
BLOCK_WEIGHTS = 1 << 18

# numpy has no bfloat16: its bits are read as 16-bit words and widened to float32.
DTYPES = {
    "BOOL": "<u1",
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
    # Small floats, as their bits.
    "F8_E4M3": "<u1",
    "F8_E5M2": "<u1",
    "F8_E8M0": "<u1",
}
FLOAT_DTYPES = ("F16", "BF16", "F32")
_DAMAGED = "the file is damaged; download it again"
_UNREADABLE = "check the permissions of the file and the disk that it is on"


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `start` is its first byte in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class Checkpoint:
    """The tensors and the configuration of a checkpoint folder.

    Raises ConvertError for a missing or malformed config.json, index or shard; see `read_header`.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ConvertError(f"{self.folder} is not a folder", "give the folder that holds config.json")
        self.config_file = self.folder / "config.json"
        self.config = read_json(self.config_file, "every Hugging Face checkpoint has one; is the download complete?")
        self.tensors: dict[str, TensorInfo] = {}
        files, listed = _weight_files(self.folder)
        for file in files:
            for name, info in read_header(file).items():
                if name in self.tensors:
                    raise ConvertError(
                        f"{file}: tensor {name} is also in {self.tensors[name].file.name}, expected it once",
                        "the folder mixes two checkpoints; download it again into an empty folder",
                    )
                self.tensors[name] = info
        for name, shard in listed.items():
            if name not in self.tensors or self.tensors[name].file.name != shard:
                raise ConvertError(
                    f"{self.folder / shard}: tensor {name} is missing, but {INDEX_FILE} lists it there",
                    "the index and the shards do not belong together; download the checkpoint again",
                )

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def info(self, name: str, dtypes: tuple[str, ...] = (), shape: tuple[int, ...] | None = None) -> TensorInfo:
        """The entry of tensor `name`. Raises ConvertError if it is missing or not of these dtypes and this shape."""
        info = self.tensors.get(name)
        if info is None:
            raise ConvertError(
                f"{self.folder}: tensor {name} is missing",
                "config.json promises it; check that every file of the checkpoint is there",
            )
        if dtypes and info.dtype not in dtypes:
            raise ConvertError(
                f"{info.file}: tensor {name} has dtype {info.dtype}, expected {' or '.join(dtypes)}",
                "the checkpoint is not what its config.json says, or was packed by an unknown tool",
            )
        if shape is not None and info.shape != shape:
            raise ConvertError(
                f"{info.file}: tensor {name} has shape {list(info.shape)}, expected {list(shape)}",
                "the tensors and config.json (sizes, bits, group_size) do not belong together",
            )
        return info

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Tensor `name`, or only these rows (first axis). BF16 is returned as float32, every other dtype as stored."""
        info = self.info(name)
        start, stop, _ = rows.indices(info.shape[0] if info.shape else 1)
        row_shape = info.shape[1:]
        itemsize = np.dtype(DTYPES[info.dtype]).itemsize
        count = (stop - start) * math.prod(row_shape)
        offset = info.start + start * math.prod(row_shape) * itemsize
        try:
            flat = np.fromfile(info.file, DTYPES[info.dtype], count, offset=offset)
        except OSError as error:
            raise ConvertError(f"{info.file}: cannot read tensor {name}: {error.strerror}", _UNREADABLE) from error
        if flat.size != count:
            raise ConvertError(
                f"{info.file}: the file changed while tensor {name} was read", "let no one write to it, and run again"
            )
        if info.dtype == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.reshape(stop - start, *row_shape) if info.shape else flat.reshape(())

    def notes(self) -> list[str]:
        """What happens to values when they are read, for people."""
        return []

    def same_values(self, name: str, other: str) -> bool:
        """Whether two tensors have the same shape and values."""
        shape = self.info(name).shape
        if shape != self.info(other).shape:
            return False
        if len(shape) != 2:
            return np.array_equal(self.read(name), self.read(other))
        return all(np.array_equal(values, self.read(other, rows)) for rows, values in self.blocks(name))

    def blocks(self, name: str, weights: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Matrix `name` in blocks of rows (see row_blocks): which rows, and their values."""
        return ((block, self.read(name, block)) for block in row_blocks(*self.info(name).shape, weights))


def row_blocks(rows: int, columns: int, weights: int | None = None) -> Iterator[slice]:
    """The rows of a matrix in slices of at most `weights` weights, by default BLOCK_WEIGHTS, or of one row."""
    step = max(1, (weights or BLOCK_WEIGHTS) // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def nearest_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 of any shape, rounded to the nearest bfloat16, of two to the even one; what is no number stays none."""
    bits = values.view(np.uint32)
    nearest = bits + (0x7FFF + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(values), nearest.astype(np.uint32).view(np.float32), values)


def finite(where: str, values: np.ndarray) -> np.ndarray:
    """Returns `values`. Raises ConvertError, beginning with `where`, if one is infinite or not a number."""
    if not np.isfinite(values).all():
        raise ConvertError(
            f"{where} has values that are infinite or not a number, expected finite ones",
            "the checkpoint is damaged; download it again, or ask its maker",
        )
    return values


def read_json(path: Path, hint: str = "is the download complete?") -> dict[str, Any]:
    """The JSON object in `path`. Raises ConvertError if the file is missing, not JSON or not an object."""
    try:
        value = _shallow(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise ConvertError(f"{path} is missing", hint) from error
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}", _UNREADABLE) from error
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: not valid JSON ({error})", _DAMAGED) from error
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: found a JSON {type(value).__name__}, expected an object", _DAMAGED)
    return value


def _shallow(value: Any) -> Any:
    """Returns `value`. Raises ValueError for JSON that is nested more deeply than what is recursive may go."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inside = (child for each in level for child in (each.values() if isinstance(each, dict) else each))
        level = [child for child in inside if isinstance(child, (dict, list))]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} times")


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file: 8 bytes of header length, the JSON header, then the data without holes.

    Raises ConvertError for a file shorter or longer than its header says, a header that is not such JSON, an
    unknown dtype, a size that does not follow from dtype and shape, and offsets that overlap or leave a hole.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
            if length is None or length > min(size - 8, MAX_HEADER_BYTES):
                require_no_pointer(path)
                raise ConvertError(
                    f"{path}: the header says it has {length} bytes, but the file has {size}",
                    "not a safetensors file, or the download was cut off; download it again",
                )
            raw = file.read(length)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}", _UNREADABLE) from error
    entries = _parse_header(path, raw)
    tensors = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in entries.items()}
    _check_offsets(path, tensors, 8 + length, size)
    return tensors


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ConvertError(f"{path}: the header names {name} twice, expected once", "the file is damaged")
            found[name] = value
        return found

    try:
        entries = _shallow(json.loads(raw, object_pairs_hook=unique))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: the header is not valid JSON ({error})", "not a safetensors file") from error
    if not isinstance(entries, dict):
        raise ConvertError(f"{path}: the header is a JSON {type(entries).__name__}, expected an object", _DAMAGED)
    entries.pop("__metadata__", None)
    return entries


def _tensor_info(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConvertError(
            f"{path}: tensor {name} has dtype {dtype!r}, expected one of {', '.join(DTYPES)}",
            "the converter knows no such numbers",
        )
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise ConvertError(
            f"{path}: tensor {name} has shape {shape!r} and data_offsets {offsets!r}, expected lists of sizes",
            "the header is damaged",
        )
    expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if expected > MAX_SIZE:
        raise ConvertError(
            f"{path}: tensor {name} has shape {shape}, expected at most {MAX_SIZE} bytes", "the header is damaged"
        )
    if offsets[1] - offsets[0] != expected:
        raise ConvertError(
            f"{path}: tensor {name} has {offsets[1] - offsets[0]} bytes, expected {expected} for {dtype} {shape}",
            "the header is damaged",
        )
    return TensorInfo(path, dtype, tuple(shape), data_start + offsets[0], expected)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= MAX_SIZE for item in value)


def _check_offsets(path: Path, tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    end = data_start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start != end:
            kind = "overlaps the tensor before it" if info.start < end else "follows a hole"
            raise ConvertError(
                f"{path}: tensor {name} {kind}: it starts at byte {info.start}, expected {end}",
                "the header is damaged",
            )
        end = info.start + info.nbytes
        if end > size:
            raise ConvertError(
                f"{path}: tensor {name} ends at byte {end}, but the file has {size}: it is truncated",
                "the download was cut off; download the file again",
            )
    if end != size:
        raise ConvertError(f"{path}: {size - end} bytes follow the last tensor, expected none", "the file is damaged")


def read_index(path: Path) -> dict[str, str]:
    """Which file each tensor is in. Raises ConvertError if `path` is not an index of files beside it."""
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ConvertError(f"{path}: weight_map is {type(listed).__name__}, expected a non-empty object", _DAMAGED)
    for name, shard in listed.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ConvertError(
                f"{path}: tensor {name} is in {shard!r}, expected a .safetensors file name",
                "the shards have to lie beside the index; download the checkpoint again",
            )
    return listed


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files to open, and which file the index (if there is one) promises each tensor in."""
    if not (folder / INDEX_FILE).exists():
        return [_single_file(folder)], {}
    listed = read_index(folder / INDEX_FILE)
    shards = sorted(set(listed.values()))
    if (folder / WEIGHTS_FILE).exists() and WEIGHTS_FILE not in shards:
        raise ConvertError(
            f"{folder}: found {WEIGHTS_FILE}, and {INDEX_FILE} that names {shards[0]}, expected one set of weights",
            "move away the one that you do not want",
        )
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ConvertError(
            f"{folder / missing[0]} is missing: {len(missing)} of the {len(shards)} shards in {INDEX_FILE} "
            "are not in the folder",
            "finish the download, for example with `tmac fetch`",
        )
    return [folder / shard for shard in shards], listed


def _single_file(folder: Path) -> Path:
    found = [folder / WEIGHTS_FILE] if (folder / WEIGHTS_FILE).exists() else sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    other = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    what = ", ".join(path.name for path in found) if found else f"only {other[0]}" if other else "no weights"
    raise ConvertError(
        f"{folder}: found {what}, expected {WEIGHTS_FILE} or {INDEX_FILE} with its shards",
        "the converter reads safetensors; look for a revision of the checkpoint in that format",
    )
