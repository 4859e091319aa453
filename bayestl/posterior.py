"""The posterior: a finite mixture, over draws of theta, of Gaussian processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bayestl import answers, archive, cavity, export, fewshot, storage
from bayestl.answers import QUANTILES, Function, levels_of
from bayestl.columns import Table, as_frame, labels_of, read_numbers
from bayestl.condense import Inducing, condense, more_pairs
from bayestl.errors import DataError, expect_whole, listed, naming_rows, notice
from bayestl.gaussian.exact import robust_cholesky
from bayestl.gaussian.sites import Site
from bayestl.inference.infer import FitRecord
from bayestl.lazy import lazily
from bayestl.likelihoods.base import Rows
from bayestl.likelihoods.numeric import numbers_of
from bayestl.likelihoods.predictive import Classes, Predictive
from bayestl.materials import FRESH, Materials, Sight
from bayestl.models.base import Model
from bayestl.models.latent import LatentTask
from bayestl.models.problem import Problem, rows_of
from bayestl.notices import warn_of_extrapolation, warn_of_known_rows, warn_of_surprises
from bayestl.priors import Theta
from bayestl.psis import resampled, smoothed
from bayestl.regression import Regression
from bayestl.scaling import Scaling
from bayestl.scoring import Scores
from bayestl.selection import PAIRS, typical
from bayestl.stream import loaders_of
from bayestl.table import TaskData

DOUBTED = 500  # new rows of a task that are compared with what was predicted
BLUR = 0.1  # of the noise, from which on rows at the very inputs that are predicted are conditioned on exactly
FEW = 100  # rows that the embedding of a new task is inferred from
DENSE, RANK = 4000, 1000  # values drawn jointly by their whole covariance, and by how many of them beyond
JOINT_BYTES = 4e9


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known after the data: draws of theta, and for each of them a Gaussian process.

    Made by `fit` or `load`. Tables come in, labelled xarray objects in the user's units go out.

    Attributes
    ----------
    model, data : as given to `fit`
    scaling : the standardisation learned from the data
    theta : draws of the parameters, in standardised units, the draws first
    record : how the fit went
    components : how many of the draws, the first, make up the mixture that predicts; 0 means all. Those of a
        variational posterior are antithetic and orthogonal; the others are a quasi-random sequence, its beginning last.
    sites : for observations that are not normal, the Gaussian sites at the mode, from which those of every draw are found
    inducing : of a large table, the first `condensed` rows of the data (or all rows of a table that was never in memory)
        condensed onto inducing pairs; the rest is conditioned on exactly
    """

    model: Model
    data: TaskData
    scaling: Scaling
    theta: Theta
    record: FitRecord
    components: int = 0
    sites: list[Site] | None = None
    inducing: Inducing | None = None
    condensed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.components <= self.draws:
            object.__setattr__(self, "components", self.draws)

    # -- predicting -------------------------------------------------------------------------------------------

    def predict(
        self,
        new: Table,
        task: str | Sequence[str] | None = None,
        *,
        noise: bool = True,
        quantiles: Sequence[float] = QUANTILES,
    ) -> xr.Dataset:
        """Predict tasks at new inputs, each in its own language.

        Where a large table was condensed, and its inducing pairs leave much untold, what was observed at the very inputs that
        are predicted is conditioned on exactly, beside what tells how the tasks differ (so do `sample`, `derive`, `probability`
        and `score`).

        Parameters
        ----------
        new : table with the input columns (and those of limits and exposures, where predictions shall follow them). Of a Dask
            DataFrame, a chunked xarray Dataset or the path of a parquet folder the answer is lazy, a chunk for each part
        task : a task, several, or None for all
        noise : True predicts a new measurement, so that intervals cover measured values; False the value underneath, or
            the expectation of a count (the rate times the exposure of the row, 1 where the table has none)
        quantiles : levels in (0, 1), of the whole mixture, not of a normal with its moments

        Returns
        -------
        xarray.Dataset
            For numbers and counts ``mean`` and ``std`` with dims (row, task), ``quantile`` with dims (quantile_level, row,
            task), in the tasks' units. Beside censored and hurdle tasks also ``latent_mean``, ``latent_std``,
            ``latent_quantile`` (the value without its limits, or if it is positive) and ``probability_lower``,
            ``probability_upper`` (of a value at its limit; of an exact zero). For classes ``probability`` with dims (row,
            class) and the most probable ``label``. When a single name is given there is no task dimension; when several are,
            the variables of classes end in their task's name: ``probability_colour`` with dims (row, class_colour).

        Raises
        ------
        DataError
            For missing columns, levels never seen, unknown tasks.
        """
        names, single = self._tasks(task)
        levels = levels_of(quantiles)
        if (loaders := loaders_of(new)) is not None:
            return lazily(partial(self.predict, task=task, noise=noise, quantiles=quantiles), loaders)
        index, x = self._inputs(new)
        places = [self.data.index_of(name) for name in names]
        details = {t: self._details(new, t, len(x)) for t in places}
        laws = self._laws(x, places, details, noise)
        return answers.predictions([self.data.tasks[t] for t in places], index, levels, laws, single=single)

    def probability(
        self,
        new: Table,
        task: str,
        *,
        above: float | None = None,
        below: float | None = None,
        noise: bool = True,
        latent: bool = False,
    ) -> xr.DataArray:
        """Probability that a numeric task lies above a value, below one, or (both given) between them; dim (row).

        ``above`` and ``below`` themselves are not included: ``above=0`` of a hurdle task is the probability of a value that is
        not zero. `latent` asks of what `predict` calls so: the value without its limits (nothing is observed beyond these), or
        the size of a hurdle task if it is positive.

        Examples
        --------
        >>> import pandas as pd, bayestl as btl
        >>> x = [i / 19 for i in range(20)]
        >>> frame = pd.DataFrame({"x": x, "gap": [max(0.0, 3 * v - 1 + 0.2 * (-1) ** i) for i, v in enumerate(x)]})
        >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap"], likelihoods={"gap": btl.Censored(lower=0.0)})
        >>> posterior = btl.fit(btl.SingleTask(), data, seed=0)
        >>> posterior.probability({"x": [1.0]}, "gap", above=1.0).item() > 0.5
        True
        """
        t, (index, x) = self.data.index_of(task), self._inputs(new)
        laws = self._laws(x, [t], {t: self._details(new, t, len(x))}, noise)
        return answers.probability(self.data.tasks[t], index, laws, above, below, latent)

    def score(self, test: TaskData) -> xr.Dataset:
        """Judge the predictions of measured values, row by row.

        Returns
        -------
        xarray.Dataset
            With dim ``row``, in the tasks' units: ``log_density`` (its negative mean is the NLPD, or the log loss);
            for numbers and counts ``measured``, ``mean``, ``median``, ``lower_90`` and ``upper_90`` (ends of the central 90 %
            interval), ``std``, ``error`` (measured minus mean), ``crps`` and
            ``pit`` (the predictive probability below the measured value, plus half of that of the value itself, which
            is ``mass``; a central 90 % interval covers a value without mass when ``0.05 <= pit <= 0.95``); for
            classes ``brier``, ``probability`` of the measured class, ``class_probability`` of each (row, class_code), and
            the codes of the measured and of the most probable class. NaN where a score does not apply. A row whose error
            is known is judged with that noise, one without with the noise that was inferred (where the errors of all rows were
            known, with their mean square). `btl.scores` sums them up.
        """
        expect_data(test, "test")
        out = Scores(test)
        for s in range(len(test.tasks)):
            own = np.flatnonzero(test.task_index == s)
            for start in range(0, len(own), self._functions.step):
                chosen = own[start : start + self._functions.step]
                out.put(chosen, *self.measured_law(test, s, chosen))
        return out.labelled()

    def sample(
        self,
        new: Table,
        tasks: str | Sequence[str] | None = None,
        *,
        draws: int = 1000,
        seed: int = 0,
        noise: bool = False,
        latent: bool = False,
        joint: bool = True,
    ) -> xr.DataArray | xr.Dataset:
        """Draw jointly, across rows and tasks, from the posterior of the functions.

        Returns dims (draw, row, task), in the tasks' units; without the task dimension when `tasks` is a single name.
        Up to 4,000 values (distinct rows times functions) the joint law is exact. Beyond, that of the tasks at each row is, and
        rows are linked through the 1,000 values that tell the most about the others.

        With `noise` each value is a measurement: independent noise is added, counts and classes are drawn. Without it counts
        are expectations and classes are probabilities, dims (draw, row, class). Limits and zeros apply either way, save with
        `latent`, as `predict` calls it: values without their limits, and of a hurdle task if they are positive (the law of each
        row is that of a positive value there; how rows and tasks go together is that of the sizes by themselves). Where several
        tasks are asked for and one of them holds classes, the answer is a Dataset with a variable for each.

        With ``joint=False`` each row is drawn by itself, its tasks together still: right for what is asked row by row, and
        fast for any number of rows.

        Raises
        ------
        ValueError
            When the draws would not fit in 4 GB.
        """
        names, single = self._tasks(tasks)
        index, drawn = self.drawn(new, names, draws, seed, noise, latent, joint)
        values = [value if chance is None else answers.given_shown(value, chance) for value, chance in drawn]
        whole = [self.data.tasks[self.data.index_of(name)] for name in names]
        return answers.draws(whole, index, values, noise=noise, single=single)

    def derive(
        self,
        function: Function,
        new: Table,
        *,
        draws: int = 1000,
        seed: int = 0,
        noise: bool = False,
        latent: bool = False,
        joint: bool = True,
        quantiles: Sequence[float] = QUANTILES,
    ) -> xr.Dataset:
        """Predict a function of several tasks, errors that the tasks share cancelling as they do in nature.

        Parameters
        ----------
        function : from a mapping of task names to arrays (draw, row) to an array that keeps the dim ``draw``. A task of classes
            gives its labels with `noise`, and without it its probabilities (draw, row, class_TASK)
        draws, seed, noise, latent, joint : as `sample` takes them; ``joint=False`` for a function of each row alone, where rows
            are many

        Returns
        -------
        xarray.Dataset
            ``mean``, ``std``, ``quantile``; and ``std_independent``, the spread that the same function would have if the
            tasks were predicted as well but independently of one another. Their ratio is what correlation bought. Where all
            tasks have one unit and the function doubles when they double (a difference, a maximum), it has that unit too;
            otherwise it has the one that the function gives it (``assign_attrs(units=...)``), or none.

        Examples
        --------
        >>> import pandas as pd, bayestl as btl
        >>> frame = pd.DataFrame({"x": [0.0, 0.3, 0.6, 1.0], "a": [1.0, 1.4, 1.8, 2.0], "b": [1.1, 1.6, 1.9, 2.2]})
        >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a", "b"])
        >>> posterior = btl.fit(btl.MultiTask(), data, seed=0)
        >>> gap = posterior.derive(lambda y: y["b"] - y["a"], {"x": [0.5]})
        >>> bool(gap["std"] < gap["std_independent"])
        True
        """
        levels = levels_of(quantiles)
        drawn = self.sample(new, list(self.data.names), draws=draws, seed=seed, noise=noise, latent=latent, joint=joint)
        return answers.derived(function, self.data.tasks, drawn, levels, seed)

    def task_correlation(self, quantiles: Sequence[float] = QUANTILES) -> xr.Dataset:
        """Correlation between the tasks' functions at the same input, as theta has it: comparable across models.

        A task with several functions has a line for each, ``task[function]``.
        ``corr[f_o(x), f_o'(x)]`` without the task means; ``mean``, ``std`` and ``quantile`` are over the posterior of theta.
        On few rows the intervals are a little too narrow; those of `reweighted` less so (tests/test_calibration.py).
        """
        correlation = self.model.task_correlation(self.theta, self._problem.points.x, self._problem.layout).numpy()
        levels = levels_of(quantiles)
        names = list(self._problem.layout.outputs)
        dims = ["task", "other_task"]
        return xr.Dataset(
            {
                "mean": (dims, correlation.mean(0)),
                "std": (dims, correlation.std(0)),
                "quantile": (["quantile_level", *dims], np.quantile(correlation, levels, axis=0)),
            },
            coords={"task": names, "other_task": names, "quantile_level": list(levels)},
        )

    # -- learning more ----------------------------------------------------------------------------------------

    def reweighted(self) -> Posterior:
        """Correct the variational posterior of theta by importance weights: draws are repeated as often as they deserve.

        The weights are Pareto-smoothed (Vehtari et al. 2024, arXiv:1507.02646). They help where ``record.pareto_k`` is below
        0.7, and are refused above 1.

        Raises
        ------
        ValueError
            When there are no weights (other methods than ``"variational"``, a table that was condensed, theta that was moved to
            the mode of more rows than it was learned from), or no reliable ones.
        """
        if self.record.moved:
            raise ValueError(
                "Theta was learned from some of the rows and moved to the mode of all: the weights of the fit are not those of "
                'its draws any more. Use method="nuts" where they matter.'
            )
        ratios = torch.from_numpy(self.record.log_ratios.copy())
        if len(ratios) == 0 or self.inducing is not None:
            raise ValueError(
                "Only a variational posterior whose rows are conditioned on exactly has importance weights."
            )
        if not self.record.pareto_k <= 1.0:
            raise ValueError(
                f'Importance weights with k-hat {self.record.pareto_k:.2f} > 1 are not reliable; use method="nuts" instead.'
            )
        weight = smoothed(ratios.unsqueeze(-1))[0][:, 0].exp()
        chosen = resampled(weight, len(ratios))  # in an order that spreads the repeated draws over the mixture
        chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
        return dataclasses.replace(
            self,
            theta={name: value[-len(ratios) :][chosen] for name, value in self.theta.items()},
            components=len(chosen),
            record=self.record.of_other_draws(),
        )

    def condition(self, more: TaskData) -> Posterior:
        """Take new rows into account with theta as it is: exact for the functions, no refit.

        `more` has the same inputs and any of the tasks. The sites of observations that are not normal settle anew, but for
        those of a table that was condensed: new rows are conditioned on exactly on top of it, up to 2,000; then they are
        condensed too. Refit once the new rows are many enough to change theta. New rows of a task whose errors were all known,
        and which have none, are taken to have the root mean square of those: nothing has been learned of its noise. Values that
        were held for less likely than one in a million are named, and rows that are in the data already.
        """
        expect_data(more, "more")
        longer = dataclasses.replace(self, data=self._with_errors(self.data.append(more)), sites=None)
        numeric = all(task.likelihood.kind == "numeric" for task in more.tasks)
        if numeric and np.isin(more.values, self.data.values).all():  # inputs are dearer to compare
            warn_of_known_rows(longer.data.places, longer.data.task_index, longer.data.values, len(self.data))
        self.doubt(more)
        fresh = longer._fresh
        if self.inducing is None or len(fresh.points.output) <= FRESH:
            if longer._materials is not None and self._materials is not None:
                longer._materials.learn_from(self._materials)
            return longer
        grown = more_pairs(self.inducing.apart(), fresh, self._mixed, PAIRS)
        inducing = condense([lambda: fresh], self.model, fresh.layout, self._mixed, grown.pairs, grown.untold, grown)
        return dataclasses.replace(longer, inducing=inducing, condensed=len(longer.data))

    def doubt(self, more: TaskData) -> None:
        """Say which of a few new numbers were held for less likely than one in a million."""
        for s, task in enumerate(more.tasks):
            rows = np.flatnonzero(more.task_index == s)
            if task.likelihood.kind in ("numeric", "count") and self._materials is None and 0 < len(rows) <= DOUBTED:
                law, y = self.measured_law(more, s, rows)
                if not isinstance(law, Classes):
                    chance = 2 * torch.minimum(law.cdf(y), 1 - law.below(y))
                    warn_of_surprises(more.names[s], [more.rows[i] for i in rows], more.values[rows], chance.numpy())

    def _with_errors(self, data: TaskData) -> TaskData:
        """The same with usual errors where rows that came later have none, in tasks in which all had one."""
        errors, unknown = data.errors.copy(), np.isnan(data.errors)
        unknown[: len(self.data)] = False
        theta = typical(self._mixed)
        for t in self._problem.layout.noisy:
            share = self._problem.known_share[t]
            new, law = np.flatnonzero(unknown & (data.task_index == t)), numbers_of(data.tasks[t].likelihood)
            if law is not None and share == 1.0 and len(new):
                ones = dataclasses.replace(data, errors=np.ones(len(data)))
                rows = rows_of(ones, self.scaling, self._problem.layout, t, torch.from_numpy(new))
                size = law.known(rows.of([-1]), self._problem.parameters_of(theta, t))
                errors[new] = (self._problem.known_square(theta, t).sqrt() / size).flatten().numpy()
        return dataclasses.replace(data, errors=errors)

    def new_task(
        self,
        name: str,
        rows: TaskData | None = None,
        *,
        descriptors: Mapping[str, float] | None = None,
        draws: int = 256,
        seed: int = 0,
    ) -> Posterior:
        """Add a task that was not there when the model was fitted (`LatentTask` only).

        Without `rows` its embedding, mean and noise are integrated over their priors, which the other tasks have informed:
        honest, wide intervals. With `rows` (a `TaskData` whose only task is `name`) they are inferred by importance
        sampling (from at most 100 of the rows) while the rest of theta stays put. The new task is observed as its rows say, or
        as the first task of the data; parameters of that likelihood are those of the first such task.

        Raises
        ------
        ValueError
            When the model has no embeddings.
        DataError
            When the tasks have different units or spreads, so that nothing is known of the new one's scale, and when none of them
            is observed as the new one is.
        """
        if not isinstance(self.model, LatentTask):
            raise ValueError(
                f"new_task needs a model that embeds tasks; this one is {type(self.model).__name__}. Fit "
                "btl.LatentTask(), or refit with the new task's rows."
            )
        expect_whole("draws", draws)
        if name in self.data.names:
            raise DataError(f"Task {name!r} is known already. Use condition to add rows to it.")
        if rows is not None:
            expect_data(rows, "rows")
        if rows is not None and rows.names != (name,):
            raise DataError(f"`rows` must hold the task {name!r} alone; got {', '.join(map(repr, rows.names))}.")
        like, widened, scaling = fewshot.widen(self.data, self.scaling, self._problem.layout, name, rows, descriptors)
        everything = widened if rows is None else widened.append(rows)
        alone = None
        if rows is not None:
            new_rows = np.arange(len(everything)) >= len(widened)
            if len(rows) > FEW:  # enough to know the embedding by; all of them are conditioned on
                new_rows[np.random.default_rng(seed).permutation(np.flatnonzero(new_rows))[FEW:]] = False
            alone = Problem.of(self.model, everything.where(new_rows, empty=True), scaling)
        described = scaling.layout(widened).descriptors
        theta, owner = fewshot.extend(
            self.model,
            self._regression,
            alone,
            widened.tasks[-1],
            like,
            None if described is None else described[-1],
            draws,
            seed,
        )
        inducing = None if self.inducing is None else self.inducing.taken(owner)
        record = self.record.of_other_draws()
        if rows is not None:
            record = dataclasses.replace(record, learned=np.r_[record.learned, np.flatnonzero(new_rows)])
        return dataclasses.replace(
            self,
            data=everything,
            scaling=scaling,
            theta=theta,
            components=0,
            sites=None,
            inducing=inducing,
            record=record,
        )

    # -- giving away ------------------------------------------------------------------------------------------

    def log_likelihood(self) -> xr.DataArray:
        """``log p(y_i | y_-i, theta)`` for every draw and row, in the tasks' units; dims (draw, obs).

        Of a condensed table the draws are those that predict. Exact for normal observations; for others the likelihood is
        integrated over the function given all other rows, whose sites stay as they are.
        """
        values = self.log_likelihood_given(self._whole()).numpy()
        return xr.DataArray(values, dims=["draw", "obs"], coords={"obs": np.arange(len(self.data))}, name="y")

    def to_arviz(self, *, task: str | None = None, new: Table | None = None, seed: int = 0) -> Any:
        """Hand the posterior over to ArviZ: `InferenceData` for ArviZ 0.x, `xarray.DataTree` for 1.x.

        With `task` only the observations of one task are handed over, so that ArviZ's own `compare` judges by them. With `new` as
        well, the group ``posterior`` holds a variable ``prediction`` (row) too: the median of the task's noise-free value at
        these inputs under each draw of theta (of classes their probabilities), whose sensitivity to the prior ArviZ can tell.

        Groups: ``posterior``, ``prior``, ``posterior_predictive``, ``prior_predictive``, ``log_likelihood``, ``log_prior``,
        ``observed_data``, ``constant_data``, with named dimensions and units in the attributes. Draws lie in (chain = 1,
        draw). The pointwise log likelihood is ``log p(y_i | y_-i, theta)``, the exact leave-one-out conditional of the
        Gaussian process: rows of a GP are dependent once its functions are integrated out, and this is the factor that
        leave-one-out cross-validation asks for. Posterior predictive draws are of each row by itself (its function value
        and its noise): right for checks row by row, not for statistics over rows, which `sample` serves.
        """
        if new is not None and task is None:
            raise ValueError("`new` needs `task`: the one that is to be predicted there.")
        whole = self._whole()  # solved once
        groups = archive.groups(self, seed, whole)
        if new is not None and task is not None:
            groups["posterior"]["prediction"] = self._by_draw(new, task, whole)
        if task is not None:
            own = np.flatnonzero(self.data.task_index == self.data.index_of(task))
            groups = {name: group.isel(obs=own) if "obs" in group.sizes else group for name, group in groups.items()}
        return export.to_arviz(groups)

    def save(self, path: str | Path) -> Path:
        """Write everything to one netCDF file; `load` gives back bit-for-bit the same predictions."""
        return storage.write(path, *archive.pack(self))

    @property
    def draws(self) -> int:
        """Number of draws of theta."""
        return len(next(iter(self.theta.values())))

    def __repr__(self) -> str:
        return (
            f"Posterior({type(self.model).__name__}, {self.record.method}, {self.draws} draws of {self.record.parameters} "
            f"parameters, {self.data!r})"
        )

    def drawn(
        self, new: Table, tasks: Sequence[str], draws: int, seed: int, noise: bool, latent: bool, joint: bool
    ) -> tuple[pd.Index, list[tuple[NDArray[np.float64], NDArray[np.float64] | None]]]:
        """Labels of the rows; and of each task draws, with the probability that there is something: see `answers.given_shown`."""
        index, x = self._inputs(new)
        places = [self.data.index_of(name) for name in tasks]
        rows = {t: self._rows_at(t, self._details(new, t, len(x))) for t in places}
        out, shown = self._draw(x, places, rows, draws, seed, noise, latent, joint)
        return index, [(out[t], shown.get(t)) for t in places]

    def laws(
        self, new: Table, task: str, noise: bool, step: int, encoded: NDArray[np.float64] | None = None
    ) -> Iterator[Predictive]:
        """What is predicted of a task at `step` rows of a table after others: see `bayestl.likelihoods.predictive`.

        `encoded` is what `data.encode` makes of the table, where that is known already.
        """
        t, x = self.data.index_of(task), self._inputs(new, encoded)[1]
        details = self._details(new, t, len(x))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            yield self._law(x[part], t, self._rows_at(t, details[part]), measured=False, noise=noise)

    def measured_law(self, test: TaskData, task: int, index: np.ndarray) -> tuple[Predictive, Tensor]:
        """What is predicted of some observations of one task of a test table, and what was measured."""
        self.data.check_units(test)
        t = self.data.index_of(test.names[task])
        chosen = test.where(np.isin(np.arange(len(test)), index), empty=True)
        values, details = self.data.recode(chosen)
        x = self.scaling.inputs(self.data.encode(chosen.decode(chosen.x)))
        rows = dataclasses.replace(
            chosen, tasks=self.data.tasks, task_index=np.full(len(chosen), t), values=values, details=details, descriptors=None,
        )  # fmt: skip
        at = rows_of(rows, self.scaling, self._problem.layout, t, torch.arange(len(chosen)))
        return self._law(x, t, at, measured=True), torch.tensor(values)

    # -- inside -----------------------------------------------------------------------------------------------

    @cached_property
    def _problem(self) -> Problem:
        return Problem.of(self.model, self.data, self.scaling)

    @cached_property
    def _fresh(self) -> Problem:
        """The rows that are conditioned on exactly: all of them, or those that came after a table was condensed."""
        if self.inducing is None:
            return self._problem
        mask = np.arange(len(self.data)) >= self.condensed
        return Problem.of(self.model, self.data.where(mask, empty=True), self.scaling)

    @cached_property
    def _mixed(self) -> Theta:
        """The draws that predict."""
        return {name: value[: self.components] for name, value in self.theta.items()}

    @cached_property
    def _regression(self) -> Regression:
        if self.inducing is None:
            return Regression(self._problem, self._mixed, self.sites)
        return Regression(self._fresh, self._mixed, None, self.inducing)

    def _whole(self) -> Regression:
        """The functions under every draw of theta; of a condensed table under those that predict."""
        return self._regression if self.inducing is not None else Regression(self._problem, self.theta, self.sites)

    @cached_property
    def _materials(self) -> Materials | None:
        """Condensed rows that can be looked up by their inputs, where the pairs leave much untold of them."""
        held = self.inducing
        if held is None or held.blur <= BLUR:
            return None
        old = [piece for piece in self._problem.pieces if (piece.at < self.condensed).any()]
        if held.rows != sum(int((piece.at < self.condensed).sum()) for piece in old):  # most were never in memory
            return None
        if held.grown and not all(piece.law.exact for piece in old):
            return None
        return Materials(self._problem, self._mixed, held, self.condensed)

    @property
    def _functions(self) -> Regression:
        """What decides and predicts where nothing was observed."""
        return self._regression if self._materials is None else self._materials.elsewhere

    def log_likelihood_given(self, whole: Regression) -> Float[Tensor, "S n"]:
        """`log_likelihood`, where the functions given all rows are known; of a condensed table as new rows are predicted."""
        one, out = np.arange(len(self.data)), torch.zeros(whole.draws, len(self.data), dtype=torch.float64)
        for chosen, near, in_sums, settled in self.sights(one, np.ones(len(one), dtype=bool), whole):
            out += cavity.leave_one_out(near, self._problem, chosen, in_sums, settled)
        return out

    def sights(self, codes: NDArray[np.int64], wanted: NDArray[np.bool_], whole: Regression) -> Iterator[Sight]:
        """What to leave the `wanted` observations out of, which come in groups: the functions given all rows, or nearer ones."""
        rest = wanted
        for sight in () if self._materials is None else self._materials.sights(codes, wanted):
            rest = rest & ~sight.chosen
            yield sight
        if rest.any():
            yield Sight(rest, whole, np.arange(len(codes)) < self.condensed)

    def _moments(self, x: Tensor, groups: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        """Means and covariances of groups of functions at some points under every component: see `Regression.marginals`."""
        return (self._materials or self._regression).marginals(x, groups)

    def _by_draw(self, new: Table, task: str, whole: Regression) -> xr.DataArray:
        """What each draw of theta predicts of a task, without noise: the median, or the probabilities of its classes."""
        t, (index, x) = self.data.index_of(task), self._inputs(new)
        functions, theta = [self._problem.layout.contrasts(t)], whole.theta
        ((mean, cov),) = whole.marginals(x, functions) if self.inducing is None else self._moments(x, functions)
        rows = self._rows_at(t, self._details(new, t, len(x)))
        found = []
        for s in range(len(mean)):
            p = self._problem.parameters_of({name: value[s : s + 1] for name, value in theta.items()}, t)
            law = self.data.tasks[t].likelihood.predictive(mean[s : s + 1], cov[s : s + 1], None, rows, p)
            found.append(law.probability if isinstance(law, Classes) else law.quantiles([0.5])[0])
        dims = ["chain", "draw", "row"]
        coords: dict[str, Any] = {"row": index.astype(str)}
        if found[0].dim() == 2:
            dims.append("class")
            coords["class"] = np.array([str(level) for level in self.data.tasks[t].levels or ()])
        unit = {"units": self.data.tasks[t].unit or "1"}
        return xr.DataArray(torch.stack(found).numpy()[None], dims=dims, coords=coords, attrs=unit)

    def _marginals(self, x: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Means and covariances of a task's functions at some points under every component."""
        ((mean, cov),) = self._moments(x, [self._problem.layout.contrasts(task)])
        return mean, cov

    def _law(self, x: Tensor, task: int, rows: Rows, measured: bool, noise: bool = True) -> Any:
        """What is predicted of one task at some points: `measured` takes known errors as noise."""
        mean, cov = self._marginals(x, task)
        return self._law_of(mean, cov, task, rows, measured, noise)

    def _law_of(self, mean: Tensor, cov: Tensor, task: int, rows: Rows, measured: bool, noise: bool) -> Any:
        problem, theta = self._problem, self._mixed
        variance = None
        if noise and measured:
            variance = problem.measurement_noise(theta, task, rows)
        elif noise:
            variance = problem.future_noise_variance(theta, task)
        likelihood = self.data.tasks[task].likelihood
        return likelihood.predictive(mean, cov, variance, rows, problem.parameters_of(theta, task))

    def _laws(
        self, x: Tensor, tasks: list[int], details: dict[int, np.ndarray], noise: bool
    ) -> Iterator[tuple[slice, list[Any]]]:
        """What is predicted of several tasks, a few points at a time."""
        groups = [self._problem.layout.contrasts(t) for t in tasks]
        step = max(1, self._functions.step // max(1, max(len(group) for group in groups) ** 2 // 4))
        for start in range(0, len(x), step):
            part = slice(start, min(start + step, len(x)))
            moments = self._moments(x[part], groups)
            yield (
                part,
                [
                    self._law_of(mean, cov, t, self._rows_at(t, details[t][part]), False, noise)
                    for t, (mean, cov) in zip(tasks, moments, strict=True)
                ],
            )

    def _rows_at(self, task: int, details: np.ndarray) -> Rows:
        """Rows yet to be observed."""
        own = self._problem.layout.contrasts(task)
        empty = torch.full((len(details),), torch.nan, dtype=torch.float64)
        location, scale = torch.tensor(self.scaling.location[own]), torch.tensor(self.scaling.scale[own])
        return Rows(empty, empty, torch.tensor(details), location, scale)

    def _details(self, new: Table, task: int, rows: int, say: bool = True) -> np.ndarray:
        """Limits and exposures of new rows: from their columns where the table has them, else those that hold for all.

        Which columns are missing is said, if `say`.
        """
        likelihood, called = self.data.tasks[task].likelihood, self.data.names[task]
        out = np.tile(np.array(likelihood.constants()), (rows, 1))
        wanted = [name for name in likelihood.columns() if name is not None]
        if not wanted:
            return out
        frame = as_frame(new, [*(column.name for column in self.data.inputs), *self.data.columns, *wanted])
        if say and (absent := [name for name in wanted if name not in frame]):
            without = "for an exposure of 1" if likelihood.kind == "count" else "without that limit"
            notice(f"The new table has no column {listed(absent)}: task {called!r} is predicted {without}.")
        for j, name in enumerate(likelihood.columns()):
            if name in frame and name is not None:
                out[:, j] = read_numbers(frame, name, called)
        with naming_rows(frame.index.tolist()):
            likelihood.check_details(out, called)
        return out

    def _draw(
        self,
        x: Tensor,
        tasks: list[int],
        rows: dict[int, Rows],
        draws: int,
        seed: int,
        noise: bool,
        latent: bool,
        joint: bool,
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """Draws (draw, row), or (draw, row, class), of several tasks, joint over rows or of each row by itself.

        And, where what is drawn may have nothing to show, the probabilities that it does.
        """
        expect_whole("draws", draws)
        layout, problem = self._problem.layout, self._problem
        functions = [o for t in tasks for o in layout.contrasts(t)]
        size = len(x) * len(functions)
        regression = self._materials.joint(x) if joint and self._materials is not None else self._regression
        if 8 * size * (draws + (len(regression.support.output) + RANK if joint else 0)) > JOINT_BYTES:
            raise ValueError(
                f"{draws} {'joint ' if joint else ''}draws of {len(x)} rows x {len(functions)} functions do not fit in "
                f"{JOINT_BYTES / 1e9:.0f} GB. "
                "Ask for fewer rows or draws at a time, or use predict, which has no such limit."
            )
        generator = torch.Generator().manual_seed(seed)
        # Which theta each draw belongs to: all of them equally often, the remainder at random.
        owner = torch.arange(draws) % self.components
        if draws % self.components:
            order = torch.randperm(self.components, generator=generator)
            owner = order[owner]
        out: dict[int, np.ndarray] = {}
        shown: dict[int, np.ndarray] = {}
        if not joint:
            ((mean, cov),) = self._moments(x, [functions])
            root = robust_cholesky(cov, torch.ones(cov.shape[:-2], dtype=cov.dtype))[0]
        for batch, thetas, all_solved in regression.batches():
            for i, s in enumerate(range(self.components)[batch]):
                mine = (owner == s).nonzero().squeeze(-1)
                if len(mine) == 0:
                    continue
                theta = {name: value[i : i + 1] for name, value in thetas.items()}
                one = {name: value[0] for name, value in theta.items()}
                if joint:
                    f = regression.draw(one, all_solved[i], x, functions, len(mine), DENSE, RANK, generator)
                else:
                    white = torch.randn(len(mine), *mean.shape[1:], dtype=torch.float64, generator=generator)
                    f = mean[s] + torch.einsum("rij,drj->dri", root[s], white)
                start = 0
                for t in tasks:
                    own = slice(start, start + len(layout.contrasts(t)))
                    start = own.stop
                    variance = problem.future_noise_variance(theta, t) if noise else None
                    likelihood = self.data.tasks[t].likelihood
                    draw = likelihood.draw_latent if latent else likelihood.draw
                    values = draw(f[..., own], variance, rows[t], problem.parameters_of(theta, t), generator).numpy()
                    out.setdefault(t, np.empty((draws, *values.shape[1:])))[mine.numpy()] = values
                    if latent and (chance := likelihood.shown(f[..., own], rows[t])) is not None:
                        shown.setdefault(t, np.empty((draws, len(x))))[mine.numpy()] = chance.numpy()
        return out, shown

    def _inputs(self, new: Table, encoded: NDArray[np.float64] | None = None) -> tuple[pd.Index, Tensor]:
        encoded = self.data.encode(new) if encoded is None else encoded
        x = self.scaling.inputs(encoded)
        if len(x) == 0:
            raise DataError("The table of new inputs has no rows.")
        index = labels_of(new.index if isinstance(new, pd.DataFrame) else range(len(x))).rename("row")
        warn_of_extrapolation(encoded, self.data.x, self.data.numeric_inputs, index.tolist())
        return index, x

    def _tasks(self, task: str | Sequence[str] | None) -> tuple[list[str], bool]:
        asked: Any = self.data.names if task is None else task
        names = list(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked]
        if odd := [name for name in names if not isinstance(name, str)]:
            raise DataError(f"Expected the name of a task, or a list of names; got {listed(odd)}.")
        if not names or len(set(names)) < len(names):
            raise DataError(f"Expected one or more tasks, each once; got {names}.")
        for name in names:
            self.data.index_of(name)
        return names, isinstance(task, str)


def expect_posterior(given: object) -> None:
    """Refuse what is no `Posterior`."""
    if not isinstance(given, Posterior):
        advice = " Of a stack give its `best`, or one of its `posteriors`." if type(given).__name__ == "Stack" else ""
        raise ValueError(f"A posterior is needed here, as `fit` returns it; got a {type(given).__name__}.{advice}")


def expect_data(data: object, what: str) -> None:
    """Refuse what is no `TaskData`."""
    if not isinstance(data, TaskData):
        raise DataError(
            f"`{what}` must be a TaskData (see TaskData.from_wide and from_long); got {type(data).__name__}."
        )
