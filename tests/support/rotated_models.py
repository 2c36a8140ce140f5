"""Tiny random models of the architecture qwen35 with rotated ternary weights, and the same before they were rotated.

A rotated weight is random codes of PQ2_0, PTQ1_0 or Q2_0. The weight that it was folded from is computed in float64.
"""

from dataclasses import dataclass, field
from functools import cached_property

import gguf
import numpy as np

from support.checkpoints import CHECKPOINTS
from support.stock import F16, F32, Q8_0, write_stock
from support.tiny_models import VOCABULARY, attention_metadata
from tmac.common import rotation as keys
from tmac.convert.tokenizer import read_vocabulary

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD = 256, 512, 6, 2, 64
# Of the delta nets: groups of keys, value heads, the width of both.
GROUPS, VALUE_HEADS, STATE = 2, 6, 64
REPEATS, INNER, CONV = VALUE_HEADS // GROUPS, VALUE_HEADS * STATE, 2 * GROUPS * STATE + VALUE_HEADS * STATE
LAYERS, MTP = 4, 4
BLOCK = 128
PQ2_0, PTQ1_0, Q2_0 = 142, 143, 42
TABLE = "token_embd.weight"


def transform(x, block=BLOCK):
    """H of each block, float64: the definition, not the butterflies."""
    index = np.arange(block)
    parity = np.array([[(i & j).bit_count() & 1 for j in index.tolist()] for i in index.tolist()])
    return (x.reshape(*x.shape[:-1], -1, block) @ ((1 - 2 * parity) / np.sqrt(block))).reshape(x.shape)


# Column i of the input in the order of groups is column GROUPED[i] of the tiled one.
GROUPED = np.arange(INNER).reshape(REPEATS, GROUPS, STATE).swapaxes(0, 1).reshape(-1)


@dataclass(frozen=True)
class Rotated:
    """A rotated weight: codes uint8 [M, K] of (c - 1) d, d fp16 [M, K / 128]."""

    codes: np.ndarray
    scales: np.ndarray

    @property
    def values(self):
        """float64 [M, K]: the folded weights."""
        return (self.codes.astype(np.float64) - 1) * np.repeat(self.scales.astype(np.float64), 128, axis=1)

    def stored(self, type_id):
        """In the form that write_stock takes."""
        if type_id in (F32, F16, Q8_0):
            kind = gguf.GGMLQuantizationType(type_id)
            data = gguf.quants.quantize(self.values.astype(np.float32), kind)
            return type_id, self.codes.shape, data.reshape(-1).view(np.uint8)
        pack = {PQ2_0: pq2_0, PTQ1_0: ptq1_0, Q2_0: q2_0}[type_id]
        return type_id, self.codes.shape, pack(self.codes.reshape(-1, 128), self.scales.reshape(-1)).reshape(-1)


def halves(scales):
    return scales.astype("<f2").view(np.uint8).reshape(-1, 2)


def pq2_0(codes, scales):
    quads = codes.reshape(len(codes), -1, 4)
    packed = quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6
    return np.concatenate((halves(scales), packed), axis=1)


def q2_0(codes, scales):
    return pq2_0(codes.reshape(-1, 64), np.repeat(scales, 2))


