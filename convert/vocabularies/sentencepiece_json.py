"""tokenizer.json that holds a SentencePiece model (Llama 2, Mistral, Gemma, Phi-3) -> llama.cpp's `llama` vocabulary.

The `tokenizers` package joins the pair of lowest rank, the leftmost of equals. llama.cpp joins the pair whose text has
the highest score, the leftmost of equals. Here the score of a text falls with the rank of its merges. Then both do the
same if these conditions hold, which are checked:

1. every pair that could meet and whose text is a token is a merge (else llama.cpp alone would join it);
2. the merges of one text have ranks next to each other, so that texts have an order;
3. joining a token's own characters goes through texts in this order, never back to an earlier one.

Why they suffice. Where nothing was joined across the ends of a stretch of text, the stretch is joined as it would be
alone. So by 3 all joining goes through the texts in their order: a pair that leads back would do so within its own
stretch. For pairs of one text, the order could only matter where two overlap: x, y, z side by side with x+y = y+z.
These two stretches are the same text, joined as it would be alone, so in the same parts. Hence x = y = z, and both
rules take the leftmost.

Texts of added tokens are cut out first, so that merges that make them do not count. The exception is runs of marked
spaces (`_check_marked`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gguf import TokenType

from ..errors import ConvertError
from .bpe import Pair, merge
from .bpe_vocab import encoded, name_unused, token_texts
from .tokenizer_json import TokenizerJson
from .vocabulary import SPACE_MARK, Vocabulary

_OTHERWISE = "llama.cpp would split texts otherwise; copy tokenizer.model from the original model into the folder"
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
_PREPEND = {"type": "Prepend", "prepend": SPACE_MARK}
# Gemma's. It splits nothing: spaces are marked before it.
_SPLIT_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
# Spaces of an added token; the check of the runs below it takes the third power of that.
MAX_MARKS = 256
_METASPACE_NOTE = "llama.cpp puts a space in front of every text, the original tokenizer only where there is none"
_FIRST_NOTE = "llama.cpp puts a space in front of the text after a special token, the original tokenizer does not"


def read_sentencepiece_json(tokenizer: TokenizerJson, size: int) -> Vocabulary:
    """The tokens with scores; rows of the embedding without a token are unused.

    Raises ConvertError for a tokenizer.json of another kind, and where llama.cpp would split texts otherwise.
    """
    prefix = _has_space_prefix(tokenizer)
    tokenizer.refuse_options("ignore_merges")
    texts = token_texts(tokenizer, size)
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    missing = sorted(bytes_ - tokenizer.tokens.keys())
    if missing or not tokenizer.flag("byte_fallback"):
        found = f"there is no token {missing[0]}" if missing else "byte_fallback is false"
        raise ConvertError(f"{tokenizer.path}: {found}, expected a token for each byte as fallback", _OTHERWISE)
    for pair in tokenizer.merges:
        if not bytes_.isdisjoint(pair):
            raise _differs(tokenizer, f"the merge {' '.join(pair)!r} joins a byte")
    order = _order(tokenizer)
    unknown = tokenizer.model.get("unk_token")

    def kind(text: str | None) -> TokenType:
        if text is None:
            return TokenType.UNUSED
        return TokenType.BYTE if text in bytes_ else TokenType.UNKNOWN if text == unknown else TokenType.NORMAL

    vocabulary = Vocabulary(
        texts=encoded(tokenizer, texts),
        types=[int(kind(text)) for text in texts],
        scores=[float(-order.get(text, len(order))) for text in texts],
        add_space_prefix=prefix,
        notes=space_notes(tokenizer),
    )
    name_unused(vocabulary)
    return vocabulary


def space_notes(tokenizer: TokenizerJson) -> list[str]:
    """How the spaces that Metaspace puts in front of texts differ from llama.cpp's, if the tokenizer has it."""
    for step in tokenizer.pre_tokenizers:
        if step.get("type") == "Metaspace" and (scheme := _prepend_scheme(step)) != "never":
            return [_METASPACE_NOTE, _FIRST_NOTE] if scheme == "first" else [_METASPACE_NOTE]
    return []


def _prepend_scheme(step: dict[str, Any]) -> Any:
    return step.get("prepend_scheme", "never" if step.get("add_prefix_space") is False else "always")


