"""`tmac test --fuzz MINUTES`: every stage of the fuzzing in turn, in equal shares of the time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from tmac.common import console

from ..errors import ToolError
from . import guided, readers


class Findings(Protocol):
    """What a stage found. `ours`: the faults that are T-MAC's."""

    @property
    def ours(self) -> tuple: ...

    def render(self) -> str: ...


# From minutes and a seed.
STAGES: dict[str, Callable[[float, int], Findings]] = {"Python readers": readers.run}
if guided.is_possible():
    STAGES["Python readers, guided by coverage"] = guided.run


def fuzz(minutes: float, seed: int | None = None) -> str:
    """What all stages found, as text. Raises ToolError if there is a fault of ours."""
    seed = random.randrange(1 << 32) if seed is None else seed
    console.log(f"fuzzing with seed {seed}: {', '.join(STAGES)}")
    texts, faults = [], 0
    for name, run in STAGES.items():
        found = run(minutes / len(STAGES), seed)
        texts.append(f"{name}:\n{found.render()}")
        faults += len(found.ours)
    text = "\n".join(texts)
    if faults:
        raise ToolError(f"{text}\nfuzzing found {faults} faults", "each keeps its files; please report them")
    return text
