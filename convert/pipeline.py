"""A quantized checkpoint -> a T-MAC GGUF: fetch -> read -> plan -> write. Another GGUF: read -> plan -> write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf

from ..common import console, files
from ..common.format import ACTIVATIONS_KEY
from ..common.progress import byte_bar
from .architectures import architecture_for
from .errors import ConvertError
from .fetch import Log, local_source
from .inputs import files_read
from .plan.from_checkpoint import CheckpointModel
from .plan.from_gguf import GgufModel, packed_metadata, require_converted
from .plan.options import DEFAULT_TYPE, Options
from .plan.planner import Plan, plan
from .readers import reader_for
from .readers.floats import FloatsReader
from .readers.native import native_reader
from .repacking import Repack
from .report import Report, total_by_type
from .sources.checkpoint import Checkpoint
from .sources.gguf_model import GgufSource, is_gguf
from .sources.small_floats import widened
from .tokenizer import read_vocabulary
from .upstream.answer import Upstream
from .upstream.models import goes_upstream, require_known
from .upstream.prepare import upstream_model
from .write.atomic import check_target
from .write.container import Written, write_gguf


def convert(
    source: Path | str,
    output: Path | str,
    *,
    embedding: str | None = None,
    head: str = DEFAULT_TYPE,
    quantize: str | None = None,
    imatrix: Path | str | None = None,
    force: bool = False,
    split_max_size: int = 0,
    repack: Repack | None = None,
    find_upstream: Callable[[], Upstream] | None = None,
    prefer_upstream: bool = False,
    log: Log = console.log,
    progress: bool = True,
) -> Report:
    """Converts `source` to `output`: a checkpoint folder, a hub repository `org/name[:TYPE][@revision]`, a .gguf file.

    `embedding`, `head` and `quantize` are types of plan/options.py (EMBEDDING_TYPES, HEAD_TYPES, QUANTIZE_TYPES);
    without `embedding`, that of a checkpoint is DEFAULT_TYPE, and that of a GGUF stays as it is.
    `quantize` is for linear layers that have no low-bit type yet; without it they stay as they are. It and a head of
    tmac_w4 weigh inputs by the importance matrix in file `imatrix`, if given. `split_max_size` is that of write_gguf.
    `repack`: the compiled repackers, which give the bytes that numpy gives, sooner.
    `find_upstream` says where llama.cpp's own converter is, for families that only it has (and, with `prefer_upstream`,
    for all that it has); without it there are none of these.
    `log` is given one line per stage; `progress` shows a bar on stderr if that is a terminal. Raises ConvertError, and
    leaves no file behind, when the input cannot be kept exactly or the output cannot be written.
    """
    output = Path(output)
    options = Options.of(embedding, head, quantize, imatrix)
    check_target(output, force)
    write = _Write(output, force, split_max_size, progress, [Path(imatrix)] if imatrix else [])
    source = Path(source) if is_gguf(source) else local_source(source, log)
    if is_gguf(source):
        options.check_for_gguf()
        if prefer_upstream:
            raise ConvertError(f"{source} is a GGUF, expected a checkpoint for --upstream", "leave out --upstream")
        return _convert_gguf(source, write, options, repack, log)
    log(f"reading {source}")
    checkpoint = open_checkpoint(source)
    if prefer_upstream:
        require_known(checkpoint)
    if find_upstream and goes_upstream(checkpoint, prefer_upstream):
        return _convert_upstream(checkpoint, write, options, find_upstream(), log)
    return _convert_checkpoint(checkpoint, write, options, log)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Raises ConvertError as Checkpoint does. What llama.cpp's own converter reads by itself stays as it is."""
    checkpoint = Checkpoint(folder)
    return checkpoint if native_reader(checkpoint) else widened(checkpoint)


def read(checkpoint: Checkpoint, *, quantizes: bool = False) -> CheckpointModel:
    """Finds the reader and the architecture of a checkpoint. With `quantizes` it may be in floats.

    Raises ConvertError.
    """
    reader = reader_for(checkpoint, FloatsReader if quantizes else None)
    return CheckpointModel(checkpoint, reader, architecture_for(checkpoint))


