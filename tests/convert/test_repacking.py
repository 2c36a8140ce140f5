"""Conversions by the compiled repackers give the files that numpy gives, and the same errors."""

import numpy as np
import pytest

from support.rotated_models import q2_0
from support.stock import SCALES_AT, SIZES, blocks, random_blocks, write_stock
from tmac.common.stock import STOCK_TYPES
from tmac.convert.repacking import stock_type
from tmac.kernels.native_repack import repack

Q, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"


def test_files_are_the_same(tmp_path, quietly):
    """Matrices and experts of every type that there are repackers for, and Q2_0 of ternary weights, which has none."""
    ternary = q2_0(np.random.default_rng(1).integers(0, 3, (64, 128), np.uint8), np.ones(64, np.float16))
    tensors = {Q: (42, (64, 128), ternary.reshape(-1))}
    for i, stock in enumerate(STOCK_TYPES, 1):
        tensors[f"blk.{i}.attn_q.weight"] = blocks(stock.id, (64, 512), i)
        tensors[f"blk.{i}.ffn_down_exps.weight"] = blocks(stock.id, (3, 32, 256), 100 + i)
    source = write_stock(tmp_path / "in.gguf", tensors)
    calls = []

    def counted(stock, *arguments):
        calls.append(stock.name)
        return repack(stock, *arguments)

    quietly(source, tmp_path / "numpy.gguf")
    quietly(source, tmp_path / "compiled.gguf", repack=counted)
    assert (tmp_path / "numpy.gguf").read_bytes() == (tmp_path / "compiled.gguf").read_bytes()
    assert sorted(calls) == sorted(4 * [stock.name for stock in STOCK_TYPES])


def test_without_a_compiler(tmp_path, quietly):
    """The function says that there are none: numpy does it."""
    source = write_stock(tmp_path / "in.gguf", {Q: blocks(12, (32, 256))})
    for name, given in (("a.gguf", None), ("b.gguf", lambda *arguments: None)):
        quietly(source, tmp_path / name, repack=given)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("stock", STOCK_TYPES, ids=lambda stock: stock.name)
def test_damage_is_named(stock, tmp_path, quietly, refused):
    data = random_blocks(stock.id, (2, 32, 256)).reshape(-1, SIZES[stock.id][1])
    at = SCALES_AT[stock.id][-1]
    data[-1, at : at + 2] = np.array([np.inf], "<f2").view(np.uint8)
    source = write_stock(tmp_path / "in.gguf", {EXPERTS: (stock.id, (2, 32, 256), data.reshape(-1))})
    out = tmp_path / "out.gguf"
    refused(lambda: quietly(source, out, repack=repack), "in.gguf", EXPERTS, stock.name, "infinite")
    assert not out.exists()


def test_other_targets_are_not_repacked():
    """Q2_0 of ternary weights becomes a ternary type, which is looked up in the weights."""
    (q2_0,) = (stock for stock in STOCK_TYPES if stock.name == "q2_0")
    assert stock_type(q2_0.id, q2_0.target) == q2_0
    assert stock_type(q2_0.id, STOCK_TYPES[0].target) is None and stock_type(142, q2_0.target) is None
