"""Families by llama.cpp's own converter: tiny checkpoints that transformers wrote, as GPTQ, against the same in floats.

llama.cpp's converter makes the expected file of the floats, and llama.cpp computes the expected logits with it.
"""

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from support import reexpress, tiny_checkpoints
from support.comparison import nmse
from support.families.configs import FAMILIES
from support.safetensors_files import read_tensors, write_tensors
from tmac.convert.architectures import ARCHITECTURES
from tmac.convert.errors import ConvertError
from tmac.convert.pipeline import convert
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.tools.llama.verify import all_logits

NMSE_LIMIT = 1e-3
TEXT = "One morning, Mia went to the forest with a small red kite. It was a sunny day and the sun was warm."
# What a conversion sets itself, or takes from no folder's name.
OWN_KEYS = {f"general.{key}" for key in ("name", "basename", "file_type", "alignment", "quantization_version")}
# Keys that one of both ways omits, where llama.cpp assumes the same values; those of general.* are for people.
ONE_WAY = ("vocab_size", "attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base")
ONE_WAY_KEYS = {"general.type", "general.size_label"} | {
    f"tokenizer.ggml.{key}" for key in ("unknown_token_id", "eot_token_id", "add_bos_token", "add_eos_token")
}
# Its vocabulary is byte-level for llama.cpp's converter.
BYTE_LEVEL = ("qwen2moe", "qwen3moe", "olmoe", "qwen35", "qwen35-orders")
PROGRAM = Path(__file__).parents[1] / "support" / "families" / "write.py"


@pytest.fixture(scope="session")
def families(request, tmp_path_factory, upstream):
    """A folder with what write.py makes of each family that is tested, and ours: <name>-ours.gguf, or <name>.error."""
    folder = tmp_path_factory.mktemp("families")
    tested = [item for item in request.session.items if item.name.startswith("test_family[")]
    names = [item.callspec.params["name"] for item in tested]

    def work(part):
        command = [upstream.python, PROGRAM, folder, upstream.source, *part]
        with (folder / f"{part[0]}.log").open("wb") as log:
            subprocess.run(list(map(str, command)), check=True, stdout=log, stderr=log)
        for name in part:
            ours(folder, name, upstream)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, filter(None, (names[::2], names[1::2]))))
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory, upstream):
    """Two folders by the names of their families: of the usual layers, and of experts as floats."""
    folder, names = tmp_path_factory.mktemp("small"), ("ArceeForCausalLM", "GptOssForCausalLM")
    command = [upstream.python, PROGRAM, folder, upstream.source, *names]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return {name: folder / name for name in names}


@pytest.fixture(scope="session")
def byte_level(small):
    """A checkpoint with a byte-level tokenizer."""
    return small["ArceeForCausalLM"] / "quantized"


def ours(folder, name, upstream):
    if not (folder / f"{name}.gguf").exists():
        return
    try:
        convert(
            folder / name / "quantized",
            folder / f"{name}-ours.gguf",
            embedding="f16",
            head="f16",
            find_upstream=lambda: upstream,
            prefer_upstream=True,
            progress=False,
            log=lambda line: None,
        )
    except Exception as problem:
        (folder / f"{name}.error").write_text(str(problem))


@pytest.mark.parametrize("name", FAMILIES)
def test_family(build, families, name):
    """Metadata and names of tensors are those of llama.cpp's converter, and the logits those of the floats."""
    for problem in (families / f"{name}.txt", families / f"{name}.error"):
        assert not problem.exists(), problem.read_text()
    expected, found = families / f"{name}.gguf", families / f"{name}-ours.gguf"
    theirs, mine = read_gguf_header(expected), read_gguf_header(found)
    for header in (theirs, mine):
        for key in list(header.metadata):
            if key in OWN_KEYS or key.startswith("tmac."):
                del header.metadata[key]
    assert mine.metadata == theirs.metadata
    shapes = {tensor.name: tensor.shape for tensor in mine.tensors if not tensor.name.endswith(".order")}
    assert shapes == {tensor.name: tensor.shape for tensor in theirs.tensors}
    assert sum(tensor.type_name.startswith("tmac_") for tensor in mine.tensors) >= len(mine.tensors) // 5
    tokens, logits = all_logits(build, expected, TEXT, ())
    same_tokens, our_logits = all_logits(build, found, TEXT, ())
    assert np.array_equal(tokens, same_tokens)
    counted = slice(None)
    if any(tensor.name.endswith("_exps.weight") for tensor in mine.tensors):
        # A near tie of two experts may send a token to the other one.
        counted = np.argsort(np.square(our_logits - logits).sum(axis=1))[:-1]
    assert nmse(our_logits[counted], logits[counted]) <= NMSE_LIMIT


