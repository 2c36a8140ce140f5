"""Output heads that would be replaced by the embedding without a word, because the converter writes none."""

from __future__ import annotations

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint
from ..sources.linear_names import HEAD_NAME
from .answer import Answer
from .models import name_of
from .rearranged import WEIGHT, Quantized

TIE_KEY = "tie_word_embeddings"
# Ends of names of the head, and of the embedding, of families whose blocks are named as in most.
_HEADS, _EMBEDDING, _BLOCKS = ("lm_head.weight", "embed_out.weight"), "embed_tokens.weight", "model.layers."
_WITH_HEAD = "ForCausalLM"


def lost_head(checkpoint: Checkpoint, quantized: Quantized, answer: Answer) -> ConvertError | None:
    """The converter leaves out a head that the checkpoint has, and that is not the embedding."""
    if _has_head(answer):
        return None
    head = next((name for name in answer.unused if name.endswith(_HEADS)), None)
    names = [*quantized.shapes, *checkpoint.tensors]
    embedding = next((name for name in names if name.endswith(_EMBEDDING)), None)
    if head is None or embedding is None:
        return None
    parts, others = (_parts(quantized, name) for name in (head, embedding))
    if parts.keys() == others.keys() and all(checkpoint.same_values(parts[part], others[part]) for part in parts):
        return None
    return ConvertError(
        f"{checkpoint.folder}: llama.cpp's converter leaves out {head}, which has other values than {embedding}, "
        "expected a head that is the embedding",
        f"llama.cpp has no other head for {answer.architecture}: the model would be computed otherwise",
    )


def missing_head(checkpoint: Checkpoint, answer: Answer) -> ConvertError | None:
    """config.json promises a head of its own, and no tensor is one; base models have no prefix."""
    inner = checkpoint.config.get("text_config")
    tied = {**checkpoint.config, **(inner if isinstance(inner, dict) else {})}.get(TIE_KEY)
    name, names = name_of(checkpoint.config) or "", [*checkpoint.tensors, *_quantized_heads(checkpoint)]
    if tied is not False or not name.endswith(_WITH_HEAD) or _has_head(answer):
        return None
    if any(tensor.endswith(_HEADS) for tensor in names) or not any(tensor.startswith(_BLOCKS) for tensor in names):
        return None
    return ConvertError(
        f"{checkpoint.folder}: there is no output head, but {TIE_KEY} is false, expected {_HEADS[0]}",
        "check that every file of the checkpoint is there",
    )


def _parts(quantized: Quantized, weight: str) -> dict[str, str]:
    """The tensors of a weight by the ends of their names: itself, under an empty one, unless it is quantized."""
    if weight not in quantized.shapes:
        return {"": weight}
    names = quantized.reader.names(weight.removesuffix(WEIGHT))
    return {name.rpartition(".")[2]: name for name in names}


def _has_head(answer: Answer) -> bool:
    return any(output.name == HEAD_NAME for output in answer.outputs)


def _quantized_heads(checkpoint: Checkpoint) -> list[str]:
    """The weights that tensors such as lm_head.qweight are parts of."""
    modules = {name.rpartition(".")[0] for name in checkpoint.tensors}
    return [f"{module}.weight" for module in modules if f"{module}.weight".endswith(_HEADS)]
