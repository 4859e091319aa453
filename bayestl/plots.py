"""Pictures of what judges a posterior. Each draws into the axes given, or new ones, and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayestl.columns import by_name, distinct, marks_of
from bayestl.compare import TransferReport
from bayestl.drawing import ACCENT, DARK, LIGHT, axes
from bayestl.errors import DataError, listed
from bayestl.likelihoods import Log
from bayestl.likelihoods.numeric import warp_of
from bayestl.posterior import Posterior
from bayestl.scoring import calibration, expect_scores, reliability
from bayestl.stacking import Stack
from bayestl.table import TaskData

STRATEGIES = {"bayestl": ACCENT, "target-only": "#27a", "single-task": DARK, "random": LIGHT}
SLICE = 101  # points along an input
DECADES = 100  # factor that values must span for an axis to be logarithmic
TOLD = 4  # other inputs, in a title


def plot_calibration(scored: xr.Dataset, ax: Any = None) -> Any:
    """Coverage of central intervals of every level against the level, with two standard errors."""
    ax = axes(ax)
    curve = calibration(scored)
    ax.plot([0, 1], [0, 1], color=LIGHT, linewidth=1, linestyle="--")
    for name in curve["task"].values:
        own = curve.sel(task=name)
        (line,) = ax.plot(own["level"], own["coverage"], label=str(name))
        spread = 2 * own["coverage_se"]
        ax.fill_between(
            own["level"], own["coverage"] - spread, own["coverage"] + spread, color=line.get_color(), alpha=0.15
        )
    ax.set(xlabel="level of the interval", ylabel="share of values inside", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False)
    return ax


def plot_reliability(scored: xr.Dataset, task: str | None = None, ax: Any = None, bins: int | None = None) -> Any:
    """How often classes occur against the probability that they were given, with two standard errors.

    Of all tasks of classes, or one; in ten bins, or fewer of eight rows each where these are few.
    """
    ax = axes(ax)
    if task is not None:
        scored = scored.isel(row=np.flatnonzero(scored["task"].values == task))
    if bins is None:
        bins = int(np.clip(scored.sizes["row"] // 8, 2, 10))
    curve = reliability(scored, bins)
    ax.plot([0, 1], [0, 1], color=LIGHT, linewidth=1, linestyle="--")
    for name in curve["task"].values:
        own = curve.sel(task=name)
        ax.errorbar(
            own["probability"], own["frequency"], yerr=2 * own["frequency_se"], fmt="o-", markersize=4, linewidth=1,
            capsize=2, label=str(name),
        )  # fmt: skip
    ax.set(xlabel="probability given to a class", ylabel="share of the rows that are of it", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False)
    return ax


def plot_pit(scored: xr.Dataset, task: str | None = None, ax: Any = None, bins: int = 10) -> Any:
    """Histogram of the predictive probability below each measured value: flat, within the band, where calibrated."""
    ax = axes(ax)
    own = _of_task(scored, task)
    pit = own["pit"].values
    expected = len(pit) / bins
    spread = 2 * np.sqrt(expected * (1 - 1 / bins))
    ax.axhspan(max(0, expected - spread), expected + spread, color=LIGHT, alpha=0.3, linewidth=0)
    ax.axhline(expected, color=LIGHT, linewidth=1)
    # A value y of probability mass takes the place of all of [F(y-), F(y)] (Czado, Gneiting & Held 2009, as `scoring.covered`).
    half = own["mass"].values / 2 + 1e-9
    edges = np.linspace(0, 1, bins + 1)
    upto = ((edges[:, None] - (pit - half)) / (2 * half)).clip(0, 1)
    upto[0], upto[-1] = 0.0, 1.0
    ax.bar((edges[1:] + edges[:-1]) / 2, np.diff(upto, axis=0).sum(1), 0.9 / bins, color=DARK)
    ax.set(xlabel="probability below the measured value", ylabel="rows", xlim=(0, 1), title=_title(own))
    return ax


def plot_parity(scored: xr.Dataset, task: str | None = None, ax: Any = None, unit: str = "") -> Any:
    """Measured against predicted values: medians with bars of their 90 % intervals; `unit` by default theirs.

    The axes are logarithmic where all is positive and the measured values span a factor of a hundred.
    """
    ax = axes(ax)
    own = _of_task(scored, task)
    unit = unit or str(own["unit"].values[0])
    low, median, high, measured = (own[name].values for name in ("lower_90", "median", "upper_90", "measured"))
    ax.errorbar(
        median,
        measured,
        xerr=[median - low, high - median],
        fmt="o",
        color=DARK,
        ecolor=LIGHT,
        markersize=4,
        linewidth=1,
    )
    ends = [min(median.min(), measured.min()), max(median.max(), measured.max())]
    ax.plot(ends, ends, color=ACCENT, linewidth=1)
    if min(low.min(), measured.min()) > 0 and measured.max() > DECADES * measured.min():
        ax.set(xscale="log", yscale="log")
    suffix = f" ({unit})" if unit else ""
    ax.set(xlabel=f"predicted{suffix}", ylabel=f"measured{suffix}", title=_title(own))
    return ax


def plot_slice(
    posterior: Posterior | Stack,
    along: str,
    at: Mapping[str, Any] | None = None,
    tasks: str | Sequence[str] | None = None,
    ax: Any = None,
    noise: bool = False,
) -> Any:
    """Median and 90 % interval of tasks along one input, and what was observed where all others are the same.

    Each unit has a vertical axis of its own.

    Parameters
    ----------
    along : name of a numeric input, drawn over the range that was observed
    at : values of the other inputs; by default the median of numbers, and of others what occurs most. And of limits and exposures
        that are columns; exposures are 1 by default, and counts are drawn as they would be at the same
    tasks : of numbers or counts; by default all of them, of a stack its target
    noise : True draws intervals of new measurements, False those of the values underneath
    """
    data = posterior.data
    position = {name: j for j, name in data.numeric_inputs.items()}
    if along not in position:
        raise DataError(f"`along` must be a numeric input ({listed(list(position), 20)}); got {along!r}.")
    if tasks is None:
        tasks = posterior.target if isinstance(posterior, Stack) else [t.name for t in data.tasks if not t.levels]
    names = [tasks] if isinstance(tasks, str) else distinct(tasks, "tasks")
    chosen = {name: data.tasks[data.index_of(name)] for name in names}
    if classes := [name for name, task in chosen.items() if task.levels]:
        raise DataError(f"Classes have no median: leave {listed(classes)} out of `tasks`.")
    held, others = by_name(at, "at", "1.0"), [name for name in data.columns if name != along]
    details = [name for task in chosen.values() for name in task.likelihood.columns() if name is not None]
    if odd := [name for name in held if name not in (*others, *details)]:
        raise DataError(f"`at` names {listed(odd)}; beside {along!r} there are {listed([*others, *details], 20)}.")
    told = {name: held.pop(name) for name in details if name in held and name not in others}

    x = np.empty((SLICE, len(data.inputs)))
    for name in data.columns:
        own = data.made_of(name)
        x[:, own] = np.median(data.x[:, own], 0) if name in position else _most_frequent(data.x[:, own])
    x[:, position[along]] = np.linspace(data.x[:, position[along]].min(), data.x[:, position[along]].max(), SLICE)
    frame = data.decode(x).drop(columns=[data.inputs[j].name for name in held for j in data.made_of(name)])
    x = data.encode(frame.assign(**{name: [value] * SLICE for name, value in held.items()}))
    rest = [j for j in range(len(data.inputs)) if j != position[along]]
    same = (
        data.marks(data.x[:, rest], rest) == data.marks(x[:1, rest], rest) if rest else np.ones(len(data), dtype=bool)
    )

    ax = axes(ax)
    grid = data.decode(x).assign(**told)
    of_unit = _axes_of_units(ax, list(dict.fromkeys(task.unit for task in chosen.values())))
    lines = []
    for k, (name, task) in enumerate(chosen.items()):
        t, exposure, scale, own = data.index_of(name), task.likelihood.columns()[0], 1.0, of_unit[task.unit]
        if task.likelihood.kind == "count" and exposure is not None:
            grid[exposure] = told.get(exposure, 1.0)
            scale = grid[exposure].iloc[0] / data.details[:, 0]
        drawn = posterior.predict(grid, name, noise=noise, quantiles=(0.05, 0.5, 0.95))["quantile"]
        low, middle, high = drawn.transpose("quantile_level", "row").values
        label = f"{name} ({task.unit})" if task.unit and len(of_unit) > 1 else name
        lines += own.plot(x[:, position[along]], middle, color=f"C{k}", label=label)
        own.fill_between(x[:, position[along]], low, high, color=f"C{k}", alpha=0.15, linewidth=0)
        seen = same & (data.task_index == t)
        own.errorbar(
            data.x[seen, position[along]], (data.values * scale)[seen], yerr=data.errors[seen], fmt="o",
            color=f"C{k}", markersize=4, linewidth=1,
        )  # fmt: skip
    for unit, own in of_unit.items():
        own.set_ylabel(unit or "")
        if all(isinstance(warp_of(task.likelihood), Log) for task in chosen.values() if task.unit == unit):
            own.set_yscale("log")
    own_unit = data.inputs[position[along]].unit
    ax.set_xlabel(f"{along} ({own_unit})" if own_unit else along)
    ax.set_title(_held(data, x[0], [*others, *told], held | told), fontsize="medium")
    list(of_unit.values())[-1].legend(handles=lines, frameon=False)  # above all curves
    return ax


def plot_elbo(posterior: Posterior, ax: Any = None) -> Any:
    """Estimates of the evidence lower bound over the variational steps, each from a few draws: level where the fit has ended."""
    if len(posterior.record.elbo) == 0:
        raise DataError(f"A fit by method={posterior.record.method!r} has no evidence bound to draw.")
    ax = axes(ax)
    ax.plot(np.arange(1, len(posterior.record.elbo) + 1), posterior.record.elbo, color=DARK)
    ax.set(xlabel="step", ylabel="evidence lower bound (nats)")
    return ax


def plot_comparison(table: pd.DataFrame, ax: Any = None) -> Any:
    """Difference of the expected log predictive density to the best model, with one standard error."""
    ax = axes(ax)
    order = np.arange(len(table))[::-1]
    ax.errorbar(-table["elpd_diff"], order, xerr=table["dse"], fmt="o", color=DARK, ecolor=LIGHT, capsize=3)
    ax.axvline(0, color=ACCENT, linewidth=1)
    ax.set_yticks(order, list(table.index))
    ax.set(xlabel="expected log predictive density, to the best (nats)")
    return ax


def plot_transfer(report: TransferReport, ax: Any = None) -> Any:
    """What each source added to the log density of the target's left-out values, with two standard errors."""
    ax = axes(ax)
    table = report.table
    order = np.arange(len(table))[::-1]
    colours = {"helps": "#2a7", "harms": ACCENT, "no clear effect": LIGHT}
    ax.barh(order, table["elpd"], xerr=2 * table["elpd_se"], color=[colours[v] for v in table["verdict"]], ecolor=DARK)
    ax.axvline(0, color=DARK, linewidth=1)
    ax.set_yticks(order, [str(name) for name in table.index])
    for verdict in dict.fromkeys(table["verdict"]):
        ax.bar(0, 0, color=colours[verdict], label=verdict)
    ax.legend(frameon=False)
    ax.set(xlabel=f"gained log density of {report.target} (nats)")
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
        curves = [_at_costs(run["cost"].to_numpy(), run[y].to_numpy(), grid) for _, run in own.groupby("seed")]
        low, middle, high = np.quantile(np.array(curves), [0.25, 0.5, 0.75], axis=0)
        (line,) = ax.plot(grid, middle, label=str(strategy), color=STRATEGIES.get(str(strategy)))
        ax.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel="cost", ylabel=y)
    ax.legend(frameon=False)
    return ax


