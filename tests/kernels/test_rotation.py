"""Rotation kernels: bit for bit what the fork of Bonsai 2's maker computes, and what butterflies in numpy give."""

import numpy as np
import pytest

from support.bonsai_2 import BLOCK, HEADS, INNER, SUMS, WIDTH, activations, signs, sum_of
from tmac.kernels.isa import ISAS
from tmac.kernels.native_rotation import Rotation
from tmac.kernels.rotation import ROTATION_KERNELS
from tmac.tools import doctor


def butterflies(x, block):
    """The transform of each block, in float32: stride 1, 2, 4, ...; sum before difference; scale last."""
    y = x.reshape(-1, block).copy()
    stride = 1
    while stride < block:
        pairs = y.reshape(-1, block // (2 * stride), 2, stride)
        y = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2).reshape(-1, block)
        stride *= 2
    return (y * np.float32(1 / np.sqrt(block))).reshape(x.shape)


@pytest.mark.parametrize("back", [False, True], ids=["rows", "embedding"])
def test_sums_of_the_fork(rotations, rotation_kernel, back):
    x = activations(WIDTH)
    assert sum_of(x) == SUMS["input 5120"]
    y = rotations.rotate(rotation_kernel.name, Rotation(WIDTH, BLOCK, signs()), x, back=back)
    assert sum_of(y) == SUMS["transform, then signs" if back else "signs, then transform"]


def test_sum_of_the_permutation(rotations, rotation_kernel):
    """Blocks of one value are transformed to themselves, so only the permutation is left."""
    x = activations(INNER)
    assert sum_of(x) == SUMS["input 6144"]
    repeats, groups, head = HEADS
    y = rotations.rotate(rotation_kernel.name, Rotation(INNER, 1, None, repeats, groups, head), x)
    assert sum_of(y) == SUMS["permutation"]


@pytest.mark.parametrize("block", [1 << n for n in range(14)])
@pytest.mark.parametrize("has_signs", [False, True], ids=["identity", "explicit"])
def test_every_block_size(rotations, rotation_kernel, rng, block, has_signs):
    """All powers of two, also those whose scale is no power of two, forth and back."""
    width = block * 3
    x = rng.standard_normal((2, width), dtype=np.float32)
    values = np.float32(rng.choice([-1, 1], width)) if has_signs else None
    rotation, factor = Rotation(width, block, values), np.float32(1) if values is None else values
    there = rotations.rotate(rotation_kernel.name, rotation, x)
    np.testing.assert_array_equal(there.view(np.uint32), butterflies(x * factor, block).view(np.uint32))
    back = rotations.rotate(rotation_kernel.name, rotation, x, back=True)
    np.testing.assert_array_equal(back.view(np.uint32), (butterflies(x, block) * factor).view(np.uint32))


@pytest.mark.parametrize("block", [4, 64, 256])
def test_blocks_and_heads_do_not_divide_each_other(rotations, rotation_kernel, rng, block):
    """Heads of 48 or 80 columns lie across the borders of blocks."""
    for repeats, groups, head in ((3, 16, 48), (2, 8, 80), (3, 4, 64)):
        width = repeats * groups * head
        if width % block:
            continue
        x = rng.standard_normal((2, width), dtype=np.float32)
        values = np.float32(rng.choice([-1, 1], width))
        permuted = x.reshape(2, repeats, groups, head).swapaxes(1, 2).reshape(2, width)
        y = rotations.rotate(rotation_kernel.name, Rotation(width, block, values, repeats, groups, head), x)
        np.testing.assert_array_equal(y, butterflies(permuted * values, block))


def test_a_transform_of_every_order(rotations, rotation_kernel):
    """The matrix itself: H[i][j] = (-1)^popcount(i & j) / sqrt(block), row by row."""
    block = 64
    index = np.arange(block)
    expected = np.float32([[(-1) ** (i & j).bit_count() / 8 for j in index.tolist()] for i in index.tolist()])
    y = rotations.rotate(rotation_kernel.name, Rotation(block, block), np.eye(block, dtype=np.float32))
    np.testing.assert_array_equal(y, expected)


def test_dispatch(rotations):
    """The first kernel of the catalog that the CPU can run, also a CPU without any feature. Plain C is the last."""
    rows = [(row.name.decode(), row.cpu_features) for row in rotations.rows]
    assert rotations.select() == next(name for name, _ in rows if rotations.runs_here(name))
    assert rotations.select(cpu_features=0) == next(name for name, features in rows if not features)
    assert rows[-1][0] == "tmac_rotate_scalar" == ROTATION_KERNELS[-1].name
    assert {kernel.isa.name for kernel in ROTATION_KERNELS} == {isa.prepared_by for isa in ISAS}


@pytest.mark.targets("native")
def test_doctor_says_which_kernel_rotates(rotations):
    found = {finding.name: finding.value for finding in doctor._kernels()}
    assert found["rotations"] == rotations.select()
