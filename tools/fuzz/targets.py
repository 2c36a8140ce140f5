"""What is fuzzed: each reader with valid files to begin with. In: the files of a case, in a folder. Out: nothing, or a
TmacError; anything else that happens is a fault.

The seeds are the fixtures of the tests and the bundled checkpoints, so this works in a checkout only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import gguf
import numpy as np

from tmac.common import rotation as keys
from tmac.common.errors import TmacError
from tmac.common.format import LAYOUT_VERSION_KEY, TYPES, TYPES_BY_ID
from tmac.convert import fetch
from tmac.convert.architectures import ARCHITECTURES, architecture_for
from tmac.convert.downloads import find_finished
from tmac.convert.inspect import inspect_checkpoint, inspect_gguf
from tmac.convert.plan.from_gguf import GgufModel
from tmac.convert.plan.options import Options
from tmac.convert.plan.planner import plan
from tmac.convert.quantize.imatrix import Imatrix
from tmac.convert.readers import reader_for
from tmac.convert.sources import folded, ggml_types
from tmac.convert.sources.checkpoint import Checkpoint, read_header
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.gguf_model import GgufSource
from tmac.convert.tokenizer import read_vocabulary

from ..llama import package_index

# A case: the bytes of each file by its name, which may be below a folder.
Files = dict[str, bytes]
# As many rows as the vocabulary of a seed has tokens, at least.
VOCABULARY = 1100


@dataclass(frozen=True)
class Target:
    """`read` gets the folder of a case. `share` of all cases go to this target; `keeps` are files that stay as they
    are.
    """

    name: str
    seeds: list[Files]
    read: Callable[[Path], object]
    share: int
    keeps: tuple[str, ...] = ()


def targets(checkout: Path) -> list[Target]:
    """All targets, with the seeds that are in the checkout."""
    layers = _fixtures(checkout / "tests" / "fixtures")
    demo = _files(checkout / "convert" / "demo")
    weights = [{"model.safetensors": files["model.safetensors"]} for files in layers]
    return [
        Target("safetensors headers", weights, lambda folder: read_header(folder / "model.safetensors"), 8),
        Target("layers of every format", layers, _read_layers, 5),
        Target("configurations of families", _families(), _read_family, 6),
        Target("rotated checkpoints", _rotated(), _read_family, 3),
        Target("tokenizers", _tokenizers(demo), _read_tokenizer, 5),
        Target("whole checkpoints", [_small(demo)], lambda folder: inspect_checkpoint(folder).render(), 1),
        Target("GGUF of every type", _ggufs(), _read_gguf, 8),
        Target("importance matrices", _imatrices(), lambda folder: Imatrix(folder / "imatrix"), 3),
        Target("answers of the hub", _answers(), _fetch, 2, ("model.safetensors",)),
        Target("pages of a package index", _pages(), _read_page, 1),
    ]


def _files(folder: Path, limit: int = 400_000) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.stat().st_size < limit}


def _fixtures(folder: Path) -> list[Files]:
    """Checkpoints of single layers; the shapes of their layers are in a file of ours, which stays as it is."""
    found = []
    for expected in sorted(folder.glob("*/expected.npz")):
        files = _files(expected.parent)
        if "model.safetensors" not in files or "config.json" not in files:
            continue
        with np.load(expected) as arrays:
            shapes = {name: arrays[name].shape for name in arrays.files if arrays[name].ndim == 2}
        del files["expected.npz"]
        found.append({**files, "shapes.txt": json.dumps(shapes).encode()})
    return found


def _read_layers(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    reader = reader_for(checkpoint)
    for module, shape in json.loads((folder / "shapes.txt").read_bytes()).items():
        if reader.has(module):
            reader.names(module)
            grid = reader.grid(module, *shape)
            grid.weights(reader.read(module, *shape))
    reader.notes()


_BASE = {
    **{"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "head_dim": 16},
    **{"intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6},
    **{"query_pre_attn_scalar": 16, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
}
_ROPES: tuple[dict, ...] = (
    {},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}},
    {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 10000.0, "layer_types": ["full_attention"] * 2},
    {"sliding_window": 1024, "use_sliding_window": True, "num_nextn_predict_layers": 1, "quantization_config": None},
)


def _families() -> list[Files]:
    tensors = _safetensors({"model.embed_tokens.weight": np.zeros((4, 4), np.float16)})
    seeds = []
    for name in ARCHITECTURES:
        for rope in _ROPES:
            tied = "itnet" in name.lower() or "Gemma" in name
            routing = {"norm_topk_prob": "Qwen3" in name or name.startswith("Mixtral")}
            config = {**_BASE, **rope, **routing, "architectures": [name], "tie_word_embeddings": tied}
            if name.endswith("ConditionalGeneration"):
                config = {"architectures": [name], "text_config": config}
            seeds.append({"config.json": json.dumps(config).encode(), "model.safetensors": tensors})
    return seeds


def _rotated() -> list[Files]:
    """One rotated layer, in each of the two ways in which a file beside the weights says so."""
    module, columns = "model.layers.0.mlp.up_proj", _BASE["hidden_size"]
    text = {**_BASE, "tie_word_embeddings": False}
    fold = {
        **{"schema_version": 1, **folded.FOLD, "signs": {str(columns): [1, -1] * (columns // 2)}},
        "transform": {"name": folded.FOLD_TRANSFORM, "block_size": 32, "sign_mode": keys.EXPLICIT},
        "tensors": [{"name": f"{module}.weight", "axis": -1, "role": folded.PRODUCT}],
    }
    pack = {
        **{keys.VERSION_KEY: keys.VERSION, keys.TRANSFORM_KEY: keys.TRANSFORM, keys.AXIS_KEY: keys.AXIS},
        **{keys.BLOCK_KEY: 32, keys.SIGN_MODE_KEY: keys.EXPLICIT, keys.GROUPED_KEY: True},
        **{keys.SIGN_WIDTHS_KEY: [columns], keys.SIGN_VALUES_KEY: [1.0, -1.0] * (columns // 2)},
        **{keys.WEIGHTS_KEY: [f"{module}.weight"], keys.TABLES_KEY: []},
    }
    modules = [{"path": module, "block": 32, "embedding": False, "dtype": "float16"}]
    config = {"architectures": ["PrismHadamardQwen35ForConditionalGeneration"], **folded.PACK, "modules": modules}
    weights = {f"{module}.weight": np.zeros((4, 4), np.float16)}
    signs = {f"{module}.signs": np.array([1, -1] * (columns // 2), np.float16)}
    seeds = [
        ({"architectures": ["Qwen3_5ForCausalLM"], **text}, folded.FOLD_FILE, fold, weights),
        ({**config, "text_config": text}, folded.PACK_FILE, pack, {**weights, **signs}),
    ]
    return [
        {
            "config.json": json.dumps(config).encode(),
            name: json.dumps(side).encode(),
            "model.safetensors": _safetensors(tensors),
        }
        for config, name, side, tensors in seeds
    ]


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    header, data = {}, b""
    for name, values in tensors.items():
        places = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F16", "shape": list(values.shape), "data_offsets": places}
        data += values.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _read_family(folder: Path) -> None:
    architecture = architecture_for(Checkpoint(folder))
    for number, part in enumerate(architecture.parts()):
        if part.row_order and part.shape[0] <= 1 << 16:
            part.row_order()
        if number > 3000:
            break
    architecture.constants()
    architecture.is_redundant("x"), architecture.is_draft("model.layers.2.x")
    architecture.add_metadata(gguf.GGUFWriter(None, architecture.name))


def _tokenizers(demo: Files) -> list[Files]:
    kept = ("tokenizer.model", "tokenizer_config.json")
    bytes_ = [*map(chr, range(256, 289)), *map(chr, range(33, 127)), *map(chr, range(289, 323))]
    bytes_ += [*map(chr, range(161, 173)), chr(323), *map(chr, range(174, 256))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "unk_token": None, "byte_fallback": False, "ignore_merges": False}
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}
    byte_level = {
        "added_tokens": [{"id": 259, "content": "<s>", "special": True, "rstrip": True}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [level]},
        "post_processor": {"type": "Sequence", "processors": [post]},
        "model": {**model, "vocab": _numbered([*bytes_, "he", "ll", "hell"]), "merges": ["h e", ["l", "l"], "he ll"]},
    }
    marked = {
        "added_tokens": [{"id": 261, "content": "\u2581\u2581"}, {"id": 262, "content": "<s>", "special": True}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]},
        "pre_tokenizer": None,
        "post_processor": post,
        "model": {
            **{**model, "byte_fallback": True, "merges": ["\u2581 \u2581", "a b", "\u2581 ab"]},
            "vocab": _numbered([*pieces, "\u2581", "a", "b", "ab", "\u2581ab", "\u2581\u2581"]),
        },
    }
    settings = {"bos_token": "<s>", "add_bos_token": True, "chat_template": [{"name": "default", "template": "x"}]}
    beside = {"special_tokens_map.json": {"eos_token": {"content": "<s>"}}, "added_tokens.json": {"<x>": 263}}
    beside["generation_config.json"] = {"eos_token_id": [1, 2, 3]}
    others = {name: json.dumps(value).encode() for name, value in beside.items()}
    seeds = [{name: demo[name] for name in kept if name in demo}]
    for value in (byte_level, marked):
        files = {"tokenizer.json": json.dumps(value).encode(), "tokenizer_config.json": json.dumps(settings).encode()}
        seeds += [files, {**files, **others}]
    return seeds


def _numbered(texts: list[str]) -> dict[str, int]:
    return {text: token for token, text in enumerate(texts)}


def _read_tokenizer(folder: Path) -> None:
    read_vocabulary(folder, {"eos_token_id": 2}, VOCABULARY).add_metadata(gguf.GGUFWriter(None, "llama"))


def _small(demo: Files) -> Files:
    """Settings and tokenizer of the demo, over the header of some tensors."""
    tensors = {f"model.layers.0.{name}.weight": np.zeros((8, 8), np.float16) for name in ("input_layernorm", "x")}
    return {**demo, "model.safetensors": _safetensors(tensors)}


def _ggufs() -> list[Files]:
    """A file for each type: a matrix in it, an embedding and a norm; and one of several tensors, one with experts."""
    kinds = {kind.id: (kind.block, kind.nbytes, kind.name) for kind in ggml_types.TYPES.values()}
    kinds |= {kind.id: (kind.block_weights, kind.block_bytes, kind.ggml_name) for kind in TYPES}
    seeds = [{"x.gguf": _gguf({"blk.0.attn_q.weight": number}, kinds)} for number in sorted(kinds)]
    many = {"blk.0.attn_q.weight": 2, "blk.0.ffn_up.weight": 41, "blk.0.ffn_down_exps.weight": 42, "output.weight": 142}
    return [*seeds, {"x.gguf": _gguf(many, kinds)}]


def _gguf(tensors: dict[str, int], kinds: dict[int, tuple[int, int, str]]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    values = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 64),
        text(LAYOUT_VERSION_KEY) + struct.pack("<II", 4, 1),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        text("x.numbers") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3),
        text("split.count") + struct.pack("<IH", 2, 1),
    ]
    entries, data = b"", b""
    for name, number in {**tensors, "token_embd.weight": 1, "blk.0.attn_norm.weight": 0}.items():
        block, size, _ = kinds[number]
        shape = [256, 32, 2] if "exps" in name else [256] if "norm" in name else [256, 32]
        nbytes = int(np.prod(shape)) // block * size
        entries += (
            text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", number, len(data))
        )
        data += bytes(nbytes) + bytes(-nbytes % 64)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors) + 2, len(values)) + b"".join(values) + entries
    return header + bytes(-len(header) % 64) + data


def _read_gguf(folder: Path) -> None:
    file = folder / "x.gguf"
    header = read_gguf_header(file)
    inspect_gguf(file).render()
    if any(tensor.type_id in TYPES_BY_ID for tensor in header.tensors):
        return
    for quantize in (None, "w2g64z"):
        planned = plan(GgufModel(GgufSource(file)), Options.of("q8_0", "q8_0", quantize, None))
        for tensor in planned.tensors:
            tensor.load()


def _imatrices() -> list[Files]:
    name = b"blk.0.attn_q.weight"
    old = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii4f", 4, 4, 1, 2, 3, 4) + struct.pack("<ii", 4, 1)
    file = Path(f"/dev/shm/tmac-seed-{id(name)}") if Path("/dev/shm").is_dir() else Path(f".tmac-seed-{id(name)}")
    writer = gguf.GGUFWriter(file, "x")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["x"])
    writer.add_tensor(f"{name.decode()}.in_sum2", np.ones((1, 4), np.float32))
    writer.add_tensor(f"{name.decode()}.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    try:
        return [{"imatrix": old}, {"imatrix": file.read_bytes()}]
    finally:
        file.unlink()


def _answers() -> list[Files]:
    siblings = [{"rfilename": name, "size": 30} for name in ("config.json", "model.safetensors", "a/b.json")]
    answer = {"id": "a/b", "sha": "0" * 40, "siblings": siblings, "tags": ["x"], "private": False, "downloads": 1}
    index = {"metadata": {"total_size": 1}, "weight_map": {"x": "model.safetensors"}}
    receipt = {"repository": "a/b", "revision": "main", "commit": "0" * 40, "files": ["config.json"]}
    common = {"answer.json": answer, ".tmac-download.json": receipt}
    listed = {**answer, "siblings": [*siblings, {"rfilename": "model.safetensors.index.json", "size": None}]}
    seeds = [common, {**common, "answer.json": listed, "model.safetensors.index.json": index}]
    whole = {"config.json": b"{}".ljust(30), "model.safetensors": bytes(30)}
    return [{**whole, **{name: json.dumps(value).encode() for name, value in files.items()}} for files in seeds]


def _fetch(folder: Path) -> None:
    """What the client makes of the hub's answer, given in place of it; it downloads nothing."""
    import huggingface_hub

    def info(*_, **__):
        return huggingface_hub.hf_api.ModelInfo(**json.loads((folder / "answer.json").read_bytes()))

    with (
        mock.patch.object(huggingface_hub.HfApi, "model_info", info),
        mock.patch.object(huggingface_hub, "hf_hub_download", lambda repository, name, **_: str(folder / name)),
        mock.patch.object(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder)),
    ):
        find_finished("a/b", "main", folder)
        fetch.fetch("a/b", folder=folder)


def _pages() -> list[Files]:
    listed = {"meta": {"api-version": "1.0"}, "files": [{"url": "x-1.tar.gz", "filename": "x-1.tar.gz", "hashes": {}}]}
    return [
        {"page.json": json.dumps(listed).encode()},
        {"page.html": b'<html><a href="x-1.tar.gz#sha256=0">x</a></html>'},
    ]


def _read_page(folder: Path) -> None:
    for path in folder.iterdir():
        read = package_index.links_of_json if path.suffix == ".json" else package_index.links_of_html
        try:
            read(path.read_bytes())
        # What a page that is not one ends in; the caller names the place.
        except ValueError as problem:
            raise TmacError(str(problem)) from problem
