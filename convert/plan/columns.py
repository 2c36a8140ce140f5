"""The order of a layer's columns where the GGUF has its inputs in another order than the checkpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..readers.grid import Grid


def placed(grid: Grid, order: np.ndarray) -> Grid:
    """The grid of a layer whose input i in the GGUF is input order[i] in the checkpoint.

    Columns can be moved with their scales if groups stay whole: then the grid stays as it is. Otherwise they stay where
    they are, and column_order says which input of the GGUF each belongs to.
    """
    if grid.column_order is None and _keeps_groups(order, grid.group):
        return grid
    stored = np.arange(len(order)) if grid.column_order is None else grid.column_order
    return replace(grid, column_order=np.argsort(order)[stored])


def _keeps_groups(order: np.ndarray, group: int) -> bool:
    """Whether the order moves groups of so many columns as a whole; group 0: one scale for all."""
    if not group:
        return True
    if len(order) % group:
        return False
    # Runs as long as groups, which cover all columns, begin where groups do.
    runs = order.reshape(-1, group)
    return bool((runs == runs[:, :1] + np.arange(group)).all())
