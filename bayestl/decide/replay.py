"""Campaigns simulated on a finished table, beside what one would do without transfer."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from bayestl.decide.campaign import Campaign
from bayestl.decide.goals import Goal, read_goal
from bayestl.errors import DataError, listed, notice
from bayestl.inference.infer import Method
from bayestl.models.base import Model
from bayestl.models.single import SingleTask
from bayestl.table import TaskData

Strategy = Literal["bayestl", "target-only", "single-task", "random"]

STRATEGIES: tuple[Strategy, ...] = ("bayestl", "target-only", "single-task", "random")


def replay(
    data: TaskData,
    model: Model,
    *,
    target: str,
    costs: Mapping[str, Any],
    initial: Mapping[str, Any],
    goal: Any = "maximize",
    strategies: Sequence[Strategy] = STRATEGIES,
    seeds: Iterable[int] = range(5),
    budget: float | None = None,
    steps: int | None = None,
    batch: int = 1,
    method: Method = "map",
    every: int = 1,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Simulate campaigns on a finished table, whose values are told when they are asked for.

    Each begins with some rows drawn at random, the same for all strategies of a seed, and as far as can be the same inputs in all
    tasks. A pair is measured once: of observations of a task at the same inputs the first is kept, and a warning says so.

    * ``"bayestl"``: all tasks that have a cost, with the model given;
    * ``"target-only"``: the same model and all that is known at the start, but only the target is measured;
    * ``"single-task"``: `SingleTask` on the target alone, the sources unknown;
    * ``"random"``: rows of the target in random order (and what `SingleTask` makes of them, where the goal is to learn).

    Parameters
    ----------
    data : the finished table, as `TaskData.from_wide` or `TaskData.from_long` reads it
    costs : by task, a number, or one for each of its observations, in the order of the data; other tasks are not measured
    initial : by task, how many observations are known at the start, or ``"all"``
    goal : ``"maximize"``, ``"minimize"``, a number to be hit, or ``"learn"``
    budget, steps : where a campaign ends, beyond its start; one that seeks the best ends at the latest when it has it
    batch : number of suggestions at a time
    method : as `fit` takes it; the mode is fast
    every : with ``goal="learn"``, how many steps lie between two looks at the error
    progress : show a bar, of the campaigns, when it takes more than two seconds on a terminal
    options : others of `Campaign.create`

    Returns
    -------
    pandas.DataFrame
        A line for each step: ``strategy``, ``seed``, ``step``, ``task``, ``row``, ``cost`` so far (with that of what the
        strategy knew at the start, where it has one), ``value``, ``best`` and ``regret``; with ``goal="learn"`` in place of these
        two ``rmse``, of the target at its rows not yet measured, NaN at steps in between.

    Raises
    ------
    ValueError
        For strategies, costs, seeds or initial observations that cannot be.
    DataError
        For a target of classes, and where the table holds too little to start from.

    Examples
    --------
    >>> import numpy as np, pandas as pd, bayestl as btl
    >>> from bayestl.decide.replay import replay
    >>> x = np.linspace(0, 1, 12)
    >>> frame = pd.DataFrame({"x": x, "cheap": np.sin(5 * x), "dear": np.sin(5 * x) + 0.2 * x})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["cheap", "dear"])
    >>> done = replay(data, btl.MultiTask(), target="dear", costs={"cheap": 1, "dear": 10}, steps=3, seeds=[0],
    ...               initial={"cheap": 5, "dear": 2}, strategies=["bayestl", "random"])
    >>> sorted(done["strategy"].unique())
    ['bayestl', 'random']
    """
    if isinstance(strategies, str) or isinstance(seeds, int):
        raise ValueError(
            f"`strategies` must be a list of names and `seeds` of numbers; got {strategies!r} and {seeds!r}. Write "
            'strategies=["bayestl"], seeds=range(5).'
        )
    if odd := [name for name in strategies if name not in STRATEGIES]:
        raise ValueError(f"`strategies` must be of {listed(STRATEGIES)}; got {listed(odd)}.")
    if "constraints" in options:
        raise ValueError("A replay compares the values of the target alone: it takes no `constraints`.")
    if target not in costs:
        raise ValueError(f"`costs` must have one of the target, {target!r}; got {listed(list(costs), 20)}.")
    if data.tasks[data.index_of(target)].levels is not None:
        raise DataError(f"Task {target!r} is observed as classes; a replay needs numbers to say how far off it is.")
    if (wanted := read_goal(data, target, goal)).kind == "level":
        raise ValueError(
            f"`goal` of a replay must be 'maximize', 'minimize', 'learn' or a number to be hit; got {goal!r}."
        )
    prices = np.full(len(data), np.nan)
    for name, own in costs.items():
        rows = data.task_index == data.index_of(name)
        given = np.asarray(own)
        if given.dtype.kind not in "iuf" or given.shape not in ((), (rows.sum(),)):
            raise ValueError(
                f"`costs` of task {name!r} must be a number, or one for each of its {rows.sum()} observations; got {own!r}."
            )
        prices[rows] = given
    data, prices = _once(data, prices)
    options |= {"method": method, "replicates": False, "goal": goal}
    lines: list[dict[str, Any]] = []
    campaigns = [(seed, strategy) for seed in seeds for strategy in strategies]
    with tqdm(total=len(campaigns), leave=False, delay=2.0, disable=not (progress and sys.stderr.isatty())) as bar:
        for seed, strategy in campaigns:
            table = _Table(data, prices, data.index_of(target), wanted, _start(data, initial, seed))
            for line in _run(table, model, strategy, seed, budget, steps, batch, every, options):
                lines.append({"strategy": strategy, "seed": seed, **line})
                bar.set_description(f"replay: {strategy}, seed {seed}, step {line['step']}")
            bar.update()
    return pd.DataFrame(lines)


