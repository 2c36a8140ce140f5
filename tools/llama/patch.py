"""Puts T-MAC into a llama.cpp tree: call sites by patch, new files by copy, generated kernels.

Each step changes only what is not yet as it should be, so that a second run changes nothing and rebuilds nothing.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from tmac.common import console, process
from tmac.common.paths import ROOT

from ..errors import ToolError

PATCHES = ROOT / "patches" / "llama.cpp"
KERNELS = Path("ggml/src/ggml-cpu/tmac/kernels")
# In a tree while patches are written into it: git writes one file after the other.
UNFINISHED = ".tmac-patching"


def prepare(source: Path, write_kernels: Callable[[Path], Sequence[Path]], patches: Path = PATCHES) -> list[Path]:
    """Patches a tree, adds the overlay and the kernels. Returns the files that changed. Raises ToolError."""
    changed = apply_patches(source, sorted(patches.glob("*.patch")))
    changed += copy_overlay(patches / "overlay", source)
    changed += write_kernels(source / KERNELS)
    if changed:
        console.detail(f"patched {source}: {len(changed)} files changed")
    return changed


def series_state(patches: Path = PATCHES) -> str:
    """A hash of what cannot be taken out of a patched tree again: the patches' text, the overlay's file names."""
    state = hashlib.sha256()
    for path in sorted(patches.glob("*.patch")):
        state.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for path in _overlay_files(patches / "overlay"):
        state.update(f"{path.relative_to(patches).as_posix()}\n".encode())
    return state.hexdigest()


def apply_patches(source: Path, patches: Sequence[Path]) -> list[Path]:
    """Applies, in order, those of the patches that the tree does not have yet: all of them or none.

    Returns the files that were changed. Raises TmacError when a patch does not fit, naming patch, file and line.
    """
    process.find("git")
    done = _applied(source, patches)
    rest = patches[done:]
    if not rest:
        return []
    for count in range(1, len(rest) + 1):
        check = _git_apply(source, ["--check"], rest[:count])
        if check.returncode:
            raise _does_not_fit(source, rest[count - 1], check.stderr.decode("utf-8", "replace"))
    console.command(_typed(source, rest))
    (source / UNFINISHED).touch()
    applied = _git_apply(source, [], rest)
    if applied.returncode:
        raise _does_not_fit(source, rest[0], applied.stderr.decode("utf-8", "replace"))
    (source / UNFINISHED).unlink()
    return _touched(source, rest)


def _applied(source: Path, patches: Sequence[Path]) -> int:
    """How many patches, from the first, the tree has: the longest run that `git apply --reverse` accepts."""
    for count in range(len(patches), 0, -1):
        run = patches[:count]
        # Newer versions of git reverse the order of a series by themselves, older ones must be given it reversed.
        if any(_git_apply(source, ["--check", "--reverse"], order).returncode == 0 for order in (run, run[::-1])):
            return count
    return 0


def _git_apply(source: Path, options: Sequence[str], patches: Sequence[Path]):
    """Runs `git apply` as if outside any repository, on all patches as one: written together or not at all.

    Inside a repository git takes the paths of a patch as relative to its top and silently skips those outside the
    current folder; the tree usually lies in a git-ignored folder of T-MAC's own checkout.
    """
    series = b"".join(patch.read_bytes() for patch in patches)
    return process.capture(_command(source, options), env=_environment(source), stdin=series)


def _command(source: Path, options: Sequence[str]) -> list[str | Path]:
    return ["git", "-C", source, "-c", "core.autocrlf=false", "apply", *options, "-"]


def _environment(source: Path) -> dict[str, str | None]:
    env: dict[str, str | None] = {name: None for name in os.environ if name.startswith("GIT_")}
    return env | {"GIT_CEILING_DIRECTORIES": str(source.resolve().parent)}


def _typed(source: Path, patches: Sequence[Path]) -> str:
    """The line for a shell that does what `_git_apply` does."""
    return f"cat {shlex.join(map(str, patches))} | {process.command_line(_command(source, []), _environment(source))}"


def _touched(source: Path, patches: Sequence[Path]) -> list[Path]:
    names = _git_apply(source, ["--numstat", "-z"], patches).stdout.decode("utf-8", "replace").split("\0")
    return sorted({source / name.split("\t")[2] for name in names if name.count("\t") == 2})


def _does_not_fit(source: Path, patch: Path, reason: str) -> ToolError:
    lines = "\n".join(f"  {line}" for line in reason.splitlines())
    return ToolError(
        f"{patch.name} does not fit {source}; nothing was changed\n{lines}",
        "if the tree was edited or comes from an older T-MAC: tmac build --clean; "
        "if it is a newer llama.cpp: patches/README.md says how to refresh the patches",
    )


def copy_overlay(overlay: Path, source: Path) -> list[Path]:
    """Copies every file below `overlay` to the same path in the tree, where its content differs. Returns those."""
    changed = []
    for path in _overlay_files(overlay):
        target = source / path.relative_to(overlay)
        content = path.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            changed.append(target)
    return changed


def _overlay_files(overlay: Path) -> list[Path]:
    return sorted(path for path in overlay.rglob("*") if path.is_file())
