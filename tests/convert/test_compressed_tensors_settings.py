"""Settings of compressed-tensors: which layers they are for, and those that are refused."""

import numpy as np
import pytest

from support.compressed_tensors import group, packed, settings
from tmac.convert.readers import reader_for
from tmac.convert.sources.checkpoint import Checkpoint


def grid_of(folder, module, groups, bits, ignore=()):
    """The grid of a checkpoint whose only layer is `module`, with tensors of these bits."""
    folder.config["quantization_config"] = settings(*groups, ignore=list(ignore))
    folder.tensors = {f"{module}.{part}": values for part, values in packed(bits).items()}
    return reader_for(Checkpoint(folder.save())).grid(module, 32, 32)


@pytest.mark.parametrize(
    ("targets", "module", "bits"),
    [
        ([["Linear"], ["re:.*down_proj$"]], "model.layers.0.mlp.down_proj", 4),  # expressions go before classes
        ([["Linear"], ["re:.*down_proj$"]], "model.layers.0.mlp.up_proj", 2),
        ([["re:.*proj"], ["model.layers.0.mlp.up_proj"]], "model.layers.0.mlp.up_proj", 4),  # names before expressions
        ([["re:.*layers.*"], ["re:.*attn.*"]], "model.layers.0.self_attn.q_proj", 4),  # then by alphabet
        ([["Linear"], ["Linear"]], "lm_head", 4),  # the later group owns the target
        ([["Linear"], ["Embedding"]], "model.embed_tokens", 4),
        ([["Linear"], ["Module"]], "lm_head", 2),
        ([["Module"]], "lm_head", 2),
        ([["Module"]], "model.embed_tokens", 2),
    ],
)
def test_which_group_a_layer_belongs_to(folder, targets, module, bits):
    groups = [group(each, num_bits=b) for each, b in zip(targets, (2, 4))]
    assert grid_of(folder, module, groups, bits).bits == bits


@pytest.mark.parametrize(
    ("ignore", "left_out"),
    [
        (["lm_head"], True),
        (["re:.*head"], True),
        (["re:head"], False),
        (["Linear"], True),
        (["head"], False),
        ([], False),
    ],
)
def test_ignore(folder, refused, ignore, left_out):
    """A complete name, an expression that matches from the beginning, or a class. If such a layer is quantized all the
    same, it is an error, because no settings describe it.
    """
    if left_out:
        words = ("config.json", "layer lm_head", "config_groups and ignore leave it out")
        refused(lambda: grid_of(folder, "lm_head", [group()], 4, ignore), *words)
    else:
        assert grid_of(folder, "lm_head", [group()], 4, ignore).bits == 4


@pytest.mark.parametrize("layout", ["float-quantized", "mixed-precision"])
def test_floats_of_8_bits_may_be_beside_codes(one_layer, refused, layout):
    """Their layers are read as floats; other floats are not read at all."""
    given = {bits: settings(group(), group(["re:x"], layout, type="float", num_bits=bits)) for bits in (8, 4)}
    assert one_layer(given[8], packed()).grid("m", 32, 32).bits == 4
    refused(lambda: one_layer(given[4], packed()), f"group_1.format '{layout}'")


def test_a_layer_that_no_group_targets(one_layer, refused):
    reader = one_layer(settings(group(["re:.*proj"])), packed())
    refused(lambda: reader.grid("m", 32, 32), "config.json", "layer m", "leave it out")


def test_a_layer_stored_in_another_format(one_layer, refused):
    reader = one_layer(settings(group(format="int-quantized")), packed())
    refused(lambda: reader.grid("m", 32, 32), "m.weight_packed", "expected m.weight")


@pytest.mark.parametrize("target", ["re:[", "re:a{200}", "re:(a"])
def test_targets_that_are_no_expressions(one_layer, refused, target):
    words = ("config.json", f"the regular expression {target[3:]!r}", "more simply")
    refused(lambda: one_layer(settings(group([target])), packed()), *words)
    refused(lambda: one_layer(settings(ignore=[target]), packed()), *words)


