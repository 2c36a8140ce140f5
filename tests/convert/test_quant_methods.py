"""Quantization methods that no reader knows are refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from tmac.convert.readers import FORMATS, UNSUPPORTED, reader_for
from tmac.convert.readers.native import native_reader
from tmac.convert.sources.checkpoint import Checkpoint


@pytest.mark.parametrize("method", ["something new", None, 3, [], "GPTQ"])
def test_other_methods_are_refused_by_name(folder, refused, method):
    folder.config["quantization_config"] = {"quant_method": method}
    refused(lambda: reader_for(Checkpoint(folder.save())), "config.json", "quant_method", repr(method), "gptq")


@pytest.mark.parametrize("method", ["bitsandbytes", "aqlm", "vptq", "quip", "exl3", "fp8", "mxfp4", "paroquant"])
def test_known_methods_are_refused_with_the_reason(folder, refused, method):
    folder.config["quantization_config"] = {"quant_method": method}
    words = ("config.json", "quant_method", repr(method), "not supported", UNSUPPORTED[method], "gptq")
    refused(lambda: reader_for(Checkpoint(folder.save())), *words)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    ],
)
def test_4_bit_floats_of_nvidia_by_their_names(folder, settings):
    folder.config["quantization_config"] = settings
    assert native_reader(Checkpoint(folder.save())).method == "nvfp4"


def test_every_method_of_transformers_is_known():
    """Its own list: each is read, left to llama.cpp's converter, or refused with the reason."""
    methods = json.loads((Path(__file__).parents[1] / "fixtures" / "quantization_methods.json").read_text("utf-8"))
    read = {name for kind in FORMATS for name in kind.methods}
    assert set(methods) - read - UNSUPPORTED.keys() == set()


@pytest.mark.parametrize("architectures", [["LlamaForCausalLM"], None, 3])
def test_unquantized_checkpoint_is_refused(folder, refused, architectures):
    del folder.config["quantization_config"]
    folder.config["architectures"] = architectures
    folder.tensors = {"model.norm.weight": np.ones(256, np.float16)}
    words = ("config.json", "quantization_config is None", "not quantized")
    refused(lambda: reader_for(Checkpoint(folder.save())), *words)
