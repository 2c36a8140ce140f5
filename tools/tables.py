"""Tables that people read at a terminal and that are Markdown as they are."""

from __future__ import annotations

from collections.abc import Sequence


def render(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width with bars between them; as many cells in each row as there are heads."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths))} |" for line in lines)
