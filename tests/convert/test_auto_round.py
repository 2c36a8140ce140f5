"""AutoRound: the tensors and zero-points of each packing_format, and what is refused."""

import numpy as np
import pytest

from tmac.convert import readers
from tmac.convert.sources.checkpoint import Checkpoint


@pytest.fixture
def layer(folder):
    """layer(settings): a reader for a checkpoint whose only layer `m` has 4 bits and stored zero-points 7."""

    def make(**settings):
        base = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, "data_type": "int"}
        folder.config["quantization_config"] = {**base, **settings}
        folder.tensors = {
            "m.qweight": np.zeros((4, 32), np.int32),
            "m.qzeros": np.full((1, 4), 0x77777777, np.int32),
            "m.scales": np.ones((1, 32), np.float16),
        }
        return readers.reader_for(Checkpoint(folder.save()))

    return make


@pytest.mark.parametrize(
    ("settings", "zero"),
    [
        ({"packing_format": "auto_round:auto_gptq"}, None),
        ({"packing_format": "auto_round:gptq"}, None),
        ({}, None),
        ({"backend": "auto"}, None),
        ({"quant_method": "intel/auto-round"}, None),
        ({"packing_format": "auto_round"}, 7 * 16),
        ({"packing_format": "auto_round:gptqmodel"}, 7 * 16),
    ],
)
def test_zero_points_by_packing_format(layer, settings, zero):
    """A stored 7 means 8 (symmetric) if the format stores z - 1, and 7 if it does not."""
    zeros = layer(**settings).read("m", 32, 32).zeros
    assert zeros is None if zero is None else (zeros == zero).all()


@pytest.mark.parametrize(
    "settings", [{"data_type": "int_sym", "act_bits": 32}, {"data_type": "int_asym", "act_bits": 16}]
)
def test_settings_that_change_nothing(layer, settings):
    assert layer(**settings).read("m", 32, 32).zeros is None


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("packing", ["auto_round:auto_awq", "auto_round:awq"])
def test_the_tensors_of_awq_are_for_its_reader(layer, monkeypatch, packing, symmetric):
    given = []
    reader = "tmac.convert.readers.auto_round.AWQReader"
    monkeypatch.setattr(reader, lambda checkpoint, settings, file: given.append((settings, file.name)))
    extra = {"x": {"bits": 16, "act_bits": 16}}
    layer(packing_format=packing, extra_config=extra, autoround_version="1", sym=symmetric)
    settings = {"quant_method": "awq", "version": "gemm", "zero_point": not symmetric, "bits": 4, "group_size": 32}
    assert given == [(settings, "config.json")]


@pytest.mark.parametrize(
    ("extra", "bits"),
    [
        ({"m": {"bits": 8}, "^m": {"bits": 2}}, 8),
        ({"^m": {"bits": 2}, "m": {"bits": 8}}, 8),
        ({"x|m": {"bits": 2}, "m$": {"bits": 8}}, 2),
        ({"m.*": {}, "m$": {"bits": 8}}, 8),
        ({"n": {"bits": 8}}, 4),
    ],
)
def test_settings_of_single_layers(folder, layer, refused, extra, bits):
    """Names go before expressions. Of these, the first that is found in the name counts; empty ones are ignored."""
    reader = layer(extra_config=extra)
    if bits == 4:
        assert reader.grid("m", 32, 32).bits == 4
    else:
        refused(lambda: reader.grid("m", 32, 32), "m.qweight", f"expected [{bits}, 32]")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"packing_format": "mlx"}, ["'mlx'", "auto_round:auto_gptq"]),
        ({"packing_format": "auto_round:fp8_static"}, ["'auto_round:fp8_static'"]),
        ({"packing_format": "auto_round:llm_compressor"}, ["'auto_round:llm_compressor'"]),
        ({"packing_format": "auto_round:llm_compressor_nvfp4_e5m3"}, ["nvfp4"]),
        ({"packing_format": "auto_round:fake"}, ["'auto_round:fake'"]),
        ({"packing_format": 3}, ["packing_format 3"]),
        ({"backend": "auto_round:exllamav2"}, ["no packing_format", "'auto_round:exllamav2'"]),
        ({"data_type": "mx_fp"}, ["data_type 'mx_fp'"]),
        ({"data_type": "nv_fp"}, ["data_type 'nv_fp'"]),
        ({"data_type": "mx_int"}, ["data_type 'mx_int'"]),
        ({"act_bits": 8}, ["act_bits 8"]),
        ({"super_bits": 4}, ["super_bits 4"]),
        ({"super_group_size": 8}, ["super_group_size 8"]),
        ({"rotation_config": {"hadamard": 1}}, ["rotation_config"]),
        ({"spinquant_config": {"r1": True}}, ["spinquant_config"]),
        ({"bits": 5}, ["bits 5", "2, 3, 4 or 8"]),
        ({"group_size": 16}, ["group_size 16"]),
        ({"extra_config": [1]}, ["extra_config"]),
        ({"extra_config": {"m": 4}}, ["extra_config"]),
        ({"extra_config": {"(": {"bits": 4}}}, ["the regular expression '('"]),
        ({"packing_format": "auto_round:auto_awq", "extra_config": {"m": {"bits": 8}}}, ["AWQ", "extra_config"]),
        ({"packing_format": "auto_round:auto_awq", "act_bits": 8}, ["act_bits 8"]),
        ({"extra_config": {"m": {"bits": 16}}}, ["'m'", "extra_config", "layer m in floats", "expected m.weight"]),
        ({"extra_config": {"m": {"data_type": "fp"}}}, ["data_type 'fp'"]),
    ],
)
def test_what_is_refused_by_name(layer, refused, settings, words):
    refused(lambda: layer(**settings).grid("m", 32, 32), "config.json", *words)
