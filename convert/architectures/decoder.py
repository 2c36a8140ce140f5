"""What model families built like Llama share: their hyperparameters, and their layers from embedding to head.

A family is a subclass that says what differs. Names are those of transformers; the gguf package's map of the
architecture gives the names in the GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gguf
import numpy as np

from ..errors import ConvertError
from ..settings import MAX_TOKENS, Settings
from ..sources.checkpoint import Checkpoint
from ..sources.folded import Folded
from ..sources.rotation import Rotation
from .part import Kind, Part
from .pooling import read_pooling
from .rope import (
    COMPUTES_OTHERWISE,
    YARN_BETAS,
    llama3_factors,
    pair_row_order,
    refuse_partial_rotation,
    rope_settings,
    rope_type,
    yarn_attention_share,
    yarn_betas,
    yarn_context,
)

# llama.cpp's own limit (LLAMA_MAX_LAYERS).
MAX_LAYERS = 512
# Far more than any model has: rotary factors, one for two of them, are computed before tensors are looked at.
MAX_HEAD_DIM = 1 << 16
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens", "lm_head", "model.norm"
_TOP, _DRAFTS, _LAYER = "model.", "mtp.", re.compile(r"(?:model\.)?layers\.(\d{1,9})\.")
# The same in every architecture. The gguf package's map lacks it where the graph has no place for it.
_HEAD_TARGET = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.OUTPUT]
QKV, FEED_FORWARD = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj")
# Types of RoPE scaling that the GGUF describes by a factor.
_SCALING_TYPES = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}


def _bare(source: str) -> str:
    """The name in a base model."""
    return source.removeprefix(_TOP)


def _is_same(checkpoint: Checkpoint, head: str, embedding: str) -> bool:
    """Whether the head, which the checkpoint has, is its embedding again. False if only one of them is quantized."""
    heads, embeddings = (
        {name.removeprefix(place): name for name in checkpoint.tensors if name.startswith(f"{place}.")}
        for place in (head, embedding)
    )
    heads.pop(".bias", None)
    same = heads.keys() == embeddings.keys()
    return same and all(checkpoint.same_values(heads[part], embeddings[part]) for part in heads)


class DecoderArchitecture:
    """A decoder's shapes and hyperparameters. Raises ConvertError for values llama.cpp could not reproduce."""

    family: ClassVar[str]
    model: ClassVar[gguf.MODEL_ARCH]
    # What transformers assumes for absent keys, where __init__ assumes something else.
    defaults: ClassVar[dict[str, Any]] = {}
    # The key of the activation function, and those that the graph computes; without the key the first is assumed.
    activation_key: ClassVar[str] = "hidden_act"
    hidden_acts: ClassVar[tuple[str, ...]] = ("silu", "swish")
    rope_types: ClassVar[tuple[str, ...]] = ("default", "linear")
    # Whether llama.cpp rotates neighbours (its NORM type of RoPE): then the rows of q and k are reordered.
    rotates_pairs: ClassVar[bool] = False
    # What transformers assumes for an absent tie_word_embeddings and rope_theta.
    tied_by_default: ClassVar[bool] = False
    default_theta: ClassVar[float] = 10000.0
    # Whether llama.cpp's graph has no output head but the embedding.
    head_is_embedding: ClassVar[bool] = False
    # What tie_word_embeddings may be.
    ties: ClassVar[tuple[bool, ...]] = (False, True)
    # The linear layers to which llama.cpp adds a bias.
    biased: ClassVar[tuple[str, ...]] = (*QKV, "o_proj", *FEED_FORWARD)
    # The linear layers that llama.cpp does not multiply by their scale for the whole tensor.
    unscaled: ClassVar[tuple[str, ...]] = ()
    # Whether llama.cpp assumes that all heads together are as wide as the hidden state.
    heads_fill_hidden: ClassVar[bool] = False
    # Whether each head of queries and of keys is normalised.
    normalizes_heads: ClassVar[bool] = False
    # What look_at finds: whether names lack `model.`, and how one embedding is made of those of all tokens.
    is_bare: bool = False
    pooling: gguf.PoolingType | None = None

    # How the weights are rotated; None if they are not.
    rotation: Rotation | None = None

    def __init__(self, config: dict[str, Any], file: Path):
        config = {**self.defaults, **config}
        self.settings = Settings(config, file)
        self.notes: list[str] = []
        settings = self.settings
        self.name = gguf.MODEL_ARCH_NAMES[self.model]
        self.vocab_size = settings.integer("vocab_size", at_most=MAX_TOKENS)
        tied = config.get("tie_word_embeddings")
        self.tied_head = self.tied_by_default if tied is None else tied is True
        self.hidden = settings.integer("hidden_size")
        self.feed_forward = settings.integer("intermediate_size")
        self.layers = settings.integer("num_hidden_layers", at_most=MAX_LAYERS)
        self.heads = settings.integer("num_attention_heads")
        self.kv_heads = settings.integer("num_key_value_heads", self.heads)
        self.head_dim = settings.integer("head_dim", self.hidden // self.heads, at_most=MAX_HEAD_DIM)
        self.context = settings.integer("max_position_embeddings", 2048)
        self.rms_eps = settings.positive("rms_norm_eps", 1e-6)
        self.refuse_unless(self.activation_key, self.hidden_act(config), *self.hidden_acts)
        self.refuse_unless("tie_word_embeddings", self.tied_head, *self.ties)
        self._check_heads()
        self.names = gguf.get_tensor_name_map(self.model, self.layers)
        self._read_rope(self.settings)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> DecoderArchitecture:
        architecture = cls(checkpoint.config, checkpoint.config_file)
        architecture.look_at(checkpoint)
        return architecture

    def look_at(self, checkpoint: Checkpoint) -> None:
        """Takes what the tensors say: their names, and whether there is a head. Raises ConvertError, as __init__."""
        tensors = checkpoint.tensors
        self.is_bare = self.lacks_prefix(tensors)
        self.pooling = read_pooling(checkpoint.folder)
        has_head = any(name.startswith(f"{self.place(HEAD)}.") for name in tensors)
        if not has_head and not self.tied_head and (self.is_bare or self.pooling):
            if True not in self.ties:
                raise ConvertError(
                    f"{checkpoint.folder}: tensor {self.place(HEAD)}.weight is missing, expected an output head",
                    f"llama.cpp's {self.name} graph needs one, also for a model that gives embeddings",
                )
            self.tied_head = True
            self.notes.append("there is no output head: the model gives embeddings, and llama.cpp needs none for them")
        if has_head and self.tied_head and not _is_same(checkpoint, self.place(HEAD), self.place(EMBEDDING)):
            if self.head_is_embedding:
                raise ConvertError(
                    f"{self.settings.file}: tie_word_embeddings is true, but {self.place(HEAD)} has other values than "
                    "the embedding, expected the same",
                    f"llama.cpp's {self.name} graph has no place for a head of its own",
                )
            self.tied_head = False
            self.notes.append(
                "tie_word_embeddings is true, but the output head has other values than the embedding; it was kept, as "
                "transformers 5 does"
            )

    def lacks_prefix(self, names: Collection[str]) -> bool:
        """Whether this is a base model: such are saved without the prefix that names have in the whole model."""
        return not any(name.startswith(_TOP) for name in names) and f"{_bare(EMBEDDING)}.weight" in names

    def rotate(self, folded: Folded) -> None:
        """Raises ConvertError: a family that can be rotated says so."""
        raise ConvertError(
            f"{folded.file}: the weights are rotated, expected some without rotation for {self.family}",
            "take a GGUF of this model, in PQ2_0, PTQ1_0 or Q2_0: tmac convert reads its rotation",
        )

    @property
    def blocks(self) -> int:
        """The blocks in the GGUF."""
        return self.layers

    def hidden_act(self, config: dict[str, Any]) -> Any:
        return config.get(self.activation_key, self.hidden_acts[0])

    def parts(self) -> Iterator[Part]:
        yield self.part(Kind.EMBEDDING, EMBEDDING, self.vocab_size, self.hidden)
        for layer in range(self.layers):
            yield from self.layer_parts(layer, f"model.layers.{layer}")
        yield self.norm(FINAL_NORM)
        source = EMBEDDING if self.tied_head else HEAD
        yield Part(Kind.HEAD, self.place(source), _HEAD_TARGET, (self.vocab_size, self.hidden))

    def layer_parts(self, layer: int, block: str) -> Iterator[Part]:
        yield self.norm(f"{block}.input_layernorm")
        yield from self.attention_parts(f"{block}.self_attn")
        yield self.norm(f"{block}.post_attention_layernorm")
        yield from self.feed_forward_parts(layer, f"{block}.mlp")

    def attention_parts(self, attention: str) -> Iterator[Part]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield self.linear(f"{attention}.q_proj", queries, self.hidden, row_order=self.row_order(self.heads))
        yield self.linear(f"{attention}.k_proj", keys, self.hidden, row_order=self.row_order(self.kv_heads))
        yield self.linear(f"{attention}.v_proj", keys, self.hidden)
        yield self.linear(f"{attention}.o_proj", self.hidden, queries)
        if self.normalizes_heads:
            yield self.norm(f"{attention}.q_norm", self.head_dim)
            yield self.norm(f"{attention}.k_norm", self.head_dim)

    def feed_forward_parts(self, layer: int, mlp: str) -> Iterator[Part]:
        yield from self.gated_parts(mlp, self.feed_forward)

    def gated_parts(self, mlp: str, width: int) -> Iterator[Part]:
        """A gated feed-forward network of this width."""
        yield self.linear(f"{mlp}.gate_proj", width, self.hidden)
        yield self.linear(f"{mlp}.up_proj", width, self.hidden)
        yield self.linear(f"{mlp}.down_proj", self.hidden, width)

    def place(self, source: str) -> str:
        """The name in the checkpoint of what a text model calls `source`."""
        return _bare(source) if self.is_bare else source

    def part(self, kind: Kind, source: str, *shape: int, **options) -> Part:
        return Part(kind, self.place(source), self.names.get_name(source), shape, **options)

    def linear(self, source: str, *shape: int, **options) -> Part:
        name = source.rpartition(".")[2]
        known = {
            "bias": name in self.biased,
            "tensor_scale": name not in self.unscaled,
            "scales_bias": name in FEED_FORWARD,
        }
        return self.part(Kind.LINEAR, source, *shape, **{**known, **options})

    def norm(self, source: str, size: int = 0, **options) -> Part:
        return self.part(Kind.NORM, source, size or self.hidden, **options)

    def row_order(self, heads: int) -> Callable[[], np.ndarray] | None:
        """Part.row_order of queries or keys: None where llama.cpp rotates as transformers does."""
        return partial(pair_row_order, heads, self.head_dim) if self.rotates_pairs else None

    def constants(self) -> dict[str, np.ndarray]:
        return {} if self._rope_factors is None else {"rope_freqs.weight": self._rope_factors}

    def is_redundant(self, name: str) -> bool:
        """True for rotary frequencies, which follow from the configuration, and a head that is the embedding."""
        return name.endswith(".rotary_emb.inv_freq") or (self.tied_head and name == f"{self.place(HEAD)}.weight")

    def is_draft(self, name: str) -> bool:
        """Whether a tensor is of blocks that only draft tokens ahead (MTP), and that the GGUF does not have."""
        if name.removeprefix(_TOP).startswith(_DRAFTS):
            return True
        count = self.settings.values.get("num_nextn_predict_layers")
        layer = _LAYER.match(name)
        return layer is not None and type(count) is int and self.layers <= int(layer[1]) < self.layers + count

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        if self.pooling:
            writer.add_pooling_type(self.pooling)
        writer.add_vocab_size(self.vocab_size)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.hidden)
        writer.add_block_count(self.blocks)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(self.rms_eps)
        self.add_rope_metadata(writer)

    def add_rope_metadata(self, writer: gguf.GGUFWriter) -> None:
        writer.add_rope_dimension_count(self.rotary_dim)
        writer.add_rope_freq_base(self.rope_theta)
        if self.rope_type in _SCALING_TYPES:
            writer.add_rope_scaling_type(_SCALING_TYPES[self.rope_type])
            writer.add_rope_scaling_factor(self._rope_factor)
        if self.rope_type == "yarn":
            writer.add_rope_scaling_orig_ctx_len(self._original_context)
            if self._attention_share != 1:
                writer.add_rope_scaling_attn_factors(self._attention_share)
            if self._betas != tuple(YARN_BETAS.values()):
                writer.add_rope_scaling_yarn_beta_fast(self._betas[0])
                writer.add_rope_scaling_yarn_beta_slow(self._betas[1])

    def refuse_unless(self, key: str, found: Any, *supported: Any) -> None:
        """Raises ConvertError unless what was found under `key` is one of those supported."""
        if found not in supported:
            raise ConvertError(
                f"{self.settings.file}: {key} {found!r} is not supported for {self.family}, "
                f"expected {' or '.join(map(str, supported))}",
                COMPUTES_OTHERWISE,
            )

    def note_window(self, window: int | None) -> None:
        """Notes that llama.cpp has no sliding window here, if the model has one (in tokens) below its context."""
        if window is not None and window < self.context:
            self.notes.append(
                f"the model attends to the last {window} tokens only, llama.cpp (architecture {self.name}) to all: "
                f"beyond {window} tokens of context it computes something else"
            )

    def rotary_width(self, rope: Settings) -> int:
        """How many elements of each head are rotated."""
        refuse_partial_rotation(self.settings, rope, self.family)
        return self.head_dim

    def _check_heads(self) -> None:
        if self.head_dim % 2 or self.heads % self.kv_heads:
            raise self.settings.damaged(
                f"head_dim {self.head_dim}, {self.heads} heads and {self.kv_heads} key-value heads, expected an even "
                "head_dim and heads that are a multiple of the key-value heads"
            )
        if self.heads_fill_hidden and self.heads * self.head_dim != self.hidden:
            raise ConvertError(
                f"{self.settings.file}: {self.heads} heads of {self.head_dim} do not make up hidden_size "
                f"{self.hidden}, expected so for {self.family}",
                f"llama.cpp knows no other heads in its {self.name} architecture",
            )

    def _read_rope(self, settings: Settings) -> None:
        rope = rope_settings(settings)
        self.rotary_dim = self.rotary_width(rope)
        self.rope_theta = rope.positive("rope_theta", self.default_theta)
        self.rope_type = rope_type(rope)
        self.refuse_unless("rope_type", self.rope_type, *self.rope_types)
        self._rope_factors = None
        if self.rope_type in _SCALING_TYPES:
            self._rope_factor = rope.positive("factor")
        if self.rope_type == "yarn":
            self._original_context = yarn_context(rope, self.context)
            self._betas = yarn_betas(rope)
            self._attention_share = yarn_attention_share(rope)
            if (factor := rope.values.get("attn_factor")) is not None:
                self.notes.append(f"attn_factor {factor!r} of YaRN is ignored, as transformers and llama.cpp do")
        if self.rope_type == "llama3":
            self._rope_factors = llama3_factors(rope, self.rope_theta, self.head_dim)
