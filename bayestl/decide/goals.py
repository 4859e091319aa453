"""What is wanted: the goal of the target, the score that serves it, and constraints on other tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayestl.errors import listed
from bayestl.table import TaskData

OF_TARGET = (  # scores of measurements of the target itself
    "expected_improvement",
    "probability_of_improvement",
    "upper_confidence_bound",
    "thompson",
)
SCORES = {
    "optimum": ("knowledge_gradient", "max_value_entropy", *OF_TARGET, "variance"),
    "hit": ("knowledge_gradient", *OF_TARGET),
    "region": ("variance", "entropy"),
    "level": ("level", "probability_of_improvement"),
}

Derived = Callable[[Mapping[str, xr.DataArray]], xr.DataArray]


class Goal(NamedTuple):
    """What kind of goal, and which sign (of "optimum" and "level"), class and value it has."""

    kind: str
    sign: float = 1.0
    label: Any = None
    level: float | None = None

    def worth(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make of numbers (n,) what is larger the better; NaN where the goal has no best."""
        if self.kind == "hit" and self.level is not None:
            return -np.abs(values - self.level)
        return self.sign * values if self.kind == "optimum" else np.full(len(values), np.nan)

    def merit(self, data: TaskData, task: int) -> NDArray[np.float64]:
        """What the values of the target are worth."""
        own = data.task_index == task
        values = data.tasks[task].likelihood.rate(data.values[own], data.details[own])
        if self.label is not None:
            values = (values == (data.tasks[task].levels or ()).index(self.label)).astype(float)
        return self.worth(values)


def read_goal(data: TaskData, target: str | Derived, goal: Any) -> Goal:
    """Read what `suggest` takes for a goal."""
    task = None if callable(target) else data.tasks[data.index_of(target)]
    levels = None if task is None else task.levels
    whole = isinstance(goal, Mapping) or (isinstance(goal, str) and goal in ("maximize", "minimize", "learn"))
    if (
        task
        and levels
        and len(levels) > 2
        and whole
        and goal not in levels
        and len(task.likelihood.functions(levels)) > 1
    ):
        raise ValueError(
            f"Task {task.name!r} holds classes without an order, of which none is larger. Say which is wanted: "
            f"goal={levels[0]!r}."
        )
    if isinstance(goal, str) and goal in ("maximize", "minimize"):
        return Goal("optimum", 1.0 if goal == "maximize" else -1.0)
    if isinstance(goal, str) and goal == "learn":
        return Goal("region")
    if isinstance(goal, Mapping) and len(goal) == 1 and next(iter(goal)) in ("above", "below"):
        ((side, value),) = goal.items()
        return Goal("level", 1.0 if side == "above" else -1.0, level=_number(value, f"goal={goal!r}"))
    if levels is not None and goal in levels:
        return Goal("optimum", label=goal)
    if levels is None and isinstance(goal, int | float | np.number) and not isinstance(goal, bool):
        return Goal("hit", level=_number(goal, "`goal`"))
    wanted = f"one of its classes {listed(levels, 20)}" if levels is not None else "a number to be hit"
    raise ValueError(
        f"`goal` must be 'maximize', 'minimize', 'learn', {{'above': value}}, {{'below': value}}, or {wanted}; got {goal!r}."
    )


def score_for(goal: Goal, score: str | None, said: Any) -> str:
    """Give the score that serves a goal: the one that is asked for, if it can, or the default."""
    allowed = SCORES[goal.kind]
    if score not in (None, *allowed):
        raise ValueError(f"`score` must be one of {listed(allowed, 9)} for goal={said!r}; got {score!r}.")
    return score or allowed[0]


def refuse_unoffered(score: str | None, offered: bool) -> None:
    """Refuse a score of measurements of the target where it is not offered."""
    if score in OF_TARGET and not offered:
        raise ValueError(
            f"score={score!r} is of measurements of the target, which no candidate offers. Give it a cost."
        )


def read_constraints(data: TaskData, given: Mapping[str, Any] | None) -> list[tuple[int, Any]]:
    """Tasks, with a list of the codes of the wanted classes or the two edges."""
    out: list[tuple[int, Any]] = []
    for name, wanted in (given or {}).items():
        t = data.index_of(name)
        levels = data.tasks[t].levels
        if levels is not None:
            several = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
            if not several or any(one not in levels for one in several):
                raise ValueError(
                    f"The constraint on task {name!r} must be one of {listed(levels, 20)}, or a list of those that will do; "
                    f"got {wanted!r}."
                )
            out.append((t, [levels.index(one) for one in several]))
            continue
        if not isinstance(wanted, tuple) or len(wanted) != 2 or wanted == (None, None):
            raise ValueError(
                f"The constraint on task {name!r} must be (low, high), None leaving a side open; got {wanted!r}."
            )
        low, high = wanted
        edges = (
            -np.inf if low is None else _number(low, f"The constraint on {name!r}"),
            np.inf if high is None else _number(high, f"The constraint on {name!r}"),
        )
        if not edges[0] < edges[1]:
            raise ValueError(f"The constraint on task {name!r} must be (low, high) with low < high; got {wanted!r}.")
        out.append((t, edges))
    return out


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise ValueError(f"{where} needs a finite number; got {value!r}.")
    return float(value)
