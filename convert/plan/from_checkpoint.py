"""A checkpoint as layers: its tensors, what the reader makes of them, and their places in the architecture.

What decides the type of a tensor (dtypes, shapes, scales, zero-points) is read when the plan is made, the rest when the
writer loads the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from math import prod

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ..architectures import Architecture
from ..architectures.part import Kind, Part
from ..errors import ConvertError
from ..linear import QuantLinear
from ..quantize.quantizer import FloatMatrix, Quantizer
from ..quantize.search import SLAB_WEIGHTS
from ..readers import Reader
from ..readers.ggml_blocks import q2_0_of
from ..readers.grid import Grid
from ..sources.checkpoint import FLOAT_DTYPES, Checkpoint, finite, row_blocks
from ..sources.ggml_types import Q2_0
from ..write.tensors import (
    F16,
    F32,
    Q8_0,
    OutputTensor,
    encode_floats,
    encode_q8_0,
    stock_bytes,
    stock_tensor,
    tmac_tensor,
    value_tensor,
)
from . import columns, grid_types
from .layer import Bias, Context

# Layers that the checkpoint has in floats stay in the type they have, so that nothing is lost.
SAME_TYPE = {"F16": F16, "BF16": GGMLQuantizationType.BF16, "F32": F32}


class CheckpointModel:
    """A checkpoint, the reader of its quantization method, and its architecture. The LayerSource of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, reader: Reader, architecture: Architecture):
        self.checkpoint, self.reader, self.architecture = checkpoint, reader, architecture
        self.method = reader.method
        self._used: set[str] = set()

    def constants(self) -> list[OutputTensor]:
        return [value_tensor(name, values) for name, values in self.architecture.constants().items()]

    def layers(self, context: Context) -> Iterator[CheckpointLayer]:
        for part in self.architecture.parts():
            self._used.update(self._names(part))
            yield CheckpointLayer(self, part, context)

    def check_complete(self, context: Context) -> None:
        """Raises ConvertError for tensors that no layer uses, and if no layer is quantized."""
        unused = [name for name in self.checkpoint.tensors if name not in self._used]
        drafts = {name for name in unused if self.architecture.is_draft(name)}
        if drafts:
            more = len(drafts) - 1
            others = f"and {more} other tensor{'s' * (more > 1)} only draft" if more else "only drafts"
            context.notes.add(f"{others} tokens ahead (MTP); left out, which changes no text", min(drafts))
        unknown = sorted(name for name in unused if name not in drafts and not self.architecture.is_redundant(name))
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ConvertError(
                f"{self.checkpoint.tensors[unknown[0]].file}: tensor {unknown[0]}{more} is not part of the "
                f"{self.architecture.name} architecture, expected only tensors that it computes with",
                "leaving it out would change the model silently; is config.json the right one?",
            )
        if not context.origins:
            if obstacles := context.obstacles.lines():
                raise grid_types.nothing_fits(self.checkpoint.folder, obstacles)
            raise ConvertError(
                f"{self.checkpoint.folder}: no layer is quantized, expected {self.method} tensors",
                "the configuration promises quantized weights that the files do not have",
            )

    def notes(self, planned: list[str]) -> list[str]:
        rotation = self.architecture.rotation
        rotated = [] if rotation is None else [rotation.note]
        return [*self.architecture.notes, *planned, *rotated, *self.checkpoint.notes(), *self.reader.notes()]

    def _names(self, part: Part) -> Iterator[str]:
        """The tensors of the checkpoint that `part` is made of, or should be."""
        for source in part.sources:
            yield from self.reader.names(source) if self.reader.has(source) else [source + part.names[0]]
            if part.kind is not Kind.PARAMETER:
                yield f"{source}.bias"


