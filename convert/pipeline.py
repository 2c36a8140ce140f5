"""A quantized checkpoint -> a T-MAC GGUF: fetch -> read -> repack -> write. Another GGUF: read -> plan -> write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf

from ..common.format import ACTIVATIONS_KEY
from ..common.progress import byte_bar
from .architectures import Architecture, architecture_for
from .checkpoint import Checkpoint
from .errors import ConvertError
from .fetch import local_folder, print_to_stderr
from .fresh import Fresh
from .gguf_in.plan import packed_metadata, require_converted
from .gguf_in.plan import plan as plan_gguf
from .gguf_in.source import GgufSource, is_gguf
from .imatrix import Imatrix
from .readers import Reader, reader_for
from .readers.fresh import FreshReader
from .repack import TMAC_HEAD, TMAC_HEAD_TYPE, Plan, check_types, plan
from .report import Report, total_by_type
from .tokenizer import read_vocabulary
from .writer import OutputTensor, Written, check_target, write_gguf

Log = Callable[[str], None]


@dataclass
class Model:
    """A checkpoint and those who understand its parts."""

    checkpoint: Checkpoint
    reader: Reader
    architecture: Architecture


def convert(
    source: Path | str,
    output: Path | str,
    *,
    embedding: str = "q8_0",
    head: str = "q8_0",
    quantize: str | None = None,
    imatrix: Path | str | None = None,
    force: bool = False,
    split_max_size: int = 0,
    log: Log = print_to_stderr,
    progress: bool = True,
) -> Report:
    """Converts `source`, a checkpoint folder, a hub repository `org/name[@revision]` or a .gguf file, to `output`.

    `embedding` is one of EMBEDDING_TYPES of repack.py; `head` one of HEAD_TYPES, of which tmac_w4 is a fresh 4-bit
    quantization. `quantize`, one of FRESH_TYPES of fresh.py, quantizes what has no low-bit type yet, by the importance
    matrix in file `imatrix` if given. `split_max_size` is that of write_gguf. `log` is given one line per stage;
    `progress` shows a bar on stderr if that is a terminal. Raises ConvertError, and leaves no file behind, when the
    input cannot be kept exactly or the output cannot be written.
    """
    output = Path(output)
    check_types(embedding, head)
    check_target(output, force)
    fresh, fresh_head = _fresh(quantize, head, imatrix)
    write = _Write(output, force, split_max_size, progress)
    if is_gguf(source):
        _check_gguf_types(embedding, head)
        return _convert_gguf(Path(source), write, fresh, fresh_head, log)
    return _convert_checkpoint(local_folder(source, log), write, fresh, embedding, head, log)


def read(folder: Path, fresh: Fresh | None = None) -> Model:
    """Opens the checkpoint in `folder` and finds its reader and architecture; with `fresh`, floats are quantized.

    Raises ConvertError.
    """
    checkpoint = Checkpoint(folder)
    if fresh is None:
        return Model(checkpoint, reader_for(checkpoint), architecture_for(checkpoint))
    architecture = architecture_for(checkpoint)
    reader = reader_for(checkpoint, lambda: FreshReader(checkpoint, architecture.parts(), fresh))
    return Model(checkpoint, reader, architecture)


def _convert_checkpoint(
    folder: Path, write: _Write, fresh: Fresh | None, embedding: str, head: str, log: Log
) -> Report:
    log(f"reading {folder}")
    model = read(folder, fresh)
    repacked = plan(model.checkpoint, model.reader, model.architecture, embedding=embedding, head=head)
    vocabulary = read_vocabulary(folder, model.checkpoint.config, model.architecture.vocab_size)

    def add_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_string(gguf.Keys.General.NAME, vocabulary.name_for(_name(model.checkpoint.config)))
        if model.reader.activations is not None:
            writer.add_string(ACTIVATIONS_KEY, model.reader.activations)
        model.architecture.add_metadata(writer)
        vocabulary.add_metadata(writer)

    log(f"writing {write.output}")
    origin = source_of(model.reader, repacked)
    written = write(model.architecture.name, repacked.tensors, origin, add_metadata)
    notes = [*repacked.notes, *vocabulary.notes, *(fresh.notes() if fresh else ())]
    return _report(written, origin, repacked.tensors, notes)


def _convert_gguf(source: Path, write: _Write, fresh: Fresh | None, fresh_head: Fresh | None, log: Log) -> Report:
    log(f"reading {source}")
    model = GgufSource(source)
    if any(write.output.exists() and write.output.samefile(file) for file in model.files):
        raise ConvertError(f"{write.output} is the source, expected another file", "choose another name with -o")
    planned = plan_gguf(model, fresh, fresh_head)
    require_converted(model, planned)
    log(f"writing {write.output}")
    written = write(model.architecture, planned.tensors, planned.source, packed=packed_metadata(model))
    late = [note for kind in (fresh, fresh_head) if kind for note in kind.notes()]
    return _report(written, planned.source, planned.tensors, [*planned.notes, *late])


def _fresh(quantize: str | None, head: str, imatrix: Path | str | None) -> tuple[Fresh | None, Fresh | None]:
    """What quantizes linear layers, and what quantizes the head of a GGUF."""
    if imatrix is not None and quantize is None:
        raise ConvertError(
            f"the importance matrix {imatrix} is given, but nothing is to be quantized", "give --quantize too"
        )
    matrix = None if imatrix is None else Imatrix(Path(imatrix))
    fresh = None if quantize is None else Fresh(quantize, matrix)
    return fresh, Fresh(TMAC_HEAD_TYPE, matrix) if head == TMAC_HEAD else None


def _check_gguf_types(embedding: str, head: str) -> None:
    """Raises ConvertError for a type other than the default that would have no effect."""
    for option, value, known in (("embedding", embedding, ("q8_0",)), ("head", head, ("q8_0", TMAC_HEAD))):
        if value not in known:
            raise ConvertError(
                f"{option} type {value!r}: a GGUF keeps the types of its embedding and its head, expected none",
                f"leave it out; --head {TMAC_HEAD} quantizes the head freshly",
            )


def _report(written: Written, origin: str, tensors: list[OutputTensor], notes: list[str]) -> Report:
    totals = total_by_type((tensor.type_name, prod(tensor.shape), tensor.nbytes) for tensor in tensors)
    return Report(written.files, origin, totals, written.nbytes, notes)


def source_of(reader: Reader, repacked: Plan) -> str:
    """What the codes came from, for example `gptq w2g64 asymmetric`."""
    return f"{reader.method} {', '.join(sorted(repacked.grids))}".strip()


@dataclass
class _Write:
    """Writes with a bar, to the place and in the way that the user chose."""

    output: Path
    force: bool
    split_max_size: int
    progress: bool

    def __call__(
        self,
        architecture: str,
        tensors: list[OutputTensor],
        origin: str,
        add_metadata: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
        packed: Sequence[bytes] = (),
    ) -> Written:
        total = sum(tensor.nbytes for tensor in tensors)
        with byte_bar(total, shown=self.progress) as bar:
            return write_gguf(
                self.output,
                architecture,
                add_metadata,
                tensors,
                source=origin,
                force=self.force,
                wrote=bar.update,
                split_max_size=self.split_max_size,
                packed=packed,
            )


def _name(config: dict[str, Any]) -> str:
    """The model's name as its makers wrote it into config.json, without their folders; empty if they did not.

    The name of the local folder would make the file depend on the machine.
    """
    found = config.get("_name_or_path")
    name = found.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(found, str) else ""
    return name.encode(errors="replace").decode()
