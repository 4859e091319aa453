"""A campaign: suggestions asked for and results told, all of it on disk, within a budget."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from bayestl import archive
from bayestl.columns import Table, is_limit
from bayestl.decide import plain
from bayestl.decide.choice import choose
from bayestl.decide.goals import read_constraints
from bayestl.decide.journal import Journal
from bayestl.decide.ledger import FORMAT, Event, Ledger
from bayestl.decide.pool import in_order
from bayestl.decide.progress import plot_history
from bayestl.errors import DataError, FitError, expect_whole, listed
from bayestl.fitting import fit_whole
from bayestl.inference.infer import Method
from bayestl.models.base import Model
from bayestl.posterior import Posterior
from bayestl.table import TaskData


class Campaign:
    """Ask what to measure next, tell what came of it, until the budget is spent.

    `create` begins a campaign and `open` goes on with it. Every suggestion and every result is on disk before `ask` or `tell`
    returns, as a line of JSON in one file, which is only ever appended to: a process killed at any moment loses nothing, and the
    next suggestion is the same, as it is a function of the file alone (and of the libraries that compute it). One process at a
    time may hold the file (by a lock on a file beside it); `close` it, or use it as a context.

    A result may come late, in any order, or not at all. New results are conditioned on; the model is fitted again whenever
    `refit_every` of them have come since, or the data have grown by the share `growth`, whichever is first. `extend` gives more
    budget, or other candidates.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import pandas as pd, bayestl as btl
    >>> from bayestl.decide.campaign import Campaign
    >>> frame = pd.DataFrame({"x": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], "pbe": [0.1, 0.4, 0.7, 0.8, 0.6, 0.2]})
    >>> frame["exp"] = [0.3, None, None, None, None, 0.3]
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "films.jsonl"
    >>> model = btl.Difference.chain("pbe", "exp")
    >>> options = {"target": "exp", "costs": {"exp": 10.0}, "budget": 25.0, "method": "map"}
    >>> with Campaign.create(path, model, data, frame[["x"]], **options) as campaign:
    ...     chosen = campaign.ask(batch=2)
    ...     campaign.tell(1, 0.9)
    >>> with Campaign.open(path) as campaign:  # another day
    ...     campaign.tell(2, failed="the film cracked")
    ...     campaign.spent, len(campaign.ask())
    Nothing is suggested: of the budget 5 are left, and the cheapest measurement on offer costs 10.
    (20.0, 0)
    >>> folder.cleanup()
    """

    def __init__(self, ledger: Ledger, journal: Journal | None = None) -> None:
        self._ledger, self._journal = ledger, journal
        self._fits: tuple[tuple[int, int], Posterior] | None = None
        self._now: tuple[tuple[int, int], Posterior] | None = None

    # -- beginning and going on ---------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path | None,
        model: Model,
        data: TaskData,
        candidates: Table | Mapping[str, Any],
        *,
        target: str,
        goal: Any = "maximize",
        costs: Mapping[str, Any] | None = None,
        budget: float | None = None,
        constraints: Mapping[str, Any] | None = None,
        region: Table | None = None,
        score: str | None = None,
        replicates: bool = True,
        refit_every: int | None = 10,
        growth: float | None = 0.2,
        method: Method = "variational",
        draws: int | None = None,
        seed: int = 0,
    ) -> Campaign:
        """Begin a campaign.

        Parameters
        ----------
        path : of a file that does not exist yet; None keeps the campaign in memory
        model, data : what is fitted, and what is known at the start
        candidates, target, goal, costs, constraints, region, score : as `suggest` takes them; the target is a task
        budget : sum of all costs, in their unit; no limit by default
        replicates : whether a pair that was measured may be suggested again. Say no where a repetition would give the same value,
            as a computation does; within bounds hardly anything is repeated exactly. What failed is not suggested again either
            way, nor, within bounds, what is within a twentieth of each side of it
        refit_every : number of new results after which the model is fitted again; None for no such number
        growth : share by which the data grow until the model is fitted again; None for no such share
        method, draws : as `fit` takes them
        seed : of the fits and suggestions

        Raises
        ------
        DataError
            When the file exists or is held by another process (which is named), when something cannot be written without pickle,
            and for candidates that do not fit the data.
        ValueError
            For a budget, cost or refit rule that cannot be.
        """
        if not isinstance(model, Model) or not isinstance(data, TaskData):
            raise ValueError(
                f"Expected a model such as btl.MultiTask() and a TaskData; got {type(model).__name__}, {type(data).__name__}."
            )
        if not isinstance(target, str):
            raise ValueError(f"`target` of a campaign must be the name of a task; got {type(target).__name__}.")
        for name, number in (("budget", budget), ("growth", growth)):
            _positive(number, name)
        if refit_every is not None:
            expect_whole("refit_every", refit_every)
        if draws is not None:
            expect_whole("draws", draws)
        expect_whole("seed", seed, 0)
        read_constraints(data, constraints)
        if method not in get_args(Method):
            raise ValueError(f"`method` must be one of {listed(get_args(Method))}; got {method!r}.")
        model.check(data)
        first = {
            "event": "create", "format": FORMAT, "time": _time(), "target": target,
            **plain.settings_of(goal, constraints, in_order(costs, candidates)), "budget": budget, "score": score,
            "replicates": bool(replicates),
            "refit_every": 10**9 if refit_every is None else int(refit_every),
            "growth": 1e9 if growth is None else float(growth), "method": method, "draws": draws, "seed": int(seed),
            "model": archive.describe(model), "region": None if region is None else plain.of_table(region, "the region"),
            "candidates": plain.of_candidates(candidates), "data": plain.of_data(data),
        }  # fmt: skip
        ledger = Ledger([first], model)
        ledger.check()
        if path is None:
            return cls(ledger)
        journal, events = Journal.create(path, first)
        return cls(Ledger(events, model), journal)

    @classmethod
    def open(cls, path: str | Path, model: Model | None = None) -> Campaign:
        """Go on with a campaign.

        Parameters
        ----------
        model : needed only when the model holds an object of your own: the same as at the start

        Raises
        ------
        DataError
            When there is no such file, when it is damaged, and when another process holds it (which is named).
        """
        journal, events = Journal.open(path)
        try:
            return cls(Ledger(events, model), journal)
        except BaseException:
            journal.close()
            raise

    def close(self) -> None:
        """Let go of the file, so that another process may open it."""
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- asking and telling -------------------------------------------------------------------------------------------

    def ask(self, batch: int = 1) -> pd.DataFrame:
        """Suggest measurements, which are pending from then on.

        Returns
        -------
        pandas.DataFrame
            As `suggest` gives it, indexed by ``id``, with which to `tell`. Fewer lines than `batch`, or none, where the budget or
            the candidates do not suffice; then ``attrs["reason"]`` says so, and it is printed.

        Raises
        ------
        ValueError
            For a batch that is not a whole number, at least 1.
        """
        expect_whole("batch", batch)
        ledger = self._ledger
        chosen, reason = choose(ledger, lambda: self.posterior, batch)
        chosen = [{"id": number, **own} for number, own in enumerate(chosen, len(ledger.asked) + 1)]
        if chosen:
            self._note({"event": "ask", "time": _time(), "chosen": chosen})
        lines = [{**{k: v for k, v in own.items() if k != "inputs"}, **own["inputs"]} for own in chosen]
        inputs = dict.fromkeys(name for own in chosen for name in own["inputs"])
        columns = ["id", "row", *inputs, "task", "score", "gain", "cost", "why"]
        table = pd.DataFrame(lines, columns=columns).set_index("id")
        if reason:
            table.attrs["reason"] = reason
            print(f"{'Nothing is' if not chosen else f'Only {len(chosen)} of {batch} are'} suggested: {reason}")
        return table

    def tell(
        self,
        id: int | None = None,
        value: Any = None,
        *,
        error: float | None = None,
        failed: bool | str = False,
        cost: float | None = None,
        task: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        correct: bool = False,
    ) -> None:
        """Tell what came of a suggestion, or of a measurement that was never suggested.

        A number that was held for less likely than one in a million is taken, and named in a warning, where the campaign has
        asked since it was opened and so holds a posterior (not by ``method="map"``, whose intervals are too narrow).

        Parameters
        ----------
        id : of the suggestion; None for another measurement, of which `task` and `inputs` then tell
        value : what was measured, in the task's unit, or a class
        error : its known standard error
        failed : True, or why there is no value. It costs what a value does, and is not suggested again
        cost : what it came to; by default what was foreseen, and nothing for a measurement that was not suggested
        task : of a measurement that was not suggested
        inputs : of such a measurement, a value for each input column, and for those of limits and exposures; of a suggestion,
            what came out otherwise than was suggested
        correct : take it in the place of what was told before of this suggestion, or of this task at these inputs. What is not
            given (the cost, the error, inputs that came out otherwise) stays as it was told; ``error=nan`` says that it is not
            known. The journal keeps both; the history calls the former ``"withdrawn"``

        Raises
        ------
        DataError
            For an unknown id, one of which something else was told already (the same again changes nothing), and for a value
            that cannot be one of the task.
        """
        if not isinstance(failed, bool | np.bool_ | str):
            raise DataError(f"`failed` must be True, False or text that says why; got {failed!r}.")
        failed = failed if isinstance(failed, str) else bool(failed)
        if value is not None and not pd.api.types.is_scalar(value):
            raise DataError(f"`value` must be one number or class; got a {type(value).__name__}.")
        nothing = value is None or bool(pd.isna(value))
        if (failed is False and nothing) or (failed is not False and value is not None):
            raise DataError(f"Tell a value, or failed=True or failed='why'; got value={value!r}, failed={failed!r}.")
        if (id is None) == (task is None) or (id is None and inputs is None):
            raise DataError("Tell of the id of a suggestion, or else of a `task` with its `inputs`.")
        said = {name for name, given in (("cost", cost), ("inputs", inputs)) if given is not None}
        if id is not None:
            own = self._suggested(id)
            task = own["task"]
            before = self._ledger.before({"id": int(id)}) if correct else None
            inputs = {**(before or own)["inputs"], **(inputs or {})}
        else:
            own = {"row": None, "cost": 0.0}
        cost = own["cost"] if cost is None else cost
        for name, number, least in (("cost", cost, 0.0), ("error", error, np.nextafter(0, 1))):
            unknown = name == "error" and correct and isinstance(number, float) and np.isnan(number)
            if (
                number is not None
                and not unknown
                and not (isinstance(number, int | float | np.number) and np.isfinite(number) and number >= least)
            ):
                raise DataError(
                    f"`{name}` must be a finite {'number, zero or more' if least == 0 else 'positive number'}; got {number!r}."
                )
        assert task is not None
        assert inputs is not None
        data = self._ledger.data
        told = data.tasks[data.index_of(plain.known(task, data.names, "`task`"))]
        levels = told.levels
        if value is not None and levels is None and not isinstance(value, int | float | np.number):
            advice = " Tell the limit itself, and observe the task with Censored()." if is_limit(value) else ""
            raise DataError(f"`value` of task {task!r} must be a number; got {value!r}.{advice}")
        known = {*data.columns, *(column.name for column in data.inputs), *(c for c in told.likelihood.columns() if c)}
        if strange := [name for name in inputs if name not in known and name not in own.get("inputs", ())]:
            raise DataError(f"`inputs` holds {listed(strange)}, which are none; there are {listed(sorted(known), 20)}.")
        if missing := data.lacking(inputs):
            raise DataError(
                f"`inputs` lacks {listed(missing)}: it must hold a value for each of {listed(data.columns, 20)}."
            )
        if failed is False and (absent := [c for c in told.likelihood.columns() if c is not None and c not in inputs]):
            raise DataError(
                f"Task {task!r} is observed as {told.likelihood!r}, which needs {listed(absent)}. Tell it too: "
                f"tell(..., inputs={{{absent[0]!r}: ...}}); or offer candidates that have such a column."
            )
        event = {
            "event": "tell", "time": _time(), "id": None if id is None else int(id), "row": own["row"],
            "task": task, "inputs": plain.plain(dict(inputs), "`inputs`"),
            "value": plain.plain(value, "`value`"), "error": None if error is None else float(error),
            "failed": None if failed is False else "failed" if failed is True else str(failed), "cost": float(cost),
        }  # fmt: skip
        former = self._ledger.before(event)
        if correct:
            if former is None:
                raise DataError(f"There is nothing to correct: nothing was told of {'this' if id is None else id} yet.")
            event["corrects"] = True
            if event["failed"] is None:
                event["error"] = former["error"] if error is None else None if np.isnan(error) else event["error"]
            if not said & {"cost"}:
                event["cost"] = former["cost"]
        elif id is not None and former is not None:
            differs = {name for name in {"value", "error"} | said if former[name] != event[name]}
            if differs or (former["failed"] is None) != (event["failed"] is None):
                was = f"value {former['value']!r}" if former["failed"] is None else f"failed ({former['failed']})"
                if differs & said:
                    was += f" (cost {former['cost']:g}, at {former['inputs']})"
                raise DataError(
                    f"Suggestion {id} was told already: {was}; now it would be {value!r}{' failed' if failed else ''}. If that "
                    "was wrong, tell it with correct=True; tell of a repetition as a measurement of its own: tell(task=..., "
                    "inputs=..., value=...)."
                )
            return
        if event["failed"] is None:
            if error is not None and told.likelihood.kind != "numeric":
                kind = "classes" if levels is not None else "counts"
                raise DataError(f"Task {task!r} is observed as {kind}, which have no errors. Leave `error` out.")
            self._ledger.observations([event])  # refused before it is written
        else:
            data.encode(pd.DataFrame([event["inputs"]]))
        self._note(event)
        believed = None if self._now is None else self._now[1]
        if event["failed"] is None and believed is not None and believed.record.method != "map":
            believed.doubt(self._ledger.observations([event]))

    def extend(
        self,
        *,
        budget: float | None = None,
        candidates: Table | Mapping[str, Any] | None = None,
        costs: Mapping[str, Any] | None = None,
    ) -> None:
        """Go on with another budget, with other candidates or at other costs; what is left out stays as it is.

        What is pending stays so, and at the cost that was foreseen.

        Parameters
        ----------
        budget : sum of all costs, those spent so far included
        candidates : in the place of those before; more of them are ``pandas.concat([before, more])``
        costs : as `suggest` takes them

        Raises
        ------
        DataError
            For candidates that do not fit the data.
        ValueError
            For a budget or cost that cannot be, and where nothing is changed.
        """
        _positive(budget, "budget")
        if budget is None and candidates is None and costs is None:
            raise ValueError("Give a `budget`, `candidates` or `costs`: what shall be otherwise from now on.")
        settings: dict[str, Any] = {} if budget is None else {"budget": budget}
        if costs is not None:
            offered = self._ledger.candidates if candidates is None else candidates
            settings["costs"] = plain.settings_of(None, None, in_order(costs, offered))["costs"]
        if candidates is not None:
            settings["candidates"] = plain.of_candidates(candidates)
        event = {"event": "extend", "time": _time(), "settings": settings}
        Ledger([*self._ledger.events, event], self._ledger.model).check()
        self._note(event)

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> pd.DataFrame:
        """Suggestions of which nothing was told yet, by id."""
        columns = ["id", "row", "task", "cost"]
        lines = [{**own["inputs"], **{name: own[name] for name in columns}} for own in self._ledger.pending]
        return pd.DataFrame(lines, columns=None if lines else columns).set_index("id")

    @property
    def data(self) -> TaskData:
        """The data at the start, and all results."""
        return self._ledger.upto(len(self._ledger.measured))

    @property
    def posterior(self) -> Posterior:
        """What is believed now."""
        ledger, count = self._ledger, len(self._ledger.measured)
        options: Any = {name: ledger.settings[name] for name in ("method", "draws", "seed")} | {"progress": False}
        known = ledger.fitted, ledger.corrected
        if self._fits is None or self._fits[0] != known:
            self._fits = known, fit_whole(ledger.model, ledger.upto(ledger.fitted), **options)
        if self._now is None or self._now[0] != (count, ledger.corrected):
            fitted, more = self._fits[1], ledger.measured[ledger.fitted :]
            try:
                now = fitted.condition(ledger.observations(more)) if more else fitted
            except (DataError, FitError):  # what came cannot be taken in with theta as it is
                now = fit_whole(ledger.model, ledger.upto(count), **options)
            self._now = (count, ledger.corrected), now
        return self._now[1]

    @property
    def spent(self) -> float:
        """What the results came to."""
        return self._ledger.spent

    @property
    def committed(self) -> float:
        """What the pending measurements are foreseen to cost."""
        return self._ledger.committed

    @property
    def left(self) -> float:
        """What of the budget is neither spent nor committed."""
        return self._ledger.left

    def history(self) -> pd.DataFrame:
        """Give a line for each suggestion and each result, in order.

        Returns
        -------
        pandas.DataFrame
            ``time``, ``event`` (asked, told, failed, withdrawn), ``id``, ``row``, ``task``, the inputs, ``value``, ``error``,
            ``reason`` of a failure, ``cost``, ``spent`` so far, and ``best`` value of the target so far (of counts
            per unit of exposure), not counting those at whose inputs a constraint is known not to hold; NaN where there is none,
            or the goal has no best.
        """
        return self._ledger.history()

    def plot(self, ax: Any = None) -> Any:
        """Draw the best value of the target so far against what was spent, into the axes given or new ones."""
        task = self._ledger.data.tasks[self._ledger.data.index_of(self._ledger.settings["target"])]
        history, told = self.history(), self._ledger.observations(self._ledger.measured)
        if task.likelihood.kind == "count":
            history.loc[history["event"] == "told", "value"] = task.likelihood.rate(told.values, told.details)
        return plot_history(history, task.name, task.unit or "", self._ledger.bests(history), ax)

    def __repr__(self) -> str:
        ledger = self._ledger
        where = "in memory" if self._journal is None else str(self._journal.path)
        return (
            f"Campaign({where}: {ledger.settings['goal']} {ledger.settings['target']}; {len(ledger.measured)} results, "
            f"{len(ledger.failed)} failed, {len(ledger.pending)} pending; {ledger.spent:g} spent"
            f"{'' if math.isinf(ledger.left) else f', {ledger.left:g} left'})"
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _suggested(self, id: int) -> Event:
        whole = isinstance(id, int | np.integer) or (isinstance(id, float | np.floating) and float(id).is_integer())
        if not whole or isinstance(id, bool | np.bool_):
            raise DataError(f"The id of a suggestion is a whole number, as `ask` gives it; got a {type(id).__name__}.")
        if id not in self._ledger.asked:
            waiting = [own["id"] for own in self._ledger.pending]
            raise DataError(f"There is no suggestion {id!r}. Pending are {listed(waiting, 20) if waiting else 'none'}.")
        return self._ledger.asked[int(id)]

    def _note(self, event: Event) -> None:
        self._ledger.apply(event if self._journal is None else self._journal.append(event))


def _time() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _positive(number: float | None, name: str) -> None:
    if number is not None and not (np.isfinite(number) and number > 0):
        raise ValueError(f"`{name}` must be a positive number, or None; got {number!r}.")
