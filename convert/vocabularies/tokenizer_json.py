"""Checked access to a tokenizer.json: the tokens, merges and steps of a BPE tokenizer of the `tokenizers` package.

Source: the package's serialization (models/bpe, normalizers, pre_tokenizers, processors).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..settings import MAX_TOKENS
from ..sources.checkpoint import read_json
from .bpe import Pair
from .vocabulary import DAMAGED, utf8

# The sum of the squares of all tokens' lengths, five times that of the largest vocabularies: it bounds the work of
# merging each token's own characters.
MAX_SQUARES = 100_000_000
# Mistral's expression, GPT-4o's with single digits: a word ends where a capital follows a small letter.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = "|".join(
    (
        f"{_BEFORE}{_UPPER}*{_LOWER}+",
        f"{_BEFORE}{_UPPER}+{_LOWER}*",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
# Options of a BPE model that llama.cpp does not have.
_UNKNOWN_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def byte_token(text: str) -> str | None:
    """The text of SentencePiece's token for a text of one byte, for example <0x09>; None for other texts."""
    encoded = text.encode()
    return f"<0x{encoded[0]:02X}>" if len(encoded) == 1 else None


class TokenizerJson:
    """The parts of one tokenizer.json, checked as they are asked for. Raises ConvertError where it is damaged."""

    def __init__(self, path: Path):
        self.path = path
        self._values = read_json(path)
        self.is_mended = False

    @cached_property
    def model(self) -> dict[str, Any]:
        """The BPE model. Raises ConvertError, naming it, for one of another type."""
        model = self._values.get("model")
        if not isinstance(model, dict):
            raise self.damaged(f"model is a {type(model).__name__}, expected an object")
        kind = model.get("type", "BPE" if "merges" in model else None)
        if kind != "BPE":
            raise ConvertError(
                f"{self.path}: the model is of the type {kind!r}, expected 'BPE'",
                "llama.cpp's vocabularies for language models merge pairs; it would split texts otherwise",
            )
        return model

    def flag(self, name: str) -> bool:
        """A true or false of the model; false if absent or null."""
        value = self.model.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.damaged(f"{name} is {value!r}, expected true or false")
        return bool(value)

    @cached_property
    def tokens(self) -> dict[str, int]:
        """The texts of the model's tokens and their ids.

        All ids are different, but for Gemma's "\\t": it has the id of its byte token and is there to be merged.
        """
        tokens = self.model.get("vocab")
        if not isinstance(tokens, dict) or not tokens:
            raise self.damaged(f"model.vocab is a {type(tokens).__name__}, expected an object with tokens")
        if sum(len(text) ** 2 for text in tokens) > MAX_SQUARES:
            longest = max(tokens, key=len)
            raise self.damaged(f"tokens such as {longest[:40]!r} of {len(longest)} characters are too long together")
        owners: dict[int, str] = {}
        for text, token in tokens.items():
            if type(token) is not int or not 0 <= token < MAX_TOKENS:
                raise self.damaged(f"token {text[:40]!r} has id {str(token)[:40]}, expected a whole number from 0")
            utf8(self.path, text)
            owner = owners.setdefault(token, text)
            if owner != text and byte_token(owner) != text and byte_token(text) != owner:
                raise self.damaged(f"tokens {owner[:40]!r} and {text[:40]!r} have the same id {token}")
        return tokens

    @cached_property
    def merges(self) -> list[Pair]:
        """In order of rank. A pair that is listed twice has its last rank, as in the `tokenizers` package."""
        merges = self.model.get("merges")
        if not isinstance(merges, list):
            raise self.damaged(f"model.merges is a {type(merges).__name__}, expected a list")
        ranks: dict[Pair, int] = {}
        for rank, entry in enumerate(merges):
            pair = entry.split(" ") if isinstance(entry, str) else entry
            found = f"merge {rank} is {str(entry)[:60]!r}"
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
                raise self.damaged(f"{found}, expected two tokens")
            left, right = pair
            for text in (left, right, left + right):
                if text not in self.tokens:
                    raise self.damaged(f"{found}, but {text[:40]!r} is not in the vocabulary")
            ranks[left, right] = rank
        return sorted(ranks, key=ranks.__getitem__)

    @property
    def added_tokens(self) -> list[dict[str, Any]]:
        return self._objects(self._values.get("added_tokens"), "added_tokens")

    @property
    def added_texts(self) -> set[str]:
        """The texts of added tokens; entries without one are left out."""
        return {text for entry in self.added_tokens if isinstance(text := entry.get("content"), str)}

    @property
    def normalizers(self) -> list[dict[str, Any]]:
        return list(self._steps(self._values.get("normalizer"), "normalizer", "normalizers"))

    @property
    def pre_tokenizers(self) -> list[dict[str, Any]]:
        return list(self._steps(self._values.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers"))

    def take_words_of_tekken(self) -> None:
        """Splits texts as Mistral's own tokenizer does, in place of the first step, as transformers mends it."""
        value = self._values.get("pre_tokenizer")
        steps = value.get("pretokenizers") if isinstance(value, dict) and value.get("type") == "Sequence" else None
        if isinstance(steps, list):
            rest = steps[1:]
        elif isinstance(value, dict) and value.get("type") == "Metaspace":
            rest = [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]
        else:
            rest = [value]
        split = {"type": "Split", "pattern": {"Regex": TEKKEN}, "behavior": "Isolated"}
        self._values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, *rest]}
        self.is_mended = True

    @property
    def post_processors(self) -> list[dict[str, Any]]:
        return list(self._steps(self._values.get("post_processor"), "post_processor", "processors"))

    def damaged(self, found: str) -> ConvertError:
        return ConvertError(f"{self.path}: {found}", DAMAGED)

    def refuse_options(self, *names: str) -> None:
        """Raises ConvertError if the model uses an option that llama.cpp has for no BPE model, or one of `names`."""
        for name in (*_UNKNOWN_OPTIONS, *names):
            if self.model.get(name) not in (None, "", 0, False):
                raise ConvertError(
                    f"{self.path}: {name} is {self.model[name]!r}, expected none",
                    "llama.cpp does not know this option and would split texts otherwise",
                )

    def _objects(self, value: Any, name: str) -> list[dict[str, Any]]:
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.damaged(f"{name} is not a list of objects")
        return value

    def _steps(self, value: Any, name: str, key: str) -> Iterator[dict[str, Any]]:
        """The steps that a Sequence holds, at any depth; none for null."""
        # The next step is the last one of the list.
        pending = [] if value is None else [value]
        while pending:
            step = pending.pop()
            if not isinstance(step, dict):
                raise self.damaged(f"{name} holds {str(step)[:40]!r}, expected an object")
            if step.get("type") == "Sequence":
                pending += reversed(self._objects(step.get(key), f"{key} of {name}"))
            else:
                yield step
