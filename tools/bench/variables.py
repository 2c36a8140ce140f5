"""The variables by which a benchmark chooses what T-MAC's plugin computes with."""

from __future__ import annotations

from tmac.kernels import attention, repack


def chosen(kernel: str | None, precision: str | None, attention_kernel: str | None = None) -> dict[str, str | None]:
    """For the programs. What was not asked for is unset: a shell's own value would be measured without a word.

    Whole models set TMAC_REPACK by their types afterwards (model_run.py). Left to the shell is TMAC_DELTA_NET, which no
    benchmark has an option for (docs/benchmarks.md, Hybrid models).
    """
    return {
        "TMAC_KERNEL": kernel,
        "TMAC_PRECISION": precision,
        attention.VARIABLE: attention_kernel,
        repack.VARIABLE: None,
    }
