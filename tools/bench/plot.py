"""Pictures of results. Comes in: the report of `tmac bench model` or `tmac bench kernels`. Goes out: a picture file.

Needs matplotlib, which is an optional part of the installation; draws without a display.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tmac.common.format import parse_type
from tmac.convert.write.atomic import replacing

from ..errors import ToolError
from .depth_plot import draw_depths
from .model_benchmark import counted
from .model_report import size_of
from .model_run import BATCH, DECODE, PROMPT
from .panels import (
    DOTS_PER_INCH,
    OTHER_COLOUR,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    STOCK_COLOUR,
    TMAC_COLOUR,
    fill,
    model_title,
    write_numbers,
)
from .stock_types import RIVALS

FORMATS = (".png", ".svg", ".pdf")
BITS_COLOURS = {1: "#7c3aed", 2: "#c2410c", 3: "#0f766e", 4: "#1d4ed8"}
# Labels of points of equal bits that lie closer than this share of the axis would cover each other.
LABEL_SPACE = 0.06
FAMILIES = ((True, "T-MAC", TMAC_COLOUR, "o-"), (False, "llama.cpp", STOCK_COLOUR, "s"))
TMAC_STYLE = {"linestyle": "-", "marker": "o"}
SIZES = {PROMPT: ("prompts", "tokens of the prompt"), BATCH: ("batches", "sequences decoded at once")}
RIVAL_STYLES = ({"linestyle": "--", "marker": "s"}, {"linestyle": ":", "marker": "^"})


HINT = "write it with: tmac bench model --json > FILE, or tmac bench kernels --json > FILE"


def check(output: Path) -> None:
    """Raises ToolError without matplotlib or for a file name that is no picture's. To be called before measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ToolError("pictures need matplotlib, which is not installed", "pip install 'tmac[plot]'")
    if output.suffix not in FORMATS:
        raise ToolError(f"{output}: the name says no picture format", f"let it end with {', '.join(FORMATS)}")


def read(path: Path) -> dict:
    """A report of `tmac bench` from a JSON file. Raises ToolError for a file that is none; trusts what is in one."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise ToolError(f"{path} is not JSON", HINT) from None
    if not (isinstance(data, dict) and data.get("benchmark") in tuple(DRAWINGS) and data.get("results")):
        raise ToolError(f"{path} holds no results of a benchmark: {', '.join(DRAWINGS)}", HINT)
    return data


def draw(report: dict, output: Path, force: bool = False) -> None:
    """Writes a picture of what `read` or a benchmark returned. Raises ConvertError, like check_target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(layout="constrained", dpi=DOTS_PER_INCH)
        DRAWINGS[report["benchmark"]](figure, report)
        with replacing(output, force) as file:
            figure.savefig(file, format=output.suffix[1:])


def _draw_model(figure, report: dict) -> None:
    drawings = [drawing for phase in (DECODE, PROMPT, BATCH) for drawing in _drawings(report["results"], phase)]
    fill(figure, model_title(report), drawings)


def _drawings(results: Sequence[dict], phase: str) -> list[Callable[[Any], None]]:
    """A phase of one size is drawn against bits and against threads, one of several against sizes for each number of
    threads.
    """
    results = [result for result in results if result["phase"] == phase]
    if not results:
        return []
    if len({size_of(result) for result in results}) == 1:
        return [partial(_draw_by_bits, results=results), partial(_draw_by_threads, results=results)]
    return [
        partial(_draw_by_size, results=[result for result in results if result["threads"] == threads])
        for threads in sorted({result["threads"] for result in results})
    ]


def _speed(result: dict) -> str:
    """What an axis shows of results that are like this one."""
    phase = result["phase"]
    return f"{phase if phase == DECODE else f'{phase} of {size_of(result)}'}, tokens/s"


def _draw_by_bits(panel, results: Sequence[dict]) -> None:
    """T-MAC's types are joined by a line; the more threads, the darker. Names stand at the most threads."""
    counts = sorted({result["threads"] for result in results})
    top = max(result["tokens_per_s"] for result in results)
    for place, threads in enumerate(counts):
        alpha = 1 - 0.6 * (len(counts) - 1 - place) / max(len(counts) - 1, 1)
        for is_tmac, name, colour, style in FAMILIES:
            points = sorted(
                (result["bits_per_weight"], result["tokens_per_s"], result["type"])
                for result in results
                if result["threads"] == threads and result["is_tmac"] == is_tmac
            )
            if not points:
                continue
            bits, speeds, _ = zip(*points)
            panel.plot(bits, speeds, style, color=colour, alpha=alpha, label=f"{name}, {counted(threads, 'thread')}")
            if threads == counts[-1]:
                for x, y, text in merge_labels(points, top * LABEL_SPACE):
                    panel.annotate(text, (x, y), (5, 5), textcoords="offset points", color=colour, fontsize=8)
    panel.legend(frameon=False)
    panel.set(xlabel="bits per weight", ylabel=_speed(results[0]), title="speed against bits")
    panel.set_ylim(bottom=0)
    panel.grid(axis="y", alpha=0.3)