class CheckpointLayer:
    """One part of the architecture (see Layer); for experts all of them together."""

    def __init__(self, model: CheckpointModel, part: Part, context: Context):
        self.model, self.part = model, part
        self.kind, self.name, self.shape = part.kind, part.tensor, part.full_shape
        self.is_head = part.kind is Kind.HEAD
        self.obstacles: list[str] = []
        self._context = context
        self._checkpoint, self._reader = model.checkpoint, model.reader

    @property
    def is_quantized(self) -> bool:
        """Whether the checkpoint has the layer, or one of its experts, quantized."""
        return any(self._reader.has(source) for source in self.part.sources)

    @property
    def is_exact(self) -> bool:
        """Whether the checkpoint has the output head quantized, and it is stored without rounding."""
        if not self.is_quantized:
            return False
        return grid_types.is_kept_in_head(self.part, self._reader.grid(self.part.source, *self.part.shape))

    @property
    def is_mixed(self) -> bool:
        """Whether the checkpoint has some experts quantized, and others not."""
        return self.is_quantized and not all(self._reader.has(source) for source in self.part.sources)

    def note(self, text: str) -> None:
        self._context.notes.add(text, self.part.target)

    def as_tmac(self) -> list[OutputTensor]:
        if not self.is_quantized or self.is_mixed:
            return []
        part, grids = self.part, self._grids
        kind, why = grid_types.tmac_type(part, grids, self._checkpoint.folder)
        if kind is None:
            if why:
                self.note(why)
            return []
        reads = [partial(self._read, source) for source in part.sources]
        tensors = [tmac_tensor(self.name, self.shape, kind, reads)]
        if any(grid.tensor_scale is not None for grid in grids):
            self._check_scale()
            tensors.append(grid_types.scale_tensor(part, grids))
        if any(grid.column_order is not None for grid in grids):
            self.note("has its columns in the order of quantization (act-order)")
            tensors.append(grid_types.order_tensor(part, grids))
        return tensors

    def floats(self) -> list[FloatMatrix]:
        if self.is_quantized:
            return []
        self._check_not_fused()
        return [
            FloatMatrix(where, partial(self._slabs, source), self.part.row_order)
            for source, where in self._float_places().items()
        ]

    def add_fresh_origin(self, quantizer: Quantizer) -> None:
        """Linear layers only: tmac.source says what most weights came from, and a head is an option beside it."""
        if not self.is_head:
            self._context.add_origin(quantizer.grid_name, self.part.target)

    def fallback(self) -> OutputTensor:
        """Floats as they are, 8 bits as Q8_0 if that holds them, else F16."""
        part = self.part
        if not self.is_quantized:
            self._check_not_fused()
            for why in self.obstacles:
                kind = self._context.options.quantizer.kind
                self._context.obstacles.add(f"cannot be {kind.ggml_name}: {why}", part.target)
            same = self._same_type()
            self.note(f"is not quantized in the checkpoint; kept as {same.name}")
            return self.as_stock(same)
        if self.is_mixed:
            floats = [source for source in part.sources if not self._reader.has(source)]
            self.note(f"has {len(floats)} of {len(part.sources)} experts in floats; all are stored as f16, rounded")
            return self.as_stock(F16)
        if not all(grid_types.fits_q8_0(part, grid) for grid in self._grids):
            return self.as_stock(F16)
        self.note("has 8-bit weights, kept exactly as q8_0")
        return stock_tensor(
            self.name, self.shape, Q8_0, lambda: np.stack([encode_q8_0(self._read(source)) for source in part.sources])
        )

    def rotated_rows(self) -> OutputTensor | None:
        """A rotated embedding of 2 bits as Q2_0, without rounding, as a GGUF's is kept. None if it is none."""
        part, rotation = self.part, self.model.architecture.rotation
        if rotation is None or self.name not in rotation.tables or not self.is_quantized:
            return None
        grid = self._grids[0]
        if not grid_types.fits_q2_0(part, grid):
            return None
        nbytes = prod(self.shape) // Q2_0.block * Q2_0.nbytes
        load = partial(self._q2_0, grid.ternary)
        return OutputTensor(self.name, self.shape, Q2_0.id, Q2_0.name, nbytes, load)

    def as_stock(self, kind: GGMLQuantizationType) -> OutputTensor:
        """The weights rounded to a type of ggml; F16 if the columns do not fill its blocks."""
        part = self.part
        places = self._places()
        if part.shape[-1] % GGML_QUANT_SIZES[kind][0]:
            why = f"its {part.shape[-1]} columns do not fill {kind.name.lower()} blocks"
            self.note(f"is stored as f16: {why}")
            kind = F16

        def load() -> np.ndarray:
            # One row of bytes per row of weights. Never held twice: a head can be 1 GB.
            rows = part.shape[0]
            out = np.empty((len(places), rows, stock_bytes(part.shape, kind) // rows), np.uint8)
            for matrix, (source, where) in zip(out, places.items()):
                blocks = self._dequantized if self._reader.has(source) else self._stored
                for target_rows, weights in blocks(source):
                    # Named, so that it lives until the next block: freed before, the heap shrinks and grows every time,
                    # which costs 10 %.
                    encoded = encode_floats(where, weights, kind)
                    matrix[target_rows] = encoded
            return out

        return stock_tensor(self.name, self.shape, kind, load)

    def norm_values(self) -> np.ndarray:
        """float32 [n]: what the GGUF has as the weight of a norm."""
        return self._small_values(self.part.source, "weight") + np.float32(self.part.offset)

    def parameter(self) -> np.ndarray:
        """float32 of `shape`: what the GGUF has as a parameter that is no weight of a product."""
        part = self.part
        where = self._place(name := part.source + part.names[0], part.stored_shape or part.shape)
        values = finite(where, self._checkpoint.read(name)).reshape(part.shape)
        if part.row_order is not None:
            values = values[part.row_order()]
        if part.values is not None:
            values = part.values(values.astype(np.float64))
        return finite(where, values.astype(np.float32))

    def biases(self) -> Iterator[Bias]:
        part, place = self.part, self._checkpoint.folder
        for source in part.sources:
            if f"{source}.bias" not in self._checkpoint:
                continue
            refusal = ConvertError(
                f"{place}: tensor {source}.bias is not zero, expected none",
                f"llama.cpp has no bias at this place of the {self.model.architecture.name} architecture",
            )
            yield Bias(f"{part.target}.bias", self._small_values(source, "bias"), None if part.bias else refusal)

    @cached_property
    def _grids(self) -> list[Grid]:
        """The grid of each source, all of which are quantized."""
        grids = [self._grid(source) for source in self.part.sources]
        for name in sorted({grid.name for grid in grids}):
            self._context.add_origin(name, self.part.target)
        return grids

    def _grid(self, source: str) -> Grid:
        grid = self._reader.grid(source, *self.part.shape)
        return grid if self.part.column_order is None else columns.placed(grid, self.part.column_order())

    def _check_scale(self) -> None:
        """Raises ConvertError where llama.cpp's graph would misplace or leave out the scale of the whole tensor."""
        part = self.part
        if not part.tensor_scale:
            raise ConvertError(
                f"{self._checkpoint.folder}: layer {part.sources[0]} has one scale for all its weights, expected one "
                "for every group",
                f"llama.cpp would not multiply by it at this place of the {self.model.architecture.name} architecture",
            )
        if (
            part.scales_bias
            and f"{part.source}.bias" in self._checkpoint
            and self._small_values(part.source, "bias").any()
        ):
            raise ConvertError(
                f"{self._checkpoint.folder}: layer {part.source} has a bias and one scale for all its weights, "
                "expected one for every group",
                "llama.cpp would multiply the bias by the scale at this place",
            )

    def _check_not_fused(self) -> None:
        """Raises ConvertError for one tensor of all experts: transformers 5 computes with such, and can store it."""
        if not self.part.expert_sources:
            return
        place = self.part.source.rpartition(".")[0]
        fused = next((name for name in self._checkpoint.tensors if name.startswith(f"{place}.gate_up_proj")), None)
        if fused:
            raise ConvertError(
                f"{self._checkpoint.tensors[fused].file}: tensor {fused} holds the experts of a layer in one, expected "
                f"one module for each, such as {self.part.sources[0]}",
                "look for a checkpoint with one module for every expert; transformers stores them so by default",
            )

    def _same_type(self) -> GGMLQuantizationType:
        """The type that a layer in floats has; F32, which holds all, if its experts have different ones."""
        names = [f"{source}.weight" for source in self.part.sources]
        dtypes = {self._checkpoint.info(name, FLOAT_DTYPES, self.part.shape).dtype for name in names}
        return SAME_TYPE[dtypes.pop()] if len(dtypes) == 1 else F32

    def _float_places(self) -> dict[str, str]:
        """The sources and, for messages, their tensors. Raises ConvertError unless all are floats of one shape."""
        return {source: self._place(f"{source}.weight", self.part.shape) for source in self.part.sources}

    def _place(self, name: str, shape: tuple[int, ...]) -> str:
        return f"{self._checkpoint.info(name, FLOAT_DTYPES, shape).file}: tensor {name}"

    def _places(self) -> dict[str, str]:
        """The sources and, for messages, their files. Raises ConvertError as the reader's grid and _float_places do."""
        if not self.is_quantized:
            return self._float_places()
        if self.is_mixed:
            return {source: self._mixed_place(source) for source in self.part.sources}
        return {source: self._layer_place(source) for source, _ in zip(self.part.sources, self._grids)}

    def _mixed_place(self, source: str) -> str:
        if not self._reader.has(source):
            return self._place(f"{source}.weight", self.part.shape)
        self._grid(source)
        return self._layer_place(source)

    def _layer_place(self, source: str) -> str:
        return f"{self._checkpoint.info(self._reader.names(source)[0]).file}: layer {source}"

    def _read(self, source: str) -> QuantLinear:
        """The layer with its rows in the order of the GGUF."""
        part, linear = self.part, self._reader.read(source, *self.part.shape)
        if part.row_order is not None:
            linear = linear.take_rows(part.row_order())
        # With an order of columns in the grid, they stay where they are.
        if part.column_order is not None and self._grids[part.sources.index(source)].column_order is None:
            linear = linear.take_columns(part.column_order())
        return linear

    def _dequantized(self, source: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows of the GGUF tensor and the float32 weights that a quantized layer has there."""
        grid, linear = self._grid(source), self._read(source)
        return ((block, grid.weights(linear.take_rows(block))) for block in row_blocks(*self.part.shape))

    def _stored(self, source: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of the GGUF tensor and the floats that the checkpoint has there."""
        order = self.part.row_order
        target_rows = np.arange(self.part.shape[0]) if order is None else np.argsort(order())
        return ((target_rows[rows], weights) for rows, weights in self._float_blocks(source))

    def _q2_0(self, ternary: bool) -> np.ndarray:
        linear = self._read(self.part.source)
        return np.concatenate([q2_0_of(linear.take_rows(rows), ternary) for rows in row_blocks(*self.part.shape)])

    def _slabs(self, source: str) -> Iterator[np.ndarray]:
        """The floats of the checkpoint in its own order of rows, in blocks for the quantizer."""
        return (weights for _, weights in self._float_blocks(source, SLAB_WEIGHTS))

    def _float_blocks(self, source: str, weights: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """As Checkpoint.blocks, with columns in the order of the GGUF."""
        order = slice(None) if self.part.column_order is None else self.part.column_order()
        return ((rows, block[:, order]) for rows, block in self._checkpoint.blocks(f"{source}.weight", weights))

    def _small_values(self, source: str, suffix: str) -> np.ndarray:
        """float32 [outputs] of a norm's weight or a layer's bias, in the order of the GGUF's rows."""
        name = f"{source}.{suffix}"
        where = self._place(name, self.part.shape[:1])
        values = finite(where, self._checkpoint.read(name)).astype(np.float32)
        return values if self.part.row_order is None else values[self.part.row_order()]
