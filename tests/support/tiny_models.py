"""Tiny random models of any architecture with the demo's vocabulary, written directly as GGUF: the same weights in a
T-MAC type and in float32.
"""

from dataclasses import dataclass, field

import numpy as np

from support.checkpoints import CHECKPOINTS
from support.comparison import FLOAT_ATTENTION
from tmac.common.format import TERNARY, type_of
from tmac.convert.linear import QuantLinear
from tmac.convert.tokenizer import read_vocabulary
from tmac.convert.write import layout
from tmac.convert.write.container import write_gguf
from tmac.convert.write.tensors import OutputTensor
from tmac.tools.llama.verify import all_logits

F32, I32 = 0, 26
VOCABULARY = 1024
TEXT = "One morning, Mia went to the forest to look for her little dog. She was not afraid of the dark, and had a lamp."


def array_tensor(name, values):
    """A tensor of float32 or int32 numbers."""
    kind = {"float32": (F32, "f32"), "int32": (I32, "i32")}[values.dtype.name]
    return OutputTensor(name, values.shape, *kind, values.nbytes, lambda: np.ascontiguousarray(values))


@dataclass
class Weight:
    """A weight [M, K], or [experts, M, K]: a QuantLinear each, float32 scales of tensor-scale types, and orders [K]."""

    matrices: list[QuantLinear]
    scales: np.ndarray | None = None
    orders: list[np.ndarray] | None = None
    is_experts: bool = False

    def shaped(self, arrays):
        return np.stack(arrays) if self.is_experts else arrays[0]

    def dequantized(self):
        """float32, with columns in the order of the activations."""
        dense = [matrix.dequantize() for matrix in self.matrices]
        if self.scales is not None:
            dense = [matrix * scale for matrix, scale in zip(dense, self.scales)]
        if self.orders is not None:
            dense = [matrix[:, np.argsort(order)] for matrix, order in zip(dense, self.orders)]
        return self.shaped(dense)

    def tensors(self, name, as_floats):
        """The tensors of the file, `name` without `.weight`."""
        if as_floats:
            return [array_tensor(f"{name}.weight", self.dequantized())]
        first = self.matrices[0]
        kind = type_of(first.bits, first.group, first.grid) if first.group else TERNARY
        data = np.concatenate([layout.pack(matrix) for matrix in self.matrices])
        shape = self.shaped([matrix.codes for matrix in self.matrices]).shape
        made = [OutputTensor(f"{name}.weight", shape, kind.id, kind.name, data.size, lambda: data)]
        if self.scales is not None:
            made.append(array_tensor(f"{name}.scale", self.scales))
        if self.orders is not None:
            made.append(array_tensor(f"{name}.order", self.shaped([order.astype(np.int32) for order in self.orders])))
        return made


def random_weight(rng, kind, rows, columns, experts=None, has_order=False):
    """Random codes, with scales such that a product is about as large as its activations."""
    matrices, scales = [], [] if not kind.group else None
    for _ in range(experts or 1):
        codes = rng.integers(0, 2**kind.bits if kind.group else 3, (rows, columns), np.uint8)
        if not kind.group:
            codes += 1  # ternary: -1, 0, 1 around the symmetric zero-point 2
        groups = columns // kind.group if kind.group else 0
        step = 6 / (2**kind.bits * columns**0.5)
        halves = (step * rng.uniform(0.5, 1.5, (rows, groups))).astype(np.float16)
        zeros = rng.integers(0, 16 << kind.bits, (rows, groups), np.uint8) if kind.asymmetric else None
        matrices.append(QuantLinear(codes, halves, zeros, kind.bits, kind.group))
        if not kind.group:
            scales.append(step * rng.uniform(0.5, 1.5))
    orders = [rng.permutation(columns) for _ in matrices] if has_order else None
    scales = None if scales is None else np.array(scales, np.float32)
    return Weight(matrices, scales, orders, experts is not None)


@dataclass
class Model:
    """An architecture's name, what its metadata says (GGUFWriter's method -> value), float32 arrays, and weights."""

    architecture: str
    metadata: dict[str, object]
    arrays: dict[str, np.ndarray]
    weights: dict[str, Weight]
    strings: dict[str, str] = field(default_factory=dict)

    def write(self, path, as_floats=False, change=lambda tensors: tensors):
        """Writes the GGUF; `change` may replace tensors of the file."""
        folder = CHECKPOINTS["w2g64z"]
        vocabulary = read_vocabulary(folder, {"bos_token_id": 1, "eos_token_id": 2}, VOCABULARY)

        def add_metadata(writer):
            for method, value in self.metadata.items():
                getattr(writer, method)(value)
            for key, value in self.strings.items():
                writer.add_string(key, value)
            vocabulary.add_metadata(writer)

        tensors = [array_tensor(name, values) for name, values in self.arrays.items()]
        for name, weight in self.weights.items():
            tensors += weight.tensors(name, as_floats)
        write_gguf(path, self.architecture, add_metadata, change(tensors), source="a test's random numbers")
        return path


def attention_metadata(hidden, layers, feed_forward, heads, kv_heads, head_dim):
    return {
        "add_vocab_size": VOCABULARY,
        "add_context_length": 256,
        "add_embedding_length": hidden,
        "add_block_count": layers,
        "add_feed_forward_length": feed_forward,
        "add_head_count": heads,
        "add_head_count_kv": kv_heads,
        "add_key_length": head_dim,
        "add_value_length": head_dim,
        "add_layer_norm_rms_eps": 1e-5,
        "add_rope_dimension_count": head_dim,
        "add_rope_freq_base": 10000.0,
    }


def logits(build, model, *extra):
    """float32 [tokens of TEXT, vocabulary]. TMAC_KERNEL and similar variables are read from the environment."""
    return all_logits(build, model, TEXT, (*FLOAT_ATTENTION, *extra))[1]
