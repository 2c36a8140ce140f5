"""What a tensor of each kind is stored as, and why. One function per kind; POLICIES is the table.

A policy takes a layer and yields the tensors that the GGUF gets for it. It decides by the kind of the layer, by the
forms that the layer offers, and by the user's options; it does not read weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..architectures.part import Kind
from ..write.tensors import F16, F32, OutputTensor, tmac_tensor, value_tensor
from .from_checkpoint import CheckpointLayer
from .grid_types import unholdable
from .layer import Context, Layer
from .options import DEFAULT_TYPE, EMBEDDING_TYPES


def norm(layer: CheckpointLayer, context: Context) -> Iterator[OutputTensor]:
    """F32: small, and every activation passes through it."""
    yield value_tensor(layer.name, layer.norm_values())


def parameter(layer: CheckpointLayer, context: Context) -> Iterator[OutputTensor]:
    """F32: what delta nets have besides matrices; llama.cpp computes with nothing else there."""
    yield value_tensor(layer.name, layer.parameter())


def router(layer: CheckpointLayer, context: Context) -> Iterator[OutputTensor]:
    """F32: small, and rounding could choose other experts."""
    if layer.is_quantized:
        layer.note("is quantized in the checkpoint, and chooses experts; stored as f32, exactly")
    yield layer.as_stock(F32)


def gate(layer: CheckpointLayer, context: Context) -> Iterator[OutputTensor]:
    """F32: small, and a rounding error stays in the state of a delta net."""
    if layer.is_quantized:
        layer.note("is quantized in the checkpoint, and says what a delta net forgets; stored as f32, exactly")
    yield layer.as_stock(F32)


def embedding(layer: CheckpointLayer, context: Context) -> Iterator[OutputTensor]:
    """What --embedding says; a rotated one of 2 bits stays exact unless it says f16 or q4_0.

    Never a T-MAC type, as an embedding is read row by row.
    """
    kind = EMBEDDING_TYPES[context.options.embedding]
    # Rounding an embedding to 8 bits would make it larger, too.
    if context.options.embedding == DEFAULT_TYPE and (exact := layer.rotated_rows()):
        yield exact
        return
    if layer.is_quantized:
        layer.note(f"is quantized in the checkpoint, and read by row; stored as {kind.name.lower()}, rounded")
    yield layer.as_stock(kind)


def head(layer: CheckpointLayer, context: Context) -> Iterator[OutputTensor]:
    """As a linear layer if the checkpoint has it quantized, else what --head says.

    Nothing where llama.cpp takes the embedding instead: for a tied head whose type is the same, unless only a tensor of
    its own keeps it exactly, and for graphs that have no other head.
    """
    options, notes = context.options, context.notes
    is_exact = layer.is_exact
    if layer.model.architecture.tied_head and options.head == options.embedding and not is_exact:
        notes.add("the output head is the embedding (tied), stored once")
    elif layer.model.architecture.head_is_embedding:
        notes.add(
            f"the output head is the embedding, stored once as {options.embedding}: llama.cpp's "
            f"{layer.model.architecture.name} graph has no place for another"
        )
    elif layer.is_quantized:
        if is_exact:
            notes.add("the output head is quantized in the checkpoint and was kept so")
        yield from linear(layer, context)
    elif options.head_quantizer is None:
        yield layer.as_stock(EMBEDDING_TYPES[options.head])
    elif tensors := _fresh(layer, context):
        notes.add("the output head was freshly quantized to 4 bits; the checkpoint has it in floats")
        yield from tensors
    else:
        layer.note(unholdable(layer.part, layer.obstacles[-1]))
        yield layer.as_stock(F16)


def linear(layer: Layer, context: Context) -> Iterator[OutputTensor]:
    """The T-MAC type that means the same; else the one that the user asks for, quantized freshly; else a type of ggml.

    Experts too: all experts of a layer are one tensor, so they get one type.
    """
    yield from layer.as_tmac() or _fresh(layer, context) or [layer.fallback()]


def bias(layer: Layer, context: Context) -> Iterator[OutputTensor]:
    """F32. Left out if it is zero throughout; refused where llama.cpp's graph adds none."""
    for found in layer.biases():
        if not found.values.any():
            context.notes.add("is zero throughout; left out", found.name)
        elif found.refusal:
            raise found.refusal
        else:
            yield value_tensor(found.name, found.values)


def kept(layer: CheckpointLayer, context: Context) -> Iterator[OutputTensor]:
    """As it is; F16 if the checkpoint has it quantized to few bits."""
    tensor = layer.fallback()
    if layer.is_quantized and tensor.type_id == F16:
        layer.note("is quantized in the checkpoint; stored as f16, rounded: T-MAC has no low-bit type at this place")
    yield tensor


def other(layer: Layer, context: Context) -> Iterator[OutputTensor]:
    """As it is: what a GGUF has besides linear layers."""
    yield layer.fallback()


def _fresh(layer: Layer, context: Context) -> list[OutputTensor]:
    """The layer quantized to the type that the user asks for; empty, with an obstacle, if that cannot be."""
    options = context.options
    quantizer = options.head_quantizer if layer.is_head else options.quantizer
    if quantizer is None:
        if options.quantizer:
            layer.obstacles.append("the output head is quantized only by --head")
        return []
    matrices = layer.floats()
    if not matrices:
        return []
    if why := quantizer.kind.why_not(*layer.shape[-2:]):
        layer.obstacles.append(why)
        return []
    layer.add_fresh_origin(quantizer)
    loads = quantizer.loads(layer.name, layer.shape, matrices)
    return [tmac_tensor(layer.name, layer.shape, quantizer.kind, loads)]


Policy = Callable[[Layer, Context], Iterator[OutputTensor]]
POLICIES: dict[Kind, tuple[Policy, ...]] = {
    Kind.NORM: (norm, bias),
    Kind.PARAMETER: (parameter,),
    Kind.ROUTER: (router, bias),
    Kind.GATE: (gate, bias),
    Kind.EMBEDDING: (embedding, bias),
    Kind.HEAD: (head, bias),
    Kind.LINEAR: (linear, bias),
    Kind.KEPT: (kept, bias),
    Kind.OTHER: (other,),
}
