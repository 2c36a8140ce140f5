"""The GGUF container: metadata and lazy tensors in, one complete file out, or none.

The file is written beside its target and renamed when it is complete. Tensors are loaded one at a time. The bytes
depend on the metadata and the tensors only. Container format: the gguf package.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from ..common.format import ALIGNMENT, FILE_TYPE, LAYOUT_VERSION, LAYOUT_VERSION_KEY, SOURCE_KEY
from .errors import ConvertError

QUANTIZATION_VERSION = 2
# Where a GGUF file says how many metadata values it has.
_VALUE_COUNT_AT = 16
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the GGUF, not loaded yet.

    `shape` counts weights, outermost first; `type_id` is the ggml_type; `load` returns its `nbytes` bytes as a
    contiguous array of any dtype.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    type_name: str
    nbytes: int
    load: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Written:
    """The files of one model, in order (one, or its shards), and their bytes together."""

    files: tuple[Path, ...]
    nbytes: int


class _Writer(gguf.GGUFWriter):
    """Says in every shard what a reader needs to know before it looks at that shard's tensors.

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
) -> Written:
    """Writes `output`, or its shards; `wrote` is told the bytes of each tensor as it is done.

    `packed` are metadata records of another GGUF file, written after all others as they are.
    `source` says what the codes came from and is stored as tmac.source. Without `file_type` llama.cpp tells it by
    the tensors. With `split_max_size` the tensors are spread over files of at most so many bytes of tensors (a larger
    tensor has a file of its own), named as llama.cpp expects: `output` is then the stem of their names. Raises
    ConvertError if a file exists (unless `force`) or cannot be written; whatever goes wrong, no part of one is left.
    """
    check_target(output, force)
    _check_space(output, sum(tensor.nbytes for tensor in tensors))
    with _folder_beside(output, force) as folder:
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
            _write(writer, tensors, wrote)
        except BaseException:
            _abandon(writer)
            raise
        writer.close()
        nbytes = sum((folder / name).stat().st_size for name in names)
    return Written(tuple(output.with_name(name) for name in names), nbytes)


def check_target(output: Path, force: bool) -> None:
    """Raises ConvertError if `output` exists and must be kept or is no file, or its folder does not exist."""
    if output.exists() and not output.is_file():
        raise ConvertError(f"{output} exists and is not a file", "give the name of a file")
    if output.exists() and not force:
        raise _exists(output)
    if not output.parent.is_dir():
        raise ConvertError(
            f"{output.parent} is not a folder, so {output.name} cannot be written there",
            "make the folder, or choose another place with -o",
        )


def _exists(output: Path) -> ConvertError:
    return ConvertError(f"{output} exists", "choose another name, or overwrite a file with --force")


def _write(writer: gguf.GGUFWriter, tensors: Sequence[OutputTensor], wrote: Callable[[int], None]) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.load())
        wrote(tensor.nbytes)


def _abandon(writer: gguf.GGUFWriter) -> None:
    """Closes the file of a failed run; what cannot be flushed is thrown away with it."""
    try:
        writer.close()
    except OSError:
        pass


@contextmanager
def replacing(output: Path, force: bool) -> Iterator[Path]:
    """A name to write to, which becomes `output` if all goes well, and is removed if anything does not.

    Raises ConvertError if meanwhile someone else has made an `output` that must be kept.
    """
    with _folder_beside(output, force) as folder:
        yield folder / output.name


@contextmanager
def _folder_beside(output: Path, force: bool) -> Iterator[Path]:
    """A folder beside `output` whose files move to the place of `output` if all goes well, all of them or none."""
    folder = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        folder.mkdir()
        yield folder
        files = sorted(folder.iterdir())
        for file in files:
            with file.open("rb") as written:
                os.fsync(written.fileno())
        _publish_all(files, output, force)
    except OSError as error:
        # numpy reports a short write without an error number.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
        raise ConvertError(
            f"{output}: cannot be written: {error.strerror or error}",
            "the disk is full: free some space or choose another one" if full else "choose another place with -o",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish_all(files: list[Path], output: Path, force: bool) -> None:
    """The first shard, by which a model is opened, comes last: it is there only when all are."""
    done: list[Path] = []
    try:
        for file in reversed(files):
            target = output.with_name(file.name)
            _publish(file, target, force)
            done.append(target)
    except BaseException:
        for target in done:
            target.unlink(missing_ok=True)
        raise


def _publish(temporary: Path, output: Path, force: bool) -> None:
    """Gives the file its name. Without `force`, a link fails if there is one of that name, which a rename would not."""
    check_target(output, force)
    if not force:
        try:
            os.link(temporary, output)
            return
        except FileExistsError as error:
            raise _exists(output) from error
        # Not every file system has links; the check above is then all that there is.
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    os.replace(temporary, output)


def _check_space(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise ConvertError(
            f"{output}: needs {needed / 1e6:.0f} MB, but the disk has {free / 1e6:.0f} MB free",
            "free some space or choose another disk with -o",
        )
