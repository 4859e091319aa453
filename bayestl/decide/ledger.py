"""What a campaign knows: a pure function of its events."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayestl import archive
from bayestl.columns import read_task
from bayestl.decide import plain
from bayestl.decide.goals import read_constraints, read_goal, refuse_unoffered, score_for
from bayestl.decide.pool import costs_of, expect_one_cost_each, pool_of, refuse_names
from bayestl.errors import DataError, listed
from bayestl.models.base import Model
from bayestl.table import TaskData

FORMAT = 2  # 1 had no extensions
ROUNDING = 1e-12  # of the budget, that sums of costs are off by
HISTORY = ("id", "time", "event", "row", "task", "value", "error", "reason", "cost", "spent", "best")
BARRED = 1e200  # the cost of a pair that is not offered any more, though its candidate may still be the best

Event = dict[str, Any]


class Ledger:
    """Events, and what follows from them: what is pending, spent, measured, on offer, and when a refit was due last.

    Attributes
    ----------
    model, data : what is fitted, and the observations at the start
    candidates : a table, a table for each task, or bounds
    asked, told : by number, what was suggested and what came of it
    measured : what was told with a value, in the order in which it came
    fitted : how many of these the last refit that was due takes in
    corrected : how often something was told in the place of what had been told before
    """

    def __init__(self, events: Sequence[Event], model: Model | None = None) -> None:
        first = events[0]
        if first.get("event") != "create" or "format" not in first:
            raise DataError(
                "The journal does not begin as a campaign does. Expected a file that `Campaign.create` made."
            )
        if first["format"] > FORMAT:
            raise DataError(
                f"The campaign was made by a newer bayestl (format {first['format']}; this one reads up to {FORMAT}). "
                "Upgrade bayestl."
            )
        self.model = archive._restore_model(first["model"], model)
        self.data = plain.to_data(first["data"])
        self._offer(first)
        self.constraints = plain.constraints_of(first["constraints"])
        self.region = None if first["region"] is None else plain.to_table(first["region"])
        self.events: list[Event] = []
        self.asked: dict[int, Event] = {}
        self.told: dict[int, Event] = {}
        self.measured: list[Event] = []
        self.failed: list[Event] = []
        self.spent, self.asks, self.fitted, self.corrected = 0.0, 0, 0, 0
        for event in events:
            self.apply(event)

    def _offer(self, settings: Event) -> None:
        """Take the settings as they are from now on."""
        self.settings = settings
        self.candidates = plain.to_candidates(settings["candidates"])
        self._offers = self._priced()

    def apply(self, event: Event) -> None:
        """Take an event into account."""
        self.events.append(event)
        if event["event"] == "extend":
            self._offer(self.settings | event["settings"])
        if event["event"] == "ask":
            self.asks += 1
            self.asked |= {own["id"]: own for own in event["chosen"]}
        elif event["event"] == "tell":
            if event.get("corrects"):
                self._withdraw(self.before(event))
            self.spent += event["cost"]
            if event["id"] is not None:
                self.told[event["id"]] = event
            if event["failed"] is not None:
                self.failed.append(event)
                return
            self.measured.append(event)
            new, every, growth = len(self.measured) - self.fitted, self.settings["refit_every"], self.settings["growth"]
            if new >= min(every, max(1, math.ceil(growth * (len(self.data) + self.fitted)))):
                self.fitted = len(self.measured)

    def before(self, event: Event) -> Event | None:
        """What was told last of the suggestion that an event is of, or of the same task at the same inputs."""
        if event["id"] is not None:
            return self.told.get(event["id"])
        alike = [
            own for own in (*self.measured, *self.failed)
            if own["id"] is None and (own["task"], own["inputs"]) == (event["task"], event["inputs"])
        ]  # fmt: skip
        return alike[-1] if alike else None

    def _withdraw(self, event: Event | None) -> None:
        if event is None:
            raise DataError("The journal corrects what was never told: it was damaged, or put together by hand.")
        event["withdrawn"] = True
        self.corrected += 1
        self.spent -= event["cost"]
        place = [own is event for own in self.measured]
        if any(place):
            self.fitted -= place.index(True) < self.fitted
        self.measured = [own for own in self.measured if own is not event]
        self.failed = [own for own in self.failed if own is not event]

    # -- money --------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> list[Event]:
        """What was suggested, and nothing told of yet."""
        return [own for number, own in self.asked.items() if number not in self.told]

    @property
    def committed(self) -> float:
        """What the pending measurements will cost."""
        return float(sum(own["cost"] for own in self.pending))

    @property
    def left(self) -> float:
        """What may still be committed."""
        if (budget := self.settings["budget"]) is None:
            return math.inf
        left = float(budget) - self.spent - self.committed
        return left if abs(left) > ROUNDING * budget else 0.0

    def affords(self, costs: Any, left: float) -> Any:
        """Whether costs can be paid of what is left, but for the rounding of sums."""
        return costs <= left + ROUNDING * (self.settings["budget"] or 0.0)

    # -- what is on offer ---------------------------------------------------------------------------------------------

    @property
    def bounded(self) -> bool:
        """Whether candidates lie within bounds, and are no list."""
        return "bounds" in self.settings["candidates"]

    def table(self, task: str) -> pd.DataFrame | None:
        """Candidates of a task."""
        if isinstance(self.candidates, pd.DataFrame):
            return self.candidates
        return self.candidates.get(task)  # type: ignore[no-any-return]

    def _priced(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.uint64] | None]]:
        """For each task that can be measured, the costs of its candidates (n,), and a mark of the inputs of each."""
        costs = self.settings["costs"]
        if costs is None:
            costs = dict.fromkeys(self.data.names, 1.0)
        if self.bounded:
            expect_one_cost_each(costs)
            return {name: (np.array([float(own)]), None) for name, own in costs.items()}
        out: dict[str, Any] = {}
        marks: dict[int, NDArray[np.uint64]] = {}
        for name, own in costs.items():
            table = self.table(name)
            if table is not None and len(table):
                if id(table) not in marks:
                    marks[id(table)] = self.data.marks(self.data.encode(table))
                out[name] = costs_of(own, name, table, np.ones(len(table), bool)), marks[id(table)]
        return out

    def offers(self, left: float, chosen: Sequence[Event] = ()) -> dict[str, NDArray[np.float64]]:
        """For each task in which something is affordable, the costs of its candidates (n,), `BARRED` where not on offer.

        What failed is not tried again, and where replicates are not wanted neither is what was measured or is pending.
        """
        out = {}
        for name, (costs, marks) in self._offers.items():
            barred = ~self.affords(costs, left)
            if marks is not None:
                gone = list(self.failed)
                if not self.settings["replicates"]:
                    gone += [*self.measured, *self.pending, *chosen]
                inputs = [own["inputs"] for own in gone if own["task"] == name]
                seen = [self.data.encode(pd.DataFrame(inputs))] if inputs else []
                if not self.settings["replicates"]:
                    seen.append(self.data.x[self.data.task_index == self.data.index_of(name)])
                for x in seen:
                    barred |= np.isin(marks, self.data.marks(x))
            if not barred.all():
                out[name] = np.where(barred, BARRED, costs)
        return out

    def distinct(self, offers: Mapping[str, NDArray[np.float64]]) -> int:
        """How many different measurements are on offer."""
        marks = {name: self._offers[name][1] for name in offers}
        return sum(
            int((own < BARRED).sum()) if (at := marks[name]) is None else len(np.unique(at[own < BARRED]))
            for name, own in offers.items()
        )

    def check(self) -> None:
        """Refuse, at the start, what could not be asked later."""
        refuse_names(self.data, HISTORY, "the history")
        for name in (*(self.settings["costs"] or ()), self.settings["target"]):
            self.data.index_of(name)
        goal = self.settings["goal"]
        score_for(read_goal(self.data, self.settings["target"], goal), self.settings["score"], goal)
        if self.region is not None:
            self.data.encode(self.region)
        refuse_unoffered(self.settings["score"], self.settings["target"] in self._offers)
        costs = {name: float(own[0]) if self.bounded else own for name, (own, _) in self._offers.items()}
        if not costs:
            raise DataError(
                "No candidate is in a task that has a cost. Give `costs` for the tasks that can be measured."
            )
        pool_of(self.data, self.model.scaling(self.data), self.candidates, costs, 0)

    # -- what was measured --------------------------------------------------------------------------------------------

    def observations(self, events: Sequence[Event]) -> TaskData:
        """Read measurements that were told as data (n)."""
        data = self.data
        frame = pd.DataFrame([own["inputs"] for own in events])
        if not len(frame):
            return data.where(np.zeros(len(data), dtype=bool), empty=True)
        frame["value"] = pd.Series([own["value"] for own in events], dtype=object)
        index = np.array([data.index_of(own["task"]) for own in events])
        values, details = np.empty(len(events)), np.empty((len(events), 2))
        for t in np.unique(index):
            mask, task = index == t, data.tasks[t]
            if task.levels is None:
                column = read_task(frame, "value", mask, task.name, task.likelihood)
                values[mask], details[mask] = column.values, column.details
                continue
            cells = frame["value"][mask].tolist()
            if new := [cell for cell in cells if cell not in task.levels]:
                raise DataError(
                    f"Task {task.name!r} was told {listed(new)}; its classes are {listed(list(task.levels), 20)}."
                )
            values[mask] = [task.levels.index(cell) for cell in cells]
            details[mask] = task.likelihood.constants()
        rows = np.empty(len(events), dtype=object)
        place = {id(own): f"told {i}" for i, own in enumerate(self.measured, 1)}
        rows[:] = [place.get(id(own), "told") if own["row"] is None else own["row"] for own in events]
        return dataclasses.replace(
            data, x=data.encode(frame), task_index=index, values=values, details=details, rows=rows,
            errors=np.array([own["error"] for own in events], dtype=float),
        )  # fmt: skip

    def upto(self, count: int) -> TaskData:
        """All data, and the first measurements that were told."""
        return self.data.append(self.observations(self.measured[:count])) if count else self.data

    # -- what it came to ----------------------------------------------------------------------------------------------

    def better(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make of values of the target (n,) what is larger the better; NaN where the goal has no best."""
        target = self.settings["target"]
        if self.data.tasks[self.data.index_of(target)].levels is not None:
            return np.full(len(values), np.nan)
        return read_goal(self.data, target, self.settings["goal"]).worth(values)

    def history(self) -> pd.DataFrame:
        """Give a line for each suggestion and each result: see `Campaign.history`."""
        lines = []
        for event in self.events[1:]:
            if event["event"] == "ask":
                lines += [{"time": event["time"], "event": "asked", **_shown(own)} for own in event["chosen"]]
            elif event["event"] == "tell":
                kind = "withdrawn" if "withdrawn" in event else "told" if event["failed"] is None else "failed"
                lines.append({"time": event["time"], "event": kind, **_shown(event), "value": event["value"],
                              "error": event["error"], "reason": event["failed"]})  # fmt: skip
        names = dict.fromkeys(
            name for own in (*self.asked.values(), *self.measured, *self.failed) for name in own["inputs"]
        )
        columns = ["time", "event", "id", "row", "task", *names, "value", "error", "reason", "cost", "spent", "best"]
        frame = pd.DataFrame(lines, columns=columns).astype({"id": "Int64"})
        frame["time"] = pd.to_datetime(frame["time"], utc=True)
        frame["spent"] = frame["cost"].astype(float).where(~frame["event"].isin(["asked", "withdrawn"]), 0.0).cumsum()
        return frame.assign(best=self.bests(frame)[1:])

    def bests(self, history: pd.DataFrame) -> NDArray[np.float64]:
        """Best value of the target before the first line of a history and after each; NaN where goal or data have none.

        A value counts from its own line until a constraint is known not to hold at its inputs.
        """
        more = self.observations(self.measured)
        task, values, details, mark = (
            np.concatenate([own, new])
            for own, new in (
                (self.data.task_index, more.task_index), (self.data.values, more.values),
                (self.data.details, more.details), (self.data.marks(self.data.x), self.data.marks(more.x)),
            )
        )  # fmt: skip
        lines = len(history) + 1
        since = np.concatenate([np.zeros(len(self.data.values), int), np.flatnonzero(history["event"] == "told") + 1])
        until = np.full(len(mark), lines)
        for t, wanted in read_constraints(self.data, self.constraints):
            held = (
                (wanted[0] <= values) & (values <= wanted[1]) if isinstance(wanted, tuple) else np.isin(values, wanted)
            )
            for i in np.flatnonzero((task == t) & ~held):
                until[mark == mark[i]] = np.minimum(until[mark == mark[i]], since[i])
        t = self.data.index_of(self.settings["target"])
        own = task == t
        values, since, until = self.data.tasks[t].likelihood.rate(values[own], details[own]), since[own], until[own]
        gain, best = self.better(values), np.full(lines, np.nan)
        for line in range(lines):
            counts = (since <= line) & (line < until) & ~np.isnan(gain)
            if counts.any():
                best[line] = values[np.where(counts, gain, -np.inf).argmax()]
        return best


def _shown(own: Event) -> dict[str, Any]:
    return {**own["inputs"], **{name: own[name] for name in ("id", "row", "task", "cost")}}
