"""Writes a tiny random model as GPTQ checkpoint, or with the same weights in float16.

All weights, as products of scale and code too, are exact in float16, so both checkpoints hold the same numbers. The
bytes depend only on the name: numpy guarantees RandomState's stream. tiny_families.py has a model of every family.
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from support.checkpoints import CHECKPOINTS
from support.safetensors_files import write_tensors

DEMO = CHECKPOINTS["w2g64z"]
TEXT = (
    "One morning, Mia went to the forest with a small red kite. It was a sunny day and the sun was warm. "
    "There she met a fox. The fox was worried."
)
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
VOCABULARY = 1024
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float16",
}


@dataclass(frozen=True)
class Tiny:
    """A family's configuration beyond BASE, and what its layers are.

    norms, linear  by the name within a block: size, or (rows, columns); `biases` names those that have one
    experts        linear layers of which there are as many as there are experts, with {} for the number
    floats         matrices that no quantizer touches
    only           the layers that have something, by its name; without an entry all have it
    plain_norms    norms to which `offset` does not apply
    values         tensors that are no matrices, with their largest value, by the whole name within a block
    drafts         there is a block mtp.layers.0 with what the last layer has, and what belongs to it
    offset         what the model adds to the weight of a norm
    embedding      the largest value in it; Gemma multiplies what it reads there
    arguments      for llama-results
    converter      whether the pinned tree's own converter writes this model rightly
    """

    name: str
    config: dict
    linear: dict[str, tuple[int, int]]
    norms: dict[str, int]
    biases: tuple[str, ...] = ()
    experts: dict[str, tuple[int, int]] = field(default_factory=dict)
    floats: dict[str, tuple[int, int]] = field(default_factory=dict)
    only: dict[str, tuple[int, ...]] = field(default_factory=dict)
    plain_norms: dict[str, int] = field(default_factory=dict)
    values: dict[str, tuple[tuple[int, ...], float]] = field(default_factory=dict)
    drafts: bool = False
    bits: int = 4
    group: int = 32
    offset: float = 0.0
    embedding: float = 2.0
    space_prefix: bool = True
    arguments: tuple[str, ...] = ()
    converter: bool = True

    @property
    def full_config(self) -> dict:
        return {**BASE, **self.config}


class _Numbers:
    """Random numbers with few bits, so that they are exact in float16. Every tensor has its own stream."""

    def __init__(self, model: str):
        self.model = model

    def stream(self, tensor: str) -> np.random.RandomState:
        return np.random.RandomState(zlib.crc32(f"{self.model}/{tensor}".encode()))

    def values(self, tensor: str, shape: tuple[int, ...], largest: float, bits: int = 9) -> np.ndarray:
        steps = self.stream(tensor).randint(-(2**bits), 2**bits + 1, shape)
        return (steps * (largest / 2**bits)).astype(np.float16)

    def grid(self, tensor: str, rows: int, columns: int, bits: int, group: int) -> tuple[np.ndarray, ...]:
        """Codes [rows, columns]; zero-points and float16 scales [rows, columns / group]."""
        stream = self.stream(tensor)
        codes = stream.randint(0, 2**bits, (rows, columns))
        zeros = stream.randint(2 ** (bits - 1) - 1, 2 ** (bits - 1) + 2, (rows, columns // group))
        # Weights of about 1.2 / sqrt(columns): codes deviate by 2**bits / 3.5, scales are 10 to 31 units.
        unit = 2.0 ** round(math.log2(1.2 / math.sqrt(columns) / (2**bits / 3.5) / 20))
        scales = stream.randint(10, 32, (rows, columns // group)) * unit
        return codes, zeros, scales.astype(np.float16)


def write(tiny: Tiny, folder: Path, *, quantized: bool = True, quantized_experts: bool = True) -> Path:
    """Writes the checkpoint into the new `folder`: as GPTQ, or all of it in float16."""
    folder.mkdir(parents=True)
    shutil.copy(DEMO / "tokenizer.model", folder)
    settings = json.loads((DEMO / "tokenizer_config.json").read_text())
    if not tiny.space_prefix:
        settings["add_prefix_space"] = False
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = tiny.full_config
    if quantized:
        config["quantization_config"] = {
            "quant_method": "gptq",
            "bits": tiny.bits,
            "group_size": tiny.group,
            "sym": False,
            "desc_act": False,
            "checkpoint_format": "gptq_v2",
        }
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", dict(tensors(tiny, quantized, quantized and quantized_experts)))
    return folder


def tensors(tiny: Tiny, quantized: bool, quantized_experts: bool) -> Iterator[tuple[str, np.ndarray]]:
    config, numbers = tiny.full_config, _Numbers(tiny.name)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]

    def norm(name: str, size: int) -> tuple[str, np.ndarray]:
        deviation = numbers.values(name, (size,), 0.5)
        return f"{name}.weight", deviation if tiny.offset else deviation + np.float16(1)

    yield f"{EMBEDDING}.weight", numbers.values(EMBEDDING, (vocabulary, hidden), tiny.embedding)
    layers = config["num_hidden_layers"]
    blocks = {f"model.layers.{layer}": layer for layer in range(layers)}
    for block, layer in {**blocks, **({"mtp.layers.0": layers - 1} if tiny.drafts else {})}.items():

        def here(named: dict) -> list[tuple]:
            return [(name, of) for name, of in named.items() if layer in tiny.only.get(name, (layer,))]

        for name, size in here(tiny.norms):
            yield norm(f"{block}.{name}", size)
        for name, size in here(tiny.plain_norms):
            yield f"{block}.{name}.weight", numbers.values(f"{block}.{name}", (size,), 0.5) + np.float16(1)
        for name, (shape, largest) in here(tiny.values):
            yield f"{block}.{name}", numbers.values(f"{block}.{name}", shape, largest)
        for name, shape in here(tiny.floats):
            yield f"{block}.{name}.weight", numbers.values(f"{block}.{name}", shape, 0.25)
        for name, (rows, columns) in here(tiny.linear):
            yield from _linear(tiny, numbers, f"{block}.{name}", rows, columns, quantized and block in blocks)
            if name in tiny.biases:
                yield f"{block}.{name}.bias", numbers.values(f"{block}.{name}.bias", (rows,), 0.5)
        for name, (rows, columns) in tiny.experts.items():
            for expert in range(config.get("num_experts") or config["num_local_experts"]):
                full_name = f"{block}.{name.format(expert)}"
                yield from _linear(tiny, numbers, full_name, rows, columns, quantized_experts)
    if tiny.drafts:
        yield "mtp.fc.weight", numbers.values("mtp.fc", (hidden, 2 * hidden), 0.125)
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            yield norm(f"mtp.{name}", hidden)
    yield norm("model.norm", hidden)
    if not config["tie_word_embeddings"]:
        yield f"{HEAD}.weight", numbers.values(HEAD, (vocabulary, hidden), 0.25)


def _linear(
    tiny: Tiny, numbers: _Numbers, name: str, rows: int, columns: int, quantized: bool
) -> Iterator[tuple[str, np.ndarray]]:
    codes, zeros, scales = numbers.grid(name, rows, columns, tiny.bits, tiny.group)
    if quantized:
        yield f"{name}.qweight", _pack(codes.T, tiny.bits)
        yield f"{name}.qzeros", np.ascontiguousarray(_pack(zeros, tiny.bits).T)
        yield f"{name}.scales", np.ascontiguousarray(scales.T)
    else:
        by_column = (np.repeat(values, tiny.group, axis=1) for values in (zeros, scales.astype(np.float64)))
        zero, scale = by_column
        weights = (codes - zero) * scale
        assert (weights.astype(np.float16) == weights).all()
        yield f"{name}.weight", weights.astype(np.float16)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    """[n, m] -> int32 [n * bits / 32, m]: along the first axis, lowest bits first."""
    per_word = 32 // bits
    parts = values.astype(np.uint32).reshape(-1, per_word, values.shape[1])
    shifts = np.arange(per_word, dtype=np.uint32)[None, :, None] * np.uint32(bits)
    return np.bitwise_or.reduce(parts << shifts, axis=1).view(np.int32)
