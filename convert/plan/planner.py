"""The plan of a conversion: which tensors the GGUF gets, of which types, and where their bytes come from.

In: a LayerSource and the options. Out: a Plan of tensors that are not loaded. Planning reads only what decides (such as
scales and zero-points); codes and float weights are read when the writer asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...common.errors import TmacError
from ..write.tensors import OutputTensor
from .layer import Context, LayerSource
from .options import Options
from .policies import POLICIES


@dataclass
class Plan:
    """The tensors of the GGUF in file order, what their weights came from, and notes for the user.

    origins   the layers by what they came from: grids of a checkpoint, types of a GGUF, fresh quantization
    refusals  what a conversion would refuse; always empty unless `plan` collects them
    """

    method: str
    tensors: list[OutputTensor] = field(default_factory=list)
    origins: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: list[TmacError] = field(default_factory=list)

    @property
    def source(self) -> str:
        """For tmac.source and for people, for example `gptq w2g64 asymmetric` or `gguf q4_0`."""
        return f"{self.method} {', '.join(sorted(self.origins))}".strip()


def plan(source: LayerSource, options: Options | None = None, *, collects_refusals: bool = False) -> Plan:
    """Decides the type of every tensor of `source`, by the policies.

    Raises ConvertError for a missing, misshapen or unexpected tensor and for weights that no type keeps as they are.
    With `collects_refusals` such a layer is left out instead, and the error goes into the plan.
    """
    context = Context(options or Options())
    made = Plan(source.method, source.constants(), context.origins)
    for layer in source.layers(context):
        with _collecting(made.refusals if collects_refusals else None):
            made.tensors += [tensor for policy in POLICIES[layer.kind] for tensor in policy(layer, context)]
    with _collecting(made.refusals if collects_refusals else None):
        source.check_complete(context)
        if context.options.quantizer:
            context.options.quantizer.check_used()
    made.notes = source.notes([*context.notes.lines(), *context.obstacles.lines()])
    return made


@contextmanager
def _collecting(refusals: list[TmacError] | None) -> Iterator[None]:
    """Puts an error into the list, if there is one, and goes on."""
    try:
        yield
    except TmacError as refusal:
        if refusals is None:
            raise
        refusals.append(refusal)
