"""Hand labelled groups over to whichever ArviZ is installed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import xarray as xr


def to_arviz(groups: Mapping[str, xr.Dataset]) -> Any:
    """`arviz.InferenceData` under ArviZ 0.x, `xarray.DataTree` under ArviZ 1.x and where there is no ArviZ."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 announces 1.0 at every import
            import arviz
    except ImportError:
        return xr.DataTree.from_dict(dict(groups))
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(**groups)  # type: ignore[arg-type, unused-ignore]
    return xr.DataTree.from_dict(dict(groups))
