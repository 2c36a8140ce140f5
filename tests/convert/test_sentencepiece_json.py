"""tokenizer.json that holds a SentencePiece model -> a GGUF's `llama` vocabulary, on hand-made files."""

import json
import random

import pytest
from gguf import TokenType

from tmac.convert.tokenizer import read_vocabulary
from tmac.convert.vocabularies.bpe import merge

MARK = "\u2581"
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
PREPEND = {"type": "Prepend", "prepend": MARK}
METASPACE = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": False}
GEMMA_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TOKENS = ["<unk>", "<s>", "</s>", *BYTES, MARK, "a", "b", "ab", MARK + "a", MARK + "ab", "aba"]
VOCABULARY = {text: token for token, text in enumerate(TOKENS)}
# In order of rank: the merges of a text are adjacent, and follow those of its parts.
MERGES = ["a b", f"{MARK} a", f"{MARK} ab", f"{MARK}a b", "a ba", "ab a"]


@pytest.fixture
def marked(tokenizer):
    """The tokenizer of these tokens and merges, which marks spaces as Llama's does."""
    tokenizer.json["normalizer"] = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}
    tokenizer.json["pre_tokenizer"] = None
    tokenizer.json["added_tokens"] = [{"id": i, "content": text, "special": True} for i, text in enumerate(TOKENS[:3])]
    tokenizer.json["model"] = {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": True,
        "fuse_unk": True,
        "vocab": dict(VOCABULARY),
        "merges": [merge for merge in MERGES if merge != "a ba"],
    }
    return tokenizer


