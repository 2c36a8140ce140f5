"""Weights whose columns are stored in another order than the activations (`<name>.order`): computed or refused."""

import re
from dataclasses import replace

import numpy as np
import pytest

from support.comparison import nmse
from support.expert_models import EXPERTS, HIDDEN, expert_model
from support.rotated_models import MTP, RotatedModel
from support.server import serving
from support.tiny_models import array_tensor, logits, random_weight
from tmac.common.errors import TmacError
from tmac.common.format import TYPES_BY_NAME
from tmac.convert.linear import QuantLinear
from tmac.convert.plan.from_gguf import packed_metadata
from tmac.convert.sources.gguf_model import GgufSource
from tmac.convert.write.container import write_gguf

ORDER = "blk.1.attn_q.order"


def stored_in_order(weight, rng):
    """The same weight with its columns stored in a random order. Only for tensor-scale types, whose columns share one
    scale.
    """
    orders = [rng.permutation(matrix.codes.shape[1]) for matrix in weight.matrices]
    matrices = [
        QuantLinear(matrix.codes[:, order], matrix.scales, None, matrix.bits, 0)
        for matrix, order in zip(weight.matrices, orders)
    ]
    return replace(weight, matrices=matrices, orders=orders)


@pytest.mark.parametrize("ubatch", ["512", "1"])
def test_order_of_storage_changes_nothing(build, tmp_path, monkeypatch, ubatch):
    """With one scale per tensor, exact kernels add only integers, so the order does not change the bits."""
    monkeypatch.setenv("TMAC_PRECISION", "exact")
    model, rng = expert_model(TYPES_BY_NAME["w2t"]), np.random.default_rng(3)
    weights = {name: stored_in_order(weight, rng) for name, weight in model.weights.items()}
    plain = logits(build, model.write(tmp_path / "plain.gguf"), "-ub", ubatch)
    path = replace(model, weights=weights).write(tmp_path / "ordered.gguf")
    for threads in ("1", "2", "5"):
        assert np.array_equal(plain, logits(build, path, "-ub", ubatch, "-t", threads))


def test_order_without_memory_map(build, tmp_path):
    path = expert_model(TYPES_BY_NAME["w4g128"], has_orders=True).write(tmp_path / "model.gguf")
    assert np.array_equal(logits(build, path), logits(build, path, "--load-mode", "none"))


def with_order(name, values):
    """Replaces one tensor of the file by these numbers."""
    return lambda tensors: [array_tensor(name, values) if tensor.name == name else tensor for tensor in tensors]


ASCENDING = np.arange(HIDDEN, dtype=np.int32)
ONE_TWICE, BELOW, ABOVE = ASCENDING.copy(), ASCENDING.copy(), ASCENDING.copy()
ONE_TWICE[7], BELOW[255], ABOVE[0] = 9, -1, HIDDEN
LAST_EXPERT = np.tile(ASCENDING, (EXPERTS, 1))
LAST_EXPERT[EXPERTS - 1, 3] = 2**31 - 1
BAD_ORDERS = {
    "twice": (ORDER, ONE_TWICE, "has entry 9 = 9, expected each of 0..255 once"),
    "below": (ORDER, BELOW, "has entry 255 = -1, expected each of 0..255 once"),
    "above": (ORDER, ABOVE, "has entry 0 = 256, expected each of 0..255 once"),
    "last expert": (
        "blk.0.ffn_up_exps.order",
        LAST_EXPERT,
        f"has entry {(EXPERTS - 1) * HIDDEN + 3} = 2147483647, expected each",
    ),
    "floats": (ORDER, ASCENDING.astype(np.float32), "is f32 [256, 1, 1], expected i32 [256, 1, 1]"),
    "short": (ORDER, ASCENDING[:128], "is i32 [128, 1, 1], expected i32 [256, 1, 1]"),
    "one for all experts": ("blk.0.ffn_up_exps.order", ASCENDING, "is i32 [256, 1, 1], expected i32 [256, 8, 1]"),
}


