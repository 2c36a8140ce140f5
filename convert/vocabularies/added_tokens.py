"""Tokens added to a vocabulary after its training, and which of them are special: from every file that lists them.

As in transformers, the files are added_tokens.json, tokenizer.json and tokenizer_config.json (added_tokens_decoder). An
entry of a later one replaces that of an earlier one. Special are tokens that are flagged so, and those that
special_tokens_map.json or tokenizer_config.json names. llama.cpp searches a text for all added tokens before it splits
the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from ..errors import ConvertError
from ..notes import Notes
from ..sources.checkpoint import read_json
from .tokenizer_json import TokenizerJson
from .vocabulary import DAMAGED, SENTENCEPIECE, Vocabulary, utf8

ADDED_FILE = "added_tokens.json"
# Types of pieces that are special already.
_OWN_TYPES = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE)
# In models that are called Phi-3, llama.cpp lets all special tokens but three take the spaces after them. It requires
# all of these tokens.
_PHI3_KEEPS = {b"<unk>", b"<s>", b"<|endoftext|>"}
_PHI3_TOKENS = _PHI3_KEEPS | {b"</s>"}


@dataclass(frozen=True)
class AddedToken:
    """One checked entry of `file`. `strips`: those of its flags lstrip, rstrip and single_word that are set."""

    file: Path
    token: int
    text: bytes
    special: bool
    strips: frozenset[str] = frozenset()


def add_tokens(
    vocabulary: Vocabulary,
    folder: Path,
    tokenizer: TokenizerJson | None,
    settings_file: Path,
    settings: dict[str, Any],
    special_texts: Iterable[str],
) -> None:
    """Puts the added tokens of all files into their rows; those beyond the embedding are left out with a note.

    Raises ConvertError where a list is damaged, or gives a row of a byte-level vocabulary a second text.
    """
    notes, strips = Notes(), {}
    for added in _entries(folder / ADDED_FILE, tokenizer, settings_file, settings):
        if added.token >= len(vocabulary.texts):
            text = added.text.decode()
            notes.add("is beyond the embedding; left out", f"{added.file.name}: token {text!r} with id {added.token}")
            continue
        _add(vocabulary, added)
        strips[added.text] = added.strips
    ids = {text: token for token, text in reversed(list(enumerate(vocabulary.texts)))}
    for text in special_texts:
        token = ids.get(text.encode(errors="surrogatepass"))
        if token is not None and vocabulary.types[token] not in _OWN_TYPES:
            vocabulary.set_token(token, vocabulary.texts[token], TokenType.CONTROL)
    _note_strips(vocabulary, strips, notes)
    vocabulary.notes += notes.lines()


def _entries(
    added_file: Path, tokenizer: TokenizerJson | None, settings_file: Path, settings: dict[str, Any]
) -> Iterator[AddedToken]:
    for text, token in (read_json(added_file) if added_file.exists() else {}).items():
        yield _entry(added_file, token, {"content": text})
    for entry in tokenizer.added_tokens if tokenizer else ():
        yield _entry(tokenizer.path, entry.get("id"), entry)
    described = settings.get("added_tokens_decoder", {})
    if not isinstance(described, dict):
        raise ConvertError(f"{settings_file}: added_tokens_decoder is {described!r}, expected an object", DAMAGED)
    for key, entry in described.items():
        token = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else key
        yield _entry(settings_file, token, entry if isinstance(entry, dict) else {})


def _entry(file: Path, token: Any, entry: dict[str, Any]) -> AddedToken:
    text = entry.get("content")
    if type(token) is not int or token < 0 or not isinstance(text, str) or not text:
        raise ConvertError(
            f"{file}: added token {repr(token)[:40]} is {repr(text)[:40]}, expected an id and a text",
            DAMAGED,
        )
    strips = frozenset(side for side in ("lstrip", "rstrip", "single_word") if entry.get(side) is True)
    return AddedToken(file, token, utf8(file, text), entry.get("special") is True, strips)


def _add(vocabulary: Vocabulary, added: AddedToken) -> None:
    before, kind = vocabulary.texts[added.token], vocabulary.types[added.token]
    # Also what an earlier list called special: it stays so.
    if before == added.text and kind in _OWN_TYPES:
        return
    if vocabulary.model != SENTENCEPIECE and kind != TokenType.UNUSED and before != added.text:
        raise ConvertError(
            f"{added.file}: added token {added.token} is {added.text.decode()!r}, "
            f"but the vocabulary has {before.decode()!r} there, expected one text for one id",
            DAMAGED,
        )
    vocabulary.set_token(added.token, added.text, TokenType.CONTROL if added.special else TokenType.USER_DEFINED)


def _note_strips(vocabulary: Vocabulary, strips: dict[bytes, frozenset[str]], notes: Notes) -> None:
    """Notes the flags, for which llama.cpp has no place, unless they are the rule that it has for Phi-3."""
    known = strips.keys() >= _PHI3_TOKENS and all(
        sides == (frozenset() if text in _PHI3_KEEPS else {"rstrip"}) for text, sides in strips.items()
    )
    vocabulary.strips_like_phi3 = known
    if known:
        return
    for text, sides in strips.items():
        if sides & {"lstrip", "rstrip"}:
            notes.add("takes the spaces beside it in the original tokenizer; llama.cpp keeps them", repr(text.decode()))
        if "single_word" in sides:
            notes.add("is no token within a word in the original tokenizer; llama.cpp takes it", repr(text.decode()))
