"""llama.cpp's binaries on small BitNet models of each convention, against the slow model of their definition."""

import pytest

from support.comparison import FLOAT_ATTENTION, nmse
from support.ternary_models import CONVENTIONS, logits, make
from tmac.convert.pipeline import convert
from tmac.tools.llama.verify import all_logits

TEXT = "One morning, Mia went to the garden and saw a small bird."
# Measured: 4e-8 to 3e-6, from activations at the border of two codes. The same models in the slow one: activations not
# rounded 1e-3, weights without their scales 0.09 and more, the other activation function 0.25 and more.
NMSE_LIMIT = 1e-4


@pytest.mark.parametrize("name", CONVENTIONS)
def test_logits(build, name, tmp_path):
    """Of every token of a text, by the kernels that the file asks for.

    Ends in f16, so that the rounding of activations, as in training, is the only one.
    """
    model, output = make(tmp_path / name, name), tmp_path / "x.gguf"
    convert(model.folder, output, embedding="f16", head="f16", progress=False, log=lambda line: None)
    tokens, found = all_logits(build, output, TEXT, FLOAT_ATTENTION)
    assert len(tokens) > 10
    error = nmse(found, logits(model, tokens.tolist()))
    print(f"{name}: NMSE {error:.1e}")
    assert error <= NMSE_LIMIT
