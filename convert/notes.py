"""Notes for the user on a conversion, equal ones merged."""

from __future__ import annotations


class Notes:
    """Collects notes. Those that say the same of several subjects become one line, with the first and a count."""

    def __init__(self):
        self._subjects: dict[str, list[str]] = {}

    def add(self, text: str, subject: str = "") -> None:
        """Adds the note `text`, which continues `subject` (a tensor, a token) if there is one."""
        self._subjects.setdefault(text, []).append(subject)

    def lines(self) -> list[str]:
        """One line per distinct text, in the order in which they were first added."""
        return [_line(text, subjects) for text, subjects in self._subjects.items()]


def _line(text: str, subjects: list[str]) -> str:
    more = f" (and {len(subjects) - 1} more like it)" if len(subjects) > 1 else ""
    return f"{subjects[0]} {text}{more}".strip()
