"""Data and tables as what JSON can hold, and back, without loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bayestl import archive
from bayestl.columns import as_frame
from bayestl.decide.pool import shape_of
from bayestl.errors import DataError, listed
from bayestl.table import TaskData

ARRAYS = ("x", "task_index", "values", "errors", "details")


def plain(thing: Any, where: str) -> Any:
    """Numbers, text, booleans, and lists and mappings of them; NaN becomes None."""
    if isinstance(thing, np.generic | np.ndarray):
        thing = thing.tolist()
    if thing is None or thing is pd.NA or (isinstance(thing, float) and math.isnan(thing)):
        return None
    if isinstance(thing, str | bool | int) or (isinstance(thing, float) and math.isfinite(thing)):
        return thing
    if isinstance(thing, list | tuple):
        return [plain(item, where) for item in thing]
    if isinstance(thing, Mapping):
        return {str(name): plain(item, where) for name, item in thing.items()}
    raise DataError(
        f"{where} holds {thing!r}, a {type(thing).__name__}, which a journal cannot hold. Expected finite numbers, text or "
        "booleans: turn it into one of these."
    )


def of_table(table: Any, where: str) -> dict[str, Any]:
    """Write a table down, column by column."""
    frame = as_frame(table)
    if isinstance(frame.index, pd.MultiIndex):
        raise DataError(f"The labels of the rows of {where} must be single ones. Use table.reset_index().")
    if not frame.index.is_unique:
        again = frame.index[frame.index.duplicated()].unique().tolist()
        raise DataError(
            f"Each row of {where} needs a label of its own; these occur more than once: {listed(again)}. "
            "Use table.reset_index(drop=True)."
        )
    columns = {str(name): plain(frame[name].tolist(), f"Column {name!r} of {where}") for name in frame}
    return {"rows": plain(frame.index.tolist(), f"The index of {where}"), "columns": columns}


def to_table(written: Mapping[str, Any]) -> pd.DataFrame:
    """Read such a table."""
    return pd.DataFrame(written["columns"], index=pd.Index(written["rows"]))


def of_candidates(candidates: Any) -> dict[str, Any]:
    """Write candidates down: a table, a table for each task, or bounds."""
    shape = shape_of(candidates)
    if shape == "tables":
        return {"tables": {name: of_table(own, f"the candidates of {name!r}") for name, own in candidates.items()}}
    if shape == "bounds":
        sides = {
            name: {"from" if isinstance(side, tuple) else "any of": plain(list(side), f"The bounds of {name!r}")}
            for name, side in candidates.items()
        }
        return {"bounds": sides}
    return {"table": of_table(candidates, "the candidates")}


def to_candidates(written: Mapping[str, Any]) -> Any:
    """Read candidates."""
    if "table" in written:
        return to_table(written["table"])
    if "tables" in written:
        return {name: to_table(own) for name, own in written["tables"].items()}
    return {
        name: tuple(side["from"]) if "from" in side else list(side["any of"])
        for name, side in written["bounds"].items()
    }


def of_data(data: TaskData) -> dict[str, Any]:
    """Write observations down."""
    if data.parts is not None:
        raise DataError("A campaign begins with data in memory; got a table larger than that. Give a part of it.")
    return {
        "inputs": [{**dataclasses.asdict(i), "levels": plain(i.levels, f"Input {i.name!r}")} for i in data.inputs],
        "tasks": [
            {
                "name": task.name,
                "unit": task.unit,
                "likelihood": archive.describe(task.likelihood),
                "levels": plain(task.levels, f"Task {task.name!r}"),
            }
            for task in data.tasks
        ],
        "features": [[name, archive.describe(own)] for name, own in data.features],
        "descriptors": None if data.descriptors is None else of_table(data.descriptors, "the descriptors of tasks"),
        "rows": archive._plain_list(data.rows),
        **{name: _numbers(getattr(data, name)) for name in ARRAYS},
    }


def to_data(written: Mapping[str, Any]) -> TaskData:
    """Read observations."""
    columns = archive.read_columns(written)
    count = len(columns["rows"])
    shapes = {"x": (count, len(columns["inputs"])), "details": (count, 2)}
    arrays: dict[str, Any] = {
        name: np.array(written[name], dtype=np.int64 if name == "task_index" else float).reshape(
            shapes.get(name, count)
        )
        for name in ARRAYS
    }
    return TaskData(
        **columns,
        descriptors=None if written["descriptors"] is None else to_table(written["descriptors"]),
        **arrays,
    )


def _numbers(array: Any) -> Any:
    """Lists of numbers, with None for NaN and text for infinities, which JSON lacks."""
    whole = np.asarray(array)
    if np.isfinite(whole).all():
        return whole.tolist()
    kept = whole.astype(object)
    kept[np.isnan(whole)] = None
    kept[np.isposinf(whole)], kept[np.isneginf(whole)] = "inf", "-inf"
    return kept.tolist()


def settings_of(goal: Any, constraints: Mapping[str, Any] | None, costs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Write down what is wanted, and what it costs."""
    if callable(goal):
        raise DataError("`goal` must be text, a number or a mapping.")
    found = {name: own for name, own in (costs or {}).items() if own is not None}
    return {
        "goal": plain(goal, "`goal`"),
        "constraints": None if constraints is None else plain(constraints, "`constraints`"),
        "costs": None if costs is None else {name: plain(own, f"The cost of {name!r}") for name, own in found.items()},
    }


def constraints_of(written: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Read constraints: edges are tuples."""
    return (
        None
        if written is None
        else {name: tuple(own) if isinstance(own, list) else own for name, own in written.items()}
    )


def known(name: str, names: tuple[str, ...] | list[str], what: str) -> str:
    """Refuse a name that is not among those known."""
    if name not in names:
        raise DataError(f"{what} must be one of {listed(list(names), 20)}; got {name!r}.")
    return name
