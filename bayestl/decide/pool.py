"""Candidates: what could be measured, in which tasks, and at what cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import Tensor

from bayestl.columns import as_frame
from bayestl.errors import DataError, listed, notice
from bayestl.posterior import Posterior
from bayestl.scaling import Scaling
from bayestl.selection import marks_at
from bayestl.table import TaskData

SPREAD = 2048  # quasi-random points within bounds
FEW = 12  # whole numbers that an input may count
NEAR = 0.05  # of each side: as close to what shall be avoided nothing is offered
OWN = ("row", "task", "score", "gain", "cost", "why")  # columns of the answer


class NothingOfferedError(ValueError):
    """There is no candidate left."""


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds: for each input an interval, or the values that it may take; and the places to be avoided, with their tasks."""

    sides: Mapping[str, tuple[float, float] | list[Any]]
    scaling: Scaling
    data: TaskData
    avoid: Sequence[tuple[int, Mapping[str, Any]]] = ()

    def pool(self, cube: NDArray[np.float64], costs: Mapping[str, Any] | None) -> Pool:
        """Candidates at points (R, d) of the unit cube."""
        columns: dict[str, Any] = {}
        for j, (name, side) in enumerate(self.sides.items()):
            if isinstance(side, tuple):
                columns[name] = side[0] + (side[1] - side[0]) * cube[:, j]
            else:
                columns[name] = [side[int(u * len(side))] for u in np.minimum(cube[:, j], 1 - 1e-12)]
        frame = pd.DataFrame(columns)
        listed_ = np.ones((len(frame), len(self.data.tasks)), dtype=bool)
        pool = _pool(self.data, self.scaling, frame, [None] * len(frame), listed_, costs)
        offered = pool.offered.copy()
        for t, place in self.avoid:
            near = np.ones(len(frame), dtype=bool)
            for name, side in self.sides.items():
                own = frame[name].to_numpy()
                near &= (
                    np.abs(own - place[name]) <= NEAR * (side[1] - side[0])
                    if isinstance(side, tuple)
                    else own == place[name]
                )
            offered[near, t] = False
        return dataclasses.replace(pool, offered=offered, cube=cube, box=self)

    def around(
        self,
        cube: NDArray[np.float64],
        width: float,
        copies: int,
        costs: Mapping[str, Any] | None,
        rng: np.random.Generator,
    ) -> Pool:
        """Candidates near others, which differ by `width` of the bounds."""
        moved = cube.repeat(copies, 0)
        smooth = np.array([isinstance(side, tuple) for side in self.sides.values()])
        moved = np.where(smooth, np.clip(moved + width * rng.standard_normal(moved.shape), 0.0, 1.0), moved)
        return self.pool(moved, costs)


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates, in an order that depends on their inputs alone.

    Attributes
    ----------
    frame : (R rows) the caller's columns
    labels : the caller's names of the rows
    x : (R, columns) inputs in the model's units
    listed : (R, T) where a candidate is one of a task's
    among : (R, T) where its inputs are those of one of the task's
    offered : (R, T) where it may be chosen: listed, and with a cost
    costs : (R, T), NaN where not offered
    cube, box : of continuous bounds
    """

    frame: pd.DataFrame
    labels: list[Any]
    x: Tensor
    listed: NDArray[np.bool_]
    among: NDArray[np.bool_]
    offered: NDArray[np.bool_]
    costs: NDArray[np.float64]
    cube: NDArray[np.float64] | None = None
    box: Box | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def tasks(self) -> list[int]:
        """Tasks in which something is offered."""
        return np.flatnonzero(self.offered.any(0)).tolist()

    def take(self, rows: NDArray[np.int64]) -> Pool:
        """Select rows."""
        return dataclasses.replace(
            self, frame=self.frame.iloc[rows], labels=[self.labels[r] for r in rows], x=self.x[torch.from_numpy(rows)],
            listed=self.listed[rows], among=self.among[rows], offered=self.offered[rows], costs=self.costs[rows],
            cube=None if self.cube is None else self.cube[rows],
        )  # fmt: skip

    def plus(self, other: Pool) -> Pool:
        """One after the other."""
        return dataclasses.replace(
            self, frame=pd.concat([self.frame, other.frame]), labels=self.labels + other.labels,
            x=torch.cat([self.x, other.x]), listed=np.concatenate([self.listed, other.listed]),
            among=np.concatenate([self.among, other.among]),
            offered=np.concatenate([self.offered, other.offered]), costs=np.concatenate([self.costs, other.costs]),
            cube=None if self.cube is None or other.cube is None else np.concatenate([self.cube, other.cube]),
        )  # fmt: skip

    def only(self, task: int) -> Pool:
        """Offer one task alone, and the candidates that it is offered for."""
        kept = np.flatnonzero(self.offered[:, task])
        pool = self.take(kept)
        return dataclasses.replace(pool, offered=pool.offered & (np.arange(pool.offered.shape[1]) == task))

    def but(self, known: Sequence[Tensor]) -> Pool:
        """Without the pairs of a table that are known: for each task the inputs at which it was measured, say."""
        if self.box is not None:
            return self
        gone = np.stack([among(self.x, own) for own in known], -1)
        return dataclasses.replace(self, offered=self.offered & ~gone)

    def details(self, posterior: Posterior, task: int, say: bool = False) -> Tensor:
        """Limits or exposures of the candidates, (R, 2); of those of other tasks' lists, what holds for all.

        Which columns the candidates lack is said, if `say`.
        """
        own = np.flatnonzero(self.listed[:, task])
        out = np.tile(np.array(posterior.data.tasks[task].likelihood.constants()), (len(self), 1))
        out[own] = posterior._details(self.frame.iloc[own], task, len(own), say)
        return torch.from_numpy(out)

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Number of the inputs of each candidate, the same for the same inputs."""
        return pd.factorize(marks_at(self.x))[0]

    @property
    def pairs(self) -> int:
        """How many pairs of inputs and a task are offered."""
        rows, tasks = np.nonzero(self.offered)
        return len(np.unique(self.places[rows] * self.offered.shape[1] + tasks))

    def of(self, task: int) -> NDArray[np.int64]:
        """Rows of a task's own list; all rows where it has none."""
        rows = np.flatnonzero(self.listed[:, task]) if task >= 0 else np.empty(0, dtype=np.int64)
        return rows if len(rows) else np.arange(len(self))


