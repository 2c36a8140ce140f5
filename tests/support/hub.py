"""A model hub on this machine, for the real huggingface-hub client, which can fail in the middle."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAIN, TAGGED = "a" * 40, "b" * 40
WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b"{}",
    "tokenizer.model": b"pieces",
    "tokenizer_config.json": b"{}",
    WEIGHTS: bytes(range(256)) * 4000,
    "video_preprocessor.json": b"not needed",
    "README.md": b"not needed",
    "pytorch_model.bin": b"not needed",
    "original/model.safetensors": b"not needed",
    "consolidated.safetensors": b"not needed",
}


class Hub(ThreadingHTTPServer):
    """One repository `org/model` with two commits; `requests` lists what the client requested."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.revisions = {"main": MAIN, "v1": TAGGED, MAIN: MAIN, TAGGED: TAGGED}
        self.commits = {MAIN: dict(FILES), TAGGED: {**FILES, "config.json": b'{"tagged": true}'}}
        self.requests = []
        self.cut_after = None
        self.broken = set()
        self.refusal = None
        self.failure = None
        self.tells_sizes = True
        self.after_listing = lambda: None

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
        path, _, self.query = self.path.partition("?")
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.failure:
            return self.send(hub.failure, b"no", {})
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
            # The hub tells sizes on request only.
            told = hub.tells_sizes and "blobs" in self.query
            siblings = [{"rfilename": name, **({"size": len(data)} if told else {})} for name, data in files.items()]
            self.json({"id": "org/model", "sha": commit, "siblings": siblings})
            return hub.after_listing()
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
