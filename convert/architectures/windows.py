"""Which layers see a sliding window of the last tokens, where llama.cpp computes with one."""

from __future__ import annotations

from ..settings import Settings

SLIDING, FULL = "sliding_attention", "full_attention"


def every(pattern: int, layers: int) -> list[bool]:
    """Whether each layer has a window, if every `pattern`-th has none."""
    return [(layer + 1) % pattern != 0 for layer in range(layers)]


def sliding_layers(settings: Settings, layers: int, usual: list[bool]) -> list[bool]:
    """Whether each layer has a window, by `layer_types`; without it `usual`. Raises ConvertError for other types."""
    types = settings.values.get("layer_types")
    if types is None:
        return usual
    if not isinstance(types, list) or len(types) != layers or any(kind not in (SLIDING, FULL) for kind in types):
        raise settings.damaged(f"layer_types is {types!r}, expected {SLIDING} or {FULL} for each of {layers} layers")
    return [kind == SLIDING for kind in types]
