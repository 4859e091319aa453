"""Pictures of how a campaign went. Each draws into the axes given, or new ones, and returns them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayestl.drawing import axes
from bayestl.errors import DataError, listed

DARK, LIGHT, ACCENT = "#334", "#99b", "#c52"
COLOURS = {"bayestl": ACCENT, "target-only": "#27a", "single-task": DARK, "random": LIGHT}


def plot_history(history: pd.DataFrame, target: str, unit: str, bests: np.ndarray, ax: Any) -> Any:
    """Results of the target, and the best before the first line and after each, against what was spent."""
    if np.isnan(bests).all():
        raise DataError(f"The goal of this campaign has no best value of {target!r} to draw. See `history()`.")
    ax = axes(ax)
    done = history[history["event"] != "asked"]
    ax.axhline(bests[0], color=LIGHT, linewidth=1, linestyle="--", label="best at the start")
    ax.step([0.0, *done["spent"]], [bests[0], *done["best"]], where="post", color=DARK, label="best so far")
    own = done[(done["task"] == target) & (done["event"] == "told")]
    ax.plot(own["spent"], own["value"].astype(float), "o", color=ACCENT, markersize=4, label="measured")
    ax.legend(frameon=False)
    ax.set(xlabel="spent", ylabel=f"best {target}" + (f" ({unit})" if unit else ""))
    return ax


def plot_replay(table: pd.DataFrame, y: str = "regret", ax: Any = None) -> Any:
    """Median over the seeds of each strategy against cost, with the quartiles; `y` is a column of what `replay` gives.

    Raises
    ------
    DataError
        When there is no such column, or it is empty.
    """
    if y not in table or table[y].isna().all():
        raise DataError(f"Expected a column of numbers; got {y!r}. The table has {listed(list(table), 20)}.")
    ax = axes(ax)
    grid = np.linspace(0.0, table.groupby(["strategy", "seed"])["cost"].max().median(), 200)
    for strategy, own in table.dropna(subset=[y]).groupby("strategy", sort=False):
        curves = [_held(run["cost"].to_numpy(), run[y].to_numpy(), grid) for _, run in own.groupby("seed")]
        low, middle, high = np.quantile(np.array(curves), [0.25, 0.5, 0.75], axis=0)
        (line,) = ax.plot(grid, middle, label=str(strategy), color=COLOURS.get(str(strategy)))
        ax.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel="cost", ylabel=y)
    ax.legend(frameon=False)
    return ax


def _held(cost: np.ndarray, value: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Value at each cost of the grid: that of the last step by then."""
    return value[np.maximum(np.searchsorted(cost, grid, side="right") - 1, 0)]
