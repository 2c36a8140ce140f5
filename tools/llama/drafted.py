"""One answer with drafts. Only llama.cpp's server drafts, so one is started for this answer, on a socket in a folder
that nobody else can open, and ended after it. `tmac bench drafts` asks such a server several times.
"""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tmac.common import process
from tmac.common.paths import log_file

from ..errors import ToolError
from .build import Build

if TYPE_CHECKING:
    from .run import Options

Answer = TypeVar("Answer")

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


class ServerOfAnswers:
    """A server of one model, ready when the block is entered, ended with it. Raises TmacError when it fails."""

    def __init__(self, build: Build, model: Path, options: Options, on_line: Callable[[str], None]):
        if not hasattr(socket, "AF_UNIX"):
            raise ToolError(
                "--draft needs sockets in the file system, which this Python has not", "use tmac serve --draft"
            )
        self._given = build, model, options, on_line
        self._stack = ExitStack()

    def __enter__(self) -> ServerOfAnswers:
        build, model, options, on_line = self._given
        with self._stack as stack:
            self._place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tmac-"))) / "answer.sock"
            command, log = server_command(build, model, self._place, options), log_file("run")
            self._server = stack.enter_context(
                process.serving(command, env=options.environment(), log=log, on_line=on_line)
            )
            _wait(self._place, self._server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *problem: Any) -> bool | None:
        return self._stack.__exit__(*problem)

    def read(self, path: str, body: dict[str, Any], read: Callable[[http.client.HTTPResponse], Answer]) -> Answer:
        """What `read` makes of the answer to a request."""
        try:
            with closing(_Connection(self._place)) as connection:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                return read(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError):
            self._server.check()
            raise

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON that comes back."""
        return self.read(path, body, _json)


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
    with ServerOfAnswers(build, model, options, on_line) as server:
        return server.read(*_request(prompt, options, limit), partial(_read, on_output))


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


def _read(on_output: Callable[[bytes], None], response: http.client.HTTPResponse) -> dict[str, float]:
    rates: dict[str, float] = {}
    if response.status != http.client.OK:
        raise _refused(json.loads(response.read()))
    for event in _events(response):
        if "error" in event:
            raise _refused(event)
        on_output(_text(event).encode())
        found = event.get("timings") or {}
        rates |= {phase: float(found[name]) for phase, name in RATES if name in found}
    return rates


def _json(response: http.client.HTTPResponse) -> dict[str, Any]:
    answer = json.loads(response.read())
    if response.status != http.client.OK:
        raise _refused(answer)
    return answer


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
