"""What goes by llama.cpp's own converter, what that is shown of it, and what `tmac inspect` says before."""

import json
import sys

import numpy as np
import pytest

from support.reexpress import reexpress
from tmac.convert.inspect import inspect_checkpoint
from tmac.convert.readers import reader_for
from tmac.convert.readers.native import native_reader
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.upstream.models import goes_upstream
from tmac.convert.upstream.prepare import shown, upstream_model
from tmac.convert.upstream.rearranged import WEIGHT, Quantized

Q = "model.layers.0.self_attn.q_proj"
ROWS, COLUMNS = 256, 256
# A pre-tokenizer that nobody knows.
SPLIT = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}


def test_what_the_converter_is_shown(demo):
    """A quantized layer is one weight without values; everything else is where it is."""
    checkpoint = Checkpoint(demo)
    reader = reader_for(checkpoint)
    tensors, aside = shown(checkpoint, Quantized(reader, reader.shapes()))
    assert aside == []
    assert tensors[Q + WEIGHT] == ("", "F32", (ROWS, COLUMNS), 0, 0)
    assert not any(name.endswith(("qweight", "scales", "g_idx")) for name in tensors)
    info = checkpoint.info("model.norm.weight")
    assert tensors["model.norm.weight"] == (str(info.file.resolve()), info.dtype, info.shape, info.start, info.nbytes)


def test_inspecting_a_family_that_only_llama_cpp_has(folder):
    """Every quantized layer with its type, and the way that it would go; torch is not imported."""
    folder.config["architectures"] = ["ArceeForCausalLM"]
    checkpoint = Checkpoint(folder.save())
    assert goes_upstream(checkpoint)
    found = inspect_checkpoint(checkpoint.folder)
    assert found.refusals == []
    assert {tensor.type_name for tensor in found.tensors} == {"tmac_w2g64z"}
    assert len(found.tensors) == len(reader_for(checkpoint).shapes())
    assert "llama.cpp's own converter (tmac build --all-models)" in dict(found.facts)["architecture"]
    assert "torch" not in sys.modules


def inspected(folder):
    folder.config["architectures"] = ["ArceeForCausalLM"]
    return inspect_checkpoint(folder.save())


def test_inspecting_says_that_rotated_weights_are_refused(folder):
    (folder.path / "hadamard_packing.json").write_text("{}")
    assert any("rotated" in refusal.message for refusal in inspected(folder).refusals)


@pytest.mark.parametrize("known", [True, False])
def test_inspecting_says_where_only_a_conversion_knows_the_pre_tokenizer(folder, tokenizer, known):
    if not known:
        tokenizer.json["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [SPLIT, tokenizer.json["pre_tokenizer"]],
        }
    (folder.path / "tokenizer.json").write_text(json.dumps(tokenizer.json))
    assert any("only a conversion tells" in note for note in inspected(folder).notes) is not known


def test_inspecting_sees_a_rule_for_one_layer(folder):
    """Layer 2 has larger groups than the others of its name."""
    module = "model.layers.2.mlp.up_proj"
    folder.config["quantization_config"]["dynamic"] = {r"+:.*\.2\.mlp\.up_proj": {"group_size": 128}}
    for part in ("qzeros", "scales"):
        folder.tensors[f"{module}.{part}"] = folder.tensors[f"{module}.{part}"][::2].copy()
    folder.tensors[f"{module}.g_idx"] = (np.arange(COLUMNS) // 128).astype(np.int32)
    types = {tensor.name: tensor.type_name for tensor in inspected(folder).tensors}
    assert types.pop(module) == "tmac_w2g128z" and set(types.values()) == {"tmac_w2g64z"}


def test_8_bit_floats_beside_are_refused(folder):
    """Their scales would be lost."""
    folder.config["architectures"] = ["ArceeForCausalLM"]
    folder.save()
    raw = folder.weights.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    name, entry = next((name, entry) for name, entry in header.items() if entry.get("dtype") == "F16")
    header[name] = {**entry, "dtype": "F8_E4M3", "shape": [*entry["shape"][:-1], 2 * entry["shape"][-1]]}
    text = json.dumps(header).encode()
    folder.weights.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    found = inspect_checkpoint(folder.path)
    assert any(name in refusal.message and "F8_E4M3" in refusal.message for refusal in found.refusals)


def test_mlx_is_refused(folder, refused):
    """mlx-lm has added 1 to norms of some families already, which llama.cpp's converter would do again."""
    reexpress(folder, "mlx-2bit")
    folder.config["architectures"] = ["ArceeForCausalLM"]
    checkpoint = Checkpoint(folder.save())
    words = "config.json", "mlx", "1 added to norms", "a second time"
    reader = reader_for(checkpoint)
    refused(lambda: upstream_model(checkpoint, reader, None, None, name="", keeps_settings=False), *words)
    found = inspect_checkpoint(checkpoint.folder)
    assert found.tensors == [] and all(word in found.render() for word in words)


def test_4_bit_floats_are_said_to_stay_so(folder):
    folder.config["architectures"] = ["GptOssForCausalLM"]
    folder.config["quantization_config"] = {"quant_method": "mxfp4"}
    found = inspect_checkpoint(folder.save())
    assert found.refusals == [] and any("keep their type of ggml" in note for note in found.notes)


@pytest.mark.parametrize("settings", [None, {"quant_method": "modelopt"}])
def test_4_bit_floats_named_by_nvidias_tool_alone(folder, settings):
    """hf_quant_config.json, which llama.cpp's converter reads too; an 8-bit algorithm there is none of these."""
    folder.config["architectures"] = ["ArceeForCausalLM"]
    folder.config["quantization_config"] = settings
    kinds = {}
    for algorithm in ("NVFP4", "FP8"):
        (folder.path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": algorithm}}))
        kinds[algorithm] = native_reader(Checkpoint(folder.save()))
    assert kinds["NVFP4"].method == "nvfp4" and kinds["FP8"] is None


def test_options_that_would_have_no_effect_are_refused(folder, demo, tmp_path, quietly, refused):
    """--quantize of what stays as it is, and --upstream of what llama.cpp's converter does not read."""

    def refused_with(source, *words, **options):
        refused(lambda: quietly(source, tmp_path / "out.gguf", find_upstream=lambda: None, **options), *words)

    quietly(demo, tmp_path / "model.gguf")
    refused_with(tmp_path / "model.gguf", "is a GGUF", "--upstream", prefer_upstream=True)
    folder.config["architectures"] = ["MadeUpForCausalLM"]
    refused_with(folder.save(), "no architecture 'MadeUpForCausalLM'", "--upstream", prefer_upstream=True)
    folder.config["architectures"] = ["GptOssForCausalLM"]
    for settings in ({"quant_method": "mxfp4"}, {"quant_method": "modelopt", "quant_algo": "NVFP4"}):
        folder.config["quantization_config"] = settings
        refused_with(folder.save(), "config.json", "fp4, expected one in floats", "--quantize", quantize="w4g32")


def test_family_that_nobody_has_is_refused(folder):
    folder.config["architectures"] = ["MadeUpForCausalLM"]
    found = inspect_checkpoint(folder.save())
    assert any("MadeUpForCausalLM" in refusal.message and "llama.cpp" in refusal.hint for refusal in found.refusals)
