"""Vocabulary: the tokens of a model as a GGUF holds them, whatever file they came from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
from gguf import TokenType

from ..errors import ConvertError

SENTENCEPIECE, BYTE_LEVEL = "llama", "gpt2"
# What SentencePiece writes in place of a space.
SPACE_MARK = "\u2581"
# llama.cpp prefers higher scores; added tokens are matched as a whole before it merges, so theirs is never compared.
ADDED_SCORE = -1000.0
DAMAGED = "the file is damaged; download it again"
OTHER_MODEL = "the tokenizer and the weights are from different models"
_PHI3 = re.compile("phi-?3", re.IGNORECASE)


@dataclass
class Vocabulary:
    """Token i is texts[i] (UTF-8) with a TokenType; one per row of the embedding.

    model             llama.cpp's name of the algorithm: `llama` merges by `scores`; `gpt2` splits texts as its
                      pre-tokenizer `pre` does, then merges by `merges` ("left right", best first)
    special_ids       by kind: bos, eos, ...
    add_flags         by kind: whether llama.cpp puts this token around a text
    strips_like_phi3  whether special tokens take the spaces that follow, by the rule that llama.cpp has for Phi-3
    """

    texts: list[bytes]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    model: str = SENTENCEPIECE
    pre: str = "default"
    special_ids: dict[str, int] = field(default_factory=dict)
    add_flags: dict[str, bool] = field(default_factory=dict)
    add_space_prefix: bool | None = None
    chat_templates: dict[str, str] = field(default_factory=dict)
    strips_like_phi3: bool = False
    notes: list[str] = field(default_factory=list)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.texts)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        for kind, token in self.special_ids.items():
            getattr(writer, f"add_{kind}_token_id")(token)
        for kind, flag in self.add_flags.items():
            getattr(writer, f"add_add_{kind}_token")(flag)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        for name, text in self.chat_templates.items():
            if name == "default":
                writer.add_chat_template(text)
            elif text:
                writer.add_string(gguf.Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), text)
        if names := [name for name, text in self.chat_templates.items() if name != "default" and text]:
            writer.add_array(gguf.Keys.Tokenizer.CHAT_TEMPLATES, names)

    def name_for(self, name: str) -> str:
        """The model's name, changed if llama.cpp would derive from it a rule for special tokens that does not hold.

        In models called Phi-3 most special tokens take the spaces that follow (llama_vocab::impl::load of llama.cpp).
        """
        if bool(_PHI3.search(name)) == self.strips_like_phi3:
            return name
        return f"{name} (tokens of Phi-3)".strip() if self.strips_like_phi3 else _PHI3.sub("phi_3", name)

    def id_of(self, text: str) -> int | None:
        """The token with this text, None if there is none."""
        encoded = text.encode(errors="surrogatepass")
        return self.texts.index(encoded) if encoded in self.texts else None

    def pad(self, size: int) -> None:
        """Fills up to `size` with unused tokens, which no text becomes."""
        self.texts += pad_texts(range(len(self.texts), size), self.texts)
        missing = size - len(self.types)
        self.types += [int(TokenType.UNUSED)] * missing
        if self.scores is not None:
            self.scores += [ADDED_SCORE] * missing

    def set_token(self, token: int, text: bytes, kind: TokenType) -> None:
        """Makes `token` an added token."""
        self.texts[token] = as_searched(text, kind) if self.model == SENTENCEPIECE else text
        self.types[token] = int(kind)
        if self.scores is not None:
            self.scores[token] = ADDED_SCORE

    def check(self, file: Path) -> None:
        """Raises ConvertError for what llama.cpp would stop at: two tokens with one text."""
        first: dict[bytes, int] = {}
        for token, text in enumerate(self.texts):
            if first.setdefault(text, token) != token:
                raise ConvertError(
                    f"{file}: tokens {first[text]} and {token} are both {text.decode(errors='replace')!r}, "
                    "expected every text once",
                    "llama.cpp cannot load such a vocabulary; remove one of the two from the tokenizer's files",
                )


def as_searched(text: bytes, kind: int) -> bytes:
    """The text of a SentencePiece token. llama.cpp searches for user-defined ones before it marks spaces."""
    return text.replace(SPACE_MARK.encode(), b" ") if kind == TokenType.USER_DEFINED else text


def pad_texts(tokens: Iterable[int], taken: Iterable[bytes]) -> list[bytes]:
    """A text for each of these unused tokens, which are different, that is none of `taken`."""
    taken = set(taken)
    texts = []
    for token in tokens:
        text = f"[PAD{token}]".encode()
        while text in taken:
            text = b"[" + text + b"]"
        texts.append(text)
    return texts


def utf8(file: Path, text: str) -> bytes:
    """The bytes of a text of this file. Raises ConvertError for half a surrogate pair, which JSON can spell."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ConvertError(f"{file}: {text[:40]!r} is not valid Unicode text", DAMAGED) from error
