"""Options of llama.cpp among those of `tmac run`: which are passed on, and what is said of the others."""

import argparse

import pytest

from tmac.tools import running
from tmac.tools.llama.options import UsageError, from_help, separate

# The one with two values.
LAYERS = "--control-vector-layer-range"


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    running.configure_run(made)
    return made


@pytest.mark.parametrize(
    ("arguments", "mine", "theirs"),
    [
        (["m", "--top-k", "40", "hi"], ["m", "hi"], ["--top-k", "40"]),
        (["m", "--top-k=40"], ["m"], ["--top-k", "40"]),
        (["m", "--top_k", "40"], ["m"], ["--top-k", "40"]),
        (["m", "--swa-full", "hi"], ["m", "hi"], ["--swa-full"]),
        (
            ["m", "--control-vector-layer-range", "1", "2", "hi"],
            ["m", "hi"],
            ["--control-vector-layer-range", "1", "2"],
        ),
        (["m", "-p", "--top-k"], ["-p=--top-k", "m"], []),
        (["m", "-p", "-"], ["-p=-", "m"], []),
        (["m", "-"], ["m", "-"], []),
        (["m", "-n", "-1", "-e", "hi"], ["-n=-1", "-e", "m", "hi"], []),
        (["m", "-n8", "-t4", "--ctx_size", "9", "hi"], ["-n=8", "-t=4", "--ctx-size=9", "m", "hi"], []),
    ],
)
def test_options_are_told_apart(parser, arguments, mine, theirs):
    """An option of llama.cpp takes as many arguments with it as it has values; ours may begin with a dash."""
    found = separate(arguments, parser, ("cli", "completion"))
    assert found == (mine, theirs)
    parsed = parser.parse_intermixed_args(found[0])
    assert parsed.model == "m"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m", "--tmep", "0"], "did you mean --temp?"),
        (["m", "-m", "x.gguf"], "the model is the first argument"),
        (["m", "-f", "x.txt"], "tmac run MODEL < FILE"),
        (["m", "--top-k"], "needs a value"),
        (["m", "-n"], "-n needs a value"),
        (["m", "- a list"], "for a prompt: -p '- a list'"),
        (["m", "--metrics"], "llama-server"),
        (["m", "--swa-full=1"], "takes no value"),
    ],
)
def test_others_are_refused_with_what_to_write(parser, arguments, said):
    """A misspelled one, one that tmac sets itself, one without its value, and one of another program."""
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        separate(arguments, parser, ("cli", "completion"))


def test_help_is_read():
    """Names, also those with a long hint that goes to the next line, and the number of values."""
    text = """\
-c,    --ctx-size N                     size (default: 0)
                                        -x is no option here
--perf, --no-perf                       whether
-ncmoe, --n-cpu-moe N                   keep
--spec-draft-override-tensor, -otd <tensor name pattern>=<buffer type>,...
--control-vector-layer-range START END
--fim-qwen-1.5b-default                 use"""
    assert {option.names: option.values for option in from_help({"cli": text})} == {
        ("-c", "--ctx-size"): 1,
        ("--perf", "--no-perf"): 0,
        ("-ncmoe", "--n-cpu-moe"): 1,
        ("--spec-draft-override-tensor", "-otd"): 1,
        ("--control-vector-layer-range",): 2,
        ("--fim-qwen-1.5b-default",): 0,
    }
