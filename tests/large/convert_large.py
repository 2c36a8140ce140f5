"""Converts checkpoints of the size people have, and says what that takes. No test: it needs up to 12 GB of disk.

    .venv/bin/python tests/large/convert_large.py llama-2-7b-gptq-4bit --folder /somewhere

writes a checkpoint of random weights in that model's real shapes to the folder (unless it is there from before),
converts it in a process of its own, and prints peak resident memory and megabytes of input per second of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import tmac.convert
from tmac.tools.bench.shapes import SHAPES, Shape

DEMO = Path(tmac.convert.__file__).parent / "demo"
VOCABULARY = 32000
SHARD_BYTES = 2_000_000_000
# (name, safetensors dtype, shape, values of an index range of the flat tensor)
Tensor = tuple[str, str, tuple[int, ...], Callable[[np.random.Generator, int], np.ndarray]]
ITEM_BYTES = {"F16": 2, "I32": 4}
LAYER_NAMES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("--folder", type=Path, required=True, help="for the checkpoint and the GGUF")
    args = parser.parse_args()
    checkpoint, output = args.folder / args.model, args.folder / f"{args.model}.gguf"
    if not (checkpoint / "config.json").exists():
        make(checkpoint, *MODELS[args.model])
    packed = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    seconds, resident = measure(checkpoint, output)
    print(f"{args.model}: {packed / 1e9:.2f} GB of input, {output.stat().st_size / 1e9:.2f} GB of output")
    print(f"{seconds:.1f} s of CPU time, {packed / seconds / 1e6:.0f} MB/s, peak resident {resident / 2**30:.2f} GiB")


def measure(checkpoint: Path, output: Path) -> tuple[float, int]:
    """CPU seconds and peak resident bytes of one conversion in a child process."""
    script = f"from tmac.convert.pipeline import convert; convert({str(checkpoint)!r}, {str(output)!r}, force=True)"
    before = time.monotonic()
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", script], os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit("the conversion failed")
    print(f"{time.monotonic() - before:.1f} s of wall time")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def make(folder: Path, shape: Shape, config: dict, layer: Callable[[str, int, int], Iterator[Tensor]]) -> None:
    """Writes shards of random tensors, an index, the configuration and the demo's tokenizer."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    tensors = list(_tensors(shape, layer))
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if sum(map(_nbytes, shards[-1])) + _nbytes(tensor) > SHARD_BYTES and shards[-1]:
            shards.append([])
        shards[-1].append(tensor)
    index = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shard, rng)
        index.update({tensor[0]: name for tensor in shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps({**sizes, **config}))


def _tensors(shape: Shape, layer) -> Iterator[Tensor]:
    yield "model.embed_tokens.weight", "F16", (VOCABULARY, shape.hidden), _floats
    for i in range(shape.layers):
        block = f"model.layers.{i}"
        yield f"{block}.input_layernorm.weight", "F16", (shape.hidden,), _floats
        yield f"{block}.post_attention_layernorm.weight", "F16", (shape.hidden,), _floats
        if layer is _bitnet:
            yield f"{block}.self_attn.inner_attn_ln.weight", "F16", (shape.hidden,), _floats
            yield f"{block}.mlp.ffn_layernorm.weight", "F16", (shape.feed_forward,), _floats
        for name, (rows, columns) in zip(LAYER_NAMES, shape.linear_layers):
            yield from layer(f"{block}.{name}", rows, columns)
    yield "model.norm.weight", "F16", (shape.hidden,), _floats
    if layer is not _bitnet:
        yield "lm_head.weight", "F16", (VOCABULARY, shape.hidden), _floats


def _gptq(bits: int, group: int, name: str, rows: int, columns: int) -> Iterator[Tensor]:
    yield f"{name}.qweight", "I32", (columns * bits // 32, rows), _words
    yield f"{name}.qzeros", "I32", (columns // group, rows * bits // 32), _words
    yield f"{name}.scales", "F16", (columns // group, rows), _scales


def _bitnet(name: str, rows: int, columns: int) -> Iterator[Tensor]:
    yield f"{name}.weight", "F16", (rows, columns), _floats


def _floats(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.standard_normal(count, np.float32) * np.float32(0.02)).astype(np.float16)


def _scales(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.random(count, np.float32) * np.float32(0.002) + np.float32(0.001)).astype(np.float16)


def _words(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**32, count, np.uint32)


def _nbytes(tensor: Tensor) -> int:
    return int(np.prod(tensor[2])) * ITEM_BYTES[tensor[1]]


def _write_shard(path: Path, shard: list[Tensor], rng: np.random.Generator) -> None:
    header, at = {}, 0
    for tensor in shard:
        end = at + _nbytes(tensor)
        header[tensor[0]] = {"dtype": tensor[1], "shape": tensor[2], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, shape, values in shard:
            values(rng, int(np.prod(shape))).tofile(file)


def _gptq_model(bits: int) -> tuple:
    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": 128,
        "sym": False,
        "desc_act": False,
        "checkpoint_format": "gptq_v2",
    }
    config = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "quantization_config": settings}
    return SHAPES["llama-2-7b"], config, lambda *layer: _gptq(bits, 128, *layer)


BITNET_CONFIG = {
    "architectures": ["BitnetForCausalLM"],
    "hidden_act": "silu",
    "weight_bits": 1,
    "input_bits": 8,
    "tie_word_embeddings": True,
}
MODELS = {
    **{f"llama-2-7b-gptq-{bits}bit": _gptq_model(bits) for bits in (2, 3, 4)},
    "bitnet-3b": (SHAPES["bitnet-3b"], BITNET_CONFIG, _bitnet),
}

if __name__ == "__main__":
    main()