@pytest.fixture(scope="session")
def both_ways(request, tmp_path_factory, byte_level, upstream):
    """A folder with <name>-ours.gguf and <name>-theirs.gguf of each model that is tested."""
    folder = tmp_path_factory.mktemp("both")
    tested = [item for item in request.session.items if item.name.startswith("test_both_ways")]
    models = [item.callspec.params["tiny"] for item in tested]

    def work(tiny):
        checkpoint = tiny_checkpoints.write(tiny, folder / tiny.name)
        if tiny.name in BYTE_LEVEL:
            (checkpoint / "tokenizer.model").unlink()
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(byte_level / name, checkpoint)
        for way, preferred in (("ours", False), ("theirs", True)):
            output = folder / f"{tiny.name}-{way}.gguf"
            quiet = {"progress": False, "log": lambda line: None}
            convert(checkpoint, output, find_upstream=lambda: upstream, prefer_upstream=preferred, **quiet)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, models))
    return folder


@pytest.mark.parametrize("tiny", tiny_checkpoints.MODELS, ids=lambda tiny: tiny.name)
def test_both_ways_give_the_same_file(both_ways, tiny):
    """Of a family that T-MAC has itself: the bytes of all tensors, and all metadata but what one of them may omit."""
    files = [both_ways / f"{tiny.name}-{way}.gguf" for way in ("ours", "theirs")]
    ours, theirs = map(read_gguf_header, files)
    assert {t.name: t.type_name for t in ours.tensors} == {t.name: t.type_name for t in theirs.tensors}
    places = [{tensor.name: tensor for tensor in header.tensors} for header in (ours, theirs)]
    for name, tensor in places[0].items():
        first, second = (
            np.fromfile(file, np.uint8, tensor.nbytes, offset=place[name].offset) for file, place in zip(files, places)
        )
        if name == "rope_freqs.weight":
            # Computed in float32 by one and in float64 by the other.
            assert np.allclose(first.view("<f4"), second.view("<f4"), rtol=1e-6)
        else:
            assert np.array_equal(first, second), name
    architecture = ours.metadata["general.architecture"]
    omitted = ONE_WAY_KEYS | {f"{architecture}.{key}" for key in ONE_WAY}
    differing = {
        key
        for key in ours.metadata.keys() | theirs.metadata.keys()
        if ours.metadata.get(key) != theirs.metadata.get(key)
    }
    assert not differing & ours.metadata.keys() & theirs.metadata.keys()
    assert differing <= omitted | WRITTEN_BY_ONE.get(tiny.name, set())


# By model, what only our own way writes; the first is what llama.cpp's converter gets wrong.
WRITTEN_BY_ONE = {"gemma3-layer-types": {"gemma3.attention.sliding_window_pattern"}}


def test_families_are_those_that_t_mac_does_not_have_itself():
    assert not FAMILIES.keys() & ARCHITECTURES.keys()
    assert len(FAMILIES) >= 30


@pytest.fixture
def checkpoint(byte_level, tmp_path):
    """A copy of a small checkpoint of such a family, to change."""
    return Path(shutil.copytree(byte_level, tmp_path / "checkpoint"))


def converted(checkpoint, upstream, **options):
    output = checkpoint.parent / "out.gguf"
    quiet = {"progress": False, "log": lambda line: None}
    return output, convert(checkpoint, output, find_upstream=lambda: upstream, **quiet, **options)


def refusal(checkpoint, upstream):
    with pytest.raises(ConvertError) as caught:
        converted(checkpoint, upstream)
    assert not list(checkpoint.parent.glob("*.gguf")) and not list(checkpoint.parent.glob(".out.gguf*"))
    return str(caught.value)


def test_unknown_pre_tokenizer_is_an_error_that_names_it(checkpoint, upstream):
    file = checkpoint / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "x+"}
    file.write_text(json.dumps(tokenizer))
    found = refusal(checkpoint, upstream)
    assert "neither llama.cpp nor T-MAC knows the pre-tokenizer" in found and re.search("[0-9a-f]{64}", found)


