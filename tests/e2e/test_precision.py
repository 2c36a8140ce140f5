"""The precision that a model is computed with: its own, or the one that the user asks for."""

import io
import json

import pytest

from support.checkpoints import CHECKPOINTS
from support.served import runs_here, served_by
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.common.format import parse_type
from tmac.convert import pipeline
from tmac.kernels.catalog import isas_for
from tmac.kernels.forms import PRECISIONS
from tmac.tools.llama import run as llama_run

TYPE = "w2g64z"


def generate(build, model, precision=None, kernel=None, n_predict=8):
    prompt = json.loads((CHECKPOINTS[TYPE] / "expected.json").read_text())["prompt"]
    options = llama_run.Options(n_predict=n_predict, temperature=0, precision=precision, kernel=kernel)
    return llama_run.generate(build, model, prompt, options, out=io.BytesIO())


@pytest.fixture(scope="module")
def with_activations(tmp_path_factory):
    """A function: value of the key tmac.activations -> the 2-bit checkpoint converted with it."""
    folder, original = tmp_path_factory.mktemp("precision"), pipeline.write_gguf

    def convert(value):
        output = folder / f"{value}.gguf"

        def with_key(path, architecture, add_metadata, tensors, **options):
            def add(writer):
                add_metadata(writer)
                writer.add_string("tmac.activations", value)

            return original(path, architecture, add, tensors, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "write_gguf", with_key)
            pipeline.convert(CHECKPOINTS[TYPE], output, progress=False, log=lambda line: None)
        return output

    return convert


def said(generation):
    (line,) = generation.kernels
    return line.removeprefix(f"tmac: 28 x tmac_{TYPE} by ")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_asked_for_is_the_one_that_runs(build, converted, precision):
    generation = generate(build, converted(TYPE), precision)
    assert said(generation) == served_by(parse_type(TYPE), precision=precision)
    assert generation.text.strip()


def test_model_trained_with_int8_activations_is_computed_exactly(build, with_activations):
    """The key alone selects the exact kernels; TMAC_PRECISION overrides it."""
    model = with_activations("int8_per_token")
    assert said(generate(build, model)) == served_by(parse_type(TYPE), precision="exact")
    assert said(generate(build, model, "rounded")) == served_by(parse_type(TYPE))


def test_exact_text_is_the_same_on_every_instruction_set(build, converted):
    """Only integers are added before the last scale, so all exact kernels return the same bits."""
    isas = [isa for isa in isas_for(machine()) if runs_here(isa)]
    texts = {generate(build, converted(TYPE), "exact", isa.name, n_predict=40).text for isa in isas}
    assert len(isas) >= 1 and len(texts) == 1


def test_unknown_activations_are_refused(build, with_activations):
    with pytest.raises(TmacError, match="key 'tmac.activations' is 'int5_per_moon'; this build knows 'int8_per_token'"):
        generate(build, with_activations("int5_per_moon"))


def test_unknown_precision_is_refused(build, converted):
    with pytest.raises(TmacError, match="TMAC_PRECISION=sloppy: expected rounded, exact or fast"):
        generate(build, converted(TYPE), "sloppy")
