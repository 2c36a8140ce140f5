"""Inputs with which other projects failed, by public reports: they convert, and mean the same."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from support.stock import NORM, blocks, entries, slow_values, stored_values, tensor_bytes, write_stock
from tmac.convert import fetch
from tmac.convert.readers import bitnet

Q = "blk.0.attn_q.weight"
# A layer that T-MAC has a type for, without which there is nothing to convert.
WHOLE = {"blk.0.attn_k.weight": blocks(2, (32, 256))}


@pytest.mark.parametrize("setting", [{"extra_special_tokens": ["<s>", "</s>"]}, {"fix_mistral_regex": True}])
def test_settings_that_change_nothing(folder, tmp_path, quietly, setting):
    """transformers 5 writes a list where an object was; the flag of a tokenizer.json beside a tokenizer.model alone."""
    quietly(folder.path, tmp_path / "without.gguf")
    path = folder.path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **setting}))
    quietly(folder.save(), tmp_path / "with.gguf")
    assert (tmp_path / "with.gguf").read_bytes() == (tmp_path / "without.gguf").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_paths_that_are_no_utf_8(folder, tmp_path, quietly, refused):
    """A source and an output whose folder has the name that another encoding gave it; also in a message."""
    quietly(folder.path, tmp_path / "x.gguf")
    strange = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    source = Path(shutil.copytree(folder.path, strange / "checkpoint"))
    quietly(source, strange / "x.gguf")
    assert (strange / "x.gguf").read_bytes() == (tmp_path / "x.gguf").read_bytes()
    refused(lambda: quietly(source, strange / "x.gguf"), "x.gguf exists")


@pytest.mark.parametrize("columns", [704, 2112, 2880])
def test_columns_that_fill_no_block(tmp_path, quietly, columns):
    """Rows of 5.5, 16.5 and 22.5 blocks of 128, whose activations share a scale: T-MAC's type, with the same values."""
    kind, shape, data = blocks(2, (32, columns))
    source = write_stock(tmp_path / "in.gguf", {Q: (kind, shape, data), NORM[0]: NORM[1]})
    quietly(source, tmp_path / "x.gguf")
    assert np.array_equal(stored_values(tmp_path / "x.gguf", Q).reshape(shape), slow_values(kind, shape, data))


def test_rows_that_fill_no_tile(tmp_path, quietly):
    """1.5 tiles of 32: kept as they are, with a note."""
    source = write_stock(tmp_path / "in.gguf", {Q: blocks(2, (48, 256)), **WHOLE, NORM[0]: NORM[1]})
    report = quietly(source, tmp_path / "x.gguf")
    before, after = entries(source)[Q], entries(tmp_path / "x.gguf")[Q]
    assert after.type_name == "q4_0"
    assert np.array_equal(tensor_bytes(tmp_path / "x.gguf", after), tensor_bytes(source, before))
    assert f"{Q} is kept as q4_0: 48 rows are not a multiple of 32" in report.notes


@pytest.mark.parametrize(
    ("name", "size", "commit", "words"),
    [
        (None, 1, "a" * 40, "a file None of 1 bytes"),
        (5, 1, "a" * 40, "a file 5 of 1 bytes"),
        ("", 1, "a" * 40, "a file '' of 1 bytes"),
        ("config.json", "12", "a" * 40, "a file 'config.json' of '12' bytes"),
        ("config.json", 1, "../a", "the commit '../a'"),
        ("config.json", 1, None, "the commit None"),
    ],
)
def test_answers_of_a_proxy_in_the_hub_s_place(refused, name, size, commit, words):
    """Valid JSON that is no listing; a commit becomes part of a path."""
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size)], sha=commit)
    refused(lambda: fetch._sizes("org/model", info), "org/model: the hub's answer has", words, "HF_ENDPOINT")
    assert fetch._sizes("org/model", SimpleNamespace(siblings=None, sha="a" * 40)) == {}


def test_scales_of_bfloat16_masters_are_rounded_as_torch_does():
    """Ties go to the even one of the two."""
    for bits, expected in ((0x3F808000, 0x3F80), (0x3F818000, 0x3F82), (0x3F818001, 0x3F82), (0x3F807FFF, 0x3F80)):
        value = np.uint32(bits).view(np.float32)
        assert bitnet._rounded(value, "BF16") == float(np.uint32(expected << 16).view(np.float32))
