"""Which special tokens the post_processor of a tokenizer.json puts around a text."""

from __future__ import annotations

from typing import Any

from .tokenizer_json import TokenizerJson

# These put the token cls in front and sep behind.
_PAIRS = ("RobertaProcessing", "BertProcessing")


def added_ends(tokenizer: TokenizerJson) -> dict[str, list[str]]:
    """{"bos": texts in front, "eos": texts behind}. Raises ConvertError."""
    front: list[str] = []
    behind: list[str] = []
    for step in tokenizer.post_processors:
        if step.get("type") == "TemplateProcessing":
            before, after = _template(tokenizer, step.get("single"))
            front, behind = before + front, behind + after
        elif step.get("type") in _PAIRS:
            front, behind = [_first(tokenizer, step, "cls"), *front], [*behind, _first(tokenizer, step, "sep")]
    return {"bos": front, "eos": behind}


def _template(tokenizer: TokenizerJson, pieces: Any) -> tuple[list[str], list[str]]:
    """The special tokens before and after the place of the text."""
    sides: tuple[list[str], list[str]] = ([], [])
    seen = False
    for piece in pieces if isinstance(pieces, list) else [None]:
        special = piece.get("SpecialToken") if isinstance(piece, dict) else None
        text = special.get("id") if isinstance(special, dict) else None
        if isinstance(text, str):
            sides[seen].append(text)
        elif isinstance(piece, dict) and "Sequence" in piece:
            seen = True
        else:
            raise tokenizer.damaged(f"single of post_processor holds {str(piece)[:60]!r}, expected its pieces")
    return sides


def _first(tokenizer: TokenizerJson, step: dict[str, Any], name: str) -> str:
    value = step.get(name)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise tokenizer.damaged(f"{name} of post_processor is {str(value)[:60]!r}, expected a text and an id")
    return value[0]
