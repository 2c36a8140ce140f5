"""Downloads with the real huggingface-hub client from a hub that the test runs on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from tmac.convert.fetch import fetch, needed_files

MAIN, TAGGED = "a" * 40, "b" * 40
WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b"{}",
    "tokenizer.model": b"pieces",
    "tokenizer_config.json": b"{}",
    WEIGHTS: bytes(range(256)) * 4000,
    "README.md": b"not needed",
    "pytorch_model.bin": b"not needed",
    "original/model.safetensors": b"not needed",
    "consolidated.safetensors": b"not needed",
}


class Hub(ThreadingHTTPServer):
    """One repository `org/model` at two commits; `requests` is what the client asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.revisions = {"main": MAIN, "v1": TAGGED, MAIN: MAIN, TAGGED: TAGGED}
        self.commits = {MAIN: dict(FILES), TAGGED: {**FILES, "config.json": b'{"tagged": true}'}}
        self.requests = []
        self.cut_after = None
        self.broken = set()
        self.refusal = None

    def downloads(self):
        got = [(path, sent) for method, path, sent in self.requests if method == "GET" and "/resolve/" in path]
        return [(path.rsplit("/", 1)[1], sent) for path, sent in got]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub = self.server
        path = self.path.partition("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.refusal:
            return self.send(404 if hub.refusal != "GatedRepo" else 403, b"no", {"X-Error-Code": hub.refusal})
        api, found, rest = path.partition("/org/model")
        if not found:
            return self.send(404, b"no", {"X-Error-Code": "RepoNotFound"})
        parts = rest.strip("/").split("/", 2)
        revision = parts[1] if len(parts) > 1 else "main"
        if revision not in hub.revisions:
            return self.send(404, b"no", {"X-Error-Code": "RevisionNotFound"})
        commit = hub.revisions[revision]
        files = hub.commits[commit]
        if api and parts[0] == "tree":
            entries = [{"type": "file", "path": f, "size": len(d), "oid": f"{commit}{f}"} for f, d in files.items()]
            return self.json(entries)
        if api:
            return self.json({"id": "org/model", "sha": commit, "siblings": [{"rfilename": f} for f in files]})
        return self.file(parts[2], files[parts[2]], commit, body)

    def file(self, name, data, commit, body):
        headers = {"ETag": f'"{commit}{name.replace("/", "-")}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if body and name in self.server.broken:
            return self.send(500, b"broken", {})
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if body and name == WEIGHTS and self.server.cut_after and not start:
            self.send(200, data, headers, self.server.cut_after)
            self.close_connection = True
            return None
        return self.send(206 if start else 200, data[start:], headers, None if body else 0)

    def json(self, value):
        return self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, data, headers, sent=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if sent is None else data[:sent])


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


def test_only_needed_files_are_asked_for(hub, tmp_path):
    """Settings, tokenizer and one set of weights are downloaded, byte for byte; other files are not even asked for."""
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    assert folder == tmp_path / "model"
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted(NEEDED)
    assert all((folder / name).read_bytes() == FILES[name] for name in NEEDED)
    asked = {path.rsplit("/", 1)[1] for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked == set(NEEDED)


def test_revision_is_honoured(hub):
    """A tag's files come from its commit; the same through the cache, whose folders are per commit."""
    tagged = fetch("org/model@v1", endpoint=hub.url)
    assert all(f"/{TAGGED}/" in path for _, path, _ in hub.requests if "/resolve/" in path)
    main = fetch("org/model", endpoint=hub.url)
    assert json.loads((tagged / "config.json").read_text()) == {"tagged": True}
    assert json.loads((main / "config.json").read_text()) == {}
    assert (tagged.name, main.name) == (TAGGED, MAIN)
    assert len(hub.downloads()) == 2 * len(NEEDED)


def test_broken_connection_is_resumed(hub, tmp_path, monkeypatch):
    """The server drops the connection in the middle; the client asks for the rest only, and the file is whole."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)
    hub.cut_after = 600_000
    folder = fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    ranges = [sent for name, sent in hub.downloads() if name == WEIGHTS]
    assert ranges[0] is None and len(ranges) == 2
    start = int(ranges[1].removeprefix("bytes=").rstrip("-"))
    assert 65536 <= start <= 600_000


def test_complete_files_are_not_downloaded_again(hub, tmp_path, refused):
    """The weights fail in the first run; the second run asks for no file that the first one got."""
    hub.broken = {WEIGHTS}
    refused(
        lambda: fetch("org/model", folder=tmp_path / "model", endpoint=hub.url),
        "org/model", "the download failed", "500", "run the command again",
    )
    done = {path.name for path in (tmp_path / "model").iterdir() if path.is_file()}
    hub.broken, hub.requests = set(), []
    fetch("org/model", folder=tmp_path / "model", endpoint=hub.url)
    again = {name for name, _ in hub.downloads()}
    assert WEIGHTS in again and not again & done


def test_earlier_download_serves_without_network(hub, refused):
    """When the hub is gone, what was downloaded is used; what was not is an error with a hint."""
    first = fetch("org/model", endpoint=hub.url)
    nowhere = "http://127.0.0.1:9"
    assert fetch("org/model", endpoint=nowhere) == first
    refused(lambda: fetch("org/other", endpoint=nowhere), "org/other", "the download failed", "check the network")


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
    refused(lambda: fetch("a--b/..c", endpoint=hub.url), "not a repository name")


def test_repository_without_safetensors(hub, refused):
    hub.commits[MAIN] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    refused(lambda: fetch("org/model", endpoint=hub.url), "found config.json", "expected config.json and .safetensors")
    assert hub.downloads() == []


def test_which_files_are_needed():
    """Shards with their index, or a single file of any name, but not two copies of the weights."""
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert needed_files([*shards, index, "config.json", "a.txt"]) == ["config.json", *shards, index]
    assert needed_files([WEIGHTS, "consolidated.safetensors"]) == [WEIGHTS]
    assert needed_files(["gptq_model-4bit-128g.safetensors"]) == ["gptq_model-4bit-128g.safetensors"]
