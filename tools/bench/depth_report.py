"""The results of `tmac bench model --depth` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tmac.common import tables

from .context import ATTENTIONS
from .model_benchmark import counted
from .model_report import kernel_list, machine_line, matching, model_line
from .model_run import DECODE

# What the results of one table have in common.
TABLE_FIELDS = ("type", "cache", "phase", "tokens", "threads")
NOTES = (
    "Tokens/s after a context of so many tokens; medians of alternating rounds. tmac: T-MAC's attention; stock-fa, "
    "stock-no-fa: llama.cpp's with and without flash attention, of the same binary. Times as fast: as the faster of "
    "llama.cpp's, median of the ratios within each round."
)
LIMIT_NOTE = (
    "Limit: tokens/s if each token read the weights and the context's cache once, as fast as so many threads read "
    "memory beside the runs. Share of limit: of tmac, median of the shares within each round."
)


def render(report: dict) -> str:
    """A heading, the machine, the tables, the kernels, the notes. `report`: of depth_benchmark.report."""
    results = report["results"]
    parts = [f"# {model_line(report)}", machine_line(report)]
    for group in tables_of(results):
        parts += _table(group)
    parts += [*kernel_list(results), *report["left_out"], NOTES]
    if any(result["phase"] == DECODE for result in results):
        parts.append(LIMIT_NOTE)
    if beyond := [result for result in results if (result["share_of_limit"] or 0) > 1]:
        places = [f"{table_title(each)}, context {each['depth']}, {each['attention']}" for each in beyond]
        parts.append(f"**Above the limit, which is wrong there** (does a cache hold it all?): {'; '.join(places)}.")
    return "\n\n".join(parts)


def tables_of(results: Sequence[dict]) -> list[list[dict]]:
    """The results of each table, or panel of a picture."""
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        groups.setdefault(tuple(result[name] for name in TABLE_FIELDS), []).append(result)
    return list(groups.values())


def table_title(result: dict) -> str:
    """What the results of a table or panel have in common, by one of them."""
    what = DECODE if result["phase"] == DECODE else f"prompt of {counted(result['tokens'], 'token')}"
    return f"{result['type']}: {what}, {result['cache']} cache, {counted(result['threads'], 'thread')}"


def _table(results: Sequence[dict]) -> list[str]:
    """A row for each depth, a column for each attention."""
    names = [attention.name for attention in ATTENTIONS if matching(results, attention=attention.name)]
    is_decode = results[0]["phase"] == DECODE
    heads = ["context", *names, *(["limit", "share of limit"] if is_decode else []), "times as fast"]
    rows = []
    for depth in dict.fromkeys(result["depth"] for result in results):
        row = {result["attention"]: result for result in matching(results, depth=depth)}
        ours = row[names[0]]
        limit = [f"{ours['limit_tokens_per_s']:.1f}", f"{ours['share_of_limit']:.2f}"] if is_decode else []
        faster = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ours["fastest_stock"].items())
        rows.append([str(depth), *(f"{row[name]['tokens_per_s']:.1f}" for name in names), *limit, faster])
    return [f"## {table_title(results[0])}", tables.render(heads, rows, ("times as fast",))]
