"""Which layers of a compressed-tensors checkpoint are quantized, and how: its config_groups, targets and ignore.

A target is the name of a module, `re:` and a regular expression that matches its name from the beginning, or the name
of its class. Of several that fit a module the order is: names, expressions, classes, each in alphabetical order. A
target in two groups belongs to the later one, unless the tensors fit another one alone. `ignore` has the same three
kinds, and goes before all.
Source: compressed-tensors, utils/match.py and quantization/lifecycle/apply.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.format import GROUPS
from .affine import columns_per_scale
from .method_settings import MethodSettings, either
from .patterns import Pattern
from .per_layer import Layouts, names_of

BITS = (2, 3, 4, 8)
PACKED, PLAIN = ("pack-quantized",), ("int-quantized", "naive-quantized")
FLOATS, MIXED, FLOAT_BITS = ("float-quantized",), ("mixed-precision",), 8
REGEX = "re:"
SUPPORTED = (
    f"compressed-tensors with whole-number weights of {either(BITS)} bits, strategy group (group_size a multiple of "
    f"{GROUPS[0]}), channel or tensor, format {', '.join(PACKED + PLAIN)}, quantization_status compressed"
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
# actorder -> whether groups are made of any inputs.
ORDERS = {None: False, False: False, "weight": False, "static": False, True: True, "group": True, "dynamic": True}


@dataclass(frozen=True)
class Scheme:
    """How the weights of a layer are quantized.

    group_size  inputs per scale; -1: one scale per row; 0: one for the layer
    packed      whether several codes share an int32, or each is an int8
    reorders    whether its groups are made of any inputs (actorder: group)
    """

    bits: int
    group_size: int
    symmetric: bool
    packed: bool
    reorders: bool

    def columns_per_scale(self, columns: int) -> int:
        return columns_per_scale(self.group_size or -1, columns)


class Schemes:
    """The schemes of a quantization_config. Raises ConvertError, naming the key, for what cannot be kept exactly."""

    def __init__(self, values: dict[str, Any], file: Path, layouts: Layouts):
        self._layouts = layouts
        settings = MethodSettings("compressed-tensors", SUPPORTED, file, values)
        settings.require_harmless(HARMLESS)
        sparsity = settings.get("sparsity_config")
        if sparsity not in (None, {}) and (not isinstance(sparsity, dict) or sparsity.get("format") != "dense"):
            raise settings.refusal("sparsity_config", sparsity, "none or the format dense")
        # What is rounded when the model runs.
        self._rounded: set[str] = set()
        self._has_cache_scheme = settings.get("kv_cache_scheme") not in (None, {})
        groups, by_target = settings.child("config_groups"), {}
        for name in groups.values:
            group = groups.child(name)
            scheme = self._scheme(group, settings.get("format"))
            for target in _targets(group, "targets", group.get("targets")):
                # The later ones first.
                by_target[target] = (scheme, *by_target.get(target, ()))
        self._targeted: dict[str, tuple[Scheme | None, ...]] = {name: by_target[name] for name in sorted(by_target)}
        if groups.values and not any(any(schemes) for schemes in by_target.values()):
            raise settings.refusal("format", settings.get("format"), either(PACKED + PLAIN))
        ignored = settings.get("ignore")
        ignored = _targets(settings, "ignore", [] if ignored is None else ignored)
        self._ignored = set(ignored)
        # A model has tens of thousands of experts, each is asked for more than once, and thousands may be ignored.
        self._found: dict[str, tuple[Scheme | None, ...]] = {}
        self._ignored_patterns, self._target_patterns = (
            {
                text: Pattern(text.removeprefix(REGEX), f"{file}: config_groups")
                for text in texts
                if text.startswith(REGEX)
            }
            for texts in (ignored, self._targeted)
        )

    def of(self, module: str) -> tuple[Scheme | None, ...]:
        """The schemes that the module's weights may have, the likeliest first; (None,) if they are not quantized."""
        if module not in self._found:
            self._found[module] = self._search(module)
        return self._found[module]

    def notes(self) -> list[str]:
        found = [
            f"the checkpoint is meant to run with the {what} of its layers rounded to numbers of another type; this is "
            "not part of the weights, which are exact, and is not done here"
            for what in sorted(self._rounded)
        ]
        if self._has_cache_scheme:
            found.append("the checkpoint asks for a quantized cache of keys and values; choose one when you run it")
        return found

    def _search(self, module: str) -> tuple[Scheme | None, ...]:
        classes = EMBEDDING_CLASSES if module.rpartition(".")[2] == EMBEDDING_NAME else LINEAR_CLASSES
        names = names_of(module)
        if not self._ignored.isdisjoint((*names, *classes)) or self._matching(self._ignored_patterns, module):
            return (None,)
        found = next((name for name in names if name in self._targeted), None)
        found = found or self._matching(self._target_patterns, module)
        found = found or next((kind for kind in classes if kind in self._targeted), None)
        return (None,) if found is None else self._targeted[found]

    def _matching(self, patterns: dict[str, Pattern], module: str) -> str | None:
        """The first text whose expression matches a name of the module from the beginning."""
        fits = self._layouts.fits
        return next((text for text, pattern in patterns.items() if fits(text, pattern.match, module)), None)

    def _scheme(self, group: MethodSettings, common_format: Any) -> Scheme | None:
        for name, what in (("input_activations", "inputs"), ("output_activations", "outputs")):
            if group.get(name) not in (None, {}):
                self._rounded.add(what)
        if group.get("weights") is None:
            return None
        weights = group.child("weights")
        layout = common_format if group.get("format") is None else group.get("format")
        if layout in FLOATS + MIXED and weights.get("type") == "float" and weights.get("num_bits") == FLOAT_BITS:
            # Beside layers of codes: sources/small_floats.py has them as floats.
            return None
        if layout not in PACKED + PLAIN:
            raise group.refusal("format", layout, either(PACKED + PLAIN))
        weights.one_of("type", ("int",), "int")
        weights.one_of("dynamic", (False, None), False)
        symmetric = weights.one_of("symmetric", (True, False), True)
        bits = weights.one_of("num_bits", BITS, 8)
        order = weights.one_of("actorder", tuple(ORDERS))
        return Scheme(bits, _group_size(weights), symmetric, layout in PACKED, ORDERS[order])


def _targets(settings: MethodSettings, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
        raise settings.refusal(key, value, "a list of texts")
    return value


def _group_size(weights: MethodSettings) -> int:
    """As Scheme.group_size."""
    size, strategy = weights.get("group_size"), weights.get("strategy")
    if strategy is None:
        strategy = "tensor" if size is None else "channel" if size == -1 else "group"
    if strategy in ("channel", "tensor"):
        if size not in (None, -1):
            raise weights.refusal("group_size", size, f"none or -1 with strategy {strategy}")
        return -1 if strategy == "channel" else 0
    if strategy != "group":
        raise weights.refusal("strategy", strategy, either(("group", "channel", "tensor")))
    if weights.group_size() == -1:
        raise weights.refusal("group_size", size, "a multiple of a group of the layout with strategy group")
    return size
