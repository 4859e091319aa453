"""Which model predicts the target best, all of them together, and what each source brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayestl.columns import SHARED
from bayestl.crossvalidation import UNRELIABLE, Groups, left_out_scores
from bayestl.errors import DataError, listed
from bayestl.export import for_plot_compare
from bayestl.fitting import fit_whole
from bayestl.models.base import Model
from bayestl.models.difference import Difference
from bayestl.models.latent import LatentTask
from bayestl.models.multitask import MultiTask
from bayestl.models.single import SingleTask
from bayestl.posterior import Posterior, expect_data
from bayestl.scoring import covered, standard_error
from bayestl.stacking import Stack, stacking_weights
from bayestl.table import TaskData

ALL = "(all)"  # the line of a report that compares all sources
CLEAR = 4.0  # nats


# -- comparing --------------------------------------------------------------------------------------------------------


def compare(
    posteriors: Mapping[str, Posterior], target: str, by: Groups = None, *, paired: bool = False, refit: bool = False
) -> pd.DataFrame:
    """Compare models by how well they predict the target's observations when these are left out: see `leave_out`.

    Parameters
    ----------
    posteriors : of the same observations of the target, by name
    target : the task that matters
    by, paired, refit : what is left out with each observation, and how, as `leave_out` takes them; by default it alone

    Returns
    -------
    pandas.DataFrame
        A line per model, the best first: its ``rank``; ``elpd`` (expected log predictive density of the target's rows, in its
        units) and ``se``; ``elpd_diff`` to the best and its standard error ``dse``; ``weight`` of the stack; ``rmse`` and
        ``coverage`` of 90 % intervals (of numbers), ``accuracy`` (of classes); ``pareto_k``, the largest, and ``bad_k``, how
        many are above 0.7 (neither of a mode, or of a few draws of theta): of more than a few rows, theta hangs on single ones
        and these figures on a few draws of it; ``refit=True``, or a `score` of rows that were held back, tells better.
        `arviz.plot_compare` takes it as it is (ArviZ 0.x by two columns more, ``elpd_loo`` and ``scale``, which it has where
        that is installed). `pointwise` tells which rows decide.

    Raises
    ------
    DataError
        When the posteriors do not hold the same observations of the target, or densities meet probabilities.
    """
    found = pointwise(posteriors, target, by, paired=paired, refit=refit)
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
            "pareto_k": float(np.nanmax(k)) if np.isfinite(k).any() else np.nan,
            "bad_k": int((k > UNRELIABLE).sum()) if np.isfinite(k).any() else None,
        }  # fmt: skip
    table = pd.DataFrame(lines).T.sort_values("elpd", ascending=False).rename_axis("model").astype({"bad_k": float})
    if table["bad_k"].notna().all():
        table["bad_k"] = table["bad_k"].astype(int)
    table.insert(0, "rank", np.arange(len(table)))
    return for_plot_compare(table)


def pointwise(
    posteriors: Mapping[str, Posterior], target: str, by: Groups = None, *, paired: bool = False, refit: bool = False
) -> xr.Dataset:
    """What each model says of each observation of the target when it is left out: `compare`, row by row.

    Returns
    -------
    xarray.Dataset
        As `leave_out` (without the ``crps``), dims (model, row), with ``elpd_diff``, how much more the best model of all says
        of the row: `compare` adds these up. The rows, ``task`` and ``group`` are those of the first.
    """
    scored = _scored(posteriors, target, by, paired, refit)
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


def _scored(
    posteriors: Mapping[str, Posterior], target: str, by: Groups, paired: bool, refit: bool
) -> dict[str, xr.Dataset]:
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
        scored[name] = left_out_scores(posterior, by, target, paired, refit=refit, crps=False)
    return scored


def _brief(scored: xr.Dataset) -> dict[str, float]:
    if "error" in scored:
        return {"rmse": float((scored["error"] ** 2).mean() ** 0.5), "coverage": float(covered(scored, 0.9).mean())}
    return {"accuracy": float((scored["class_measured"] == scored["class_predicted"]).mean())}


def stack(
    posteriors: Mapping[str, Posterior], target: str, by: Groups = None, *, paired: bool = False, refit: bool = False
) -> Stack:
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
    table = compare(posteriors, target, by, paired=paired, refit=refit)
    return Stack(dict(posteriors), {name: float(table["weight"][name]) for name in posteriors}, target, table)


def default_models(data: TaskData, target: str) -> dict[str, Model]:
    """The control and the three transfer models; the target is built on each of the sources."""
    expect_data(data, "data")
    data.index_of(target)
    sources = [name for name in data.names if name != target]
    if not sources:
        return {"single": SingleTask()}
    return {
        "single": SingleTask(), "multitask": MultiTask(), "difference": Difference({target: sources}),
        "latent": LatentTask(),
    }  # fmt: skip


def fit_best(
    data: TaskData,
    target: str,
    *,
    models: Mapping[str, Model] | None = None,
    by: Groups = None,
    paired: bool = False,
    refit: bool = False,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Stack:
    """Fit the control and the three transfer models, report how well each predicts the target, and return their stack.

    Parameters
    ----------
    target : the task to be predicted; the others are its sources
    models : others to choose from, by name; the control should be among them, so that transfer cannot cost much. By default
        the four, `Difference` with the target built on each of its sources; where these are fidelities of one another
        `Difference.chain` may tell more
    by, paired : what is left out with each observation of the target, as `leave_out` takes them; by default it alone. Where the
        same material was observed by several sources and new materials will have none, use ``by="row"`` or ``"inputs"``. For
        new metals that the sources know, ``by=table["metal"], paired=True``
    refit : fit again without each observation on which theta hangs, as `leave_out` does: with a dozen of them beside many sources
        up to a dozen times the time, and worth it
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
    posteriors = {
        name: fit_whole(model, data, seed=seed, progress=progress, **options) for name, model in chosen.items()
    }
    found = stack(posteriors, target, by, paired=paired, refit=refit)
    if progress:
        table = found.comparison.drop(columns=["rank", "elpd_loo", "scale"], errors="ignore")
        print(f"Left-out observations of {target!r}, the best model first:\n{table.round(3).to_string()}")
        if (found.comparison["pareto_k"] > 1.0).any():
            print(
                "A pareto_k above 1: single rows are far from what is expected of them, or theta hangs on them. Which they are, "
                f"and what they decide, btl.pointwise(stack.posteriors, {target!r}) tells; refit=True leaves them out by fits."
            )
        if by is None and data.repeated:
            print(_of_repeated(data))
        elif by is None and data.shared_inputs >= SHARED:
            print(
                "What other tasks observed at the same inputs was not left out: so are materials predicted of which it is known. "
                'For materials of which nothing is, give by="inputs".'
            )
    return found


