"""The GGUF container: metadata and tensors that are not loaded in, one complete file (or its shards) out, or none.

Tensors are loaded and written one at a time. The bytes depend on the metadata and the tensors only, not on the machine
or the time. The container format is the gguf package's; what is added here is metadata that is copied as bytes.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from ...common.format import ALIGNMENT, FILE_TYPE, LAYOUT_VERSION, LAYOUT_VERSION_KEY, SOURCE_KEY
from ..errors import ConvertError
from .atomic import check_not_read, check_target, folder_beside
from .tensors import OutputTensor

QUANTIZATION_VERSION = 2
# Where a GGUF file says how many metadata values it has.
_VALUE_COUNT_AT = 16


@dataclass(frozen=True)
class Written:
    """The files of one model, in order (one, or its shards), and their bytes together."""

    files: tuple[Path, ...]
    nbytes: int


class _Writer(gguf.GGUFWriter):
    """Writes alignment and layout version into every shard, as a reader needs them before that shard's tensors.

    `packed` is metadata as bytes, one record of key, type and value each; in the first shard it follows the rest.
    """

    packed: Sequence[bytes] = ()

    def write_kv_data_to_file(self) -> None:
        super().write_kv_data_to_file()
        file = self.fout[0]
        file.write(b"".join(self.packed))
        file.seek(_VALUE_COUNT_AT)
        file.write(struct.pack("<Q", len(self.kv_data[0]) + len(self.packed)))
        file.seek(0, os.SEEK_END)

    def add_shard_kv_data(self) -> None:
        super().add_shard_kv_data()
        for shard in self.kv_data[1:]:
            for key in (gguf.Keys.General.ALIGNMENT, LAYOUT_VERSION_KEY):
                shard[key] = self.kv_data[0][key]


def write_gguf(
    output: Path,
    architecture: str,
    add_metadata: Callable[[gguf.GGUFWriter], None],
    tensors: Sequence[OutputTensor],
    *,
    source: str,
    force: bool = False,
    wrote: Callable[[int], None] = lambda nbytes: None,
    file_type: int | None = FILE_TYPE,
    split_max_size: int = 0,
    packed: Sequence[bytes] = (),
    reads: Iterable[Path] = (),
) -> Written:
    """Writes `output`, or its shards, and returns what it wrote.

    source          what the weights came from; stored as tmac.source
    wrote           called after each tensor with its bytes
    file_type       general.file_type; None: llama.cpp guesses it from the tensors
    split_max_size  if given, the most bytes of tensors in a file (a larger tensor gets a file of its own); `output` is
                    then the stem of the names, which are those that llama.cpp expects
    packed          metadata records of another GGUF file, written after all others as they are
    reads           the files that the conversion reads, none of which may be overwritten

    Raises ConvertError if a file exists (unless `force`) or cannot be written; then no part of a file is left.
    """
    check_target(output, force)
    _check_space(output, sum(tensor.nbytes for tensor in tensors))
    with folder_beside(output, force) as folder:
        writer = _Writer(folder / output.name, architecture, split_max_size=split_max_size)
        try:
            writer.add_custom_alignment(ALIGNMENT)
            if file_type is not None:
                writer.add_file_type(file_type)
            writer.add_quantization_version(QUANTIZATION_VERSION)
            writer.add_uint32(LAYOUT_VERSION_KEY, LAYOUT_VERSION)
            writer.add_string(SOURCE_KEY, source)
            add_metadata(writer)
            writer.packed = packed
            for tensor in tensors:
                # The type's number is stored as given. Only for uint8 the writer reshapes: it is told another dtype.
                writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.int8), tensor.nbytes, tensor.type_id)
            names = [path.name for path in writer.format_shard_names(output)]
            for name in names:
                check_target(output.with_name(name), force)
                check_not_read(output.with_name(name), reads)
            _write(writer, tensors, wrote)
        except BaseException:
            _abandon(writer)
            raise
        writer.close()
        nbytes = sum((folder / name).stat().st_size for name in names)
    return Written(tuple(output.with_name(name) for name in names), nbytes)


def _write(writer: gguf.GGUFWriter, tensors: Sequence[OutputTensor], wrote: Callable[[int], None]) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.load())
        wrote(tensor.nbytes)


def _abandon(writer: gguf.GGUFWriter) -> None:
    """Closes the file of a failed run; what cannot be flushed is to be deleted anyway."""
    with suppress(OSError):
        writer.close()


def _check_space(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise ConvertError(
            f"{output}: needs {needed / 1e6:.0f} MB, but the disk has {free / 1e6:.0f} MB free",
            "free some space or choose another disk with -o",
        )
