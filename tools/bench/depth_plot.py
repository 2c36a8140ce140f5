"""Pictures of `tmac bench model --depth`: tokens/s against the context, a line for each attention, the limit dashed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .depth_report import table_title, tables_of
from .model_report import matching
from .model_run import DECODE
from .panels import OTHER_COLOUR, STOCK_COLOUR, TMAC_COLOUR, fill, model_title, write_numbers

# Of each attention.
LOOKS = {
    "tmac": {"color": TMAC_COLOUR, "marker": "o"},
    "stock-fa": {"color": STOCK_COLOUR, "marker": "s"},
    "stock-no-fa": {"color": OTHER_COLOUR, "marker": "^"},
}


def draw_depths(figure, report: dict) -> None:
    """A panel for each table of the report."""
    fill(figure, model_title(report), [partial(_draw, results=group) for group in tables_of(report["results"])])


def _draw(panel, results: Sequence[dict]) -> None:
    """Both axes are logarithmic, but the one of contexts is linear from 0 to the first other one."""
    depths = sorted({result["depth"] for result in results})
    panel.set_xscale("symlog", base=2, linthresh=next((depth for depth in depths if depth), 1))
    panel.set_yscale("log")
    for attention in dict.fromkeys(result["attention"] for result in results):
        points = sorted((result["depth"], result["tokens_per_s"]) for result in matching(results, attention=attention))
        panel.plot(*zip(*points), label=attention, **LOOKS[attention])
    # The limits beside different attentions differ by noise only: the first one's stands for all.
    first = matching(results, attention=results[0]["attention"])
    if results[0]["phase"] == DECODE:
        limits = sorted((result["depth"], result["limit_tokens_per_s"]) for result in first)
        panel.plot(*zip(*limits), label="memory limit", color="black", linewidth=1, linestyle="--")
    panel.set_xticks(depths)
    write_numbers(panel)
    panel.set(xlabel="tokens in the context", ylabel="tokens/s", title=table_title(results[0]))
    panel.grid(axis="y", alpha=0.3)
    panel.legend(frameon=False)
