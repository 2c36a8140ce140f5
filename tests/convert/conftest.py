"""Fixtures of the converter's tests: the two bundled checkpoints, and folders that tests may damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.checkpoints import CHECKPOINTS
from support.safetensors_files import read_tensors, write_tensors
from tmac.common.errors import TmacError
from tmac.convert.errors import ConvertError
from tmac.convert.sources.checkpoint import Checkpoint

DEMO, SIBLING = CHECKPOINTS["w2g64z"], CHECKPOINTS["w4g128"]


def pytest_collection_modifyitems(items):
    """What numpy warns of would be lines on a user's stderr: in these tests it is an error."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("error::RuntimeWarning"))


class Folder:
    """A checkpoint folder to edit: change `config` and `tensors` (numpy; uint16 is written as BF16), then save()."""

    def __init__(self, path: Path):
        self.path = path
        self.config = json.loads((path / "config.json").read_text())
        self.weights = path / "model.safetensors"
        self.tensors = read_tensors(self.weights)

    def save(self) -> Path:
        (self.path / "config.json").write_text(json.dumps(self.config))
        write_tensors(self.weights, self.tensors)
        return self.path

    def shard(self) -> list[Path]:
        """Replaces the weights by two shards and their index."""
        names = list(self.tensors)
        halves = (names[: len(names) // 2], names[len(names) // 2 :])
        index = {}
        for i, half in enumerate(halves, 1):
            shard = f"model-0000{i}-of-00002.safetensors"
            write_tensors(self.path / shard, {name: self.tensors[name] for name in half})
            index.update(dict.fromkeys(half, shard))
        (self.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        self.weights.unlink()
        return sorted(self.path.glob("model-*.safetensors"))


@pytest.fixture
def demo() -> Path:
    return DEMO


@pytest.fixture
def sibling() -> Path:
    return SIBLING


@pytest.fixture(params=[DEMO, SIBLING], ids=["w2g64-v2-asymmetric", "w4g128-v1-symmetric"])
def each_checkpoint(request) -> Path:
    return request.param


@pytest.fixture
def folder(tmp_path) -> Folder:
    """An editable copy of the demo checkpoint."""
    return Folder(Path(shutil.copytree(DEMO, tmp_path / "checkpoint")))


@pytest.fixture
def sibling_folder(tmp_path) -> Folder:
    """An editable copy of the 4-bit checkpoint."""
    return Folder(Path(shutil.copytree(SIBLING, tmp_path / "sibling")))


@pytest.fixture
def one_layer(folder):
    """one_layer(settings, tensors): the reader of a checkpoint whose only layer is `m`, with these tensors.

    `settings` are the quantization_config, or with `key` another entry of config.json.
    """
    from tmac.convert.readers import reader_for

    def make(settings, tensors, key="quantization_config"):
        del folder.config["quantization_config"]
        folder.config[key] = settings
        folder.tensors = {f"m.{name}": values for name, values in tensors.items()}
        reader = reader_for(Checkpoint(folder.save()))
        folder.config["quantization_config"] = None
        return reader

    return make


@pytest.fixture
def refused():
    """refused(function, *words): the call raises ConvertError (or `error`), and message and hint hold all the words."""

    def check(function, *words: str, error: type[TmacError] = ConvertError) -> TmacError:
        with pytest.raises(error) as caught:
            function()
        for word in words:
            assert word in str(caught.value), f"{word!r} not in {str(caught.value)!r}"
        return caught.value

    return check


@pytest.fixture
def quietly():
    """convert() without log and progress bar."""
    from tmac.convert.pipeline import convert

    def run(source, output, **options):
        return convert(source, output, log=lambda line: None, progress=False, **options)

    return run


# The visible characters of the bytes 0 to 255 in a byte-level vocabulary, as GPT-2's table has them.
ALPHABET = [
    *map(chr, range(256, 289)),
    *map(chr, range(33, 127)),
    *map(chr, range(289, 323)),
    *map(chr, range(161, 173)),
    chr(323),
    *map(chr, range(174, 256)),
]


class TokenizerFolder:
    """A folder with a tokenizer.json of 256 bytes and the merges `he`, `ll`, `hell`; change `json`, then read()."""

    def __init__(self, path: Path):
        self.path = path
        tokens = [*ALPHABET, "he", "ll", "hell"]
        self.json = {
            "added_tokens": [],
            "normalizer": None,
            "post_processor": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {text: token for token, text in enumerate(tokens)},
                "merges": ["h e", "l l", "he ll"],
            },
        }

    def write(self, name: str, values) -> None:
        (self.path / name).write_text(json.dumps(values))

    def read(self, size: int = 270, config: dict | None = None):
        """The vocabulary for an embedding of `size` rows."""
        from tmac.convert.tokenizer import read_vocabulary

        self.write("tokenizer.json", self.json)
        return read_vocabulary(self.path, config or {}, size)


@pytest.fixture
def tokenizer(tmp_path) -> TokenizerFolder:
    return TokenizerFolder(tmp_path)


@pytest.fixture
def is_refused(tmp_path, quietly):
    """is_refused(source, what): whether converting it ends in a ConvertError. Leaves no file either way."""
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()

    def convert(source, what) -> bool:
        refusal = None
        try:
            quietly(source, output)
            output.unlink()
        except ConvertError as error:
            refusal = error
        assert list(output.parent.iterdir()) == [], what
        assert refusal is None or refusal.message, what
        return refusal is not None

    return convert
