"""Fixtures of the converter's tests: the two real checkpoints, and folders that tests may damage."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import tmac.convert
from tmac.convert.errors import ConvertError

DEMO = Path(tmac.convert.__file__).parent / "demo"
SIBLING = Path(__file__).parents[1] / "data" / "stories-w4g128"
CODES = {
    "int32": "I32", "float16": "F16", "float32": "F32", "uint16": "BF16", "int64": "I64", "int16": "I16", "int8": "I8",
    "uint8": "U8",
}


class Folder:
    """A checkpoint folder to edit: change `config` and `tensors` (numpy; uint16 is written as BF16), then save()."""

    def __init__(self, path: Path):
        self.path = path
        self.config = json.loads((path / "config.json").read_text())
        self.weights = path / "model.safetensors"
        self.tensors = read_tensors(self.weights)

    def save(self) -> Path:
        (self.path / "config.json").write_text(json.dumps(self.config))
        write_tensors(self.weights, self.tensors)
        return self.path

    def shard(self) -> list[Path]:
        """Replaces the weights by two shards and their index."""
        names = list(self.tensors)
        halves = (names[: len(names) // 2], names[len(names) // 2:])
        index = {}
        for i, half in enumerate(halves, 1):
            shard = f"model-0000{i}-of-00002.safetensors"
            write_tensors(self.path / shard, {name: self.tensors[name] for name in half})
            index.update(dict.fromkeys(half, shard))
        (self.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        self.weights.unlink()
        return sorted(self.path.glob("model-*.safetensors"))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """A second, independent reading of safetensors for comparison."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    dtypes = {code: dtype for dtype, code in CODES.items()}
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:end], dtypes[entry["dtype"]]).reshape(entry["shape"]).copy()
    return tensors


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, at = {}, 0
    for name, values in tensors.items():
        end = at + values.nbytes
        header[name] = {"dtype": CODES[values.dtype.name], "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in tensors.values()))


@pytest.fixture
def demo() -> Path:
    return DEMO


@pytest.fixture
def sibling() -> Path:
    return SIBLING


@pytest.fixture(params=[DEMO, SIBLING], ids=["w2g64-v2-asymmetric", "w4g128-v1-symmetric"])
def each_checkpoint(request) -> Path:
    return request.param


@pytest.fixture
def folder(tmp_path) -> Folder:
    """An editable copy of the demo checkpoint."""
    return Folder(Path(shutil.copytree(DEMO, tmp_path / "checkpoint")))


@pytest.fixture
def sibling_folder(tmp_path) -> Folder:
    """An editable copy of the 4-bit checkpoint."""
    return Folder(Path(shutil.copytree(SIBLING, tmp_path / "sibling")))


@pytest.fixture
def refused():
    """refused(function, *words): the call raises ConvertError, and message and hint hold all the words."""

    def check(function, *words: str) -> ConvertError:
        with pytest.raises(ConvertError) as caught:
            function()
        for word in words:
            assert word in str(caught.value), f"{word!r} not in {str(caught.value)!r}"
        return caught.value

    return check


@pytest.fixture
def quietly():
    """convert() with no log and no bar."""
    from tmac.convert.pipeline import convert

    def run(source, output, **options):
        return convert(source, output, log=lambda line: None, progress=False, **options)

    return run
