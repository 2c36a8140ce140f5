"""Markdown tables, with columns of equal width so that they are also readable at a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def render(heads: Sequence[str], rows: Sequence[Sequence[str]], left_aligned: Collection[str] | None = None) -> str:
    """A table without a final line end; each row has as many cells as there are heads.

    left_aligned: heads of the columns that are, the others are right-aligned; None: all are, without alignment marks.
    """
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    is_left = [left_aligned is None or head in left_aligned for head in heads]
    rule = [_rule(width, None if left_aligned is None else left) for width, left in zip(widths, is_left)]
    lines = [
        [cell.ljust(width) if left else cell.rjust(width) for cell, width, left in zip(line, widths, is_left)]
        for line in (heads, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rule(width: int, is_left: bool | None) -> str:
    if is_left is None:
        return "-" * width
    return f":{'-' * (width - 1)}" if is_left else f"{'-' * (width - 1)}:"
