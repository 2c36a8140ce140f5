"""`tmac list`, `show` and `rm`: conversions, files and downloads, each byte once; a download is not needed for ever."""

import json
import shutil

import pytest
from huggingface_hub import constants

from support.checkpoints import CHECKPOINTS
from tmac.convert.downloads import RECEIPT_FILE, Receipt, finish
from tmac.convert.errors import ConvertError
from tmac.convert.fetch import fetch
from tmac.tools import caches, cli, pipeline
from tmac.tools.errors import ToolError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub client."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def download(hub):
    """Puts files into the cache as the client does, and the receipt of a finished download."""

    def make(repository, files, revisions=("main",), commit=COMMIT):
        place = hub / f"models--{repository.replace('/', '--')}"
        snapshot = place / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        (place / "blobs").mkdir(exist_ok=True)
        for name, content in files.items():
            (place / "blobs" / name).write_bytes(content)
            if not (snapshot / name).is_symlink():
                (snapshot / name).symlink_to(place / "blobs" / name)
        for revision in revisions:
            finish(Receipt(repository, revision, commit, tuple(files)), snapshot, None)
        return snapshot

    return make


def run(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    return code, capsys.readouterr()


def test_list_has_every_model_once(download, work, capsys):
    """A conversion with what made it, a file of the user's, a GGUF and a checkpoint of the hub with two names."""
    model = pipeline.ensure_model(str(CHECKPOINTS["w2g64z"]))
    shutil.copy(model, work / "models" / "mine.gguf")
    download("org/gguf", {"m-Q4_0.gguf": b"x" * 1000}, ("main:", "v1:"))
    download("org/floats", {"config.json": b"{}", "model.safetensors": b"y" * 2000})
    code, said = run(capsys, "list")
    lines = said.out.splitlines()
    assert code == 0 and len(lines) == 4 and "4 models" in said.err
    assert lines[0].split()[0] == "demo" and "conversion" in lines[0] and str(CHECKPOINTS["w2g64z"]) in lines[0]
    assert lines[1].split()[0] == "mine" and lines[2].startswith("org/gguf:m-Q4_0  1.00 kB  download")
    assert lines[3].startswith("org/floats") and "2.00 kB  checkpoint" in lines[3]
    data = json.loads(run(capsys, "list", "--json")[1].out)
    assert [entry["nbytes"] for entry in data[2:]] == [1000, 2002]


def test_names_of_the_list_can_be_run(work):
    model = pipeline.ensure_model(str(CHECKPOINTS["w2g64z"]))
    assert pipeline.ensure_model("demo") == model == pipeline.ensure_model(model.stem)


def test_show_says_what_made_it(capsys):
    pipeline.ensure_model(str(CHECKPOINTS["w2g64z"]))
    capsys.readouterr()
    code, said = run(capsys, "show", "demo")
    assert code == 0 and "made: by tmac" in said.out and "gptq w2g64 asymmetric" in said.out
    code, said = run(capsys, "show", "nothing")
    assert code == 1 and "there are: demo" in said.err


def test_removed_is_gone_and_nothing_else(download, hub, work, capsys):
    """After a question that nobody can answer without a terminal; with --yes at once."""
    model = pipeline.ensure_model(str(CHECKPOINTS["w2g64z"]))
    download("org/gguf", {"m.gguf": b"x" * 1000}, ("main:",))
    assert run(capsys, "rm", "demo")[0] == 1 and model.exists()
    assert run(capsys, "rm", "--yes", "demo")[0] == 0
    assert not list((work / "models").iterdir()) and (CHECKPOINTS["w2g64z"] / "config.json").exists()
    assert [entry.name for entry in caches.entries()] == ["org/gguf:m"]
    assert run(capsys, "rm", "--yes", "org/gguf:m")[0] == 0
    assert caches.entries() == [] and not list(hub.rglob("m.gguf"))


def test_download_can_go_once_it_is_converted(download, monkeypatch, capsys):
    """`tmac run org/name` uses the conversion and asks nobody; there is one copy. Another converter needs it again."""
    files = {path.name: path.read_bytes() for path in CHECKPOINTS["w2g64z"].iterdir() if path.is_file()}
    snapshot = download("org/name", files)
    monkeypatch.setattr(pipeline, "local_source", lambda name: snapshot)
    model = pipeline.ensure_model("org/name")
    assert {entry.kind for entry in caches.find_entries("org/name")} == {caches.CONVERSION, caches.CHECKPOINT}
    assert run(capsys, "rm", "--yes", "--download", "org/name")[0] == 0 and not snapshot.exists()
    assert [entry.kind for entry in caches.entries()] == [caches.CONVERSION]

    def ask(name):
        raise ToolError("the hub is asked")

    monkeypatch.setattr(pipeline, "local_source", ask)
    assert pipeline.ensure_model("org/name") == model
    monkeypatch.setattr(pipeline, "_converter_key", lambda: "another")
    with pytest.raises(ToolError, match="the hub is asked"):
        pipeline.ensure_model("org/name")


def test_key_of_a_conversion_covers_what_makes_its_bytes():
    names = {path.parent.name + "/" + path.name for path in pipeline._converter_files()}
    assert {"common/format.py", "common/stock.py", "kernels/repack.py", "repack/avx2.c", "interface/tmac.h"} <= names
    assert any(name.endswith("/layout.py") for name in names)


def test_files_of_a_similar_name_stay(work, capsys):
    """Of a split model its own parts go, even if their name is a pattern; what is the user's is said to be."""
    folder = work / "models"
    folder.mkdir(parents=True)
    kept = [folder / f"m-large-0000{number}-of-00002.gguf" for number in (1, 2)]
    parts = [folder / f"{stem}-0000{number}-of-00002.gguf" for stem in ("m", "a[b]") for number in (1, 2)]
    for path in (*kept, *parts):
        path.write_bytes(b"1234")
    sizes = {entry.name: entry.nbytes for entry in caches.entries()}
    assert sizes == {"a[b]": 8, "m": 8, "m-large": 8}
    for name in ("m", "a[b]"):
        code, said = run(capsys, "rm", "--yes", name)
        assert code == 0 and "a file of yours" in said.err
    assert sorted(folder.iterdir()) == kept


def test_other_downloads_of_a_snapshot_stay(download, hub, capsys):
    """Other types of the same repository, files that others put there, and contents that another snapshot has too."""
    other = "f" * 40
    download("org/gguf", {"m-Q4_0.gguf": b"4" * 100, "both.gguf": b"b"}, ("main:Q4_0", "v1:Q4_0"))
    download("org/gguf", {"m-Q8_0.gguf": b"8" * 200, "both.gguf": b"b"}, ("main:Q8_0",))
    later = download("org/gguf", {"m-Q4_0.gguf": b"4" * 100}, ("v2:Q4_0",), other)
    snapshot = later.parent / COMMIT
    (snapshot / "foreign.txt").write_text("mine")
    assert run(capsys, "rm", "--yes", "org/gguf:m-Q4_0")[0] == 0
    assert sorted(path.name for path in snapshot.iterdir()) == ["both.gguf", "foreign.txt", "m-Q8_0.gguf"]
    assert (snapshot / "both.gguf").read_bytes() == b"b" and (later / "m-Q4_0.gguf").read_bytes() == b"4" * 100
    assert [entry.name for entry in caches.entries()] == ["org/gguf:m-Q4_0@v2", "org/gguf:m-Q8_0"]
    for name in ("org/gguf:m-Q4_0@v2", "org/gguf:m-Q8_0"):
        assert run(capsys, "rm", "--yes", name)[0] == 0
    assert {path.name for path in hub.rglob("*") if path.is_file()} == {"foreign.txt"}


def test_name_of_several_is_refused_with_their_paths(work, download, capsys):
    """To run it and to delete it; a path is one of them."""
    first, second = (work / name for name in ("first", "second"))
    for folder in (first, second):
        shutil.copytree(CHECKPOINTS["w2g64z"], folder / "twin")
        pipeline.ensure_model(str(folder / "twin"))
    paths = [str(entry.path) for entry in caches.entries()]
    with pytest.raises(ToolError, match="2 models are called 'twin'") as caught:
        pipeline.ensure_model("twin")
    assert all(path in caught.value.message for path in paths)
    assert run(capsys, "rm", "--yes", "twin")[0] == 1 and len(caches.entries()) == 2
    assert run(capsys, "rm", "--yes", paths[0])[0] == 0 and [str(entry.path) for entry in caches.entries()] == paths[1:]


def test_listed_name_of_a_download_works_without_the_hub(download, monkeypatch, tmp_path):
    """Whatever part of the file's name chose it then; under no other revision, and for no other folder."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    snapshot = download("org/gguf", {"m-Q4_0.gguf": b"x"}, ("main:Q4",))
    unfinished = json.dumps({"repository": "org/gguf", "revision": "main", "commit": COMMIT, "files": []})
    for name, text in (("a-damaged-one", "{"), ("an-unfinished-one", unfinished)):
        (snapshot.parents[1] / f"{name}{RECEIPT_FILE}").write_text(text)
    name = caches.entries()[0].name
    assert fetch(name, endpoint="http://127.0.0.1:9") == snapshot / "m-Q4_0.gguf"
    for other, folder in ((f"{name}@v2", None), (name, tmp_path / "folder")):
        with pytest.raises(ConvertError, match="the download failed"):
            fetch(other, folder=folder, endpoint="http://127.0.0.1:9")


def test_download_that_is_the_model_stays(download, capsys):
    """`rm --download` frees what is there twice; a GGUF that llama.cpp reads is there once."""
    download("org/gguf", {"m.gguf": b"x" * 1000}, ("main:",))
    code, said = run(capsys, "rm", "--yes", "--download", "org/gguf:m")
    assert code == 1 and "the download is the model" in said.err and len(caches.entries()) == 1