def among(x: Tensor, others: Tensor) -> NDArray[np.bool_]:
    """Which points are among others."""
    return np.isin(marks_at(x), marks_at(others))


def shape_of(candidates: Any) -> Literal["table", "tables", "bounds"]:
    """How candidates are given: one table, a table for each task, or bounds."""
    if isinstance(candidates, Mapping) and not isinstance(candidates, xr.Dataset) and len(candidates):
        if all(isinstance(value, pd.DataFrame | xr.Dataset | Mapping) for value in candidates.values()):
            return "tables"
        if any(isinstance(value, tuple) for value in candidates.values()):
            return "bounds"
    return "table"


def pool_of(
    data: TaskData,
    scaling: Scaling,
    candidates: Any,
    costs: Mapping[str, Any] | None,
    seed: int,
    avoid: pd.DataFrame | None = None,
) -> Pool:
    """Read candidates, in any of their shapes, but for the pairs of inputs and a column ``task`` that shall be avoided."""
    refuse_names(data, OWN, "what is suggested")
    for name in costs or ():
        data.index_of(name)
    costs = in_order(costs, candidates)
    if (shape := shape_of(candidates)) == "bounds":
        pool = _within(data, scaling, candidates, costs, seed, avoid)
    else:
        pool = _listed(data, scaling, candidates, costs, shape)
        for task, part in () if avoid is None else avoid.groupby("task"):
            pool.offered[among(pool.x, scaling.inputs(data.encode(part))), data.index_of(str(task))] = False
    if not pool.offered.any():
        raise NothingOfferedError("All candidates are to be avoided. Offer others.")
    return pool


