"""What config.json says of sizes, for all families of convert_large.py."""

from __future__ import annotations

from tmac.tools.bench.shapes import Shape


def sizes(shape: Shape, words: int) -> dict[str, int]:
    return {
        "vocab_size": words,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
    }
