"""Which tensors of a GGUF are weights that llama.cpp only ever multiplies with: those that may have T-MAC's types.

They are the first operand of a MUL_MAT (or, for experts, MUL_MAT_ID) in every graph of the pinned tree (src/models,
src/llama-graph.cpp), and read in no other way. Its own list of operations (LLM_TENSOR_INFOS in src/llama-arch.cpp) has
more of them. Left out here, and kept as they are, for what the graphs do besides: embeddings (read by row; a tied head
is the embedding), attn_k_b and attn_v_b (three-dimensional), attn_output_a (reshaped), what gemma3n and the RWKV
mixtures reshape, convolutions; and routers, low-rank and gating matrices, which are small and are not quantized.
"""

from __future__ import annotations

import re

HEAD_NAME = "output.weight"
_BLOCK = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "attn_gate",
    "attn_q_a",
    "attn_q_b",
    "attn_kv_a_mqa",
    "attn_kv_b",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
    "ssm_in",
    "ssm_out",
    "shortconv.in_proj",
    "shortconv.out_proj",
    "time_mix_key",
    "time_mix_value",
    "time_mix_receptance",
    "time_mix_gate",
    "time_mix_output",
    "channel_mix_key",
    "channel_mix_value",
    "channel_mix_receptance",
)
# Of encoders and decoders apart (T5).
_ENCODER = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_gate", "ffn_up", "ffn_down")
_DECODER = (*_ENCODER, "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_o")
_EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps")


def _pattern(names: tuple[str, ...]) -> str:
    return "(" + "|".join(map(re.escape, names)) + ")"


_MATRIX = re.compile(
    rf"(output|blk\.\d+\.{_pattern(_BLOCK)}"
    rf"|enc\.blk\.\d+\.{_pattern(_ENCODER)}|dec\.blk\.\d+\.{_pattern(_DECODER)})\.weight"
)
_EXPERT_MATRICES = re.compile(rf"blk\.\d+\.{_pattern(_EXPERTS)}\.weight")


def dimensions_of_linear(name: str) -> int:
    """2 for a matrix, 3 for one matrix per expert, 0 for what is no weight of a linear layer."""
    if _MATRIX.fullmatch(name):
        return 2
    return 3 if _EXPERT_MATRICES.fullmatch(name) else 0
