"""Public reports of other converters, by llama.cpp's own converter: see test_public_reports.py and test_heads.py."""

import json
import shutil
from pathlib import Path

import pytest

from support.families.converting import converted
from support.safetensors_files import read_tensors, write_tensors
from tmac.convert.errors import ConvertError
from tmac.convert.sources.gguf_header import read_gguf_header

HEAD = "output.weight"


@pytest.fixture
def change(byte_level, tmp_path, upstream):
    """change(config, keep): converts a checkpoint with other settings, and only the tensors that `keep` renames."""

    def make(config=(), keep=lambda name: name, tokenizer=()):
        checkpoint = Path(shutil.copytree(byte_level, tmp_path / "checkpoint"))
        for name, changes in (("config.json", config), ("tokenizer_config.json", tokenizer)):
            found = json.loads((checkpoint / name).read_text())
            (checkpoint / name).write_text(json.dumps({**found, **dict(changes)}))
        weights = checkpoint / "model.safetensors"
        tensors = {new: values for name, values in read_tensors(weights).items() if (new := keep(name))}
        write_tensors(weights, tensors)
        output, _ = converted(checkpoint, upstream)
        return read_gguf_header(output)

    return make


def test_a_head_beside_a_tied_flag(change):
    """As transformers 5: it has other values than the embedding, and stays."""
    assert HEAD in {tensor.name for tensor in change({"tie_word_embeddings": True}).tensors}


def test_templates_by_name_reach_the_file(change):
    templates = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    found = change(tokenizer={"chat_template": templates}).metadata
    assert (found["tokenizer.chat_template"], found["tokenizer.chat_template.tool_use"]) == ("A", "B")


def test_a_base_model_without_prefix_and_head(change):
    found = change(keep=lambda name: None if "lm_head" in name else name.removeprefix("model."))
    assert HEAD not in {tensor.name for tensor in found.tensors}


def test_a_missing_head_of_a_whole_model_is_refused(change):
    with pytest.raises(ConvertError, match="there is no output head, but tie_word_embeddings is false"):
        change(keep=lambda name: None if "lm_head" in name else name)
