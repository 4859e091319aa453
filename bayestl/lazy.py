"""Predictions of tables that are not in memory: made part by part, when they are asked for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bayestl.errors import DataError
from bayestl.stream import Loader, length_of

Predict = Callable[[pd.DataFrame], xr.Dataset]


def lazily(predict: Predict, loaders: Sequence[Loader]) -> xr.Dataset:
    """Give the Dataset that `predict` would make of the whole table, as Dask arrays with a chunk along ``row`` for each part.

    Rows are numbered. Nothing is predicted before `compute`, or a write to disk, asks for it.
    """
    try:
        from dask import array as chunked
        from dask.delayed import delayed
    except ImportError as error:
        raise DataError("Predicting a table that is not in memory needs Dask: pip install 'bayestl[large]'.") from error
    lengths = [length_of(loader) for loader in loaders]
    filled = [(loader, count) for loader, count in zip(loaders, lengths, strict=True) if count]
    if not filled:
        raise DataError("The table of new inputs has no rows.")
    pattern = predict(filled[0][0]().head(1))
    parts = [(delayed(_values)(predict, loader), count) for loader, count in filled]
    out = pattern.drop_vars([*pattern.data_vars, "row"])
    out = out.assign_coords(row=np.arange(sum(lengths)))
    for name, variable in pattern.data_vars.items():
        axis = variable.dims.index("row")
        blocks = []
        for part, count in parts:
            shape = tuple(
                count if dim == "row" else size for dim, size in zip(variable.dims, variable.shape, strict=True)
            )
            block = delayed(operator.getitem)(part, name)
            blocks.append(chunked.from_delayed(block, shape, variable.dtype))
        out[name] = (variable.dims, chunked.concatenate(blocks, axis), variable.attrs)
    return out


def _values(predict: Predict, loader: Loader) -> dict[Any, Any]:
    return {name: variable.values for name, variable in predict(loader()).data_vars.items()}