def _listed(data: TaskData, scaling: Scaling, candidates: Any, costs: Mapping[str, Any] | None, shape: str) -> Pool:
    if isinstance(candidates, Mapping) and shape == "table" and not isinstance(candidates, xr.Dataset):
        _expect_rows(candidates)
    frames: dict[str | None, Any] = dict(candidates) if shape == "tables" else {None: candidates}
    parts, labels, masks = [], [], []
    for owner, table in frames.items():
        frame = as_frame(table)
        own = np.zeros((len(frame), len(data.tasks)), dtype=bool)
        own[:, slice(None) if owner is None else data.index_of(owner)] = True
        parts.append(frame)
        labels += frame.index.tolist()
        masks.append(own)
    frame = parts[0].reset_index(drop=True) if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    if len(frame) == 0:
        raise DataError("The table of candidates has no rows. Expected at least one.")
    pool = _pool(data, scaling, frame.set_axis(pd.Index(labels), axis=0), labels, np.concatenate(masks), costs)
    return pool.take(np.lexsort(pool.x.numpy().T[::-1]))  # no answer may depend on the order of the rows


def _expect_rows(columns: Mapping[str, Any]) -> None:
    """Refuse lists that are no columns of a table, and name those that look like bounds."""
    advice = (
        "Bounds are tuples, {'x': (0.0, 1.0), 'y': ['a', 'b']}, lists what an input may take beside these; for all "
        "combinations of lists give pandas.MultiIndex.from_product(values, names=names).to_frame(index=False)."
    )
    sizes = {name: np.size(cells) for name, cells in columns.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"Candidates given as lists are the columns of a table, of one length; got {listed(list(sizes.values()), 8)} values "
            f"for {listed(list(sizes), 8)}. {advice}"
        )
    pairs = [np.asarray(cells) for cells in columns.values()]
    if len(pairs) > 1 and all(own.shape == (2,) and own.dtype.kind in "iuf" and own[0] < own[1] for own in pairs):
        notice(f"The candidates are a table of two rows, not bounds. {advice}")


def refuse_names(data: TaskData, columns: Sequence[str], what: str) -> None:
    """Refuse inputs that are called as a column of an answer is."""
    names = [*(column.name for column in data.inputs), *(name for name, _ in data.features)]
    if taken := [name for name in names if name in columns]:
        raise DataError(
            f"Inputs {listed(taken)} have the name of a column of {what} ({listed(columns, 20)}). Rename them."
        )


def _pool(
    data: TaskData, scaling: Scaling, frame: pd.DataFrame, labels: list[Any], mask: NDArray[np.bool_], costs: Any
) -> Pool:
    x = scaling.inputs(data.encode(frame))
    found = np.full(mask.shape, np.nan)
    for t, task in enumerate(data.tasks):
        if costs is None:
            found[:, t] = 1.0
        elif task.name in costs:
            found[mask[:, t], t] = costs_of(costs[task.name], task.name, frame, mask[:, t])
    offered = mask & ~np.isnan(found)
    if not offered.any():
        raise ValueError("No candidate is in a task that has a cost. Give `costs` for the tasks that can be measured.")
    among = mask
    if not mask.all():
        place = marks_at(x)
        among = np.stack([np.isin(place, place[own]) for own in mask.T], -1)
    return Pool(frame, labels, x, mask, among, offered, np.where(offered, found, np.nan))


def in_order(costs: Mapping[str, Any] | None, candidates: Any) -> dict[str, Any] | None:
    """Costs in the order of the candidates, where they are given by the labels of their rows, and of others perhaps."""
    if costs is None or (shape := shape_of(candidates)) == "bounds":
        return None if costs is None else dict(costs)
    out = dict(costs)
    for name, own in costs.items():
        if not isinstance(own, pd.Series) or (shape == "tables" and name not in candidates):
            continue
        labels = as_frame(candidates[name] if shape == "tables" else candidates).index
        if not own.index.equals(labels):
            lacking = [label for label in labels if label not in own.index]
            if lacking or not (own.index.is_unique and labels.is_unique):
                told = f"they lack {listed(lacking, 4)}" if lacking else "labels repeat"
                raise DataError(
                    f"`costs` of task {name!r} are labelled {listed(own.index.tolist(), 4)}, the candidates "
                    f"{listed(labels.tolist(), 4)}: they do not match, {told}. Label them alike, or give costs.to_list(), in "
                    "the order of the candidates."
                )
            own = own.loc[labels]
        out[name] = own.tolist()
    return out


