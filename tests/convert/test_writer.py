"""The GGUF container: the gguf package reads it, and a failure leaves nothing behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from tmac.common.format import ZEROS, type_of
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write.container import write_gguf
from tmac.convert.write.tensors import OutputTensor

KIND = type_of(2, 64, ZEROS)


def tensors(load=None):
    codes = np.arange(KIND.nbytes(32, 64), dtype=np.uint32).astype(np.uint8)
    stock = np.arange(10, dtype=np.float32)
    return [
        OutputTensor("a.weight", (32, 64), KIND.id, KIND.ggml_name, codes.nbytes, load or (lambda: codes)),
        OutputTensor("b.weight", (10,), 0, "f32", stock.nbytes, lambda: stock),
    ]


def write(path, load=None, **options):
    def metadata(writer):
        writer.add_string("general.name", "x")

    return write_gguf(path, "llama", metadata, tensors(load), source="test", **options)


def test_tensor_entries(tmp_path):
    """Type number, shape (innermost first in the file), offset and bytes of both tensors, from our own reader."""
    path = tmp_path / "x.gguf"
    written = write(path)
    first, second = read_gguf_header(path).tensors
    assert (first.type_id, first.shape, first.nbytes, first.offset % 64) == (0x223, (32, 64), 32 * 19, 0)
    assert (second.type_id, second.shape, second.nbytes, second.offset % 64) == (0, (10,), 40, 0)
    data = path.read_bytes()
    assert written.nbytes == len(data) and written.files == (path,)
    assert data[first.offset : first.offset + 4] == bytes([0, 1, 2, 3])
    assert np.frombuffer(data, "<f4", 10, second.offset).tolist() == list(range(10))


def test_gguf_package_reads_the_container(tmp_path, monkeypatch):
    """Upstream's reader, told about our type and its block size, finds the same entries."""
    path = tmp_path / "x.gguf"
    write(path)
    data = bytearray(path.read_bytes())
    at = data.index(KIND.id.to_bytes(4, "little"), data.index(b"a.weight"))
    data[at : at + 4] = int(gguf.GGMLQuantizationType.I8).to_bytes(4, "little")
    stock = tmp_path / "stock.gguf"
    stock.write_bytes(data + bytes(32 * 64))
    reader = gguf.GGUFReader(stock)
    assert [(t.name, t.shape.tolist()) for t in reader.tensors] == [("a.weight", [64, 32]), ("b.weight", [10])]
    ours = read_gguf_header(path)
    assert [t.data_offset for t in reader.tensors] == [t.offset for t in ours.tensors]
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert fields == ours.metadata


