"""tokenizer.json with byte-level BPE (GPT-2's kind: Llama 3, Qwen, Falcon, ...) -> llama.cpp's `gpt2` vocabulary."""

from __future__ import annotations

from gguf import TokenType

from ..errors import ConvertError
from . import pretokenizers
from .bpe import byte_characters
from .tokenizer_json import TokenizerJson, byte_token
from .vocabulary import BYTE_LEVEL, OTHER_MODEL, Vocabulary, pad_texts, utf8

# Bytes that no UTF-8 text has.
_NEVER_IN_TEXT = (0xC0, 0xC1, *range(0xF5, 0x100))
_NFC_NOTE = "llama.cpp does not compose characters (NFC) before it splits a text; text that is composed is the same"


def is_byte_level(tokenizer: TokenizerJson) -> bool:
    """Whether it works on bytes, each shown as a character."""
    return any(step.get("type") == "ByteLevel" for step in tokenizer.pre_tokenizers)


def read_byte_level(tokenizer: TokenizerJson, size: int) -> Vocabulary:
    """The tokens and merges of the model; rows of the embedding without a token are unused.

    Raises ConvertError when it has more tokens than `size`, or splits or merges texts in a way llama.cpp has not.
    """
    tokenizer.refuse_options()
    notes = _normalizer_notes(tokenizer)
    texts = token_texts(tokenizer, size)
    added = tokenizer.added_texts
    ordinary = [text for text in tokenizer.tokens if text not in added]
    pre, merges, note = pretokenizers.recognise(tokenizer, ordinary)
    _check_bytes(tokenizer)
    vocabulary = Vocabulary(
        texts=encoded(tokenizer, texts),
        types=[int(TokenType.UNUSED if text is None else TokenType.NORMAL) for text in texts],
        merges=[f"{left} {right}" for left, right in merges if " " not in left + right],
        model=BYTE_LEVEL,
        pre=pre,
        notes=[*notes, *([note] if note else [])],
    )
    name_unused(vocabulary)
    return vocabulary


def token_texts(tokenizer: TokenizerJson, size: int) -> list[str | None]:
    """The text of each row, None where there is none. Raises ConvertError if a token has no row."""
    texts: list[str | None] = [None] * size
    for text, token in tokenizer.tokens.items():
        if token >= size:
            raise ConvertError(
                f"{tokenizer.path}: token {text[:40]!r} has id {token}, expected at most {size - 1} (vocab_size)",
                OTHER_MODEL,
            )
        # Of two texts with one id, that of SentencePiece's byte token counts.
        if texts[token] is None or byte_token(texts[token]) == text:
            texts[token] = text
    return texts


def encoded(tokenizer: TokenizerJson, texts: list[str | None]) -> list[bytes]:
    """The UTF-8 bytes of each row's text, b"" for None."""
    return [b"" if text is None else utf8(tokenizer.path, text) for text in texts]


def name_unused(vocabulary: Vocabulary) -> None:
    """Gives every unused token a text of its own."""
    unused = [token for token, kind in enumerate(vocabulary.types) if kind == TokenType.UNUSED]
    for token, text in zip(unused, pad_texts(unused, vocabulary.texts)):
        vocabulary.texts[token] = text


def _normalizer_notes(tokenizer: TokenizerJson) -> list[str]:
    """llama.cpp changes nothing in a text before it splits it."""
    kinds = [step.get("type") for step in tokenizer.normalizers]
    for kind in kinds:
        if kind != "NFC":
            raise ConvertError(
                f"{tokenizer.path}: normalizer is {kind!r}, expected none or 'NFC'",
                "llama.cpp does not change a text before it splits it; the tokens would differ",
            )
    return [_NFC_NOTE] if kinds else []


def _check_bytes(tokenizer: TokenizerJson) -> None:
    """Raises ConvertError if a byte without a token becomes the unknown token; otherwise it is left out everywhere."""
    unknown = tokenizer.model.get("unk_token")
    missing = [
        byte
        for byte, character in enumerate(byte_characters())
        if character not in tokenizer.tokens and byte not in _NEVER_IN_TEXT
    ]
    if missing and unknown is not None:
        raise ConvertError(
            f"{tokenizer.path}: byte 0x{missing[0]:02X} has no token and becomes {unknown!r}, expected a token for it",
            "llama.cpp would leave the byte out",
        )
