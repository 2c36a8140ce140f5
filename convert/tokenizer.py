"""tokenizer.model (SentencePiece) -> the vocabulary of a GGUF.

Comes in: tokenizer.model, and if present added_tokens.json, tokenizer_config.json, chat_template.jinja and the token
ids of config.json. Goes out: pieces, scores, types, special ids, chat template. Byte-level BPE is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
from gguf import TokenType

from .checkpoint import read_json
from .errors import ConvertError
from .notes import Notes
from .sentencepiece_model import MODEL_TYPES, ModelFacts, read_model_facts

MODEL_FILE = "tokenizer.model"
BPE_FILE = "tokenizer.json"
ADDED_FILE = "added_tokens.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"

SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad")
ADDED_TOKENS_WITH_A_FLAG = ("bos", "eos")
# SentencePiece prefers higher scores; added tokens are matched as a whole before it runs, so theirs is never compared.
ADDED_SCORE = -1000.0
_DAMAGED = "the file is damaged; download it again"
# Types by which a piece already says that it is special.
_OWN_TYPES = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE)
# SentencePiece numbers the types of its pieces as GGUF does, 1 to 6.
_PIECE_TYPES = range(TokenType.NORMAL, TokenType.BYTE + 1)


@dataclass
class Vocabulary:
    """Token i is texts[i] (UTF-8), with a score and a TokenType; one per row of the embedding."""

    texts: list[bytes]
    scores: list[float]
    types: list[int]
    special_ids: dict[str, int] = field(default_factory=dict)
    add_flags: dict[str, bool] = field(default_factory=dict)
    add_space_prefix: bool | None = None
    chat_template: str | None = None
    notes: list[str] = field(default_factory=list)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(self.texts)
        writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        for kind, token in self.special_ids.items():
            getattr(writer, f"add_{kind}_token_id")(token)
        for kind, flag in self.add_flags.items():
            getattr(writer, f"add_add_{kind}_token")(flag)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(folder: Path, config: dict[str, Any], size: int) -> Vocabulary:
    """The vocabulary of the checkpoint in `folder`, padded with unused tokens to `size` (the rows of the embedding).

    Raises ConvertError when there is no tokenizer.model, when it is damaged or not of the BPE type, or when it has more
    pieces than `size`.
    """
    settings_file = folder / CONFIG_FILE
    settings = read_json(settings_file) if settings_file.exists() else {}
    vocabulary = _read_pieces(_model_file(folder), size)
    _add_tokens(vocabulary, folder / ADDED_FILE, settings_file, settings)
    for kind in SPECIAL_TOKENS:
        token = _special_id(vocabulary, kind, settings, config)
        if token is not None:
            vocabulary.special_ids[kind] = token
    for kind in ADDED_TOKENS_WITH_A_FLAG:
        if isinstance(flag := settings.get(f"add_{kind}_token"), bool):
            vocabulary.add_flags[kind] = flag
    if isinstance(prefix := settings.get("add_prefix_space"), bool):
        vocabulary.add_space_prefix = prefix
    vocabulary.chat_template = _chat_template(folder / TEMPLATE_FILE, settings_file, settings)
    return vocabulary


def _model_file(folder: Path) -> Path:
    path = folder / MODEL_FILE
    if path.is_file():
        return path
    if (folder / BPE_FILE).is_file():
        raise ConvertError(
            f"{folder}: the tokenizer is {BPE_FILE} alone (byte-level BPE), expected {MODEL_FILE} (SentencePiece)",
            "this version converts only SentencePiece vocabularies",
        )
    raise ConvertError(f"{path} is missing", "the checkpoint has no tokenizer; copy it from the original model")


def _read_pieces(path: Path, size: int) -> Vocabulary:
    model = sentencepiece.SentencePieceProcessor()
    try:
        data = path.read_bytes()
        model.LoadFromSerializedProto(data)
        pieces = [model.IdToPiece(i).encode() for i in range(model.GetPieceSize())]
        facts = read_model_facts(data)
    # A ValueError is a piece that is not UTF-8, or a field that is not what it should be.
    except (OSError, RuntimeError, ValueError) as error:
        raise ConvertError(f"{path}: not a SentencePiece model ({error})", _DAMAGED) from error
    _check_model(path, facts, len(pieces))
    count = len(pieces)
    if not 0 < count <= size:
        raise ConvertError(
            f"{path}: has {count} pieces, expected 1 to {size} (vocab_size)",
            "the tokenizer and the weights are from different models",
        )
    padding = range(count, size)
    return Vocabulary(
        texts=pieces + [f"[PAD{i}]".encode() for i in padding],
        scores=[model.GetScore(i) for i in range(count)] + [ADDED_SCORE for _ in padding],
        types=facts.piece_types + [int(TokenType.UNUSED) for _ in padding],
        add_space_prefix=None if facts.add_dummy_prefix else False,
    )


def _check_model(path: Path, facts: ModelFacts, count: int) -> None:
    kind = MODEL_TYPES.get(facts.model_type, f"type {facts.model_type}")
    if kind != "bpe":
        raise ConvertError(
            f"{path}: the SentencePiece model is of the {kind} type, expected bpe",
            "llama.cpp would split texts by merging pairs, which is another tokenization than this model's",
        )
    if len(facts.piece_types) != count or not all(kind in _PIECE_TYPES for kind in facts.piece_types):
        raise ConvertError(f"{path}: not a SentencePiece model (a piece has no known type)", _DAMAGED)


def _add_tokens(vocabulary: Vocabulary, added_file: Path, settings_file: Path, settings: dict[str, Any]) -> None:
    notes = Notes()
    added = read_json(added_file) if added_file.exists() else {}
    for text, token in added.items():
        _add_token(vocabulary, notes, added_file, token, text, special=False)
    described = settings.get("added_tokens_decoder", {})
    if not isinstance(described, dict):
        raise ConvertError(f"{settings_file}: added_tokens_decoder is {described!r}, expected an object", _DAMAGED)
    for key, entry in described.items():
        token = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else key
        entry = entry if isinstance(entry, dict) else {}
        _add_token(vocabulary, notes, settings_file, token, entry.get("content"), special=entry.get("special") is True)
    vocabulary.notes += notes.lines()


def _add_token(
    vocabulary: Vocabulary, notes: Notes, file: Path, token: Any, text: Any, *, special: bool
) -> None:
    if type(token) is not int or token < 0 or not isinstance(text, str) or not text:
        raise ConvertError(f"{file}: added token {token!r} is {text!r}, expected an id and a text", _DAMAGED)
    if token >= len(vocabulary.texts):
        notes.add("is beyond the embedding; left out", f"{file.name}: token {text!r} with id {token}")
        return
    encoded = _utf8(file, text)
    if vocabulary.texts[token] == encoded and vocabulary.types[token] in _OWN_TYPES:
        return
    vocabulary.texts[token] = encoded
    vocabulary.scores[token] = ADDED_SCORE
    vocabulary.types[token] = int(TokenType.CONTROL if special else TokenType.USER_DEFINED)


def _special_id(vocabulary: Vocabulary, kind: str, settings: dict[str, Any], config: dict[str, Any]) -> int | None:
    """The id by the token's text in tokenizer_config.json, else by number in config.json (the first of a list)."""
    entry = settings.get(f"{kind}_token")
    text = entry.get("content") if isinstance(entry, dict) else entry
    if isinstance(text, str) and (encoded := text.encode(errors="replace")) in vocabulary.texts:
        return vocabulary.texts.index(encoded)
    token = config.get(f"{kind}_token_id")
    token = token[0] if isinstance(token, list) and token else token
    return token if type(token) is int and 0 <= token < len(vocabulary.texts) else None


def _chat_template(template_file: Path, settings_file: Path, settings: dict[str, Any]) -> str | None:
    """A file of its own comes first, as in transformers; of a list of named templates, the one named `default`."""
    if template_file.exists():
        try:
            return template_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConvertError(f"{template_file}: cannot be read as text ({error})", _DAMAGED) from error
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict) and entry.get("name") == "default"]
        found = named[0].get("template") if named else None
    if found is not None and not isinstance(found, str):
        raise ConvertError(f"{settings_file}: chat_template is a {type(found).__name__}, expected a text", _DAMAGED)
    return None if found is None else _utf8(settings_file, found).decode()


def _utf8(file: Path, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ConvertError(f"{file}: {text[:40]!r} is not valid Unicode text", _DAMAGED) from error