def test_existing_output_is_kept(tmp_path, refused):
    path = tmp_path / "x.gguf"
    path.write_text("precious")
    refused(lambda: write(path), "x.gguf exists", "--force")
    assert path.read_text() == "precious"
    write(path, force=True)
    assert path.read_bytes()[:4] == b"GGUF"
    refused(lambda: write(tmp_path, force=True), "exists and is not a file")
    refused(lambda: write(Path("/dev/null"), force=True), "/dev/null exists and is not a file")
    refused(lambda: write(tmp_path / "none" / "x.gguf"), "none is not a folder")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_file_that_appears_meanwhile_is_kept(tmp_path, refused, monkeypatch, links):
    """Someone else writes the same name while we write: their file stays, unless --force was given."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "x.gguf"

    def load():
        path.write_text("theirs")
        return np.zeros(KIND.nbytes(32, 64), np.uint8)

    refused(lambda: write(path, load), "x.gguf exists", "--force")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["theirs"]
    path.unlink()
    write(path, load, force=True)
    path.rename(tmp_path / "y.gguf")
    write(path)
    assert {file.name: file.read_bytes()[:4] for file in tmp_path.iterdir()} == {"x.gguf": b"GGUF", "y.gguf": b"GGUF"}


def test_file_that_appears_in_the_last_moment_is_kept(tmp_path, refused, monkeypatch):
    """Even after the last check: creating a link fails, where a rename would overwrite."""
    path = tmp_path / "x.gguf"
    link = os.link
    monkeypatch.setattr(os, "link", lambda *names: (path.write_text("theirs"), link(*names)))
    refused(lambda: write(path), "x.gguf exists", "--force")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["theirs"]


def test_a_link_that_fails_otherwise(tmp_path, refused, monkeypatch):
    """It is no reason to overwrite what may be there."""

    def fail(*names):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", fail)
    refused(lambda: write(tmp_path / "x.gguf"), "x.gguf: cannot be written: Input/output error")
    assert list(tmp_path.iterdir()) == []


def no_links(*names):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_failure_leaves_nothing(tmp_path, failure):
    """An exception while a tensor is made is passed on, and neither the file nor a temporary one remains."""

    def load():
        raise failure

    with pytest.raises(failure):
        write(tmp_path / "x.gguf", load)
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_old_file(tmp_path):
    (tmp_path / "x.gguf").write_text("old")

    def load():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.gguf", load, force=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_full_disk(tmp_path, refused):
    """ENOSPC while writing becomes an error with a hint, and nothing is left."""

    def load():
        raise OSError(errno.ENOSPC, "No space left on device")

    refused(lambda: write(tmp_path / "x.gguf", load), "x.gguf", "No space left on device", "disk is full")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_seen_before_writing(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    refused(lambda: write(tmp_path / "x.gguf"), "needs 0 MB, but the disk has 0 MB free")
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit_in_a_real_process(tmp_path, demo):
    """The kernel stops a conversion at 300 kB: error and hint on stderr, no traceback, nothing left."""
    script = f"""
import resource, sys
from tmac.convert.pipeline import convert
from tmac.common.format import ZEROS, type_of
from tmac.common.format import ZEROS, type_of
from tmac.convert.errors import ConvertError
from tmac.common.format import ZEROS, type_of
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    convert({str(demo)!r}, {str(tmp_path / "x.gguf")!r}, progress=False)
except ConvertError as error:
    sys.exit("error: " + str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " in done.stderr and "cannot be written" in done.stderr and "hint: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def shards(folder):
    return [folder / f"x-0000{i}-of-00002.gguf" for i in (1, 2)]


def test_shards(tmp_path):
    """Each file has alignment and layout version; all other metadata are in the first."""
    written = write(tmp_path / "x.gguf", split_max_size=620)
    assert list(written.files) == shards(tmp_path) == sorted(tmp_path.iterdir())
    first, second = map(read_gguf_header, written.files)
    assert [tensor.name for tensor in first.tensors] == ["a.weight"]
    assert [tensor.name for tensor in second.tensors] == ["b.weight"]
    split = {"split.no": 1, "split.count": 2, "split.tensors.count": 2}
    assert second.metadata == {"general.alignment": 64, "tmac.layout_version": 1, **split}
    assert {**split, "split.no": 0, "general.name": "x", "tmac.source": "test"}.items() <= first.metadata.items()
    assert np.fromfile(written.files[1], "<f4", 10, offset=second.tensors[0].offset).tolist() == list(range(10))
    assert written.nbytes == sum(file.stat().st_size for file in written.files)
    assert write(tmp_path / "y.gguf", split_max_size=10**6).files == (tmp_path / "y.gguf",)


def test_existing_shard_is_kept(tmp_path, refused):
    shards(tmp_path)[1].write_text("precious")
    refused(lambda: write(tmp_path / "x.gguf", split_max_size=620), "x-00002-of-00002.gguf exists", "--force")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]
    write(tmp_path / "x.gguf", split_max_size=620, force=True)
    assert sorted(tmp_path.iterdir()) == shards(tmp_path)


@pytest.mark.parametrize("at", [0, 1])
def test_all_shards_or_none(tmp_path, refused, at):
    """Someone creates a file with the name of a shard meanwhile: it stays, and none of ours is created."""

    def load():
        shards(tmp_path)[at].write_text("theirs")
        return np.zeros(KIND.nbytes(32, 64), np.uint8)

    refused(lambda: write(tmp_path / "x.gguf", load, split_max_size=620), f"{shards(tmp_path)[at].name} exists")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["theirs"]
