"""Part: one layer of a model, by its name in the checkpoint and its name in the GGUF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ...common.format import WEIGHT_SUFFIX


class Kind(Enum):
    """What a layer is for; it decides the storage type."""

    EMBEDDING = "embedding"
    HEAD = "head"
    # Small and sensitive: always F32. A norm is a vector, the router of experts and the gates of delta nets are
    # matrices, a parameter is what no product multiplies with.
    NORM = "norm"
    PARAMETER = "parameter"
    ROUTER = "router"
    GATE = "gate"
    LINEAR = "linear"
    # A matrix that gets no T-MAC type and stays as the checkpoint has it.
    KEPT = "kept"
    # Of a GGUF: all but linear layers. What it is for is not looked at.
    OTHER = "other"


@dataclass(frozen=True)
class Part:
    """One tensor of the GGUF. `source` and `target` are names without `.weight`; `shape` is (outputs, inputs), or (n,).

    row_order       returns int64 [outputs]: row i of the GGUF tensor is row row_order()[i] of the source
    column_order    the same for columns, of a linear layer
    expert_sources  if not empty, the part is one tensor of all experts: a matrix of `shape` for each, in this order.
                    `source` is then only a name for people
    offset          added to every value of a norm
    names           what follows source and target in the names of the tensors
    stored_shape    that of the source, if another than `shape` with as many values
    values          float64 -> float64: what is computed of a parameter
    bias            whether llama.cpp's graph adds a bias here, if the file has one
    tensor_scale    whether the graph multiplies by the scale of a type that has one for the whole tensor
    scales_bias     whether it does so after adding the bias, which is then scaled too
    """

    kind: Kind
    source: str
    target: str
    shape: tuple[int, ...]
    row_order: Callable[[], np.ndarray] | None = None
    column_order: Callable[[], np.ndarray] | None = None
    expert_sources: tuple[str, ...] = ()
    offset: float = 0.0
    names: tuple[str, str] = (WEIGHT_SUFFIX, WEIGHT_SUFFIX)
    stored_shape: tuple[int, ...] = ()
    values: Callable[[np.ndarray], np.ndarray] | None = None
    bias: bool = False
    tensor_scale: bool = True
    scales_bias: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The layers of the checkpoint that the part is made of."""
        return self.expert_sources or (self.source,)

    @property
    def tensor(self) -> str:
        """The name of the GGUF tensor."""
        return self.target + self.names[1]

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Of the GGUF tensor: with the number of experts in front if it holds experts."""
        return (len(self.expert_sources), *self.shape) if self.expert_sources else self.shape
