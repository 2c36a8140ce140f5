"""What public bug reports of other projects turned up, as kinds: the right model, or one sentence that says why not."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from support.notes import note_of
from support.stock import NORM, blocks, stored_values, write_stock
from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header

Q, K = "blk.0.attn_q.weight", "blk.0.attn_k.weight"


# Tensors of a GGUF must lie one behind the other.


@pytest.mark.parametrize(
    ("type_id", "nbytes", "words"),
    [
        (
            142,
            32 * 66,
            ("overlaps what is before it", "pq2_0 (type 142)", "in files of ik_llama.cpp, type 142 is IQ2_TN"),
        ),
        (143, 32 * 66, ("follows a hole", "ptq1_0 (type 143)", "type 143 is IQ1_TN")),
        (2, 32 * 66, ("overlaps what is before it", "q4_0 (type 2)")),
    ],
)
def test_types_of_another_size(tmp_path, quietly, refused, type_id, nbytes, words):
    """Blocks of 66 bytes for 256 weights, under a number that means something else here."""
    other = type_id, (32, 256), np.zeros(nbytes, np.uint8)
    source = write_stock(tmp_path / "in.gguf", {Q: other, K: blocks(2, (32, 256)), NORM[0]: NORM[1]})
    refused(lambda: quietly(source, tmp_path / "out.gguf"), f"tensor {K}", *words)


def test_places_that_were_changed(tmp_path, refused):
    """Two tensors in one place, a first one that is not at the beginning, and one that goes past the end."""
    source = write_stock(tmp_path / "in.gguf", {Q: blocks(2, (32, 256)), K: blocks(2, (32, 256)), NORM[0]: NORM[1]})
    data = source.read_bytes()
    places = [data.index(name.encode()) + len(name) + 4 + 16 + 4 for name in (Q, K)]
    assert [struct.unpack_from("<Q", data, at)[0] for at in places] == [0, 32 * 144]
    for at, offset, words in ((places[1], 0, K), (places[0], 32, Q), (places[1], 2**62, "truncated")):
        changed = bytearray(data)
        struct.pack_into("<Q", changed, at, offset)
        source.write_bytes(changed)
        refused(lambda: read_gguf_header(source), words)


# Values.


def test_layers_that_are_zero_throughout(folder, tmp_path, quietly):
    """Their scales are 0: a conversion says how many, and which is the first."""
    for layer in (1, 3):
        module = f"model.layers.{layer}.mlp.up_proj"
        folder.tensors[f"{module}.scales"][:] = 0
        folder.tensors[f"{module}.qweight"][:] = 0
    report = quietly(folder.save(), tmp_path / "x.gguf")
    assert note_of(report, "2 layers are zero throughout (first: model.layers.1.mlp.up_proj)")
    assert not stored_values(tmp_path / "x.gguf", "blk.3.ffn_up.weight").any()


def test_a_bfloat16_scale_below_the_range_of_fp16(folder, tmp_path, quietly, refused):
    """One group whose scale is 3.2e-6: rounded to a step of fp16, with a note. A layer of such scales alone is not."""
    name = "model.layers.2.mlp.down_proj.scales"
    before = folder.tensors[name].astype(np.float32)
    bits = before.view(np.uint32) >> 16
    bits[0, 5] = np.float32(3.2e-6).view(np.uint32) >> 16
    folder.tensors[name] = bits.astype(np.uint16)
    report = quietly(folder.save(), tmp_path / "x.gguf")
    assert note_of(report, "1 scales are below the normal range of fp16")
    folder.tensors[name][:] = bits[0, 5]
    refused(lambda: quietly(folder.save(), tmp_path / "y.gguf"), name, "not exact in fp16", "3.18")


@pytest.mark.parametrize("reorders", [False, True])
def test_groups_of_inputs_as_int64(folder, tmp_path, quietly, reorders):
    """g_idx in int64 is the same as in int32."""
    name = "model.layers.0.mlp.down_proj.g_idx"
    if reorders:
        folder.tensors[name] = np.random.default_rng(4).permutation(folder.tensors[name])
    quietly(folder.save(), tmp_path / "32.gguf")
    folder.tensors[name] = folder.tensors[name].astype(np.int64)
    quietly(folder.save(), tmp_path / "64.gguf")
    assert (tmp_path / "32.gguf").read_bytes() == (tmp_path / "64.gguf").read_bytes()


# Names.


@pytest.mark.parametrize("names", [("mtp.fc.weight", "mtp.layers.0.x.weight"), ("model.layers.4.eh_proj.weight",)])
def test_blocks_that_draft_are_left_out(folder, tmp_path, quietly, refused, names):
    """With a note; as blocks after the last one only where the configuration counts them."""
    quietly(folder.path, tmp_path / "without.gguf")
    for name in names:
        folder.tensors[name] = np.ones((4, 4), np.float16)
    if "layers.4" in names[0]:
        refused(lambda: quietly(folder.save(), tmp_path / "x.gguf"), names[0], "not part of the llama architecture")
        folder.config["num_nextn_predict_layers"] = 1
    report = quietly(folder.save(), tmp_path / "x.gguf")
    subject = f"{names[0]} only drafts" if len(names) == 1 else f"{names[0]} and 1 other tensor only draft"
    assert note_of(report, f"{subject} tokens ahead (MTP)")
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "without.gguf").read_bytes()
    for name in ("surprise", "model.layers.3.surprise.weight", "model.layers.5.eh_proj.weight"):
        folder.tensors[name] = np.ones((4, 4), np.float16)
        refused(lambda: quietly(folder.save(), tmp_path / "y.gguf"), f"tensor {name} is not part of the llama")
        del folder.tensors[name]


PREFIXES = ("model.", "language_model.model.", "model.language_model.", "language_model.", "")


@pytest.mark.parametrize("there", PREFIXES)
@pytest.mark.parametrize("here", PREFIXES)
def test_settings_of_layers_under_another_prefix(here, there):
    """Names and expressions of settings meet the layer, whatever the layout of the file that they were written for."""
    from tmac.convert.readers.per_layer import Rule, Rules, names_of

    layer = "layers.3.mlp.up_proj"
    assert there + layer in names_of(here + layer) and names_of(here + layer)[0] == here + layer
    named = {there + layer: Rule("x", lambda name: False, {"bits": 8})}
    assert Rules(Path("c"), "k", [], named).overrides(here + layer) == {"bits": 8}
    assert Rules(Path("c"), "k", [], named).overrides(here + "layers.13.mlp.up_proj") == {}
    text = there + layer
    rule = Rule(text, text.__eq__, {"bits": 8})
    if there:
        assert Rules(Path("c"), "k", [rule]).overrides(here + layer) == {"bits": 8}


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        (r"^(?!model\.language_model\.).*", False),
        (r"^(?=language_model\.).*", False),
        (r"language_model\.model\.layers\.[13]\..*", True),
        # It was written for this layout: there is such a module, although it is another one.
        (r"model\.language_model\.layers\.1\..*|model\.layers\.3\..*", False),
    ],
)
@pytest.mark.parametrize("excludes", [False, True])
def test_expressions_for_another_layout(folder, refused, expression, fits, excludes):
    """`dynamic` of GPTQ, `targets` and `ignore` of compressed-tensors: what names lack is no sign of another layout."""
    first, layer = (f"model.language_model.layers.{number}.mlp.up_proj" for number in (1, 3))
    gptq = {"quant_method": "gptq", "bits": 2, "group_size": 32, "sym": False}
    gptq["dynamic"] = {f"-:{expression}": {}} if excludes else {expression: {"bits": 8}}
    words = {"qweight": np.ones((4, 32), np.int32), "qzeros": np.ones((2, 2), np.int32)}
    packed = two_groups(2, 8)
    packed["config_groups"]["1"]["targets"] = [f"re:{expression}"]
    packed["ignore"] = [f"re:{expression}"] if excludes else []
    for settings, parts in (
        (gptq, {**words, "scales": np.ones((2, 32), np.float16)}),
        (packed, {"weight_packed": np.zeros((32, 4), np.int32), "weight_scale": np.ones((32, 2), np.float16)}),
    ):
        folder.config["quantization_config"] = settings
        folder.tensors = {f"{module}.{part}": data for module in (first, layer) for part, data in parts.items()}
        reader = reader_for(Checkpoint(folder.save()))
        if fits:
            refused(lambda: reader.grid(layer, 32, 64), layer)
        else:
            assert reader.grid(layer, 32, 64).bits == 2


def test_own_settings_of_mlx_under_another_prefix(one_layer, refused):
    """An 8-bit override for `language_model.model.m` where the tensors are `model.m` (here: `m`)."""
    tensors = {
        "weight": np.zeros((32, 64 * 8 // 32), np.uint32),
        "scales": np.ones((32, 2), np.float16),
        "biases": np.full((32, 2), -128, np.float16),
    }
    for name in ("m", "model.m", "language_model.model.m", "model.language_model.m"):
        settings = {"group_size": 32, "bits": 4, name: {"group_size": 32, "bits": 8}}
        assert one_layer(settings, tensors, key="quantization").grid("m", 32, 64).bits == 8


# Two groups of one target.


@pytest.mark.parametrize("order", [(2, 4), (4, 2)])
@pytest.mark.parametrize("bits", [2, 4])
def test_groups_with_one_target(one_layer, order, bits):
    """The width of the packed codes says which of the two a layer is of."""
    tensors = {"weight_packed": np.zeros((32, 64 * bits // 32), np.int32), "weight_scale": np.ones((32, 2), np.float16)}
    assert one_layer(two_groups(*order), tensors).grid("m", 32, 64).bits == bits


@pytest.mark.parametrize("size", [32, 64])
def test_groups_of_other_sizes_with_one_target(one_layer, size):
    """The shape of the scales tells them apart where the bits are the same."""
    scales = np.ones((32, 64 // size), np.float16)
    settings = two_groups(4, 4)
    settings["config_groups"]["1"]["weights"]["group_size"] = 64
    reader = one_layer(settings, {"weight_packed": np.zeros((32, 8), np.int32), "weight_scale": scales})
    assert reader.grid("m", 32, 64).group == size


def test_groups_that_cannot_be_told_apart(one_layer, refused):
    """The same shapes mean two things: one symmetric, one not. Or none of both fits."""
    tensors = {"weight_packed": np.zeros((32, 8), np.int32), "weight_scale": np.ones((32, 2), np.float16)}
    settings = two_groups(4, 4)
    settings["config_groups"]["1"]["weights"]["symmetric"] = False
    reader = one_layer(settings, tensors)
    refused(lambda: reader.grid("m", 32, 64), "config_groups has 4 bits, group_size 32 and 4 bits", "could be either")
    tensors["weight_packed"] = np.zeros((32, 7), np.int32)
    reader = one_layer(settings, tensors)
    refused(lambda: reader.grid("m", 32, 64), "m.weight_packed has shape [32, 7]")


def two_groups(*bits):
    def weights(count):
        return {"num_bits": count, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}

    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {str(i): {"targets": ["Linear"], "weights": weights(n)} for i, n in enumerate(bits)},
    }


# Tokenizers.


def llama3(tokenizer):
    from tmac.convert.vocabularies.pretokenizers import WORDS

    split = {"type": "Split", "pattern": {"Regex": WORDS["llama3"][0]}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer.json["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    tokenizer.json["model"]["ignore_merges"] = True


@pytest.mark.parametrize(
    ("flag", "config", "pre"),
    [
        *(
            (True, {"model_type": name, "transformers_version": "4.57.3"}, "tekken")
            for name in ("mistral", "mistral3", "voxtral", "ministral", "pixtral")
        ),
        (True, {}, "tekken"),
        (True, {"model_type": "llama"}, "llama-bpe"),
        (True, {"model_type": "mistral", "transformers_version": "5.0.0.dev0"}, "tekken"),
        (True, {"model_type": "mistral", "transformers_version": "5.0.0rc1"}, "tekken"),
        (True, {"model_type": "mistral", "transformers_version": "5.1.0.dev0"}, "llama-bpe"),
        (True, {"model_type": "mistral", "transformers_version": "5.0.0"}, "llama-bpe"),
        (True, {"model_type": "llama", "transformers_version": "4.57.3"}, "llama-bpe"),
        (False, {"model_type": "mistral", "transformers_version": "4.57.3"}, "llama-bpe"),
        (None, {"model_type": "mistral", "transformers_version": "4.57.3"}, "llama-bpe"),
    ],
)
def test_flag_that_mends_mistral_s_expression(tokenizer, flag, config, pre):
    """Under the conditions of transformers; a note says so."""
    llama3(tokenizer)
    tokenizer.write("tokenizer_config.json", {} if flag is None else {"fix_mistral_regex": flag})
    vocabulary = tokenizer.read(config=config)
    assert vocabulary.pre == pre
    assert any("fix_mistral_regex" in note for note in vocabulary.notes) == (pre == "tekken")


@pytest.mark.parametrize(
    "step",
    [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
    ],
)
def test_mistral_s_expression_before_a_single_step(tokenizer, refused, step):
    """It comes in front; spaces that would be marked become characters of bytes."""
    llama3(tokenizer)
    tokenizer.json["pre_tokenizer"] = step
    tokenizer.write("tokenizer_config.json", {"fix_mistral_regex": True})
    assert tokenizer.read().pre == "tekken"
    tokenizer.json["pre_tokenizer"] = None
    refused(tokenizer.read, "tokenizer.json: pretokenizers of pre_tokenizer is not a list of objects")


def test_templates_by_name_reach_the_file(folder, tmp_path, quietly):
    """llama-server looks tool_use up by its key."""
    path = folder.path / "tokenizer_config.json"
    templates = [{"name": name, "template": text} for name, text in (("default", "D"), ("tool_use", "T"), ("rag", ""))]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": templates}))
    quietly(folder.save(), tmp_path / "x.gguf")
    found = read_gguf_header(tmp_path / "x.gguf").metadata
    assert found["tokenizer.chat_template"] == "D" and found["tokenizer.chat_template.tool_use"] == "T"
    # One without text is none.
    assert found["tokenizer.chat_templates"] == ["tool_use"] and "tokenizer.chat_template.rag" not in found
