"""llama.cpp's binaries on small BitNet models of each convention, against a slow reference model in numpy."""

import pytest

from support.comparison import FLOAT_ATTENTION, nmse
from support.ternary_models import CONVENTIONS, logits, make
from tmac.convert.pipeline import convert
from tmac.tools.llama.verify import all_logits

TEXT = "One morning, Mia went to the garden and saw a small bird."
# Measured: 4e-8 to 3e-6, from activations on the border between two codes. Mistakes, tried in the reference model, are
# larger: unrounded activations 1e-3, weights without scales at least 0.09, the other activation function at least 0.25.
NMSE_LIMIT = 1e-4


@pytest.mark.parametrize("name", CONVENTIONS)
def test_logits(build, name, tmp_path):
    """The logits of every token of a text, by the kernels that the file asks for.

    The head is f16, so that the rounding of activations, as in training, is the only rounding.
    """
    model, output = make(tmp_path / name, name), tmp_path / "x.gguf"
    convert(model.folder, output, embedding="f16", head="f16", progress=False, log=lambda line: None)
    tokens, found = all_logits(build, output, TEXT, FLOAT_ATTENTION)
    assert len(tokens) > 10
    error = nmse(found, logits(model, tokens.tolist()))
    print(f"{name}: NMSE {error:.1e}")
    assert error <= NMSE_LIMIT