def costs_of(given: Any, task: str, frame: pd.DataFrame, own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Costs of a task's candidates: one for all, a column, or one for each."""
    if isinstance(given, str):
        if given not in frame:
            raise DataError(f"`costs` of task {task!r} is to be in a column {given!r}, which the candidates lack.")
        values = pd.to_numeric(frame[given], errors="coerce").to_numpy(dtype=float)[own]
    else:
        values = np.asarray(given, dtype=float)
        if values.ndim and values.shape != (own.sum(),):
            raise ValueError(
                f"`costs` of task {task!r} must be a number, a column's name, or one number for each of its {own.sum()} "
                f"candidates; got shape {values.shape}."
            )
        values = np.broadcast_to(values, (int(own.sum()),))
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        where = listed(frame.index[own][bad].tolist())
        raise ValueError(f"Costs must be positive; that of task {task!r} is {values[bad][0]:g} (rows {where}).")
    return values


def expect_one_cost_each(costs: Mapping[str, Any]) -> None:
    """Refuse columns of costs where candidates lie within bounds."""
    if any(isinstance(cost, bool) or not isinstance(cost, int | float | np.number) for cost in costs.values()):
        raise ValueError("Within bounds, `costs` must be one number for each task.")


def _within(
    data: TaskData, scaling: Scaling, bounds: Mapping[str, Any], costs: Any, seed: int, avoid: pd.DataFrame | None
) -> Pool:
    if data.features:
        raise DataError(
            f"Bounds cannot describe {listed([name for name, _ in data.features])}. Give a table of candidates instead."
        )
    if set(bounds) != set(names := [column.name for column in data.inputs]):
        raise DataError(f"Bounds must name every input, {listed(names, 20)}; got {listed(list(bounds), 20)}.")
    sides: dict[str, Any] = {}
    for column in data.inputs:
        side = bounds[column.name]
        if not isinstance(side, tuple):
            if isinstance(side, str) or not isinstance(side, Iterable) or not len(choices := list(side)):
                raise ValueError(
                    f"Bounds of {column.name!r} must be a tuple (low, high), or a list of its values; got {side!r}."
                )
            sides[column.name] = choices
        elif column.levels is not None:
            raise DataError(f"Input {column.name!r} is a category: give a list of its levels, not bounds.")
        elif (
            len(side) != 2
            or not all(isinstance(edge, int | float | np.number) and np.isfinite(edge) for edge in side)
            or not side[0] < side[1]
        ):
            raise ValueError(
                f"Bounds of {column.name!r} must be (low, high), finite, low < high; got {side}. A list holds the values that an "
                "input may take: one, if it is fixed."
            )
        else:
            sides[column.name] = (float(side[0]), float(side[1]))
            seen = data.x[:, data.inputs.index(column)]
            if side[1] - side[0] <= FEW and len(np.unique(seen)) > 2 and (seen == seen.round()).all():
                whole = list(range(int(np.ceil(side[0])), int(side[1]) + 1))
                notice(
                    f"Input {column.name!r} was observed at whole numbers alone, and between its bounds others are offered too. "
                    f"If it has none, give the values that it may take: {{{column.name!r}: {whole}}}."
                )
    expect_one_cost_each(costs or {})
    cube = qmc.Sobol(len(sides), scramble=True, rng=seed).random(SPREAD)
    if avoid is not None:
        data.encode(avoid)  # refused where an input is missing
    places: list[Any] = [] if avoid is None else avoid.to_dict("records")
    return Box(sides, scaling, data, [(data.index_of(place["task"]), place) for place in places]).pool(cube, costs)
