"""A hybrid model (llama.cpp's qwen35): three of four layers have gated delta nets instead of attention.

Comes in: a shape with delta nets. Goes out: the names, shapes and hyperparameters that llama.cpp loads
(src/models/qwen35.cpp), for random_model.py. Without the block that drafts tokens (MTP) and without vision: a decode
needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np
from gguf import MODEL_TENSOR as TENSOR

from tmac.convert.architectures.part import Kind, Part

from .shapes import Shape

CONTEXT = 262144
# Rotated is a quarter of each head, in pairs that belong to three axes of position, as evenly as they can.
ROTATED_SHARE, AXES, ROPE_BASE = 4, 3, 1e7
# With no bias and an input of 0, a state keeps softplus(0) * DECAY below its logarithm: 7 % less with each token. So it
# neither grows without bound nor becomes denormal.
DECAY = -0.1


class HybridArchitecture:
    """What random_model.py asks of an architecture."""

    name = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN35]

    def __init__(self, shape: Shape, layers: int, vocabulary: int):
        self.shape, self.layers, self.vocabulary = shape, layers, vocabulary

    def parts(self) -> Iterator[Part]:
        hidden = self.shape.hidden
        yield _part(Kind.EMBEDDING, TENSOR.TOKEN_EMBD, (self.vocabulary, hidden))
        for layer in range(self.layers):
            yield _part(Kind.NORM, TENSOR.ATTN_NORM, (hidden,), layer)
            yield from self._attention(layer) if self.shape.has_attention(layer) else self._delta_net(layer)
            yield _part(Kind.NORM, TENSOR.ATTN_POST_NORM, (hidden,), layer)
            *_, gate, up, down = self.shape.linear_layers
            yield _part(Kind.LINEAR, TENSOR.FFN_GATE, gate, layer)
            yield _part(Kind.LINEAR, TENSOR.FFN_UP, up, layer)
            yield _part(Kind.LINEAR, TENSOR.FFN_DOWN, down, layer)
        yield _part(Kind.NORM, TENSOR.OUTPUT_NORM, (hidden,))
        yield _part(Kind.HEAD, TENSOR.OUTPUT, (self.vocabulary, hidden))

    def _attention(self, layer: int) -> Iterator[Part]:
        queries, keys, values, output, *_ = self.shape.linear_layers
        yield _part(Kind.LINEAR, TENSOR.ATTN_Q, queries, layer)
        yield _part(Kind.LINEAR, TENSOR.ATTN_K, keys, layer)
        yield _part(Kind.LINEAR, TENSOR.ATTN_V, values, layer)
        yield _part(Kind.LINEAR, TENSOR.ATTN_OUT, output, layer)
        for norm in (TENSOR.ATTN_Q_NORM, TENSOR.ATTN_K_NORM):
            yield _part(Kind.NORM, norm, (self.shape.head_dim,), layer)

    def _delta_net(self, layer: int) -> Iterator[Part]:
        """The two small matrices, a row for each head, are what converters keep out of low-bit types."""
        nets = self.shape.delta_nets
        mixed, gate, output, *_ = self.shape.delta_layers
        yield _part(Kind.LINEAR, TENSOR.ATTN_QKV, mixed, layer)
        yield _part(Kind.LINEAR, TENSOR.ATTN_GATE, gate, layer)
        yield _part(Kind.LINEAR, TENSOR.SSM_OUT, output, layer)
        for small in (TENSOR.SSM_ALPHA, TENSOR.SSM_BETA):
            yield _part(Kind.OTHER, small, (nets.heads, self.shape.hidden), layer)
        yield _part(Kind.NORM, TENSOR.SSM_NORM, (nets.width,), layer)

    def constants(self) -> dict[str, np.ndarray]:
        """F32 tensors by their whole names: decays, biases of the decays, and a convolution that takes the average."""
        nets, found = self.shape.delta_nets, {}
        for layer in range(self.layers):
            if not self.shape.has_attention(layer):
                found[_name(TENSOR.SSM_A, layer)] = np.full(nets.heads, DECAY, "<f4")
                found[f"{_name(TENSOR.SSM_DT, layer)}.bias"] = np.zeros(nets.heads, "<f4")
                average = np.full((nets.mixed_size, nets.taps), 1 / nets.taps, "<f4")
                found[f"{_name(TENSOR.SSM_CONV1D, layer)}.weight"] = average
        return found

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        shape, nets = self.shape, self.shape.delta_nets
        writer.add_vocab_size(self.vocabulary)
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(shape.hidden)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(shape.feed_forward)
        writer.add_head_count(shape.heads)
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(ROPE_BASE)
        rotated = shape.head_dim // ROTATED_SHARE
        writer.add_rope_dimension_count(rotated)
        pairs = [(rotated // 2 + AXES - 1 - axis) // AXES for axis in range(AXES)]
        writer.add_rope_dimension_sections([*pairs, 0])
        writer.add_ssm_conv_kernel(nets.taps)
        writer.add_ssm_state_size(nets.width)
        writer.add_ssm_group_count(nets.groups)
        writer.add_ssm_time_step_rank(nets.heads)
        writer.add_ssm_inner_size(nets.value_size)
        writer.add_full_attention_interval(nets.attention_interval)


def _name(tensor: TENSOR, layer: int | None = None) -> str:
    return gguf.TENSOR_NAMES[tensor].format(bid=layer)


def _part(kind: Kind, tensor: TENSOR, shape: tuple[int, ...], layer: int | None = None) -> Part:
    name = _name(tensor, layer)
    return Part(kind, name, name, shape)
