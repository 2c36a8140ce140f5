"""The page of llama-server at which a person can chat: built by npm from the tree's sources and its lock file.

In: a llama.cpp tree, npm and its registry. Out: a folder of files, which CMake compiles into llama-server when `place`
has put them into the tree. The wheel is made from a build that has them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from tmac.common import console, files, process
from tmac.common.paths import log_file, work_folder

from ..errors import ToolError

SOURCES = Path("tools/ui")
# Where CMake looks for a page that is built already.
PLACE = SOURCES / "dist"
# Beside it, because every file in it becomes part of the server: says that we put it there, and which it is.
MARK = SOURCES / ".tmac-page"
INDEX = "index.html"
# What the sources' build tool (vite 7) runs on.
NODE = (20, 19)
KEY_LENGTH = 12


def build(source: Path) -> Path:
    """The folder with the page of a tree, made unless it is there: about two minutes. Raises TmacError."""
    if not (source / SOURCES / "package-lock.json").is_file():
        raise ToolError(f"{source} has no sources of a page in {SOURCES}", "build without --ui")
    folder = work_folder() / f"page-{_key(source)}"
    if (folder / INDEX).is_file():
        return folder
    _require_node()
    console.log("building the server's page by npm (about two minutes)")
    with files.replacing_folder(folder) as output:
        # npm writes into its folder, and the tree is for CMake alone. Beside the output it goes with it, also after a
        # kill.
        work = shutil.copytree(source / SOURCES, output.with_name("ui"), ignore=shutil.ignore_patterns("dist"))
        hint = "npm needs its registry: check the network and `npm config get registry`"
        # Scripts of packages would download browsers for tests of the page.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
        process.run(command, cwd=work, log=log_file("page-packages"), hint=hint, starts_others=True)
        environment = {"LLAMA_UI_OUT_DIR": str(output), "LLAMA_BUILD_NUMBER": "0"}
        command = ["npm", "run", "build"]
        process.run(command, cwd=work, env=environment, log=log_file("page"), starts_others=True)
        if not (output / INDEX).is_file():
            raise ToolError(f"npm made no {INDEX}", f"see {work_folder() / 'logs' / 'page.log'}")
    return folder


def place(source: Path, page: Path | None) -> None:
    """Puts a built page into a tree, or takes out what was put there. A page that came with the tree stays."""
    mark, target = source / MARK, source / PLACE
    found = mark.read_text() if mark.is_file() else None
    if found == (page.name if page else None):
        return
    if found is not None:
        shutil.rmtree(target, ignore_errors=True)
        mark.unlink()
    if page:
        shutil.rmtree(target, ignore_errors=True)
        # The mark comes first: a copy that was cut off is ours too.
        mark.write_text("")
        shutil.copytree(page, target)
        mark.write_text(page.name)


def _key(source: Path) -> str:
    """A hash of the page's sources."""
    state = hashlib.sha256()
    for path in sorted((source / SOURCES).rglob("*")):
        name = path.relative_to(source / SOURCES)
        if path.is_file() and name.parts[0] not in ("dist", "node_modules", MARK.name):
            state.update(f"{name.as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return state.hexdigest()[:KEY_LENGTH]


def _require_node() -> None:
    """Raises TmacError unless npm and a node of NODE or later are on PATH."""
    process.find("npm")
    said = process.output(["node", "--version"]).strip()
    version = re.match(r"v(\d+)\.(\d+)", said)
    if not version or tuple(map(int, version.groups())) < NODE:
        wanted = ".".join(map(str, NODE))
        raise ToolError(
            f"the page needs node {wanted} or later, found {said or 'none'}", "install a newer Node.js from nodejs.org"
        )