def test_scores_fall_with_the_rank_of_the_merges(marked):
    """One score per text; texts that no merge makes have the lowest; rows without a token are unused."""
    vocabulary = marked.read(268)
    assert vocabulary.texts[259:] == [text.encode() for text in TOKENS[259:]] + [b"[PAD266]", b"[PAD267]"]
    # No merge results in a single character.
    assert vocabulary.scores[259:266] == [-4.0, -4.0, -4.0, 0.0, -1.0, -2.0, -3.0]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * 7]
    assert vocabulary.types == [*kinds, TokenType.UNUSED, TokenType.UNUSED]
    assert (vocabulary.model, vocabulary.pre, vocabulary.merges) == ("llama", "default", None)
    assert vocabulary.add_space_prefix is True and vocabulary.notes == []


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "prefix", "notes"),
    [
        (REPLACE, None, False, 0),
        (REPLACE, GEMMA_SPLIT, False, 0),
        (None, METASPACE, True, 1),
        (None, {**METASPACE, "prepend_scheme": "first"}, True, 2),
        (None, {**METASPACE, "prepend_scheme": "never"}, False, 0),
        # As in files of early releases.
        (None, {"type": "Metaspace", "replacement": MARK, "add_prefix_space": False, "split": False}, False, 0),
        (None, {"type": "Metaspace", "replacement": MARK, "add_prefix_space": True, "split": False}, True, 1),
    ],
)
def test_ways_to_mark_spaces(marked, normalizer, pre_tokenizer, prefix, notes):
    """If the original puts fewer spaces in front than llama.cpp does, a note says so."""
    marked.json.update(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    vocabulary = marked.read()
    assert (vocabulary.add_space_prefix, len(vocabulary.notes)) == (prefix, notes)


def test_metaspace_is_said_beside_a_tokenizer_model(folder):
    """The vocabulary comes from tokenizer.model, but transformers splits by tokenizer.json."""
    (folder.path / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": {**METASPACE, "prepend_scheme": "first"}}))
    assert len(read_vocabulary(folder.path, {}, 1024).notes) == 2


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "word"),
    [
        ({"type": "NFKC"}, METASPACE, "'NFKC'"),
        (REPLACE, METASPACE, "'Metaspace'"),
        (None, {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always"}, "'Metaspace'"),
        (None, {**METASPACE, "replacement": "_"}, "'_'"),
        (None, {**METASPACE, "prepend_scheme": ["x"]}, "['x']"),
        (None, None, "normalizer is none and pre_tokenizer is none"),
        ({**REPLACE, "pattern": {"String": "  "}}, None, "'Replace'"),
        (None, {"type": "Whitespace"}, "'Whitespace'"),
    ],
)
def test_other_changes_of_the_text_are_refused(marked, refused, normalizer, pre_tokenizer, word):
    marked.json.update(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    refused(marked.read, "tokenizer.json", word, "copy tokenizer.model")


@pytest.mark.parametrize(
    ("merges", "words"),
    [
        (["a b", f"{MARK} ab", f"{MARK} a", f"{MARK}a b", "ab a"], f"make '{MARK}ab' are not next to each other"),
        ([f"{MARK} ab", f"{MARK}a b", f"{MARK} a", "a b", "ab a"], f"'{MARK}ab' is made of texts that come after it"),
        (["a b", f"{MARK} a", f"{MARK} ab", "ab a"], f"'{MARK}ab' is a token, but '{MARK}a b' is not a merge"),
        (["a b", f"{MARK} a", f"{MARK} ab", f"{MARK}a b"], "'aba' is a token, but 'ab a' is not a merge"),
    ],
)
def test_merges_of_another_order_than_sentencepiece(marked, refused, merges, words):
    """llama.cpp has one score per text, so all merges of a text must be present, adjacent, and after those of its
    parts.
    """
    marked.json["model"]["merges"] = merges
    refused(marked.read, "tokenizer.json", words, "in its order")


def test_a_character_without_a_token_is_joined_too(marked, refused):
    """It is a symbol of its own until nothing joins it."""
    marked.json["model"]["vocab"]["\u00e9b"] = 266
    refused(marked.read, "'\u00e9b' is a token, but '\u00e9 b' is not a merge")


def test_order_of_the_pairs_of_one_text_does_not_matter():
    """Tests the proof in sentencepiece_json.py: 150 random vocabularies, shuffled merges of a text, random texts."""
    random_, tried, late = random.Random(3), 0, 0
    while tried < 150:
        letters = random_.choice(("a", "ab", "abc"))
        order, tokens = {}, list(letters)
        for _ in range(random_.randrange(4, 20)):
            text = random_.choice(tokens) + random_.choice(tokens)
            if len(text) <= 9 and text not in tokens:
                order[text] = len(order)
                tokens.append(text)
        merges = []
        for text in order:
            pairs = [(text[:at], text[at:]) for at in range(1, len(text))]
            pairs = [pair for pair in pairs if pair[0] in tokens and pair[1] in tokens]
            merges += random_.sample(pairs, len(pairs))
        by_rank = {pair: rank for rank, pair in enumerate(merges)}
        by_text = {pair: order["".join(pair)] for pair in merges}
        if not all(in_order(text, by_text) for text in order):
            continue
        tried += 1
        late += any(order.get(part, -1) > order["".join(pair)] for pair in merges for part in pair)
        for _ in range(20):
            text = "".join(random_.choices(letters, k=random_.randrange(3, 25)))
            assert merge(text, by_rank) == merge(text, by_text), (text, merges)
    # Not only the vocabularies where every part of a merge comes before it, which are few in practice.
    assert late >= 20


def in_order(text, ranks):
    merge(text, ranks, taken := [])
    return taken == sorted(taken)


def test_added_tokens_do_not_count(marked):
    """They are cut out before merging, so their merges may be anywhere or absent."""
    marked.json["added_tokens"].append({"id": 265, "content": "aba", "special": False})
    marked.json["model"]["merges"] = ["ab a", *MERGES[:4]]
    vocabulary = marked.read()
    assert vocabulary.types[265] == TokenType.USER_DEFINED and vocabulary.scores[262] == 0.0


def runs(marked, count, merges):
    """Adds tokens of 2 to `count` spaces, as Gemma has them, with these merges in front."""
    texts = [MARK * size for size in range(2, count + 1)]
    marked.json["model"]["vocab"] |= {text: 266 + i for i, text in enumerate(texts)}
    marked.json["added_tokens"] += [{"id": 266 + i, "content": text, "special": False} for i, text in enumerate(texts)]
    first = [[MARK * left, MARK * right] for left, right in merges]
    marked.json["model"]["merges"] = first + marked.json["model"]["merges"]


def test_runs_of_spaces_as_added_tokens(marked, refused):
    """llama.cpp looks for the longest ones first, so their merges must do so too, before all others."""
    runs(marked, 3, [(2, 1), (1, 2), (1, 1)])
    vocabulary = marked.read()
    assert vocabulary.texts[266:268] == [b"  ", b"   "]
    assert vocabulary.types[266] == TokenType.USER_DEFINED
    merges = marked.json["model"]["merges"]
    marked.json["model"]["merges"] = [merges[2], merges[0], merges[1], *merges[3:]]
    refused(marked.read, "4 spaces are not split into the longest added tokens")
    marked.json["model"]["merges"] = [*merges[3:], *merges[:3]]
    refused(marked.read, "are not the first ones")
    marked.json["model"]["merges"] = merges
    marked.json["added_tokens"].append({"id": 264, "content": MARK + "ab", "special": False})
    refused(marked.read, f"the added token '{MARK}ab' holds a space mark")


@pytest.mark.parametrize("is_first", [False, True])
def test_a_tab_under_the_id_of_its_byte(marked, is_first):
    """Gemma's tab exists only for merging; the token with its id is the byte's, whichever is listed first."""
    tab, others = {"\t": 12}, marked.json["model"]["vocab"]
    marked.json["model"]["vocab"] = {**(tab if is_first else {}), **others, **tab, "\t\t": 266}
    marked.json["model"]["merges"].append("\t \t")
    vocabulary = marked.read()
    assert vocabulary.texts[12] == b"<0x09>" and vocabulary.scores[266] == -4.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"byte_fallback": False}, ["byte_fallback is false"]),
        ({"vocab": {"a": 0}, "merges": []}, ["there is no token <0x00>"]),
        ({"ignore_merges": True}, ["ignore_merges is True"]),
        ({"vocab": {**VOCABULARY, "<0x41>a": 266}, "merges": ["<0x41> a"]}, ["merge '<0x41> a' joins a byte"]),
    ],
)
def test_other_models(marked, refused, change, words):
    marked.json["model"].update(change)
    refused(marked.read, "tokenizer.json", *words)
