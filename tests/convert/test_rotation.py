"""Rotated weights of a GGUF (Bonsai 2): what is understood, what is refused, what becomes of them, and a real row."""

from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest

from support import bonsai_2
from support.rotated_models import PQ2_0, PTQ1_0, Q2_0, RotatedModel
from support.stock import entries, stored_values
from tmac.common import rotation as keys
from tmac.convert.inspect import inspect_gguf
from tmac.convert.readers.ggml_blocks import BLOCK_TYPES, as_q2_0, linear_of
from tmac.convert.sources.folded import Folded
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write import layout

UINT32, INT32, STRING, BOOL = (getattr(gguf.GGUFValueType, name) for name in ("UINT32", "INT32", "STRING", "BOOL"))
OUT = "blk.0.ssm_out.weight"


@pytest.fixture(scope="module")
def model():
    return RotatedModel()


def test_the_real_row_comes_back(refused):
    """Row 0 of blk.0.ffn_gate.weight: reading, packing and unpacking give the float32 row of the released F16 file."""
    kind, data = BLOCK_TYPES[PTQ1_0], np.tile(bonsai_2.row(), 32)
    linear = linear_of(kind, "the row", data, bonsai_2.WIDTH)
    assert np.bincount(linear.codes[0], minlength=4).tolist() == [0, 1746, 1680, 1694]
    assert len(set(linear.scales[0].tolist())) == 37
    back = layout.unpack(layout.pack(linear), 32, bonsai_2.WIDTH, kind.target).dequantize()
    for row in back + np.float32(0):
        assert bonsai_2.sum_of(row) == bonsai_2.SUMS["row"]


@pytest.mark.parametrize(
    "most, type_id, kind",
    [(2, PTQ1_0, "t3g128"), (2, PQ2_0, "t3g128"), (2, Q2_0, "t3g128"), (3, PQ2_0, "w2g128"), (3, Q2_0, "w2g64")],
)
def test_weights_stay_rotated_and_keys_are_kept(tmp_path, quietly, most, type_id, kind):
    """Every rotated matrix becomes T-MAC's type with the same values, the embedding Q2_0; the keys keep their bytes.

    Without the code 3 that is a ternary type; the scales of two Q2_0 blocks are the same here.
    """
    model = RotatedModel(most=most)
    source = model.write(tmp_path / "in.gguf", type_id)
    report = quietly(source, tmp_path / "out.gguf")
    found, before = entries(tmp_path / "out.gguf"), read_gguf_header(source)
    for name, weight in model.rotated.items():
        if name == "token_embd.weight":
            assert found[name].type_name == "q2_0"
        else:
            assert found[name].type_name == f"tmac_{kind}"
            assert np.array_equal(stored_values(tmp_path / "out.gguf", name), weight.values.astype(np.float32))
    after = read_gguf_header(tmp_path / "out.gguf")
    assert all(after.records[key] == before.records[key] for key in model.metadata())
    count = len(model.rotated)
    assert any(f"{count} weights stay rotated" in note for note in report.notes)


def test_the_embedding_keeps_its_values(model, tmp_path):
    """PQ2_0 and PTQ1_0 become Q2_0, which llama.cpp reads by row."""
    table = model.rotated["token_embd.weight"]
    expected = table.stored(Q2_0)[2]
    for type_id in (PQ2_0, PTQ1_0):
        assert np.array_equal(as_q2_0(BLOCK_TYPES[type_id], "", table.stored(type_id)[2]), expected)


@pytest.mark.parametrize("is_converted", [False, True])
def test_inspecting_says_by_what_and_how_many(model, tmp_path, quietly, is_converted):
    path = model.write(tmp_path / "in.gguf", PQ2_0)
    if is_converted:
        quietly(path, tmp_path / "out.gguf")
        path = tmp_path / "out.gguf"
    text = inspect_gguf(path).render()
    count = len(model.rotated) - 1
    assert f"rotation: {keys.TRANSFORM} in blocks of 128, signs for 256, 384, 512 columns" in text
    assert f"delta nets in the order of groups: {count} weights, 1 embedding" in text


@pytest.mark.parametrize("change", [lambda metadata: None, lambda metadata: drop(keys.GROUPED_KEY, metadata)])
def test_inspecting_one_without_signs_and_groups(tmp_path, change):
    model = RotatedModel(is_explicit=False, is_grouped=False)
    text = inspect_gguf(model.write(tmp_path / "in.gguf", PQ2_0, change)).render()
    assert f"in blocks of 128, no signs: {len(model.rotated) - 1} weights, 1 embedding" in text


def test_columns_of_experts_are_their_last_dimension(refused):
    name, heads = "blk.0.ffn_down_exps.weight", "qwen35moe.ssm.time_step_rank"
    found = {key: value for key, (_, value) in RotatedModel().metadata().items()}
    found |= {keys.WEIGHTS_KEY: [name], keys.TABLES_KEY: [], "general.architecture": "qwen35moe"}
    found |= {"qwen35moe.ssm.group_count": 1, heads: 1}
    source = Folded(Path("m.gguf"), found)
    rotation = source.checked(found, {name: (3, 100, 512)})
    assert rotation.weights == (name,) and rotation.is_grouped
    words = {(3, 512, 100): "rows of a multiple of 128", (3, 256, 640): "has 640 columns, for which there are no signs"}
    for shape, expected in words.items():
        refused(lambda shape=shape: source.checked(found, {name: shape}), name, expected)


def put(key, kind, value, metadata):
    metadata[key] = kind, value


def drop(key, metadata):
    del metadata[key]


def edit(key, change, metadata):
    kind, value = metadata[key]
    metadata[key] = kind, change(value)


