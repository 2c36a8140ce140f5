"""Downloads with the real huggingface-hub client from a hub that the test runs on this machine."""

import json
import threading

import pytest
from huggingface_hub import constants

from support.hub import FILES, MAIN, TAGGED, WEIGHTS, Hub
from tmac.common.progress import ByteCount
from tmac.convert.downloads import RECEIPT_FILE
from tmac.convert.errors import ConvertError
from tmac.convert.fetch import fetch, local_source, needed_files
from tmac.convert.gguf_choice import choose_gguf
from tmac.convert.hub_progress import bars_into
from tmac.convert.inputs import files_read

NOWHERE = "http://127.0.0.1:9"
INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


NEEDED = ["config.json", "tokenizer.model", "tokenizer_config.json", WEIGHTS]


def test_only_needed_files_are_asked_for(hub, tmp_path, monkeypatch):
    """Settings, tokenizer and one set of weights are downloaded, byte for byte; other files are not even asked for. The
    progress is over their bytes.
    """
    totals = []

    class Count(ByteCount):
        def __init__(self, title, total):
            totals.append(total)
            super().__init__(title, total)

    monkeypatch.setattr("tmac.convert.fetch.ByteCount", Count)
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    assert totals == [sum(len(FILES[name]) for name in NEEDED)]
    assert folder == tmp_path / "model"
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted([*NEEDED, RECEIPT_FILE])
    assert all((folder / name).read_bytes() == FILES[name] for name in NEEDED)
    asked = {path.rsplit("/", 1)[1] for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked == set(NEEDED)


def test_revision_is_honoured(hub):
    """A tag's files come from its commit, also from the cache, which has a folder per commit; so do those of a name
    that is no name of a file.
    """
    hub.revisions["refs%2Fpr%2F1"] = TAGGED
    pull = fetch("org/model@refs/pr/1", endpoint=hub.url)
    assert fetch(f"org/model@{TAGGED}", endpoint=NOWHERE) == pull
    hub.requests = []
    tagged = fetch("org/model@v1", endpoint=hub.url)
    assert all(f"/{TAGGED}/" in path for _, path, _ in hub.requests if "/resolve/" in path)
    main = fetch("org/model", endpoint=hub.url)
    assert json.loads((tagged / "config.json").read_text()) == {"tagged": True}
    assert json.loads((main / "config.json").read_text()) == {}
    assert (tagged.name, main.name) == (TAGGED, MAIN)
    assert len(hub.downloads()) == len(NEEDED) and tagged == pull


def test_broken_connection_is_resumed(hub, tmp_path, monkeypatch):
    """The server drops the connection in the middle; the client requests only the rest, and the file is complete."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)
    hub.cut_after = 600_000
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    ranges = [sent for name, sent in hub.downloads() if name == WEIGHTS]
    assert ranges[0] is None and len(ranges) == 2
    start = int(ranges[1].removeprefix("bytes=").rstrip("-"))
    assert 65536 <= start <= 600_000


def test_complete_files_are_not_downloaded_again(hub, tmp_path, refused):
    """The weights fail in the first run; the second requests no file that the first completed."""
    hub.broken = {WEIGHTS}
    refused(
        lambda: fetch("org/model", folder=tmp_path / "model", endpoint=hub.url),
        "org/model",
        "the download failed",
        "500",
        "run the command again",
    )
    done = {path.name for path in (tmp_path / "model").iterdir() if path.is_file()} - {RECEIPT_FILE}
    hub.broken, hub.requests = set(), []
    fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    again = {name for name, _ in hub.downloads()}
    assert WEIGHTS in again and not again & done


@pytest.mark.parametrize("where", ["cache", "folder"])
def test_earlier_download_serves_without_network(hub, refused, tmp_path, where, capsys):
    """If the hub is unreachable, a finished download of that revision or commit is used, and a line says so."""
    folder = tmp_path / "model" if where == "folder" else None
    first, said = fetch("org/model", folder=folder, endpoint=hub.url), []
    for name in ("org/model", "org/model@main", f"org/model@{MAIN}"):
        assert fetch(name, folder=folder, endpoint=NOWHERE, log=said.append) == first
    assert len(said) == 3 and f"hub unreachable, using the download of {MAIN}" in said[0]
    fetch("org/model", folder=folder, endpoint=NOWHERE)
    assert said[0] in capsys.readouterr().err
    for name in ("org/other", "org/model@v1", f"org/model@{TAGGED}"):
        words = (name, "the download failed", "check the network")
        refused(lambda: fetch(name, folder=folder, endpoint=NOWHERE), *words)
    (first / "tokenizer.model").unlink()
    refused(lambda: fetch("org/model", folder=folder, endpoint=NOWHERE), "the download failed")


@pytest.mark.parametrize("where", ["cache", "folder"])
def test_unfinished_download_does_not_serve(hub, refused, tmp_path, where):
    """All files except the weights are there when the hub becomes unreachable."""
    folder = tmp_path / "model" if where == "folder" else None
    hub.broken = {WEIGHTS}
    for endpoint in (hub.url, NOWHERE):
        refused(lambda: fetch("org/model", folder=folder, endpoint=endpoint), "the download failed")


def test_broken_update_does_not_pass_for_the_new_commit(hub, refused, tmp_path):
    """The folder has all files of v1, and the hub answers only the listing of main: refused, and offline for both."""
    folder = tmp_path / "model"
    fetch("org/model@v1", folder=folder, endpoint=hub.url)
    hub.after_listing = lambda: setattr(hub, "failure", 403)
    refused(lambda: fetch("org/model", folder=folder, endpoint=hub.url), "config.json has 16 bytes, expected 2")
    for name in ("org/model", "org/model@v1"):
        refused(lambda: fetch(name, folder=folder, endpoint=NOWHERE), "the download failed")


def test_folder_that_no_one_downloaded_to_does_not_serve(hub, refused, tmp_path):
    """File names alone, without a receipt or with a damaged one, prove nothing."""
    for name in NEEDED:
        (tmp_path / name).write_bytes(FILES[name])
    sound = {"repository": "org/model", "revision": "main", "commit": MAIN, "files": NEEDED}
    wrong = [{**sound, key: value} for key in sound for value in (None, 5, "", [], [5], [""], {})]
    for receipt in (None, "{", "[]", "{}", *map(json.dumps, wrong)):
        if receipt is not None:
            (tmp_path / RECEIPT_FILE).write_text(receipt)
        refused(lambda: fetch("org/model", folder=tmp_path, endpoint=NOWHERE), "the download failed")
    (tmp_path / RECEIPT_FILE).write_text(json.dumps(sound))
    assert fetch("org/model", folder=tmp_path, endpoint=NOWHERE) == tmp_path


@pytest.mark.parametrize("status", [401, 403, 500])
def test_answers_of_the_hub_are_not_covered_up(hub, refused, tmp_path, status):
    """An error from the hub is not an unreachable hub, so an earlier download is not used instead."""
    fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    hub.failure = status
    refused(lambda: fetch("org/model", folder=tmp_path / "model", endpoint=hub.url), "org/model")


def test_folder_of_another_repository_is_refused(hub, refused, tmp_path):
    """Nothing is downloaded into it, and no file changes."""
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    receipt = folder / RECEIPT_FILE
    receipt.write_text(receipt.read_text().replace("org/model", "org/other"))
    hub.requests = []
    words = ("model: holds a download of org/other", "expected one of org/model", "another folder")
    refused(lambda: fetch("org/model@v1", folder=folder, endpoint=hub.url), *words)
    assert hub.downloads() == [] and (folder / "config.json").read_bytes() == b"{}"


def test_receipt_is_not_written_again(hub, tmp_path):
    """A second fetch of the same commit keeps the file's time, which is part of `tmac run`'s key."""
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    before = (folder / RECEIPT_FILE).stat().st_mtime_ns
    for name in ("org/model", f"org/model@{MAIN}"):
        fetch(name, folder=folder, endpoint=hub.url)
    assert (folder / RECEIPT_FILE).stat().st_mtime_ns == before


def test_a_hub_that_tells_no_sizes(hub, tmp_path):
    """Then none is compared."""
    hub.tells_sizes = False
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_listing_and_download_are_of_one_commit(hub, tmp_path):
    """If the branch moves after the listing, the files are still those of the listed commit."""
    hub.after_listing = lambda: hub.revisions.update(main=TAGGED)
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    assert json.loads((folder / "config.json").read_text()) == {}
    assert json.loads((folder / RECEIPT_FILE).read_text())["commit"] == MAIN


def test_only_the_shards_of_the_index(hub, tmp_path, refused):
    """Other .safetensors files are not requested; a missing shard is an error."""
    index = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode()
    files = {"config.json": b"{}", INDEX: index, SHARDS[0]: b"1", SHARDS[1]: b"2", "adapter.safetensors": b"x"}
    hub.commits[MAIN] = files
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    got = {path.name for path in folder.iterdir() if path.is_file()}
    assert got == {"config.json", INDEX, *SHARDS, RECEIPT_FILE}
    hub.commits[MAIN] = {**files, WEIGHTS: b"x"}
    refused(lambda: fetch("org/model", folder=tmp_path / "b", endpoint=hub.url), "expected one set of weights")
    del files[SHARDS[1]]
    hub.commits[MAIN] = files
    words = (SHARDS[1], "1 of the 2 shards", "not in the repository")
    refused(lambda: fetch("org/model", folder=tmp_path / "c", endpoint=hub.url), *words)


@pytest.mark.parametrize("source", ["./x", "../x", "/none/x", "~x", "~/x", "name", "a/b/c", "org/.x", "./a/b"])
def test_paths_that_do_not_exist_are_no_repositories(refused, monkeypatch, tmp_path, source):
    """The error says so, without a request to the hub."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused(lambda: local_source(source), f"{source}: there is no such folder", "config.json", "org/name@revision")


@pytest.mark.parametrize("source", ["", " "])
def test_empty_names_are_refused(refused, source):
    """They are not taken for the current folder."""
    refused(lambda: local_source(source), "the name is empty", "org/name")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("RepoNotFound", ["no such repository", "hf auth login"]),
        ("RevisionNotFound", ["no such revision", "branches"]),
        ("GatedRepo", ["gated", "accept its terms"]),
    ],
)
def test_refusals_of_the_hub(hub, refused, refusal, words):
    hub.refusal = refusal
    refused(lambda: fetch("org/model@v1", endpoint=hub.url), "org/model@v1", *words)


