"""Converts checkpoints of the size people have, and says what that takes. No test: it needs up to 12 GB of disk.

    .venv/bin/python tests/large/convert_large.py llama-2-7b-gptq-4bit --folder /somewhere

writes a checkpoint of random weights in that model's real shapes to the folder (unless it is there from before),
converts it in a process of its own, and prints peak resident memory and megabytes of input per second of that process.
`--upstream` does so by llama.cpp's own converter, which `tmac build --all-models` installs; its process counts too.
Of Qwen3.5 27B there are the first eight layers, and rows of embedding and head for as large a share of its vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import qwen35
from sizes import sizes

import tmac.convert
from tmac.tools.bench.shapes import SHAPES, Shape

DEMO = Path(tmac.convert.__file__).parent / "demo"
VOCABULARY = 32000
SHARD_BYTES = 2_000_000_000
# (name, safetensors dtype, shape, values of an index range of the flat tensor)
Tensor = tuple[str, str, tuple[int, ...], Callable[[np.random.Generator, int], np.ndarray]]
ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I64": 8}
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
    parser.add_argument("--upstream", action="store_true", help="convert by llama.cpp's own converter")
    args = parser.parse_args()
    checkpoint, output = args.folder / args.model, args.folder / f"{args.model}.gguf"
    if not (checkpoint / "config.json").exists():
        make(checkpoint, MODELS[args.model])
    packed = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    seconds, resident = measure(checkpoint, output, args.upstream)
    print(f"{args.model}: {packed / 1e9:.2f} GB of input, {output.stat().st_size / 1e9:.2f} GB of output")
    print(f"{seconds:.1f} s of CPU time, {packed / seconds / 1e6:.0f} MB/s, peak resident {resident / 2**30:.2f} GiB")


def measure(checkpoint: Path, output: Path, upstream: bool) -> tuple[float, int]:
    """CPU seconds of one conversion in a child process and its own children, and the largest peak resident bytes."""
    script = "from tmac.convert.pipeline import convert; from tmac.tools.pipeline import find_upstream; "
    script += f"convert({str(checkpoint)!r}, {str(output)!r}, force=True, find_upstream=find_upstream, "
    script += f"prefer_upstream={upstream})"
    # A shell may have become this process, and have had children before.
    before, started = _cpu_seconds(), time.monotonic()
    if os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]):
        sys.exit("the conversion failed")
    print(f"{time.monotonic() - started:.1f} s of wall time")
    unit = 1 if sys.platform == "darwin" else 1024
    return _cpu_seconds() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Model:
    """A checkpoint: its tensors, config.json, and what writes its vocabulary into a folder."""

    tensors: Callable[[], Iterator[Tensor]]
    config: dict
    write_tokenizer: Callable[[Path], None]


def make(folder: Path, model: Model) -> None:
    """Writes shards of random tensors, an index, the configuration and the vocabulary."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    shards: list[list[Tensor]] = [[]]
    for tensor in model.tensors():
        if sum(map(_nbytes, shards[-1])) + _nbytes(tensor) > SHARD_BYTES and shards[-1]:
            shards.append([])
        shards[-1].append(tensor)
    index = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shard, rng)
        index.update({tensor[0]: name for tensor in shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    model.write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(model.config))


def _demo_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)


def _llama_config(shape: Shape, config: dict) -> dict:
    return {
        **sizes(shape, VOCABULARY),
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        **config,
    }


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


def _awq(group: int, name: str, rows: int, columns: int) -> Iterator[qwen35.Entry]:
    yield f"{name}.qweight", "I32", (columns, rows // 8)
    yield f"{name}.qzeros", "I32", (columns // group, rows // 8)
    yield f"{name}.scales", "F16", (columns // group, rows)


def _compressed(group: int, name: str, rows: int, columns: int) -> Iterator[qwen35.Entry]:
    yield f"{name}.weight_packed", "I32", (rows, columns // 8)
    yield f"{name}.weight_scale", "BF16", (rows, columns // group)
    yield f"{name}.weight_zero_point", "I32", (rows // 8, columns // group)
    yield f"{name}.weight_shape", "I64", (2,)


def _floats(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.standard_normal(count, np.float32) * np.float32(0.02)).astype(np.float16)


def _scales(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.random(count, np.float32) * np.float32(0.002) + np.float32(0.001)).astype(np.float16)


def _words(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**32, count, np.uint32)


def _narrow_floats(rng: np.random.Generator, count: int) -> np.ndarray:
    """bfloat16."""
    return (_floats(rng, count).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _narrow_scales(rng: np.random.Generator, count: int) -> np.ndarray:
    return (_scales(rng, count).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


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


def _gptq_model(bits: int) -> Model:
    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": 128,
        "sym": False,
        "desc_act": False,
        "checkpoint_format": "gptq_v2",
    }
    config = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "quantization_config": settings}
    return _llama_model("llama-2-7b", config, partial(_gptq, bits, 128))


def _llama_model(name: str, config: dict, layer: Callable[[str, int, int], Iterator[Tensor]]) -> Model:
    shape = SHAPES[name]
    return Model(lambda: _tensors(shape, layer), _llama_config(shape, config), _demo_tokenizer)


def _qwen35_model(linear: Callable[[str, int, int], Iterator[qwen35.Entry]], settings: dict) -> Model:
    """Eight layers of Qwen3.5 27B."""
    shape = replace(SHAPES["bonsai-2-27b"], layers=8)
    values = {"BF16": _narrow_floats, "F32": lambda rng, count: _floats(rng, count).astype(np.float32), "I32": _words}

    def tensors() -> Iterator[Tensor]:
        sizes: dict[str, tuple[int, int]] = {}

        def noted(name: str, rows: int, columns: int) -> Iterator[qwen35.Entry]:
            sizes[name] = rows, columns
            return linear(name, rows, columns)

        for name, dtype, size in qwen35.entries(shape, noted):
            layer, _, part = name.rpartition(".")
            of_part = {"scales": _scales, "weight_scale": _narrow_scales}
            if part == "weight_shape":
                of_part[part] = partial(lambda found, rng, count: np.array(found, np.int64), sizes[layer])
            yield name, dtype, size, of_part.get(part, values.get(dtype))

    return Model(tensors, {**qwen35.config(shape), "quantization_config": settings}, qwen35.write_tokenizer)


BITNET_CONFIG = {
    "architectures": ["BitnetForCausalLM"],
    "hidden_act": "silu",
    "weight_bits": 1,
    "input_bits": 8,
    "tie_word_embeddings": True,
}
AWQ_SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
COMPRESSED_SETTINGS = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False},
        }
    },
    "ignore": ["lm_head", "re:.*in_proj_[ab]$"],
}
MODELS = {
    **{f"llama-2-7b-gptq-{bits}bit": _gptq_model(bits) for bits in (2, 3, 4)},
    "bitnet-3b": _llama_model("bitnet-3b", BITNET_CONFIG, _bitnet),
    "qwen3.5-27b-awq": _qwen35_model(partial(_awq, 128), AWQ_SETTINGS),
    "qwen3.5-27b-compressed": _qwen35_model(partial(_compressed, 32), COMPRESSED_SETTINGS),
}

if __name__ == "__main__":
    main()
