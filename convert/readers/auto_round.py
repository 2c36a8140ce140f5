"""AutoRound checkpoints: the tensors of GPTQ or of AWQ, which of them `packing_format` says.

    auto_round:auto_gptq              GPTQ's tensors; z - 1 is stored (all symmetric exports)
    auto_round, auto_round:gptqmodel  GPTQ's tensors without that offset; g_idx may be absent
    auto_round:auto_awq               AWQ's tensors, read by the reader of that method

`extra_config` has settings of single layers, by name or by regular expression. Of the expressions the first counts
that is found anywhere in the name.

Source: export_to_autoround/export.py and inference/ of auto-round 0.16.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..sources.checkpoint import Checkpoint
from .awq import GEMM, AWQReader
from .awq import METHOD as AWQ_METHOD
from .gptq_layers import GPTQLayers
from .gptq_settings import SUPPORTED, LayerSettings, layer_settings
from .method_settings import MethodSettings, either
from .patterns import Pattern
from .per_layer import Layouts, Rule, Rules, names_of
from .reader import Format

METHODS = ("auto-round", "intel/auto-round")
NAME = "AutoRound"
# packing_format of GPTQ's tensors -> what is added to a stored zero-point. Where it is absent, it is the first.
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

    method = METHODS[0]

    def __init__(self, checkpoint: Checkpoint, settings: MethodSettings):
        packing = _packing_format(settings)
        _check(settings)
        rules = _extra_rules(checkpoint, settings)

        def layer(module: str, rows: int, columns: int) -> LayerSettings:
            return _check(settings.overridden(rules.overrides(module)))

        super().__init__(checkpoint, settings.file, layer, zero_offset=ZERO_OFFSET[packing])


def auto_round_reader(checkpoint: Checkpoint, values: dict[str, Any], file: Path) -> AutoRoundReader | AWQReader:
    """The reader for the tensors that `packing_format` names. Raises ConvertError for settings that it refuses."""
    settings = MethodSettings(NAME, SUPPORTED, file, values)
    if settings.get("packing_format") not in AWQ:
        return AutoRoundReader(checkpoint, settings)
    return AWQReader(checkpoint, _as_awq(settings), file)


def _as_awq(settings: MethodSettings) -> dict[str, Any]:
    """The settings as AWQ's."""
    settings.require_harmless(HARMLESS)
    extra = settings.get("extra_config") or {}
    if not isinstance(extra, dict) or not all(_is_float(overrides) for overrides in extra.values()):
        raise settings.refusal("extra_config", extra, "none but for layers in floats, for the tensors of AWQ")
    symmetric = settings.get("sym") is True
    kept = {key: settings.get(key) for key in ("bits", "group_size") if key in settings.values}
    return {"quant_method": AWQ_METHOD, "version": GEMM, "zero_point": not symmetric, **kept}


def _packing_format(settings: MethodSettings) -> str:
    found, backend = settings.get("packing_format"), settings.get("backend")
    if found is None and backend in (None, "auto"):
        return next(iter(ZERO_OFFSET))
    if found is None:
        # Files of early releases name a kernel, which does not tell how zero-points are stored.
        raise settings.refusal("no packing_format and backend", backend)
    if not isinstance(found, str) or found not in ZERO_OFFSET:
        advice = "; export the model again in one of these formats"
        raise settings.refusal("packing_format", found, either((*ZERO_OFFSET, *AWQ)), advice)
    return found


def _check(settings: MethodSettings) -> LayerSettings:
    settings.require_harmless(HARMLESS)
    return layer_settings(settings)


def _is_float(overrides: Any) -> bool:
    """Whether these settings of a layer leave it in floats."""
    bits = overrides.get("bits") if isinstance(overrides, dict) else None
    return type(bits) is int and bits >= FLOAT_BITS


def _extra_rules(checkpoint: Checkpoint, settings: MethodSettings) -> Rules:
    """The names of layers go before the expressions."""
    key = "extra_config"
    extra = {} if settings.get(key) is None else settings.get(key)
    if not isinstance(extra, dict) or not all(isinstance(overrides, dict) for overrides in extra.values()):
        raise settings.refusal(key, extra, "objects by layer")
    # A model with experts can have tens of thousands of names.
    named, expressions = {}, []
    for text, overrides in extra.items():
        kept = None if _is_float(overrides) else overrides
        parts = (GPTQLayers.mark, "weight")
        if any(f"{name}.{part}" in checkpoint for name in names_of(text) for part in parts):
            named[text] = Rule(text, text.__eq__, kept)
        elif overrides:
            expressions.append(Rule(text, Pattern(text, f"{settings.file}: {key}").search, kept))
    return Rules(settings.file, key, expressions, named, Layouts(checkpoint.tensors))


FORMAT = Format(METHODS, auto_round_reader)
