"""Every checkpoint format as its own package writes it: what the reader gives is what that package dequantizes.

A fixture is a folder of tests/fixtures, made by the script there: model.safetensors, config.json, and expected.npz
with the package's float32 weights [N, K] of each layer. Nothing here is rounded, so the comparison is exact.
"""

from pathlib import Path

import numpy as np
import pytest

from tmac.convert.checkpoint import Checkpoint
from tmac.convert.readers import reader_for

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEPT = (
    # gptqmodel 7.7.0
    "gptq_w2g64_v2_asym",
    "gptq_w2g32_v1_asym",
    "gptq_w2g32_v1_borrow",
    "gptq_w3g32_v1_asym",
    "gptq_w3g128_v2_sym",
    "gptq_w3g64_planar_asym",
    "gptq_w4g128_v1_sym",
    "gptq_w4g32_v2_asym",
    "gptq_w4_v1_channel_asym",
    "gptq_w4g32_v1_borrow",
    "gptq_w4g32_v1_act_order",
    "gptq_w3g32_v2_act_order",
    "gptq_w8g64_v1_sym",
    # auto-gptq 0.7.1
    "auto_gptq_w3g32_asym",
    "auto_gptq_w2g64_asym",
    "auto_gptq_w4g32_wrapped",
    "auto_gptq_w4g64_act_order",
    # autoawq 0.2.9
    "awq_gemm_g32",
    "awq_gemm_g128",
    "awq_gemv_g32",
    "awq_gemv_g64",
    "awq_gemv_g128",
    "awq_gemv_fast_g64",
    # compressed-tensors 0.20.0 and 0.15.0
    "ct_w3g32_sym",
    "ct_w3g64_asym_36_rows",
    "ct_w3_channel_asym",
    "ct_w4g32_sym",
    "ct_w4g32_asym_36_rows",
    "ct_w4_channel_sym",
    "ct_w2g32_asym",
    "ct_two_config_groups",
    "ct_old_w3g32_sym",
    "ct_old_w3g64_asym_36_rows",
    "ct_old_w4g32_asym",
    "ct_old_w4g32_act_order",
    # transformers 5.23.0 and 4.51.3
    "bitnet_bitlinear",
    "bitnet_without_linear_class",
    "bitnet_autobitlinear_offline",
    "bitnet_autobitlinear_online",
)


def in_input_order(reader, module: str, rows: int, columns: int) -> np.ndarray:
    """The layer as float32 [N, K], its columns in the order of the inputs and its tensor scale multiplied in."""
    grid, linear = reader.grid(module, rows, columns), reader.read(module, rows, columns)
    assert (linear.bits, linear.group, linear.zeros is not None) == (grid.bits, grid.group, grid.asymmetric)
    weights = linear.dequantize()
    if grid.tensor_scale is not None:
        weights = weights * np.float32(grid.tensor_scale)
    if grid.column_order is not None:
        assert sorted(grid.column_order) == list(range(columns))
        weights = weights[:, np.argsort(grid.column_order)]
    return weights


@pytest.mark.parametrize("fixture", KEPT)
def test_weights_are_those_of_the_package(fixture):
    reader = reader_for(Checkpoint(FIXTURES / fixture))
    with np.load(FIXTURES / fixture / "expected.npz") as layers:
        assert layers.files
        for module in layers.files:
            expected = layers[module]
            assert reader.has(module)
            found = in_input_order(reader, module, *expected.shape)
            assert found.dtype == np.float32
            assert np.array_equal(found, expected), f"{(found != expected).sum()} of {expected.size} weights differ"


def test_every_fixture_is_in_the_table():
    assert {path.parent.name for path in FIXTURES.glob("*/config.json")} == set(KEPT)
