"""Checkpoints with GPTQ's tensors, packed and dequantized bit by bit, from the definition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kind:
    """How a layer is packed. packing: dense, planar or padded; stored zero-points are z - offset."""

    bits: int
    group: int
    offset: int = 0
    symmetric: bool = False
    act_order: bool = False
    packing: str = "dense"
    g_idx: bool = True
    word: str = "int32"


def stream(codes: np.ndarray, bits: int, word: str = "int32") -> np.ndarray:
    """Codes [..., n] as a stream of bits in words [..., n * bits / word], lowest bits first."""
    single = codes[..., None].astype(np.uint8) >> np.arange(bits) & 1
    packed = np.packbits(single.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")
    return packed.view(word)


def packed(codes: np.ndarray, kind: Kind) -> np.ndarray:
    """Codes [rows, n] as words [rows, m]."""
    if kind.packing == "padded":
        per_word = 32 // kind.bits
        filled = np.zeros((len(codes), -(-codes.shape[1] // per_word) * per_word), np.int64)
        filled[:, : codes.shape[1]] = codes
        shifted = filled.reshape(len(codes), -1, per_word) << kind.bits * np.arange(per_word)
        return shifted.sum(axis=-1).astype(np.uint32).view(np.int32)
    if kind.packing == "planar" and kind.bits == 3:
        blocks = codes.reshape(len(codes), -1, 32)
        words = np.concatenate([stream(blocks & 3, 2), stream(blocks >> 2, 1)], axis=-1)
        return words.reshape(len(codes), -1)
    return stream(codes, kind.bits, kind.word)


def random_layer(rng, rows: int, columns: int, kind: Kind) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tensors of a layer, and its weights float64 [rows, columns]."""
    width = columns if kind.group == -1 else kind.group
    groups = -(-columns // width)
    codes = rng.integers(0, 1 << kind.bits, (rows, columns))
    zeros = rng.integers(0, 1 << kind.bits, (groups, rows))
    if kind.symmetric:
        zeros[:] = 1 << (kind.bits - 1)
    scales = rng.uniform(0.001, 0.1, (groups, rows)).astype(np.float16)
    g_idx = np.arange(columns) // width
    if kind.act_order:
        g_idx = rng.permutation(g_idx)
    tensors = {
        "qweight": np.ascontiguousarray(packed(codes, kind).T),
        "qzeros": packed((zeros - kind.offset) % (1 << kind.bits), kind),
        "scales": scales,
    }
    if kind.g_idx:
        tensors["g_idx"] = g_idx.astype(np.int32)
    weights = scales.astype(np.float64)[g_idx] * (codes.T - zeros[g_idx])
    return tensors, weights.T


def replace(folder, module: str, kind: Kind, seed: int = 0) -> np.ndarray:
    """Replaces layer `module` of `folder`, quantized or not, by a random one; returns its weights."""
    if f"{module}.weight" in folder.tensors:
        rows, columns = folder.tensors.pop(f"{module}.weight").shape
    else:
        rows, columns = folder.tensors[f"{module}.scales"].shape[1], folder.columns[module]
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            folder.tensors.pop(f"{module}.{part}", None)
    tensors, weights = random_layer(np.random.default_rng(seed), rows, columns, kind)
    folder.tensors.update({f"{module}.{part}": values for part, values in tensors.items()})
    return weights


def repack(folder, kinds) -> dict[str, np.ndarray]:
    """Keeps two blocks of `folder` and replaces each of their layers by one of kinds(module). Returns all weights."""
    folder.config["num_hidden_layers"] = 2
    for name in [name for name in folder.tensors if name.startswith(("model.layers.2.", "model.layers.3."))]:
        del folder.tensors[name]
    modules = [name.removesuffix(".g_idx") for name in folder.tensors if name.endswith(".g_idx")]
    folder.columns = {module: len(folder.tensors[f"{module}.g_idx"]) for module in modules}
    return {module: replace(folder, module, kinds(module), seed) for seed, module in enumerate(modules)}
