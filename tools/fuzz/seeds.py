"""The files that fuzzing of llama.cpp's loader begins with: sound models of a few dozen kilobytes.

They have every kind of tensor and key of ours between them. Weights are zeros, because the loader computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from tmac.common import rotation
from tmac.common.format import ACTIVATIONS_INT8, ACTIVATIONS_KEY, ORDER_SUFFIX, SCALE_SUFFIX, TYPES_BY_NAME, TmacType
from tmac.convert.write.container import write_gguf
from tmac.convert.write.tensors import OutputTensor

WIDTH, HEADS, VOCABULARY, EXPERTS = 128, 2, 32, 2
F32, I32 = 0, 26
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write_seeds(folder: Path) -> list[Path]:
    """Writes one file for each kind of model. Returns their paths."""
    kinds = {name: TYPES_BY_NAME[name] for name in ("w2g64z", "w4g32", "t3g128", "w2t", "w1g128", "w3g64")}
    for name, kind in kinds.items():
        _write(folder / f"{name}.gguf", kind)
    _write(folder / "orders.gguf", kinds["w4g32"], has_orders=True)
    _write(folder / "experts.gguf", kinds["w2g64z"], has_orders=True, has_experts=True)
    _write(folder / "exact.gguf", kinds["t3g128"], texts={ACTIVATIONS_KEY: ACTIVATIONS_INT8})
    _write(folder / "rotated.gguf", kinds["w2g64z"], is_rotated=True)
    return sorted(folder.glob("*.gguf"))


def _write(
    path: Path,
    kind: TmacType,
    *,
    has_orders: bool = False,
    has_experts: bool = False,
    is_rotated: bool = False,
    texts: dict[str, str] | None = None,
) -> None:
    tensors = [_floats("token_embd.weight", VOCABULARY, WIDTH), _floats("output_norm.weight", WIDTH)]
    tensors += [_floats("blk.0.attn_norm.weight", WIDTH), _floats("blk.0.ffn_norm.weight", WIDTH)]
    tensors += [_floats("rope_freqs.weight", WIDTH // HEADS // 2)]
    if has_experts:
        tensors.append(_floats("blk.0.ffn_gate_inp.weight", EXPERTS, WIDTH))
    for name in MATRICES:
        is_experts = has_experts and name.startswith("ffn")
        stem = f"blk.0.{name}{'_exps' if is_experts else ''}"
        shape = (EXPERTS, WIDTH, WIDTH) if is_experts else (WIDTH, WIDTH)
        tensors.append(_weight(f"{stem}.weight", kind, shape))
        if not kind.group:
            tensors.append(_floats(stem + SCALE_SUFFIX, EXPERTS if is_experts else 1))
        if has_orders:
            tensors.append(_order(stem + ORDER_SUFFIX, EXPERTS if is_experts else 1, is_experts))

    def add_metadata(writer: gguf.GGUFWriter) -> None:
        _add_hyperparameters(writer, has_experts)
        for key, text in (texts or {}).items():
            writer.add_string(key, text)
        if is_rotated:
            _add_rotation(writer)

    write_gguf(path, "llama", add_metadata, tensors, source="a seed")


def _add_hyperparameters(writer: gguf.GGUFWriter, has_experts: bool) -> None:
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    if has_experts:
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(1)


def _add_rotation(writer: gguf.GGUFWriter) -> None:
    writer.add_uint32(rotation.VERSION_KEY, rotation.VERSION)
    writer.add_string(rotation.TRANSFORM_KEY, rotation.TRANSFORM)
    writer.add_string(rotation.AXIS_KEY, rotation.AXIS)
    writer.add_uint32(rotation.BLOCK_KEY, WIDTH)
    writer.add_string(rotation.SIGN_MODE_KEY, rotation.EXPLICIT)
    writer.add_array(rotation.SIGN_WIDTHS_KEY, [WIDTH])
    writer.add_array(rotation.SIGN_VALUES_KEY, [1, -1] * (WIDTH // 2))
    writer.add_array(rotation.WEIGHTS_KEY, ["blk.0.attn_q.weight", "blk.0.ffn_down.weight"])
    writer.add_array(rotation.TABLES_KEY, ["token_embd.weight"])


def _tensor(name: str, shape: Sequence[int], type_id: int, type_name: str, data: np.ndarray) -> OutputTensor:
    return OutputTensor(name, tuple(shape), type_id, type_name, data.nbytes, lambda: data)


def _floats(name: str, *shape: int) -> OutputTensor:
    return _tensor(name, shape, F32, "f32", np.zeros(shape, np.float32))


def _order(name: str, matrices: int, is_experts: bool) -> OutputTensor:
    columns = np.tile(np.arange(WIDTH, dtype=np.int32), (matrices, 1))
    shape = columns.shape if is_experts else (WIDTH,)
    return _tensor(name, shape, I32, "i32", columns)


def _weight(name: str, kind: TmacType, shape: tuple[int, ...]) -> OutputTensor:
    matrices = int(np.prod(shape[:-2], dtype=int))
    return _tensor(name, shape, kind.id, kind.name, np.zeros(matrices * kind.nbytes(*shape[-2:]), np.uint8))
