"""Kernels of delta nets against a float64 model, with the bound of support/delta_net.py; dispatch, and forcing."""

from dataclasses import replace

import numpy as np
import pytest

from support.delta_net import UNIT, check, expected, nmse, operands
from support.targets import chosen, chosen_from, target_machine
from tmac.kernels.delta_net import BLOCK_ROWS, DELTA_NET_KERNELS, delta_net_kernels_for
from tmac.kernels.errors import KernelError
from tmac.kernels.native_delta_net import Convolution

KERNELS = delta_net_kernels_for(target_machine())


@pytest.mark.parametrize("tokens", [1, 2, 3, 9])
@pytest.mark.parametrize("width", [32, 64, 96, 128, 256])
def test_widths_and_tokens(delta_net, delta_net_kernel, width, tokens):
    inputs = operands(tokens=tokens, width=width)
    check(inputs, *delta_net.update(delta_net_kernel.name, inputs))


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("heads, groups", [(1, 1), (3, 3), (6, 2), (48, 16)])
def test_heads_share_queries_and_keys_in_turn(delta_net, delta_net_kernel, heads, groups, sequences):
    """Head h has those of group h % groups, as in llama.cpp's graphs; sequences have their own of everything."""
    inputs = operands(tokens=2, heads=heads, groups=groups, width=32, sequences=sequences)
    check(inputs, *delta_net.update(delta_net_kernel.name, inputs))


@pytest.mark.parametrize("tokens, snapshots", [(1, 2), (4, 2), (3, 3), (2, 5)])
def test_snapshots(delta_net, delta_net_kernel, tokens, snapshots):
    """The states after each of the last tokens; those of more tokens than there are stay as they were."""
    inputs = operands(tokens=tokens, snapshots=snapshots, width=64, sequences=2)
    check(inputs, *delta_net.update(delta_net_kernel.name, inputs))


@pytest.mark.parametrize("tokens, width", [(1, 128), (5, 64)])
def test_states_in_place(delta_net, delta_net_kernel, tokens, width):
    """Bit for bit what comes out where the states before and after are apart."""
    inputs = operands(tokens=tokens, width=width, sequences=2)
    apart = delta_net.update(delta_net_kernel.name, inputs)
    in_place = delta_net.update(delta_net_kernel.name, inputs, is_in_place=True)
    assert all(map(np.array_equal, apart, in_place))


def test_order_of_blocks_does_not_matter(delta_net, delta_net_kernel):
    """Bit for bit: backwards, or shuffled. In a worker, with 1, 2 or 5 threads."""
    inputs = operands(tokens=3, sequences=2)
    wanted = delta_net.update(delta_net_kernel.name, inputs)
    ways = [{"threads": threads} for threads in (1, 2, 5)]
    if chosen() == "native":
        blocks = np.arange(inputs.blocks)
        ways = [{"order": blocks[::-1]}, {"order": np.random.default_rng(1).permutation(blocks)}]
    for how in ways:
        found = delta_net.update(delta_net_kernel.name, inputs, is_in_place=True, **how)
        assert all(map(np.array_equal, wanted, found))


def test_tokens_one_by_one(delta_net, delta_net_kernel):
    """Bit for bit what they give together: a prompt in parts, and a draft, are as one."""
    inputs = operands(tokens=6, sequences=2)
    out, (last,) = delta_net.update(delta_net_kernel.name, inputs)
    states, parts = inputs.states, []
    for t in range(6):
        of_token = {name: getattr(inputs, name)[:, t : t + 1].copy() for name in ("q", "k", "v", "gates", "betas")}
        part, (states,) = delta_net.update(delta_net_kernel.name, replace(inputs, **of_token, states=states.copy()))
        parts.append(part)
    assert np.array_equal(np.concatenate(parts, axis=1), out) and np.array_equal(states, last)


def test_operands_lie_apart(delta_net, delta_net_kernel):
    """q, k and v are views of one array, as llama.cpp's convolution leaves them, at an address that is no multiple."""
    inputs = operands(tokens=3, sequences=2, width=64)
    sequences, tokens, groups, heads = 2, 3, 2, 4
    memory = np.full(sequences * tokens * (2 * groups + heads) * 64 + 1, np.nan, np.float32)[1:]
    mixed = memory.reshape(sequences, tokens, 2 * groups + heads, 64)
    q, k, v = mixed[:, :, :groups], mixed[:, :, groups : 2 * groups], mixed[:, :, 2 * groups :]
    q[...], k[...], v[...] = inputs.q, inputs.k, inputs.v
    found = delta_net.update(delta_net_kernel.name, replace(inputs, q=q, k=k, v=v))
    assert all(map(np.array_equal, found, delta_net.update(delta_net_kernel.name, inputs)))


