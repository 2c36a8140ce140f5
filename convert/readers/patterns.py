"""Regular expressions from a checkpoint's settings, matched in time proportional to pattern times text.

Settings name layers by regular expressions, and Python's own matcher can be made to run for years by one line of JSON.
Here a pattern becomes a list of steps, and all ways through them are followed at once, one character after another.
Whether there is a match is all that is asked: no groups are captured, and lazy or greedy makes no difference.
Source: Ken Thompson, Regular Expression Search Algorithm, 1968.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConvertError

# Far above what names of layers need; bounds time and memory.
MAX_STEPS, MAX_DEPTH, MAX_AHEADS = 5_000, 50, 16
_QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
_GROUP_START = re.compile(r"\((\?:|\?=|\?!|\?P<\w+>|(?!\?))")
# One character, or a place between two: what Python's own matcher decides without going back.
_CLASS = re.compile(r"\[\^?\]?(\\.|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:[AZbBdDsSwWnrtfv]|[^A-Za-z0-9]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})", re.DOTALL)
_PLACES = ("^", "$", r"\A", r"\Z", r"\b", r"\B")


@dataclass
class _Step:
    """`accepts` one character (None: goes on without one), where `allows` agrees; then any of the steps `next`."""

    next: list[int]
    accepts: re.Pattern | None = None
    allows: Callable[[str, int], bool] | None = None


# Adds steps that go on to the given one; returns their first.
_Builder = Callable[[int], int]


class Pattern:
    """A regular expression as Python's `re` reads it, but for look-behind, back-references and flags.

    Raises ConvertError, beginning with `where`, for one that is malformed, beyond this or beyond all measure.
    """

    def __init__(self, text: str, where: str):
        try:
            re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise ConvertError(f"{where}: {text[:200]!r} is not a regular expression: {error}", _DAMAGED) from error
        self._text, self._where, self._at = text, where, 0
        self._steps = [_Step([])]
        self._aheads = 0
        self._known: dict[tuple[int, int], bool] = {}
        self._start = self._alternatives(0)(0)

    def matches(self, name: str) -> bool:
        """Whether the pattern matches at the beginning of `name`, as `re.match` does."""
        self._known.clear()
        return self._run(name, 0, self._start, 0)

    def _run(self, name: str, at: int, start: int, end: int) -> bool:
        """Whether a way leads from step `start` to step `end` that begins at character `at`."""
        current = [start]
        while current:
            reached, waiting = set(current), []
            while current:
                step = self._steps[current.pop()]
                if step.accepts is not None:
                    if at < len(name) and step.accepts.match(name[at]):
                        waiting += step.next
                elif step.allows is None or step.allows(name, at):
                    new = [index for index in step.next if index not in reached]
                    reached.update(new)
                    current += new
            if end in reached:
                return True
            current, at = list(dict.fromkeys(waiting)), at + 1
        return False

    def _alternatives(self, depth: int) -> _Builder:
        """`a|b|c`, read up to a closing parenthesis or the end."""
        if depth > MAX_DEPTH:
            self._refuse()
        builders = [self._sequence(depth)]
        while self._text.startswith("|", self._at):
            self._at += 1
            builders.append(self._sequence(depth))
        if len(builders) == 1:
            return builders[0]
        return lambda end: self._add(_Step([build(end) for build in builders]))

    def _sequence(self, depth: int) -> _Builder:
        items = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            items.append(self._repeated(self._item(depth), *self._quantifier()))

        def build(end: int) -> int:
            for item in reversed(items):
                end = item(end)
            return end

        return build

    def _repeated(self, item: _Builder, least: int, most: int | None) -> _Builder:
        """`item` from `least` to `most` times (None: without limit)."""
        if least == most == 1:
            return item

        def build(end: int) -> int:
            follow, needed = end, least
            if most is None:
                again = self._add(_Step([end]))
                follow = item(again)
                self._steps[again].next.append(follow)
                follow, needed = (again, 0) if least == 0 else (follow, least - 1)
            for _ in range((least if most is None else most) - least):
                follow = self._add(_Step([item(follow), end]))
            for _ in range(needed):
                follow = self._add(_Step([item(follow)]))
            return follow

        return build

    def _item(self, depth: int) -> _Builder:
        """One character, place or group."""
        if self._text[self._at] == "(":
            return self._group(depth)
        token = self._token()
        found = re.compile(token, re.DOTALL if token != "." else 0)
        if token in _PLACES:
            return lambda end: self._add(_Step([end], allows=lambda name, at: found.match(name, at) is not None))
        return lambda end: self._add(_Step([end], accepts=found))

    def _group(self, depth: int) -> _Builder:
        found = _GROUP_START.match(self._text, self._at)
        if found is None:
            self._refuse()
        self._at = found.end()
        inner = self._alternatives(depth + 1)
        self._at += 1
        if found[1] not in ("?=", "?!"):
            return inner
        wanted = found[1] == "?="

        def build(end: int) -> int:
            if self._aheads == MAX_AHEADS:
                self._refuse()
            self._aheads += 1
            goal = self._add(_Step([]))
            start = inner(goal)
            return self._add(_Step([end], allows=lambda name, at: self._ahead(name, at, start, goal) is wanted))

        return build

    def _ahead(self, name: str, at: int, start: int, goal: int) -> bool:
        """_run, once for each place of a name: look-aheads can lie in each other."""
        key = (at, start)
        if key not in self._known:
            self._known[key] = self._run(name, at, start, goal)
        return self._known[key]

    def _token(self) -> str:
        """The text of one character or place."""
        for kind, first in ((_ESCAPE, "\\"), (_CLASS, "[")):
            if self._text[self._at] == first:
                found = kind.match(self._text, self._at)
                if found is None:
                    self._refuse()
                self._at = found.end()
                return found[0]
        self._at += 1
        character = self._text[self._at - 1]
        return character if character in ".^$" else re.escape(character)

    def _quantifier(self) -> tuple[int, int | None]:
        found = _QUANTIFIER.match(self._text, self._at)
        if found is None or found[0] in ("{}", "{,}"):
            return 1, 1
        self._at = found.end()
        if self._text.startswith("+", self._at):
            self._refuse()
        self._at += self._text.startswith("?", self._at)
        if found[0] in "*+?":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[0]]
        least = int(found[1] or 0)
        return least, (int(found[3]) if found[3] else None) if found[2] else least

    def _add(self, step: _Step) -> int:
        if len(self._steps) >= MAX_STEPS:
            self._refuse()
        self._steps.append(step)
        return len(self._steps) - 1

    def _refuse(self) -> None:
        raise ConvertError(
            f"{self._where}: the regular expression {self._text[:200]!r} is not supported, expected one without "
            "look-behind, back-references, flags and large repetitions",
            "names of layers do not need them; write the expression in another way",
        )


_DAMAGED = "the configuration is damaged; download it again"
