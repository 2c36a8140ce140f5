"""`tmac test --fuzz MINUTES`: every stage in turn, each for its share of the time, if all can run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tmac.common.errors import TmacError

from ..arguments import minutes
from . import guided, loader, readers


class Findings(Protocol):
    """What a stage found. `ours`: the faults that are T-MAC's."""

    @property
    def ours(self) -> tuple: ...

    def render(self) -> str: ...


@dataclass(frozen=True)
class Stage:
    """run: takes minutes and a seed. require: raises TmacError if the stage cannot run here."""

    run: Callable[[float, int], Findings]
    require: Callable[[], object]


STAGES = (
    Stage(readers.run, readers.required_checkout),
    *([Stage(guided.run, readers.required_checkout)] if guided.is_possible() else []),
    Stage(loader.run, loader.require),
)


def run(arguments: Sequence[str]) -> None:
    """Fuzzes as the arguments of `tmac test` say, and prints what was found. Raises TmacError for a crash of ours."""
    parser = argparse.ArgumentParser(prog="tmac test", description=__doc__)
    parser.add_argument("--fuzz", type=minutes, required=True, metavar="MINUTES", help="minutes in all")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, other damage (default: 1)")
    args = parser.parse_args(arguments)
    for stage in STAGES:
        stage.require()
    crashes = 0
    for stage in STAGES:
        found = stage.run(args.fuzz / len(STAGES), args.seed)
        print(found.render())
        crashes += len(found.ours)
    if crashes:
        raise TmacError(f"{crashes} places of ours crash on damaged files", "the lines above name a file for each")
