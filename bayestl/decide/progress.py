"""The picture of how a campaign went."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayestl.drawing import ACCENT, DARK, LIGHT, axes
from bayestl.errors import DataError


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
