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

from support import tiny_checkpoints
from support.chosen import chosen_values
from support.comparison import nmse, rounding_limit
from support.families.configs import FAMILIES
from support.families.converting import PROGRAM, converted
from support.tiny_families import MODELS
from tmac.convert.architectures import ARCHITECTURES
from tmac.convert.errors import ConvertError
from tmac.convert.pipeline import convert
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.tools.llama.verify import all_logits

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


@pytest.fixture(scope="session")
def families(request, tmp_path_factory, upstream):
    """A folder with what write.py makes of each family that is tested, and ours: <name>-ours.gguf, or <name>.error."""
    folder = tmp_path_factory.mktemp("families")
    names = chosen_values(request, test_family, "name")

    def work(part):
        command = [upstream.python, PROGRAM, folder, upstream.source, *part]
        with (folder / f"{part[0]}.log").open("wb") as log:
            subprocess.run(list(map(str, command)), check=True, stdout=log, stderr=log)
        for name in part:
            ours(folder, name, upstream)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, filter(None, (names[::2], names[1::2]))))
    return folder


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
        # A near tie of two experts may send a token to the other one: two of 63 where activations have 8 bits.
        counted = np.argsort(np.square(our_logits - logits).sum(axis=1))[:-2]
    assert nmse(our_logits[counted], logits[counted]) <= rounding_limit(mine.metadata["general.architecture"])


@pytest.fixture(scope="session")
def both_ways(request, tmp_path_factory, byte_level, upstream):
    """A folder with <name>-ours.gguf and <name>-theirs.gguf of each model that is tested."""
    folder = tmp_path_factory.mktemp("both")
    models = chosen_values(request, test_both_ways_give_the_same_file, "tiny")

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


@pytest.mark.parametrize("tiny", MODELS, ids=lambda tiny: tiny.name)
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
