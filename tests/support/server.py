"""llama-server for a test: started on a free port, ended with the block."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen
    url: str

    def ask(self, path, body):
        """The JSON that comes back."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))

    def get(self, path):
        """The JSON that comes back."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return json.load(answer)

    def complete(self, prompt, n_predict):
        body = {"prompt": prompt, "n_predict": n_predict, "temperature": 0, "ignore_eos": True}
        return self.ask("/completion", body)["content"]


@contextmanager
def serving(build, model, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [build.binary("llama-server"), "-m", model, "--port", port, "--host", "127.0.0.1", *options]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        wait_until_healthy(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@contextmanager
def served(*arguments, env=None):
    """`tmac serve` as a user starts it. `server.process.said` is what it said, after the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tmac.tools.cli", "serve", *map(str, arguments), "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        wait_until_healthy(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.said = process.communicate(timeout=30)[0]


def wait_until_healthy(server):
    for _ in range(300):
        assert server.process.poll() is None, f"llama-server ended with {server.process.returncode}"
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("llama-server did not get ready within 30 s")