def _has_space_prefix(tokenizer: TokenizerJson) -> bool:
    """Whether a space is put in front of a text. Raises ConvertError if not only spaces are changed."""
    normalizers, steps = tokenizer.normalizers, tokenizer.pre_tokenizers
    if normalizers in ([_PREPEND, _REPLACE], [_REPLACE]) and steps in ([], [_SPLIT_AT_SPACES]):
        return len(normalizers) == 2
    if not normalizers and len(steps) == 1 and steps[0].get("type") == "Metaspace":
        marks_only = steps[0].get("replacement") == SPACE_MARK and steps[0].get("split", True) is False
        if marks_only and (scheme := _prepend_scheme(steps[0])) in ("always", "first", "never"):
            return scheme != "never"
    raise ConvertError(
        f"{tokenizer.path}: normalizer is {_spelled(normalizers)} and pre_tokenizer is {_spelled(steps)}, "
        "expected byte-level BPE, or spaces marked as SentencePiece does",
        _OTHERWISE,
    )


def _spelled(steps: list[dict[str, Any]]) -> str:
    return " then ".join(str(step)[:300] for step in steps) or "none"


def _order(tokenizer: TokenizerJson) -> dict[str, int]:
    """The texts that merges make, numbered from the best. Raises ConvertError unless 1 to 3 hold."""
    cut_out = tokenizer.added_texts
    merges = [pair for pair in tokenizer.merges if "".join(pair) not in cut_out]
    _check_marked(tokenizer, cut_out, len(merges))
    order: dict[str, int] = {}
    last = None
    for text in map("".join, merges):
        if text in order and text != last:
            raise _differs(tokenizer, f"the merges that make {text!r} are not next to each other")
        order.setdefault(text, len(order))
        last = text
    ranks = {pair: order["".join(pair)] for pair in merges}
    for text in order:
        merge(text, ranks, taken := [])
        if taken != sorted(taken):
            raise _differs(tokenizer, f"{text!r} is made of texts that come after it")
    known, ordinary = set(merges), tokenizer.tokens.keys() - cut_out
    for text in sorted(ordinary, key=tokenizer.tokens.__getitem__):
        for pair in _splits(text):
            if pair not in known and all(len(part) == 1 or part in ordinary for part in pair):
                raise _differs(tokenizer, f"{text!r} is a token, but {' '.join(pair)!r} is not a merge")
    return order


def _splits(text: str) -> Iterator[Pair]:
    return ((text[:at], text[at:]) for at in range(1, len(text)))


def _check_marked(tokenizer: TokenizerJson, cut_out: set[str], ordinary: int) -> None:
    """Added runs of space marks (Gemma's): the package makes them by merges, llama.cpp looks for the longest first.

    That is the same if these merges come before all others, and make the longest run from the left.
    """
    marked = {text for text in cut_out if SPACE_MARK in text}
    first = tokenizer.merges[: len(tokenizer.merges) - ordinary]
    later = set(map("".join, tokenizer.merges[len(first) :]))
    for text in sorted(marked, key=len):
        if text.strip(SPACE_MARK):
            raise _differs(tokenizer, f"the added token {text[:40]!r} holds a space mark")
        if len(text) > MAX_MARKS:
            raise tokenizer.damaged(f"an added token has {len(text)} spaces, expected at most {MAX_MARKS}")
        if text in later:
            raise _differs(tokenizer, f"the merges that make the added token {text!r} are not the first ones")
    ranks = {pair: rank for rank, pair in enumerate(first)}
    longest = max(map(len, marked), default=0)
    for count in range(1, 2 * longest + 2):
        runs, left = [], count
        while left:
            size = max((size for size in map(len, marked) if size <= left), default=1)
            runs.append(SPACE_MARK * size)
            left -= size
        if merge(SPACE_MARK * count, ranks) != runs:
            raise _differs(tokenizer, f"{count} spaces are not split into the longest added tokens")


def _differs(tokenizer: TokenizerJson, found: str) -> ConvertError:
    return ConvertError(
        f"{tokenizer.path}: {found}, expected the merges of a SentencePiece model in its order",
        _OTHERWISE,
    )