def _axes_of_units(ax: Any, units: Sequence[str | None]) -> dict[str | None, Any]:
    """One vertical axis for each unit: on the left, and on the right side by side."""
    found = {unit: ax.twinx() if k else ax for k, unit in enumerate(units)}
    for k, unit in enumerate(units[2:], start=1):
        found[unit].spines["right"].set_position(("axes", 1 + 0.2 * k))
    return found


def _at_costs(cost: np.ndarray, value: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Value at each cost of the grid: that of the last step by then."""
    return value[np.maximum(np.searchsorted(cost, grid, side="right") - 1, 0)]


def _most_frequent(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The row that occurs most, of those the first."""
    marks = marks_of(x)
    return x[np.flatnonzero(marks == pd.Series(marks).value_counts(sort=False).idxmax())[0]]


def _held(data: TaskData, x: NDArray[np.float64], others: Sequence[str], given: Mapping[str, Any]) -> str:
    """What the other inputs are, as far as that can be said in a line."""
    told = data.decode(x[None]).iloc[0].to_dict()
    shown = {name: value for name in others if (value := given.get(name, told.get(name))) is not None}
    words = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()]
    return ", ".join(words[:TOLD]) + (", ..." if len(words) > TOLD else "")


def _of_task(scored: xr.Dataset, task: str | None) -> xr.Dataset:
    expect_scores(scored)
    names = list(dict.fromkeys(scored["task"].values.tolist()))
    if task is None and len(names) > 1:
        raise DataError(f"The scores are of several tasks ({', '.join(map(str, names))}): name one with `task`.")
    task = names[0] if task is None else task
    own = scored.isel(row=np.flatnonzero(scored["task"].values == task))
    if own.sizes["row"] == 0 or "pit" not in own or not np.isfinite(own["pit"].values).all():
        raise DataError(f"There are no scores of numbers or counts of a task {task!r}.")
    return own


def _title(scored: xr.Dataset) -> str:
    return str(scored["task"].values[0])
