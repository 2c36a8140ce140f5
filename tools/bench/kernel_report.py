"""The report of a benchmark of kernels, for programs (`--json`): the machine, how it was measured, the results."""

from __future__ import annotations

from collections.abc import Sequence

from tmac.common import cpu, packaged
from tmac.common.compilers import compiler_name

from .gemm import GemmTiming
from .gemv import GemvTiming


def kernel_report(
    benchmark: str, timings: Sequence[GemvTiming] | Sequence[GemmTiming], megabytes: int, rounds: int
) -> dict:
    """`benchmark`: the part of `tmac bench`. Raises TmacError without a compiler where one made the kernels here."""
    return {
        "benchmark": benchmark,
        "cpu": cpu.name(),
        "compiler": packaged.compiler() or compiler_name(),
        "megabytes": megabytes,
        "rounds": rounds,
        "results": [timing.as_dict() for timing in timings],
    }
