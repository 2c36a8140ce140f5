"""The sizes of known models: one table, for kernels (matrix shapes) and for whole models (what a file of it needs).

Sizes are those of the models' published configurations. A benchmark builds each as a Llama model, because only matrix
shapes matter for speed: left out are Qwen3's norms of queries and keys, BitNet's inner norms and its activation. Hybrid
models are built as what they are (hybrid.py), because their delta nets cost time of their own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeltaNets:
    """The gated delta nets of a hybrid model, in all of its layers but each `attention_interval`-th.

    groups   heads of queries and of keys
    heads    heads of values; each has a state of width x width floats
    width    of all these heads
    taps     tokens that the convolution sees
    """

    groups: int
    heads: int
    width: int
    taps: int
    attention_interval: int

    @property
    def value_size(self) -> int:
        return self.heads * self.width

    @property
    def mixed_size(self) -> int:
        """Queries, keys and values beside each other: the outputs of one layer, the channels of the convolution."""
        return 2 * self.groups * self.width + self.value_size

    @property
    def state_values(self) -> int:
        """Floats that one layer keeps of a sequence: its states, and the convolution's last inputs."""
        return self.value_size * self.width + (self.taps - 1) * self.mixed_size


@dataclass(frozen=True)
class Shape:
    """Widths in weights. `query_size` and `key_size` are the outputs of the query and of the key (and value) layer.

    delta_nets: of a hybrid model (llama.cpp's qwen35), whose attention has gates as wide as its queries; else None
    """

    name: str
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    delta_nets: DeltaNets | None = None

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        return self.kv_heads * self.head_dim

    def has_attention(self, layer: int) -> bool:
        """Whether this layer of the model, from 0, has attention and no delta net."""
        return not self.delta_nets or (layer + 1) % self.delta_nets.attention_interval == 0

    def attention_layers(self, layers: int) -> int:
        """How many of the first `layers` have attention."""
        return sum(map(self.has_attention, range(layers)))

    def state_bytes(self, layers: int) -> int:
        """Bytes of what the delta nets of the first `layers` keep of a sequence, however long it is."""
        nets = layers - self.attention_layers(layers)
        return 4 * nets * self.delta_nets.state_values if nets else 0

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the seven matrices of a layer with attention: q (with gates: both), k, v, o, gate, up,
        down.
        """
        keys = (self.key_size, self.hidden)
        queries = self.query_size * (2 if self.delta_nets else 1)
        return ((queries, self.hidden), keys, keys, (self.hidden, self.query_size), *self._feed_forward_layers)

    @property
    def delta_layers(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the six matrices of a layer with a delta net: queries, keys and values together, the gate
        of its result, its output, then those of the feed-forward network.
        """
        nets = self.delta_nets
        mixed, gate, output = (nets.mixed_size, self.hidden), (nets.value_size, self.hidden), nets.value_size
        return (mixed, gate, (self.hidden, output), *self._feed_forward_layers)

    @property
    def _feed_forward_layers(self) -> tuple[tuple[int, int], ...]:
        up = (self.feed_forward, self.hidden)
        return (up, up, (self.hidden, self.feed_forward))

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """The different ones of all layers: those of `linear_layers` in their order, then those of `delta_layers`."""
        return tuple(dict.fromkeys((*self.linear_layers, *(self.delta_layers if self.delta_nets else ()))))


# 3200 and 8640 columns (BitNet-3B) are no multiples of 256, nor 8640 of 128: it can have no type of such blocks.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama-2-7b", 4096, 11008, 32, 32, 128, 32),
        Shape("llama-3-8b", 4096, 14336, 32, 8, 128, 32),
        Shape("llama-3.2-1b", 2048, 8192, 32, 8, 64, 16),
        Shape("bitnet-3b", 3200, 8640, 32, 32, 100, 26),
        Shape("bitnet-2b", 2560, 6912, 20, 5, 128, 30),
        Shape("qwen3-0.6b", 1024, 3072, 16, 8, 128, 28),
        Shape("qwen3-1.7b", 2048, 6144, 16, 8, 128, 28),
        Shape("qwen3-4b", 2560, 9728, 32, 8, 128, 36),
        Shape("qwen3-8b", 4096, 12288, 32, 8, 128, 36),
        Shape("qwen3-14b", 5120, 17408, 40, 8, 128, 40),
        Shape("qwen3.5-0.8b", 1024, 3584, 8, 2, 256, 24, DeltaNets(16, 16, 128, 4, 4)),
        Shape("bonsai-2-27b", 5120, 17408, 24, 4, 256, 64, DeltaNets(16, 48, 128, 4, 4)),
    )
}
