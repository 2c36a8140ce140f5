"""The rules of the tree: who may import whom, all can be imported, no circles, short files, each fact in one place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
# What each room may import of the others.
ROOMS = {
    "common": set(),
    "convert": {"common"},
    "kernels": {"common"},
    "tools": {"common", "convert", "kernels"},
}
LONGEST_FILE = 400
# Modules that need what is not always there: packages of llama.cpp's converter, a fuzzer, a build of llama.cpp.
NOT_ALONE = ("convert.upstream.child.", "tools.fuzz.guided_worker", "tools.python")
CODE = (".py", ".c", ".h", ".cpp", ".in", ".cmake")


@cache
def tracked() -> tuple[PurePosixPath, ...]:
    """The files of the checkout, without what git ignores."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    return tuple(path for name in listed.stdout.splitlines() if (ROOT / (path := PurePosixPath(name))).is_file())


def product() -> list[PurePosixPath]:
    """The code that users run: neither tests nor documents."""
    return [path for path in tracked() if path.suffix in CODE and path.parts[0] not in ("tests", "docs")]


def text_of(path: PurePosixPath) -> str:
    return (ROOT / path).read_text("utf-8")


def module_name(path: PurePosixPath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, PurePosixPath]:
    return {module_name(path): path for path in product() if path.suffix == ".py"}


def imports_of(module: str, *, inside: bool = False) -> set[str]:
    """The modules of the tree that a module imports when it is imported itself; with `inside` in functions too."""
    path, found = modules()[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(text_of(path))
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name.removeprefix("tmac.") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").removeprefix("tmac.")
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            # `from . import x` imports the module x; that its package is there already makes no circle.
            names = [name if (name := f"{base}.{alias.name}") in modules() else base for alias in node.names]
        else:
            continue
        found |= {name for name in names if name in modules()}
    return found - {module}


def circle_in(edges: dict[str, set[str]]) -> list[str]:
    """A circle, as the names on it, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if circle := visit(other, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(edges) if (circle := visit(name, []))), [])


def test_circles_are_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_rooms_import_what_they_may():
    for module in modules():
        room = module.partition(".")[0]
        if room in ROOMS:
            others = {name.partition(".")[0] for name in imports_of(module, inside=True)} - {room}
            assert others <= ROOMS[room], f"{module} imports {others - ROOMS[room]}"


def test_every_module_can_be_imported():
    """Also one that no command and no other test uses. In a process of its own, because some set up what they need."""
    names = [name for name in modules() if not name.startswith(NOT_ALONE) and not name.endswith("__main__")]
    assert "kernels.analyze" in names
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module('tmac.' + name)"
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_circle_of_imports():
    # A package's __init__ is imported before its modules; only what it imports itself counts.
    assert circle_in({module: imports_of(module) for module in modules()}) == []


def test_no_circle_of_includes():
    """Of headers and templates in kernels/c, which include each other by their path below it."""
    folder = PurePosixPath("kernels/c")
    sources = [path for path in product() if folder in path.parents]
    assert sources
    names = {str(path.relative_to(folder)) for path in sources}

    def included(path: PurePosixPath) -> set[str]:
        """As the compiler finds them: beside the file that includes, else below the folder."""
        found = re.findall(r'^#include "([^"]+)"', text_of(path), re.M)
        beside = {name: str(path.parent.relative_to(folder) / name) for name in found}
        return {beside[name] if beside[name] in names else name for name in found}

    edges = {str(path.relative_to(folder)): included(path) for path in sources}
    assert any(edges.values())
    assert circle_in(edges) == []


def test_files_are_short():
    long = {str(path): lines for path in product() if (lines := text_of(path).count("\n")) > LONGEST_FILE}
    assert long == {}


# What may stand once, as a pattern, and where it does.
FACTS = {
    "the id formula": (r"0x10 \* self\.bits", "common/format.py"),
    "the list of widths": (r"(?<!STREAMS\": )\(1, 2, 3, 4\)", "common/format.py"),
    "the list of groups": (r"32, 64, 128", "common/format.py"),
    "the key of the layout's version": (r"tmac\.layout_version", "common/format.py"),
    "the key of the source": (r"[\"']tmac\.source", "common/format.py"),
    "the key of the activations": (r"[\"']tmac\.activations", "common/format.py"),
    "the value of that key": (r"int8_per_token", "common/format.py"),
    "the suffix of orders": (r"[\"']\.order[\"']", "common/format.py"),
    "the fields of a kernel's row": (r"\"int\", \"crossing\"", "kernels/interface.py"),
    "the names of precisions": (r"\"rounded\"", "kernels/forms.py"),
    "the names of forms": (r"\"exact_tables\", \"fast_tables\"", "kernels/forms.py"),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_stands_in_one_file(fact):
    pattern, place = FACTS[fact]
    files = {str(path) for path in product() if re.search(pattern, text_of(path))}
    assert files == {place}
