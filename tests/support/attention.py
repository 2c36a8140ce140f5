"""Attentions with random operands, and what they must give, in float64."""

import gguf
import numpy as np

from tmac.kernels.attention import CACHE_TYPES
from tmac.kernels.native_attention import Cache, Inputs

TYPES = {kind.name: kind for kind in CACHE_TYPES}


def pack(name, values):
    """float32 [..., width] as the bytes of a cache type, and the float64 values that these mean."""
    if name == "iq4_nl":
        packed = _iq4_nl(values)
    elif name == "f32":
        packed = np.ascontiguousarray(values, np.float32).view(np.uint8)
    elif name == "f16":
        packed = values.astype(np.float16).view(np.uint8)
    else:
        packed = gguf.quantize(values, gguf.GGMLQuantizationType[name.upper()])
    meant = (
        gguf.dequantize(packed, gguf.GGMLQuantizationType[name.upper()])
        if name not in ("f32", "f16")
        else (packed.view(np.float32 if name == "f32" else np.float16))
    )
    return packed, meant.astype(np.float64).reshape(values.shape)


def _iq4_nl(values):
    """Nearest levels; gguf-py reads iq4_nl but does not write it."""
    levels = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(1) / 127).astype(np.float16)
    unit = blocks / np.where(scale == 0, 1, scale)[:, None].astype(np.float32)
    codes = np.abs(unit[..., None] - levels).argmin(-1).astype(np.uint8)
    packed = np.concatenate([scale[:, None].view(np.uint8), codes[:, :16] | codes[:, 16:] << 4], axis=1)
    return packed.reshape(*values.shape[:-1], -1)


def make(
    rng,
    *,
    sequences=1,
    queries=1,
    heads=4,
    kv_heads=2,
    positions=40,
    widths=(64, 64),
    types=("f16", "f16"),
    mask="causal",
    mask_heads=1,
    sinks=False,
    soft_cap=0.0,
    largest_bias=0.0,
    spread=1.0,
):
    """Operands and their float64 meaning: (Inputs, k, v). `spread` scales the queries: large ones give peaked scores.

    mask: "none", "open" (zeros), "causal" (the queries are the last positions), "window" (causal, a third of the positions), "random"
    (some finite values, some -infinity), "blocked" (the first query sees nothing).
    """
    q = np.float32(rng.standard_normal((sequences, queries, heads, widths[0])) * spread)
    caches, meant = [], []
    for width, kind in zip(widths, types):
        values = np.float32(rng.standard_normal((sequences, positions, kv_heads, width)))
        packed, floats = pack(kind, values)
        caches.append(Cache(kind, width, np.ascontiguousarray(packed)))
        meant.append(floats)
    inputs = Inputs(
        q,
        *caches,
        mask=make_mask(rng, mask, (sequences, mask_heads, queries, positions)),
        sinks=np.float32(rng.standard_normal(heads)) if sinks else None,
        scale=widths[0] ** -0.5,
        soft_cap=soft_cap,
        largest_bias=largest_bias,
    )
    return inputs, *meant


def make_mask(rng, kind, shape):
    if kind == "none":
        return None
    queries, positions = shape[2:]
    distance = np.arange(positions)[None, :] - (np.arange(queries)[:, None] + positions - queries)
    mask = np.zeros(shape, np.float16)
    if kind in ("causal", "window", "blocked"):
        mask[..., distance > 0] = -np.inf
    if kind == "window":
        mask[..., distance <= -max(1, positions // 3)] = -np.inf
    if kind == "blocked":
        mask[..., 0, :] = -np.inf
    if kind == "random":
        mask[:] = rng.choice([0, -0.5, -2, -np.inf], shape)
    return mask


def slopes(heads, largest_bias):
    if largest_bias == 0:
        return np.ones(heads)
    whole = 2 ** int(np.log2(heads))
    first = 2.0 ** (-largest_bias / whole * np.arange(1, whole + 1))
    second = 2.0 ** (-largest_bias / 2 / whole * np.arange(1, 2 * (heads - whole), 2))
    return np.concatenate([first, second])


def expected(inputs, k, v):
    """float64 [sequences, queries, heads, width of V]."""
    sequences, _, heads, _ = inputs.q.shape
    group = heads // k.shape[2]
    k, v = (np.repeat(x, group, axis=2) for x in (k, v))
    scores = np.einsum("sqhd,sphd->shqp", np.float64(inputs.q), k) * inputs.scale
    if inputs.soft_cap:
        scores = inputs.soft_cap * np.tanh(scores / inputs.soft_cap)
    if inputs.mask is not None:
        mask = np.float64(inputs.mask)[np.arange(sequences) % len(inputs.mask)]
        mask = mask[:, np.arange(heads) % mask.shape[1]]
        scores = scores + slopes(heads, inputs.largest_bias)[None, :, None, None] * mask
    if inputs.sinks is not None:
        sinks = np.broadcast_to(np.float64(inputs.sinks)[None, :, None, None], (*scores.shape[:3], 1))
        scores = np.concatenate([scores, sinks], axis=-1)
    largest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    total = weights.sum(-1, keepdims=True)
    weights = (weights / np.where(total == 0, 1, total))[..., : k.shape[1]]
    return np.einsum("shqp,sphd->sqhd", weights, v)


def bound(inputs, k, v):
    """How far a result may be from `expected`: the errors of scores, of weights and of the sums, in float32.

    A score is a sum of `width` products, rounded at most width/2 + 4 times in a row (plain C adds two chains), and scaling, mask and cap add
    4 more roundings of what is at most `largest`. An error e of the scores changes each weight by a factor of at most 1 + 2e, so the result
    by 4e times the largest |v|; sums of positions add up to `positions` roundings.
    """
    unit = 2.0**-24
    group = inputs.q.shape[2] // k.shape[2]
    magnitudes = np.einsum("sqhd,sphd->shqp", np.abs(np.float64(inputs.q)), np.repeat(np.abs(k), group, axis=2))
    largest = magnitudes.max(initial=0) * inputs.scale
    score_error = unit * (largest * (inputs.k.width / 2 + 6) + 8 * (4 + inputs.soft_cap))
    return (4 * score_error + unit * (k.shape[1] + 32)) * np.abs(v).max(initial=0)
