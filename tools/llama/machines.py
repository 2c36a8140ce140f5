"""The part of another machine in a model that is spread over several: ggml-rpc-server, whose layers `--rpc` uses."""

from __future__ import annotations

from tmac.common import console, process
from tmac.common.paths import work_folder

from .build import Build
from .serving import is_loopback


def serve_layers(build: Build, host: str, port: int, threads: int | None, cache: bool) -> None:
    """Runs ggml-rpc-server until it is interrupted. Raises TmacError when it ends by itself."""
    if not is_loopback(host):
        console.log(
            f"warning: who reaches {host}:{port} can read and change this process's memory: "
            "the protocol has neither a key nor encryption. Only for a network where you trust every machine",
            console.RED,
        )
    options = [*(["-t", str(threads)] if threads else []), *(["-c"] if cache else [])]
    # Its lines are for the person at this terminal: who has connected, and what was refused.
    command = [build.binary("ggml-rpc-server"), "-H", host, "-p", str(port), *options]
    process.run(command, env={"TMAC_LOG": "1", "LLAMA_CACHE": str(work_folder() / "rpc")})
