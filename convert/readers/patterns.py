"""Regular expressions in a checkpoint's settings, which say to which layers a setting applies.

A file from elsewhere must not make a conversion hang or fill the memory. The regex package reads expressions as
Python's own re does, and unlike re takes a time limit.
"""

from __future__ import annotations

import re

import regex

from ..errors import ConvertError

MATCH_SECONDS = 0.5
# Bounds what regex builds in memory: it grows with the product of nested repetitions.
MAX_LENGTH, MAX_REPETITIONS = 4000, 3
_BRACES = re.compile(r"\{[^}]*\}?")
_REPETITION = re.compile(r"\{\d{1,2}(,\d{0,2})?\}")


class Pattern:
    """A regular expression from the file and key `where`, with which its ConvertErrors begin.

    Raises ConvertError if it is malformed, has more than MAX_LENGTH characters, more than MAX_REPETITIONS of the form
    `{m,n}`, or numbers above 99 in one of these.
    """

    def __init__(self, text: str, where: str):
        self._text, self._where = text, where
        braces = _BRACES.findall(text)
        if len(text) > MAX_LENGTH or len(braces) > MAX_REPETITIONS or not all(map(_REPETITION.fullmatch, braces)):
            limits = f"{MAX_LENGTH} characters and {MAX_REPETITIONS} repetitions like {{1,99}}"
            raise self._refusal(f"is too large, expected at most {limits}")
        try:
            self._compiled = regex.compile(text)
        except (regex.error, RecursionError, OverflowError, ValueError) as error:
            raise self._refusal(f"is not a regular expression ({error})") from error

    def match(self, name: str) -> bool:
        """Whether it matches a beginning of `name`."""
        return self._finds(self._compiled.match, name)

    def search(self, name: str) -> bool:
        """Whether it matches anywhere in `name`."""
        return self._finds(self._compiled.search, name)

    def _finds(self, find, name: str) -> bool:
        try:
            return find(name, timeout=MATCH_SECONDS) is not None
        except TimeoutError as error:
            raise self._refusal(f"takes more than {MATCH_SECONDS} s for the layer {name[:100]}") from error

    def _refusal(self, what: str) -> ConvertError:
        return ConvertError(
            f"{self._where}: the regular expression {self._text[:100]!r} {what}",
            "the file is damaged, or the expression can be written more simply",
        )
