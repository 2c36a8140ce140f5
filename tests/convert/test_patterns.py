"""Regular expressions in settings: matched as Python's re does, but none can make a conversion hang."""

import re
import time

import pytest

from tmac.convert.readers.patterns import Pattern

MODULES = ("mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj")
NAMES = [f"model.layers.{i}.{module}" for i in (0, 1, 11, 18) for module in MODULES]
NAMES += ["lm_head", "", "model", "a b\n", "xx", "xxxx", "m.abba"]


@pytest.mark.parametrize(
    "text",
    [
        r".*\.18\..*gate.*",
        r"^model\.layers\.(?:0|1)\.mlp\.(gate|down)_proj$",
        r"model.layers.[0-1]+.*",
        r"(?!.*lm_head).*",
        r"(?=.*mlp)model\.l",
        r"lm_head",
        r"\w+",
        r"[^a-l]+",
        r"(a*)*b",
        r"m{1}odel\.la{0,2}yers",
        r"model\.layers\.1\d?\.",
        r".*_proj\b",
        r"x|",
        r"",
        r"(?P<n>model)",
        r"[\d.]+$",
        r"[]a]",
        r"[a\]b-]+",
        r"m.*?q",
        r".*\Z",
        r"\Amodel",
        r"a\s\w\W?$",
        r"a{2,}",
        r"[\.-0]",
        r"l{1,1}m_",
        r"^model\.layers\.(?:1\d|[2-9])\b",
        r"x{2,3}$",
        r"\w+\.(?P<part>a|b)+?$",
        r"(?i)MODEL",
        r"(?<=l)m",
        r"(x)\1",
    ],
)
def test_the_same_as_re(text):
    pattern = Pattern(text, "here")
    for name in NAMES:
        assert pattern.match(name) is (re.match(text, name) is not None), name
        assert pattern.search(name) is (re.search(text, name) is not None), name


@pytest.mark.parametrize(
    "text",
    [
        "(a*)*" * 5 + "b",
        "((((a*)*)*)*)*b",
        ".*" * 1000 + "x",
        "(a|a)*" * 50 + "$x",
        "(a|aa)+$" * 6,
        "(?R)",
        "(((a{99}){99}){99})",
        "(((a{9,}){9,}){9,})b",
        "(?!(a+)+b)(a+)+b",
    ],
)
def test_hostile_expressions_end(refused, text):
    """Each gives an answer, or an error that names the place. Python's re would run for hours on most of them."""
    start = time.monotonic()
    pattern = Pattern(text, "config.json: dynamic")
    try:
        assert not pattern.match("a" * 100 + "!") or text.startswith("(((a{99}")
    except Exception:
        refused(lambda: pattern.match("a" * 100 + "!"), "config.json: dynamic", repr(text[:20])[:-1], "takes more than")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("text", ["[", "(", "a)", "*a", "a**", "\\", "(" * 4000, "(?P<x>a)(?P<x>", "[[:nv=1e999:]]"])
def test_what_is_no_expression(refused, text):
    refused(lambda: Pattern(text, "config.json: key"), "config.json: key", "is not a regular expression")


@pytest.mark.parametrize("text", ["a{100}", "a{4294967296}", "a{1}b{1}c{1}d{1}", "a" * 4001, "a{e<=1}", "a{", "(a){i}"])
def test_what_is_too_large(refused, text):
    refused(lambda: Pattern(text, "config.json: key"), "config.json: key", repr(text[:50])[:-1], "too large")
