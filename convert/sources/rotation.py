"""What a GGUF says of rotated weights (prism.hadamard.*), checked as the patched llama.cpp checks it.

In: metadata, and the shapes of the tensors. Out: a `Rotation`, or none. The weights stay rotated in a conversion, and
the keys go into the new file as they are; llama.cpp rotates the activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import gguf
from gguf import GGUFValueType

from ...common import rotation as keys
from ..errors import ConvertError
from .gguf_header import Kind

# The types that the patched llama.cpp reads; of arrays those of the elements.
_SIGN_TYPES = (GGUFValueType.INT8, GGUFValueType.INT32, GGUFValueType.UINT32)
_TYPES = {
    keys.VERSION_KEY: (GGUFValueType.UINT32,),
    keys.BLOCK_KEY: (GGUFValueType.UINT32,),
    keys.GROUPED_KEY: (GGUFValueType.BOOL,),
}
_ARRAY_TYPES = {
    keys.SIGN_WIDTHS_KEY: _SIGN_TYPES,
    keys.SIGN_VALUES_KEY: _SIGN_TYPES,
    keys.WEIGHTS_KEY: (GGUFValueType.STRING,),
    keys.TABLES_KEY: (GGUFValueType.STRING,),
}
_HINT = "look for a newer T-MAC that knows it, or for a file of this model without rotation"


@dataclass(frozen=True)
class Rotation:
    """Columns are rotated in blocks of `block`. `weights` are used in products, `tables` are read by row too."""

    block: int
    widths: tuple[int, ...]
    is_grouped: bool
    weights: tuple[str, ...]
    tables: tuple[str, ...]

    @property
    def note(self) -> str:
        """What the user of a converted file should know."""
        count = len({*self.weights, *self.tables})
        return f"{count} weights stay rotated; T-MAC's llama.cpp rotates activations, others may not"

    def __str__(self) -> str:
        signs = f"signs for {', '.join(map(str, self.widths))} columns" if self.widths else "no signs"
        order = ", delta nets in the order of groups" if self.is_grouped else ""
        return (
            f"{keys.TRANSFORM} in blocks of {self.block}, {signs}{order}: {len(self.weights)} weights, "
            f"{len(self.tables)} embedding{'' if len(self.tables) == 1 else 's'}"
        )


def read_rotation(
    file: Path,
    metadata: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    whole: bool = True,
) -> Rotation | None:
    """The rotation that `file` speaks of; None if it does not.

    `kinds` of the metadata; `shapes` of the tensors, as TensorEntry has them; with `whole` all that the file names must
    be there. Raises ConvertError for what is not understood: a key, a value or its type, a tensor that is missing or
    has no signs.
    """
    if not any(key.startswith(keys.MAKER_PREFIX) for key in metadata):
        return None
    return _Reader(file, metadata, kinds).read(shapes, whole)


@dataclass(frozen=True)
class _Reader:
    file: Path
    metadata: Mapping[str, Any]
    kinds: Mapping[str, Kind]

    def read(self, shapes: Mapping[str, tuple[int, ...]], whole: bool) -> Rotation:
        for key in self.metadata:
            if key.startswith(keys.MAKER_PREFIX) and key not in keys.KEYS:
                self.refuse(f"key {key} is unknown, and may change what weights mean")
        self.expect(keys.VERSION_KEY, keys.VERSION)
        self.expect(keys.TRANSFORM_KEY, keys.TRANSFORM)
        self.expect(keys.AXIS_KEY, keys.AXIS)
        block = self.value(keys.BLOCK_KEY)
        if block <= 0 or block & (block - 1):
            self.refuse(f"{keys.BLOCK_KEY} is {block}, expected a power of two")
        widths, is_explicit = self.widths()
        heads = self.grouped_heads()
        rotation = Rotation(
            block,
            widths,
            heads > 0,
            self.names(keys.WEIGHTS_KEY),
            self.names(keys.TABLES_KEY) if keys.TABLES_KEY in self.metadata else (),
        )
        if permuted := [name for name in rotation.tables if rotation.is_grouped and name.endswith(keys.GROUPED_SUFFIX)]:
            self.refuse(f"rows of {permuted[0]}, whose input is permuted, are read")
        for name in (*rotation.weights, *rotation.tables):
            if name in shapes:
                self.check(name, shapes[name], block, widths if is_explicit else None)
                if heads and name.endswith(keys.GROUPED_SUFFIX) and shapes[name][-1] % heads:
                    self.refuse(f"tensor {name} has {shapes[name][-1]} columns, no multiple of the {heads} value heads")
            elif whole:
                self.refuse(f"tensor {name} is listed, but is not there")
        return rotation

    def check(self, name: str, shape: tuple[int, ...], block: int, widths: tuple[int, ...] | None) -> None:
        if len(shape) < 2 or shape[-1] % block:
            self.refuse(f"tensor {name} has shape {list(shape)}, expected rows of a multiple of {block} columns")
        if widths is not None and shape[-1] not in widths:
            self.refuse(f"tensor {name} has {shape[-1]} columns, for which there are no signs")

    def widths(self) -> tuple[tuple[int, ...], bool]:
        """The widths that have signs, and whether any must have."""
        mode = self.value(keys.SIGN_MODE_KEY)
        if mode not in (keys.EXPLICIT, keys.IDENTITY):
            self.refuse(f"{keys.SIGN_MODE_KEY} is {mode!r}, expected {keys.EXPLICIT!r} or {keys.IDENTITY!r}")
        is_explicit = mode == keys.EXPLICIT
        widths, signs = (
            self.value(key) if is_explicit or key in self.metadata else []
            for key in (keys.SIGN_WIDTHS_KEY, keys.SIGN_VALUES_KEY)
        )
        if not is_explicit and (widths or signs):
            self.refuse(f"{keys.SIGN_MODE_KEY} is {mode!r}, but there are signs")
        if any(width <= 0 for width in widths) or len(set(widths)) < len(widths):
            self.refuse(f"{keys.SIGN_WIDTHS_KEY} is {widths}, expected different numbers of columns")
        if sum(widths) != len(signs):
            self.refuse(f"there are {len(signs)} signs, expected {sum(widths)}: the sum of {keys.SIGN_WIDTHS_KEY}")
        if wrong := [sign for sign in signs if abs(sign) != 1]:
            self.refuse(f"{keys.SIGN_VALUES_KEY} has the sign {wrong[0]!r}, expected 1 or -1")
        return tuple(widths), is_explicit

    def grouped_heads(self) -> int:
        """The number of value heads if delta nets have them in the order of groups, else 0."""
        if keys.GROUPED_KEY not in self.metadata or not self.value(keys.GROUPED_KEY):
            return 0
        architecture = self.value(gguf.Keys.General.ARCHITECTURE)
        if architecture not in keys.TILED_ARCHITECTURES:
            expected = " or ".join(keys.TILED_ARCHITECTURES)
            self.refuse(f"{keys.GROUPED_KEY} in the architecture {architecture}, expected {expected}")
        groups, heads = (
            self.value(architecture + key, _TYPES[keys.BLOCK_KEY]) for key in (keys.GROUPS_KEY, keys.HEADS_KEY)
        )
        if not groups or not heads or heads % groups:
            self.refuse(f"{heads} value heads do not divide into {groups} groups")
        return heads

    def names(self, key: str) -> tuple[str, ...]:
        return tuple(self.value(key))

    def expect(self, key: str, expected: int | str) -> None:
        if self.value(key) != expected:
            self.refuse(f"{key} is {self.metadata[key]!r}, expected {expected!r}")

    def value(self, key: str, types: tuple[GGUFValueType, ...] = ()) -> Any:
        """The value of one of the types; by default those of the key in the tables above, or else a text."""
        if key not in self.metadata:
            self.refuse(f"there is no key {key}")
        is_array, kind = key in _ARRAY_TYPES, self.kinds[key]
        known = types or _ARRAY_TYPES.get(key) or _TYPES.get(key, (GGUFValueType.STRING,))
        if kind[-1] not in known or len(kind) != 1 + is_array:
            found = " of ".join(part.name.lower() for part in kind)
            expected = " or ".join(part.name.lower() for part in known)
            self.refuse(f"{key} is of type {found}, expected {'array of ' if is_array else ''}{expected}")
        return self.metadata[key]

    def refuse(self, what: str) -> NoReturn:
        raise ConvertError(f"{self.file}: the weights are rotated, and {what}", _HINT)
