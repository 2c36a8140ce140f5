"""Answers of llama.cpp's converter written by hand, and a stand-in for its tree that gives them.

The files are those that convert/upstream/child/main.py describes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tmac.convert.upstream.answer import Matrix, Upstream

# What the module `conversion` of a stand-in does: the child ends well, and what it was asked is there, too.
_COPY = """import os, shutil, sys
shutil.copytree({folder!r}, sys.argv[1], dirs_exist_ok=True)
shutil.copy(os.path.join(sys.argv[1], "request.json"), {folder!r})
os._exit(0)
"""


def stand_in(tree: Path, text: str) -> Upstream:
    """A tree in which llama.cpp's converter is a module of this text."""
    (tree / "conversion").mkdir(parents=True)
    (tree / "conversion" / "__init__.py").write_text(text)
    return Upstream(tree, Path(sys.executable))


class AnswerFolder:
    """An answer: `outputs` are added in their order, then save() writes the files."""

    def __init__(self, path: Path):
        self.path = path
        self.outputs: list[dict[str, Any]] = []
        self._numbers: list[np.ndarray] = []
        self._values = b""
        path.mkdir()

    def add(self, name: str, kind: str, shape: tuple[int, ...], *matrices: Matrix, **more) -> None:
        output = {"name": name, "type": kind, "shape": list(shape), **more}
        if matrices:
            output["matrices"] = [self._described(matrix) for matrix in matrices]
        self.outputs.append(output)

    def add_values(self, name: str, kind: str, values: np.ndarray) -> None:
        data = values.tobytes()
        self.add(name, kind, values.shape, data=[len(self._values), len(data)])
        self._values += data

    def save(self, architecture: str, unused: tuple[str, ...] = (), **metadata: Any) -> None:
        """`metadata`: numbers, and lists of texts, by key with __ for each dot."""
        (self.path / "values.bin").write_bytes(self._values)
        np.concatenate([np.empty(0, "<i8"), *self._numbers]).tofile(self.path / "arrays.bin")
        answer = {"architecture": architecture, "outputs": self.outputs, "unused": list(unused)}
        (self.path / "answer.json").write_text(json.dumps(answer))
        writer = gguf.GGUFWriter(self.path / "metadata.gguf", architecture)
        for key, value in metadata.items():
            add = {int: writer.add_uint32, str: writer.add_string, list: writer.add_array}[type(value)]
            add(key.replace("__", "."), value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()

    def upstream(self, tree: Path) -> Upstream:
        return stand_in(tree, _COPY.format(folder=str(self.path)))

    @property
    def request(self) -> dict[str, Any]:
        """What the child was asked."""
        return json.loads((self.path / "request.json").read_text())

    def _described(self, matrix: Matrix) -> dict[str, Any]:
        factors = None if matrix.factors is None else np.asarray(matrix.factors, "<f8").view("<i8")
        return {
            "runs": [[run.tensor, run.index, self._place(run.rows)] for run in matrix.runs],
            "columns": None if matrix.columns is None else self._place(matrix.columns),
            "transposed": matrix.transposed,
            "factors": None if factors is None else self._place(factors),
        }

    def _place(self, numbers: np.ndarray) -> list[int]:
        first = sum(map(len, self._numbers))
        self._numbers.append(np.asarray(numbers, "<i8"))
        return [first, len(numbers)]