def test_error_on_average(delta_net, delta_net_kernel):
    """After 64 tokens the squared error is that of a few roundings, far below the certain bound."""
    inputs = operands(tokens=chosen_from((64,), (16,))[0], width=128, heads=2)
    out, (states,) = delta_net.update(delta_net_kernel.name, inputs)
    wanted = expected(inputs)
    assert 0 < nmse(out, wanted.out) < 1e-13 and 0 < nmse(states, wanted.kept[0]) < 1e-13


@pytest.mark.parametrize("gate, beta", [(-200, 0.5), (0, 0), (0, 1)])
def test_ends_of_gates(delta_net, delta_net_kernel, gate, beta):
    """A gate that forgets everything, a token that changes nothing, one that replaces what was there."""
    inputs = operands(tokens=2, width=64)
    inputs = replace(inputs, gates=np.full_like(inputs.gates, gate), betas=np.full_like(inputs.betas, beta))
    out, kept = delta_net.update(delta_net_kernel.name, inputs)
    check(inputs, out, kept)
    if beta == 0:
        assert np.array_equal(kept[0], inputs.states)


@pytest.mark.parametrize("sequences, taps, channels", [(1, 4, 16), (2, 4, 48), (1, 2, 32), (2, 5, 16)])
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 37])
def test_convolution(delta_net, delta_net_kernel, rng, tokens, sequences, taps, channels):
    """The windows are the inputs. A result has one rounding for each tap, of sums that are at most the bound. The
    vectors of x are part of wider ones, as those of llama.cpp may be.
    """
    before, wide, weights = (
        np.float32(rng.standard_normal(shape))
        for shape in ((sequences, channels, taps - 1), (sequences, tokens, channels + 3), (channels, taps))
    )
    inputs = Convolution(before, wide[..., 1 : channels + 1], weights)
    window, out = delta_net.convolve(delta_net_kernel.name, inputs)
    assert np.array_equal(window, np.concatenate([before, inputs.x.transpose(0, 2, 1)], axis=2))
    views = np.lib.stride_tricks.sliding_window_view(np.float64(window), taps, axis=2)
    exact, bound = (np.einsum("sctj,cj->stc", part(views), part(np.float64(weights))) for part in (np.array, np.abs))
    assert (np.abs(out - exact) <= taps * UNIT * bound).all()


def test_parts_of_a_convolution(delta_net, delta_net_kernel, rng):
    """Blocks in another order, or in several threads, give the same bits."""
    arrays = (np.float32(rng.standard_normal(shape)) for shape in ((2, 96, 3), (2, 20, 96), (96, 4)))
    inputs = Convolution(*arrays)
    wanted = delta_net.convolve(delta_net_kernel.name, inputs)
    ways = [{"order": range(inputs.blocks)[::-1]}] if chosen() == "native" else [{"threads": n} for n in (1, 3, 5)]
    for how in ways:
        assert all(map(np.array_equal, wanted, delta_net.convolve(delta_net_kernel.name, inputs, **how)))


def test_catalog_in_c_is_the_catalog_in_python(delta_net):
    rows = sorted(KERNELS, key=lambda kernel: kernel.isa.machine == "any")
    assert [row.name.decode() for row in delta_net.rows] == [kernel.name for kernel in rows]
    assert any(not kernel.isa.features and kernel.isa.machine == "any" for kernel in DELTA_NET_KERNELS)
    assert all(BLOCK_ROWS % floats == 0 for floats in (16, 8, 4, 1))


def test_first_kernel_that_the_cpu_covers(delta_net):
    """On a CPU that has just what one kernel needs, and forced on one that has everything."""
    needs = {kernel.name: delta_net.row(kernel.name).cpu_features for kernel in KERNELS}
    for kernel in KERNELS:
        best = next(other.name for other in KERNELS if not needs[other.name] & ~needs[kernel.name])
        assert delta_net.select(cpu_features=needs[kernel.name]) == best
        assert delta_net.select(kernel.isa.name, cpu_features=0xFFFFFFFF) == kernel.name
        assert delta_net.select(kernel.name, cpu_features=0xFFFFFFFF) == kernel.name
        if kernel.isa.features:
            with pytest.raises(KernelError, match=f"^TMAC_DELTA_NET={kernel.isa.name}: this CPU lacks the instruc"):
                delta_net.select(kernel.isa.name, cpu_features=0)


@pytest.mark.parametrize("forced", ["sse9", "tmac_delta_net", "tmac_attention_scalar"])
def test_unknown_name_is_an_error(delta_net, forced):
    with pytest.raises(KernelError) as raised:
        delta_net.select(forced)
    expected_message = f"TMAC_DELTA_NET={forced}: no delta net kernel or instruction set has this name"
    assert raised.value.message == expected_message and raised.value.hint


def test_kernel_that_was_not_compiled_is_an_error(delta_net):
    with pytest.raises(KernelError, match="no kernel of delta nets called 'nope' was compiled for"):
        delta_net.row("nope")