def test_unknown_names(hub, refused):
    refused(lambda: fetch("org/none", endpoint=hub.url), "org/none", "no such repository")
    refused(lambda: fetch("org/model@v9", endpoint=hub.url), "org/model@v9", "no such revision")
    refused(lambda: fetch("just-a-name"), "'just-a-name'", "org/name@revision")
    refused(lambda: fetch("a--b/c", endpoint=hub.url), "not a repository name")


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        (["config.json", "pytorch_model.bin", "onnx/model.safetensors"], "config.json"),
        ([WEIGHTS, "README.md", "original/config.json"], WEIGHTS),
        (["README.md"], "none of the files needed"),
    ],
)
def test_repository_that_is_no_checkpoint(hub, refused, listing, found):
    """Weights or settings of another form, or of a model in a folder, are not this one's."""
    hub.commits[MAIN] = dict.fromkeys(listing, b"{}")
    words = f"found {found}, expected config.json and .safetensors"
    refused(lambda: fetch("org/model", endpoint=hub.url), words)
    assert hub.downloads() == []


GGUFS = {f"Tern-{kind}.gguf": kind.encode() for kind in ("F16", "PQ2_0", "PTQ1_0", "Q2_0-fork")}
BESIDE = ("mmproj-Tern-F16.gguf", "Tern-mmproj-Q8_0.gguf", "mtp-Tern-PTQ1_0.gguf", "imatrix-Tern.gguf", "a/b.gguf")
NO_MODELS = dict.fromkeys(BESIDE, b"x")
# What lies in a folder makes it no checkpoint.
NO_MODELS["original/model.safetensors"] = b"x"


