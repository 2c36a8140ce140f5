"""`tmac serve --systemd`: a unit that starts the same server with the machine."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tmac.common import process
from tmac.common.paths import expand, work_folder

from .errors import ToolError
from .llama.draft import NGRAM
from .llama.options import known, spelled

# What the server writes to: its own folder, and downloads of the hub client.
_UNIT = """\
# Save it as /etc/systemd/system/tmac.service, then: sudo systemctl daemon-reload && sudo systemctl enable --now tmac
[Unit]
Description=T-MAC, an OpenAI-compatible API
Wants=network-online.target
After=network-online.target

[Service]
User={user}
{environment}
ExecStart={command}
Restart=on-failure
RestartSec=5
# The first start may convert and compile.
TimeoutStartSec=infinity
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""
# Where the hub client looks, if the user moved it.
_VARIABLES = ("HF_HOME", "HF_HUB_CACHE")
# Options with a file or a folder, or several with commas between them.
_FILES = {
    *("--api-key-file", "--chat-template-file", "--control-vector", "--control-vector-scaled", "--grammar-file"),
    *("--json-schema-file", "--log-file", "--log-prompts-dir", "--lookup-cache-dynamic", "--lookup-cache-static"),
    *("--lora", "--lora-scaled", "--media-path", "--mmproj", "--models-preset", "--path", "--slot-save-path"),
    *("--spec-draft-model", "--ssl-cert-file", "--ssl-key-file", "--ui-config-file", "--video-ffmpeg-dir"),
}


def unit(arguments: Sequence[str]) -> str:
    """The text of the unit for `tmac` with these arguments. Raises ToolError for a key among them."""
    for argument in arguments:
        if process.is_secret(argument):
            name = argument.partition("=")[0]
            hint = "give --api-key-file FILE" if "api" in name else "run `hf auth login` as the user of the server"
            raise ToolError(f"{name} would stand in the unit, which everybody can read", hint)
    command = [_program(), *_whole_paths([argument for argument in arguments if argument != "--systemd"])]
    found = {"TMAC_HOME": str(work_folder())}
    found |= {name: str(expand(os.environ[name]).absolute()) for name in _VARIABLES if os.environ.get(name)}
    # Of the two, this line replaces percent signs alone.
    lines = [f"Environment={_quoted(f'{name}={value}'.replace('%', '%%'))}" for name, value in found.items()]
    return _UNIT.format(
        user=_user(), environment="\n".join(lines), command=" ".join(map(_quoted, map(_plain, command)))
    )


def _whole_paths(arguments: Sequence[str]) -> list[str]:
    """The verb and its arguments with paths from the root, in MODEL and in options: a unit starts in another folder."""
    from .verbs import VERBS

    parser = argparse.ArgumentParser()
    VERBS["serve"].configure(parser)
    own = {name: action for action in parser._actions for name in action.option_strings}
    verb, *rest = arguments
    done = [verb]
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.partition("=")
        name = spelled(name)
        if not argument.startswith("-"):
            done.append(_model(argument))
        elif has_value:
            done.append(f"{name}={_value(name, value)}")
        else:
            done.append(argument)
            known_as = known().get(name)
            count = int(own[name].nargs is None) if name in own else known_as.values if known_as else 0
            done += [_value(name, value) for value in rest[:count]]
            del rest[:count]
    return done


def _value(name: str, value: str) -> str:
    option = known().get(name)
    if name == "--draft":
        return value if value == NGRAM else _model(value)
    if option is None or not _FILES.intersection(option.names):
        return value
    return ",".join(str(expand(part).absolute()) for part in value.split(","))


def _model(name: str) -> str:
    """A path if there is such a file or folder; otherwise a name of the hub, or of `tmac list`."""
    path = expand(name)
    return str(path.absolute()) if path.exists() else name


def _program() -> str:
    """This `tmac`, by its whole path."""
    beside = Path(sys.executable).with_name("tmac")
    return str(beside) if beside.is_file() else shutil.which("tmac") or str(Path(sys.argv[0]).absolute())


def _user() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or os.environ.get("LOGNAME") or "root"


def _plain(text: str) -> str:
    """What systemd would replace, doubled."""
    return text.replace("%", "%%").replace("$", "$$")


def _quoted(text: str) -> str:
    """One word of a line, in the quotes of systemd.syntax(7) where it needs them."""
    if text and not set(text) & set(" \t\"'\\;"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
