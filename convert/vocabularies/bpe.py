"""Byte pair encoding itself: what a conversion needs to foresee how llama.cpp will use a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

Pair = tuple[str, str]


def byte_characters() -> list[str]:
    """The visible character that stands for each byte 0 to 255 in a byte-level vocabulary (GPT-2's table).

    Bytes that are a visible character of Latin-1 stand for themselves, the others are U+0100, U+0101, ... in order.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


_BYTES = {character: byte for byte, character in enumerate(byte_characters())}


def byte_text(token: str) -> str:
    """The text of a byte-level token; halves of characters, and what is no such token, are left out."""
    return bytes(_BYTES[character] for character in token if character in _BYTES).decode(errors="ignore")


def merge(symbols: Iterable[str], ranks: dict[Pair, int], taken: list[int] | None = None) -> list[str]:
    """Joins the pair of the lowest rank, the leftmost of equals, until no pair has one.

    The ranks are appended to `taken` as they come.
    """
    symbols = list(symbols)
    none = len(ranks)
    found = [ranks.get(pair, none) for pair in pairwise(symbols)]
    while found and (best := min(found)) != none:
        at = found.index(best)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        # Only the pairs beside the new symbol are others than before.
        del found[at]
        for place in (at - 1, at):
            if 0 <= place < len(found):
                found[place] = ranks.get((symbols[place], symbols[place + 1]), none)
        if taken is not None:
            taken.append(best)
    return symbols


def unmerged(tokens: Iterable[str], merges: list[Pair]) -> list[str]:
    """The tokens that merging their own characters does not give: no word ever becomes one of them."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    return [token for token in tokens if len(merge(token, ranks)) > 1]
