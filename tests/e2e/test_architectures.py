"""Every model family: a tiny random GPTQ checkpoint, converted and run, against llama.cpp on the same weights in float.

The expected values come from tests/fixtures/architectures/make.py: metadata, names and shapes from the pinned tree's
own converter, logits from llama.cpp on that converter's file and from transformers on the checkpoint.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from support import tiny_checkpoints
from support.comparison import nmse, rounding_limit
from support.safetensors_files import write_tensors
from support.tiny_families import BY_NAME, MODELS
from tmac.convert.architectures import ARCHITECTURES
from tmac.convert.errors import ConvertError
from tmac.convert.pipeline import convert
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.tools.llama.verify import all_logits

FIXTURES = Path(__file__).parents[1] / "fixtures" / "architectures"
# Another name of Llama; text parts of models that see images, tested below by the bytes of their files; those of
# test_bitnet.py and test_rotated_checkpoints.py.
TESTED_ELSEWHERE = {
    "LLaMAForCausalLM",
    "Gemma3ForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "PrismHadamardQwen35ForConditionalGeneration",
    "BitNetForCausalLM",
    "BitnetForCausalLM",
}
# If the likeliest token leads by more than this, in deviations of the error, another token is a mistake.
SAFE_MARGIN = 6
# convert always writes these keys. Where the tree's converter omits them, llama.cpp assumes the same values.
ALWAYS_WRITTEN = ("vocab_size", "attention.key_length", "attention.value_length", "rope.dimension_count")
# Tensors, likewise: it moves columns of floats, where codes stay and have an order beside them.
TENSORS_BESIDES = {"qwen35-orders": {"blk.0.ssm_out.order": [192]}}
# Keys that convert writes and the pinned tree's converter does not, by model.
WRITTEN_BESIDES = {
    # Its converter assumes that every sixth layer has no window, whatever layer_types says.
    "gemma3-layer-types": ("attention.sliding_window_pattern",),
    # It relies on llama.cpp's default base frequency, which is the same.
    "gemma2": ("rope.freq_base",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function: name of a model, whether its experts are quantized -> its GGUF and the report, made once."""
    folder, done = tmp_path_factory.mktemp("families"), {}

    def make(name, quantized_experts=True):
        key = (name, quantized_experts)
        if key not in done:
            place = folder / f"{name}-{quantized_experts}"
            checkpoint = tiny_checkpoints.write(BY_NAME[name], place, quantized_experts=quantized_experts)
            output = folder / f"{name}-{quantized_experts}.gguf"
            report = convert(checkpoint, output, embedding="f16", head="f16", progress=False, log=lambda line: None)
            done[key] = output, report
        return done[key]

    return make


def expected(name):
    record = json.loads((FIXTURES / f"{name}.json").read_text())
    return record, np.load(FIXTURES / f"{name}.npz")


def check_logits(build, name, model):
    record, arrays = expected(name)
    tokens, logits = all_logits(build, model, tiny_checkpoints.TEXT, BY_NAME[name].arguments)
    assert tokens.tolist() == record["tokens"]
    found = logits[record["positions"]]
    limit = rounding_limit(record["architecture"])
    if BY_NAME[name].converter:
        assert nmse(found, arrays["llama_cpp"]) <= limit
    error = nmse(found, arrays["transformers"])
    assert error <= limit
    deviation = np.sqrt(error * np.square(found).mean())
    safe = arrays["margin"] > SAFE_MARGIN * deviation
    assert safe.sum() > len(safe) / 4
    # A near tie of two experts may send a token to the other expert, which the margin of logits does not show.
    assert (logits.argmax(axis=1) != arrays["likeliest"])[safe].sum() <= (1 if BY_NAME[name].experts else 0)


@pytest.mark.parametrize("name", BY_NAME)
def test_metadata_names_and_shapes(made, name):
    """Everything that the pinned tree's converter writes, and nothing else except what is listed above."""
    record, _ = expected(name)
    header = read_gguf_header(made(name)[0])
    architecture = header.metadata["general.architecture"]
    assert architecture == record["architecture"]
    ours = {key: value for key, value in header.metadata.items() if key.startswith(f"{architecture}.")}
    assert {key: ours.get(key) for key in record["metadata"]} == record["metadata"]
    besides = {f"{architecture}.{key}" for key in (*ALWAYS_WRITTEN, *WRITTEN_BESIDES.get(name, ()))}
    assert ours.keys() - record["metadata"].keys() <= besides
    shapes = {**record["shapes"], **TENSORS_BESIDES.get(name, {})}
    assert {tensor.name: list(tensor.shape) for tensor in header.tensors} == shapes


@pytest.mark.parametrize("name", [tiny.name for tiny in MODELS if not tiny.experts])
def test_logits(build, made, name):
    check_logits(build, name, made(name)[0])


@pytest.mark.parametrize("quantized", [False, True], ids=["float-experts", "quantized-experts"])
@pytest.mark.parametrize("name", [tiny.name for tiny in MODELS if tiny.experts])
def test_logits_of_experts(build, made, name, quantized):
    check_logits(build, name, made(name, quantized)[0])