def test_code_of_a_checkpoint_is_never_run(checkpoint, upstream):
    marker = checkpoint.parent / "was-run"
    (checkpoint / "tokenization_own.py").write_text(f"open({str(marker)!r}, 'w')\nclass OwnTokenizer: pass\n")
    own = ["tokenization_own.OwnTokenizer", None]
    settings = {"auto_map": {"AutoTokenizer": own}, "tokenizer_class": "OwnTokenizer"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    (checkpoint / "tokenizer.json").unlink()
    assert "only be read by code that it brings along" in refusal(checkpoint, upstream)
    assert not marker.exists()


def test_act_order_is_kept(checkpoint, upstream):
    """The inputs of one layer in other groups: the file says which input each column belongs to."""
    weights = checkpoint / "model.safetensors"
    tensors = read_tensors(weights)
    module = "model.layers.0.mlp.down_proj"
    order = np.random.default_rng(1).permutation(len(tensors[f"{module}.g_idx"]))
    tensors[f"{module}.g_idx"] = tensors[f"{module}.g_idx"][order]
    write_tensors(weights, tensors)
    output, report = converted(checkpoint, upstream)
    assert any("act-order" in note for note in report.notes)
    entry = next(t for t in read_gguf_header(output).tensors if t.name == "blk.0.ffn_down.order")
    found = np.fromfile(output, "<i4", len(order), offset=entry.offset)
    assert np.array_equal(np.sort(found), np.arange(len(order)))
    assert np.array_equal(tensors[f"{module}.g_idx"][found], np.arange(len(order)) // 32)


def _awq(version):
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": version}


def _auto_round(packing):
    settings = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, "data_type": "int"}
    return {**settings, "packing_format": packing}


_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
LAYOUTS = {
    "awq-gemm": (_awq("gemm"), reexpress.awq_gemm),
    "awq-gemv": (_awq("gemv"), reexpress.awq_gemv),
    "awq-gemv-fast": (_awq("gemv_fast"), reexpress.awq_gemv_fast),
    "compressed": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": _WEIGHTS}},
            "ignore": ["lm_head", "re:.*mlp[.]gate$"],
        },
        reexpress.compressed(4),
    ),
    "gptq-v1": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq"},
        reexpress.gptq(1),
    ),
    "auto-round": (_auto_round("auto_round:gptqmodel"), reexpress.gptq(0, order=False)),
    "auto-round-auto-gptq": (_auto_round("auto_round:auto_gptq"), reexpress.gptq(1)),
    "auto-round-awq": (_auto_round("auto_round:auto_awq"), reexpress.awq_gemm),
}


@pytest.fixture(scope="session")
def from_gptq(byte_level, tmp_path_factory, upstream):
    """The file of the small checkpoint as it is."""
    output = tmp_path_factory.mktemp("gptq") / "out.gguf"
    convert(byte_level, output, find_upstream=lambda: upstream, progress=False, log=lambda line: None)
    return output


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_file(checkpoint, from_gptq, upstream, layout):
    """The codes, scales and zero-points of GPTQ in other layouts: the same tensors, byte for byte."""
    settings, pack = LAYOUTS[layout]
    tensors = read_tensors(checkpoint / "model.safetensors")
    for module in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        packed = pack(reexpress.Layer(tensors, module, bits=4, group=32))
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            del tensors[f"{module}.{part}"]
        tensors.update({f"{module}.{part}": values for part, values in packed.items()})
    write_tensors(checkpoint / "model.safetensors", tensors)
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = settings
    (checkpoint / "config.json").write_text(json.dumps(config))
    output, _ = converted(checkpoint, upstream)
    places = [{t.name: t for t in read_gguf_header(file).tensors} for file in (from_gptq, output)]
    assert places[0].keys() == places[1].keys()
    assert sum(tensor.type_name == "tmac_w4g32z" for tensor in places[0].values()) >= 8
    for key, tensor in places[0].items():
        first, second = (
            np.fromfile(file, np.uint8, tensor.nbytes, offset=place[key].offset)
            for file, place in zip((from_gptq, output), places)
        )
        assert tensor.type_name == places[1][key].type_name and np.array_equal(first, second), key


def test_4_bit_floats_keep_their_type(small, upstream, tmp_path):
    """MXFP4 of gpt-oss, block by block: the scale, then 16 bytes with weights i and i + 16.

    The checkpoint has weights 2 i and 2 i + 1 in a byte, and rows of gate and up in turns.
    """
    checkpoint = Path(shutil.copytree(small["GptOssForCausalLM"] / "floats", tmp_path / "checkpoint"))
    tensors, numbers = read_tensors(checkpoint / "model.safetensors"), np.random.default_rng(1)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = numbers.integers(0, 256, (experts, rows, columns // 32, 16), np.uint8)
        tensors[f"{name}_scales"] = numbers.integers(118, 124, (experts, rows, columns // 32), np.uint8)
    write_tensors(checkpoint / "model.safetensors", tensors)
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    output, report = converted(checkpoint, upstream)
    assert report.source == "mxfp4 mxfp4"
    entries = {tensor.name: tensor for tensor in read_gguf_header(output).tensors}
    block = "model.layers.1.mlp.experts"
    places = {"gate": ("gate_up_proj", slice(0, None, 2)), "up": ("gate_up_proj", slice(1, None, 2))}
    for target, (source, rows) in {**places, "down": ("down_proj", slice(None))}.items():
        entry = entries[f"blk.1.ffn_{target}_exps.weight"]
        codes = tensors[f"{block}.{source}_blocks"][:, rows]
        scales = tensors[f"{block}.{source}_scales"][:, rows, :, None]
        halves = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], 32)
        expected = np.concatenate([scales, halves[..., :16] | halves[..., 16:] << 4], axis=-1)
        assert entry.type_name == "mxfp4"
        assert np.array_equal(np.fromfile(output, np.uint8, entry.nbytes, offset=entry.offset), expected.reshape(-1))
