"""One answer with drafts. Only llama.cpp's server drafts, so one is started for this answer, on a socket in a folder
that nobody else can open, and ended after it.
"""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmac.common import process
from tmac.common.paths import log_file

from ..errors import ToolError
from .build import Build

if TYPE_CHECKING:
    from .run import Options

# Seconds between two looks at whether the server is ready.
PAUSE = 0.02
# Of the fields that end an answer.
RATES = (("prompt eval", "prompt_per_second"), ("eval", "predicted_per_second"))


class _Connection(http.client.HTTPConnection):
    """HTTP on a socket in the file system."""

    def __init__(self, place: Path):
        super().__init__("localhost")
        self._place = place

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._place))


def server_command(build: Build, model: Path, place: Path, options: Options) -> list[str | Path]:
    """The server of one answer."""
    own = ["-np", "1", "--no-warmup", "--reasoning-format", "none", "-lv", "3"]
    return [build.binary("llama-server"), "-m", model, "--host", place, *own, *options.arguments()]


def generate(
    build: Build,
    model: Path,
    prompt: str,
    options: Options,
    limit: int | None,
    on_output: Callable[[bytes], None],
    on_line: Callable[[str], None],
) -> dict[str, float]:
    """Gives the answer to `on_output` as it comes, the server's log to `on_line`; returns tokens per second by phase.

    `limit`: the most tokens of a text that a model only continues; None for a chat model, whose template is applied.
    Raises TmacError when the server fails.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ToolError("--draft needs sockets in the file system, which this Python has not", "use tmac serve --draft")
    with tempfile.TemporaryDirectory(prefix="tmac-") as folder:
        place = Path(folder) / "answer.sock"
        command, log = server_command(build, model, place, options), log_file("run")
        with process.serving(command, env=options.environment(), log=log, on_line=on_line) as server:
            _wait(place, server)
            path, body = _request(prompt, options, limit)
            connection = _Connection(place)
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            return _read(connection.getresponse(), on_output, server)


def _wait(place: Path, server: process.Server) -> None:
    """Until the model is loaded."""
    while True:
        server.check()
        try:
            connection = _Connection(place)
            connection.request("GET", "/health")
            if connection.getresponse().status == http.client.OK:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(PAUSE)


def _request(prompt: str, options: Options, limit: int | None) -> tuple[str, dict[str, Any]]:
    if limit is not None:
        return "/completion", {"prompt": prompt, "n_predict": options.n_predict or limit, "stream": True}
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    messages = [*system, {"role": "user", "content": prompt}]
    return "/v1/chat/completions", {"messages": messages, "stream": True}


def _read(
    response: http.client.HTTPResponse, on_output: Callable[[bytes], None], server: process.Server
) -> dict[str, float]:
    rates: dict[str, float] = {}
    try:
        if response.status != http.client.OK:
            raise _refused(json.loads(response.read()))
        for event in _events(response):
            if "error" in event:
                raise _refused(event)
            on_output(_text(event).encode())
            found = event.get("timings") or {}
            rates |= {phase: float(found[name]) for phase, name in RATES if name in found}
    except (OSError, http.client.HTTPException, ValueError):
        server.check()
        raise
    return rates


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith((b"data: ", b"error: ")) and (data := line.partition(b": ")[2].strip()) != b"[DONE]":
            yield json.loads(data)


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices")
    return (choices[0]["delta"].get("content") if choices else event.get("content")) or ""


def _refused(answer: dict[str, Any]) -> ToolError:
    error = answer.get("error", answer)
    message = error.get("message", error) if isinstance(error, dict) else error
    found = error.get("n_prompt_tokens") if isinstance(error, dict) else None
    hint = f"tmac run --ctx-size {found + 256}, if the model and the memory allow it" if found else ""
    return ToolError(f"llama-server refused the prompt: {message}", hint)
