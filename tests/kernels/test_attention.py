"""Attention kernels against a float64 model: types of caches, widths, numbers of everything, and where operands lie.

The bound is that of support/attention_model.py: what independent roundings of float32 add up to.
"""

from dataclasses import replace

import numpy as np
import pytest

from support.attention import TYPES, case, with_inputs
from support.targets import chosen_from

# Of the models that llama.cpp knows, K and V. The last is that of DeepSeek with absorbed projections: one KV head.
WIDTHS = [(64, 64), (80, 80), (96, 96), (112, 112), (128, 128), (192, 128), (256, 256), (512, 512), (576, 512)]


PAIRS = [(k, v) for k in TYPES for v in TYPES]
# The code that reads K does not depend on the type of V.
FEWER_PAIRS = [*zip(TYPES, [*TYPES][1:]), ([*TYPES][-1], next(iter(TYPES)))]


@pytest.mark.parametrize("k_type, v_type", chosen_from(PAIRS, FEWER_PAIRS))
def test_types_of_caches(attend, k_type, v_type):
    """Every type of K with every type of V. The last block or step of positions is not full."""
    some = case(types=(k_type, v_type), widths=(96, 160), queries=attend.queries(2), positions=70)
    attend.check(some)


@pytest.mark.parametrize(
    "name, widths",
    [
        (name, widths)
        for name in ("f16", "f32", "q4_0")
        for widths in WIDTHS
        if not any(width % TYPES[name].block for width in widths)
    ],
    ids=str,
)
def test_widths_of_heads(attend, name, widths):
    group = 16 if attend.is_tiled else 4
    kv_heads = 1 if widths[0] == 576 else 2
    some = case(
        types=(name, name), widths=widths, heads=group * kv_heads, kv_heads=kv_heads, queries=attend.queries(group)
    )
    attend.check(some)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32])
def test_numbers_of_rows(attention, attention_kernel, group):
    """From 1 to 16 queries, and heads that share a KV head: every remainder of the rows that are multiplied at once,
    and so many rows that items have a part of the queries.
    """
    for queries in chosen_from(range(1, 17), (1, 5, 12, 16)):
        some = case(queries=queries, heads=3 * group, kv_heads=3, positions=24, widths=(32, 176), mask="random")
        some.check(attention.attend(attention_kernel.name, some.inputs))


@pytest.mark.parametrize("name", [name for name in TYPES if TYPES[name].block > 1])
@pytest.mark.parametrize("width", [32, 64, 128, 160])
def test_blocks_of_few_rows(attention, attention_kernel, width, name):
    """Types with scales, of so few rows that they are multiplied as they are, and one more; whole steps and a part."""
    for group in range(1, 6):
        some = case(heads=2 * group, positions=53, widths=(width, width), types=(name, name), mask="random")
        is_streamed = not attention.plan(attention_kernel.name, some.inputs).is_tiled
        some.check(attention.attend(attention_kernel.name, some.inputs), is_streamed=is_streamed)


@pytest.mark.parametrize("name", ["f16", "q8_0"])
@pytest.mark.parametrize("sequences", [1, 6])
@pytest.mark.parametrize("positions", [1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000])
def test_numbers_of_positions(attend, positions, sequences, name):
    """Around the edges of steps, blocks and ranges. With several sequences, ranges are of several blocks."""
    types, queries = (name, name), attend.queries(2)
    some = case(sequences=sequences, positions=positions, queries=queries, widths=(64, 32), types=types, spread=3)
    plan = attend.plan(some.inputs)
    assert (plan.ranges > 1) == (positions > 64)
    assert (plan.range_positions > 64) == (sequences > 1) or positions < 1000
    attend.check(some)


@pytest.mark.parametrize("positions", chosen_from([64, 65, 257], [257]))
def test_one_range_of_many_positions(attend, positions):
    """Where sequences alone are enough items, nothing is put together afterwards."""
    queries = attend.queries(1)
    some = case(sequences=32, positions=positions, queries=queries, widths=(32, 32), heads=1, kv_heads=1, mask="random")
    assert attend.plan(some.inputs).ranges == 1
    attend.check(some)


def test_range_whose_positions_are_all_blocked(attend):
    """The first and the last range, and one between them, have no weight."""
    some = case(positions=400, queries=attend.queries(2), mask="random")
    blocked = some.inputs.mask.copy()
    for first in (0, 128, 384):
        blocked[..., first : first + 64] = -np.inf
    some = with_inputs(some, mask=blocked)
    assert attend.plan(some.inputs).range_positions == 64
    attend.check(some)


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 5, 8])
def test_sequences_with_their_own_masks(attend, kv_heads):
    some = case(sequences=3, kv_heads=kv_heads, heads=2 * kv_heads, queries=attend.queries(2), mask="random")
    attend.check(some)


