"""Delta nets with random operands, what they must give in float64, and how far float32 may be from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from tmac.kernels.native_delta_net import Inputs

UNIT = 2.0**-24  # The largest relative error of one float32 rounding.


@dataclass(frozen=True)
class Expected:
    """float64 results [sequences, tokens, heads, width] and states [snapshots, sequences, heads, width, width], each
    with the largest errors that roundings can add up to.
    """

    out: np.ndarray
    out_bound: np.ndarray
    kept: np.ndarray
    kept_bound: np.ndarray


def expected(inputs: Inputs) -> Expected:
    """The recurrence token by token, its bound beside it.

    `error` bounds the state's distance from the exact one. A sum of n products has at most n roundings in each term,
    in whatever order; the exponential of a gate is within 2 units, and so counts as 2 roundings. Products of two small
    errors are below a factor of 1 + 2^-10 for the sizes of these tests.
    """
    _, tokens, heads, width = inputs.v.shape
    of_head = np.arange(heads) % inputs.q.shape[2]
    q, k = (np.float64(x)[:, :, of_head] for x in (inputs.q, inputs.k))
    v, betas, decays = np.float64(inputs.v), np.float64(inputs.betas), np.exp(np.float64(inputs.gates))
    states, error = np.float64(inputs.states), np.zeros(inputs.states.shape)
    out, out_bound = np.empty(v.shape), np.empty(v.shape)
    # States that no token wrote are not looked at.
    kept, kept_bound = np.full(inputs.kept_shape, np.nan), np.full(inputs.kept_shape, np.nan)
    spare, sums = 1 + 2.0**-10, width * UNIT

    def times(matrix, vector):
        return (matrix @ vector[..., None])[..., 0]

    for t in range(tokens):
        decay, beta = decays[:, t, :, None], betas[:, t, :, None]
        key, query, value = k[:, t], q[:, t], v[:, t]
        found, magnitude = times(states, key), times(np.abs(states), np.abs(key))
        found_error = times(error, np.abs(key)) + sums * magnitude + 4 * UNIT * np.abs(found)
        change = beta * (value - decay * found)
        change_error = np.abs(beta) * decay * found_error + 3 * UNIT * np.abs(beta) * (
            np.abs(value) + decay * magnitude
        )
        before = np.abs(states)
        states = decay[..., None] * states + change[..., None] * key[..., None, :]
        grown = decay[..., None] * error + change_error[..., None] * np.abs(key)[..., None, :]
        error = spare * (grown + UNIT * (3 * decay[..., None] * before + np.abs(states)))
        out[:, t] = inputs.scale * times(states, query)
        roundings = times(error, np.abs(query)) + (sums + UNIT) * times(np.abs(states), np.abs(query))
        out_bound[:, t] = spare * inputs.scale * roundings
        if (age := tokens - 1 - t) < inputs.snapshots:
            kept[age], kept_bound[age] = states, error
    return Expected(out, out_bound, kept, kept_bound)


@cache
def operands(tokens=1, heads=4, groups=2, width=128, sequences=1, snapshots=1, seed=0) -> Inputs:
    """Keys and queries of length 1, gates that keep 50 to 100 %, as models have them."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return np.float32(rng.standard_normal(shape))

    def unit(*shape):
        vectors = normal(*shape)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    rows = (sequences, tokens)
    return Inputs(
        q=unit(*rows, groups, width),
        k=unit(*rows, groups, width),
        v=normal(*rows, heads, width),
        gates=np.float32(-0.7 * rng.random((*rows, heads))),
        betas=np.float32(rng.random((*rows, heads))),
        states=normal(sequences, heads, width, width),
        scale=float(np.float32(width**-0.5)),
        snapshots=snapshots,
    )


def check(inputs: Inputs, out: np.ndarray, kept: np.ndarray) -> None:
    """Every result and every state that is to be kept is within its bound, and no other state was written."""
    wanted = expected(inputs)
    written = min(inputs.snapshots, inputs.v.shape[1])
    for found, exact, bound in (
        (out, wanted.out, wanted.out_bound),
        (kept[:written], wanted.kept[:written], wanted.kept_bound[:written]),
    ):
        away = np.abs(found - exact)
        assert np.isfinite(found).all() and (away <= bound).all(), f"{(away / bound).max():.3g} times the bound"
    assert np.isnan(kept[written:]).all()


def nmse(found: np.ndarray, exact: np.ndarray) -> float:
    return float(((found - exact) ** 2).sum() / (exact**2).sum())
