"""Reader: what a quantization format gives the rest of the converter. Format: how a checkpoint shows its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..linear import QuantLinear
from ..sources.checkpoint import Checkpoint
from .grid import Grid


class Reader(Protocol):
    """Turns the tensors of one quantization method into QuantLinear. `module` is a name without `.weight`."""

    method: str
    # How the model was trained to round its activations, for the GGUF key tmac.activations; None: not at all.
    activations: str | None

    def has(self, module: str) -> bool:
        """Whether the checkpoint holds this layer quantized."""

    def names(self, module: str) -> list[str]:
        """The tensors that hold the layer."""

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of all quantized layers, by the tensors alone: where no architecture says them.

        Raises ConvertError if the tensors do not say them.
        """

    def grid(self, module: str, rows: int, columns: int) -> Grid:
        """The layer's grid; checks everything but the codes. Raises ConvertError for what cannot be kept exactly."""

    def read(self, module: str, rows: int, columns: int) -> QuantLinear:
        """The layer."""

    def notes(self) -> list[str]:
        """What the user should know about the layers whose grid was asked for."""


@dataclass(frozen=True)
class Format:
    """A quantization format. Its settings are quantization_config in config.json, or where one of the others says.

    methods        values of quant_method; the first is given to settings that lack it
    reader         makes the reader, from the settings and the file that they are in
    config_key     another key of config.json that holds the settings
    settings_file  a file beside config.json that holds the settings
    translate      the settings of `settings_file` -> what quantization_config would be
    infer          the settings of a checkpoint that says nothing, None if it is of another format
    """

    methods: tuple[str, ...]
    reader: Callable[[Checkpoint, dict[str, Any], Path], Reader]
    config_key: str = ""
    settings_file: str = ""
    translate: Callable[[dict[str, Any]], dict[str, Any]] = dict
    infer: Callable[[Checkpoint], dict[str, Any] | None] = lambda checkpoint: None
