"""What the planner sees of a model, be it a checkpoint (from_checkpoint.py) or a GGUF (from_gguf.py): its layers.

A layer offers the forms that it can take: the T-MAC type that means the same, float weights to quantize, a type of
ggml. policies.py chooses among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..architectures.part import Kind
from ..errors import ConvertError
from ..notes import Notes
from ..quantize.quantizer import FloatMatrix, Quantizer
from ..write.tensors import OutputTensor
from .options import Options


@dataclass
class Context:
    """What all decisions of a plan share.

    origins    the names of the layers by what their weights came from, such as `w2g64 asymmetric`
    notes      what became of layers
    obstacles  why layers of a checkpoint did not get the type that --quantize names
    """

    options: Options
    origins: dict[str, list[str]] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    obstacles: Notes = field(default_factory=Notes)

    def add_origin(self, origin: str, name: str) -> None:
        self.origins.setdefault(origin, []).append(name)


@dataclass(frozen=True)
class Bias:
    """`values` float32 [M]; `refusal` is given where llama.cpp's graph adds no bias."""

    name: str
    values: np.ndarray
    refusal: ConvertError | None


class Layer(Protocol):
    """What each source offers: a weight that is used in matrix products only (Kind.LINEAR), or is kept (Kind.OTHER).

    CheckpointLayer has more kinds, and offers more for them. `name` and `shape` are those of the GGUF tensor: (M, K),
    or (experts, M, K). `obstacles` collects why it gets no T-MAC type, for the note that `fallback` makes.
    """

    kind: Kind
    name: str
    shape: tuple[int, ...]
    is_head: bool
    obstacles: list[str]

    def as_tmac(self) -> list[OutputTensor]:
        """The layer in the T-MAC type that means the same, with the tensors beside it; empty if there is none."""

    def floats(self) -> list[FloatMatrix]:
        """The matrices to quantize freshly; empty if that must not be done or no values can be read."""

    def add_fresh_origin(self, quantizer: Quantizer) -> None:
        """Records that the layer is quantized freshly."""

    def fallback(self) -> OutputTensor:
        """The layer in the type of ggml that is the nearest to what the source has."""

    def biases(self) -> Iterator[Bias]:
        """Those that are not layers of their own."""


class LayerSource(Protocol):
    """A model as layers. `method` is the first word of tmac.source."""

    method: str

    def constants(self) -> list[OutputTensor]:
        """Tensors that are not weights, to be written first."""

    def layers(self, context: Context) -> Iterator[Layer]:
        """In the order of the new file."""

    def check_complete(self, context: Context) -> None:
        """Raises ConvertError if a source that was to be converted whole was not. Called after all layers."""

    def notes(self, planned: list[str]) -> list[str]:
        """The notes that the planner made, and the source's own."""
