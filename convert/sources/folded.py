"""What lies beside the weights of a rotated checkpoint -> the keys prism.hadamard.* of a GGUF.

The two contracts that are known, both of the maker of Bonsai 2:

hadamard.json, of the MLX pack
    The same keys as in a GGUF, with the names of the pack's tensors. config.json says in PACK how the pack is laid
    out, and lists in `modules` each rotated layer with its block and whether it is an embedding. Each such layer has a
    tensor `.signs`, a copy of the signs of its width.

hadamard_packing.json, of checkpoints in floats
    {"schema_version": 1 or 2, "kind", "status", "transform": {"name", "block_size", "sign_mode"},
     "signs": {width: [1, -1, ...]}, "tensors": [{"name", "axis": -1, "role"}]}

Both fold the rotation into the checkpoint's own order of value heads, which llama.cpp's graph has otherwise. What is
not understood is refused: the tensors look like those of other checkpoints, and would be converted to nonsense. What
the keys may hold is checked by rotation.py, as for a GGUF.
Sources: the readers of these files in public projects (the fork's converter, mlx-vlm, mlx-rs), in 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import gguf
import numpy as np
from gguf import GGUFValueType

from ...common import rotation as keys
from ..errors import ConvertError
from .checkpoint import Checkpoint, read_json
from .gguf_header import Kind
from .rotation import Rotation, read_rotation
from .text_names import stored_names, text_name

PACK_FILE, FOLD_FILE = "hadamard.json", "hadamard_packing.json"
# Read by fetch.py.
FOLDED_FILES = (PACK_FILE, FOLD_FILE)
PACK_MODEL = "prism_hadamard_qwen35"
# What config.json of a pack must say.
PACK = {
    "model_type": PACK_MODEL,
    "schema_version": 2,
    "base_model_type": "qwen3_5",
    "tensor_namespace": "mlx-vlm-qwen3_5",
    "hadamard_config": PACK_FILE,
    "gdn_activation_layout": "grouped",
}
# Marks of rotated weights besides: how the name of the model's class and the keys of other packers begin.
_MAKER_CLASS, _OTHER_KEYS, _SIGNS = "Prism", ("hadamard", "hadamard_config"), ".signs"
FOLD_KEYS = ("schema_version", "kind", "status", "transform", "signs", "tensors", "producer")
FOLD = {"kind": "hadamard-weight-fold", "status": "requires-matching-runtime"}
FOLD_VERSIONS = (1, 2)
FOLD_TRANSFORM = "normalized-signed-sylvester-walsh-hadamard"
PRODUCT, LOOKUP = "fold-before-matmul", "inverse-after-lookup"
# The matrix of delta nets that keys.GROUPED_KEY is about.
_GROUPED = ".linear_attn.out_proj.weight"
# The key of signs: a number of columns, in one spelling.
_WIDTH = re.compile("[1-9][0-9]{0,8}")
_HINT = "take a GGUF of this model, in PQ2_0, PTQ1_0 or Q2_0: tmac convert reads its rotation"
_KINDS: dict[str, Kind] = {
    keys.VERSION_KEY: (GGUFValueType.UINT32,),
    keys.BLOCK_KEY: (GGUFValueType.UINT32,),
    keys.GROUPED_KEY: (GGUFValueType.BOOL,),
    keys.SIGN_WIDTHS_KEY: (GGUFValueType.ARRAY, GGUFValueType.INT32),
    keys.SIGN_VALUES_KEY: (GGUFValueType.ARRAY, GGUFValueType.INT8),
    keys.WEIGHTS_KEY: (GGUFValueType.ARRAY, GGUFValueType.STRING),
    keys.TABLES_KEY: (GGUFValueType.ARRAY, GGUFValueType.STRING),
}
_TEXT: Kind = (GGUFValueType.STRING,)
_JSON_TYPES = {
    GGUFValueType.UINT32: int,
    GGUFValueType.BOOL: bool,
    GGUFValueType.STRING: str,
    GGUFValueType.ARRAY: list,
}


@dataclass(frozen=True)
class Folded:
    """What `file` says: `keys` are those of a GGUF, but with names of the text model's tensors.

    sign_tensors  tensors that repeat signs, by their names in the text model
    """

    file: Path
    keys: dict[str, Any]
    sign_tensors: frozenset[str] = field(default=frozenset())

    @property
    def names(self) -> frozenset[str]:
        """All tensors that are rotated."""
        return frozenset((*self.keys[keys.WEIGHTS_KEY], *self.keys.get(keys.TABLES_KEY, ())))

    def keys_for(self, targets: Mapping[str, str]) -> dict[str, Any]:
        """The keys with the names that tensors have in the GGUF. Raises ConvertError for one that it does not have."""
        found = dict(self.keys)
        for key in (keys.WEIGHTS_KEY, keys.TABLES_KEY):
            for name in found.get(key, ()):
                if name not in targets:
                    raise refusal(self.file, f"tensor {name} is listed, but is not part of the model")
            if key in found:
                found[key] = [targets[name] for name in found[key]]
        return found

    def checked(self, found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Rotation:
        """The rotation that a GGUF with these keys and tensors has. Raises ConvertError as read_rotation does."""
        number = (GGUFValueType.UINT32,)
        kinds = {key: _KINDS.get(key, number if type(value) is int else _TEXT) for key, value in found.items()}
        return read_rotation(self.file, found, kinds, shapes)

    def write(self, writer: gguf.GGUFWriter, found: Mapping[str, Any]) -> None:
        """Writes those of the keys that speak of the rotation."""
        for key in keys.KEYS:
            if key in found:
                kind = _KINDS.get(key, _TEXT)
                writer.add_key_value(key, found[key], kind[0], sub_type=kind[1] if len(kind) > 1 else None)


def read_folded(checkpoint: Checkpoint) -> Folded | None:
    """What the checkpoint says of its rotated weights; None if nothing shows that they are rotated.

    Raises ConvertError for what is not understood.
    """
    fold = checkpoint.folder / FOLD_FILE
    marks = _marks(checkpoint)
    if fold.exists() and marks:
        raise refusal(checkpoint.folder, f"{FOLD_FILE} and {marks[0]} both say how, expected one of them")
    if fold.exists():
        return _Fold(fold, read_json(fold)).read()
    return _Pack(checkpoint, marks).read() if marks else None


def refusal(file: object, what: str) -> ConvertError:
    return ConvertError(f"{file}: the weights are rotated, and {what}", _HINT)


def _marks(checkpoint: Checkpoint) -> list[str]:
    """What shows that the weights are rotated as those of an MLX pack, for people."""
    config, found = checkpoint.config, []
    if str(config.get("model_type", "")).startswith(keys.MAKER_PREFIX[:-1]):
        found.append(f"model_type {config['model_type']}")
    if _MAKER_CLASS in str(config.get("architectures")):
        found.append(f"architectures {config['architectures']}")
    found += [f"the key {key}" for key in _OTHER_KEYS if key in config]
    if (checkpoint.folder / PACK_FILE).exists():
        found.append(PACK_FILE)
    if signs := next((name for name in checkpoint.tensors if name.endswith(_SIGNS)), None):
        found.append(f"tensor {signs}")
    return found


class _Pack:
    """An MLX pack with hadamard.json."""

    def __init__(self, checkpoint: Checkpoint, marks: list[str]):
        self.checkpoint, self.marks, self.file = checkpoint, marks, checkpoint.folder / PACK_FILE

    def refuse(self, what: str, file: Path | None = None) -> NoReturn:
        raise refusal(file or self.file, what)

    def read(self) -> Folded:
        config, config_file = self.checkpoint.config, self.checkpoint.config_file
        for key, expected in PACK.items():
            if config.get(key) != expected:
                self.refuse(
                    f"{key} is {config.get(key)!r}, expected {expected!r} for a pack, of which this is one by its "
                    f"{', '.join(self.marks)}",
                    config_file,
                )
        found = read_json(self.file, f"config.json says that it is there; {_HINT}")
        if unknown := [key for key in found if key not in keys.KEYS]:
            self.refuse(f"key {unknown[0]} is unknown, and may change what weights mean")
        found = {key: self.value(key, value) for key, value in found.items()}
        if keys.WEIGHTS_KEY not in found:
            self.refuse(f"there is no key {keys.WEIGHTS_KEY}")
        names = {*found[keys.WEIGHTS_KEY], *found.get(keys.TABLES_KEY, ())}
        if any(name.endswith(_GROUPED) for name in names) and found.get(keys.GROUPED_KEY) is not True:
            self.refuse(f"{keys.GROUPED_KEY} is {found.get(keys.GROUPED_KEY)!r}, expected true, as config.json says")
        self.check_modules(found, names)
        stored = stored_names(self.checkpoint.folder, self.checkpoint.tensors)
        signs = {name for name in stored if name.endswith(_SIGNS)}
        self.check_signs(found, names, signs, stored)
        return Folded(self.file, found, frozenset(signs))

    def value(self, key: str, value: Any) -> Any:
        """A value of hadamard.json as a GGUF would have it: names of the text model, signs as whole numbers."""
        kind = _KINDS.get(key, _TEXT)
        if type(value) is not _JSON_TYPES[kind[0]]:
            self.refuse(f"{key} is {str(value)[:60]}, of another type than expected")
        if kind[0] is not GGUFValueType.ARRAY:
            return value
        element = (str,) if kind[1] is GGUFValueType.STRING else (int, float) if key == keys.SIGN_VALUES_KEY else (int,)
        if wrong := [item for item in value if type(item) not in element]:
            self.refuse(f"{key} has {str(wrong[0])[:60]!r}, of another type than expected")
        if key == keys.SIGN_VALUES_KEY:
            return _whole_signs(self.file, value)
        return [text_name(item) for item in value] if element == (str,) else value

    def check_modules(self, found: dict[str, Any], names: set[str]) -> None:
        """The list of config.json says the same of each layer."""
        config, tables = self.checkpoint.config, found.get(keys.TABLES_KEY, [])
        listed = config.get("modules")
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            self.refuse("there is no list of modules", self.checkpoint.config_file)
        said: set[str] = set()
        for entry in listed:
            name = f"{text_name(str(entry.get('path')))}.weight"
            expected = {"block": found.get(keys.BLOCK_KEY), "embedding": name in tables, "dtype": "float16"}
            for key, value in expected.items():
                if entry.get(key) != value:
                    self.refuse(
                        f"{key} of module {entry.get('path')} is {entry.get(key)!r}, expected {value!r}",
                        self.checkpoint.config_file,
                    )
            said.add(name)
        if other := sorted(said ^ names):
            self.refuse(f"tensor {other[0]} is listed there or among the modules of config.json, expected in both")

    def check_signs(self, found: dict[str, Any], names: set[str], signs: set[str], stored: dict[str, str]) -> None:
        """Each layer's own signs are those of its width."""
        expected = {f"{name.removesuffix('.weight')}{_SIGNS}" for name in names}
        if other := sorted(signs ^ expected):
            self.refuse(f"tensor {other[0]} is missing, or belongs to no tensor that is listed")
        values = iter(found.get(keys.SIGN_VALUES_KEY, ()))
        by_width = {width: np.fromiter(values, np.float32, width) for width in self.widths(found)}
        for name in sorted(signs):
            tensor = stored[name]
            own = self.checkpoint.read(tensor)
            if own.size not in by_width or not np.array_equal(own, by_width[own.size]):
                file = self.checkpoint.tensors[tensor].file
                self.refuse(f"tensor {tensor} has other signs than {PACK_FILE} for its width", file)

    def widths(self, found: dict[str, Any]) -> list[int]:
        widths, count = found.get(keys.SIGN_WIDTHS_KEY, []), len(found.get(keys.SIGN_VALUES_KEY, []))
        if any(width <= 0 for width in widths) or sum(widths) != count:
            self.refuse(f"there are {count} signs, expected {sum(widths)}: the sum of {keys.SIGN_WIDTHS_KEY}")
        return widths


