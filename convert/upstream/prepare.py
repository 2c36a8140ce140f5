"""From a checkpoint to the model that llama.cpp's converter makes of it: what it is shown, and what it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..readers.mlx import MLXReader
from ..readers.reader import Reader
from ..sources.checkpoint import Checkpoint, TensorInfo
from ..sources.folded import read_folded
from ..sources.small_floats import BLOCK, DTYPE, WidenedCheckpoint
from ..tokenizer import JSON_FILE
from ..vocabularies import pretokenizers
from ..vocabularies.bpe_vocab import is_byte_level
from ..vocabularies.tokenizer_json import TokenizerJson
from .answer import Upstream, ask
from .architecture import UpstreamModel, model_of
from .rearranged import WEIGHT, Quantized

# What is there for activations and caches beside quantized layers has no place in a GGUF.
_ASIDE = (".input_scale", ".output_scale", ".k_scale", ".v_scale", ".q_scale", ".rotary_emb.inv_freq")
# What the converter is told a quantized weight is: exact for the numbers of rows and columns.
_PROBE_DTYPE = "F32"


def upstream_model(
    checkpoint: Checkpoint, reader: Reader, upstream: Upstream, folder: Path, *, name: str, keeps_settings: bool
) -> UpstreamModel:
    """The model for the planner. `folder` holds what the converter computed while the model is used.

    `keeps_settings`: the quantization is one that llama.cpp's converter reads itself. Raises ConvertError.
    """
    refuse_rotated(checkpoint)
    refuse_changed_floats(checkpoint, reader)
    quantized = Quantized(reader, reader.shapes())
    if not keeps_settings:
        refuse_small_floats(checkpoint)
    tensors, aside = shown(checkpoint, quantized)
    shapes = quantized.shapes
    pre = known_pre_tokenizer(checkpoint.folder)
    answer = ask(
        upstream, checkpoint, tensors, shapes, name=name, pre=pre, keeps_settings=keeps_settings, folder=folder
    )
    return model_of(checkpoint, quantized, answer, aside)


def refuse_rotated(checkpoint: Checkpoint) -> None:
    """Raises ConvertError for rotated weights."""
    if (folded := read_folded(checkpoint)) is not None:
        raise ConvertError(
            f"{folded.file}: rotated weights are supported only for the families that T-MAC has itself",
            "look for a GGUF of this model",
        )


def refuse_changed_floats(checkpoint: Checkpoint, reader: Reader) -> None:
    """Raises ConvertError for MLX: what llama.cpp's converter adds to floats, or moves in them, is done there."""
    if isinstance(reader, MLXReader):
        raise ConvertError(
            f"{checkpoint.config_file}: the checkpoint is quantized with {reader.method}, whose floats mlx-lm changes "
            "for some families (1 added to norms, dimensions exchanged), expected floats as transformers has them",
            "llama.cpp's converter would change them a second time; use a GPTQ, AWQ, AutoRound or compressed-tensors "
            "checkpoint of this model",
        )


def refuse_small_floats(checkpoint: Checkpoint) -> None:
    """Raises ConvertError for floats of 8 bits that have no scales as small_floats.py knows them."""
    dtypes = ((name, info.dtype) for name, info in checkpoint.tensors.items())
    small = next((name for name, dtype in dtypes if dtype.startswith("F8_")), None)
    if small is not None:
        info = checkpoint.info(small)
        raise ConvertError(
            f"{info.file}: tensor {small} has dtype {info.dtype}, 8-bit floats, expected F16, BF16 or F32, "
            f"or a weight of {DTYPE} with weight_scale beside it (for all, by row, or by {BLOCK} x {BLOCK})",
            "look for a checkpoint that leaves such layers in 16 bits",
        )


def shown(checkpoint: Checkpoint, quantized: Quantized) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """The tensors as the converter sees them, in their order, and the names of those that it never needs.

    A quantized layer is one weight, at the place of the first of its tensors.
    """
    parts = {
        name: weight for weight in quantized.shapes for name in quantized.reader.names(weight.removesuffix(WEIGHT))
    }
    tensors: dict[str, tuple[Any, ...]] = {}
    aside = []
    for name in checkpoint.tensors:
        if name in parts:
            weight = parts[name]
            tensors.setdefault(weight, ("", _PROBE_DTYPE, quantized.shapes[weight], 0, 0))
        elif quantized.shapes and name.endswith(_ASIDE):
            aside.append(name)
        else:
            tensors[name] = _shown(checkpoint, name)
    return tensors, aside


def _shown(checkpoint: Checkpoint, name: str) -> tuple[Any, ...]:
    """As child/main.py has it, with the scales of floats of 8 bits behind it."""
    scale = checkpoint.scale_of(name) if isinstance(checkpoint, WidenedCheckpoint) else None
    if scale is None:
        return _place(checkpoint.info(name))
    return (*_place(checkpoint.stored(name)), _place(scale))


def _place(info: TensorInfo) -> tuple[Any, ...]:
    return str(info.file.resolve()), info.dtype, info.shape, info.start, info.nbytes


def known_pre_tokenizer(folder: Path) -> str | None:
    """llama.cpp's name of the pre-tokenizer, by its structure; None if it is not known, or needs other merges."""
    try:
        if (tokenizer := byte_level_tokenizer(folder)) is None:
            return None
        ordinary = [text for text in tokenizer.tokens if text not in tokenizer.added_texts]
        pre, merges, _ = pretokenizers.recognise(tokenizer, ordinary)
    except ConvertError:
        return None
    return pre if len(merges) == len(tokenizer.merges) else None


def byte_level_tokenizer(folder: Path) -> TokenizerJson | None:
    """tokenizer.json; None if there is none, or of another kind. Raises ConvertError if it is damaged."""
    file = folder / JSON_FILE
    tokenizer = TokenizerJson(file) if file.is_file() else None
    return tokenizer if tokenizer and is_byte_level(tokenizer) else None
