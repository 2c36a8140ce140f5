"""llama-server with safe defaults: who may ask it, from which pages, and an address that is printed when it listens.

API keys reach the server by its environment: neither our command line nor the list of processes shows them.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tmac.common import console, process
from tmac.common.paths import log_file

from ..errors import ToolError
from .build import Build
from .options import spelled

KEY, KEY_VARIABLE = "--api-key", "LLAMA_API_KEY"
KEY_FILE, KEY_FILE_VARIABLE = "--api-key-file", "LLAMA_ARG_API_KEY_FILE"
HOST = "--host"
ORIGINS, ORIGINS_VARIABLE = "--cors-origins", "LLAMA_ARG_CORS_ORIGINS"
# Pages that the browser got from this machine.
LOCAL_PAGES = "localhost"
# Not that of a model's own server, whose lines the router of several repeats after its port in brackets.
LISTENING = re.compile(r"(?!\[ *\d+\]).*listening on (\S+)$")


def take_keys(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The server's arguments without API keys, and the keys. Raises ToolError for --api-key without one."""
    rest, keys, left = [], [], iter(arguments)
    for argument in left:
        if spelled(argument.partition("=")[0]) != KEY:
            rest.append(argument)
        elif key := argument.partition("=")[2] or next(left, ""):
            keys.append(key)
        else:
            raise ToolError(f"{KEY} has no key after it", f"{KEY} KEY, {KEY_FILE} FILE or the variable {KEY_VARIABLE}")
    return rest, keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what decides who may ask: options of llama-server that are ours to see."""
    parser.add_argument(
        KEY, action="append", default=[], metavar="KEY", help=f"asked of clients; `ps` shows it, unlike {KEY_FILE}"
    )
    parser.add_argument(KEY_FILE, metavar="FILE", help=f"keys, one a line; or one in the variable {KEY_VARIABLE}")
    usage = "pages of other sites that may read answers (default: only pages of this machine)"
    parser.add_argument(ORIGINS, metavar="URL,..", help=usage)


def chosen(args: argparse.Namespace) -> list[str]:
    """The same for llama-server."""
    pairs = [*((KEY, key) for key in args.api_key), (KEY_FILE, args.api_key_file), (ORIGINS, args.cors_origins)]
    return [part for name, value in pairs if value is not None for part in (name, value)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at this address: a loopback one, or a socket in the file system."""
    if host == "localhost" or host.endswith(".sock"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listens_at(host: str, arguments: Sequence[str]) -> str:
    """The addresses at which the server will listen: those of a later --host (after `--`) come in the place of ours."""
    for at, argument in enumerate(arguments):
        name, has_value, value = argument.partition("=")
        if spelled(name) == HOST:
            host = value if has_value else next(iter(arguments[at + 1 :]), host)
    return host


def exposed(hosts: str, arguments: Sequence[str], keys: Sequence[str]) -> str:
    """A warning for a server that other machines reach without a key; empty if there is none to give."""
    open_to = [host for host in hosts.split(",") if not is_loopback(host)]
    has_key = keys or KEY_FILE in arguments or os.environ.get(KEY_VARIABLE) or os.environ.get(KEY_FILE_VARIABLE)
    if not open_to or has_key:
        return ""
    return (
        f"warning: everybody who reaches {open_to[0]} can use this server: it has no API key; "
        f"give one by {KEY_FILE} FILE or {KEY_VARIABLE}, or listen at 127.0.0.1"
    )


def origins(arguments: Sequence[str]) -> list[str]:
    """The argument that lets only pages of this machine read answers, unless the user has said which pages may."""
    chosen = ORIGINS in arguments or os.environ.get(ORIGINS_VARIABLE)
    return [] if chosen else [ORIGINS, LOCAL_PAGES]


def server_command(
    build: Build, models: Sequence[str | Path], arguments: Sequence[str], host: str, port: int
) -> list[str | Path]:
    """The command that serves. `models`: the options that name them; `arguments` have no key in them."""
    address = ["--host", host, "--port", str(port)]
    return [build.binary("llama-server"), *models, *address, *origins(arguments), *arguments]


def serve(
    build: Build,
    models: Sequence[str | Path],
    arguments: Sequence[str],
    environment: dict[str, str | None],
    host: str,
    port: int,
) -> None:
    """Runs llama-server until it is interrupted; `models` as of `server_command`.

    Raises TmacError when it ends by itself.
    """
    rest, keys = take_keys(arguments)
    if warning := exposed(listens_at(host, rest), rest, keys):
        console.log(warning, console.RED)
    if keys:
        environment = environment | {KEY_VARIABLE: ",".join([*filter(None, [os.environ.get(KEY_VARIABLE)]), *keys])}
    command = server_command(build, models, rest, host, port)
    hint = f"is another server at port {port}? --port 0 takes a free one" if port else ""
    process.run(command, env=environment, log=log_file("serve"), on_line=_say, hint=hint)


def _say(line: str) -> None:
    console.detail(line)
    if listening := LISTENING.match(line):
        url = _reachable(listening[1])
        console.log(f"open {url} in a browser; programs use the OpenAI API at {url}/v1; Ctrl-C ends", console.BOLD)


def _reachable(url: str) -> str:
    """The address for this machine of a server that listens at all of them."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
