"""Asks llama.cpp's converter what becomes of a checkpoint, in a process with its own interpreter, and reads its answer.

In: the checkpoint, and the shapes of its quantized layers. Out: an Answer. Files between the two are in a folder that
the caller gives; child/main.py says what is in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common import process
from ...common.errors import TmacError
from ...common.paths import log_file
from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint
from ..sources.gguf_header import Header, read_gguf_header
from ..sources.small_floats import BLOCK

CHILD = Path(__file__).parent / "child" / "main.py"
LOG = "upstream"


@dataclass(frozen=True)
class Upstream:
    """Where llama.cpp's tree is, and the interpreter that has what its converter needs."""

    source: Path
    python: Path


@dataclass(frozen=True)
class Run:
    """Rows of one matrix of the checkpoint; `index` is its number in a tensor of three dimensions."""

    tensor: str
    index: int
    rows: np.ndarray

    @property
    def is_slice(self) -> bool:
        """Whether the rows are neighbours, in order."""
        return bool((np.diff(self.rows) == 1).all())


@dataclass(frozen=True)
class Matrix:
    """What one matrix of an output is made of: `runs` of rows; the others as in child/probes.py."""

    runs: tuple[Run, ...]
    columns: np.ndarray | None
    transposed: bool
    factors: np.ndarray | None = None


@dataclass(frozen=True)
class Output:
    """A tensor of the GGUF: rearranged `matrices`, or values from byte `start` on, or why there is neither."""

    name: str
    kind: str
    shape: tuple[int, ...]
    matrices: tuple[Matrix, ...] = ()
    start: int = -1
    nbytes: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Answer:
    """`header` has the metadata; `values` is the file of computed values; `unused` names tensors left out."""

    architecture: str
    outputs: list[Output]
    header: Header
    values: Path
    unused: list[str]


def ask(
    upstream: Upstream,
    checkpoint: Checkpoint,
    tensors: Mapping[str, tuple[Any, ...]],
    quantized: Mapping[str, tuple[int, int]],
    *,
    name: str,
    pre: str | None,
    keeps_settings: bool,
    folder: Path,
) -> Answer:
    """Runs the converter on `tensors` (see child/main.py). `folder` has to live as long as the answer.

    Raises ConvertError with what the converter says, if it does not convert the model.
    """
    request = {
        "source": str(upstream.source.resolve()),
        "folder": str(checkpoint.folder.resolve()),
        "tensors": tensors,
        "block": BLOCK,
        "quantized": quantized,
        "keeps_settings": keeps_settings,
        "name": name,
        "pre": pre,
    }
    (folder / "request.json").write_text(json.dumps(request), "utf-8")
    try:
        process.run([upstream.python, CHILD, folder], log=log_file(LOG))
    except TmacError as failure:
        raise _refusal(upstream, checkpoint, folder) or failure from None
    return _read(folder)


def _refusal(upstream: Upstream, checkpoint: Checkpoint, folder: Path) -> ConvertError | None:
    """What the converter says, as an error for people; None if it did not get that far."""
    error = folder / "error.json"
    if not error.is_file():
        return None
    found = json.loads(error.read_text("utf-8"))
    kind, text = found["kind"], " ".join(found["text"].split())
    if kind == "UnknownPreTokenizer":
        return ConvertError(
            f"{checkpoint.folder}: neither llama.cpp nor T-MAC knows the pre-tokenizer of tokenizer.json (its hash in "
            f"llama.cpp's table would be {text}), expected a known one",
            "llama.cpp would split texts otherwise than the model was trained; ask for this one to be added there",
        )
    if kind == "ReadsValues":
        return ConvertError(
            f"{checkpoint.folder}: llama.cpp's converter computes with the values of {text}, which is quantized, "
            "expected a layer whose rows and columns only change their places",
            "such a layer cannot stay quantized; use a checkpoint that has it in floats",
        )
    if kind == "NeedsCode":
        return ConvertError(
            f"{checkpoint.folder}: the checkpoint can only be read by code that it brings along, expected one that "
            "transformers reads by itself",
            "T-MAC never runs code of a checkpoint; look for a GGUF of this model",
        )
    if kind == "DiskFull":
        return ConvertError(
            f"{folder}: the disk is full; llama.cpp's converter writes there what it computes of {checkpoint.folder}, "
            "expected room for its tensors in 32-bit floats beside the output",
            "free some space, or write the output to another disk",
        )
    if kind == "MemoryError":
        return ConvertError(
            f"{checkpoint.folder}: there is not enough memory for llama.cpp's converter, expected room for the largest "
            "tensor that it computes, several times, in 32-bit floats",
            "close other programs, or add swap space",
        )
    if kind == "ModuleNotFoundError":
        return ConvertError(
            f"{checkpoint.folder}: llama.cpp's converter needs a Python package that {upstream.python} does not have: "
            f"{text[:500]}",
            f"{upstream.python} -m pip install PACKAGE",
        )
    return ConvertError(
        f"{checkpoint.folder}: llama.cpp's converter refuses the model: {kind}: {text[:500]}",
        "if llama.cpp converts the model in floats, please report this",
    )


def _read(folder: Path) -> Answer:
    answer = json.loads((folder / "answer.json").read_text("utf-8"))
    arrays = np.fromfile(folder / "arrays.bin", "<i8")
    outputs = [_output(fields, arrays) for fields in answer["outputs"]]
    header = read_gguf_header(folder / "metadata.gguf")
    return Answer(answer["architecture"], outputs, header, folder / "values.bin", answer["unused"])


def _output(fields: dict[str, Any], arrays: np.ndarray) -> Output:
    def array(place: list[int]) -> np.ndarray:
        first, count = place
        return arrays[first : first + count]

    matrices = tuple(
        Matrix(
            tuple(Run(tensor, index, array(rows)) for tensor, index, rows in matrix["runs"]),
            None if matrix["columns"] is None else array(matrix["columns"]),
            matrix["transposed"],
            None if matrix["factors"] is None else array(matrix["factors"]).view("<f8"),
        )
        for matrix in fields.get("matrices", ())
    )
    start, nbytes = fields.get("data", (-1, 0))
    shape = tuple(fields["shape"])
    return Output(fields["name"], fields["type"], shape, matrices, start, nbytes, fields.get("refused", ""))
