"""Attention in the real binaries: who computes it, that all give the same logits, and what a wrong choice says."""

import io
import json

import numpy as np
import pytest

from support.checkpoints import CHECKPOINTS
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.kernels import attention
from tmac.kernels.attention import attention_kernels_for
from tmac.kernels.native import library
from tmac.kernels.native_attention import NativeAttention
from tmac.tools import cli
from tmac.tools.llama import run as llama_run
from tmac.tools.llama.verify import all_logits

TYPE = "w4g128"
# Of logits. Any two ways of computing attention differ by their rounding, which the 8-bit tables of the next product
# enlarge: llama.cpp's own ways differ by 1e-5. A fault of a mask, a scale or the order of heads gives more than 1e-2.
NMSE_LIMIT = 1e-4


@pytest.fixture(scope="module")
def text():
    expected = json.loads((CHECKPOINTS[TYPE] / "expected.json").read_text("utf-8"))
    return f"{expected['prompt']} {expected['greedy_text']}"


@pytest.fixture(scope="module")
def stock_logits(build, converted, text):
    """A function: options of llama.cpp -> logits with llama.cpp's own attention."""
    made = {}

    def get(*options):
        if options not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(attention.VARIABLE, attention.STOCK)
                made[options] = all_logits(build, converted(TYPE), text, options)[1].astype(np.float64)
        return made[options]

    return get


def generate(build, model):
    prompt = json.loads((CHECKPOINTS[TYPE] / "expected.json").read_text("utf-8"))["prompt"]
    return llama_run.generate(build, model, prompt, llama_run.Options(n_predict=8, temperature=0), out=io.BytesIO())


def test_the_fastest_kernel_of_this_cpu_serves_and_is_named(build, converted):
    (line,) = generate(build, converted(TYPE)).attention
    assert line.startswith(f"{attention.LINE}{NativeAttention(library()).select()} (K f16 x ")


def test_stock_leaves_attention_to_llama_cpp(build, converted, monkeypatch):
    monkeypatch.setenv(attention.VARIABLE, attention.STOCK)
    assert generate(build, converted(TYPE)).attention == []


@pytest.mark.parametrize("cache, batch", [("f16", 512), ("f16", 1), ("q8_0", 7)])
@pytest.mark.parametrize("kernel", attention_kernels_for(machine()), ids=lambda kernel: kernel.name)
def test_logits_are_those_of_llama_cpp(build, converted, text, stock_logits, kernel, cache, batch, monkeypatch):
    """Prompts in one piece, in pieces, and token by token."""
    if not NativeAttention(library()).runs_here(kernel.name):
        pytest.skip(f"this CPU lacks {' '.join(kernel.isa.features)}")
    options = ("-fa", "on", "-ctk", cache, "-ctv", cache, "-ub", str(batch))
    monkeypatch.setenv(attention.VARIABLE, kernel.isa.name)
    logits = all_logits(build, converted(TYPE), text, options)[1].astype(np.float64)
    expected = stock_logits("-fa", "off", "-ub", str(batch))
    limit = NMSE_LIMIT if cache == "f16" else 1e-2  # what 8-bit caches round is no fault of attention
    assert ((logits - expected) ** 2).sum() / (expected**2).sum() < limit


def test_an_unknown_attention_is_an_error_that_names_it(build, converted, monkeypatch):
    monkeypatch.setenv(attention.VARIABLE, "nonsense")
    with pytest.raises(TmacError) as error:
        generate(build, converted(TYPE))
    assert "TMAC_ATTENTION=nonsense: no attention kernel or instruction set has this name" in str(error.value)


def test_bench_times_every_attention_of_the_build(build, capsys):
    """No speed is judged; that each operation is computed by the attention that is named is what tells the ratios."""
    arguments = ["--heads", "2x1x64", "--positions", "64", "--queries", "1,3", "--cache", "f16,q8_0"]
    assert not cli.main(["bench", "attention", *arguments, "--rounds", "1", "--megabytes", "0", "--json"])
    results = json.loads(capsys.readouterr().out)["results"]
    assert [(of["cache"], of["queries"], of["cache_bytes"]) for of in results] == [
        ("f16", 1, 2 * 64 * 64 * 2),
        ("f16", 3, 2 * 64 * 64 * 2),
        ("q8_0", 1, 2 * 64 * 64 // 32 * 34),
        ("q8_0", 3, 2 * 64 * 64 // 32 * 34),
    ]
    assert [sorted(of["ratios"]) for of in results] == [["stock-fa", "stock-no-fa"]] * 2 + [["stock-fa"]] * 2
    assert all(ratio > 0 for of in results for ratio in of["ratios"].values())
