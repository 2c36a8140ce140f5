"""The pre-tokenizer of a tokenizer.json -> the name under which llama.cpp splits texts in the same way.

It is recognised by its steps, never by the model's name; one that is not in the table is an error. Where several names
split alike, the table has one.
Sources: src/llama-vocab.cpp of llama.cpp (names, their expressions, and which of them take a word that is a token
without merging), and pre_tokenizers of the `tokenizers` package.

In the table a step is one of:
`gpt2`, `llama3`, ...  split into words by one of the expressions of WORDS; they match everywhere in every text
`bytes`                each byte becomes a visible character (ByteLevel); what follows works on these characters
`digit`                each number character apart; `numbers`: runs of them apart
`punctuation`          runs of punctuation apart
`/expression/`         matches of the expression apart
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from ..errors import ConvertError
from .bpe import Pair, byte_text, unmerged
from .tokenizer_json import TokenizerJson

_UNKNOWN_HINT = "llama.cpp would split texts otherwise than the model was trained; ask for this one to be added"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Three spellings of one thing. The last one is llama.cpp's; it alone does not match the long s, U+017F.
_ENDINGS = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    "'(?i:[sdmt]|ll|ve|re)",
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
# Ranges of Chinese, Japanese and Korean; of letters with cases; of ASCII and wide punctuation.
_CJK, _KANA = "/[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+/", "/[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+/"
_LETTERS = (
    r"/\s?"
    "[A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b"
    "-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-"
    "\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc"
    "\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f"
    "\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-"
    "\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-"
    "\U000118df\U0001e900-\U0001e943]+/"
)
_PUNCTUATION = "/\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+/"
_BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)


def _words(letters: str, digits: str, symbols: str = _SYMBOLS) -> list[str]:
    """GPT-4's expression for words of `letters` and numbers of `digits`, in all its spellings.

    They differ in how the English endings are written, in possessive quantifiers (nothing that follows them could
    match what they hold on to), and in what is redundant after `\\s*`: it takes newlines too, up to the last one.
    """
    spellings = []
    # A combining mark could be in front of a word, or all of it.
    holding = ("", "+") if letters == r"\p{L}" else ("",)
    for endings, held, newlines, space in product(_ENDINGS, holding, ("+", ""), ("+", "")):
        word = rf"[^\r\n\p{{L}}\p{{N}}]?{held}{letters}+"
        symbol = symbols.replace("]+", "]+" + held, 1)
        spellings.append(rf"{endings}|{word}|{digits}|{symbol}|\s*[\r\n]{newlines}|\s+(?!\S)|\s{space}")
    return spellings


def _cased(digits: str, endings: str = "") -> list[str]:
    """GPT-4o's expression: a word ends where a capital follows a small letter."""
    first, second = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}{a}{_LOWER}{b}{endings}" for a, b in ("*+", "+*"))
    return [rf"{first}|{second}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"]


