"""Files that are small, but would take long or fill the memory if what they say were believed before it is checked."""

import json
import re
import struct
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest

from support.stock import write_stock
from tmac.convert.errors import ConvertError
from tmac.convert.inspect import inspect_checkpoint
from tmac.convert.sources.checkpoint import read_header
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.vocabularies.bpe import merge
from tmac.convert.vocabularies.tokenizer_json import TokenizerJson

SECONDS = 5
MARK = "\u2581"


@pytest.fixture
def quick():
    """Fails a test that takes long: of what is tested here, each would take minutes if it grew with the square."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def test_vocabulary_is_not_padded_to_a_number_without_rows(folder, quick):
    """`inspect` of `"vocab_size": 2000000` (in a process with 2 GB of memory): refused, for the embedding's shape."""
    folder.config["vocab_size"] = 2_000_000
    folder.save()
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from tmac.convert.inspect import inspect_checkpoint
print([str(refusal) for refusal in inspect_checkpoint({str(folder.path)!r}).refusals][0])
print(open("/proc/self/status").read())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "embed_tokens.weight has shape [1024, 256], expected [2000000, 256]" in done.stdout, done.stderr
    # Its own: what getrusage says of a child begins with the peak of the process that started it.
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", done.stdout)[1]) / 1024
    assert peak < 500, f"{peak:.0f} MB"


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("vocab_size", 300_000_000, "vocab_size is 300000000, expected a whole number from 1 to"),
        ("head_dim", 2_000_000_000, "head_dim is 2000000000, expected a whole number from 1 to"),
    ],
)
def test_sizes_beyond_any_model_s(folder, quick, key, value, words):
    """Also with a RoPE whose factors, one for two elements of a head, are computed before any tensor is looked at."""
    folder.config[key] = value
    folder.config["rope_scaling"] = {
        "rope_type": "llama3",
        "factor": 8,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 8192,
    }
    assert words in str(inspect_checkpoint(folder.save()).refusals[0])


def test_inspecting_without_a_reader(folder, quick):
    """The method is not known, so the embedding alone says how many rows there are."""
    folder.config["quantization_config"]["quant_method"] = "aqlm"
    folder.config["vocab_size"] = 2_000_000
    assert ["aqlm" in str(refusal) for refusal in inspect_checkpoint(folder.save()).refusals] == [True]


def test_names_in_a_header_that_occur_twice(tmp_path, quick):
    """Found in one pass: the header may have 100 MB."""
    entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = "{" + ",".join(f'"{i}":{entry}' for i in range(100_000)) + f',"99999":{entry}}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(ConvertError, match="names 99999 twice"):
        read_header(path)


def test_steps_of_sequences_in_sequences(tokenizer, quick):
    """In the order in which they are applied, whatever their number."""
    tokenizer.json["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "A"},
            {"type": "Sequence", "normalizers": [{"type": "B"}] * 200_000},
            {"type": "C"},
        ],
    }
    tokenizer.write("tokenizer.json", tokenizer.json)
    kinds = [step["type"] for step in TokenizerJson(tokenizer.path / "tokenizer.json").normalizers]
    assert kinds == ["A", *["B"] * 200_000, "C"]


def test_tokens_of_many_characters(tokenizer, quick):
    """A few long ones are read; together they may not be longer than any vocabulary's."""
    vocabulary = tokenizer.json["model"]["vocab"]
    vocabulary["x" * 2000] = 259
    assert len(tokenizer.read().texts) == 270
    vocabulary.update({str(i) * 3000: 260 + i for i in range(8)} | {"y" * 9000: 268})
    with pytest.raises(ConvertError, match="of 9000 characters are too long together"):
        tokenizer.read()


def test_added_runs_of_spaces(tokenizer, quick):
    """Gemma has up to 31. The check of all runs below takes the third power of the longest."""
    byte_tokens = {f"<0x{byte:02X}>": byte for byte in range(256)}
    tokens = {**byte_tokens, "a": 256, MARK: 257}
    tokenizer.json.update(
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": MARK}, pre_tokenizer=None
    )
    tokenizer.json["model"].update(vocab=tokens, merges=[], byte_fallback=True)
    tokenizer.json["added_tokens"] = [{"id": 258, "content": MARK * 5000}]
    with pytest.raises(ConvertError, match="has 5000 spaces, expected at most 256"):
        tokenizer.read()


def test_named_special_tokens(tokenizer, quick):
    """Each is found at once, not by looking through all tokens."""
    vocabulary = tokenizer.json["model"]["vocab"]
    vocabulary.update({f"t{i}": 259 + i for i in range(30_000)})
    tokenizer.write("special_tokens_map.json", {"additional_special_tokens": [f"t{i}" for i in range(30_000)]})
    assert tokenizer.read(size=40_000).types[259 + 29_999] == 3


def test_deeply_nested_json(folder, quick):
    """Deeper than json reads, and deeper than what prints a value could go."""
    for depth in (200, 900, 100_000):
        (folder.path / "config.json").write_text('{"architectures": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(ConvertError, match="not valid JSON"):
            inspect_checkpoint(folder.path)


def slow_merge(symbols, ranks):
    """As the description of BPE has it: look at all pairs again after every step."""
    symbols = list(symbols)
    while pairs := [(ranks[p], i) for i, p in enumerate(pairwise(symbols)) if p in ranks]:
        _, at = min(pairs)
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
    return symbols


def test_merging_is_bpe():
    """Against the plain algorithm, on random merges of two letters."""
    random = np.random.default_rng(3)
    for _ in range(300):
        texts, ranks = ["a", "b"], {}
        for rank in range(random.integers(1, 12)):
            pair = tuple(texts[i] for i in random.integers(0, len(texts), 2))
            ranks.setdefault(pair, rank)
            texts.append("".join(pair))
        ranks = {pair: rank for rank, pair in enumerate(ranks)}
        text = "".join(random.choice(["a", "b"], random.integers(1, 30)))
        assert merge(text, ranks) == slow_merge(text, ranks)


def test_configuration_that_is_no_object(folder):
    (folder.path / "config.json").write_text(json.dumps(7))
    with pytest.raises(ConvertError, match="found a JSON int"):
        inspect_checkpoint(folder.path)


def test_files_that_end_one_byte_early(tmp_path):
    """The last tensor ends where the file does: one byte less is too little, in both formats."""
    entry = '{"x": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(entry)) + entry.encode() + bytes(100))
    assert read_header(path)["x"].nbytes == 100
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConvertError, match="it is truncated"):
        read_header(path)
    source = write_stock(tmp_path / "x.gguf", {"x": (0, (25,), np.zeros(100, np.uint8))})
    end = read_gguf_header(source).tensors[0].offset + 100
    source.write_bytes(source.read_bytes()[:end])
    assert read_gguf_header(source).tensors[0].nbytes == 100
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(ConvertError, match="truncated"):
        read_gguf_header(source)