def _convert_checkpoint(checkpoint: Checkpoint, write: _Write, options: Options, log: Log) -> Report:
    model = read(checkpoint, quantizes=options.quantizer is not None)
    # BitNet's masters are floats too, but are rounded as the model rounds them: what it left out stays as it is.
    planned = plan(model, options if isinstance(model.reader, FloatsReader) else options.without_quantizer())
    vocabulary = read_vocabulary(checkpoint.folder, checkpoint.config, model.architecture.vocab_size)

    def add_metadata(writer: gguf.GGUFWriter) -> None:
        model.architecture.add_metadata(writer)
        vocabulary.add_metadata(writer)

    name = vocabulary.name_for(_name(checkpoint.config))
    report = _write_model(model, planned, write, name, log, add_metadata)
    report.notes += [*vocabulary.notes, *options.notes()]
    return report


def _convert_upstream(checkpoint: Checkpoint, write: _Write, options: Options, upstream: Upstream, log: Log) -> Report:
    native = native_reader(checkpoint)
    if native and options.quantizer:
        raise ConvertError(
            f"{checkpoint.config_file}: the checkpoint is quantized with {native.method}, expected one in floats for "
            "--quantize",
            "it is quantized already: leave out --quantize",
        )
    reader = native or reader_for(checkpoint, FloatsReader if options.quantizer else None)
    name = _name(checkpoint.config)
    log("asking llama.cpp's own converter what becomes of each tensor")
    # Beside the output, which is where there is room for what the converter computes.
    with files.folder_beside(write.output) as at:
        model = upstream_model(checkpoint, reader, upstream, at, name=name, keeps_settings=native is not None)
        planned = plan(model, options if type(reader) is FloatsReader else options.without_quantizer())
        report = _write_model(model, planned, write, name, log, packed=model.architecture.packed_metadata())
    report.notes += [*model.reader.notes_of_factors(), *options.notes()]
    return report


def _write_model(
    model: CheckpointModel,
    planned: Plan,
    write: _Write,
    name: str,
    log: Log,
    add_more: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    packed: Sequence[bytes] = (),
) -> Report:
    """Writes what was planned of a checkpoint, with a name, unless it is empty, and the metadata that is given."""

    def add_metadata(writer: gguf.GGUFWriter) -> None:
        # The gguf package writes no empty text.
        writer.add_string(gguf.Keys.General.NAME, name)
        if model.reader.activations is not None:
            writer.add_string(ACTIVATIONS_KEY, model.reader.activations)
        add_more(writer)

    log(f"writing {write.output}")
    sources = files_read(model.checkpoint.folder)
    written = write(model.architecture.name, planned, sources, add_metadata, packed)
    return _report(written, planned, list(planned.notes))


def _convert_gguf(file: Path, write: _Write, options: Options, repack: Repack | None, log: Log) -> Report:
    log(f"reading {file}")
    source = GgufSource(file)
    planned = plan(GgufModel(source, repack), options)
    require_converted(source, planned, options.quantizer is not None)
    log(f"writing {write.output}")
    written = write(source.architecture, planned, source.files, packed=packed_metadata(source))
    return _report(written, planned, [*planned.notes, *options.notes()])


def _report(written: Written, planned: Plan, notes: list[str]) -> Report:
    totals = total_by_type((tensor.type_name, prod(tensor.shape), tensor.nbytes) for tensor in planned.tensors)
    return Report(written.files, planned.source, totals, written.nbytes, notes)


@dataclass
class _Write:
    """Writes with a bar, to the place and in the way that the user chose. `reads`: files beside the source."""

    output: Path
    force: bool
    split_max_size: int
    progress: bool
    reads: list[Path]

    def __call__(
        self,
        architecture: str,
        planned: Plan,
        sources: Iterable[Path],
        add_metadata: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
        packed: Sequence[bytes] = (),
    ) -> Written:
        total = sum(tensor.nbytes for tensor in planned.tensors)
        with byte_bar(total, "converting", self.progress) as bar:
            return write_gguf(
                self.output,
                architecture,
                add_metadata,
                planned.tensors,
                source=planned.source,
                force=self.force,
                wrote=bar.update,
                split_max_size=self.split_max_size,
                packed=packed,
                reads=[*sources, *self.reads],
            )


def _name(config: dict[str, Any]) -> str:
    """The model's name as its makers wrote it into config.json, without their folders; empty if they did not.

    The name of the local folder would make the file depend on the machine.
    """
    found = config.get("_name_or_path")
    name = found.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(found, str) else ""
    return name.encode(errors="replace").decode()
