"""Random damage to tokenizer files: a vocabulary of the right size, or ConvertError."""

import copy
import json
import random

import pytest

from tmac.convert.errors import ConvertError
from tmac.convert.tokenizer import read_vocabulary

SIZE = 280
VALUES = (
    None,
    True,
    False,
    -1,
    0,
    3,
    2**40,
    10**4000,
    1.5,
    float("nan"),
    "",
    "x",
    " ",
    "a b",
    "\u2581",
    "\ud800",
    [],
    [7],
    [[]],
    {},
    {"content": "x"},
    {"type": "Sequence"},
    ["h", "e"],
    {"type": "ByteLevel"},
    {"type": ["BPE"]},
    {"Regex": 5},
)
KEYS = ("type", "pattern", "Regex", "pretokenizers", "normalizers", "processors", "single", "id", "content", "merges")
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
SPACES = [{"type": "Prepend", "prepend": "\u2581"}, REPLACE]
SETTINGS = {
    "bos_token": "<s>",
    "eos_token": {"content": "<e>"},
    "add_bos_token": True,
    "tokenizer_class": "LlamaTokenizer",
    "additional_special_tokens": ["<s>"],
    "added_tokens_decoder": {"275": {"content": "<d>", "special": True}},
    "chat_template": "T",
    "add_prefix_space": True,
}
OTHERS = {
    "tokenizer_config.json": SETTINGS,
    "special_tokens_map.json": {"bos_token": "<s>"},
    "generation_config.json": {"eos_token_id": [1, 2], "bos_token_id": 1},
    "added_tokens.json": {"<x>": 276},
    "chat_template.json": {"chat_template": "T"},
}


def byte_level(tokenizer):
    return tokenizer.json


def sentencepiece_like(tokenizer):
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "h", "e", "l", "he", "ll", "hell"]
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "merges": ["h e", "l l", "he ll"]}
    tokenizer.json["model"] = {**model, "vocab": {text: token for token, text in enumerate(tokens)}}
    return {**tokenizer.json, "normalizer": {"type": "Sequence", "normalizers": SPACES}, "pre_tokenizer": None}


@pytest.fixture(params=[byte_level, sentencepiece_like])
def sound(request, tokenizer):
    """A valid tokenizer.json of each kind, which uses every feature."""
    values = request.param(tokenizer)
    template = [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]
    values["post_processor"] = {"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": template}]}
    values["added_tokens"] = [{"id": 270, "content": "<s>", "special": True}, {"id": 271, "content": "<e>"}]
    return values


def places(value):
    """Objects and lists within a JSON value, each with a key or index. Only a few of the many tokens, so that other
    places get damaged too.
    """
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in entries[:12] + entries[-3:]:
        yield value, key
        yield from places(inner)


def damage(value, random_):
    container, key = random_.choice(list(places(value)) or [({"x": 0}, "x")])
    way = random_.randrange(4)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[random_.choice(KEYS)] = copy.deepcopy(random_.choice(VALUES))
    elif way == 2 and isinstance(container, dict):
        container[random_.choice(("", "x", "he", "\udfff", "<s>"))] = container.pop(key)
    else:
        container[key] = copy.deepcopy(random_.choice(VALUES))


def test_random_damage(tmp_path, sound):
    """200 damaged sets of files; the seed is fixed, so a failure can be repeated."""
    random_, refused = random.Random(5), 0
    for _ in range(200):
        files = {"tokenizer.json": copy.deepcopy(sound), **copy.deepcopy(OTHERS)}
        for _ in range(random_.choice((1, 1, 2, 4))):
            damage(files[random_.choice(["tokenizer.json"] * 5 + list(OTHERS))], random_)
        for name, values in files.items():
            (tmp_path / name).write_text(json.dumps(values))
        try:
            vocabulary = read_vocabulary(tmp_path, {"eos_token_id": random_.choice(VALUES)}, SIZE)
        except ConvertError as error:
            refused += 1
            assert error.message and "\n" not in error.message
            continue
        assert len(vocabulary.texts) == len(vocabulary.types) == SIZE
        assert len(set(vocabulary.texts)) == SIZE and all(isinstance(text, bytes) for text in vocabulary.texts)
        assert vocabulary.scores is None or len(vocabulary.scores) == SIZE
        assert all(0 <= token < SIZE for token in vocabulary.special_ids.values())
    assert 50 <= refused <= 190


def test_files_that_are_not_json_objects(tmp_path, sound):
    for name in ("tokenizer.json", *OTHERS):
        (tmp_path / "tokenizer.json").write_text(json.dumps(sound))
        for text in ("", "[]", "{", "5", "\xff", '{"a":' * 100000):
            (tmp_path / name).write_text(text, encoding="latin-1")
            with pytest.raises(ConvertError, match=name):
                read_vocabulary(tmp_path, {}, SIZE)
        (tmp_path / name).unlink()
