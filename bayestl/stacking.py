"""Several posteriors that predict together, and the weights that they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from bayestl import answers, archive, storage
from bayestl.answers import QUANTILES, Function, levels_of
from bayestl.columns import Table
from bayestl.errors import DataError, expect_whole, listed
from bayestl.lazy import lazily
from bayestl.likelihoods.predictive import Predictive, mixed
from bayestl.models.base import Model
from bayestl.posterior import Posterior, expect_data
from bayestl.scoring import Scores
from bayestl.stream import loaders_of
from bayestl.table import TaskData

AT_A_TIME = 2000
IMPOSSIBLE = -1e6  # log density that stands for what a model rules out


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
    means, rng = pd.DataFrame(log_density).groupby(codes).mean().to_numpy(), np.random.default_rng(0)
    blocks = np.array_split(np.arange(draws), max(1, draws * len(means) // 1_000_000))  # of a few megabytes
    total = np.concatenate([rng.dirichlet(np.ones(len(means)), len(block)) @ means for block in blocks]) * len(means)
    weights = np.exp(total - total.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).mean(0)


@dataclass(frozen=True, eq=False)
class Stack:
    """Several posteriors that predict together: their predictive laws mixed, with fixed weights.

    Made by `stack` and `fit_best`. It predicts, draws and judges one task at a time as a `Posterior` does. Whatever needs one
    model (`diagnose`, `leave_out`, `to_arviz`, `new_task`) is asked of `best`, or of the `posteriors`.

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
        levels, (index, laws) = levels_of(quantiles), self._laws(new, task, noise)
        return answers.predictions([self.data.tasks[self.data.index_of(task)]], index, levels, laws, single=True)

    def probability(
        self,
        new: Table,
        task: str | None = None,
        *,
        above: float | None = None,
        below: float | None = None,
        noise: bool = True,
        latent: bool = False,
    ) -> xr.DataArray:
        """Probability that a numeric task lies above a value, below one, or between them: see `Posterior.probability`."""
        task = self.target if task is None else task
        index, laws = self._laws(new, task, noise)
        return answers.probability(self.data.tasks[self.data.index_of(task)], index, laws, above, below, latent)

    def score(self, test: TaskData) -> xr.Dataset:
        """Judge the predictions of measured values, row by row: see `Posterior.score`."""
        expect_data(test, "test")
        out = Scores(test)
        for index, laws, y in self._measured(test):
            out.put(index, mixed(laws, self._shares), y)
        return out.labelled()

    def sample(
        self,
        new: Table,
        task: str | None = None,
        *,
        draws: int = 1000,
        seed: int = 0,
        noise: bool = False,
        latent: bool = False,
        joint: bool = True,
    ) -> xr.DataArray:
        """Draw jointly over the rows, from each posterior its share of the draws: see `Posterior.sample`."""
        task = self.target if task is None else task
        self._alike(task)
        expect_whole("draws", draws)
        parts = [
            self.posteriors[name].drawn(new, [task], count, seed, noise, latent, joint)
            for name, count in zip(self.weights, self._counts(draws), strict=True)
            if count
        ]
        each, chances = zip(*(own for _, (own,) in parts), strict=True)
        if all(chance is not None for chance in chances):  # of hurdles, which count as often as they expect something
            values = answers.given_shown(np.concatenate(each), np.concatenate(chances))
        else:  # beside others a hurdle counts by its weight
            values = np.concatenate(
                [
                    own if chance is None else answers.given_shown(own, chance)
                    for own, chance in zip(each, chances, strict=True)
                ]
            )
        whole = [self.data.tasks[self.data.index_of(task)]]
        return answers.draws(whole, parts[0][0], [values], noise=noise, single=True)  # type: ignore[return-value]

    def derive(self, function: Function, new: Table, **options: Any) -> xr.Dataset:
        """Predict a function of several tasks by the best of the posteriors: see `Posterior.derive`."""
        return self.best.derive(function, new, **options)

    def condition(self, more: TaskData) -> Stack:
        """Take new rows into account in every posterior that knows their task, with theta and the weights as they are.

        See `Posterior.condition`. Choose the weights anew, by `fit_best` or `stack`, once the new rows are many.
        """
        expect_data(more, "more")
        for name in more.names:
            if not any(name in posterior.data.names for posterior in self.posteriors.values()):
                self.data.index_of(name)  # refuses it
        grown = {}
        for name, posterior in self.posteriors.items():
            known = [task for task in more.names if task in posterior.data.names]
            own = more.select(known) if known else None
            grown[name] = posterior if own is None or not len(own) else posterior.condition(own)
        return replace(self, posteriors=grown)

    def save(self, path: str | Path) -> Path:
        """Write all posteriors and their weights to one netCDF file; `btl.load` gives back the same predictions."""
        arrays, stacked = dict[str, NDArray[Any]](), []
        for i, (name, posterior) in enumerate(self.posteriors.items()):
            own, settings = archive.pack(posterior)
            arrays |= {f"{i}__{key}": array for key, array in own.items()}
            stacked.append({"name": name, "weight": float(self.weights[name]), "settings": settings})
        table = self.comparison.to_dict("split")
        return storage.write(path, arrays, {"stack": stacked, "target": self.target, "comparison": table})

    def __getattr__(self, name: str) -> NoReturn:
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

    def _laws(self, new: Table, task: str, noise: bool) -> tuple[pd.Index, Iterator[tuple[slice, list[Predictive]]]]:
        """Labels of new rows, and what is predicted of a task, some rows at a time."""
        self._alike(task)
        encoded = self.data.encode(new)
        index = self.best._inputs(new, encoded)[0]
        parts = [slice(start, min(start + AT_A_TIME, len(index))) for start in range(0, len(index), AT_A_TIME)]
        each = [
            own.laws(new, task, noise, AT_A_TIME, encoded if own.data.reads_as(self.data) else None)
            for own in (self.posteriors[name] for name in self.weights)
        ]
        return index, ((part, [mixed(own, self._shares)]) for part, *own in zip(parts, *each, strict=True))

    def _counts(self, draws: int) -> list[int]:
        """Draws of each posterior, as near to the weights as whole numbers can be."""
        ends = np.rint(np.cumsum(list(self.weights.values())) * draws).astype(int)
        return np.diff(np.r_[0, ends[:-1], draws]).tolist()

    @property
    def _shares(self) -> torch.Tensor:
        return torch.tensor(list(self.weights.values()), dtype=torch.float64).unsqueeze(-1)

    def _measured(self, test: TaskData) -> Any:
        """Rows of each task of a test table, with their laws under every posterior and their values."""
        for s, name in enumerate(test.names):
            self._alike(name)
            rows = np.flatnonzero(test.task_index == s)
            for start in range(0, len(rows), AT_A_TIME):
                chosen = rows[start : start + AT_A_TIME]
                found = {own: self.posteriors[own].measured_law(test, s, chosen) for own in self.weights}
                y, first = next(iter(found.values()))[1], next(iter(found))
                for own, (_, read) in found.items():
                    if (off := (read != y).numpy()).any():
                        raise DataError(
                            f"Task {name!r}: the values in rows {listed(test.rows[chosen[off]].tolist())} are beyond a limit of "
                            f"{first!r} or of {own!r} alone, so that one gives them a probability and the other a density: no "
                            "score mixes the two. Read the task with the same limits for all posteriors."
                        )
                yield chosen, [law for law, _ in found.values()], y


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
    several = "stack" in settings
    if model is not None and isinstance(model, Mapping) != several:
        wanted = "a stack: give its models by name" if several else "one posterior: give its model"
        raise DataError(f"{str(path)!r} holds {wanted}.")
    if not isinstance(model, Mapping) and not several:
        return Posterior(*archive.unpack(arrays, settings, model))
    given = model if isinstance(model, Mapping) else {}
    posteriors = {}
    for i, part in enumerate(settings["stack"]):
        own = {key.removeprefix(f"{i}__"): array for key, array in arrays.items() if key.startswith(f"{i}__")}
        posteriors[part["name"]] = Posterior(*archive.unpack(own, part["settings"], given.get(part["name"])))
    table = settings["comparison"]
    comparison = pd.DataFrame(table["data"], pd.Index(table["index"], name="model"), table["columns"])
    weights = {part["name"]: part["weight"] for part in settings["stack"]}
    return Stack(posteriors, weights, settings["target"], comparison)
