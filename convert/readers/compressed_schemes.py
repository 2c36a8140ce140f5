"""Which layers of a compressed-tensors checkpoint are quantized, and how: its config_groups, targets and ignore.

A target is the name of a module, `re:` and a regular expression that matches its name from the beginning, or the name
of its class. Of several that fit a module the order is: names, expressions, classes, each in alphabetical order; a
target that stands in two groups belongs to the later one. `ignore` has the same three kinds, and goes before all.
Source: compressed-tensors, utils/match.py and quantization/lifecycle/apply.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.format import GROUPS
from ..errors import ConvertError
from .grid import is_known_group
from .patterns import Pattern

BITS = (2, 3, 4, 8)
PACKED, PLAIN = ("pack-quantized",), ("int-quantized", "naive-quantized")
REGEX = "re:"
SUPPORTED = (
    f"compressed-tensors with whole-number weights of {', '.join(map(str, BITS))} bits, strategy group (group_size "
    f"a multiple of {GROUPS[0]}), channel or tensor, format {', '.join(PACKED + PLAIN)}, quantization_status compressed"
)
# Of the classes of a module, those that can be targets. All layers that are asked for are linear, but embeddings.
LINEAR_CLASSES, EMBEDDING_CLASSES = ("Linear", "Module"), ("Embedding", "Module")
EMBEDDING_NAME = "embed_tokens"
# Settings that change what the tensors mean, or which there are, with the values that change nothing.
HARMLESS = {
    "transform_config": (None, {}),
    "moe_sparsity_config": (None, {}),
    "quantization_status": ("compressed",),
}
ORDERS = {None: False, False: False, "weight": False, "static": False, True: True, "group": True, "dynamic": True}


@dataclass(frozen=True)
class Scheme:
    """How the weights of a layer are quantized.

    per_scale  columns per scale; -1: one scale per row; 0: one for the layer
    packed     whether several codes share an int32, or each is an int8
    reorders   whether its groups are made of any columns (actorder: group)
    """

    bits: int
    per_scale: int
    symmetric: bool
    packed: bool
    reorders: bool


class Schemes:
    """The schemes of a quantization_config. Raises ConvertError, naming the key, for what cannot be kept exactly."""

    def __init__(self, settings: dict[str, Any], file: Path):
        self._file = file
        self._inputs: set[str] = set()
        self._cache = settings.get("kv_cache_scheme") not in (None, {})
        for key, harmless in HARMLESS.items():
            if settings.get(key) not in harmless:
                self._refuse(key, settings.get(key))
        sparsity = settings.get("sparsity_config")
        if sparsity not in (None, {}) and (not isinstance(sparsity, dict) or sparsity.get("format") != "dense"):
            self._refuse("sparsity_config", sparsity)
        groups = settings.get("config_groups")
        if not isinstance(groups, dict):
            self._refuse("config_groups", groups)
        by_target: dict[str, Scheme | None] = {}
        for name, group in groups.items():
            if not isinstance(group, dict):
                self._refuse(f"config_groups.{name}", group)
            scheme = self._scheme(f"config_groups.{name}", group, settings.get("format"))
            targets = self._targets(f"config_groups.{name}.targets", group.get("targets"))
            by_target.update(dict.fromkeys(targets, scheme))
        self._targeted = {target: by_target[target] for target in sorted(by_target)}
        ignored = settings.get("ignore")
        self._ignored = self._targets("ignore", [] if ignored is None else ignored)
        # A model has tens of thousands of experts, and each is asked for more than once.
        self._found: dict[str, Scheme | None] = {}
        self._patterns = {
            target: Pattern(target.removeprefix(REGEX), f"{file}: config_groups")
            for target in (*self._targeted, *self._ignored)
            if target.startswith(REGEX)
        }

    def of(self, module: str) -> Scheme | None:
        """The scheme of the module's weights; None if they are not quantized."""
        if module not in self._found:
            self._found[module] = self._search(module)
        return self._found[module]

    def _search(self, module: str) -> Scheme | None:
        kinds = EMBEDDING_CLASSES if module.rpartition(".")[2] == EMBEDDING_NAME else LINEAR_CLASSES
        if any(self._fits(module, target) or target in kinds for target in self._ignored):
            return None
        if module in self._targeted:
            return self._targeted[module]
        for target in self._targeted:
            if self._fits(module, target):
                return self._targeted[target]
        return next((self._targeted[kind] for kind in kinds if kind in self._targeted), None)

    def notes(self) -> list[str]:
        found = [
            f"the checkpoint is meant to run with the {what} of its layers rounded to numbers of another type; this is "
            "not part of the weights, which are exact, and is not done here"
            for what in sorted(self._inputs)
        ]
        if self._cache:
            found.append("the checkpoint asks for a quantized cache of keys and values; choose one when you run it")
        return found

    def _fits(self, module: str, target: str) -> bool:
        return self._patterns[target].match(module) if target.startswith(REGEX) else target == module

    def _targets(self, key: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
            self._refuse(key, value)
        return value

    def _scheme(self, key: str, group: dict[str, Any], common_format: Any) -> Scheme | None:
        for name, what in (("input_activations", "inputs"), ("output_activations", "outputs")):
            if group.get(name) not in (None, {}):
                self._inputs.add(what)
        weights = group.get("weights")
        if weights is None:
            return None
        if not isinstance(weights, dict):
            self._refuse(f"{key}.weights", weights)
        layout = common_format if group.get("format") is None else group["format"]
        if layout not in PACKED + PLAIN:
            self._refuse(f"{key}.format", layout)
        self._check(f"{key}.weights", weights, "type", "int", ("int",))
        self._check(f"{key}.weights", weights, "dynamic", False, (False, None))
        symmetric = self._check(f"{key}.weights", weights, "symmetric", True, (True, False))
        bits = self._check(f"{key}.weights", weights, "num_bits", 8, BITS)
        order = self._check(f"{key}.weights", weights, "actorder", None, tuple(ORDERS))
        return Scheme(bits, self._per_scale(f"{key}.weights", weights), symmetric, layout in PACKED, ORDERS[order])

    def _check(self, key: str, weights: dict[str, Any], name: str, default: Any, allowed: tuple) -> Any:
        value = weights.get(name, default)
        # True is 1 and False is 0 in Python.
        if not any(type(value) is type(other) and value == other for other in allowed):
            self._refuse(f"{key}.{name}", value)
        return value

    def _per_scale(self, key: str, weights: dict[str, Any]) -> int:
        size, strategy = weights.get("group_size"), weights.get("strategy")
        if strategy is None:
            strategy = "tensor" if size is None else "channel" if size == -1 else "group"
        if strategy in ("channel", "tensor"):
            if size not in (None, -1):
                self._refuse(f"{key}.group_size", size)
            return -1 if strategy == "channel" else 0
        if strategy != "group":
            self._refuse(f"{key}.strategy", strategy)
        if type(size) is not int or size == -1 or not is_known_group(size):
            self._refuse(f"{key}.group_size", size)
        return size

    def _refuse(self, key: str, value: Any) -> None:
        raise ConvertError(
            f"{self._file}: compressed-tensors with {key} {value!r} is not supported", f"supported: {SUPPORTED}"
        )
