"""Small vocabularies trained with the `tokenizers` package, and texts to compare tokenizations on."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

CORPUS = Path(__file__).parents[1] / "data" / "languages.txt"
SPECIAL = ("<|begin|>", "<|end|>", "<|user|>")
# Not in the corpus: spaces of all kinds, unusual ends, control characters, decomposed characters.
TRAPS = [
    " leading",
    "  two",
    "   three",
    "trailing ",
    "trailing  ",
    "a  b   c    d",
    "\n",
    "\n\n",
    "\n \n\n \n\n\n",
    " \t\t \t\n",
    "a\n\n\nb",
    "a \n b",
    "a\r\nb\r\n\r\nc\r",
    "tab\tinside\t\ttwice",
    "no\u00a0break",
    "em\u2003space\u2009thin",
    "\u3000wide",
    "line\u2028sep\u2029par",
    "next\u0085line",
    "\u200bzero\u200cwidth\u200d",
    "\ufeffmark",
    "I'm 'told he's 'RE 'M 'Ve a'lL o'clock '",
    "e\u0301 a\u0308 combining",
    "\u0e01\u0e33\u0e49 Thai",
    "\u0627\u0651\u064e",
    "3 33 333 3333 33333 333333 3333333 3.3 3..3",
    " 1 12 123 a1b22c333",
    "x=1,y=22;z=-333",
    "\u0663\u0664\u0665\u0666 \u00bd\u00be \u2460",
    "price:$5.00!!!",
    "...wait...what?!",
    "(a)(b) [c]{d}",
    "#!/bin/sh\n# -*- x -*-\n",
    "    indented\n\tboth",
    "!\n\n!\n",
    "?\r\n\r\n?",
    "foo/bar//baz/\n/",
    "__init__(self)",
    "CamelCASEWord HTTPServer aB Ab AB ab",
    "<|begin|>text<|end|>",
    "in<|user|>word <|user|> x",
    "<|begin",
    "\u0000nul\u0007bell\u001besc",
    "\U0001f9d1\u200d\U0001f4bb\ufe0f",
    "\U00020000\U0002a6d6 rare",
    "\U0001d400\U0001d7ce math",
    "\u212b \ufb01 \u01c5",
    "1\u0301 \u0301 2\u0308",
    "-\u0301-\u0301a",
    "'told",
    "'mother",
    "'dear",
    "'Star",
    "'really",
    "'llama",
    "'very",
    "'REAL",
    "'SIR",
    "a" * 70,
    "=" * 70,
    " " * 70,
    "\n" * 20 + "x",
    "1" * 20,
    "ab" * 40,
    "\u4f60" * 30,
]
SENTENCEPIECE_OPTIONS = {
    "model_type": "bpe",
    "vocab_size": 1200,
    "byte_fallback": True,
    "character_coverage": 0.995,
    "split_digits": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "hard_vocab_limit": False,
    "minloglevel": 2,
}


def texts() -> list[str]:
    return [*CORPUS.read_text(encoding="utf-8").splitlines(), CORPUS.read_text(encoding="utf-8"), *TRAPS]


def train_byte_level(pre_tokenizer: dict, *, ignore_merges: bool = False, across: bool = True) -> Tokenizer:
    """A byte-level BPE with three special tokens and this pre_tokenizer, in the form of tokenizer.json.

    With `across` it is trained on whole texts, so it has tokens across every place where the pre_tokenizer splits, and
    any split too few or too many shows. Otherwise it is trained on the parts that the pre_tokenizer leaves, as real
    models are.
    """
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = with_parts(Tokenizer(models.BPE()), pre_tokenizer=whole if across else pre_tokenizer)
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=6000, min_frequency=2, initial_alphabet=alphabet, max_token_length=8, show_progress=False
    )
    tokenizer.train_from_iterator([*texts()] * 2, trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    model = {**json.loads(tokenizer.to_str())["model"], "ignore_merges": ignore_merges}
    return with_parts(tokenizer, model=model, pre_tokenizer=pre_tokenizer)


def with_parts(tokenizer: Tokenizer, **parts) -> Tokenizer:
    """The tokenizer with these parts of its tokenizer.json replaced."""
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), **parts}))


def train_sentencepiece(folder: Path, **options) -> Path:
    """A tokenizer.model of the BPE type with byte fallback."""
    path = folder / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS.read_text(encoding="utf-8").splitlines() * 3),
            model_writer=file,
            **{**SENTENCEPIECE_OPTIONS, **options},
        )
    return path


def sentencepiece_json(model: Path, by_score: bool, added: list[dict], **parts) -> Tokenizer:
    """The conversion of a tokenizer.model as transformers does it: every split of a piece into two pieces is a merge.
    Merges are ordered by the pieces' scores, then longer left parts first; or by their ids, then shorter left parts
    first.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = {pieces.IdToPiece(i): i for i in range(pieces.GetPieceSize())}
    ids.setdefault("\t", ids["<0x09>"])
    ranks = {text: -pieces.GetScore(i) if by_score else i for text, i in ids.items()}
    sign = -1 if by_score else 1
    splits = [(text, text[:at], text[at:]) for text in ids for at in range(1, len(text))]
    merges = [(text, left, right) for text, left, right in splits if left in ids and right in ids]
    merges.sort(key=lambda merge: (ranks[merge[0]], sign * len(merge[1]), sign * len(merge[2])))
    bpe = models.BPE(ids, [merge[1:] for merge in merges], byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    return with_parts(Tokenizer(bpe), added_tokens=added, **parts)


def added_token(tokenizer_id: int, content: str, special: bool, **flags) -> dict:
    """One of the added_tokens of a tokenizer.json."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": tokenizer_id, "content": content, "special": special, **plain, **flags}