@pytest.mark.parametrize("case", BAD_ORDERS)
def test_bad_order_is_refused(build, tmp_path, case):
    name, values, message = BAD_ORDERS[case]
    path = expert_model(TYPES_BY_NAME["w4g128"], True).write(tmp_path / "model.gguf", change=with_order(name, values))
    with pytest.raises(TmacError, match=re.escape(f"tmac: tensor '{name}' {message}")):
        logits(build, path)


def test_order_of_a_weight_of_another_type_is_refused(build, tmp_path):
    """llama.cpp's own types ignore an order, so the results would be silently wrong."""
    path = expert_model(TYPES_BY_NAME["w4g128"]).write(
        tmp_path / "model.gguf", as_floats=True, change=lambda tensors: [*tensors, array_tensor(ORDER, ASCENDING)]
    )
    message = f"tensor '{ORDER}' orders 'blk.1.attn_q.weight' of type f32, expected a T-MAC type"
    with pytest.raises(TmacError, match=re.escape(message)):
        logits(build, path)


def test_order_of_no_weight_is_refused(build, tmp_path):
    path = expert_model(TYPES_BY_NAME["w4g128"]).write(
        tmp_path / "model.gguf", change=lambda tensors: [*tensors, array_tensor("blk.1.attn_x.order", ASCENDING)]
    )
    with pytest.raises(TmacError, match="wrong number of tensors"):
        logits(build, path)


def test_logits_are_those_of_the_float_weights(build, tmp_path):
    """Column groups in an order, also with exact tables, which need the largest activation of the whole row."""
    model = expert_model(TYPES_BY_NAME["w4g32z"], has_orders=True)
    expected = logits(build, model.write(tmp_path / "floats.gguf", as_floats=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMAC_PRECISION", "exact")
        assert nmse(logits(build, model.write(tmp_path / "tmac.gguf")), expected) < 3e-3


@pytest.mark.parametrize("type_name", ["w2t", "w4g128"])
def test_block_that_drafts_may_be_left_out(build, tmp_path, monkeypatch, type_name):
    """Its weights have orders, and in one type scales. Without drafts llama.cpp skips the weights, and with them what
    lies beside them; with drafts the text is the same.
    """
    monkeypatch.setenv("TMAC_PRECISION", "exact")
    plain = RotatedModel(is_shallow=True, seed=9).write(tmp_path / "plain.gguf")
    model = with_weights_that_draft(plain, tmp_path / "model.gguf", TYPES_BY_NAME[type_name])
    assert np.array_equal(logits(build, model), logits(build, plain))
    assert np.array_equal(logits(build, model, "--load-mode", "none"), logits(build, plain))
    alone, drafted = (answer(build, model, *options) for options in ((), ("--spec-type", "draft-mtp")))
    assert drafted["content"] == alone["content"]
    assert drafted["timings"]["draft_n"] > 0 and "draft_n" not in alone["timings"]


def with_weights_that_draft(path, output, kind):
    """A copy of a model whose MTP block has its linear weights in a type of ours, with orders."""
    source, rng, block = GgufSource(path), np.random.default_rng(11), f"blk.{MTP}."
    tensors = []
    for found in source.tensors:
        entry = found.entry
        if entry.name.startswith(block) and len(entry.shape) == 2:
            weight = random_weight(rng, kind, *entry.shape, has_order=True)
            tensors += weight.tensors(entry.name.removesuffix(".weight"), False)
        else:
            values = np.frombuffer(found.read(0, entry.nbytes), np.float32).reshape(entry.shape)
            tensors.append(array_tensor(entry.name, values))
    kept = packed_metadata(source)
    write_gguf(output, source.architecture, lambda writer: None, tensors, source="a test", packed=kept)
    return output


def answer(build, model, *options):
    with serving(build, model, "-c", "256", "-np", "1", *options) as server:
        request = {"prompt": "Once upon a time", "n_predict": 24, "temperature": 0, "ignore_eos": True}
        return server.ask("/completion", request)
