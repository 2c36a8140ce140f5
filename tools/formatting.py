"""The formatting of the checkout's Python and C: ruff and clang-format with the settings that lie in the repository.

Comes in: the files that git tracks or would add. Goes out: what is wrong with them, or the same files formatted.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from tmac.common import process

from .errors import ToolError

C_SUFFIXES = (".c", ".h", ".cpp")
# Goldens are as the generator writes them.
LEFT_OUT = ("tests/golden/",)


def check(folder: Path) -> str:
    """What ruff and clang-format object to; empty if nothing. Raises ToolError where they are not installed."""
    return "\n".join(filter(None, (_run(folder, command) for command in _commands(folder, writes=False))))


def write(folder: Path) -> str:
    """Formats all files. Returns what only a person can mend. Raises ToolError where the programs are not installed."""
    return "\n".join(filter(None, (_run(folder, command) for command in _commands(folder, writes=True))))


def _commands(folder: Path, writes: bool) -> list[list[str]]:
    for module in ("ruff", "clang_format"):
        if importlib.util.find_spec(module) is None:
            raise ToolError(f"{module} is not installed", f"cd {folder} && .venv/bin/pip install -e '.[test]'")
    programs = Path(sys.executable).parent
    ruff, clang_format = str(programs / "ruff"), str(programs / "clang-format")
    lint = [ruff, "check", "--quiet", "--output-format", "concise", *(["--fix"] if writes else [])]
    python = [ruff, "format", "--quiet", *([] if writes else ["--check"])]
    c_files = _c_files(folder)
    c = [clang_format, *(["-i"] if writes else ["--dry-run", "-Werror"]), *c_files]
    return [lint, python, c] if c_files else [lint, python]


def _c_files(folder: Path) -> list[str]:
    listed = process.capture(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=folder)
    if listed.returncode:
        raise ToolError(f"git does not list the files of {folder}", "formatting is of a git checkout")
    names = [name for name in listed.stdout.decode("utf-8", "surrogateescape").split("\0") if name.endswith(C_SUFFIXES)]
    return [name for name in names if not name.startswith(LEFT_OUT) and (folder / name).is_file()]


def _run(folder: Path, command: Sequence[str]) -> str:
    """What a command says if it objects to anything."""
    done = process.capture(command, cwd=folder)
    said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    return (said or f"{Path(command[0]).name} {command[1]} failed") if done.returncode else ""
