"""The two real models of the package index, as they are: repacked they are as near to their own weights in float16 as
with llama.cpp's kernels, and answer the same.
"""

import os
import re

import pytest

from support.checkpoints import VALIDATION_TEXT
from support.real_models import REAL_MODELS, obtain
from tmac.common import process
from tmac.convert.pipeline import convert
from tmac.kernels import repack

# Bytes of text, of a prompt at once and of tokens one by one: the file of logits has half a megabyte for each second
# token of Gemma's.
TEXT_BYTES = {"smollm2-135m-instruct": {"256": 6000, "1": 3000}, "gemma-3-270m": {"256": 3000, "1": 1500}}
CONTEXT = "128"
STOCK = {repack.VARIABLE: repack.STOCK}
DIVERGENCE = re.compile(r"Mean\s+KLD:\s+([\d.]+)")
# More threads than cores wait for each other.
THREADS = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
QUESTION = "The capital of France is"


@pytest.fixture(scope="module", params=REAL_MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return obtain(REAL_MODELS[name])


def perplexity(build, model, folder, *options, env, who="floats"):
    command = [build.binary("llama-perplexity"), "-m", model, "-f", folder / "text", "-c", CONTEXT, "-t", THREADS]
    log = folder / f"{who}.log"
    process.run([*command, "--kl-divergence-base", folder / "logits", *options], env=env, log=log)
    return log.read_text(errors="replace")


@pytest.mark.parametrize("ubatch", ["256", "1"], ids=["prompt", "tokens"])
def test_divergence_is_that_of_stock(build, name, model, ubatch, tmp_path):
    """Of the distribution of the next token, from that of the same weights in float16: at most 1.1 x stock."""
    (tmp_path / "text").write_bytes(VALIDATION_TEXT.read_bytes()[: TEXT_BYTES[name][ubatch]])
    floats = tmp_path / "f16.gguf"
    command = [build.binary("llama-quantize"), "--allow-requantize", model, floats, "F16"]
    process.run(command, log=tmp_path / "quantize.log")
    perplexity(build, floats, tmp_path, env=STOCK)
    found = {}
    for who, env in (("tmac", {"TMAC_LOG": "1"}), ("stock", STOCK)):
        said = perplexity(build, model, tmp_path, "-ub", ubatch, "--kl-divergence", env=env, who=who)
        assert bool(re.search(r"tmac: .*\d x q\w+ by tmac_gemv_", said)) == (who == "tmac")
        found[who] = float(DIVERGENCE.search(said)[1])
    print(f"{name}, {ubatch}: mean KL divergence {found['tmac']:.5f}, of llama.cpp's own kernels {found['stock']:.5f}")
    assert found["tmac"] <= 1.1 * found["stock"]


def answer(build, model, log, env):
    command = [build.binary("llama-completion"), "-m", model, "-p", QUESTION, "-n", "12", "--temp", "0", "-no-cnv"]
    process.run([*command, "-t", THREADS, "-lv", "0"], env=env, log=log)
    said = log.read_text(errors="replace")
    return said[said.index(QUESTION) :].strip()


def test_greedy_answers(build, name, model, tmp_path):
    """Side by side; ours is that of the converted file, word for word, and begins as llama.cpp's does."""
    convert(model, tmp_path / "tmac.gguf", progress=False, log=lambda line: None)
    ours, stock = answer(build, model, tmp_path / "ours", {}), answer(build, model, tmp_path / "stock", STOCK)
    print(f"{name}\n  tmac:  {ours!r}\n  stock: {stock!r}")
    assert ours == answer(build, tmp_path / "tmac.gguf", tmp_path / "converted", {})
    beginning = len(QUESTION.split()) + 1
    assert ours.split()[:beginning] == stock.split()[:beginning]
