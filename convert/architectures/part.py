"""Part: one layer of a model, by its name in the checkpoint and its name in the GGUF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np


class Kind(Enum):
    """What a layer is for; the storage type is chosen by this."""

    EMBEDDING = "embedding"
    HEAD = "head"
    NORM = "norm"
    LINEAR = "linear"


@dataclass(frozen=True)
class Part:
    """`source` and `target` are names without `.weight`; `shape` is (outputs, inputs), or (n,) for a norm.

    `row_order`, if given, returns int64 [outputs]: row i of the GGUF tensor is row row_order()[i] of the source.
    """

    kind: Kind
    source: str
    target: str
    shape: tuple[int, ...]
    row_order: Callable[[], np.ndarray] | None = None