_HALVINGS = "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
WORDS: dict[str, list[str]] = {
    "gpt2": [_GPT2],
    "llama3": _words(r"\p{L}", r"\p{N}{1,3}"),
    "qwen2": _words(r"\p{L}", r"\p{N}"),
    "qwen35": _words(r"[\p{L}\p{M}]", r"\p{N}", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"),
    "minicpm5": _words(r"\p{L}", r"\p{N}+"),
    "ufakzeka": [rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SYMBOLS}|{_SPACES}"],
    "jais2": [
        rf"{_ENDINGS[0]}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|{_HALVINGS}|\s{{1}}"
    ],
    "seed": [rf"{_ENDINGS[0]}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"],
    "tekken": _cased(r"\p{N}"),
    "gpt4o": _cased(r"\p{N}{1,3}", _ENDINGS[0] + "?"),
    "deepseek3": [_DEEPSEEK3],
    "bloom": [_BLOOM],
}
_WORD_NAMES = {spelling: name for name, spellings in WORDS.items() for spelling in spellings}


@dataclass(frozen=True)
class PreTokenizer:
    """llama.cpp's names of a pre-tokenizer. With ignore_merges, a word that is a token is not merged.

    name      without ignore_merges; None: llama.cpp has no such name
    ignoring  with ignore_merges; None likewise
    fits      where llama.cpp splits less: whether a token can be within one word of the original. A merge that makes
              another token never applies in the original; it is left out, so that it does not in llama.cpp either
    closer    whether `ignoring` splits more like the original than `name`: it is then taken wherever possible
    note      what neither of the two does as the original
    """

    name: str | None = None
    ignoring: str | None = None
    fits: Callable[[str], bool] = lambda token: True
    closer: bool = False
    note: str = ""


def _is_number(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


def _numbers_apart(token: str) -> bool:
    return len({_is_number(character) for character in token}) == 1


def _numbers_alone(token: str) -> bool:
    return len(token) == 1 or not any(map(_is_number, token))


def _wide_spaces_apart(token: str) -> bool:
    text = byte_text(token)
    return len(text) < 2 or not any(character.isspace() and ord(character) >= 0x800 for character in text)


def _like_deepseek(token: str) -> bool:
    text = byte_text(token)
    digits = any(_is_number(left) and _is_number(right) for left, right in pairwise(text))
    return not digits and _wide_spaces_apart(token)


_CASES = "llama.cpp splits words at capitals only for ASCII letters: some words of other letters become other tokens"
_MARKS = _CASES + ", and words with combining marks"
TABLE: dict[tuple[str, ...], PreTokenizer] = {
    ("gpt2", "bytes"): PreTokenizer("gpt-2"),
    ("gpt2", "bytes", "digit"): PreTokenizer("gpt-2", fits=_numbers_alone),
    ("gpt2", "bytes", "numbers"): PreTokenizer("gpt-2", fits=_numbers_apart),
    ("digit", "gpt2", "bytes"): PreTokenizer("smollm"),
    ("llama3", "bytes"): PreTokenizer("smaug-bpe", ignoring="llama-bpe"),
    ("qwen2", "bytes"): PreTokenizer("qwen2"),
    # Groups of three digits, then each digit apart.
    ("llama3", "digit", "bytes"): PreTokenizer("qwen2"),
    ("qwen2", "digit", "bytes"): PreTokenizer("qwen2"),
    ("qwen35", "bytes"): PreTokenizer("qwen35"),
    (r"/\p{N}{1,3}/", "minicpm5", "bytes"): PreTokenizer(ignoring="minicpm5"),
    ("ufakzeka", "bytes"): PreTokenizer("ufakzeka"),
    ("jais2", "bytes"): PreTokenizer("jais-2"),
    ("seed", "bytes"): PreTokenizer("seed-coder"),
    ("tekken", "bytes"): PreTokenizer(ignoring="tekken", note=_MARKS),
    # The name stands for gpt-4o's expression with combining marks, which llama.cpp's gpt-4o leaves out.
    ("gpt4o", "bytes"): PreTokenizer("gpt-4o", ignoring="granite-embed-multi-97m", closer=True, note=_MARKS),
    ("bloom", "bytes"): PreTokenizer("bloom"),
    ("bloom", "digit", "bytes"): PreTokenizer("viking"),
    (r"/\p{N}{1,3}/", _KANA, "deepseek3", "bytes"): PreTokenizer("deepseek-v3"),
    (r"/[\r\n]/", r"/\s?\p{L}+/", r"/\s?\p{P}+/", _CJK, "digit", "bytes"): PreTokenizer(
        "deepseek-coder", fits=_wide_spaces_apart
    ),
    # llama.cpp leaves runs of digits together, and in both a wide space with what is beside it. Not seen are tokens
    # that join half a character to another one: a vocabulary trained with these steps has them only where they belong.
    (r"/[\r\n]/", _LETTERS, _PUNCTUATION, r"/\s+$/", _CJK, "digit", "bytes"): PreTokenizer(
        "deepseek-llm", fits=_like_deepseek
    ),
    # Falcon splits at number characters after ByteLevel, so also inside of letters; llama.cpp before it.
    ("punctuation", "gpt2", "bytes", "numbers", "/[0-9][0-9][0-9]/"): PreTokenizer("falcon", fits=_numbers_apart),
    ("punctuation", "gpt2", "bytes", "digit", "/[0-9][0-9][0-9]/"): PreTokenizer("falcon", fits=_numbers_alone),
    ("punctuation", "gpt2", "bytes", "digit"): PreTokenizer("falcon", fits=_numbers_alone),
}


def recognise(tokenizer: TokenizerJson, ordinary: list[str]) -> tuple[str, list[Pair], str]:
    """llama.cpp's name of the pre-tokenizer, the merges to go with it, and a note for the user or "".

    `ordinary` are the tokens that merging is to give. Raises ConvertError when there is no such name, or when words
    that are tokens would be treated otherwise.
    """
    steps = tuple(name for step in tokenizer.pre_tokenizers for name in _step_names(tokenizer, step))
    found = TABLE.get(steps)
    if found is None:
        raise ConvertError(f"{tokenizer.path}: pre_tokenizer is {describe(steps)}, expected a known one", _UNKNOWN_HINT)
    name = _by_merging(tokenizer, found, steps, ordinary)
    merges = [pair for pair in tokenizer.merges if found.fits("".join(pair))]
    return name, merges, _CASES if found.closer and name == found.ignoring else found.note


def describe(steps: tuple[str, ...]) -> str:
    return " then ".join(steps) or "none"


def _by_merging(tokenizer: TokenizerJson, found: PreTokenizer, steps: tuple[str, ...], ordinary: list[str]) -> str:
    """Of the two names the one with the tokenizer's ignore_merges; the other if merges make all tokens anyway."""
    ignoring = tokenizer.flag("ignore_merges")
    wanted, other = (found.ignoring, found.name) if ignoring else (found.name, found.ignoring)
    if wanted and not (found.closer and other == found.ignoring):
        return wanted
    left_over = unmerged(ordinary, tokenizer.merges)
    if not left_over and other:
        return other
    if wanted:
        return wanted
    raise ConvertError(
        f"{tokenizer.path}: ignore_merges is {str(ignoring).lower()} with the pre_tokenizer {describe(steps)}, and "
        f"{len(left_over)} tokens such as {left_over[0]!r} are not made by merges, expected none",
        f"llama.cpp's {other} does it the other way; its tokens would differ for these words",
    )


def _step_names(tokenizer: TokenizerJson, step: dict[str, Any]) -> list[str]:
    kind = step.get("type")
    if kind == "ByteLevel":
        if step.get("add_prefix_space", True) is not False:
            raise ConvertError(
                f"{tokenizer.path}: ByteLevel of pre_tokenizer has add_prefix_space, expected false",
                "llama.cpp does not put a space in front of a text for this kind of vocabulary",
            )
        return ["gpt2", "bytes"] if step.get("use_regex", True) is not False else ["bytes"]
    if kind == "Digits":
        return ["digit" if step.get("individual_digits") is True else "numbers"]
    if kind == "Punctuation" and step.get("behavior") == "Contiguous":
        return ["punctuation"]
    if kind == "Split":
        return [_split_name(step)]
    return [_spelled(step)]


def _split_name(step: dict[str, Any]) -> str:
    """The name of WORDS, the expression if its matches are set apart, else the whole step as it is written."""
    pattern, behavior, inverted = step.get("pattern"), step.get("behavior"), step.get("invert") is True
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(expression, str):
        expression = expression.replace("\r", r"\r").replace("\n", r"\n")
        # What WORDS match leaves nothing over, so to remove what is left over is to set the matches apart.
        if expression in _WORD_NAMES and (behavior == "Isolated" or (behavior == "Removed" and inverted)):
            return _WORD_NAMES[expression]
        if behavior == "Isolated":
            return f"/{expression}/"
    return _spelled(step)


def _spelled(step: dict[str, Any]) -> str:
    return str({key: value for key, value in step.items() if key != "trim_offsets"})[:600]