class _Fold:
    """A checkpoint with hadamard_packing.json."""

    def __init__(self, file: Path, found: dict[str, Any]):
        self.file, self.found = file, found

    def refuse(self, what: str) -> NoReturn:
        raise refusal(self.file, what)

    def read(self) -> Folded:
        if unknown := [key for key in self.found if key not in FOLD_KEYS]:
            self.refuse(f"key {unknown[0]} is unknown, and may change what weights mean")
        for key, expected in FOLD.items():
            if self.found.get(key) != expected:
                self.refuse(f"{key} is {self.found.get(key)!r}, expected {expected!r}")
        if self.found.get("schema_version") not in FOLD_VERSIONS:
            expected = " or ".join(map(str, FOLD_VERSIONS))
            self.refuse(f"schema_version is {self.found.get('schema_version')!r}, expected {expected}")
        weights, tables = self.tensors()
        made = {
            keys.VERSION_KEY: keys.VERSION,
            keys.TRANSFORM_KEY: keys.TRANSFORM,
            keys.AXIS_KEY: keys.AXIS,
            **self.transform(),
            keys.WEIGHTS_KEY: weights,
            keys.TABLES_KEY: tables,
            keys.GROUPED_KEY: any(name.endswith(_GROUPED) for name in weights),
        }
        return Folded(self.file, made)

    def transform(self) -> dict[str, Any]:
        found = self.found.get("transform")
        if not isinstance(found, dict) or found.keys() != {"name", "block_size", "sign_mode"}:
            self.refuse(f"transform is {str(found)[:80]}, expected name, block_size and sign_mode")
        if found["name"] != FOLD_TRANSFORM:
            self.refuse(f"transform is {found['name']!r}, expected {FOLD_TRANSFORM!r}")
        if type(found["block_size"]) is not int or type(found["sign_mode"]) is not str:
            self.refuse(f"transform is {str(found)[:80]}, with values of another type than expected")
        made = {keys.BLOCK_KEY: found["block_size"], keys.SIGN_MODE_KEY: found["sign_mode"]}
        signs = self.found.get("signs") or {}
        if not isinstance(signs, dict) or not all(map(_WIDTH.fullmatch, signs)):
            self.refuse("signs is not a list of signs for each width")
        if signs:
            widths = sorted(map(int, signs))
            values = [_whole_signs(self.file, signs[str(width)]) for width in widths]
            if wrong := [width for width, of_width in zip(widths, values) if len(of_width) != width]:
                self.refuse(
                    f"there are {len(signs[str(wrong[0])])} signs for {wrong[0]} columns, expected one for each"
                )
            made |= {keys.SIGN_WIDTHS_KEY: widths, keys.SIGN_VALUES_KEY: [sign for some in values for sign in some]}
        return made

    def tensors(self) -> tuple[list[str], list[str]]:
        """Names in products, and of tables that are read by row."""
        listed, found = self.found.get("tensors"), {PRODUCT: [], LOOKUP: []}
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            self.refuse("there is no list of tensors")
        for entry in listed:
            name, role = entry.get("name"), entry.get("role", PRODUCT)
            is_known = isinstance(name, str) and isinstance(role, str) and role in found
            if not is_known or entry.keys() - {"name", "axis", "role"}:
                self.refuse(f"tensor {str(entry)[:80]} is not understood, expected name, axis and a known role")
            if entry.get("axis") != -1:
                self.refuse(f"axis of tensor {name} is {entry.get('axis')!r}, expected -1, the inputs")
            found[role].append(text_name(name))
        return found[PRODUCT], found[LOOKUP]


def _whole_signs(file: Path, found: Any) -> list[int]:
    """Signs that may be written as 1 or as 1.0."""
    wrong = (
        [found]
        if not isinstance(found, list)
        else [sign for sign in found if isinstance(sign, bool) or sign not in (1, -1)]
    )
    if wrong:
        raise refusal(file, f"there is the sign {str(wrong[0])[:60]}, expected 1 or -1")
    return [int(sign) for sign in found]
