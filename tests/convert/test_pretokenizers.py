"""Pre-tokenizers of tokenizer.json -> llama.cpp's names. tests/e2e/test_tokenizers.py tests that both split alike."""

import json
import re

import pytest

from tmac.convert.vocabularies.pretokenizers import TABLE, WORDS

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
GPT2 = {**BYTES, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
# As written in the models' files.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
MINICPM5 = LLAMA3.replace("{1,3}", "+")
SEED = LLAMA3.replace("{1,3}", "{1}").replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+")
UFAKZEKA = QWEN2[QWEN2.index("[^") :]
RUNS = "|".join(rf"\s{{{count}}}(?!\S)" for count in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
JAIS2 = LLAMA3.replace(r"\s+(?!\S)|\s+", RUNS + r"|\s{1}")
LING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+"
    "[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
CJK = "[一-龥\u0800-一가-\ud7ff]+"


def split(expression, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([GPT2], "gpt-2"),
        ([{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}], "gpt-2"),
        ([split(LLAMA3), BYTES], "smaug-bpe"),
        ([split(LLAMA3, "Removed", True), BYTES], "smaug-bpe"),
        ([split(LLAMA3.removesuffix("+")), BYTES], "smaug-bpe"),
        ([split(QWEN2), BYTES], "qwen2"),
        ([split(LING), BYTES], "qwen2"),
        ([split(LLAMA3), DIGITS, BYTES], "qwen2"),
        ([split(QWEN2.replace(r"?\p{L}", r"?[\p{L}\p{M}]").replace(r"\s\p{L}", r"\s\p{L}\p{M}")), BYTES], "qwen35"),
        ([split(r"\p{N}{1,3}"), split(MINICPM5), BYTES], "minicpm5"),
        ([split(UFAKZEKA), BYTES], "ufakzeka"),
        ([split(JAIS2), BYTES], "jais-2"),
        ([split(SEED), BYTES], "seed-coder"),
        ([split(QWEN2), DIGITS, BYTES], "qwen2"),
        ([DIGITS, GPT2], "smollm"),
        ([GPT2, DIGITS], "gpt-2"),
        ([GPT2, {**DIGITS, "individual_digits": False}], "gpt-2"),
        ([{"type": "Punctuation", "behavior": "Contiguous"}, GPT2, DIGITS], "falcon"),
        ([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), BYTES], "deepseek-v3"),
        ([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK), DIGITS, BYTES], "deepseek-coder"),
        ([split(BLOOM), BYTES], "bloom"),
        ([split(BLOOM), DIGITS, BYTES], "viking"),
        ([split(GPT4O), BYTES], "granite-embed-multi-97m"),
        ([split(TEKKEN), BYTES], "tekken"),
        (
            [
                {"type": "Punctuation", "behavior": "Contiguous"},
                GPT2,
                {"type": "Digits", "individual_digits": False},
                split("[0-9][0-9][0-9]"),
            ],
            "falcon",
        ),
        ([{"type": "Punctuation", "behavior": "Contiguous"}, GPT2, DIGITS, split("[0-9][0-9][0-9]")], "falcon"),
    ],
)
def test_known_ones(tokenizer, steps, name):
    """By the whole sequence of steps, also if nested; settings that only affect offsets are ignored."""
    inner = {"type": "Sequence", "pretokenizers": steps}
    tokenizer.json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [inner]}
    assert tokenizer.read().pre == name


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([split("[a-z]+"), BYTES], ["/[a-z]+/ then bytes"]),
        # A file must not be able to spell the table's words as an expression.
        ([split("digit"), GPT2], ["/digit/ then gpt2 then bytes"]),
        ([BYTES], ["is bytes, expected a known one"]),
        ([BYTES, GPT2, DIGITS], ["bytes then gpt2 then bytes then digit"]),
        ([split(LLAMA3, "Removed"), BYTES], ["'behavior': 'Removed'", "'Regex'"]),
        ([split(LLAMA3, "MergedWithNext", True), BYTES], ["'behavior': 'MergedWithNext'"]),
        ([split(r"\p{N}{1,3}", "Removed", True), split(LLAMA3), BYTES], ["'invert': True"]),
        ([{"type": "Punctuation", "behavior": "Isolated"}, GPT2], ["'type': 'Punctuation'"]),
        ([split(r"\p{P}", "Contiguous"), GPT2, DIGITS], ["'behavior': 'Contiguous'"]),
        ([{"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}, BYTES], ["'String': ' '"]),
        ([{"type": "Split", "pattern": 5}, BYTES], ["'pattern': 5"]),
        ([{**GPT2, "add_prefix_space": True}], ["ByteLevel of pre_tokenizer has add_prefix_space"]),
        ([{"type": "ByteLevel"}], ["add_prefix_space"]),
    ],
)
def test_unknown_ones_are_errors_that_name_the_pattern(tokenizer, refused, steps, words):
    tokenizer.json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    error = refused(tokenizer.read, "tokenizer.json", *words)
    assert "\n" not in error.message


def test_words_that_are_tokens(tokenizer, refused):
    """ignore_merges decides between two names. If there is only one, it must make no difference, or is refused with a
    token.
    """
    tokenizer.json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split(LLAMA3), BYTES]}
    tokenizer.json["model"]["ignore_merges"] = True
    vocabulary = tokenizer.read()
    assert (vocabulary.pre, vocabulary.notes) == ("llama-bpe", [])
    tokenizer.json["pre_tokenizer"]["pretokenizers"][0] = split(QWEN2)
    assert tokenizer.read().pre == "qwen2"
    tokenizer.json["added_tokens"] = [{"id": 259, "content": "<|x|>", "special": True}]
    tokenizer.json["model"]["vocab"] |= {"<|x|>": 259, "Ġhe": 260, "Ġhell": 261}
    words = ("ignore_merges is true", "qwen2 then bytes", "2 tokens such as 'Ġhe' are not made by merges")
    refused(tokenizer.read, "tokenizer.json", *words)
    tokenizer.json["model"]["ignore_merges"] = False
    assert tokenizer.read().pre == "qwen2"
    tokenizer.json["pre_tokenizer"]["pretokenizers"][0] = split(TEKKEN)
    refused(tokenizer.read, "ignore_merges is false", "tekken then bytes", "'Ġhe'")


