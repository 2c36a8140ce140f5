"""The patched llama.cpp's binaries on both bundled checkpoints: text, logits, perplexity, and the kernels that ran."""

import io
import json
import re

import pytest

from support.checkpoints import VALIDATION_TEXT
from support.comparison import FLOAT_ATTENTION
from support.served import forms, runs_here, served_by
from tmac.common import process
from tmac.common.cpu import machine
from tmac.common.format import parse_type
from tmac.kernels.catalog import isas_for
from tmac.tools.llama import run as llama_run
from tmac.tools.llama.verify import first_difference, verify

STORAGE = {"default": {}, "float_ends": {"embedding": "f16", "head": "f16"}}


def write_story(build, model, reference, extra=(), kernel=None):
    expected = json.loads((reference / "expected.json").read_text())
    options = llama_run.Options(
        n_predict=len(expected["greedy_ids"]) + 1, temperature=0, seed=1, kernel=kernel, extra=extra
    )
    return llama_run.generate(build, model, expected["prompt"], options, out=io.BytesIO())


@pytest.mark.parametrize("storage", STORAGE)
def test_greedy_text_and_logits(build, converted, checkpoint, reference, storage):
    """The text equals the float32 text. Where it differs, the two tokens' logits are within four deviations of the
    measured rounding error. Logits after the prompt: NMSE at most 1e-4. Along the expected text, every token is the
    likeliest, except for near ties.
    """
    model = converted(checkpoint, **STORAGE[storage])
    verification = verify(build, model, reference, extra=FLOAT_ATTENTION)
    print(verification.render())
    assert verification.problems() == []
    position = first_difference(reference, write_story(build, model, reference, FLOAT_ATTENTION).text)
    assert position is None or verification.explains(position), (
        f"left the text at token {position}\n{verification.render()}"
    )


def test_near_ties_are_few(build, converted, checkpoint, reference):
    """The allowance above must stay an exception: it covers at most 8 of about 105 tokens."""
    verification = verify(build, converted(checkpoint), reference, extra=FLOAT_ATTENTION)
    assert sum(verification.explains(position) for position in range(len(verification.leads))) <= 8


@pytest.mark.parametrize("isa", isas_for(machine()), ids=lambda isa: isa.name)
def test_forced_kernels_run_and_give_the_same_text(build, converted, checkpoint, reference, isa):
    """TMAC_KERNEL=<isa>: the log names the kernels that ran, and the text equals that of an unforced run.

    If another form rounds the prompt, the text may differ where two tokens are nearly equally likely.
    """
    weight_type = parse_type(checkpoint)
    if not runs_here(isa):
        pytest.skip(f"this CPU lacks {' '.join(isa.features)}")
    model = converted(checkpoint)
    forced, usual = (write_story(build, model, reference, kernel=kernel) for kernel in (isa.name, None))
    assert forced.kernels == [f"tmac: 28 x tmac_{weight_type.name} by {served_by(weight_type, isa.name)}"]
    if forms(weight_type, isa.name) == forms(weight_type):
        assert forced.text == usual.text
    else:
        verification = verify(build, model, reference, extra=FLOAT_ATTENTION)
        position = first_difference(reference, forced.text)
        assert position is None or verification.explains(position)


def perplexity_of(build, model, log, *extra):
    command = [build.binary("llama-perplexity"), "-m", model, "-f", VALIDATION_TEXT, "-c", "256", *extra]
    process.run(command, log=log)
    return float(re.search(r"Final estimate: PPL = ([\d.]+)", log.read_text())[1])


def test_perplexity_of_prompts_is_that_of_single_tokens(build, converted, checkpoint, tmp_path):
    """GEMM (all tokens at once, or small batches) and GEMV (one token after the other) agree within 0.1 %."""
    model = converted(checkpoint)
    by_gemv = perplexity_of(build, model, tmp_path / "gemv", "-ub", "1", "-t", "1")
    for ubatch in ("3", "512"):
        by_gemm = perplexity_of(build, model, tmp_path / f"gemm{ubatch}", "-ub", ubatch, "-t", "1")
        assert abs(by_gemm / by_gemv - 1) < 0.001


def test_text_is_the_same_for_any_number_of_threads(build, converted, checkpoint, reference):
    """Threads share the tables and the tiles, also with more threads than cores; the text does not depend on how."""
    model = converted(checkpoint)
    texts = {write_story(build, model, reference, (*FLOAT_ATTENTION, "-t", str(threads))).text for threads in (1, 2, 5)}
    assert len(texts) == 1


def test_perplexity(build, converted, checkpoint, reference, tmp_path):
    """llama-perplexity -f valid.txt -c 256: within 1 % of the exact weights in f16."""
    perplexity = perplexity_of(build, converted(checkpoint), tmp_path / "log")
    expected = json.loads((reference / "expected.json").read_text())["perplexity"]
    assert abs(perplexity / expected - 1) < 0.01
