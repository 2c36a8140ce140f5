"""Regular expressions of checkpoint files, matched without backtracking, so that no file can make a conversion hang.

A match is worked out for all positions of the name at once: a set of positions is the bits of one integer, and every
part of an expression turns the set of positions where it may begin into the set where it may end. That needs time in
proportion to the expression and the name, and says whether there is a match, which is all that a rule asks.

Understood: literals, `.`, classes, `\\d \\w \\s` and their opposites, `^ $ \\b \\A \\Z`, groups with or without a name,
`|`, `* + ? {m,n}` greedy or lazy, and look-ahead. What else Python or PCRE know is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

MAX_LENGTH = 4000
MAX_DEPTH = 30
MAX_REPEATS = 1000
# Far above what honest rules need: for one name of some 100 characters, and for all names and rules of a file.
MAX_STEPS = 100_000
MAX_STEPS_OF_FILE = 50_000_000
_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal, "w": lambda char: char.isalnum() or char == "_", "s": str.isspace,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
# What maps the set of positions where a part may begin to those where it may end.
Step = Callable[["_Run", int], int]


class PatternError(ValueError):
    """An expression that is malformed, or has a part that is not understood, or is too large. Says which."""


class Budget:
    """The work that all rules of a file may need together."""

    def __init__(self):
        self.left = MAX_STEPS_OF_FILE


class Pattern:
    """A regular expression. All methods raise PatternError."""

    def __init__(self, text: str, budget: Budget):
        if len(text) > MAX_LENGTH:
            raise PatternError(f"it has {len(text)} characters, at most {MAX_LENGTH} are read")
        self._step = _Parser(text).whole()
        self._budget = budget

    def match(self, name: str) -> bool:
        """Whether it matches a beginning of `name`, as re.match does."""
        return self._run(name, 1)

    def search(self, name: str) -> bool:
        """Whether it matches anywhere in `name`, as re.search does."""
        return self._run(name, (2 << len(name)) - 1)

    def _run(self, name: str, begins: int) -> bool:
        run = _Run(name)
        found = self._step(run, begins) != 0
        self._budget.left -= run.steps + 1
        if self._budget.left < 0:
            raise PatternError(f"the rules of the file need more than {MAX_STEPS_OF_FILE} steps together")
        return found


@dataclass
class _Run:
    """One name, the positions of its characters by class, and how much work was done."""

    name: str
    steps: int = 0
    places: dict[int, int] = field(default_factory=dict)

    def count(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise PatternError(f"it needs more than {MAX_STEPS} steps for the name {self.name}")

    def where(self, key: int, accepts: Callable[[str], bool]) -> int:
        """The positions of the characters that `accepts` takes."""
        if key not in self.places:
            self.places[key] = sum(1 << i for i, char in enumerate(self.name) if accepts(char))
        return self.places[key]


def _one(accepts: Callable[[str], bool], run: _Run, begins: int) -> int:
    run.count()
    return (begins & run.where(id(accepts), accepts)) << 1


def _sequence(parts: list[Step], run: _Run, begins: int) -> int:
    for part in parts:
        begins = part(run, begins)
        if not begins:
            break
    return begins


def _either(branches: list[Step], run: _Run, begins: int) -> int:
    ends = 0
    for branch in branches:
        ends |= branch(run, begins)
    return ends


def _repeat(part: Step, low: int, high: int | None, run: _Run, begins: int) -> int:
    for _ in range(low):
        run.count()
        begins = part(run, begins)
        if not begins:
            return 0
    ends = fresh = begins
    times = low
    while fresh and (high is None or times < high):
        run.count()
        fresh = part(run, fresh) & ~ends
        ends |= fresh
        times += 1
    return ends


def _look_ahead(part: Step, wanted: bool, run: _Run, begins: int) -> int:
    run.count()
    places = (1 << i for i in range(len(run.name) + 1) if begins >> i & 1)
    return sum(place for place in places if (part(run, place) != 0) is wanted)


def _begin(run: _Run, begins: int) -> int:
    return begins & 1


def _end(before_newline: bool, run: _Run, begins: int) -> int:
    ends = 1 << len(run.name)
    return begins & (ends | ends >> 1 if before_newline and run.name.endswith("\n") else ends)


def _word_edge(run: _Run, begins: int) -> int:
    words = run.where(id(_CLASSES["w"]), _CLASSES["w"])
    return begins & (words ^ words << 1)


def _is_char(wanted: str, char: str) -> bool:
    return char == wanted


def _is_any(char: str) -> bool:
    return char != "\n"


def _is_not(accepts: Callable[[str], bool], char: str) -> bool:
    return not accepts(char)


def _is_between(low: str, high: str, char: str) -> bool:
    return low <= char <= high


def _is_in(members: list[Callable[[str], bool]], char: str) -> bool:
    return any(accepts(char) for accepts in members)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


class _Parser:
    """Recursive descent over the text."""

    def __init__(self, text: str):
        self.text, self.at, self.depth = text, 0, 0

    def whole(self) -> Step:
        step = self._branches()
        if self.at < len(self.text):
            raise PatternError(f"its ) at character {self.at + 1} closes nothing")
        return step

    def _branches(self) -> Step:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(f"its groups are nested more than {MAX_DEPTH} deep")
        branches = [self._parts()]
        while self._take("|"):
            branches.append(self._parts())
        self.depth -= 1
        return branches[0] if len(branches) == 1 else partial(_either, branches)

    def _parts(self) -> Step:
        parts = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return partial(_sequence, parts)

    def _repeated(self, atom: Step) -> Step:
        bounds = self._bounds()
        if bounds is None:
            return atom
        low, high = bounds
        if high is not None and high < low:
            raise PatternError(f"it repeats at least {low} and at most {high} times")
        self._take("?")
        if self.text[self.at:self.at + 1] in ("*", "+") or self._bounds() is not None:
            raise PatternError(f"two repetitions follow each other before character {self.at + 1}")
        return partial(_repeat, atom, low, high)

    def _bounds(self) -> tuple[int, int | None] | None:
        """The repetition at this place, None if there is none. Braces around anything but numbers are literal."""
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        end = self.text.find("}", self.at)
        if self.text[self.at:self.at + 1] != "{" or end < 0:
            return None
        low, comma, high = self.text[self.at + 1:end].partition(",")
        if comma and not low and (not high or _is_number(high)):
            raise PatternError("a repetition without its least number means different things to PCRE and to Python")
        if not _is_number(low) or (high and not _is_number(high)):
            return None
        if any(len(number) > 9 or int(number) > MAX_REPEATS for number in (low, high) if number):
            raise PatternError(f"it repeats more than {MAX_REPEATS} times")
        self.at = end + 1
        return int(low), int(high) if high else None if comma else int(low)

    def _atom(self) -> Step:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return partial(_one, self._set())
        if char == ".":
            return partial(_one, _is_any)
        if char == "^":
            return _begin
        if char == "$":
            return partial(_end, True)
        if char in "*+?":
            raise PatternError(f"its {char} at character {self.at} repeats nothing")
        if char == "\\":
            edges = {"b": _word_edge, "A": _begin, "Z": partial(_end, False)}
            if self.text[self.at:self.at + 1] in edges:
                return edges[self._next()]
            return partial(_one, self._escape())
        return partial(_one, partial(_is_char, char))

    def _group(self) -> Step:
        ahead = None
        if self._take("?"):
            kind = self._next()
            if kind in "=!":
                ahead = kind == "="
            elif kind == "P" and self._take("<"):
                while self._next() != ">":
                    continue
            elif kind != ":":
                raise PatternError(f"(?{kind} is not understood")
        inside = self._branches()
        if not self._take(")"):
            raise PatternError("a ( is not closed")
        return inside if ahead is None else partial(_look_ahead, inside, ahead)

    def _set(self) -> Callable[[str], bool]:
        negated = self._take("^")
        members = list(self._members())
        accepts = partial(_is_in, members)
        return partial(_is_not, accepts) if negated else accepts

    def _members(self) -> Iterator[Callable[[str], bool]]:
        first = True
        while first or self.text[self.at:self.at + 1] != "]":
            first = False
            low = self._next()
            if low == "\\":
                found = self._escape()
                if not (isinstance(found, partial) and found.func is _is_char):
                    yield found
                    continue
                low = found.args[0]
            if self.text[self.at:self.at + 1] == "-" and self.text[self.at + 1:self.at + 2] not in ("]", ""):
                self.at += 1
                high = self._next()
                high = self._next() if high == "\\" else high
                yield partial(_is_between, low, high)
            else:
                yield partial(_is_char, low)
        self.at += 1

    def _escape(self) -> Callable[[str], bool]:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char.lower() in _CLASSES:
            return partial(_is_not, _CLASSES[char.lower()])
        if char in _ESCAPES:
            return partial(_is_char, _ESCAPES[char])
        if char.isascii() and char.isalnum():
            raise PatternError(f"\\{char} is not understood")
        return partial(_is_char, char)

    def _take(self, char: str) -> bool:
        found = self.text.startswith(char, self.at)
        self.at += found
        return found

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise PatternError("it ends in the middle")
        self.at += 1
        return self.text[self.at - 1]