@dataclass(frozen=True, eq=False)
class _Table:
    """A finished table, what it costs, and what is known at the start."""

    data: TaskData
    prices: NDArray[np.float64]
    target: int
    goal: Goal
    known: NDArray[np.bool_]

    def candidates(self, tasks: Iterable[int]) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
        """Rows that can be measured in some tasks, and what they cost."""
        own = {
            t: np.flatnonzero((self.data.task_index == t) & ~np.isnan(self.prices))
            for t in tasks
            if not np.isnan(self.prices[self.data.task_index == t]).all()
        }
        names = self.data.names
        return {names[t]: self.table(t, rows) for t, rows in own.items()}, {
            names[t]: self.prices[rows] for t, rows in own.items()
        }

    def table(self, task: int, rows: NDArray[np.int64]) -> pd.DataFrame:
        """Inputs of some rows, and the limits and exposures that a task has there."""
        table = self.data.decode(self.data.x[rows]).set_axis(rows)
        for place, column in enumerate(self.data.tasks[task].likelihood.columns()):
            if column is not None:
                table[column] = self.data.details[rows, place]
        return table

    def line(self, step: int, row: int | None, cost: float, seen: NDArray[np.bool_]) -> dict[str, Any]:
        """What a step came to."""
        data = self.data
        out = {
            "step": step,
            "task": None if row is None else data.names[data.task_index[row]],
            "row": None if row is None else data.rows[row],
            "cost": cost,
            "value": np.nan if row is None else data.values[row],
        }
        if self.goal.kind == "region":
            return out
        own = data.task_index == self.target
        values = data.tasks[self.target].likelihood.rate(data.values, data.details)
        y = self.goal.worth(values)
        best = int(np.flatnonzero(own & seen)[y[own & seen].argmax()])
        return {**out, "best": values[best], "regret": float(y[own].max() - y[best])}

    def rmse(self, posterior: Any, seen: NDArray[np.bool_]) -> float:
        """Error of the target at its rows not yet measured."""
        data = self.data
        rest = np.flatnonzero((data.task_index == self.target) & ~seen)
        if not len(rest):
            return np.nan
        mean = posterior.predict(self.table(self.target, rest), task=data.names[self.target], noise=False)[
            "mean"
        ].values
        return float(np.sqrt(np.mean((mean - data.values[rest]) ** 2)))