def test_gpt4o_and_what_is_said_of_it(tokenizer):
    """The name with combining marks takes words that are tokens. If that matters, the other name is used."""
    tokenizer.json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split(GPT4O), BYTES]}
    vocabulary = tokenizer.read()
    assert vocabulary.pre == "granite-embed-multi-97m"
    assert "ASCII" in vocabulary.notes[0] and "marks" not in vocabulary.notes[0]
    tokenizer.json["model"]["ignore_merges"] = True
    assert tokenizer.read().pre == "granite-embed-multi-97m"
    tokenizer.json["model"]["ignore_merges"] = False
    tokenizer.json["model"]["vocab"]["Ġhe"] = 259
    vocabulary = tokenizer.read()
    assert vocabulary.pre == "gpt-4o" and "marks" in vocabulary.notes[0]


def test_what_is_said_of_tekken(tokenizer):
    """llama.cpp splits words with combining marks otherwise. With ignore_merges, as published, it is no error."""
    tokenizer.json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split(TEKKEN), BYTES]}
    tokenizer.json["model"]["ignore_merges"] = True
    vocabulary = tokenizer.read()
    assert vocabulary.pre == "tekken" and "words with combining marks" in vocabulary.notes[0]


@pytest.mark.parametrize(
    ("name", "digits", "left", "right", "stays"),
    [
        ("gpt-2", "numbers", "a", "1", False),
        ("gpt-2", "digit", "1", "2", False),
        ("falcon", "numbers", "a", "1", False),
        ("falcon", "numbers", "1", "2", True),
        ("falcon", "digit", "1", "2", False),
        ("falcon", "digit", "Ð", "¼", False),
        ("falcon", "digit", "Ð", "b", True),
        ("deepseek-llm", "digit", "1", "2", False),
        ("deepseek-coder", "digit", "âĢĥ", "a", False),
        ("deepseek-coder", "digit", "âĢ", "ĥ", True),
        ("deepseek-llm", "digit", "âĢĥ", "a", False),
        ("deepseek-llm", "digit", "âĢ", "ĥ", True),
        ("deepseek-llm", "digit", "Ġ", "a", True),
        ("deepseek-llm", "digit", "ä¸Ń", "åĽ½", True),
    ],
)
def test_merges_that_never_apply_are_left_out(tokenizer, name, digits, left, right, stays):
    """If llama.cpp splits less than the original, they would apply there: digits or wide spaces with others."""
    vocabulary = tokenizer.json["model"]["vocab"]
    for text in (left, right, left + right):
        vocabulary.setdefault(text, len(vocabulary))
    tokenizer.json["model"]["merges"].insert(0, [left, right])
    matching = [steps for steps, known in TABLE.items() if known.name == name and digits in steps]
    assert matching
    for steps in matching:
        tokenizer.json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": spelled(steps)}
        found = tokenizer.read()
        assert (found.pre, found.merges) == (name, [f"{left} {right}"] * stays + ["h e", "l l", "he ll"])
        assert found.texts[vocabulary[left + right]] == (left + right).encode()


def spelled(steps):
    """These steps of the table in the form of tokenizer.json."""
    kinds = {"digit": DIGITS, "numbers": {**DIGITS, "individual_digits": False}, "bytes": BYTES}
    kinds["punctuation"] = {"type": "Punctuation", "behavior": "Contiguous"}
    kinds |= {name: split(expressions[0]) for name, expressions in WORDS.items()}
    return [kinds[step] if step in kinds else split(step[1:-1]) for step in steps]


def test_no_name_is_twice_among_the_words():
    """Each expression has one meaning, and the names for llama.cpp are of its kind."""
    expressions = [expression for spellings in WORDS.values() for expression in spellings]
    assert len(expressions) == len(set(expressions))
    names = [name for found in TABLE.values() for name in (found.name, found.ignoring) if name]
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert json.dumps(expressions)
