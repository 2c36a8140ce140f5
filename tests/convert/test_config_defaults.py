"""A key that a configuration lacks means what transformers' own class assumes: these classes wrote the fixture."""

import json
import re
from pathlib import Path

import pytest

from support.written import Written
from tmac.convert.architectures import ARCHITECTURES

DEFAULTS = json.loads((Path(__file__).parents[1] / "fixtures" / "config_defaults.json").read_text("utf-8"))
# What the class assumes is not what llama.cpp computes.
GIVEN = {"BitNetConfig": {"tie_word_embeddings": True}, "Qwen3MoeConfig": {"norm_topk_prob": True}}


def seen(name, config):
    """What reaches the GGUF and the user."""
    config = {**config, **GIVEN.get(name, {})}
    architecture = ARCHITECTURES[re.sub("(Text)?Config$", "ForCausalLM", name)](config, Path("config.json"))
    metadata = Written()
    architecture.add_metadata(metadata)
    parts = [(part.source, part.target, part.full_shape) for part in architecture.parts()]
    return metadata, parts, architecture.tied_head, architecture.notes


@pytest.mark.parametrize("name", DEFAULTS)
def test_absent_keys_mean_what_transformers_assumes(name):
    assert seen(name, DEFAULTS[name]["given"]) == seen(name, DEFAULTS[name]["says"])