def _once(data: TaskData, prices: NDArray[np.float64]) -> tuple[TaskData, NDArray[np.float64]]:
    """Keep the first of the observations of a task at the same inputs: a pair is measured once."""
    keys = pd.DataFrame({"place": data.places, "task": data.task_index})
    again = keys.duplicated().to_numpy()
    if not again.any():
        return data, prices
    notice(
        f"{again.sum()} observations have the inputs of an earlier one of their task, in rows "
        f"{listed([data.rows[i] for i in np.flatnonzero(again)])}. A pair is measured once, so they are left out."
    )
    return data.where(~again), prices[~again]


def _start(data: TaskData, initial: Mapping[str, Any], seed: int) -> NDArray[np.bool_]:
    """What is known at the start (n)."""
    for name, count in initial.items():
        data.index_of(name)
        if count != "all" and (isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0):
            raise ValueError(f"`initial` of task {name!r} must be a number of observations, or 'all'; got {count!r}.")
    rng, known = np.random.default_rng(seed), np.zeros(len(data), dtype=bool)
    first = np.unique(data.places, return_index=True)[1]
    rank = np.lexsort(data.x[first].T[::-1]).argsort()  # the start may not depend on the order of the rows
    order = rng.permutation(len(rank))[rank[data.places]]  # the same inputs come first in every task
    for name in data.names:
        count = initial.get(name, 0)
        own = np.flatnonzero(data.task_index == data.index_of(name))
        own = own[np.argsort(order[own], kind="stable")]
        if not isinstance(count, str) and count > len(own):
            raise ValueError(
                f"`initial` asks for {count} observations of task {name!r}, which has {len(own)}. Say 'all'."
            )
        known[own if isinstance(count, str) else own[: int(count)]] = True
    if none := [name for name in data.names if not known[data.task_index == data.index_of(name)].any()]:
        raise DataError(
            f"`initial` leaves no observation of {listed(none)} known at the start; every task needs at least one. Give a number "
            "for it, or leave the task out with `data.select`."
        )
    return known


def _run(
    table: _Table, model: Model, strategy: Strategy, seed: int, budget: float | None, steps: int | None, batch: int,
    every: int, options: dict[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    data, target, learn = table.data, table.data.names[table.target], table.goal.kind == "region"
    tasks = range(len(data.tasks)) if strategy == "bayestl" else [table.target]
    candidates, costs = table.candidates(tasks)
    alone = strategy in ("single-task", "random")
    start = data.where(table.known, empty=True)
    start, model = (start.select([target]), SingleTask(kernel=model.kernel)) if alone else (start, model)
    campaign = Campaign.create(
        None, model, start, candidates, target=target, costs=costs, budget=budget, seed=seed, **options
    )
    order = np.random.default_rng([seed, 1]).permutation(candidates[target].index.to_numpy())
    order = order[~table.known[order]]
    mine = table.known & ((data.task_index == table.target) | (not alone))
    first = float(np.nansum(table.prices[mine]))
    rest = order.tolist()
    seen, spent, step = table.known.copy(), 0.0, 0

    def line(row: int | None) -> dict[str, Any]:
        found = table.line(step, row, first + spent, seen)
        if not learn:
            return found
        looked = step % every == 0
        return {**found, "rmse": table.rmse(campaign.posterior, seen) if looked else np.nan}

    yield line(None)
    while (steps is None or step < steps) and (learn or table.line(0, None, 0.0, seen)["regret"] > 0):
        count = batch if steps is None else min(batch, steps - step)
        if strategy == "random":
            chosen: list[tuple[int | None, int]] = []
            bill = spent
            for row in rest:
                if len(chosen) < count and (budget is None or bill + table.prices[row] <= budget * (1 + 1e-12)):
                    chosen.append((None, row))
                    bill += table.prices[row]
            rest = [row for row in rest if (None, row) not in chosen]
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                asked = campaign.ask(count)
            chosen = list(zip(asked.index.tolist(), asked["row"].tolist(), strict=True))
        if not chosen:
            return
        for number, row in chosen:
            t = data.task_index[row]
            levels, error = data.tasks[t].levels, data.errors[row]
            value = data.values[row] if levels is None else levels[int(data.values[row])]
            known: Any = None if np.isnan(error) else error
            if number is not None:
                campaign.tell(number, value, error=known)
            elif learn:
                campaign.tell(None, value, error=known, task=target, inputs=dict(candidates[target].loc[row]))
            seen[row], spent, step = True, spent + table.prices[row], step + 1
            yield line(row)
