"""Regular expressions of settings: as Python reads them, but never slowly."""

import random
import re
import time
import warnings

import pytest

from tmac.convert.readers.patterns import Pattern


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (r"model\.layers\.[0-3]\..*", "model.layers.2.mlp.up_proj", True),
        (r"model\.layers\.[0-3]\..*", "model.layers.12.mlp.up_proj", False),
        (r".*(q|k|v)_proj$", "model.layers.0.self_attn.k_proj", True),
        (r".*_proj$", "model.layers.0.mlp.gate_proj.x", False),
        ("mlp", "model.mlp", False),                      # only at the beginning
        ("model", "model.mlp", True),                     # and not up to the end
        (r"(?!.*down_proj).*proj", "model.down_proj", False),
        (r"(?!.*down_proj).*proj", "model.up_proj", True),
        (r"^model\.layers\.(?:1\d|[2-9])\b", "model.layers.17", True),
        (r"x{2,3}$", "xxxx", False),
        (r"x{2}", "xx", True),
        (r"\w+\.(?P<part>a|b)+?$", "m.abba", True),
        ("", "anything", True),
    ],
)
def test_what_names_match(pattern, name, expected):
    assert Pattern(pattern, "here").matches(name) is expected
    assert bool(re.match(pattern, name)) is expected


def random_pattern(random_, depth=0):
    text = ""
    for _ in range(random_.randrange(1, 4)):
        kind = random_.random()
        if kind < 0.3 and depth < 3:
            inner = "|".join(random_pattern(random_, depth + 1) for _ in range(random_.choice((1, 1, 2))))
            text += random_.choice(("(", "(?:", "(?=", "(?!")) + inner + ")"
        else:
            text += random_.choice(("a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", "^", "$", r"\b"))
        text += random_.choice(("", "", "*", "+", "?", "*?", "{2}", "{1,2}", "{,2}", "{1,}", "{", "{}"))
    return text


def test_agreement_with_python():
    """3000 random expressions on 4 names each. The seed is fixed, so a failure can be repeated."""
    random_, compared = random.Random(7), 0
    while compared < 12000:
        text = random_pattern(random_)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reference = re.compile(text)
        except re.error:
            continue
        if text.count("(?=") + text.count("(?!") > 2:
            continue
        pattern = Pattern(text, "here")
        for _ in range(4):
            name = "".join(random_.choice("ab.c") for _ in range(random_.randrange(6)))
            assert pattern.matches(name) is bool(reference.match(name)), (text, name)
            compared += 1


@pytest.mark.parametrize(
    "text", ["(a+)+$", "(a|a)*$", "(((((a*)*)*)*)*)*b", "(a|aa)+$" * 6, ".*.*.*.*.*.*.*.*.*.*b", "(?!(a+)+b)(a+)+b",
             ".*(?=.*(?=.*(?=.*(?=.*(?=.*b)))))", "(" * 50 + ")" * 50],
)
def test_hostile_expressions_end(text):
    """Python's own matcher would need from hours to longer than the sun lasts for most of these."""
    start = time.monotonic()
    Pattern(text, "here").matches("a" * 80 + "!")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "text", ["(?i)a", "(?<=a)b", r"(a)\1", "a{99999}", "(a{500}){500}", "(){1000000}", "(" * 60 + ")" * 60, "(?=a)" * 17],
)
def test_expressions_that_are_not_supported(refused, text):
    refused(lambda: Pattern(text, "config.json: key"), "config.json: key", repr(text[:50])[:-1], "not supported")


@pytest.mark.parametrize("text", ["[", "(", "a)", "*a", "a**", "\\", "a{4294967296}", "(" * 5000])
def test_what_is_no_expression(refused, text):
    refused(lambda: Pattern(text, "config.json: key"), "config.json: key", "is not a regular expression")
