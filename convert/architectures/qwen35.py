"""Qwen3.5 (dense) as llama.cpp's `qwen35` architecture: gated delta nets, and attention in every fourth layer.

Here are the names and the order of what both computations share; where the two differ:

- Value heads of a delta net are grouped by their key head in the checkpoint, [groups][repeats][head]; llama.cpp repeats
  keys over them in turn and wants [repeats][groups][head]. So rows of what makes values, gates and decays are
  reordered, and columns of what reads values (out_proj), unless it is rotated: a rotation mixes columns, and the
  patched llama.cpp reorders the activations instead.
- A_log is stored as -exp(A_log). Norms hold w for a factor of 1 + w, but for those inside delta nets.
- MLX has the axes of the convolution the other way round, and with that 1 + w in the norms.
- The block that drafts (`mtp`) follows the others.

The part that sees images is left out. Sources: modeling_qwen3_5.py of transformers; the converter and
src/models/qwen35.cpp of the pinned llama.cpp; mlx-lm, models/qwen3_5.py (which norms it shifts).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..errors import ConvertError
from ..settings import Settings
from ..sources.checkpoint import Checkpoint
from ..sources.folded import Folded
from ..sources.text_names import IMAGES, stored_names, text_name
from .decoder import HEAD, QKV, DecoderArchitecture
from .part import Kind, Part
from .rope import partial_width

DELTA, FULL = "linear_attention", "full_attention"
# What llama.cpp needs and files may omit: how many frequencies turn with time, height and width.
USUAL_SECTIONS = [11, 11, 10]
ROTATED_SHARE = 0.25
MTP, TIE_KEY = "mtp", "tie_word_embeddings"
# The keys of gguf's names for what only the drafting block has, by the checkpoint's names; the first is a matrix.
_DRAFT_MATRIX = ("fc", gguf.MODEL_TENSOR.NEXTN_EH_PROJ)
_DRAFT_NORMS = (
    ("pre_fc_norm_embedding", gguf.MODEL_TENSOR.NEXTN_ENORM),
    ("pre_fc_norm_hidden", gguf.MODEL_TENSOR.NEXTN_HNORM),
    ("norm", gguf.MODEL_TENSOR.NEXTN_SHARED_HEAD_NORM),
)


class Qwen35Architecture(DecoderArchitecture):
    family = "Qwen3_5ForCausalLM"
    model = gguf.MODEL_ARCH.QWEN35
    defaults = {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
    }
    rope_types = ("default", "yarn")
    biased = QKV
    # The weights are rotated: what the file beside them says of it.
    folded: Folded | None = None

    def __init__(self, config: dict[str, Any], file: Path):
        tied = config.get(TIE_KEY)
        if (text := Settings(config, file).child("text_config")) is not None:
            config = {**config, **text.values}
        # Said of the whole model and of its text part, not always alike: then the tensors decide.
        self._is_tie_said_twice = None not in (tied, config.get(TIE_KEY)) and tied != config[TIE_KEY]
        super().__init__(config, file)
        settings, values = self.settings, self.settings.values
        self.refuse_unless("attn_output_gate", values.get("attn_output_gate"), None, True)
        self.groups = settings.integer("linear_num_key_heads")
        self.value_heads = settings.integer("linear_num_value_heads")
        self.state = settings.integer("linear_key_head_dim")
        self.kernel = settings.integer("linear_conv_kernel_dim")
        self.refuse_unless("linear_value_head_dim", settings.integer("linear_value_head_dim"), self.state)
        if self.value_heads % self.groups:
            raise settings.damaged(
                f"linear_num_value_heads is {self.value_heads}, expected a multiple of linear_num_key_heads "
                f"{self.groups}"
            )
        self.interval = settings.integer("full_attention_interval", 4)
        self.layer_types = self._layer_types()
        # Blocks that draft, and what the checkpoint's own layout decides.
        self.drafts = int(values.get("mtp_num_hidden_layers") == 1)
        self.is_mlx = False
        self._stored: dict[str, str] = {}
        self._name_blocks()

    def look_at(self, checkpoint: Checkpoint) -> None:
        self._stored = stored_names(checkpoint.folder, checkpoint.tensors)
        if any(name.startswith(IMAGES) for name in checkpoint.tensors):
            self.notes.append("the part of the model that sees images was left out; this is the text model")
        if self._is_tie_said_twice:
            self.tied_head = HEAD not in self._stored
        super().look_at(checkpoint)
        self._look_for_drafts()
        self._look_for_mlx(checkpoint)

    def lacks_prefix(self, names: Collection[str]) -> bool:
        return super().lacks_prefix(self._stored)

    def rotate(self, folded: Folded) -> None:
        """Takes what a file says of rotated weights. Raises ConvertError if the patched llama.cpp would refuse it."""
        self.folded = folded
        self.refuse_unless(f"{TIE_KEY} (of a rotated model)", self.tied_head, False)
        self.rotation = folded.checked(self._rotation_keys(), {part.tensor: part.full_shape for part in self.parts()})

    @property
    def blocks(self) -> int:
        return self.layers + self.drafts

    @property
    def repeats(self) -> int:
        """Value heads per key head."""
        return self.value_heads // self.groups

    def place(self, source: str) -> str:
        text = source
        if source.startswith(block := f"model.layers.{self.layers}."):
            text = f"{MTP}.layers.0.{source.removeprefix(block)}"
        text = super().place(text)
        return self._stored.get(text, text)

    def norm(self, source: str, size: int = 0, **options) -> Part:
        return super().norm(source, size, **{"offset": self._norm_offset, **options})

    def parts(self) -> Iterator[Part]:
        yield from super().parts()
        if self.drafts:
            yield from self._draft_parts()

    def layer_parts(self, layer: int, block: str) -> Iterator[Part]:
        yield self.norm(f"{block}.input_layernorm")
        if self._is_delta(layer):
            yield from self._delta_parts(f"{block}.linear_attn")
        else:
            yield from self.attention_parts(f"{block}.self_attn")
        yield self.norm(f"{block}.post_attention_layernorm")
        yield from self.feed_forward_parts(layer, f"{block}.mlp")

    def attention_parts(self, attention: str) -> Iterator[Part]:
        """Each head of queries is followed by its gate, in both."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield self.linear(f"{attention}.q_proj", 2 * queries, self.hidden)
        yield self.linear(f"{attention}.k_proj", keys, self.hidden)
        yield self.linear(f"{attention}.v_proj", keys, self.hidden)
        yield self.linear(f"{attention}.o_proj", self.hidden, queries)
        yield self.norm(f"{attention}.q_norm", self.head_dim)
        yield self.norm(f"{attention}.k_norm", self.head_dim)

    def is_redundant(self, name: str) -> bool:
        text = text_name(name)
        is_known_sign = self.folded is not None and text in self.folded.sign_tensors
        return name.startswith(IMAGES) or is_known_sign or super().is_redundant(name)

    def is_draft(self, name: str) -> bool:
        """False while the GGUF has a block that drafts: then such a tensor is one of its parts, or an unknown one."""
        return not self.drafts and super().is_draft(text_name(name))

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_metadata(writer)
        writer.add_ssm_conv_kernel(self.kernel)
        writer.add_ssm_state_size(self.state)
        writer.add_ssm_group_count(self.groups)
        writer.add_ssm_time_step_rank(self.value_heads)
        writer.add_ssm_inner_size(self.value_heads * self.state)
        writer.add_full_attention_interval(self.interval)
        is_delta = [self._is_delta(layer) for layer in range(self.blocks)]
        writer.add_array(f"{self.name}.attention.recurrent_layers", is_delta)
        if self.drafts:
            writer.add_nextn_predict_layers(self.drafts)
        if self.folded is not None:
            self.folded.write(writer, self._rotation_keys())

    def add_rope_metadata(self, writer: gguf.GGUFWriter) -> None:
        super().add_rope_metadata(writer)
        writer.add_rope_dimension_sections([*self.sections, 0][:4])

    def rotary_width(self, rope: Settings) -> int:
        return partial_width(self.settings, rope, self.head_dim, ROTATED_SHARE)

    def _read_rope(self, settings: Settings) -> None:
        super()._read_rope(settings)
        rope = settings.child("rope_parameters") or settings.child("rope_scaling") or Settings({}, settings.file)
        self.refuse_unless("mrope_interleaved", rope.values.get("mrope_interleaved"), None, True)
        found = rope.values.get("mrope_section")
        self.sections = USUAL_SECTIONS if found is None else found
        if (
            not isinstance(self.sections, list)
            or not 3 <= len(self.sections) <= 4
            or not all(type(count) is int and count >= 0 for count in self.sections)
        ):
            raise rope.damaged(f"mrope_section is {found!r}, expected three or four numbers")

    def _layer_types(self) -> list[str] | None:
        types = self.settings.values.get("layer_types")
        if types is None:
            return None
        if not isinstance(types, list) or len(types) != self.layers or any(kind not in (DELTA, FULL) for kind in types):
            raise self.settings.damaged(
                f"layer_types is {types!r}, expected {DELTA} or {FULL} for each of {self.layers} layers"
            )
        return types

    def _is_delta(self, layer: int) -> bool:
        if layer >= self.layers:
            return False
        return (layer + 1) % self.interval != 0 if self.layer_types is None else self.layer_types[layer] == DELTA

    @property
    def _norm_offset(self) -> float:
        return 0.0 if self.is_mlx else 1.0

    def _delta_parts(self, net: str) -> Iterator[Part]:
        keys, values = self.groups * self.state, self.value_heads * self.state
        channels, heads = 2 * keys + values, self.value_heads
        by_head, rows, channel = (
            self._value_order(1),
            self._value_order(self.state),
            self._value_order(self.state, 2 * keys),
        )
        yield self.linear(f"{net}.in_proj_qkv", channels, self.hidden, row_order=channel)
        yield self.linear(f"{net}.in_proj_z", values, self.hidden, row_order=rows)
        yield self.part(Kind.GATE, f"{net}.in_proj_b", heads, self.hidden, row_order=by_head)
        yield self.part(Kind.GATE, f"{net}.in_proj_a", heads, self.hidden, row_order=by_head)
        yield self._parameter(f"{net}.A_log", f"{net}.A_log", ("", ""), heads, row_order=by_head, values=_decay)
        yield self._parameter(f"{net}.dt_bias", f"{net}.dt_proj", ("", ".bias"), heads, row_order=by_head)
        stored = (channels, self.kernel, 1) if self.is_mlx else (channels, 1, self.kernel)
        weight = (".weight", ".weight")
        conv = f"{net}.conv1d"
        yield self._parameter(conv, conv, weight, channels, self.kernel, row_order=channel, stored_shape=stored)
        yield self.norm(f"{net}.norm", self.state, offset=0.0)
        out = f"{net}.out_proj"
        is_rotated = self.folded is not None and f"{out}.weight" in self.folded.names
        yield self.linear(out, self.hidden, values, column_order=None if is_rotated else rows)

    def _parameter(self, source: str, known: str, names: tuple[str, str], *shape: int, **options) -> Part:
        """`known` is the name by which gguf finds that of the GGUF."""
        return Part(Kind.PARAMETER, self.place(source), self.names.get_name(known), shape, names=names, **options)

    def _draft_parts(self) -> Iterator[Part]:
        block = f"model.layers.{self.layers}"
        yield from self.layer_parts(self.layers, block)
        source, key = _DRAFT_MATRIX
        yield self._draft_part(Kind.KEPT, source, key, self.hidden, 2 * self.hidden)
        for source, key in _DRAFT_NORMS:
            yield self._draft_part(Kind.NORM, source, key, self.hidden, offset=self._norm_offset)

    def _draft_part(self, kind: Kind, source: str, key: gguf.MODEL_TENSOR, *shape: int, **options) -> Part:
        target = gguf.TENSOR_NAMES[key].format(bid=self.layers)
        return Part(kind, self.place(f"{MTP}.{source}"), target, shape, **options)

    def _value_order(self, head: int, first: int = 0) -> Callable[[], np.ndarray] | None:
        """Part.row_order of value heads of this size that follow `first` rows; None if none moves."""
        if self.repeats == 1:
            return None
        return partial(tiled_order, self.groups, self.repeats, head, first)

    def _name_blocks(self) -> None:
        self.names = gguf.get_tensor_name_map(self.model, self.blocks)

    def _look_for_drafts(self) -> None:
        """The block that drafts is taken if it is there: copies of checkpoints often lack it."""
        layers = {name.split(".")[2] for name in self._stored if name.startswith(f"{MTP}.layers.")}
        promised = self.settings.values.get("mtp_num_hidden_layers")
        self.drafts = int(layers == {"0"})
        if len(layers) > 1:
            self.notes.append(f"has {len(layers)} blocks that draft, and llama.cpp drafts with one")
        elif promised and not layers:
            self.notes.append("has no block that drafts, although config.json says so: no --spec-type draft-mtp")
        if self.drafts:
            key = "mtp_use_dedicated_embeddings"
            self.refuse_unless(key, self.settings.values.get(key), None, False)
        self._name_blocks()

    def _look_for_mlx(self, checkpoint: Checkpoint) -> None:
        """The order of the convolution's axes says whether MLX has written it, and with it what norms hold."""
        shapes = {
            checkpoint.tensors[name].shape for text, name in self._stored.items() if text.endswith(".conv1d.weight")
        }
        self.is_mlx = any(len(shape) == 3 and shape[2] == 1 for shape in shapes) and self.kernel > 1
        if self.is_mlx and self.drafts:
            raise ConvertError(
                f"{checkpoint.folder}: the convolutions have the order of MLX, whose norms hold 1 + w, but there are "
                f"{MTP} tensors, which only checkpoints with w have, expected one of the two",
                "the folder mixes two checkpoints; take the one of transformers",
            )

    def _rotation_keys(self) -> dict[str, Any]:
        targets = {f"{text_name(part.source)}.weight": part.tensor for part in self.parts()}
        own = {
            gguf.Keys.General.ARCHITECTURE: self.name,
            gguf.Keys.SSM.GROUP_COUNT.format(arch=self.name): self.groups,
            gguf.Keys.SSM.TIME_STEP_RANK.format(arch=self.name): self.value_heads,
        }
        return {**own, **self.folded.keys_for(targets)}


def tiled_order(groups: int, repeats: int, head: int, first: int = 0) -> np.ndarray:
    """int64: `first` rows as they are, then value heads [groups][repeats][head] as [repeats][groups][head]."""
    heads = np.arange(groups * repeats * head).reshape(groups, repeats, head).swapaxes(0, 1).reshape(-1)
    return np.concatenate((np.arange(first), first + heads))


def _decay(logarithms: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return -np.exp(logarithms)
