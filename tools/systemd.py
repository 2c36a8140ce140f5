"""`tmac serve --systemd`: a unit that starts the same server with the machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tmac.common.paths import work_folder

from .errors import ToolError

# What the server writes to: its own folder, and downloads of the hub client.
_UNIT = """\
# Save it as /etc/systemd/system/tmac.service, then: sudo systemctl daemon-reload && sudo systemctl enable --now tmac
[Unit]
Description=T-MAC, an OpenAI-compatible API
Wants=network-online.target
After=network-online.target

[Service]
User={user}
Environment=TMAC_HOME={home}
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
_SECRETS = ("--api-key",)


def unit(arguments: Sequence[str]) -> str:
    """The text of the unit for `tmac` with these arguments. Raises ToolError for a key among them."""
    if any(argument.partition("=")[0] in _SECRETS for argument in arguments):
        raise ToolError("--api-key would stand in the unit, which everybody can read", "give --api-key-file FILE")
    kept = [_absolute(argument) for argument in arguments if argument != "--systemd"]
    command = [_program(), *kept]
    return _UNIT.format(
        user=_user(), home=_quoted(str(work_folder())), command=" ".join(map(_quoted, map(_plain, command)))
    )


def _program() -> str:
    """This `tmac`, by its whole path."""
    beside = Path(sys.executable).with_name("tmac")
    return str(beside) if beside.is_file() else shutil.which("tmac") or str(Path(sys.argv[0]).absolute())


def _absolute(argument: str) -> str:
    """A path that exists, from the root: a unit starts in another folder."""
    path = Path(argument)
    return str(path.absolute()) if not argument.startswith("-") and path.exists() else argument


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
