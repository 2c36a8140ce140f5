"""Every low-bit type of ggml, quantized by ggml or the gguf package: T-MAC's types hold the values that these
dequantize.
"""

from pathlib import Path

import numpy as np
import pytest

from tmac.convert.readers.ggml_blocks import BLOCK_TYPES, linear_of
from tmac.convert.sources.gguf_model import GgufSource

FOLDER = Path(__file__).parents[1] / "fixtures" / "gguf_blocks"
TYPES = ("q4_0", "q4_1", "tq1_0", "tq2_0", "q1_0", "q2_0")


@pytest.mark.parametrize("name", TYPES)
def test_blocks_mean_what_ggml_dequantizes(name):
    source = GgufSource(FOLDER / "model.gguf")
    (tensor,) = [tensor for tensor in source.tensors if BLOCK_TYPES[tensor.entry.type_id].name == name]
    with np.load(FOLDER / "expected.npz") as weights:
        expected = weights[tensor.entry.name]
    kind, data = BLOCK_TYPES[tensor.entry.type_id], tensor.read(0, tensor.entry.nbytes)
    assert kind.exact is None or kind.exact(data.reshape(-1, kind.stored.nbytes))
    linear = linear_of(kind, tensor.where, data, expected.shape[1])
    assert np.array_equal(linear.dequantize(), expected)
