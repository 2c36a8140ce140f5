"""Tiny models of random weights with experts."""

import numpy as np

from support.tiny_models import VOCABULARY, Model, attention_metadata, random_weight

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD, EXPERTS, USED = 256, 3, 4, 2, 64, 128, 8, 2
ARCHITECTURE = "qwen3moe"
# What the tests' adapters change of it.
ADAPTED = {
    "blk.0.attn_q.weight": (HEADS * HEAD_DIM, HIDDEN),
    "blk.0.attn_output.weight": (HIDDEN, HEADS * HEAD_DIM),
}


def expert_model(kind, has_orders=False, feed_forward=FEED_FORWARD, down_kind=None):
    """A Qwen3-MoE. Each token's embedding clearly selects its experts, and no layer overwrites it. So every token makes
    its own choice, and no rounding can change it.
    """
    rng = np.random.default_rng(5)
    metadata = attention_metadata(HIDDEN, LAYERS, 512, HEADS, KV_HEADS, HEAD_DIM) | {
        "add_expert_count": EXPERTS,
        "add_expert_used_count": USED,
        "add_expert_feed_forward_length": feed_forward,
    }
    embedding = rng.standard_normal((VOCABULARY, HIDDEN), np.float32)
    chosen = np.array([rng.permutation(EXPERTS)[:USED] for _ in range(VOCABULARY)])
    embedding[np.arange(VOCABULARY)[:, None], chosen] += [20, 12]
    router = 0.5 * np.eye(EXPERTS, HIDDEN, dtype=np.float32)
    arrays = {
        "token_embd.weight": embedding,
        "output_norm.weight": np.ones(HIDDEN, np.float32),
        "output.weight": rng.standard_normal((VOCABULARY, HIDDEN), np.float32) / 16,
    }
    weights = {}
    for layer in range(LAYERS):
        arrays |= {
            f"blk.{layer}.attn_norm.weight": np.ones(HIDDEN, np.float32),
            f"blk.{layer}.attn_q_norm.weight": np.ones(HEAD_DIM, np.float32),
            f"blk.{layer}.attn_k_norm.weight": np.ones(HEAD_DIM, np.float32),
            f"blk.{layer}.ffn_norm.weight": np.ones(HIDDEN, np.float32),
            f"blk.{layer}.ffn_gate_inp.weight": router,
        }
        shapes = {
            "attn_q": (HEADS * HEAD_DIM, HIDDEN),
            "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
            "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
            "attn_output": (HIDDEN, HEADS * HEAD_DIM),
        }
        expert_shapes = {
            "ffn_gate_exps": (feed_forward, HIDDEN),
            "ffn_up_exps": (feed_forward, HIDDEN),
            "ffn_down_exps": (HIDDEN, feed_forward),
        }
        for name, shape in shapes.items():
            weights[f"blk.{layer}.{name}"] = random_weight(rng, kind, *shape, has_order=has_orders)
        for name, shape in expert_shapes.items():
            its_kind = down_kind if down_kind and name == "ffn_down_exps" else kind
            weights[f"blk.{layer}.{name}"] = random_weight(rng, its_kind, *shape, EXPERTS, has_orders)
        for name in ("attn_output", "ffn_down_exps"):
            keep_router_columns(weights[f"blk.{layer}.{name}"])
    return Model(ARCHITECTURE, metadata, arrays, weights)


def keep_router_columns(weight):
    for matrix in weight.matrices:
        matrix.scales[:EXPERTS] /= 64
        if not matrix.group:
            matrix.codes[:EXPERTS] = 2
