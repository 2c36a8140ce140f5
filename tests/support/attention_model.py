"""What an attention must give, in float64, and how far kernels that compute in float32 may be from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tmac.kernels.attention import CACHE_TYPES

MOST_WORD = 32767  # c/attention/scales.h
UNIT = 2.0**-24  # The largest relative error of one float32 rounding.
TYPES = {kind.name: kind for kind in CACHE_TYPES}
LEAST_WEIGHT = 2.0**-125  # Relative to the largest one. Smaller weights count as 0 (c/attention/exponential.h).


def slopes(heads, largest_bias):
    """The factor of the mask for each head (ALiBi)."""
    if largest_bias == 0:
        return np.ones(heads)
    whole = 2 ** int(np.log2(heads))
    first = 2.0 ** (-largest_bias / whole * np.arange(1, whole + 1))
    second = 2.0 ** (-largest_bias / 2 / whole * np.arange(1, 2 * (heads - whole), 2))
    return np.concatenate([first, second])


@dataclass(frozen=True)
class Softmax:
    """The softmax of an attention: arrays [sequences, heads, queries, positions].

    A sink is one more position, where V is 0.

    products  of q, K and the scale
    capped    the same after the soft cap
    bias      slope times mask; 0 where it is -infinity
    scores    -infinity where the mask is
    weights   their sum over positions is 1, or 0 where nothing is visible
    """

    products: np.ndarray
    capped: np.ndarray
    bias: np.ndarray
    scores: np.ndarray
    weights: np.ndarray


def _by_head(x, heads):
    """K or V for each query head."""
    return np.repeat(x, heads // x.shape[2], axis=2)


def _with_sink(x, inputs, value):
    """`x` [..., positions] with one more position if there are sinks, where it is `value`, by head or everywhere."""
    if inputs.sinks is None:
        return x
    value = np.broadcast_to(np.reshape(value, (1, -1, 1, 1)), (*x.shape[:3], 1))
    return np.concatenate([x, value], axis=-1)


def softmax(inputs, k):
    sequences, _, heads, _ = inputs.q.shape
    products = _products_of(np.float64(inputs.q), _by_head(k, heads), inputs.scale)
    capped = inputs.soft_cap * np.tanh(products / inputs.soft_cap) if inputs.soft_cap else products
    bias = np.zeros_like(products)
    if inputs.mask is not None:
        mask = np.float64(inputs.mask)[np.arange(sequences) % len(inputs.mask)]
        mask = mask[:, np.arange(heads) % mask.shape[1]]
        bias = slopes(heads, inputs.largest_bias)[None, :, None, None] * mask
    scores = _with_sink(capped + bias, inputs, inputs.sinks)
    largest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    total = weights.sum(-1, keepdims=True)
    parts = (_with_sink(x, inputs, 0) for x in (products, capped, np.where(np.isinf(bias), 0, bias)))
    return Softmax(*parts, scores, weights / np.where(total == 0, 1, total))


def _values(inputs, v):
    """K or V for each query head [sequences, heads, positions, width], with zeros for the sink."""
    v = _by_head(v, inputs.q.shape[2]).transpose(0, 2, 1, 3)
    return v if inputs.sinks is None else np.concatenate([v, np.zeros_like(v[:, :, :1])], axis=2)


def _rows(results):
    """[sequences, heads, queries, width] -> [sequences, queries, heads, width]"""
    return results.transpose(0, 2, 1, 3)


def expected(inputs, k, v):
    """float64 [sequences, queries, heads, width of V]."""
    return _rows(softmax(inputs, k).weights @ _values(inputs, v))


def _distances(soft):
    """From the row's largest score, of visible positions."""
    visible = np.isfinite(soft.scores)
    largest = np.where(visible, soft.scores, -np.inf).max(-1, keepdims=True)
    return np.where(visible, largest - np.where(visible, soft.scores, 0), 0)


def _products_of(q, k, scale):
    """[sequences, heads, queries, positions]"""
    return np.einsum("sqhd,sphd->shqp", q, k, optimize=True) * scale


def _scales_of_blocks(cache):
    """The scale of each value's block, shaped as the values [sequences, positions, KV heads, width]."""
    kind = TYPES[cache.type]
    blocks = cache.data.reshape(*cache.data.shape[:3], -1, kind.block_bytes)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    return np.repeat(np.float64(scales), kind.block, axis=-1)


