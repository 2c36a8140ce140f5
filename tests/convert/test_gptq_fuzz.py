"""Random damage to settings and tensors of GPTQ-like layers: converted or refused, quickly, and a refusal leaves no
file.
"""

import json
import random
import time

import numpy as np
import pytest

from support.gptq_files import Kind, repack

SEED, CASES = 30, 60
VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    32,
    48,
    64,
    2**40,
    -(2**70),
    10**4000,
    1.5,
    float("inf"),
    "x",
    "",
    "gptq",
    "gptq_v2",
    "gptq_p",
    "int8",
    "auto_round",
    "auto_round:auto_awq",
    "mlx",
    [],
    [7],
    {},
    {"bits": 3},
    {"quantizer": ["gptqmodel:1"]},
)
EXPRESSIONS = (
    "(a*)*" * 9 + "b",
    "(((.*)*)*)*x",
    ".*" * 900 + "!",
    "((((a?){999}){999}){999}){999}",
    "(" * 2000,
    "[",
    "\\",
    "a{1,",
    "(?P<a",
    "-:.*down_proj",
    "+:.*q_proj",
    "-:",
    "",
    "model",
    "(?!.*down).*",
    "a|" * 1500,
    "\ud800",
    "{}",
)
SETTINGS = (
    "bits",
    "group_size",
    "sym",
    "desc_act",
    "static_groups",
    "checkpoint_format",
    "format",
    "pack_dtype",
    "meta",
    "dynamic",
    "extra_config",
    "packing_format",
    "backend",
    "data_type",
    "act_bits",
    "rotation",
    "method",
    "quant_method",
    "lm_head",
)
GPTQ = {"quant_method": "gptq", "bits": 3, "group_size": 64, "checkpoint_format": "gptq", "desc_act": True}
AUTO_ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": "auto_round"}


def damage_setting(config, tensors, random_):
    if isinstance(config.get("quantization_config"), dict):
        config["quantization_config"][random_.choice(SETTINGS)] = random_.choice(VALUES)
    else:
        config["quantization_config"] = random_.choice(VALUES)


def damage_rules(config, tensors, random_):
    key, values = random_.choice(("dynamic", "extra_config")), (*VALUES, {}, {}, {"bits": 4})
    rules = {random_.choice(EXPRESSIONS): random_.choice(values) for _ in range(random_.randint(1, 4))}
    if isinstance(config.get("quantization_config"), dict):
        config["quantization_config"][key] = rules


def damage_overrides(config, tensors, random_):
    if isinstance(config.get("quantization_config"), dict):
        overrides = {random_.choice(SETTINGS): random_.choice(VALUES)}
        config["quantization_config"].update(dynamic={".*down": overrides}, extra_config={".*down": overrides})


def damage_values(config, tensors, random_):
    """Other values. All are valid, except for scales and g_idx."""
    name = random_.choice([name for name in tensors if name.startswith("model.layers.") and "norm" not in name])
    values = tensors[name].view(np.uint8).reshape(-1)
    places = [random_.randrange(values.size) for _ in range(random_.choice((1, 50)))]
    values[places] = random_.choice((0, 127, 255))


def damage_shape(config, tensors, random_):
    name = random_.choice([name for name in tensors if name.startswith("model.layers.")])
    values = tensors[name]
    changed = (values.T, values[:-1], values[:0], values[..., None], values.reshape(-1)[0], values.astype(np.float32))
    tensors[name] = np.ascontiguousarray(random_.choice(changed))


def damage_names(config, tensors, random_):
    name = random_.choice([name for name in tensors if name.startswith("model.layers.")])
    values = tensors.pop(name)
    if random_.random() < 0.5:
        parts = ("qweight", "qzeros", "scales", "g_idx", "weight", "bias")
        tensors[f"{name.rpartition('.')[0]}.{random_.choice(parts)}"] = values


DAMAGES = (damage_setting, damage_rules, damage_overrides, damage_values, damage_shape, damage_names)


@pytest.mark.parametrize(
    ("settings", "kind", "least_refused"),
    [
        (GPTQ, Kind(3, 64, offset=1, act_order=True), 30),
        (AUTO_ROUND, Kind(4, 32, g_idx=False), 25),
        (None, Kind(3, 64, packing="padded"), 20),
    ],
    ids=["gptq", "auto-round", "efficientqat"],
)
def test_random_damage(folder, is_refused, settings, kind, least_refused):
    """The seed is fixed, so a failure can be repeated."""
    random_ = random.Random(SEED)
    folder.config["quantization_config"] = settings
    repack(folder, lambda module: kind)
    whole = json.dumps(folder.config), dict(folder.tensors)
    refused = 0
    for case in range(CASES):
        folder.config, folder.tensors = json.loads(whole[0]), {name: values.copy() for name, values in whole[1].items()}
        damage = DAMAGES[case % len(DAMAGES)]
        damage(folder.config, folder.tensors, random_)
        folder.save()
        start = time.process_time()
        refused += is_refused(folder.path, (case, damage.__name__))
        assert time.process_time() - start < 10, (case, damage.__name__)
    assert refused >= least_refused