@pytest.mark.parametrize("mask_heads", [1, 20])
@pytest.mark.parametrize("sequences, several", [(5, 4), (9, 10)])
def test_items_of_several_heads(attend, sequences, several, mask_heads):
    """With many sequences an item that streams has several KV heads, of which some see positions that others do not.
    The last item may have fewer.
    """
    shape = {"sequences": sequences, "kv_heads": 10, "heads": 20, "queries": attend.queries(2), "widths": (32, 32)}
    some = case(**shape, positions=60, mask="patches", mask_heads=mask_heads)
    assert attend.plan(some.inputs).item_heads == (1 if attend.is_tiled else several)
    attend.check(some)


def spaced(array, order, gap):
    """A copy whose axes lie in memory in the given order, with `gap` bytes of 0xFF after each vector."""
    moved = np.ascontiguousarray(array.transpose(order))
    wide = np.full((*moved.shape[:-1], moved.shape[-1] * moved.itemsize + gap), 0xFF, np.uint8)
    wide[..., : wide.shape[-1] - gap] = moved.view(np.uint8).reshape(*moved.shape[:-1], -1)
    return wide[..., : wide.shape[-1] - gap].view(array.dtype).transpose(np.argsort(order))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3), (2, 1, 0, 3)], ids=str)
def test_order_of_axes_in_memory(attend, order):
    """llama.cpp's cache has the heads of a position side by side, its queries come permuted, and rows may be padded."""
    some = case(sequences=2, queries=attend.queries(2), positions=70, mask="random", mask_heads=4)
    inputs = some.inputs
    moved = replace(
        inputs,
        q=spaced(inputs.q, order, 8),
        k=replace(inputs.k, data=spaced(inputs.k.data, order, 6)),
        v=replace(inputs.v, data=spaced(inputs.v.data, order, 10)),
        mask=spaced(inputs.mask, order, 2),
    )
    assert np.array_equal(attend(moved), attend(inputs))


def shifted(array, offset):
    """A copy that begins `offset` bytes after a multiple of 64."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


@pytest.mark.parametrize("name", TYPES)
def test_any_alignment(attend, name):
    """Each operand begins at any multiple of the size of its numbers, blocks at any byte."""
    number = TYPES[name].block_bytes if TYPES[name].block == 1 else 1
    some = case(queries=attend.queries(2), types=(name, name), widths=(32, 64), sinks=True)
    inputs, wanted = some.inputs, attend(some.inputs)
    for at in chosen_from(range(1, 33), (1, 7)):
        moved = replace(
            inputs,
            q=shifted(inputs.q, 4 * at % 64),
            k=replace(inputs.k, data=shifted(inputs.k.data, number * at % 64)),
            v=replace(inputs.v, data=shifted(inputs.v.data, 3 * number * at % 64)),
            mask=shifted(inputs.mask, 2 * at % 64),
            sinks=shifted(inputs.sinks, 4 * (at + 1) % 64),
        )
        assert np.array_equal(attend(moved), wanted)


@pytest.mark.parametrize("positions", [64, 500])
def test_order_of_items_does_not_matter(attend, positions):
    """Bit for bit: forwards, backwards, or shuffled. In a worker, with 1, 2 or 5 threads."""
    some = case(sequences=2, positions=positions, queries=attend.queries(2), mask="random", sinks=True)
    out = attend(some.inputs)
    some.check(out)
    for how in attend.orders(some.inputs):
        assert np.array_equal(attend(some.inputs, **how), out)


NMSE = {
    "usual": {"positions": 256},
    "peaked": {"positions": 256, "spread": 20},
    "long": {"positions": 1000},
    "with scales": {"positions": 300, "types": ("q8_0", "q8_0"), "spread": 4},
    "all rules": {"positions": 300, "heads": 6, "soft_cap": 8.0, "spread": 4, "largest_bias": 8.0, "sinks": True},
}


@pytest.mark.parametrize("name", NMSE)
def test_error_on_average(attend, name):
    """The normalized squared error is at most twice what independent roundings make on average: some 1e-13 to 1e-11, or
    1e-8 where words are multiplied (llama.cpp rounds queries to 8 bits then: about 1e-5).
    """
    some = case(queries=attend.queries(2), widths=(128, 128), **NMSE[name])
    usual = some.usual_nmse(is_streamed=not attend.is_tiled)
    assert some.nmse(attend(some.inputs)) < 2 * usual < (1e-7 if "types" in NMSE[name] else 1e-10)
