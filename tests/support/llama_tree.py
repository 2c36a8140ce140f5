"""The pinned llama.cpp tree as data: small parsers of C and C++, with which tests/upstream checks our copies.

Comes in: the folder of a pristine tree. Goes out: enum values, macros, tables, block layouts, calls, options. A parser
that does not find what it looks for raises NotFound, which names the file: the text has changed its form, so adapt the
parser or the fact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

_STRING = r'"(?:\\.|[^"\\\n])*"'
_TOKEN = re.compile(rf"{_STRING}|'(?:\\.[^']*|[^'\\])'|//[^\n]*|/\*.*?\*/", re.DOTALL)
_MARK = re.compile(rf"{_TOKEN.pattern}|[][(){{}},]", re.DOTALL)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
# Bytes of the types that fields of ggml's blocks have, and their alignment.
_FIELD_BYTES = {"ggml_half": 2, "uint8_t": 1, "int8_t": 1, "uint16_t": 2, "int16_t": 2, "uint32_t": 4, "float": 4}


class NotFound(LookupError):
    """The tree does not contain what a parser or a change looks for."""


@dataclass(frozen=True)
class LlamaTree:
    """The texts of a tree, some of them replaced (`texts`, by path)."""

    folder: Path
    texts: Mapping[str, str] = field(default_factory=dict)

    def raw(self, path: str) -> str:
        """The text of a file, comments included."""
        if path in self.texts:
            return self.texts[path]
        if not (self.folder / path).is_file():
            raise NotFound(f"llama.cpp has no {path} any more: look where it went")
        return _read(self.folder / path)

    def code(self, path: str) -> str:
        """The text of a file without comments."""
        return without_comments(self.raw(path))

    def paths(self, pattern: str) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))

    def changed(self, path: str, old: str, new: str) -> LlamaTree:
        """The tree with every `old` in a file replaced: for tests of the comparisons themselves."""
        text = self.raw(path)
        if old not in text:
            raise NotFound(f"{path} has no {old!r} that a test could change: give it another change")
        return replace(self, texts={**self.texts, path: text.replace(old, new)})

    # Parsers of one thing each, by file.

    def enum(self, path: str, name: str) -> dict[str, int]:
        """The values of `enum name`."""
        values: dict[str, int] = {}
        following = 0
        for entry in split(self.block(path, rf"enum {name}\s*(?::\s*\w+\s*)?\{{")):
            key, _, value = (part.strip() for part in entry.partition("="))
            values[key] = following = values[value] if value in values else int(value, 0) if value else following
            following += 1
        return values

    def macros(self, path: str) -> dict[str, str]:
        """The values of all `#define NAME value` without parameters; of several with one name, the last."""
        return dict(
            re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S[^\n]*?)[ \t]*$", self.code(path), re.MULTILINE)
        )

    def macro(self, path: str, name: str) -> str:
        found = self.macros(path)
        if name not in found:
            raise NotFound(f"{path} has no #define {name}")
        return found[name]

    def table(self, path: str, name: str) -> list[tuple[str, str]]:
        """The pairs {KEY, "text"} or {KEY, {A, B}} of a table `name = { ... }`; the second as it is written."""
        return _pairs(self.block(path, rf"\b{name}\s*=\s*\{{"))

    def texts_of(self, path: str, name: str) -> dict[str, str]:
        """A table of texts."""
        return {key: unquoted(value) for key, value in self.table(path, name)}

    def block(self, path: str, start: str) -> str:
        """The text between the bracket that ends the pattern `start` and its closing bracket."""
        text = self.code(path)
        found = re.search(start, text)
        if not found:
            raise NotFound(f"{path} has nothing like /{start}/")
        return enclosed(text, found.end() - 1)

    def function(self, path: str, name: str) -> str:
        """The body of a function that is defined in a file."""
        return self.block(path, rf"\b{re.escape(name)}\s*\([^;{{]*\)\s*(?:const\s*)?\{{")

    def calls(self, path: str, name: str) -> list[list[str]]:
        """The arguments of every call of `name` in a file."""
        return calls_in(self.code(path), name)


@cache
def without_comments(text: str) -> str:
    return _TOKEN.sub(lambda token: " " if token[0].startswith("/") else token[0], text)


@cache
def _pairs(body: str) -> list[tuple[str, str]]:
    pairs = [split(entry[1:-1]) for entry in split(body)]
    return [(key, value) for key, value in pairs]


@cache
def _read(path: Path) -> str:
    return path.read_text("utf-8")


def enclosed(text: str, start: int) -> str:
    """The text between the bracket at `start` and its closing bracket; string literals are skipped."""
    depth = 0
    for found in _MARK.finditer(text, start):
        depth += (found[0] in _PAIRS) - (found[0] in _PAIRS.values())
        if depth == 0:
            return text[start + 1 : found.start()]
    raise NotFound(f"a bracket is not closed: {text[start : start + 60]!r}")


def split(text: str) -> list[str]:
    """The parts between commas that are outside brackets and string literals, without an empty last one."""
    parts, depth, start = [], 0, 0
    for found in _MARK.finditer(text):
        depth += (found[0] in _PAIRS) - (found[0] in _PAIRS.values())
        if found[0] == "," and depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    parts.append(text[start:])
    return [part for part in map(str.strip, parts) if part]


def calls_in(code: str, name: str) -> list[list[str]]:
    return [split(enclosed(code, found.end() - 1)) for found in re.finditer(rf"(?<![\w:]){name}\s*\(", code)]


def strings(code: str) -> list[str]:
    """All string literals in the code."""
    return [unquoted(literal) for literal in re.findall(_STRING, code)]


def unquoted(literal: str) -> str:
    """The text of a C string literal, or of several that follow each other."""
    inner = "".join(part[1:-1] for part in re.findall(_STRING, literal))
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), inner)


def case_groups(body: str) -> Iterator[tuple[list[str], str]]:
    """The labels of a switch that share code, with the code up to the next label."""
    parts = re.split(r"\b(?:case\s+(\w+)|(default))\s*:", body)[1:]
    labels: list[str] = []
    for label, default, code in zip(parts[::3], parts[1::3], parts[2::3]):
        labels.append(label or default)
        if code.strip():
            yield labels, code
            labels = []


@dataclass(frozen=True)
class Block:
    """A block of a ggml type: bytes in all, and where its fields begin, by name."""

    nbytes: int
    offsets: dict[str, int]
    halves: tuple[int, ...]


def block_layout(llama: LlamaTree, name: str) -> Block:
    """The layout of `block_<name>` in ggml-common.h; unions have the fields of their first member."""
    path = "ggml/src/ggml-common.h"
    macros = llama.macros(path)
    text = llama.code(path)
    end = re.search(rf"\}}\s*block_{name}\s*;", text)
    if not end:
        raise NotFound(f"{path} has no block_{name}")
    body = enclosed(text, text.rindex("typedef struct {", 0, end.start()) + len("typedef struct "))
    # Of a union { struct { a; b; } S; other; } U; the fields of the struct.
    body = re.sub(r"GGML_EXTENSION union \{\s*struct \{(.*?)\}[^}]*\}\s*\w+\s*;", r"\1", body, flags=re.DOTALL)
    at, widest = 0, 1
    offsets, halves = {}, []
    for kind, member, count in re.findall(r"(\w+)\s+(\w+)\s*(?:\[([^;]*)\])?\s*;", body):
        size = _FIELD_BYTES[kind]
        at, widest = -(-at // size) * size, max(widest, size)
        offsets[member] = at
        halves += [at] if kind == "ggml_half" else []
        at += size * (evaluate(count, macros) if count else 1)
    return Block(-(-at // widest) * widest, offsets, tuple(halves))


def evaluate(expression: str, macros: Mapping[str, str]) -> int:
    """A constant expression of numbers and macros, as C computes it."""
    while names := re.findall(r"[A-Za-z_]\w*", expression):
        for name in names:
            if name not in macros:
                raise NotFound(f"{expression!r} has the unknown name {name}")
            expression = re.sub(rf"\b{name}\b", f"({macros[name]})", expression)
    return eval(expression.replace("/", "//"), {"__builtins__": {}})
