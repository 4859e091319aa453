"""Which model predicts the target best, all of them together, and what each source brought."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from bayestl import archive, storage
from bayestl.answers import QUANTILES, Function, levels_of, predictions
from bayestl.columns import Table
from bayestl.crossvalidation import Groups, left_out_scores
from bayestl.errors import DataError
from bayestl.export import for_plot_compare
from bayestl.fitting import SHARED, fit
from bayestl.lazy import lazily
from bayestl.likelihoods.predictive import mixed
from bayestl.models.base import Model
from bayestl.models.difference import Difference
from bayestl.models.latent import LatentTask
from bayestl.models.multitask import MultiTask
from bayestl.models.single import SingleTask
from bayestl.posterior import Posterior, expect_data
from bayestl.scoring import Scores, covered, standard_error
from bayestl.stream import loaders_of
from bayestl.table import TaskData

AT_A_TIME = 2000
ALL = "(all)"  # the line of a report that compares all sources
CLEAR = 4.0  # nats
IMPOSSIBLE = -1e6  # log density that stands for what a model rules out


# -- comparing --------------------------------------------------------------------------------------------------------


def compare(
    posteriors: Mapping[str, Posterior], target: str, by: Groups = None, *, paired: bool = False
) -> pd.DataFrame:
    """Compare models by how well they predict the target's observations when these are left out: see `leave_out`.

    Parameters
    ----------
    posteriors : of the same observations of the target, by name
    target : the task that matters
    by, paired : what is left out with each observation, as `leave_out` takes them; by default it alone

    Returns
    -------
    pandas.DataFrame
        A line per model, the best first: its ``rank``; ``elpd`` (expected log predictive density of the target's rows, in its
        units) and ``se``; ``elpd_diff`` to the best and its standard error ``dse``; ``weight`` of the stack; ``rmse`` and
        ``coverage`` of 90 % intervals (of numbers), ``accuracy`` (of classes); ``pareto_k``, the largest, and ``bad_k``, how
        many are above 0.7. `arviz.plot_compare` takes it as it is (ArviZ 0.x by two columns more, ``elpd_loo`` and
        ``scale``, which it has where that is installed). `pointwise` tells which rows decide.
    """
    found = pointwise(posteriors, target, by, paired=paired)
    density = found["log_density"].values.T
    groups = found["group"].values
    weights = stacking_weights(density, groups)
    best = int(density.sum(0).argmax())
    lines = {}
    for i, name in enumerate(posteriors):
        own = found.isel(model=i)
        gap = own["elpd_diff"].values
        k = own["pareto_k"].values
        lines[name] = {
            "elpd": density[:, i].sum(), "se": len(density) * standard_error(density[:, i], groups),
            "elpd_diff": gap.sum(), "dse": 0.0 if i == best else len(density) * standard_error(gap, groups),
            "weight": weights[i], **_brief(own),
            "pareto_k": float(np.nanmax(k)) if np.isfinite(k).any() else np.nan, "bad_k": int((k > 0.7).sum()),
        }  # fmt: skip
    table = pd.DataFrame(lines).T.sort_values("elpd", ascending=False).rename_axis("model").astype({"bad_k": int})
    table.insert(0, "rank", np.arange(len(table)))
    return for_plot_compare(table)


def pointwise(
    posteriors: Mapping[str, Posterior], target: str, by: Groups = None, *, paired: bool = False
) -> xr.Dataset:
    """What each model says of each observation of the target when it is left out: `compare`, row by row.

    Returns
    -------
    xarray.Dataset
        As `leave_out` (without the ``crps``), dims (model, row), with ``elpd_diff``, how much more the best model of all says
        of the row: `compare` adds these up. The rows, ``task`` and ``group`` are those of the first.
    """
    scored = _scored(posteriors, target, by, paired)
    found = xr.concat(
        list(scored.values()),
        pd.Index(list(scored), name="model"),
        coords="minimal",
        compat="override",
        join="override",
    )
    density = found["log_density"]
    found["elpd_diff"] = -(density - density.isel(model=int(density.values.sum(1).argmax()), drop=True))
    return found


def stacking_weights(
    log_density: NDArray[np.float64], groups: NDArray[Any] | None = None, *, steps: int = 5000
) -> NDArray[np.float64]:
    """Weights of the models' predictive densities that predict left-out rows best (Yao et al. 2018, doi 10.1214/17-BA1091).

    The mode of ``sum_g mean_(i in g) log sum_k w_k p_ik`` under a Dirichlet prior that counts one row per model, shared out as
    `plausibility` has it: a few rows do not decide alone, and a model that they rule out gets nothing. Found by expectation
    maximisation, which never leaves the simplex and always climbs.

    Parameters
    ----------
    log_density : (n, K) of each left-out row under each model
    groups : (n) labels of what was left out together: its rows are alike, and count as one in all. By default each row for itself
    """
    log_density = np.asarray(log_density, dtype=np.float64)
    if np.isnan(log_density).any() or (log_density == np.inf).any():
        raise DataError("Log densities must be numbers, or -inf; some are NaN or inf.")
    log_density = np.maximum(log_density, IMPOSSIBLE)
    n, count = log_density.shape
    codes = np.arange(n) if groups is None else pd.factorize(groups)[0]
    size = np.bincount(codes)
    prior = count * plausibility(log_density, codes)
    likelihood = np.exp(log_density - log_density.max(1, keepdims=True))
    weights = np.full(count, 1 / count)
    for _ in range(steps):
        share = likelihood * weights
        share /= share.sum(1, keepdims=True) * size[codes, None]
        new = (share.sum(0) + prior) / (len(size) + count)
        if np.abs(new - weights).max() < 1e-9:
            break
        weights = new
    return weights


def plausibility(log_density: NDArray[np.float64], codes: NDArray[np.int64], draws: int = 2000) -> NDArray[np.float64]:
    """How plausible it is that each model predicts best: pseudo-BMA weights averaged over the Bayesian bootstrap of the groups.

    ``E[softmax_k(G sum_g w_g mean_(i in g) log p_ik)]``, ``w ~ Dirichlet(1, ..., 1)`` over the G groups (Yao et al. 2018,
    sec. 3.4; there each row is a group of its own).
    """
    means = pd.DataFrame(log_density).groupby(codes).mean().to_numpy()
    total = len(means) * np.random.default_rng(0).dirichlet(np.ones(len(means)), draws) @ means
    weights = np.exp(total - total.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).mean(0)


def _scored(posteriors: Mapping[str, Posterior], target: str, by: Groups, paired: bool) -> dict[str, xr.Dataset]:
    if not posteriors:
        raise ValueError("Give at least one posterior to compare.")
    if not isinstance(posteriors, Mapping):
        raise ValueError(
            f"Give the posteriors by name, {{'alone': ..., 'together': ...}}; got {type(posteriors).__name__}."
        )
    scored, first, unit = {}, None, None
    for name, posterior in posteriors.items():
        if not isinstance(posterior, Posterior):
            raise ValueError(
                f"{name!r} is a {type(posterior).__name__}; only posteriors, as `fit` returns them, can be compared."
            )
        data = posterior.data
        t = data.index_of(target)
        mask = data.task_index == t
        atomic = data.tasks[t].likelihood.atomic(data.values[mask], data.details[mask])
        own = data.values[mask], data.tasks[t].levels, atomic
        if first is None:
            first, unit = own, data.tasks[t].unit
        elif data.tasks[t].unit != unit:
            raise DataError(
                f"The unit of {target!r} is {data.tasks[t].unit!r} in {name!r} and {unit!r} in the first. Bring them to one."
            )
        elif own[1] != first[1]:
            raise DataError(
                f"The classes of {target!r} are {own[1]} in {name!r} and {first[1]} in the first. Give them the same ones, in "
                "one order."
            )
        elif len(own[0]) == len(first[0]) and (atomic != first[2]).any():
            raise DataError(
                f"{name!r} gives a probability to {int((atomic & ~first[2]).sum())} values of {target!r} that have a density "
                f"under the first, and a density to {int((first[2] & ~atomic).sum())} that have a probability there: no score "
                "compares the two. Observe the task alike in this respect (zeros as Hurdle() or Censored(), counts as counts)."
            )
        elif len(own[0]) != len(first[0]) or (own[0] != first[0]).any():
            raise DataError(
                f"The posteriors hold different observations of {target!r} ({name!r} has {len(own[0])}, the first "
                f"{len(first[0])}): their scores cannot be compared. Fit all of them to the same rows."
            )
        scored[name] = left_out_scores(posterior, by, target, paired, crps=False)
    return scored


def _brief(scored: xr.Dataset) -> dict[str, float]:
    if "error" in scored:
        return {"rmse": float((scored["error"] ** 2).mean() ** 0.5), "coverage": float(covered(scored, 0.9).mean())}
    return {"accuracy": float((scored["class_measured"] == scored["class_predicted"]).mean())}


# -- stacking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stack:
    """Several posteriors that predict together: their predictive laws mixed, with fixed weights.

    Made by `stack` and `fit_best`. It predicts, draws and judges one task at a time as a `Posterior` does. Whatever needs one
    model (`diagnose`, `leave_out`, `to_arviz`, `condition`) is asked of `best`, or of the `posteriors`.

    Attributes
    ----------
    posteriors, weights : by name
    target : the task that the weights were chosen for
    comparison : the table of `compare`
    """

    posteriors: Mapping[str, Posterior]
    weights: Mapping[str, float]
    target: str
    comparison: pd.DataFrame = field(repr=False)

    @property
    def best(self) -> Posterior:
        """The posterior with the highest expected log predictive density."""
        return self.posteriors[str(self.comparison.index[0])]

    @property
    def data(self) -> TaskData:
        """The observations."""
        return self.best.data

    def predict(
        self, new: Table, task: str | None = None, *, noise: bool = True, quantiles: Sequence[float] = QUANTILES
    ) -> xr.Dataset:
        """Predict one task, the target by default: see `Posterior.predict`."""
        task = self.target if task is None else task
        if not isinstance(task, str):
            raise ValueError(f"A stack predicts one task at a time; got {task!r}.")
        if (loaders := loaders_of(new)) is not None:
            return lazily(partial(self.predict, task=task, noise=noise, quantiles=quantiles), loaders)
        self._alike(task)
        index, levels = self.best._inputs(new)[0], levels_of(quantiles)
        parts = [slice(start, start + AT_A_TIME) for start in range(0, len(index), AT_A_TIME)]
        laws = ((part, [self._law(new, task, part, noise)]) for part in parts)
        return predictions([self.data.tasks[self.data.index_of(task)]], index, levels, laws, single=True)

    def probability(
        self,
        new: Table,
        task: str | None = None,
        *,
        above: float | None = None,
        below: float | None = None,
        noise: bool = True,
    ) -> xr.DataArray:
        """Probability that a numeric task lies above a value, below one, or between them: see `Posterior.probability`."""
        task = self.target if task is None else task
        self._alike(task)
        return sum(  # type: ignore[return-value]
            weight * self.posteriors[name].probability(new, task, above=above, below=below, noise=noise)
            for name, weight in self.weights.items()
        )

    def score(self, test: TaskData) -> xr.Dataset:
        """Judge the predictions of measured values, row by row: see `Posterior.score`."""
        out = Scores(test)
        weight = torch.tensor(list(self.weights.values())).double().unsqueeze(-1)
        for index, laws, y in self._measured(test):
            out.put(index, mixed(laws, weight), y)
        return out.labelled()

    def sample(
        self, new: Table, task: str | None = None, *, draws: int = 1000, seed: int = 0, noise: bool = False
    ) -> xr.DataArray:
        """Draw jointly over the rows, from each posterior its share of the draws: see `Posterior.sample`."""
        task = self.target if task is None else task
        self._alike(task)
        parts: list[Any] = [
            self.posteriors[name].sample(new, task, draws=count, seed=seed, noise=noise)
            for name, count in zip(self.weights, self._counts(draws), strict=True)
            if count
        ]
        return xr.concat(parts, "draw").assign_coords(draw=np.arange(draws))

    def derive(self, function: Function, new: Table, **options: Any) -> xr.Dataset:
        """Predict a function of several tasks by the best of the posteriors: see `Posterior.derive`."""
        return self.best.derive(function, new, **options)

    def save(self, path: str | Path) -> Path:
        """Write all posteriors and their weights to one netCDF file; `btl.load` gives back the same predictions."""
        arrays: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for i, (name, posterior) in enumerate(self.posteriors.items()):
            own, settings[name] = archive.pack(posterior)
            arrays |= {f"{i}__{key}": array for key, array in own.items()}
        table = self.comparison.to_dict("split") | {"name": self.comparison.index.name}
        held = {"posteriors": settings, "weights": dict(self.weights), "target": self.target, "comparison": table,
                "order": list(self.posteriors)}  # fmt: skip
        return storage.write(path, arrays, {"stack": json.loads(json.dumps(held, default=lambda x: x.item()))})

    def __getattr__(self, name: str) -> Any:
        advice = " Ask `best`, or one of the `posteriors`." if hasattr(Posterior, name) else ""
        raise AttributeError(f"A Stack has no {name!r}.{advice}")

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {weight:.0%}" for name, weight in self.weights.items())
        return f"Stack(for {self.target!r}: {shares})"

    def _alike(self, task: str) -> None:
        """Refuse a task that is not the same in all posteriors: their laws could not be mixed."""
        first = self.best.data.tasks[self.best.data.index_of(task)]
        for name, posterior in self.posteriors.items():
            other = posterior.data.tasks[posterior.data.index_of(task)]
            for what, a, b in (("unit", first.unit, other.unit), ("classes", first.levels, other.levels)):
                if a != b:
                    raise DataError(
                        f"Task {task!r} has the {what} {b!r} in {name!r} and {a!r} in the best: their predictions cannot be "
                        "mixed. Read it alike for all posteriors, or ask each of them."
                    )

    def _counts(self, draws: int) -> list[int]:
        """Draws of each posterior, as near to the weights as whole numbers can be."""
        ends = np.rint(np.cumsum(list(self.weights.values())) * draws).astype(int)
        return np.diff(np.r_[0, ends[:-1], draws]).tolist()

    def _law(self, new: Table, task: str, part: slice, noise: bool) -> Any:
        weight = torch.tensor(list(self.weights.values())).double().unsqueeze(-1)
        return mixed([self.posteriors[name].law(new, task, part, noise) for name in self.weights], weight)

    def _measured(self, test: TaskData) -> Any:
        """Rows of each task of a test table, with their laws under every posterior and their values."""
        for s, name in enumerate(test.names):
            self._alike(name)
            rows = np.flatnonzero(test.task_index == s)
            for start in range(0, len(rows), AT_A_TIME):
                chosen = rows[start : start + AT_A_TIME]
                found = [self.posteriors[own].measured_law(test, s, chosen) for own in self.weights]
                yield chosen, [law for law, _ in found], found[0][1]


def load(path: str | Path, model: Model | Mapping[str, Model] | None = None) -> Any:
    """Read what `Posterior.save` or `Stack.save` wrote: a `Posterior`, or a `Stack`.

    Parameters
    ----------
    model : needed only where a model holds an object of the user's own (a GPyTorch kernel, say), which no file without pickle can
        hold: the same model as was fitted; of a stack, models by name

    Raises
    ------
    DataError
        For a file that is damaged, not bayestl's, newer than this version, or of another model.
    """
    arrays, settings = storage.read(path)
    if "stack" not in settings:
        if isinstance(model, Mapping):
            raise DataError(f"{str(path)!r} holds one posterior: give its model, not a mapping.")
        return Posterior(*archive.unpack(arrays, settings, model))
    held, given = settings["stack"], model if isinstance(model, Mapping) else {}
    posteriors = {}
    for i, name in enumerate(held["order"]):
        own = {key.removeprefix(f"{i}__"): array for key, array in arrays.items() if key.startswith(f"{i}__")}
        posteriors[name] = Posterior(*archive.unpack(own, held["posteriors"][name], given.get(name)))
    table = held["comparison"]
    comparison = pd.DataFrame(
        table["data"], index=pd.Index(table["index"], name=table["name"]), columns=table["columns"]
    )
    return Stack(posteriors, {name: held["weights"][name] for name in posteriors}, held["target"], comparison)


def stack(posteriors: Mapping[str, Posterior], target: str, by: Groups = None, *, paired: bool = False) -> Stack:
    """Mix posteriors with the weights that predict the target's left-out observations best: see `stacking_weights`, `leave_out`.

    Examples
    --------
    >>> import pandas as pd, bayestl as btl
    >>> x = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> frame = pd.DataFrame({"x": x, "pbe": [1.0, 1.2, 1.4, 1.6, 1.8, 2.0], "exp": [1.1, None, 1.6, None, 2.0, 2.1]})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
    >>> both = {"alone": btl.fit(btl.SingleTask(), data), "together": btl.fit(btl.MultiTask(), data)}
    >>> round(sum(btl.stack(both, target="exp").weights.values()), 6)
    1.0
    """
    table = compare(posteriors, target, by, paired=paired)
    return Stack(dict(posteriors), {name: float(table["weight"][name]) for name in posteriors}, target, table)


def default_models(data: TaskData, target: str) -> dict[str, Model]:
    """The control and the three transfer models; the fidelities in the order of the data, the target last."""
    expect_data(data, "data")
    data.index_of(target)
    sources = [name for name in data.names if name != target]
    if not sources:
        return {"single": SingleTask()}
    return {
        "single": SingleTask(), "multitask": MultiTask(), "difference": Difference.chain(*sources, target),
        "latent": LatentTask(),
    }  # fmt: skip


def fit_best(
    data: TaskData,
    target: str,
    *,
    models: Mapping[str, Model] | None = None,
    by: Groups = None,
    paired: bool = False,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Stack:
    """Fit the control and the three transfer models, report how well each predicts the target, and return their stack.

    Parameters
    ----------
    target : the task to be predicted; the others are its sources
    models : others to choose from, by name; the control should be among them, so that transfer cannot cost much
    by, paired : what is left out with each observation of the target, as `leave_out` takes them; by default it alone. Where the
        same material was observed by several sources and new materials will have none, use ``by="row"`` or ``"inputs"``. For
        new metals that the sources know, ``by=table["metal"], paired=True``
    options : for `fit`

    Returns
    -------
    Stack
        ``.best`` is the best single posterior, ``.comparison`` the table of `compare`.

    Examples
    --------
    >>> import pandas as pd, bayestl as btl
    >>> x = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> frame = pd.DataFrame({"x": x, "pbe": [1.0, 1.2, 1.4, 1.6, 1.8, 2.0], "exp": [1.1, None, 1.6, None, 2.0, 2.1]})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
    >>> stack = btl.fit_best(data, target="exp", progress=False)
    >>> sorted(stack.weights)
    ['difference', 'latent', 'multitask', 'single']
    """
    chosen = dict(models) if models is not None else default_models(data, target)
    posteriors = {name: fit(model, data, seed=seed, progress=progress, **options) for name, model in chosen.items()}
    found = stack(posteriors, target, by, paired=paired)
    if progress:
        table = found.comparison.drop(columns=["rank", "elpd_loo", "scale"], errors="ignore")
        print(f"Left-out observations of {target!r}, the best model first:\n{table.round(3).to_string()}")
        if by is None and data.shared_inputs >= SHARED:
            print(
                "What other tasks observed at the same inputs was not left out: so are materials predicted of which it is known. "
                'For materials of which nothing is, give by="inputs".'
            )
    return found


# -- what each source brought -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TransferReport:
    """What every source added to the predictions of a target: see `transfer_report`.

    Attributes
    ----------
    table : a line per source, and one for all of them together
    sentences : the same in words
    model : what predicted
    """

    target: str
    unit: str | None
    table: pd.DataFrame
    sentences: tuple[str, ...]
    model: str

    def __str__(self) -> str:
        return "\n".join([self._title, *self.sentences, "", self.table.round(3).to_string()])

    def _repr_html_(self) -> str:
        return "<p>" + "<br>".join([self._title, *self.sentences]) + "</p>" + self.table.round(3).to_html()

    @property
    def _title(self) -> str:
        return (
            f"Left-out values of {self.target!r}, predicted by {self.model} with each source and without. An effect is clear "
            f"beyond two standard errors and {CLEAR:g} nats of log density:"
        )


def transfer_report(
    data: TaskData,
    target: str,
    *,
    model: Model | None = None,
    by: Groups = None,
    paired: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> TransferReport:
    """Say of every source what it added to the predictions of the target, by fitting with it and without.

    Parameters
    ----------
    target : the task to be predicted; the others are its sources
    model : the transfer model; `MultiTask` by default. In a `Difference` the parents of a source that is left out take its place
    by, paired : what is left out with each observation of the target when it is predicted, as `leave_out` takes them, but
        no label for each observation; by default it alone

    Returns
    -------
    TransferReport
        Its ``table`` has for every source: ``rows``; ``elpd`` gained (log predictive density of the target's left-out
        rows, in sum) and ``elpd_se``; ``rmse_%``, the change of their error in per cent (negative is
        better), and ``rmse_%_se``;
        ``correlation`` with the target, its mean and standard deviation; ``verdict``: "helps", "no clear effect" or
        "harms" (a gain or loss of more than two standard errors, and of more than 4 nats: below that standard errors
        of differences are known to be too small, Sivula et al. 2020, arXiv:2008.10296). The line "(all)" compares all
        sources together with none.
    """
    expect_data(data, "data")
    t = data.index_of(target)
    sources = [name for name in data.names if name != target]
    if not sources:
        raise DataError(f"There is no source beside {target!r}.")
    model = model or MultiTask()
    if by is not None and not isinstance(by, str | pd.Series):
        raise ValueError(
            "`by` must be a name or a Series indexed by the rows of the table here (see leave_out): labels of all "
            "observations do not fit selections of tasks."
        )

    def left(tasks: Sequence[str]) -> tuple[Posterior, xr.Dataset]:
        own = SingleTask(model.kernel) if len(tasks) == 1 else model.of_tasks(tasks)
        posterior = fit(own, data.select(tasks), seed=seed, progress=progress)
        return posterior, left_out_scores(posterior, by, target, paired, crps=False)

    together, whole = left(data.names)
    correlation = together.task_correlation()
    numeric = "error" in whole
    lines, sentences = {}, []
    if ALL in sources:
        raise DataError(f"A source is called {ALL!r}, as the line of the report is that compares all. Rename it.")
    for source in [*sources, ALL]:
        rest = [name for name in data.names if name != source] if source != ALL else [target]
        _, without = left(rest)
        gain = whole["log_density"].values - without["log_density"].values
        se = len(gain) * standard_error(gain, whole["group"].values)
        line: dict[str, Any] = {
            "rows": int(data.counts.sum() - data.counts[t]) if source == ALL else int(data.counts[data.index_of(source)]),
            "elpd": gain.sum(), "elpd_se": se,
        }  # fmt: skip
        words = f"{100 * np.expm1(gain.mean()):+.0f} % in the density of what was measured"
        if numeric:
            change, error = _rmse_change(whole["error"].values, without["error"].values, whole["group"].values)
            line |= {"rmse_%": 100 * change, "rmse_%_se": 100 * error}
            words = f"the error of left-out values {100 * change:+.0f} +- {100 * error:.0f} %"
            if np.isnan(change):
                words = "what it does to the error of left-out values cannot be told"
        if source != ALL and not any("[" in name for name in together._problem.layout.outputs):
            line["correlation"] = float(correlation["mean"].sel(task=target, other_task=source))
            line["correlation_sd"] = float(correlation["std"].sel(task=target, other_task=source))
            words += f", correlation {line['correlation']:.2f} +- {line['correlation_sd']:.2f}"
        clear = abs(gain.sum()) > max(2 * se, CLEAR)
        line["verdict"] = "no clear effect" if not clear else "helps" if gain.sum() > 0 else "harms"
        lines[source] = line
        name = "All sources together" if source == ALL else f"{source} ({line['rows']:,} rows)"
        verb = {"helps": "helped", "harms": "did harm", "no clear effect": "had no clear effect"}[line["verdict"]]
        if source == ALL and len(sources) == 1:
            continue
        sentences.append(f"{name} {verb}: log density {gain.sum():+.1f} +- {se:.1f}; {words}.")
    table = pd.DataFrame(lines).T.infer_objects().rename_axis("source")
    return TransferReport(target, data.tasks[t].unit, table, tuple(sentences), type(model).__name__)


def _rmse_change(error: NDArray[np.float64], other: NDArray[np.float64], groups: NDArray[Any]) -> tuple[float, float]:
    """``rmse / rmse_other - 1`` and its standard error, by the delta method on the paired squares."""
    a, b = error**2, other**2
    if not a.mean() > 0 or not b.mean() > 1e-20 * a.mean():  # nothing can be left out of a single row
        return float("nan"), float("nan")
    ratio = np.sqrt(a.mean() / b.mean())
    influence = 0.5 * ratio * (a / a.mean() - b / b.mean())
    return float(ratio - 1), standard_error(influence, groups)