def _query_words(inputs, k, moves, of):
    """The squares of the roundings of a row of q to words: by half a step of the largest value over MOST_WORD."""
    sequence, head, query = of
    q = np.float64(inputs.q[sequence, query, head]) * inputs.scale
    half_step = np.abs(q).max() / MOST_WORD / 2 / UNIT
    return ((_by_head(k, inputs.q.shape[2])[sequence, :, head].T @ moves * half_step) ** 2).sum(0)


def _value_words(inputs, v, weights, of):
    """The same of weights times scales: of a block's positions, the largest one over MOST_WORD.

    A kernel takes the largest of a few positions; of all it is not less.
    """
    sequence, head, _ = of
    heads, positions = inputs.q.shape[2], v.shape[1]
    scales = _by_head(_scales_of_blocks(inputs.v), heads)[sequence, :, head]
    codes = _by_head(v, heads)[sequence, :, head] / np.where(scales == 0, 1, scales)
    half_steps = np.abs(weights[:positions] * scales).max(0) / MOST_WORD / 2 / UNIT
    return ((codes * half_steps) ** 2).sum(0)


def _squares(inputs, k, v, words=(False, False)):
    """The squares of all roundings that go into a result, by how much each moves it, in units of UNIT: shaped as it.

    A rounding of x is at most |x| UNIT. The parts of a sum of n terms t, in random order, have squares that add up to
    n (sum t^2 / 6 + (sum t)^2 / 3). A position whose score is wrong by e moves the result r = sum w v, where sum w = 1,
    by w (v - r) e. What is counted of a score: the scaling of q (it is the same for all positions), the sum of its
    products, the soft cap (an error of 2^-21, which is 8 roundings), the slope (a power) and the mask, the argument of
    the exponential and its value (2 roundings, again for each new maximum: of n random numbers log n are the largest so
    far). And of the result: the sum over positions, that of the weights, and four roundings at the end.
    words: whether products with K, and with V, are of words.
    """
    soft, values = softmax(inputs, k), _values(inputs, v)
    results, distances = soft.weights @ values, _distances(soft)
    q, keys = np.float64(inputs.q) * inputs.scale, _values(inputs, k)
    slope = 4 * (inputs.q.shape[2] + 1) if inputs.largest_bias else 0
    squares = np.empty_like(results)
    for of in np.ndindex(*results.shape[:3]):
        sequence, head, query = of
        value, result, weights = values[sequence, head], results[of], soft.weights[of][:, None]
        terms, n = q[sequence, query, head] * keys[sequence, head], len(value)
        moves = weights * (value - result)
        scaling = (2 if inputs.soft_cap else 1) * ((terms.T @ moves) ** 2).sum(0)
        product = terms.shape[1] * ((terms**2).sum(1) / 6 + soft.products[of] ** 2 / 3)
        rules = (9 * soft.capped[of] * (inputs.soft_cap != 0)) ** 2 + (slope * soft.bias[of]) ** 2
        exponential = (soft.capped[of] + soft.bias[of]) ** 2 + distances[of] ** 2 + 4 * (1 + np.log(n))
        sums = n * (((weights * value) ** 2).sum(0) / 6 + 2 * result**2 / 3) + 4 * result**2
        squares[of] = scaling + (product + rules + exponential) @ moves**2 + sums
        if words[0]:
            squares[of] += (2 if inputs.soft_cap else 1) * _query_words(inputs, k, moves[: k.shape[1]], of)
        if words[1]:
            squares[of] += _value_words(inputs, v, weights, of)
    return _rows(squares)


def bound(inputs, k, v, words=(False, False)):
    """How far each result may be from `expected`, shaped as the result.

    By Hoeffding's inequality independent roundings add up to more than 6 times the root of their squares once in
    30 million. (Higham and Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis". The certain bound has
    n instead of the root of n, which is a hundred times as much here.) Small weights count as 0.
    """
    lost = k.shape[1] * (LEAST_WEIGHT * np.abs(v).max(initial=0) + 2.0**-149)
    return 6 * UNIT * np.sqrt(_squares(inputs, k, v, words)) + lost


def usual_nmse(inputs, k, v, words=(False, False)):
    """What the squared errors of all results, over the squares of the results, are on average if roundings are
    independent: the square of a rounding is a third of the largest one.
    """
    return UNIT**2 / 3 * _squares(inputs, k, v, words).sum() / (expected(inputs, k, v) ** 2).sum()
