"""What a conversion never overwrites: what it reads, and with --force a set of files before the new one is complete."""

import numpy as np
import pytest

from support.imatrix_files import write_new
from support.stock import F16, NORM, blocks, floats, write_stock
from tmac.common import files

Q, K = "blk.0.attn_q.weight", "blk.0.attn_k.weight"
TENSORS = {Q: blocks(2, (64, 256)), K: blocks(2, (32, 256)), NORM[0]: NORM[1]}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def split_model(folder):
    write_stock(folder / "m.gguf", TENSORS, split_max_tensors=2)
    return sorted(folder.glob("m-*.gguf"))


def test_shards_over_the_shards_that_are_read(tmp_path, quietly, refused):
    """`tmac convert m-00001-of-00002.gguf -o m.gguf --split-max-size ... --force`: names of shards are known late."""
    first, _ = split_model(tmp_path)
    before = contents(tmp_path)
    words = ("m-0000", "which is read", "choose another name with -o")
    refused(lambda: quietly(first, tmp_path / "m.gguf", force=True, split_max_size=10000), *words)
    assert contents(tmp_path) == before
    assert len(quietly(first, tmp_path / "n.gguf", split_max_size=10000).files) == 2


@pytest.mark.parametrize("kind", ["link", "symlink"])
def test_the_source_under_another_name(tmp_path, quietly, refused, kind):
    source = write_stock(tmp_path / "in.gguf", TENSORS)
    other = tmp_path / "out.gguf"
    other.hardlink_to(source) if kind == "link" else other.symlink_to(source)
    refused(lambda: quietly(source, other, force=True), "in.gguf", "which is read")
    assert other.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model", "1_Pooling/config.json"])
def test_a_file_of_the_checkpoint(folder, quietly, refused, name):
    (folder.path / "1_Pooling").mkdir()
    (folder.path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    before = contents(folder.path)
    refused(lambda: quietly(folder.path, folder.path / name, force=True), name, "which is read")
    assert contents(folder.path) == before


def test_shards_of_a_checkpoint(folder, quietly, refused):
    shards = folder.shard()
    before = contents(folder.path)
    refused(lambda: quietly(folder.path, shards[1], force=True), shards[1].name, "which is read")
    assert contents(folder.path) == before


def test_the_importance_matrix(tmp_path, quietly, refused):
    source = write_stock(tmp_path / "in.gguf", {Q: floats(F16, (64, 256)), NORM[0]: NORM[1]})
    matrix = write_new(tmp_path / "imatrix.gguf", {Q: (np.ones((1, 256)), [4])})
    before = contents(tmp_path)
    words = ("imatrix.gguf", "which is read")
    refused(lambda: quietly(source, matrix, force=True, quantize="w4g128", imatrix=matrix), *words)
    assert contents(tmp_path) == before


def test_a_failure_in_a_later_shard_keeps_the_old_files(tmp_path, quietly, refused, monkeypatch):
    """The last file to be published is the first by name; when it fails, the others are back."""
    source = write_stock(tmp_path / "in.gguf", TENSORS)
    report = quietly(source, tmp_path / "m.gguf", split_max_size=10000)
    for number, file in enumerate(report.files):
        file.write_text(f"old {number}")
    before, link = contents(tmp_path), files.link_or_move

    def fail(file, target):
        if target == report.files[0]:
            raise OSError(5, "the disk has gone")
        link(file, target)

    monkeypatch.setattr(files, "link_or_move", fail)
    refused(
        lambda: quietly(source, tmp_path / "m.gguf", split_max_size=10000, force=True), "m.gguf", "the disk has gone"
    )
    assert contents(tmp_path) == before
    monkeypatch.undo()
    quietly(source, tmp_path / "m.gguf", split_max_size=10000, force=True)
    assert all(file.read_bytes()[:4] == b"GGUF" for file in report.files)


def test_the_opening_shard_gets_its_name_last(tmp_path, quietly, monkeypatch):
    """With and without --force: who opens the set by its first file must find all others."""
    source, order = write_stock(tmp_path / "in.gguf", TENSORS), []
    for place in ("os.link", "os.replace"):
        real = getattr(__import__("os"), place.split(".")[1])

        def note(file, target, real=real):
            if str(target).endswith(".gguf") and tmp_path == target.parent:
                order.append(target.name)
            real(file, target)

        monkeypatch.setattr(place, note)
    for force in (False, True):
        order.clear()
        names = [file.name for file in quietly(source, tmp_path / "m.gguf", split_max_size=10000, force=force).files]
        assert len(names) == 2 and order == names[::-1]