def test_a_repository_of_gguf_files(hub, tmp_path):
    """The smallest type that is made for such weights; the rule is said, and what chooses another."""
    hub.commits[MAIN] = {**GGUFS, **NO_MODELS, "README.md": b"x", INDEX: b"of no use here"}
    said = []
    found = fetch("org/model", endpoint=hub.url, log=said.append)
    assert found.name == "Tern-PTQ1_0.gguf" and found.read_bytes() == b"PTQ1_0"
    assert "taking Tern-PTQ1_0 of 4 GGUF models, the first of Q1_0, TQ1_0, PTQ1_0," in said[0]
    assert "org/name:TYPE" in said[0] and {name for name, _ in hub.downloads()} == {"Tern-PTQ1_0.gguf"}
    assert fetch("org/model:pq2_0", endpoint=hub.url, log=said.append).name == "Tern-PQ2_0.gguf"
    assert fetch("org/model:Q2_0@main", endpoint=hub.url, log=said.append).name == "Tern-Q2_0-fork.gguf"
    hub.commits[MAIN] = {"Other-Q4_K_M.gguf": b"1", **NO_MODELS}
    assert fetch("org/model", folder=tmp_path / "model", endpoint=hub.url).name == "Other-Q4_K_M.gguf"


def test_types_serve_apart_without_network(hub, refused):
    """Each was downloaded by itself; none passes for another, or for the checkpoint."""
    hub.commits[MAIN] = {**GGUFS, **FILES}
    first, second = (fetch(name, endpoint=hub.url) for name in ("org/model", "org/model:PQ2_0"))
    assert first.is_dir() and second.name == "Tern-PQ2_0.gguf"
    for at in ("", "@main", f"@{MAIN}"):
        assert fetch(f"org/model{at}", endpoint=NOWHERE) == first
        assert fetch(f"org/model:PQ2_0{at}", endpoint=NOWHERE) == second
        refused(lambda: fetch(f"org/model:PTQ1_0{at}", endpoint=NOWHERE), "the download failed")
    (first / "config.json").unlink()
    refused(lambda: fetch(f"org/model@{MAIN}", endpoint=NOWHERE), "the download failed")
    hub.commits[MAIN] = GGUFS
    hub.revisions["main"] = MAIN
    only = fetch("org/model", endpoint=hub.url)
    for at in ("", f"@{MAIN}"):
        assert fetch(f"org/model{at}", endpoint=NOWHERE) == only


