"""Suggest what to measure next, and in which task: a batch of (candidate, task) pairs, given what each costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayestl.columns import Table
from bayestl.decide.goals import OF_TARGET, Derived, read_constraints, read_goal, refuse_unoffered, score_for
from bayestl.decide.lookahead import worlds
from bayestl.decide.objective import objective_of
from bayestl.decide.pool import pool_of
from bayestl.decide.search import WORLDS, Search
from bayestl.errors import DataError, expect_whole, listed
from bayestl.posterior import Posterior, expect_posterior

STUCK = 1e-4  # of the value of perfect information


def suggest(
    posterior: Posterior,
    candidates: Table | Mapping[str, Any],
    *,
    target: str | Derived,
    goal: Any = "maximize",
    score: str | None = None,
    costs: Mapping[str, Any] | None = None,
    batch: int = 8,
    pending: pd.DataFrame | Mapping[str, Any] | None = None,
    avoid: pd.DataFrame | Mapping[str, Any] | None = None,
    constraints: Mapping[str, Any] | None = None,
    region: Table | None = None,
    replicates: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Suggest a batch of measurements, each of a candidate in a task.

    A pair is worth what its observation is expected to do for the *target*, per unit of cost, so that a cheap source is chosen
    where it tells enough. The batch is greedy: each choice takes into account those before it and what is pending. The beliefs
    are conditioned on an imagined value of it in each of 16 worlds, drawn from what is believed in that world (a draw of theta);
    how the covariance changes does not depend on that value. Scores are averaged over the worlds: theta is taken as known after
    the measurement (Snoek et al. 2012, doi 10.48550/arXiv.1206.2944).

    Of a large pool all pairs are scored under two worlds (of up to 2,000 candidates under eight), and some 128 candidates, the
    best of all and of ever smaller random subsets, are looked at jointly.

    Parameters
    ----------
    candidates : table with the input columns; ``{task: table}``, for each task the candidates that can be measured in it; or
        bounds ``{"x": (0.0, 1.0), "phase": ["fcc", "bcc"]}``, of which quasi-random points are taken and the best refined
    target : task, or with ``goal="learn"`` also a function of several tasks, row by row, as `Posterior.derive` takes it
    goal : ``"maximize"`` or ``"minimize"``; a number to be hit, or a class; ``{"above": 1.0}`` or ``{"below": 1.0}``: learn which
        points of the region lie there; ``"learn"``: know the target over the region, in its units (for ratios give a function:
        ``lambda y: np.log(y["rate"])``). An optimum is judged on the task's own scale; nothing is better than its limit
    score : by default ``"knowledge_gradient"`` (`acquisition.log_knowledge_gradient`) for an optimum and a value to be hit,
        ``"variance"`` for ``goal="learn"`` and ``"level"`` for a level. For an optimum also ``"max_value_entropy"``, the
        information about its value (`acquisition.log_max_value_information`), ``"expected_improvement"``,
        ``"probability_of_improvement"``, ``"upper_confidence_bound"``, ``"thompson"``, which offer the target alone, and
        ``"variance"``, that of the optimum's value (each point counts with the probability that it is best); for ``"learn"``
        also ``"entropy"``; for a level also ``"probability_of_improvement"``, that a candidate lies there. If the choice for an
        optimum is expected to bring less than a ten-thousandth of what perfect information would (not under constraints), the
        knowledge gradient is stuck, for it values what is not known yet. Then the default is ``"max_value_entropy"``, whose
        gains are nats, or where no source is offered ``"expected_improvement"``, upon the best that was measured: what is
        thought to be the best is confirmed
    costs : by task, a positive number, the name of a column of the candidates, or one number for each of them; tasks without
        one are not offered. By default all tasks, at the same cost
    batch : number of measurements
    pending : table of measurements that are running: the inputs, and a column ``task``
    avoid : table of measurements, as `pending`, that shall not be suggested, because they failed, say; within bounds neither is
        what lies within a twentieth of each side of them
    constraints : by task, the class that is wanted or a list of those that will do, or ``(low, high)`` for a number, None leaving
        a side open. Gains are weighted by the probability that all hold, as if they were independent of one another and of the
        target (Gardner et al. 2014, proceedings.mlr.press/v32/gardner14.html)
    region : table of the points at which the target shall be known; by default 100 of its candidates
    replicates : whether a pair may be measured again, one of the data, one that is pending or one of the batch. It is where noise
        makes that worthwhile

    Returns
    -------
    pandas.DataFrame
        A line for each choice, in order: ``row`` (label of the candidate, None within bounds), the inputs, ``task``, ``score``,
        ``gain``, ``cost``, ``why``. The score is the logarithm of the expected gain per cost and has no unit. ``gain`` is in
        units of the target: the expected rise of the best mean (on a warped scale, of the best median), or
        improvement; the fall of the region's standard deviation; for a bound or a Thompson draw how far beyond the best so far
        it is thought to be; or a probability, or nats.

    Raises
    ------
    DataError
        For tables that do not fit the data of the posterior.
    ValueError
        For a goal, score, cost or constraint that cannot be.

    Examples
    --------
    >>> import pandas as pd, bayestl as btl
    >>> from bayestl.decide.suggest import suggest
    >>> frame = pd.DataFrame({"x": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], "pbe": [0.1, 0.4, 0.7, 0.8, 0.6, 0.2]})
    >>> frame["exp"] = [0.3, None, 0.9, None, None, 0.3]
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
    >>> posterior = btl.fit(btl.Difference.chain("pbe", "exp"), data, seed=0)
    >>> chosen = suggest(posterior, frame[["x"]], target="exp", costs={"pbe": 1, "exp": 10}, batch=2)
    >>> list(chosen.columns)
    ['row', 'x', 'task', 'score', 'gain', 'cost', 'why']
    """
    expect_posterior(posterior)
    expect_whole("batch", batch)
    data = posterior.data
    pool = pool_of(data, posterior.scaling, candidates, costs, seed, _pairs(avoid, "avoid"))
    wanted = read_goal(data, target, goal)
    kind, sign, label, level = wanted
    guarded = score is None and kind == "optimum" and not constraints
    score = score_for(wanted, score, goal)
    t = -1 if callable(target) else data.index_of(target)
    if t < 0 and kind in ("optimum", "hit"):
        raise ValueError(
            'A `target` that is a function can be learned: goal="learn", {"above": value} or {"below": value}.'
        )
    refuse_unoffered(score, t >= 0 and bool(pool.offered[:, t].any()))
    if score in OF_TARGET:
        pool = pool.only(t)
    waiting = _pending(posterior, pending)
    if not replicates:
        at = data.task_index[:, None] == np.arange(len(data.tasks))
        known = [posterior.scaling.inputs(data.x[own]) for own in at.T]
        pool = pool.but(
            [torch.cat([x, *(more for u, more, _ in waiting if u == task)]) for task, x in enumerate(known)]
        )
        if batch > pool.pairs:
            raise ValueError(
                f"A batch of {batch} without replicates needs as many pairs; there are {pool.pairs} that were not measured yet."
            )
    limits = read_constraints(data, constraints)
    for own in sorted({*pool.tasks, *([t] if t >= 0 else []), *(task for task, _ in limits)}):
        pool.details(posterior, own, say=True)  # says, once, which columns the candidates lack
    theta, found = worlds(posterior, WORLDS, waiting, seed)
    objective = objective_of(posterior, theta, target, sign, label)
    bent, ends = objective.bends(WORLDS) if objective.rising else (True, True)
    if not objective.rising or (score == "variance" and bent) or (kind == "optimum" and ends):
        objective = objective.approximated(WORLDS)
    search = Search(
        posterior, theta, found, objective, pool, score, t, None if level is None else objective.at(level, WORLDS),
        kind == "hit", limits, torch.Generator().manual_seed(seed), costs,
        wanted.merit(data, t),
        torch.cat([pool.x[:0], *(x for task, x, _ in waiting if task == t)]).unique(dim=0),
    )  # fmt: skip
    at = None if region is None else posterior._inputs(region)[1]
    with torch.no_grad():
        table = search.run(batch, at, kind in ("region", "level"), replicates, STUCK if guarded else 0.0)
        if table is None:
            fresh = torch.Generator().manual_seed(seed)
            search = dataclasses.replace(search, score="max_value_entropy", generator=fresh)
            table = search.run(batch, at, False, replicates, elsewhere=True)
    assert table is not None
    return table


def _pairs(given: Any, what: str) -> pd.DataFrame | None:
    """Read a table of inputs with a column ``task``."""
    if given is None or len(given) == 0:
        return None
    frame = given
    if not isinstance(given, pd.DataFrame):  # one measurement may be given by its values alone
        alone = all(pd.api.types.is_scalar(value) for value in given.values())
        frame = pd.DataFrame([dict(given)] if alone else dict(given))
    if "task" not in frame:
        raise DataError(f"`{what}` needs a column 'task', that says what is measured, beside the inputs.")
    if frame["task"].isna().any():
        raise DataError(
            f"`{what}` says of rows {listed(frame.index[frame['task'].isna()].tolist())} not in which task they are."
        )
    return frame


def _pending(posterior: Posterior, pending: Any) -> list[tuple[int, Tensor, Tensor]]:
    """Tasks, inputs and details of what is running."""
    if (frame := _pairs(pending, "pending")) is None:
        return []
    out = []
    for name, part in frame.groupby("task", sort=True):
        t = posterior.data.index_of(str(name))
        details = torch.from_numpy(posterior._details(part, t, len(part)))
        out.append((t, posterior._inputs(part)[1], details))
    return out
