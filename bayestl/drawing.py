"""Where pictures are drawn, and in which colours."""

from __future__ import annotations

from typing import Any

from bayestl.errors import DataError

DARK, LIGHT, ACCENT = "#334", "#99b", "#c52"


def axes(ax: Any = None) -> Any:
    """Give the axes, or new ones."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise DataError("Pictures need matplotlib: pip install matplotlib.") from error
    return plt.subplots(figsize=(4.5, 3.8), layout="constrained")[1]
