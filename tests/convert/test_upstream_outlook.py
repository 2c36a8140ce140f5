"""What goes by llama.cpp's own converter, what that is shown of it, and what `tmac inspect` says before."""

import json
import sys

import numpy as np
import pytest

from support.reexpress import reexpress
from support.rotated_checkpoints import fold_manifest
from support.safetensors_files import write_tensors
from tmac.convert.inspect import inspect_checkpoint
from tmac.convert.readers import reader_for
from tmac.convert.readers.native import native_reader
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.small_floats import widened
from tmac.convert.upstream.models import WHOLE, goes_upstream, name_of
from tmac.convert.upstream.prepare import known_pre_tokenizer, shown, upstream_model
from tmac.convert.upstream.rearranged import WEIGHT, Quantized

Q = "model.layers.0.self_attn.q_proj"
ROWS, COLUMNS = 256, 256
# A pre-tokenizer that nobody knows.
SPLIT = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}


def place(info):
    return str(info.file.resolve()), info.dtype, info.shape, info.start, info.nbytes


def test_what_the_converter_is_shown(folder):
    """A quantized layer is one weight without values; everything else is where it is, or aside."""
    angles = "model.layers.0.self_attn.rotary_emb.inv_freq"
    activations = [f"{Q}.{part}_scale" for part in ("input", "output", "q", "k", "v")]
    folder.tensors |= {**dict.fromkeys(activations, np.ones(1, np.float16)), angles: np.ones(8, np.float16)}
    checkpoint = Checkpoint(folder.save())
    reader = reader_for(checkpoint)
    tensors, aside = shown(checkpoint, Quantized(reader, reader.shapes()))
    assert aside == [*activations, angles]
    assert tensors.keys() & {*aside} == set()
    assert tensors[Q + WEIGHT] == ("", "F32", (ROWS, COLUMNS), 0, 0)
    assert not any(name.endswith(("qweight", "scales", "g_idx")) for name in tensors)
    assert tensors["model.norm.weight"] == place(checkpoint.info("model.norm.weight"))
    assert list(shown(checkpoint, Quantized(reader, {}))[0]) == list(checkpoint.tensors)


def test_8_bit_floats_are_shown_with_their_scales(folder):
    folder.tensors |= {"m.weight": np.ones((4, 8), np.uint8), "m.weight_scale": np.ones((4, 1), np.float16)}
    write_tensors(folder.weights, folder.tensors, small=["m.weight"])
    plain = Checkpoint(folder.path)
    tensors, _ = shown(widened(plain), Quantized(reader_for(plain), {}))
    assert tensors["m.weight"] == (*place(plain.info("m.weight")), place(plain.info("m.weight_scale")))
    assert tensors["m.weight"][1] == "F8_E4M3" and "m.weight_scale" not in tensors


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"architectures": ["A", "B"]}, "A"),
        *[({"architectures": wrong}, None) for wrong in ([], None, "A", [1], {"A": 1})],
        ({}, None),
        ({"architectures": ["A"], "text_config": {"architectures": ["B", "C"]}}, "B"),
        ({"text_config": {"architectures": ["B"]}}, "B"),
        *[({"architectures": ["A"], "text_config": {"architectures": wrong}}, "A") for wrong in ([], None, "B")],
        *[({"architectures": ["A"], "text_config": wrong}, "A") for wrong in (None, {}, ["B"])],
        *[({"architectures": [name], "text_config": {"architectures": ["B"]}}, name) for name in WHOLE],
    ],
)
def test_name_of_a_family_is_that_of_its_text_part_if_it_has_one(config, expected):
    assert name_of(config) == expected


@pytest.mark.parametrize(
    ("family", "settings", "goes", "goes_if_asked"),
    [
        ("LlamaForCausalLM", {}, False, True),
        ("LlamaForCausalLM", {"quant_method": "mxfp4"}, True, True),
        ("ArceeForCausalLM", {}, True, True),
        ("MadeUpForCausalLM", {}, False, False),
        ("MadeUpForCausalLM", {"quant_method": "mxfp4"}, False, False),
    ],
)
def test_what_only_llama_cpp_has_goes_by_its_converter(folder, family, settings, goes, goes_if_asked):
    folder.config["architectures"] = [family]
    folder.config["quantization_config"] |= settings
    checkpoint = Checkpoint(folder.save())
    assert (goes_upstream(checkpoint), goes_upstream(checkpoint, True)) == (goes, goes_if_asked)


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
    assert dict(found.facts)["quantization"] == "gptq w2g64 asymmetric"
    first, last = found.notes
    assert "by their names in the checkpoint" in first and f"{len(found.tensors)} quantized layers" in last
    assert "torch" not in sys.modules


def inspected(folder):
    folder.config["architectures"] = ["ArceeForCausalLM"]
    return inspect_checkpoint(folder.save())


# One layer, in blocks of its own width.
ROTATION = fold_manifest([Q + WEIGHT], COLUMNS)