def test_an_expression_made_to_hang(folder, refused):
    """Tried on a name of a hundred characters, it is found not to match at once."""
    module = "model." + "a" * 100
    words = ("layer model.aaa", "leave it out")
    refused(lambda: grid_of(folder, module, [group([r"re:model\.((a+)+)+b"])], 4), *words)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quantization_status": "frozen"}, "quantization_status 'frozen'"),
        ({"quantization_status": None}, "quantization_status None"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
        ({"sparsity_config": 3}, "sparsity_config 3"),
        ({"moe_sparsity_config": {"method": "novice"}}, "moe_sparsity_config"),
        ({"format": "marlin-24"}, "config_groups.group_0.format 'marlin-24'"),
        ({"format": "float-quantized"}, "format 'float-quantized'"),
        ({"format": "mixed-precision"}, "format 'mixed-precision'"),
        ({"format": None}, "format None"),
        ({"ignore": "lm_head"}, "ignore 'lm_head'"),
        ({"ignore": [3]}, "ignore [3]"),
        ({"config_groups": None}, "config_groups None"),
        ({"config_groups": []}, "config_groups []"),
        ({"config_groups": {"W4A16": ["Linear"]}}, "config_groups.W4A16 ['Linear']"),
        ({"config_groups": {"a": {**group(), "targets": None}}}, "config_groups.a.targets None"),
        ({"config_groups": {"a": {**group(), "weights": 4}}}, "config_groups.a.weights 4"),
    ],
)
def test_settings_that_are_refused_by_name(one_layer, refused, changes, named):
    words = ("config.json: compressed-tensors with", named, "not supported", "pack-quantized")
    refused(lambda: one_layer(settings(**changes), packed()), *words)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_bits": 5}, "num_bits 5"),
        ({"num_bits": 1}, "num_bits 1"),
        ({"num_bits": True}, "num_bits True"),
        ({"type": "float"}, "type 'float'"),
        ({"dynamic": True}, "dynamic True"),
        ({"symmetric": 1}, "symmetric 1"),
        ({"strategy": "block", "group_size": None}, "strategy 'block'"),
        ({"strategy": ["group"]}, "strategy ['group']"),
        ({"strategy": "tensor_group"}, "strategy 'tensor_group'"),
        ({"group_size": 48}, "group_size 48"),
        ({"group_size": True}, "group_size True"),
        ({"group_size": None}, "group_size None"),
        ({"group_size": -1}, "group_size -1"),
        ({"strategy": "channel", "group_size": 64}, "group_size 64"),
        ({"actorder": "random"}, "actorder 'random'"),
        ({"actorder": {}}, "actorder {}"),
    ],
)
def test_weights_that_are_refused_by_name(one_layer, refused, changes, named):
    words = ("config.json", f"config_groups.group_0.weights.{named}", "2, 3, 4 or 8 bits")
    refused(lambda: one_layer(settings(group(**changes)), packed()), *words)


def test_settings_that_may_be_left_out(one_layer):
    """8 bits and symmetric, in the package's own defaults; a group_size alone means the strategy group."""
    linear = one_layer(settings({"targets": ["Linear"], "weights": {"group_size": 32}}), packed(8)).read("m", 32, 32)
    assert (linear.bits, linear.group, linear.zeros) == (8, 32, None)


@pytest.mark.parametrize("sparsity", [{"format": "dense"}, {}])
def test_settings_that_change_nothing(one_layer, sparsity):
    """Codes and scales are those without them."""
    given = packed()
    given["weight_packed"][:] = np.random.default_rng(2).integers(-(2**31), 2**31, given["weight_packed"].shape)
    harmless = {"sparsity_config": sparsity, "transform_config": {}, "kv_cache_scheme": None, "ignore": None}
    plain, changed = (one_layer(settings(**more), given).read("m", 32, 32) for more in ({}, harmless))
    for one, same in zip(vars(plain).values(), vars(changed).values(), strict=True):
        assert np.array_equal(one, same)
    assert len(np.unique(plain.codes)) == 16
