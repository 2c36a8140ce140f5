"""AutoRound checkpoints: the tensors of GPTQ or of AWQ, which of them `packing_format` says.

    auto_round:auto_gptq              GPTQ's tensors; z - 1 is stored (all symmetric exports)
    auto_round, auto_round:gptqmodel  GPTQ's tensors without that offset; g_idx may be absent
    auto_round:auto_awq               AWQ's tensors, read by the reader of that method

Source: export_to_autoround/export.py and inference/ of auto-round 0.16.1. There `extra_config` has settings for single
layers: by name, or by regular expressions of which the first counts that is found anywhere in the name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..sources.checkpoint import Checkpoint
from .awq import AWQReader
from .gptq_layers import GPTQLayers
from .gptq_settings import LayerSettings, layer_settings, refuse
from .patterns import Pattern
from .per_layer import Rule, Rules

METHODS = ("auto-round", "intel/auto-round")
NAME = "AutoRound"
# packing_format of GPTQ's tensors -> what is added to a stored zero-point. What is absent is the first.
ZERO_OFFSET = {"auto_round:auto_gptq": 1, "auto_round:gptq": 1, "auto_round": 0, "auto_round:gptqmodel": 0}
AWQ = ("auto_round:auto_awq", "auto_round:awq")
# Settings that change what the tensors mean, with the values that change nothing.
HARMLESS = {
    "data_type": (None, "int", "int_sym", "int_asym"),
    "act_bits": (None, 16, 32),
    "super_bits": (None,),
    "super_group_size": (None,),
    "rotation_config": (None, {}),
    "spinquant_config": (None, {}),
}
# A layer with this many bits is in floats.
FLOAT_BITS = 16


class AutoRoundReader(GPTQLayers):
    """AutoRound with GPTQ's tensors. Raises ConvertError for settings that are not supported, by name."""

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], file: Path):
        packing = _packing_format(settings, file)
        _check(settings, file)
        layer_settings(file, NAME, settings)
        rules = _extra_rules(checkpoint, settings.get("extra_config"), file)

        def layer(module: str, rows: int, columns: int) -> LayerSettings:
            merged = {**settings, **rules.overrides(module)}
            _check(merged, file)
            return layer_settings(file, NAME, merged)

        super().__init__(checkpoint, file, "auto-round", layer, zero_offset=ZERO_OFFSET[packing])


def auto_round_reader(checkpoint: Checkpoint, settings: dict[str, Any], file: Path) -> AutoRoundReader | AWQReader:
    """The reader for the tensors that `packing_format` names. Raises ConvertError for settings that it does not have."""
    if settings.get("packing_format") not in AWQ:
        return AutoRoundReader(checkpoint, settings, file)
    return AWQReader(checkpoint, _as_awq(settings, file), file)


def _as_awq(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """The settings as AWQ's."""
    _check(settings, file)
    extra = settings.get("extra_config") or {}
    if not isinstance(extra, dict) or not all(_is_float(overrides) for overrides in extra.values()):
        refuse(file, f"{NAME} with AWQ's tensors", "extra_config", extra)
    symmetric = settings.get("sym") is True
    kept = {key: settings[key] for key in ("bits", "group_size") if key in settings}
    return {"quant_method": "awq", "version": "gemm", "zero_point": not symmetric, **kept}


def _packing_format(settings: dict[str, Any], file: Path) -> str:
    found = settings.get("packing_format")
    if found is None and settings.get("backend") in (None, "auto"):
        return next(iter(ZERO_OFFSET))
    if found is None:
        # Files of early releases name a kernel, which does not tell how zero-points are stored.
        refuse(file, NAME, "no packing_format and backend", settings["backend"])
    if not isinstance(found, str) or found not in ZERO_OFFSET:
        raise ConvertError(
            f"{file}: {NAME} with packing_format {found!r} is not supported",
            f"supported: {', '.join((*ZERO_OFFSET, *AWQ))}; export the model again in one of them",
        )
    return found


def _check(settings: dict[str, Any], file: Path) -> None:
    for key, harmless in HARMLESS.items():
        if settings.get(key) not in harmless:
            refuse(file, NAME, key, settings[key])


def _is_float(overrides: Any) -> bool:
    """Whether these settings of a layer leave it in floats."""
    bits = overrides.get("bits") if isinstance(overrides, dict) else None
    return type(bits) is int and bits >= FLOAT_BITS


def _extra_rules(checkpoint: Checkpoint, extra: Any, file: Path) -> Rules:
    """The names of layers go before the expressions."""
    extra = {} if extra is None else extra
    if not isinstance(extra, dict) or not all(isinstance(overrides, dict) for overrides in extra.values()):
        refuse(file, NAME, "extra_config", extra)
    # Of a model with experts there can be tens of thousands of names.
    named, expressions = {}, []
    for text, overrides in extra.items():
        kept = None if _is_float(overrides) else overrides
        if f"{text}.qweight" in checkpoint or f"{text}.weight" in checkpoint:
            named[text] = Rule(text, text.__eq__, kept)
        elif overrides:
            expressions.append(Rule(text, Pattern(text, f"{file}: extra_config").search, kept))
    return Rules(file, "extra_config", expressions, named)