def _of_repeated(data: TaskData) -> str:
    """Say what stays known of a row that is left out alone, where materials stand in several rows."""
    return (
        f"Other rows of the same {listed(data.repeated, 4)} were not left out: so are other conditions of known materials "
        'predicted. For materials of which nothing is known, give by="materials"; for those that the sources know, '
        'by="materials", paired=True.'
    )


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

    __repr__ = __str__

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
    refit: bool = False,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> TransferReport:
    """Say of every source what it added to the predictions of the target, by fitting with it and without.

    Parameters
    ----------
    target : the task to be predicted; the others are its sources
    model : the transfer model; `MultiTask` by default. In a `Difference` the parents of a source that is left out take its place
    by, paired, refit : what is left out with each observation of the target when it is predicted, and how, as `leave_out` takes
        them, but no label for each observation; by default it alone
    options : for `fit`

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
    if ALL in sources:
        raise DataError(f"A source is called {ALL!r}, as the line of the report is that compares all. Rename it.")
    model = model or MultiTask()
    if by is not None and not isinstance(by, str | pd.Series):
        raise ValueError(
            "`by` must be a name or a Series indexed by the rows of the table here (see leave_out): labels of all "
            "observations do not fit selections of tasks."
        )

    @cache
    def left(tasks: tuple[str, ...]) -> tuple[Posterior, xr.Dataset]:
        own = SingleTask(model.kernel) if len(tasks) == 1 else model.of_tasks(tasks)
        posterior = fit_whole(own, data.select(tasks), seed=seed, progress=progress, **options)
        return posterior, left_out_scores(posterior, by, target, paired, refit=refit, crps=False)

    together, whole = left(data.names)
    correlation = together.task_correlation()
    numeric = "error" in whole
    lines, sentences = {}, []
    for source in [*sources, ALL]:
        rest = tuple(name for name in data.names if name != source) if source != ALL else (target,)
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
        sentences.append(
            f"{name} {verb}: log density {gain.sum():+.1f} +- {se:.1f}{_decisive(gain, whole['row'].values)}; {words}."
        )
    verdicts = {source: line["verdict"] for source, line in lines.items()}
    if len(sources) > 1 and verdicts.pop(ALL) == "helps" and "helps" not in verdicts.values():
        sentences.append("Each can be spared while the others are there, for they tell much the same; not all of them.")
    if by is None and data.repeated:
        sentences.append(_of_repeated(data))
    table = pd.DataFrame(lines).T.infer_objects().rename_axis("source")
    return TransferReport(target, data.tasks[t].unit, table, tuple(sentences), type(model).__name__)


def _decisive(gain: NDArray[np.float64], rows: NDArray[Any]) -> str:
    """Say which row decides, where one does: its value may be wrong."""
    most = int(np.abs(gain).argmax())
    if abs(gain[most]) <= max(CLEAR, 0.4 * np.abs(gain).sum()):
        return ""
    return f", of which {gain[most]:+.1f} from row {rows[most]} alone (check its value)"


def _rmse_change(error: NDArray[np.float64], other: NDArray[np.float64], groups: NDArray[Any]) -> tuple[float, float]:
    """``rmse / rmse_other - 1`` and its standard error, by leaving out each group: where one row makes both, it tells that."""
    both = pd.DataFrame({"a": error**2, "b": other**2})
    total = both.sum()
    if not total["a"] > 0 or not total["b"] > 1e-20 * total["a"]:  # nothing can be left out of a single row
        return float("nan"), float("nan")
    without = total - both.groupby(pd.factorize(groups)[0]).sum()
    ratio = (without["a"] / without["b"].clip(lower=1e-20 * total["b"])).to_numpy() ** 0.5
    count = len(ratio)
    spread = np.sqrt((count - 1) / count * ((ratio - ratio.mean()) ** 2).sum()) if count > 1 else np.nan
    return float(np.sqrt(total["a"] / total["b"]) - 1), float(spread)
