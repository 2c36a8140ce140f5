"""Which tensors of a GGUF may have T-MAC types: weights that llama.cpp uses in matrix products only. By their names.

In every graph of the pinned tree (src/models, src/llama-graph.cpp) they are the first operand of MUL_MAT (experts: of
MUL_MAT_ID) and of nothing else. LLM_TENSOR_INFOS in src/llama-arch.cpp lists more; left out here, and kept as they are:

- what graphs use in other ways too: embeddings (read by row; a tied head is the embedding), attn_k_b and attn_v_b
  (three dimensions), attn_output_a (reshaped), what gemma3n and the RWKV mixtures reshape, convolutions;
- what is small: routers, low-rank and gating matrices.
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
    """The dimensions that tensor `name` must have: 2 (a matrix), 3 (one per expert); 0 if it may have no T-MAC type."""
    if _MATRIX.fullmatch(name):
        return 2
    return 3 if _EXPERT_MATRICES.fullmatch(name) else 0
