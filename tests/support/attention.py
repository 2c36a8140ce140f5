"""Attentions with random operands, and a check of what kernels make of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

import gguf
import numpy as np

from support import attention_model
from support.attention_model import TYPES
from tmac.kernels.native_attention import Cache, Inputs


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
    mask_sequences=None,
    sinks=False,
    soft_cap=0.0,
    largest_bias=0.0,
    spread=1.0,
):
    """Operands and their float64 meaning: (Inputs, k, v). `spread` scales the queries: large ones give peaked scores.

    mask: as make_mask() has it. mask_sequences: by default each sequence has its own.
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
        mask=make_mask(rng, mask, (mask_sequences or sequences, mask_heads, queries, positions)),
        sinks=np.float32(rng.standard_normal(heads)) if sinks else None,
        scale=float(np.float32(widths[0] ** -0.5)),
        soft_cap=soft_cap,
        largest_bias=largest_bias,
    )
    return inputs, *meant


def make_mask(rng, kind, shape):
    """float16 [mask sequences, mask heads, queries, positions], or None.

    none; open (zeros); causal (the queries are the last positions); window (causal, a third of the positions); distance
    (causal, minus the distance, as ALiBi has it); random (some finite values, some -infinity); patches (each 16
    positions are open, blocked or random, for all queries alike); blocked (causal, but the first query sees nothing).
    """
    if kind == "none":
        return None
    queries, positions = shape[2:]
    distance = np.arange(positions)[None, :] - (np.arange(queries)[:, None] + positions - queries)
    mask = np.zeros(shape, np.float16)
    if kind == "distance":
        mask[:] = distance
    if kind in ("causal", "window", "distance", "blocked"):
        mask[..., distance > 0] = -np.inf
    if kind == "window":
        mask[..., distance <= -max(1, positions // 3)] = -np.inf
    if kind == "blocked":
        mask[..., 0, :] = -np.inf
    if kind in ("random", "patches"):
        mask[:] = rng.choice([0, -0.5, -2, -np.inf], shape)
    if kind == "patches":
        patches = rng.integers(0, 3, (*shape[:2], 1, -(-positions // 16)))
        of_positions = np.broadcast_to(np.repeat(patches, 16, axis=-1)[..., :positions], shape)
        mask[of_positions == 0], mask[of_positions == 1] = 0, -np.inf
    return mask


@dataclass(frozen=True)
class Case:
    """Operands, the float64 values of K and V [sequences, positions, KV heads, width], and what must come out."""

    inputs: Inputs
    k: np.ndarray
    v: np.ndarray

    @cached_property
    def expected(self):
        return attention_model.expected(self.inputs, self.k, self.v)

    def _words(self, is_streamed):
        """Whether K and V are multiplied as words (c/attention/scales.h): types with scales, if few rows are streamed.

        Where a kernel multiplies them as floats all the same, the bound is larger than need be.
        """
        caches = (self.inputs.k, self.inputs.v)
        return tuple(is_streamed and TYPES[cache.type].block > 1 for cache in caches)

    @cached_property
    def _found(self):
        """What was computed, by function and words: each takes longer than a kernel."""
        return {}

    def _of_words(self, function, is_streamed):
        words = self._words(is_streamed)
        if (function, words) not in self._found:
            self._found[function, words] = function(self.inputs, self.k, self.v, words)
        return self._found[function, words]

    def bound(self, is_streamed=False):
        return self._of_words(attention_model.bound, is_streamed)

    def usual_nmse(self, is_streamed=False):
        return self._of_words(attention_model.usual_nmse, is_streamed)

    def check(self, out, is_streamed=False):
        """Every result is within the bound."""
        away, bound = np.abs(out - self.expected), self.bound(is_streamed)
        assert out.shape == self.expected.shape and np.isfinite(out).all()
        assert (away <= bound).all(), f"{(away / np.where(bound, bound, 1)).max():.3g} times the bound"

    def nmse(self, out):
        return ((out - self.expected) ** 2).sum() / (self.expected**2).sum()


@cache
def case(seed=0, **options):
    """A random attention, with the options of make(). All kernels are given the same."""
    return Case(*make(np.random.default_rng(seed), **options))


def of_values(q, k, v, types=("f32", "f32"), **options):
    """The case of given numbers: q [sequences, queries, heads, width], K and V [sequences, positions, KV heads, width].

    `options` are fields of Inputs.
    """
    caches = [(name, x.shape[-1], *pack(name, np.float32(x))) for name, x in zip(types, (k, v))]
    inputs = Inputs(np.float32(q), *(Cache(name, width, packed) for name, width, packed, _ in caches), **options)
    return Case(inputs, *(meant for _, _, _, meant in caches))


def with_inputs(original, **fields):
    """The case with other fields of its inputs, whose meaning is the same or has a part in what is expected."""
    return replace(original, inputs=replace(original.inputs, **fields))