def ptq1_0(codes, scales):
    parts, at = [], 0
    for count, digits in ((16, 5), (8, 5), (2, 4)):
        part = codes[:, at : at + count * digits].reshape(-1, digits, count).astype(np.uint32)
        number = sum(part[:, n] * 3 ** (4 - n) for n in range(digits))
        parts.append(((number * 256 + 242) // 243).astype(np.uint8))
        at += count * digits
    return np.concatenate((*parts, halves(scales)), axis=1)


@dataclass(frozen=True)
class RotatedModel:
    """`most` is the largest code: 3 occurs in PQ2_0 and Q2_0 only. Two options are those of the keys.

    drafts: there is an MTP block. is_shallow: layers add little to the embedding, and the MTP block passes on that of
    the token before. So what it drafts is what the model writes.
    """

    most: int = 2
    is_explicit: bool = True
    is_grouped: bool = True
    is_shallow: bool = False
    drafts: bool = True
    seed: int = 1
    arrays: dict = field(default_factory=dict)
    rotated: dict = field(default_factory=dict)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        shapes = {TABLE: (VOCABULARY, HIDDEN), "output.weight": (VOCABULARY, HIDDEN)}
        norms = {"output_norm.weight": HIDDEN}
        for layer in range(LAYERS + self.drafts):
            block, is_delta = f"blk.{layer}", layer < LAYERS - 1
            norms |= {f"{block}.attn_norm.weight": HIDDEN, f"{block}.post_attention_norm.weight": HIDDEN}
            for name in ("ffn_gate", "ffn_up"):
                shapes[f"{block}.{name}.weight"] = FEED_FORWARD, HIDDEN
            shapes[f"{block}.ffn_down.weight"] = HIDDEN, FEED_FORWARD
            if is_delta:
                norms[f"{block}.ssm_norm.weight"] = STATE
                shapes |= {
                    f"{block}.attn_qkv.weight": (CONV, HIDDEN),
                    f"{block}.attn_gate.weight": (INNER, HIDDEN),
                    f"{block}.ssm_out.weight": (HIDDEN, INNER),
                }
                self.arrays[f"{block}.ssm_conv1d.weight"] = rng.standard_normal((CONV, 4)) / 2
                self.arrays[f"{block}.ssm_a"] = -rng.uniform(0.1, 1, VALUE_HEADS)
                self.arrays[f"{block}.ssm_dt.bias"] = rng.standard_normal(VALUE_HEADS)
                for name in ("ssm_alpha", "ssm_beta"):
                    self.arrays[f"{block}.{name}.weight"] = rng.standard_normal((VALUE_HEADS, HIDDEN)) / 16
            else:
                norms |= {f"{block}.attn_q_norm.weight": HEAD, f"{block}.attn_k_norm.weight": HEAD}
                shapes |= {
                    f"{block}.attn_q.weight": (2 * HEADS * HEAD, HIDDEN),
                    f"{block}.attn_k.weight": (KV_HEADS * HEAD, HIDDEN),
                    f"{block}.attn_v.weight": (KV_HEADS * HEAD, HIDDEN),
                    f"{block}.attn_output.weight": (HIDDEN, HEADS * HEAD),
                }
        if self.drafts:
            for name in ("enorm", "hnorm", "shared_head_norm"):
                norms[f"blk.{MTP}.nextn.{name}.weight"] = HIDDEN
            self.arrays[f"blk.{MTP}.nextn.eh_proj.weight"] = rng.standard_normal((HIDDEN, 2 * HIDDEN)) / 23
        # Of few bits, so that they come back from float32 numbers that are one less.
        self.arrays.update({name: rng.integers(512, 1536, size) / 1024 for name, size in norms.items()})
        if self.is_shallow:
            self.arrays[f"blk.{MTP}.nextn.eh_proj.weight"] = np.eye(HIDDEN, 2 * HIDDEN)
            self.arrays[f"blk.{MTP}.nextn.enorm.weight"] = np.ones(HIDDEN)
            self.arrays[f"blk.{MTP}.nextn.shared_head_norm.weight"] = self.arrays["output_norm.weight"]
        for name, (rows, columns) in shapes.items():
            codes = rng.integers(0, self.most + 1, (rows, columns), np.uint8)
            size = 1.2 if name == TABLE else 1.2 / columns**0.5
            if self.is_shallow and name.endswith(("ssm_out.weight", "attn_output.weight", "ffn_down.weight")):
                size /= 64
            scales = (size * rng.uniform(0.5, 1.5, (rows, columns // 128))).astype(np.float16)
            self.rotated[name] = Rotated(codes, scales)

    @cached_property
    def signs(self):
        """Width -> float64 of +-1."""
        rng = np.random.default_rng(self.seed + 1)
        widths = sorted({weight.codes.shape[1] for weight in self.rotated.values()})
        return {width: rng.choice([-1.0, 1.0], width) if self.is_explicit else np.ones(width) for width in widths}

    def unrotated(self, name):
        """float64: W with W x = W' H(s * P x); rows of the table likewise, as H and s are their own inverses."""
        values = self.rotated[name].values
        dense = transform(values) * self.signs[values.shape[1]]
        if self.is_grouped and name.endswith(keys.GROUPED_SUFFIX):
            dense[:, GROUPED] = dense.copy()
        return dense

    def metadata(self):
        """The keys of the rotation: name -> (type or sub-type of an array, value)."""
        kinds, tables = gguf.GGUFValueType, [TABLE]
        made = {
            keys.VERSION_KEY: (kinds.UINT32, 1),
            keys.TRANSFORM_KEY: (kinds.STRING, keys.TRANSFORM),
            keys.AXIS_KEY: (kinds.STRING, keys.AXIS),
            keys.BLOCK_KEY: (kinds.UINT32, BLOCK),
            keys.SIGN_MODE_KEY: (kinds.STRING, keys.EXPLICIT if self.is_explicit else keys.IDENTITY),
            keys.WEIGHTS_KEY: (kinds.STRING, [name for name in self.rotated if name not in tables]),
            keys.TABLES_KEY: (kinds.STRING, tables),
            keys.GROUPED_KEY: (kinds.BOOL, self.is_grouped),
        }
        if self.is_explicit:
            made[keys.SIGN_WIDTHS_KEY] = kinds.INT32, list(self.signs)
            made[keys.SIGN_VALUES_KEY] = kinds.INT8, np.concatenate(list(self.signs.values())).astype(int).tolist()
        return made

    def write(self, path, type_id=None, change=lambda metadata: None, others=None):
        """The model in a type, rotated; in float32 before it was rotated if there is none.

        change: of the keys of the rotation, a dictionary. others: name of a weight -> another type.
        """
        metadata = {} if type_id is None else self.metadata()
        change(metadata)
        tensors = {
            name: (F32, values.shape, values.astype(np.float32).reshape(-1).view(np.uint8))
            for name, values in self.arrays.items()
        }
        for name, weight in self.rotated.items():
            if type_id is None:
                dense = self.unrotated(name).astype(np.float32)
                tensors[name] = F32, dense.shape, dense.reshape(-1).view(np.uint8)
            else:
                tensors[name] = weight.stored((others or {}).get(name, type_id))

        def add_metadata(writer):
            _add_architecture(writer, self.drafts)
            for key, (kind, value) in metadata.items():
                if isinstance(value, list):
                    writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=kind)
                else:
                    writer.add_key_value(key, value, kind)

        return write_stock(path, tensors, add_metadata, "qwen35")


def _add_architecture(writer, drafts):
    numbers = attention_metadata(HIDDEN, LAYERS + drafts, FEED_FORWARD, HEADS, KV_HEADS, HEAD) | {
        "add_layer_norm_rms_eps": 1e-6,
        "add_rope_dimension_count": 32,
        "add_rope_dimension_sections": [6, 5, 5, 0],
        **({"add_nextn_predict_layers": 1} if drafts else {}),
        "add_full_attention_interval": LAYERS,
        "add_ssm_conv_kernel": 4,
        "add_ssm_inner_size": INNER,
        "add_ssm_state_size": STATE,
        "add_ssm_time_step_rank": VALUE_HEADS,
        "add_ssm_group_count": GROUPS,
    }
    for method, value in numbers.items():
        getattr(writer, method)(value)
    read_vocabulary(CHECKPOINTS["w2g64z"], {"bos_token_id": 1, "eos_token_id": 2}, VOCABULARY).add_metadata(writer)
