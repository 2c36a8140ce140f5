"""A fact that our code repeats of llama.cpp: how it is compared, and changes that the comparison must see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from support.llama_tree import LlamaTree, NotFound

REPOSITORY = Path(__file__).parents[2]
Check = Callable[[LlamaTree], Iterable[str]]
# Path in the tree, a text in that file, and what is put in its place.
Change = tuple[str, str, str]


@dataclass(frozen=True)
class Fact:
    """`check` gives one sentence for each difference: what llama.cpp says now, and what we say.

    `modules` are ours that repeat it, or a C file is; `theirs` are the files of llama.cpp. Each of `changes` makes
    `check` say something.
    """

    name: str
    modules: Sequence[ModuleType | Path]
    theirs: str
    check: Check
    changes: Sequence[Change]

    @property
    def ours(self) -> str:
        """The files of our modules; of a package its folder."""
        files = [module if isinstance(module, Path) else Path(module.__file__) for module in self.modules]
        paths = [file.resolve().relative_to(REPOSITORY) for file in files]
        return ", ".join((path.parent if path.stem == "__init__" else path).as_posix() for path in paths)

    @property
    def row(self) -> str:
        """The fact's line in patches/README.md."""
        test = f"tests/upstream/{self.check.__module__.rpartition('.')[2]}.py"
        ours, theirs = (", ".join(f"`{path}`" for path in paths.split(", ")) for paths in (self.ours, self.theirs))
        return f"| {self.name} | {ours} | {theirs} | `{test}` |"

    def explain(self, llama: LlamaTree) -> str:
        """What differs and what to do; empty if nothing does."""
        try:
            found = list(self.check(llama))
        except NotFound as missing:
            found = [str(missing)]
        except KeyError as missing:
            found = [f"llama.cpp has no {missing} where the comparison looks for it"]
        if not found:
            return ""
        lines = "\n".join(f"  - {line}" for line in found)
        return (
            f"{self.name}: llama.cpp ({self.theirs}) and our copy do not agree:\n{lines}\n"
            f"Change {self.ours}, or, where it is of no use to us, the list of such things in tests/upstream."
        )


def words(text: str) -> set[str]:
    """The names in a text."""
    return set(text.split())


def differences(what: str, theirs: dict, ours: dict) -> list[str]:
    """One sentence for each key whose values differ, or that only one of both has."""
    found = []
    for key in sorted({*theirs, *ours}, key=str):
        if key not in theirs:
            found.append(f"llama.cpp has no {what} {key} any more; ours is {ours[key]!r}")
        elif key not in ours:
            found.append(f"llama.cpp has the {what} {key} = {theirs[key]!r}; we do not know it")
        elif theirs[key] != ours[key]:
            found.append(f"llama.cpp now says {theirs[key]!r} for the {what} {key}; ours is {ours[key]!r}")
    return found


def new_and_gone(what: str, theirs: Iterable[str], used: Iterable[str], unused: Iterable[str]) -> list[str]:
    """Names that llama.cpp has and neither we nor the list of unused ones have, and those that it has no longer."""
    theirs, used, unused = set(theirs), set(used), set(unused)
    found = [f"llama.cpp has no {what} {name} any more; we use it" for name in sorted(used - theirs)]
    found += [f"llama.cpp has no {what} {name} any more; it is listed as unused" for name in sorted(unused - theirs)]
    new = sorted(theirs - used - unused)
    return found + [f"llama.cpp has the new {what} {name}: use it, or list it as unused" for name in new]