REFUSED = {
    "unknown key": (partial(put, "prism.hadamard.order", STRING, "x"), "prism.hadamard.order is unknown"),
    "unknown key of the maker": (partial(put, "prism.scales", STRING, "x"), "prism.scales is unknown"),
    "version": (partial(put, keys.VERSION_KEY, UINT32, 2), "version is 2, expected 1"),
    "no version": (partial(drop, keys.VERSION_KEY), "no key prism.hadamard.version"),
    "transform": (partial(put, keys.TRANSFORM_KEY, STRING, "dct"), "'dct', expected 'normalized-sylvester"),
    "axis": (partial(put, keys.AXIS_KEY, STRING, "output"), "'output', expected 'input-last-dimension'"),
    "no block size": (partial(drop, keys.BLOCK_KEY), "no key prism.hadamard.block_size"),
    "no power of two": (partial(put, keys.BLOCK_KEY, UINT32, 96), "96, expected a power of two"),
    "a list of blocks": (
        partial(put, keys.BLOCK_KEY, UINT32, [128]),
        "block_size is of type array of uint32, expected uint32",
    ),
    "a width alone": (
        partial(put, keys.SIGN_WIDTHS_KEY, INT32, 256),
        "sign_widths is of type int32, expected array of",
    ),
    "blocks of 0": (partial(put, keys.BLOCK_KEY, UINT32, 0), "0, expected a power of two"),
    "blocks that do not divide": (partial(put, keys.BLOCK_KEY, UINT32, 256), "rows of a multiple of 256"),
    "sign mode": (partial(put, keys.SIGN_MODE_KEY, STRING, "random"), "'random', expected 'explicit' or 'identity'"),
    "identity with signs": (partial(put, keys.SIGN_MODE_KEY, STRING, "identity"), "but there are signs"),
    "no widths": (partial(drop, keys.SIGN_WIDTHS_KEY), "no key prism.hadamard.sign_widths"),
    "a width without signs": (
        lambda m: (
            put(keys.SIGN_WIDTHS_KEY, INT32, [256, 384, 256 + 256 + 1], m),
            edit(keys.SIGN_VALUES_KEY, lambda v: [*v, 1], m),
        ),
        "512 columns, for which there are no signs",
    ),
    "a width twice": (
        partial(put, keys.SIGN_WIDTHS_KEY, INT32, [256, 256, 640]),
        "expected different numbers of columns",
    ),
    "a width of 0": (partial(put, keys.SIGN_WIDTHS_KEY, INT32, [0, 512, 640]), "expected different numbers of"),
    "fewer signs": (partial(edit, keys.SIGN_VALUES_KEY, lambda v: v[:-1]), "1151 signs, expected 1152"),
    "a sign of 0": (partial(edit, keys.SIGN_VALUES_KEY, lambda v: [0, *v[1:]]), "the sign 0"),
    "a missing tensor": (
        partial(edit, keys.WEIGHTS_KEY, lambda v: [*v, "blk.9.attn_q.weight"]),
        "blk.9.attn_q.weight is listed",
    ),
    "a missing table": (partial(edit, keys.TABLES_KEY, lambda v: ["embd.weight"]), "embd.weight is listed"),
    "rows of a permuted matrix": (partial(edit, keys.TABLES_KEY, lambda v: [*v, OUT]), f"rows of {OUT}"),
    "a norm": (
        partial(edit, keys.WEIGHTS_KEY, lambda v: [*v, "output_norm.weight"]),
        "output_norm.weight has shape [256]",
    ),
    "names of another type": (
        partial(put, keys.WEIGHTS_KEY, INT32, [1]),
        "of type array of int32, expected array of string",
    ),
    # llama.cpp refuses these types, too.
    "version of another type": (partial(put, keys.VERSION_KEY, INT32, 1), "version is of type int32, expected uint32"),
    "signs of another type": (
        lambda m: put(keys.SIGN_VALUES_KEY, gguf.GGUFValueType.INT64, m[keys.SIGN_VALUES_KEY][1], m),
        "sign_values is of type array of int64, expected array of int8 or int32 or uint32",
    ),
    "columns that heads do not divide": (
        partial(put, "qwen35.ssm.time_step_rank", UINT32, 10),
        "blk.0.ssm_out.weight has 384 columns, no multiple of the 10 value heads",
    ),
    "heads that do not divide": (
        partial(put, "qwen35.ssm.time_step_rank", UINT32, 3),
        "3 value heads do not divide into 2 groups",
    ),
    "no heads": (partial(put, "qwen35.ssm.time_step_rank", UINT32, 0), "0 value heads do not divide into 2 groups"),
    "no groups": (partial(put, "qwen35.ssm.group_count", UINT32, 0), "6 value heads do not divide into 0 groups"),
    "grouping of another type": (
        partial(put, keys.GROUPED_KEY, UINT32, 1),
        "gdn_v_grouped is of type uint32, expected bool",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(model, tmp_path, quietly, refused, case):
    """By `convert` and by `inspect`, which shows the rest."""
    change, words = REFUSED[case]
    source = model.write(tmp_path / "in.gguf", PQ2_0, change)
    refused(lambda: quietly(source, tmp_path / "out.gguf"), "in.gguf: the weights are rotated, and", words)
    assert not (tmp_path / "out.gguf").exists()
    assert words in inspect_gguf(source).render()


def test_grouping_in_another_architecture(model, tmp_path, quietly, refused):
    source = model.write(tmp_path / "in.gguf", PQ2_0)
    data = source.read_bytes()
    source.write_bytes(data.replace(b"\x06\0\0\0\0\0\0\0qwen35", b"\x06\0\0\0\0\0\0\0mamba2", 1))
    refused(lambda: quietly(source, tmp_path / "out.gguf"), "in the architecture mamba2, expected qwen35 or qwen35moe")