def test_every_linear_layer_is_kept_on_its_grid(made):
    """No layer that is quantized in the checkpoint becomes floats in the GGUF; experts included."""
    for tiny in MODELS:
        header = read_gguf_header(made(tiny.name)[0])
        kept = [tensor for tensor in header.tensors if tensor.type_name.startswith("tmac_")]
        layers = tiny.full_config["num_hidden_layers"]
        there = [name for name in tiny.linear for layer in range(layers) if layer in tiny.only.get(name, (layer,))]
        assert len(kept) == len(there) + layers * len(tiny.experts)


def test_text_part_of_gemma3_is_the_text_model(made, tmp_path):
    """The same weights, stored as a model that also sees images: the same file, except for its note."""
    tiny = BY_NAME["gemma3"]
    folder = tiny_checkpoints.write(tiny, tmp_path / "checkpoint")
    text = {**tiny.full_config, "model_type": "gemma3_text"}
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    stored = json.loads((folder / "config.json").read_text())
    special = {key: value for key, value in stored.items() if key.endswith("_token_id")}
    whole |= {**special, "quantization_config": stored["quantization_config"]}
    (folder / "config.json").write_text(json.dumps(whole))
    tensors = {f"language_model.{name}": values for name, values in tiny_checkpoints.tensors(tiny, True, True)}
    images = {"vision_tower.head.probe": np.ones(3, np.float16), "multi_modal_projector.x": np.ones(3, np.float16)}
    write_tensors(folder / "model.safetensors", {**images, **tensors})
    output = tmp_path / "out.gguf"
    report = convert(folder, output, embedding="f16", head="f16", progress=False, log=lambda line: None)
    assert output.read_bytes() == made("gemma3")[0].read_bytes()
    assert any("sees images" in note for note in report.notes)


def test_text_part_of_qwen35_is_the_text_model(made, tmp_path):
    """As transformers stores a model that also sees images: the same file, except for its note."""
    tiny = BY_NAME["qwen35"]
    folder = tiny_checkpoints.write(tiny, tmp_path / "checkpoint")
    stored = json.loads((folder / "config.json").read_text())
    whole = {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5"}
    whole |= {"text_config": tiny.full_config, "quantization_config": stored["quantization_config"]}
    (folder / "config.json").write_text(json.dumps(whole))
    tensors = {name.replace("model.", "model.language_model.", 1): of for name, of in quantized_tensors(tiny)}
    write_tensors(
        folder / "model.safetensors", {"model.visual.blocks.0.norm1.weight": np.ones(3, np.float16), **tensors}
    )
    output = tmp_path / "out.gguf"
    report = convert(folder, output, embedding="f16", head="f16", progress=False, log=lambda line: None)
    assert output.read_bytes() == made("qwen35")[0].read_bytes()
    assert any("sees images" in note for note in report.notes)


def test_qwen35_as_mlx_stores_it(build, made, tmp_path):
    """Norms hold 1 + w, the convolution has its axes the other way round, nothing drafts, and names are mlx-vlm's."""
    tiny = BY_NAME["qwen35"]
    folder = tiny_checkpoints.write(tiny, tmp_path / "checkpoint")

    def as_mlx(name, values):
        if name.endswith("conv1d.weight"):
            return values.transpose(0, 2, 1)
        is_shifted = name.endswith("norm.weight") and "linear_attn" not in name
        return (values.astype(np.float32) + 1).astype(np.float16) if is_shifted else values

    stored = quantized_tensors(tiny)
    drafts = {name: of for name, of in stored if name.startswith("mtp.")}
    tensors = {f"language_model.{name}": as_mlx(name, of) for name, of in stored if name not in drafts}
    write_tensors(folder / "model.safetensors", tensors)
    output = tmp_path / "out.gguf"
    report = convert(folder, output, embedding="f16", head="f16", progress=False, log=lambda line: None)
    assert any("no block that drafts" in note for note in report.notes)
    assert read_gguf_header(output).metadata["qwen35.block_count"] == 4
    check_logits(build, "qwen35", output)
    write_tensors(folder / "model.safetensors", {**tensors, **dict(stored)})
    with pytest.raises(ConvertError, match="are both"):
        convert(folder, output, force=True, progress=False, log=lambda line: None)
    write_tensors(folder / "model.safetensors", {**tensors, **drafts})
    with pytest.raises(ConvertError, match="the order of MLX"):
        convert(folder, output, force=True, progress=False, log=lambda line: None)


def quantized_tensors(tiny):
    return list(tiny_checkpoints.tensors(tiny, True, True))


def test_every_family_is_tested():
    tested = {name for tiny in MODELS for name in tiny.config["architectures"]}
    assert ARCHITECTURES.keys() - tested == TESTED_ELSEWHERE


def test_windows_that_llama_cpp_ignores_are_noted(made):
    def notes(name):
        return [note for note in made(name)[1].notes if "attends" in note]

    assert ["last 64 tokens" in note for note in notes("mistral")] == [True]
    assert ["last 63 tokens" in note for note in notes("phi3")] == [True]
    assert not notes("qwen2") and not notes("gemma2") and not notes("phi3-long")
