"""Every checkpoint format, written by its own package: the reader's weights equal those that the package dequantizes.

A fixture is a folder of tests/fixtures, made by the script there: model.safetensors, config.json, and expected.npz with
the package's float32 weights [N, K] of each layer. Nothing here is rounded, so the comparison is exact.
"""

from pathlib import Path

import numpy as np
import pytest

from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint

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
    # gptqmodel 5.0.0
    "gptq5_w3g32_v1_sym",
    "gptq5_w3g32_v1_asym",
    # auto-gptq 0.7.1
    "auto_gptq_w3g32_asym",
    "auto_gptq_w2g64_asym",
    "auto_gptq_w4g32_wrapped",
    "auto_gptq_w4g32_act_order",
    # autoawq 0.2.9
    "awq_gemm_g32",
    "awq_gemm_g128",
    "awq_gemv_g32",
    "awq_gemv_g64",
    "awq_gemv_g128",
    "awq_gemv_fast_g64",
    # gptqmodel 7.7.0
    "awq_gptqmodel_g32",
    "awq_gptqmodel_channel",
    # compressed-tensors 0.20.0 and 0.15.0
    "ct_w3g32_sym",
    "ct_w3g32_asym_36_rows",
    "ct_w3_channel_asym",
    "ct_w4g32_sym",
    "ct_w4g32_asym_36_rows",
    "ct_w4_channel_sym",
    "ct_w2g32_asym",
    "ct_two_config_groups",
    "ct_old_w3g32_sym",
    "ct_old_w3g32_asym_36_rows",
    "ct_old_w4g32_asym",
    "ct_old_w4g32_act_order",
    # transformers 5.23.0 and 4.51.3
    "bitnet_bitlinear",
    "bitnet_without_linear_class",
    "bitnet_autobitlinear_offline",
    "bitnet_autobitlinear_online",
    # auto-round 0.16.1
    "ar_w4_sym",
    "ar_w2_asym",
    "ar_w3_asym",
    "ar_w4_asym",
    "ar_w4_auto_gptq_asym",
    "ar_w4_gptqmodel_asym",
    "ar_w4_mixed",
    "ar_w4_llm_compressor",
    "ar_w3_as_gptq",
    "ar_w4_mixed_as_gptq",
    "ar_w4_as_awq",
    # hqq 0.2.8.post1
    "hqq_w4g64",
    "hqq_w3g32",
    "hqq_w2g32",
    "hqq_w1g32",
    "hqq_w8g64",
    # mlx 0.32.4
    "mlx_w4g64",
    "mlx_w4g32",
    "mlx_w3g32",
    "mlx_w2g32",
    "mlx_w4_fraction",
)
# Zero-points that are no sixteenths, times scales: the products are rounded to fp16.
ROUNDED = ("hqq_w4_fraction",)
# What has no T-MAC type: groups that run down the columns.
REFUSED = (("hqq_w4_axis_0", "down_proj", "axis 0"),)


def in_input_order(reader, module: str, rows: int, columns: int) -> np.ndarray:
    """The layer as float32 [N, K], with columns in the order of the inputs and multiplied by its tensor scale."""
    grid, linear = reader.grid(module, rows, columns), reader.read(module, rows, columns)
    is_asymmetric = linear.zeros is not None or linear.minima is not None
    assert (linear.bits, linear.group, is_asymmetric) == (grid.bits, grid.group, grid.asymmetric)
    assert (linear.minima is not None) == grid.minima
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


@pytest.mark.parametrize("fixture", KEPT)
def test_every_tensor_that_the_package_writes_beside_weights_is_known(fixture):
    """One that is not stops a conversion."""
    checkpoint = Checkpoint(FIXTURES / fixture)
    reader = reader_for(checkpoint)
    with np.load(FIXTURES / fixture / "expected.npz") as layers:
        known = {name for module in layers.files for name in reader.names(module)}
        written = {name for name in checkpoint.tensors if name.rpartition(".")[0] in layers.files}
    assert written - known <= {f"{module}.bias" for module in layers.files}


@pytest.mark.parametrize("fixture", ROUNDED)
def test_rounded_weights_are_near_those_of_the_package(fixture):
    """Within 2^-7 of a step, and a note says by how much."""
    reader = reader_for(Checkpoint(FIXTURES / fixture))
    with np.load(FIXTURES / fixture / "expected.npz") as layers:
        for module in layers.files:
            expected = layers[module]
            found = in_input_order(reader, module, *expected.shape)
            linear = reader.read(module, *expected.shape)
            steps = np.repeat(np.abs(linear.scales.astype(np.float64)), linear.group, axis=1)
            assert not np.array_equal(found, expected)
            assert (np.abs(found - expected.astype(np.float64)) <= 2.0**-7 * steps).all()
    assert any("minima" in note and "of a step" in note for note in reader.notes())


@pytest.mark.parametrize(("fixture", "tensor", "reason"), REFUSED)
def test_what_cannot_be_kept_is_refused(fixture, tensor, reason, refused):
    with np.load(FIXTURES / fixture / "expected.npz") as layers:
        shapes = {module: layers[module].shape for module in layers.files}

    def read():
        reader = reader_for(Checkpoint(FIXTURES / fixture))
        for module, shape in shapes.items():
            reader.grid(module, *shape)

    refused(read, fixture, tensor, reason)


def test_every_fixture_is_in_a_table():
    assert {path.parent.name for path in FIXTURES.glob("*/config.json")} == {
        *KEPT,
        *ROUNDED,
        *(row[0] for row in REFUSED),
    }
