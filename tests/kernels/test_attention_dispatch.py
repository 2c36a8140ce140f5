"""Which attention kernel dispatch chooses, how it cuts an attention into items, and the types of caches it knows."""

import ctypes
import functools
import itertools
import operator

import gguf
import numpy as np
import pytest

from support.targets import chosen_from, target_machine
from tmac.kernels.attention import ATTENTION_KERNELS, CACHE_TYPES, attention_kernels_for
from tmac.kernels.errors import KernelError
from tmac.kernels.native_attention import Cache, Inputs

KERNELS = attention_kernels_for(target_machine())


def test_catalog_in_c_is_the_catalog_in_python(attention):
    """The kernels of the architecture come first, in catalog order, then those for any architecture."""
    rows = sorted(KERNELS, key=lambda kernel: kernel.isa.machine == "any")
    assert [row.name.decode() for row in attention.rows] == [kernel.name for kernel in rows]
    assert len({kernel.name for kernel in ATTENTION_KERNELS}) == len(ATTENTION_KERNELS)


def test_every_cpu_has_an_attention_kernel():
    assert any(not kernel.isa.features and kernel.isa.machine == "any" for kernel in ATTENTION_KERNELS)


def test_first_row_that_the_cpu_covers(attention):
    """For each set of instruction sets that a CPU may have: the first row of the catalog whose features it has."""
    needs = {kernel.name: attention.row(kernel.name).cpu_features for kernel in KERNELS}
    for count in range(len(KERNELS) + 1):
        for present in itertools.combinations(KERNELS, count):
            features = functools.reduce(operator.or_, (needs[kernel.name] for kernel in present), 0)
            best = next(kernel for kernel in KERNELS if not needs[kernel.name] & ~features)
            assert attention.select(cpu_features=features) == best.name
            assert not present or KERNELS.index(best) <= KERNELS.index(present[0])


def test_no_features_leaves_what_every_cpu_has(attention):
    """Plain C on x86-64, NEON on arm64."""
    isa = "neon" if target_machine() == "arm64" else "scalar"
    assert attention.select(cpu_features=0) == f"tmac_attention_{isa}"


def test_forced_by_name_and_by_instruction_set(attention, attention_kernel):
    assert attention.select(attention_kernel.name) == attention_kernel.name
    assert attention.select(attention_kernel.isa.name) == attention_kernel.name


@pytest.mark.parametrize("forced", ["sse9", "tmac_attention_sse9", "tmac_attention", "tmac_gemv_w2g64_tables_scalar"])
def test_unknown_name_is_an_error(attention, forced):
    with pytest.raises(KernelError) as raised:
        attention.select(forced)
    expected = f"TMAC_ATTENTION={forced}: no attention kernel or instruction set has this name"
    assert raised.value.message == expected and raised.value.hint


@pytest.mark.parametrize("lacking", [kernel for kernel in KERNELS if kernel.isa.features], ids=lambda k: k.name)
def test_forcing_what_the_cpu_lacks_is_an_error(attention, lacking):
    """Also if it lacks but one feature."""
    needs = attention.row(lacking.name).cpu_features
    for features in (0, *(needs & ~(1 << bit) for bit in range(32) if needs >> bit & 1)):
        for forced in (lacking.name, lacking.isa.name):
            with pytest.raises(KernelError) as raised:
                attention.select(forced, cpu_features=features)
            assert raised.value.message == f"TMAC_ATTENTION={forced}: this CPU lacks the instructions"


def test_kernel_that_was_not_compiled_is_an_error(attention):
    with pytest.raises(KernelError, match="no attention kernel called 'nope' was compiled for"):
        attention.row("nope")


def without_data(sequences, queries, heads, kv_heads, positions, width=64):
    """Inputs whose numbers are right and whose arrays take no memory."""
    q = np.broadcast_to(np.float32(0), (sequences, queries, heads, width))
    data = np.broadcast_to(np.uint8(0), (sequences, positions, kv_heads, 2 * width))
    return Inputs(q, *(Cache("f16", width, data) for _ in "kv"))


def parts(total, size):
    return -(-total // size)


@pytest.mark.parametrize("sequences", [1, 3, 40])
@pytest.mark.parametrize("queries", chosen_from([1, 2, 7, 16, 33, 500], [1, 33]))
def test_items_cover_everything_once(attention, attention_kernel, sequences, queries):
    """An item has a part of the sequences (one), of the KV heads, of the queries and of the positions. The parts are
    equal, but the last one may be smaller, not empty; and each combination of parts is an item.
    """
    for kv_heads, group in ((1, 1), (1, 16), (2, 5), (8, 4), (40, 1)):
        for positions in (1, 64, 65, 300, 5000):
            check_plan(attention, attention_kernel.name, (sequences, queries, kv_heads * group, kv_heads, positions))


def check_plan(attention, name, shape):
    sequences, queries, heads, kv_heads, positions = shape
    plan, group = attention.plan(name, without_data(*shape)), heads // kv_heads
    counts = plan.head_parts, plan.query_parts, plan.ranges
    sizes = plan.item_heads, plan.item_queries, plan.range_positions
    assert counts == tuple(map(parts, (kv_heads, queries, positions), sizes))
    assert plan.items == sequences * np.prod(counts) and (plan.items >= 16 or positions < 2048)
    assert plan.group == group and plan.rows == sequences * queries * heads
    assert plan.is_tiled == (queries * group >= attention.row(name).tiled_from_rows)
    if plan.is_tiled:
        assert plan.item_heads == 1 and (plan.item_queries * group <= 512 or plan.item_queries == 1)
    else:
        assert plan.item_queries == queries
    states = 4 * plan.ranges * plan.rows * plan.state_floats
    assert plan.shared_bytes == (states if plan.ranges > 1 else 0)


@pytest.mark.parametrize("kind", CACHE_TYPES, ids=lambda kind: kind.name)
def test_types_of_caches_are_those_of_the_gguf_package(kind):
    number = gguf.GGMLQuantizationType[kind.name.upper()]
    assert (kind.ggml_id, (kind.block, kind.block_bytes)) == (number, gguf.GGML_QUANT_SIZES[number])


@pytest.mark.targets("native")
def test_types_of_caches_have_the_same_numbers_in_c(library):
    ids = (ctypes.c_uint32 * len(CACHE_TYPES)).in_dll(library.c, "tmac_cache_ggml_ids")
    assert list(ids) == [kind.ggml_id for kind in CACHE_TYPES]