@pytest.mark.parametrize(
    ("rotation", "words"), [(ROTATION, "rotated weights are supported only"), ({}, "the weights are rotated, and")]
)
def test_inspecting_says_that_rotated_weights_are_refused(folder, rotation, words):
    """Those that are understood, and others."""
    (folder.path / "hadamard_packing.json").write_text(json.dumps(rotation))
    assert any(words in refusal.message for refusal in inspected(folder).refusals)


def test_rotated_weights_and_8_bit_floats_without_scales_are_refused(folder, refused):
    """Before the converter is asked."""

    def converted():
        checkpoint = Checkpoint(folder.path)
        upstream_model(checkpoint, reader_for(checkpoint), None, None, name="", keeps_settings=False)

    write_tensors(folder.weights, {**folder.tensors, "m.weight": np.ones((4, 8), np.uint8)}, small=["m.weight"])
    refused(converted, "m.weight", "F8_E4M3", "weight_scale beside it")
    (folder.path / "hadamard_packing.json").write_text(json.dumps(ROTATION))
    refused(converted, "hadamard_packing.json", "rotated weights")


@pytest.mark.parametrize("known", [True, False])
def test_inspecting_says_where_only_a_conversion_knows_the_pre_tokenizer(folder, tokenizer, known):
    if not known:
        tokenizer.json["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [SPLIT, tokenizer.json["pre_tokenizer"]],
        }
    (folder.path / "tokenizer.json").write_text(json.dumps(tokenizer.json))
    assert any("only a conversion tells" in note for note in inspected(folder).notes) is not known


def test_pre_tokenizer_is_known_whatever_tokens_were_added(tokenizer):
    """Merges need not give those. One that is not byte-level is none of ours."""
    tokenizer.json["added_tokens"] = [{"id": 259, "content": "<eot>"}]
    tokenizer.json["model"]["vocab"]["<eot>"] = 259
    tokenizer.json["model"]["ignore_merges"] = True
    for pre_tokenizer, expected in ((tokenizer.json["pre_tokenizer"], "gpt-2"), ({"type": "Metaspace"}, None)):
        tokenizer.write("tokenizer.json", {**tokenizer.json, "pre_tokenizer": pre_tokenizer})
        assert known_pre_tokenizer(tokenizer.path) == expected


def test_inspecting_says_nothing_of_the_pre_tokenizer_of_a_vocabulary_that_is_not_byte_level(folder, tokenizer):
    tokenizer.json["pre_tokenizer"] = {"type": "Metaspace"}
    tokenizer.json["model"]["byte_fallback"] = True
    (folder.path / "tokenizer.json").write_text(json.dumps(tokenizer.json))
    assert not any("only a conversion tells" in note for note in inspected(folder).notes)


@pytest.mark.parametrize(("zero", "type_name", "bits"), [(127, "f16", 16), (128, "q8_0", 8.5)])
def test_inspecting_shows_layers_that_get_no_type_of_ours(folder, zero, type_name, bits):
    """8 bits, which q8_0 holds with the usual zero-point alone."""
    module = "model.layers.2.mlp.up_proj"
    folder.config["quantization_config"]["dynamic"] = {r"+:.*\.2\.mlp\.up_proj": {"bits": 8}}
    groups, rows = folder.tensors[f"{module}.scales"].shape
    folder.tensors[f"{module}.qweight"] = np.repeat(folder.tensors[f"{module}.qweight"], 4, axis=0)
    folder.tensors[f"{module}.qzeros"] = np.full((groups, rows), zero, np.uint8).view(np.int32)
    found = inspected(folder)
    (entry,) = [tensor for tensor in found.tensors if tensor.name == module]
    assert (entry.type_name, entry.nbytes) == (type_name, rows * COLUMNS * bits / 8)
    assert any(module in note and "rounded" in note for note in found.notes) is (type_name == "f16")


def test_inspecting_shows_other_layers_beside_one_that_would_be_refused(folder):
    module = "model.layers.2.mlp.up_proj"
    whole = len(inspected(folder).tensors)
    folder.tensors[f"{module}.scales"] = folder.tensors[f"{module}.scales"][1:].copy()
    found = inspected(folder)
    assert len(found.tensors) == whole - 1 and module not in {tensor.name for tensor in found.tensors}
    (refusal,) = found.refusals
    assert f"{module}.scales" in refusal.message


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
    name, values = next((name, values) for name, values in folder.tensors.items() if values.dtype == np.float16)
    folder.save()
    write_tensors(folder.weights, {**folder.tensors, name: values.view(np.uint8)}, small=[name])
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
    for algorithm in ("NVFP4", "W4A16_NVFP4", "FP8"):
        (folder.path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": algorithm}}))
        kinds[algorithm] = native_reader(Checkpoint(folder.save()))
    assert {algorithm: kind and kind.method for algorithm, kind in kinds.items()} == {
        "NVFP4": "nvfp4",
        "W4A16_NVFP4": "nvfp4",
        "FP8": None,
    }


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
