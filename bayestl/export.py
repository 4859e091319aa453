"""Hand labelled groups and tables over to whichever ArviZ is installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd
import xarray as xr


def to_arviz(groups: Mapping[str, xr.Dataset]) -> Any:
    """`arviz.InferenceData` under ArviZ 0.x, `xarray.DataTree` under ArviZ 1.x and where there is no ArviZ."""
    if _older():
        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 announces 1.0 at every import
            import arviz

            return arviz.InferenceData(**groups)  # type: ignore[arg-type, unused-ignore]
    return xr.DataTree.from_dict(dict(groups))


def for_plot_compare(table: pd.DataFrame) -> pd.DataFrame:
    """A table of models with what `arviz.plot_compare` looks for: ``elpd``, and under ArviZ 0.x ``elpd_loo`` and ``scale``."""
    return table.assign(elpd_loo=table["elpd"], scale="log") if _older() else table


def _older() -> bool:
    """Whether the ArviZ installed is a 0.x."""
    try:
        return importlib.metadata.version("arviz").startswith("0.")
    except importlib.metadata.PackageNotFoundError:
        return False