def test_names_that_begin_alike():
    """An exact name wins; one file and several of the same name are two models."""
    split = [f"M-Q2_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    listing = ["M-Q2_0.gguf", "M-Q2_0-fork.gguf", *split]
    assert choose_gguf("org/model", listing, "m-q2_0")[0] == ["M-Q2_0.gguf"]
    assert choose_gguf("org/model", listing, "M-Q2_0.gguf")[0] == ["M-Q2_0.gguf"]
    assert choose_gguf("org/model", listing, "M-Q2_0-00001-of-00002")[0] == split
    assert choose_gguf("org/model", listing[1:], "M-Q2_0-fork")[0] == ["M-Q2_0-fork.gguf"]
    with pytest.raises(ConvertError, match="3 of them fit Q2_0"):
        choose_gguf("org/model", listing, "Q2_0")


def test_a_gguf_in_several_files(hub):
    parts = {f"Big-Q1_0-0000{number}-of-00002.gguf": bytes([number]) for number in (1, 2)}
    hub.commits[MAIN] = parts
    found = fetch("org/model", endpoint=hub.url)
    assert found.name == "Big-Q1_0-00001-of-00002.gguf"
    assert {path.name for path in found.parent.glob("*.gguf")} == set(parts)


def test_gguf_files_that_cannot_be_chosen(hub, refused):
    hub.commits[MAIN] = {"A-Q4_K_M.gguf": b"x", "A-Q8_0.gguf": b"x"}
    words = ("A-Q4_K_M, A-Q8_0", "none of them is Q1_0", "org/model:TYPE")
    refused(lambda: fetch("org/model@main", endpoint=hub.url), *words)
    refused(lambda: fetch("org/model:Q5_0", endpoint=hub.url), "0 of them fit Q5_0, expected one")
    refused(lambda: fetch("org/model:A", endpoint=hub.url), "2 of them fit A, expected one")
    hub.commits[MAIN] = dict(FILES)
    refused(lambda: fetch("org/model:PTQ1_0", endpoint=hub.url), "has no GGUF of a model")


def test_vocabularies_of_other_kinds_are_needed(tmp_path):
    """llama.cpp's converter reads them; they are downloaded, and decide the result."""
    names = ["config.json", "merges.txt", "modules.json", "own.tiktoken", "spiece.model", "vocab.json", "vocab.txt"]
    assert needed_files("org/model", [*names, "folder/own.tiktoken", "notes.txt", WEIGHTS]) == [*names, WEIGHTS]
    for name in [*names, "notes.txt"]:
        (tmp_path / name).touch()
    assert [path.name for path in files_read(tmp_path)] == names


def test_which_files_are_needed(refused):
    """Shards with their index, or a single file of any name, but not two copies of the weights."""
    listing = [*SHARDS, INDEX, "config.json", "a.txt", "video_preprocessor.json"]
    assert needed_files("org/model", listing, set(SHARDS)) == ["config.json", *SHARDS, INDEX]
    assert needed_files("org/model", [WEIGHTS, INDEX], {WEIGHTS}) == [WEIGHTS, INDEX]
    for names in ([WEIGHTS, "consolidated.safetensors"], [WEIGHTS, "adapter_model.safetensors"]):
        assert needed_files("org/model", names) == [WEIGHTS]
    variants = ["gptq_model-4bit-128g.safetensors", "gptq_model-4bit-32g.safetensors"]
    assert needed_files("org/model", variants[:1]) == variants[:1]
    assert needed_files("org/model", ["consolidated.safetensors", variants[0]]) == variants[:1]
    # Weights in a folder are another model's, or this one's in another form.
    assert needed_files("org/model", [variants[0], "onnx/other.safetensors", "README.md"]) == variants[:1]
    refused(
        lambda: needed_files("org/model", [f"old/{SHARDS[0]}", *SHARDS[1:]], set(SHARDS)), f"{SHARDS[0]} is missing"
    )
    refused(lambda: needed_files("org/model", variants), "org/model", *variants, "expected one set of weights")


def test_files_of_templates_and_of_pooling_are_downloaded():
    """Those below a folder that conversion reads, and no others."""
    templates = ("tool_use", "tool-use.v2")
    wanted = ["1_Pooling/config.json", *(f"additional_chat_templates/{name}.jinja" for name in templates)]
    others = ["2_Normalize/config.json", "additional_chat_templates/x/y.jinja", "onnx/config.json"]
    found = needed_files("org/model", ["config.json", WEIGHTS, *wanted, *others])
    assert sorted(found) == sorted(["config.json", WEIGHTS, *wanted])


def test_progress_of_the_client_is_one_count():
    """Its bars of bytes on disk count, also from where a file is resumed; those of the network, of files, and totals
    that grow, do not.
    """
    count = ByteCount("downloading", 100)
    bars = bars_into(count)
    network = bars(desc="Downloading bytes", unit="B", total=0)
    disk = bars(desc="Reconstructing", unit="B", total=0)
    files = bars(desc="Fetching 2 files", total=2)
    for bar, much in ((network, 90), (disk, 40), (files, 95), (disk, 20), (disk, None)):
        bar.update(much)
    assert count.done == 60
    resumed = bars(desc="Reconstructing", unit="B", initial=70, total=100)
    resumed.update(5)
    resumed.update()
    assert count.done == 76
