"""A quantized checkpoint -> a T-MAC GGUF: fetch -> read -> repack -> write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
from tqdm import tqdm

from .architectures import Architecture, architecture_for
from .checkpoint import Checkpoint
from .fetch import local_folder, print_to_stderr
from .readers import Reader, reader_for
from .repack import Plan, check_types, plan
from .report import Report, total_by_type
from .tokenizer import read_vocabulary
from .vocabulary import Vocabulary
from .writer import ACTIVATIONS_KEY, Written, check_target, write_gguf


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
    force: bool = False,
    split_max_size: int = 0,
    log: Callable[[str], None] = print_to_stderr,
    progress: bool = True,
) -> Report:
    """Converts the checkpoint in folder `source` (or the hub repository `org/name[@revision]`) to the file `output`.

    `embedding` is one of EMBEDDING_TYPES of repack.py; `head` one of HEAD_TYPES, of which tmac_w4 is a fresh 4-bit
    quantization. `split_max_size` is that of write_gguf. `log` is given one line per stage; `progress` shows a bar on
    stderr if that is a terminal. Raises ConvertError, and leaves no file behind, when the input cannot be kept exactly or the output cannot be written.
    """
    output = Path(output)
    check_types(embedding, head)
    check_target(output, force)
    folder = local_folder(source, log)
    log(f"reading {folder}")
    model = read(folder)
    repacked = plan(model.checkpoint, model.reader, model.architecture, embedding=embedding, head=head)
    vocabulary = read_vocabulary(folder, model.checkpoint.config, model.architecture.vocab_size)
    log(f"writing {output}")
    written = _write(output, model, repacked, vocabulary, force, progress, split_max_size)
    totals = total_by_type((tensor.type_name, prod(tensor.shape), tensor.nbytes) for tensor in repacked.tensors)
    return Report(written.files, source_of(model.reader, repacked), totals, written.nbytes, [*repacked.notes, *vocabulary.notes])


def read(folder: Path) -> Model:
    """Opens the checkpoint in `folder` and finds its reader and architecture. Raises ConvertError."""
    checkpoint = Checkpoint(folder)
    return Model(checkpoint, reader_for(checkpoint), architecture_for(checkpoint))


def source_of(reader: Reader, repacked: Plan) -> str:
    """What the codes came from, for example `gptq w2g64 asymmetric`."""
    return f"{reader.method} {', '.join(sorted(repacked.grids))}".strip()


def _write(
    output: Path, model: Model, repacked: Plan, vocabulary: Vocabulary, force: bool, progress: bool, split_max_size: int
) -> Written:
    def add_metadata(writer: gguf.GGUFWriter) -> None:
        writer.add_string(gguf.Keys.General.NAME, vocabulary.name_for(_name(model.checkpoint.config)))
        if model.reader.activations is not None:
            writer.add_string(ACTIVATIONS_KEY, model.reader.activations)
        model.architecture.add_metadata(writer)
        vocabulary.add_metadata(writer)

    total = sum(tensor.nbytes for tensor in repacked.tensors)
    # tqdm's None: shown only if stderr is a terminal.
    with tqdm(total=total, unit="B", unit_scale=True, leave=False, disable=None if progress else True) as bar:
        return write_gguf(
            output,
            model.architecture.name,
            add_metadata,
            repacked.tensors,
            source=source_of(model.reader, repacked),
            force=force,
            wrote=bar.update,
            split_max_size=split_max_size,
        )


def _name(config: dict[str, Any]) -> str:
    """The model's name as its makers wrote it into config.json, without their folders; empty if they did not.

    The name of the local folder would make the file depend on the machine.
    """
    found = config.get("_name_or_path")
    name = found.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(found, str) else ""
    return name.encode(errors="replace").decode()
