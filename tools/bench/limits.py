"""What the silicon allows a model: tokens a second from the read bandwidth and the peaks of the instruction sets.

Comes in: this machine. Goes out: `Limits`, and sentences for `tmac doctor --speed`. No kernel of these instruction sets
can be faster; how near it comes is what `tmac bench gemm` and `tmac bench kernels` show. AMX has no loop and is faster,
so a CPU with AMX has no limit for prompts.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass

from tmac.common.format import BITS, TmacType
from tmac.kernels import native
from tmac.kernels.isa import ISAS

from . import peaks
from .loops import MAX_THREADS
from .reading import read_bandwidth

# The weights of the linear layers of Llama-2-7B, which every token multiplies, and their groups.
WEIGHTS, GROUP = 6_476_005_376, 128
ROUNDS = 5


@dataclass(frozen=True)
class Limits:
    """peaks: (instruction set, kind of activations) -> multiply-adds a second of one thread, of one-bit weights for
    tables; gigabytes: bytes read a second / 1e9 by `threads` threads, one for each core; is_whole: whether no faster
    instruction set serves prompts here.
    """

    peaks: dict[tuple[str, str], float]
    gigabytes: float
    threads: int
    is_whole: bool = True

    def decoding(self, bits: int) -> float:
        """Tokens a second when each token reads every weight once."""
        return self.gigabytes * 8e9 / (WEIGHTS * TmacType(bits, GROUP).bits_per_weight)

    def prompt(self, bits: int) -> float:
        """Tokens a second when all threads multiply at the higher peak; 0 where no peak is known."""
        rates = [rate / (bits if kind == "tables" else 1) for (_, kind), rate in self.peaks.items()]
        return self.threads * max(rates, default=0) / WEIGHTS


def measure() -> Limits:
    """Takes a few seconds. Raises TmacError."""
    library = native.library()
    runs = [isa for isa in ISAS if isa.name in peaks.LOOPS and library.runs_isa(isa)]
    found = {
        (isa.name, kind): statistics.median(peaks.measure(isa, kind) for _ in range(ROUNDS))
        for isa in runs
        for kind in peaks.LOOPS[isa.name]
    }
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    is_whole = not any(isa.gemm_forms and library.runs_isa(isa) for isa in ISAS[: _first_with_loop()])
    return Limits(found, read_bandwidth(threads), threads, is_whole)


def _first_with_loop() -> int:
    """The position in ISAS of the fastest instruction set that has a loop."""
    return next(position for position, isa in enumerate(ISAS) if isa.name in peaks.LOOPS)


def peaks_in_words(limits: Limits) -> dict[str, str]:
    """By instruction set."""
    words = {"int8": "int8 {:.0f}", "tables": "look-ups {:.0f} / bits"}
    said: dict[str, list[str]] = {}
    for (isa, kind), rate in limits.peaks.items():
        said.setdefault(isa, []).append(words[kind].format(rate / 1e9))
    return {isa: f"{', '.join(parts)}: 1e9 multiply-adds/s of 1 thread" for isa, parts in said.items()}


def limits_in_words(limits: Limits) -> dict[str, str]:
    """By weight type: at most so many tokens a second of Llama-2-7B."""
    said = {}
    for bits in BITS:
        prompt = f", prompts {limits.prompt(bits):.0f} by these peaks" if limits.peaks and limits.is_whole else ""
        name = TmacType(bits, GROUP).name
        said[name] = f"7B at most {limits.decoding(bits):.0f} tokens/s{prompt}, {limits.threads} threads"
    return said
