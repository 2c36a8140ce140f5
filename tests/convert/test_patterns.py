"""Regular expressions of checkpoint files against Python's re, and those that would make re hang."""

import random
import re
import time
import warnings

import pytest

from tmac.convert.readers.patterns import Budget, Pattern, PatternError

MODULES = ("mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj")
NAMES = [f"model.layers.{i}.{module}" for i in (0, 1, 11, 18) for module in MODULES]
NAMES += ["lm_head", "", "model", "a b\n"]


@pytest.mark.parametrize(
    "text",
    [
        r".*\.18\..*gate.*", r"^model\.layers\.(?:0|1)\.mlp\.(gate|down)_proj$", r"model.layers.[0-1]+.*",
        r"(?!.*lm_head).*", r"(?=.*mlp)model\.l", r"lm_head", r"\w+", r"[^a-l]+", r"(a*)*b", r"m{1}odel\.la{0,2}yers",
        r"model{", r"m{,x}", r"model\.layers\.1\d?\.", r".*_proj\b", r"x|", r"", r"(?P<n>model)", r"[\d.]+$", r"[]a]",
        r"[a\]b-]+", r"m.*?q", r".*\Z", r"\Amodel", r"a\s\w\W?$", r"a{2,}", r"[\.-0]", r"l{1,1}m_",
    ],
)
def test_the_same_as_re(text):
    pattern = Pattern(text, Budget())
    for name in NAMES:
        assert pattern.match(name) is (re.match(text, name) is not None), name
        assert pattern.search(name) is (re.search(text, name) is not None), name


def test_random_expressions_are_the_same_as_re():
    """Those that both understand; the seed is fixed."""
    random_, compared = random.Random(1), 0
    for _ in range(20_000):
        text = "".join(random_.choices("ab.*+?()[]|^$\\dw{1,2}-:=!P<>", k=random_.randint(1, 8)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = re.compile(text)
            found = Pattern(text, Budget())
        except (re.error, PatternError):
            continue
        for name in ("a", "ab", "", "aab.b1", "b-a", "2a{1}"):
            compared += 1
            assert found.match(name) is (expected.match(name) is not None), (text, name)
            assert found.search(name) is (expected.search(name) is not None), (text, name)
    assert compared > 50_000


@pytest.mark.parametrize("text", ["(a*)*" * 5 + "b", "((((a*)*)*)*)*b", ".*" * 1000 + "x", "(a|a)*" * 50 + "$x"])
def test_expressions_that_hang_elsewhere(text):
    start = time.process_time()
    assert Pattern(text, Budget()).match("a" * 100) is False
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(a", "not closed"), ("a)", "closes nothing"), ("[a", "ends in the middle"), ("a\\", "ends in the middle"),
        ("*a", "repeats nothing"), ("a**", "follow each other"), ("a*+", "follow each other"), ("(?i)a", "(?i"),
        ("(?<=a)b", "(?<"), (r"(a)\1", "\\1"), (r"\p", "\\p"), ("a{2,1}", "at least 2"), ("a{1001}", "1000 times"),
        ("a{,2}", "least number"), ("(" * 31, "nested"), ("a" * 4001, "4001 characters"),
        ("a{99999999999999999999}", "1000 times"),
    ],
)
def test_expressions_that_are_not_understood(text, reason):
    with pytest.raises(PatternError, match=re.escape(reason)):
        Pattern(text, Budget())


def test_work_is_bounded():
    """For one name, and for all names and rules together."""
    with pytest.raises(PatternError, match="steps for the name aaa"):
        Pattern("((((a?){1000}){1000}){1000}){1000}", Budget()).match("a" * 100)
    budget = Budget()
    budget.left = 10
    pattern = Pattern("aaa", budget)
    assert pattern.match("aaa")
    with pytest.raises(PatternError, match="together"):
        for _ in range(4):
            pattern.match("aaa")
