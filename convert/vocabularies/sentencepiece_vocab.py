"""tokenizer.model (SentencePiece, BPE type) -> pieces, scores and types of llama.cpp's `llama` vocabulary."""

from __future__ import annotations

from pathlib import Path

import sentencepiece
from gguf import TokenType

from ..errors import ConvertError
from .sentencepiece_model import MODEL_TYPES, ModelFacts, read_model_facts
from .vocabulary import DAMAGED, OTHER_MODEL, Vocabulary, as_searched

# SentencePiece numbers the types of its pieces as GGUF does, 1 to 6.
_PIECE_TYPES = range(TokenType.NORMAL, TokenType.BYTE + 1)


def read_sentencepiece(path: Path, size: int) -> Vocabulary:
    """The pieces of the model, padded to `size`.

    Raises ConvertError when it is damaged, not of the BPE type, or has more pieces than `size`.
    """
    model = sentencepiece.SentencePieceProcessor()
    try:
        data = path.read_bytes()
        model.LoadFromSerializedProto(data)
        pieces = [model.IdToPiece(i).encode() for i in range(model.GetPieceSize())]
        facts = read_model_facts(data)
    # A ValueError is a piece that is not UTF-8, or a field that is not what it should be.
    except (OSError, RuntimeError, ValueError) as error:
        raise ConvertError(f"{path}: not a SentencePiece model ({error})", DAMAGED) from error
    _check_model(path, facts, len(pieces))
    if not 0 < len(pieces) <= size:
        raise ConvertError(
            f"{path}: has {len(pieces)} pieces, expected 1 to {size} (vocab_size)",
            OTHER_MODEL,
        )
    vocabulary = Vocabulary(
        texts=[as_searched(piece, kind) for piece, kind in zip(pieces, facts.piece_types)],
        scores=[model.GetScore(i) for i in range(len(pieces))],
        types=list(facts.piece_types),
        add_space_prefix=None if facts.add_dummy_prefix else False,
    )
    vocabulary.pad(size)
    return vocabulary


def _check_model(path: Path, facts: ModelFacts, count: int) -> None:
    kind = MODEL_TYPES.get(facts.model_type, f"type {facts.model_type}")
    if kind != "bpe":
        raise ConvertError(
            f"{path}: the SentencePiece model is of the {kind} type, expected bpe",
            "llama.cpp would split texts by merging pairs, which is another tokenization than this model's",
        )
    if len(facts.piece_types) != count or not all(kind in _PIECE_TYPES for kind in facts.piece_types):
        raise ConvertError(f"{path}: not a SentencePiece model (a piece has no known type)", DAMAGED)