def merge_labels(points: Sequence[tuple[float, float, str]], space: float) -> list[tuple[float, float, str]]:
    """Names of sorted points (x, y, name); those of one x that are not `space` apart become one, at the highest."""
    merged: list[tuple[float, float, str]] = []
    for x, y, name in points:
        if merged and merged[-1][0] == x and y - merged[-1][1] < space:
            merged[-1] = (x, y, f"{merged[-1][2]}, {name}")
        else:
            merged.append((x, y, name))
    return merged


def _draw_by_threads(panel, results: Sequence[dict]) -> None:
    _draw_lines(panel, results, lambda result: result["threads"])
    panel.set(xlabel="threads", ylabel=_speed(results[0]), title="speed against threads")
    panel.set_ylim(bottom=0)


def _draw_by_size(panel, results: Sequence[dict]) -> None:
    """Both axes are logarithmic; the numbers at them are written out."""
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    _draw_lines(panel, results, size_of)
    write_numbers(panel)
    title, sizes = SIZES[results[0]["phase"]]
    panel.set(xlabel=sizes, ylabel="tokens/s", title=f"{title}, {counted(results[0]['threads'], 'thread')}")


def _draw_lines(panel, results: Sequence[dict], place: Callable[[dict], int]) -> None:
    """A line for each type. The legend has the order of the lines' ends; types that compete share a colour."""
    lines = {}
    for result in results:
        lines.setdefault((result["type"], result["is_tmac"]), []).append((place(result), result["tokens_per_s"]))
    for (name, is_tmac), points in sorted(lines.items(), key=lambda line: -max(line[1])[1]):
        places, speeds = zip(*sorted(points))
        panel.plot(places, speeds, label=name, **_look(name, is_tmac))
    panel.set_xticks(sorted({place(result) for result in results}))
    panel.grid(axis="y", alpha=0.3)
    panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _look(name: str, is_tmac: bool) -> dict[str, str]:
    if is_tmac:
        return {"color": BITS_COLOURS[parse_type(name).bits], **TMAC_STYLE}
    for bits, rivals in RIVALS.items():
        if name in rivals:
            return {"color": BITS_COLOURS[bits], **RIVAL_STYLES[rivals.index(name)]}
    return {"color": OTHER_COLOUR, **RIVAL_STYLES[0]}


def _draw_kernels(figure, report: dict) -> None:
    """Bars: share of the read bandwidth, by type and shape, one colour for each instruction set; a panel for each
    number of threads.
    """
    measurements = report["results"]
    counts = sorted({row["threads"] for row in measurements})
    figure.set_size_inches(2 * PANEL_WIDTH, PANEL_HEIGHT * len(counts) + 0.5)
    figure.suptitle(report["cpu"], fontweight="bold")
    for panel, threads in zip(figure.subplots(len(counts), 1, squeeze=False)[:, 0], counts):
        rows = [(*_bar(row), row["ratio"]) for row in measurements if row["threads"] == threads]
        names = list(dict.fromkeys(name for name, _, _ in rows))
        kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
        width = 0.8 / len(kinds)
        for index, kind in enumerate(kinds):
            shift = width * (index - (len(kinds) - 1) / 2)
            bars = [(names.index(name) + shift, ratio) for name, other, ratio in rows if other == kind]
            panel.bar(*zip(*bars), width, label=kind)
        panel.axhline(1, color=STOCK_COLOUR, linewidth=0.8, linestyle=":")
        panel.set_xticks(range(len(names)), names)
        panel.set(ylabel="share of the read bandwidth", title=f"decode kernels, {counted(threads, 'thread')}")
        panel.legend(frameon=False)


def _bar(row: dict) -> tuple[str, str]:
    """Where a bar of tmac_gemv_<type>_<rest> stands (its type and shape), and its label: <rest>."""
    _, _, weight_type, kind = row["kernel"].split("_", 3)
    return f"{weight_type}\n{row['rows']} x {row['cols']}", kind


# What draws the report of each benchmark.
DRAWINGS = {"model": _draw_model, "depth": draw_depths, "kernels": _draw_kernels}
