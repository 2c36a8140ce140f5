"""The sizes of known models: one table, for kernels (matrix shapes) and for whole models (what a file of it needs).

Sizes are those of the models' published configurations. A benchmark builds each as a Llama model, because only matrix
shapes matter for speed: left out are Qwen3's norms of queries and keys, BitNet's inner norms and its activation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Widths in weights. `query_size` and `key_size` are the outputs of the query and of the key (and value) layer."""

    name: str
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the seven matrices of one layer: q, k, v, o, gate, up, down."""
        keys, up = (self.key_size, self.hidden), (self.feed_forward, self.hidden)
        return (
            (self.query_size, self.hidden),
            keys,
            keys,
            (self.hidden, self.query_size),
            up,
            up,
            (self.hidden, self.feed_forward),
        )

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """The different ones of `linear_layers`, in their order."""
        return tuple(dict.fromkeys(self.linear_layers))


# 3200 and 8640 columns (BitNet-3B) are no multiples of 256, nor 8640 of 128: it can have no type of such blocks.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama-2-7b", 4096, 11008, 32, 32, 128, 32),
        Shape("llama-3-8b", 4096, 14336, 32, 8, 128, 32),
        Shape("bitnet-3b", 3200, 8640, 32, 32, 100, 26),
        Shape("bitnet-2b", 2560, 6912, 20, 5, 128, 30),
        Shape("qwen3-0.6b", 1024, 3072, 16, 8, 128, 28),
        Shape("qwen3-1.7b", 2048, 6144, 16, 8, 128, 28),
        Shape("qwen3-4b", 2560, 9728, 32, 8, 128, 36),
        Shape("qwen3-8b", 4096, 12288, 32, 8, 128, 36),
        Shape("qwen3-14b", 5120, 17408, 40, 8, 128, 40),
    )
}
