"""What the pictures of all benchmarks share: sizes, colours, panels two by two, axes of several powers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .model_benchmark import counted

TMAC_COLOUR, STOCK_COLOUR, OTHER_COLOUR = "#c2410c", "#475569", "#94a3b8"
PANEL_WIDTH, PANEL_HEIGHT, DOTS_PER_INCH = 6.4, 4.4, 150


def model_title(report: dict) -> str:
    """What stands above a picture of a model's speeds."""
    model = f"{report['shape']['name']}, {counted(report['layers'], 'layer')}"
    return f"{model}, llama-bench, {report['cpu']}"


def fill(figure, title: str, drawings: Sequence[Callable[[Any], None]]) -> None:
    """Panels, two in a line, each drawn by one function; a place that is left over stays empty."""
    columns = min(2, len(drawings))
    lines = math.ceil(len(drawings) / columns)
    figure.set_size_inches(columns * PANEL_WIDTH, PANEL_HEIGHT * lines + 0.5)
    figure.suptitle(title, fontweight="bold")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for draw_panel, panel in zip(drawings, panels):
        draw_panel(panel)
    for panel in panels[len(drawings) :]:
        panel.set_axis_off()


def write_numbers(panel) -> None:
    """Writes the numbers of two logarithmic axes out; at the side 1, 2 and 5 of each power."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
