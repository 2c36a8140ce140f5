"""Random damage to a checkpoint: a conversion works, or raises ConvertError and leaves no file."""

import json
import random
import re
import struct

import pytest

from support.damage import VALUES, damage_header_bytes, damage_header_entry
from support.ternary_models import make

SEED = 20


def damage_config(folder, random_):
    config = json.loads(json.dumps(folder.config))
    target = random_.choice((config, config.get("quantization_config", config)))
    others = ["rope_scaling", "rope_parameters", "dynamic", "format", "_name_or_path", "linear_class", "weight_bits"]
    key = random_.choice([*target, *others])
    target[key] = random_.choice(VALUES)
    (folder.path / "config.json").write_text(json.dumps(config))


def damage_tokenizer_settings(folder, random_):
    path = folder.path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings[random_.choice([*settings, "chat_template", "added_tokens_decoder", "pad_token"])] = random_.choice(VALUES)
    path.write_text(json.dumps(settings))


def damage_digits(folder, random_):
    """Replaces a number in a JSON file by one of 5000 digits, which Python refuses to read."""
    path = folder.path / random_.choice(("config.json", "model.safetensors"))
    data = path.read_bytes()
    start, end = (0, len(data)) if path.suffix == ".json" else (8, 8 + struct.unpack("<Q", data[:8])[0])
    found = random_.choice(list(re.finditer(rb"(?<=[\[ :,])\d+(?=[,\]}])", data[start:end])))
    text = data[start : start + found.start()] + b"9" * 5000 + data[start + found.end() : end]
    path.write_bytes((struct.pack("<Q", len(text)) if start else b"") + text + data[end:])


def damage_length(folder, random_):
    data = folder.weights.read_bytes()
    folder.weights.write_bytes(data[: random_.randrange(len(data))])


def damage_vocabulary(folder, random_):
    path = folder.path / "tokenizer.model"
    data = bytearray(path.read_bytes())
    data[random_.randrange(len(data))] = random_.randrange(256)
    path.write_bytes(data)


DAMAGES = (
    damage_config,
    damage_tokenizer_settings,
    damage_header_bytes,
    damage_header_entry,
    damage_length,
    damage_vocabulary,
    damage_digits,
)


def one_block(folder):
    """The first block of a checkpoint alone: each conversion takes a third of the time."""
    folder.config["num_hidden_layers"] = 1
    kept = {name: values for name, values in folder.tensors.items() if ".layers." not in name or ".layers.0." in name}
    folder.tensors = kept
    return folder


@pytest.mark.parametrize(("name", "cases"), [("gptq", 210), ("microsoft", 105), ("1bitllm", 105)])
def test_random_damage(folder, name, cases, tmp_path, is_refused):
    """Damaged checkpoints, of BitNet too; the seed is fixed, so a failure can be repeated."""
    if name == "gptq":
        one_block(folder).save()
    else:
        folder = type(folder)(make(tmp_path / name, name).folder)
    random_ = random.Random(SEED)
    originals = {path: path.read_bytes() for path in folder.path.iterdir()}
    refused = 0
    for case in range(cases):
        damage = DAMAGES[case % len(DAMAGES)]
        damage(folder, random_)
        refused += is_refused(folder.path, (case, damage.__name__))
        for path, data in originals.items():
            path.write_bytes(data)
    assert refused >= cases * 0.45
