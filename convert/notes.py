"""Notes for the user on a conversion."""

from __future__ import annotations


class Notes:
    """Collects notes; those that say the same of several things become one, with an example and a count."""

    def __init__(self):
        self._subjects: dict[str, list[str]] = {}

    def add(self, text: str, subject: str = "") -> None:
        """Notes `text`, of `subject` if it is about one of several (a tensor, a token)."""
        self._subjects.setdefault(text, []).append(subject)

    def lines(self) -> list[str]:
        """One line per different text, in the order of their first appearance."""
        return [_line(text, subjects) for text, subjects in self._subjects.items()]


def _line(text: str, subjects: list[str]) -> str:
    more = f" (and {len(subjects) - 1} more like it)" if len(subjects) > 1 else ""
    return f"{subjects[0]} {text}{more}".strip()
