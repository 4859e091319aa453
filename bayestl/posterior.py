"""The posterior: a finite mixture, over draws of theta, of exact Gaussian processes; and `fit`, which makes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from bayestl import archive, export, fewshot, storage
from bayestl.errors import DataError
from bayestl.gaussian import mixture
from bayestl.gaussian.exact import Conditioned, robust_cholesky
from bayestl.inference.infer import FitRecord, Method, infer
from bayestl.models.base import NOISE_FLOOR, Model, Problem
from bayestl.models.latent import LatentTask
from bayestl.priors import Theta
from bayestl.scaling import Pairs, Scaling
from bayestl.table import Table, Task, TaskData

QUANTILES = (0.05, 0.5, 0.95)
WORKING_BYTES = 2e6  # of one temporary array while predicting: it should stay in the caches
KEPT_BYTES = 1e9  # of Cholesky factors kept between calls


def fit(
    model: Model,
    data: TaskData,
    *,
    method: Method = "variational",
    seed: int = 0,
    draws: int | None = None,
    warmup: int = 300,
    progress: bool = True,
) -> Posterior:
    """Infer a model's parameters and return the posterior over functions and parameters.

    The functions are integrated out exactly; theta is inferred by

    * ``"variational"``: L-BFGS to the mode, the curvature there, then a Gaussian in that basis moved to maximise the
      evidence lower bound. Seconds on a few hundred rows, within a few hundredths of a nat of sampling.
    * ``"map"``: the mode alone. Fastest, and over-confident on fewer than about 200 rows.
    * ``"nuts"``: Pyro's sampler on the same density, the reference. Minutes.

    Parameters
    ----------
    model : `SingleTask`, `MultiTask`, `Difference` or `LatentTask`
    data : the observations
    seed : the same seed gives the same answer; no global random state is read or left changed
    draws : of theta, all of which then predict; by default 256, of which the first 64 (few rows) to 8 (thousands)
        predict, and 1000 with NUTS
    warmup : steps of NUTS's adaptation
    progress : show a bar when it takes more than two seconds on a terminal

    Raises
    ------
    DataError
        When the model cannot describe the data.
    FitError
        When no usable posterior is found.

    Examples
    --------
    >>> import pandas as pd, bayestl as btl
    >>> frame = pd.DataFrame({"x": [0.0, 0.3, 0.6, 1.0], "pbe": [1.0, 1.4, 1.8, 2.0], "exp": [None, 1.9, None, 2.6]})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"], units={"pbe": "eV", "exp": "eV"})
    >>> posterior = btl.fit(btl.Difference.chain("pbe", "exp"), data, seed=0)
    >>> posterior.predict({"x": [0.5]}, task="exp")["quantile"].sizes["quantile_level"]
    3
    """
    if not isinstance(model, Model):
        raise ValueError(f"`model` must be a bayestl model such as btl.MultiTask(); got {type(model).__name__}.")
    if not isinstance(data, TaskData):
        raise ValueError(f"`data` must be a TaskData (see TaskData.from_long); got {type(data).__name__}.")
    model.check(data)
    seed = int(seed)
    scaling = model.scaling(data)
    problem = Problem.of(model, data, scaling)
    theta, record, components = infer(problem, method, seed, draws, warmup, progress)
    return Posterior(model, data, scaling, {name: theta[name] for name in problem.parameters()}, record, components)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known after the data: draws of theta, and for each of them an exact Gaussian process.

    Made by `fit` or `load`. Tables come in, labelled xarray objects in the user's units go out.

    Attributes
    ----------
    model, data : as given to `fit`
    scaling : the standardisation learned from the data
    theta : draws of the parameters, in standardised units, the draws first
    record : how the fit went
    components : how many of the draws, the first, make up the mixture that predicts; 0 means all. The draws of a
        variational posterior are a quasi-random sequence, whose beginnings are good samples too.
    """

    model: Model
    data: TaskData
    scaling: Scaling
    theta: Theta
    record: FitRecord
    components: int = 0

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
        """Predict tasks at new inputs.

        Parameters
        ----------
        new : table with the input columns; other columns are ignored
        task : a task, several, or None for all
        noise : True predicts a new measurement, so that intervals cover measured values; False the value underneath
        quantiles : levels in (0, 1), of the whole mixture, not of a normal with its moments

        Returns
        -------
        xarray.Dataset
            ``mean`` and ``std`` with dims (row, task), ``quantile`` with dims (quantile_level, row, task), in the tasks'
            units; without the task dimension when `task` is a single name.

        Raises
        ------
        DataError
            For missing columns, levels never seen, unknown tasks.
        """
        names, single = self._tasks(task)
        levels = _levels(quantiles)
        frame_index, x = self._inputs(new)
        rows = len(x)
        outputs = [self.data.index_of(name) for name in names]
        mean, std = torch.empty(rows, len(names)).double(), torch.empty(rows, len(names)).double()
        found = torch.empty(len(levels), rows, len(names)).double()
        step = max(1, int(WORKING_BYTES / (8 * self._chunk * len(self.data))))
        future = self._problem.future_noise_variance(self._mixed, torch.tensor(outputs)).unsqueeze(1) * float(noise)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            m, v = self._marginals(x[part], outputs)
            v = v + future
            mean[part], std[part] = mixture.moments(m, v)
            found[:, part] = mixture.quantiles(m, v.sqrt(), levels)
        location, scale = self._units(names)
        dims = ["row", "task"]
        out = xr.Dataset(
            {
                "mean": (dims, mean.numpy() * scale + location),
                "std": (dims, std.numpy() * scale),
                "quantile": (["quantile_level", *dims], found.numpy() * scale + location),
            },
            coords={"row": frame_index, "task": names, "quantile_level": list(levels)},
        )
        return self._finish(out, names, single)

    def score(self, test: TaskData) -> xr.Dataset:
        """Judge the predictions of measured values, row by row.

        Returns
        -------
        xarray.Dataset
            With dim ``row``, in the tasks' units: ``mean``, ``error`` (measured minus mean), ``log_density`` (its negative
            mean is the NLPD), ``crps`` and ``pit`` (the predictive probability below the measured value; a central 90 %
            interval covers it when ``0.05 <= pit <= 0.95``). A row whose error is known is judged with that noise.
        """
        self.data.check_units(test)
        x = self.scaling.inputs(self.data.encode(test.decode(test.x)))
        index = np.array([self.data.index_of(name) for name in test.names])[test.task_index]
        mean, variance = self._marginals_at(Pairs(x, torch.from_numpy(index)))
        scale, location = torch.from_numpy(self.scaling.scale[index]), torch.from_numpy(self.scaling.location[index])
        known = torch.tensor(test.errors) / scale
        noise = self._problem.future_noise_variance(self._mixed, torch.from_numpy(index))
        std = (variance + torch.where(known.isnan(), noise, known.square() + NOISE_FLOOR)).sqrt()
        y = (torch.tensor(test.values) - location) / scale
        centre = mean.mean(0) * scale + location
        return xr.Dataset(
            {
                "mean": ("row", centre.numpy()),
                "error": ("row", test.values - centre.numpy()),
                "log_density": ("row", (mixture.log_density(y, mean, std) - scale.log()).numpy()),
                "crps": ("row", (mixture.crps(y, mean, std) * scale).numpy()),
                "pit": ("row", mixture.cdf(y, mean, std).numpy()),
            },
            coords={
                "row": np.array([str(row) for row in test.rows]),
                "task": ("row", np.array(test.names)[test.task_index]),
            },
        )

    def sample(
        self,
        new: Table,
        tasks: str | Sequence[str] | None = None,
        *,
        draws: int = 1000,
        seed: int = 0,
        noise: bool = False,
    ) -> xr.DataArray:
        """Draw jointly, across rows and tasks, from the posterior of the functions.

        Returns dims (draw, row, task), in the tasks' units; without the task dimension when `tasks` is a single name.
        With `noise` independent measurement noise is added to every value.

        Raises
        ------
        ValueError
            When the joint covariance (rows times tasks, squared) would not fit in 2 GB.
        """
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1; got {draws}.")
        names, single = self._tasks(tasks)
        frame_index, x = self._inputs(new)
        size = len(x) * len(names)
        if size > 16_000:
            raise ValueError(
                f"A joint draw of {len(x)} rows x {len(names)} tasks needs a {size} x {size} covariance. "
                "Ask for at most 16,000 values at a time, or use predict, which has no such limit."
            )
        at = Pairs(x.repeat(len(names), 1), torch.cat([self._at(x, name).output for name in names]))
        generator = torch.Generator().manual_seed(seed)
        white = torch.randn(draws, size, dtype=torch.float64, generator=generator)
        # Which theta each draw belongs to: all of them equally often, the remainder at random.
        owner = torch.arange(draws) % self.components
        if draws % self.components:
            order = torch.randperm(self.components, generator=generator)
            owner = order[owner]
        out = torch.empty(draws, size, dtype=torch.float64)
        for batch, thetas, all_solved in self._batches():
            for i, s in enumerate(range(self.components)[batch]):
                mine = (owner == s).nonzero().squeeze(-1)
                if len(mine) == 0:
                    continue
                theta = {name: value[i] for name, value in thetas.items()}
                mean, covariance, prior_size = self._joint(theta, all_solved[i], at)
                if noise:
                    covariance.diagonal().add_(self._problem.future_noise_variance(theta, at.output))
                out[mine] = mean + white[mine] @ robust_cholesky(covariance, prior_size)[0].mT
        location, scale = self._units(names)
        values = out.reshape(draws, len(names), len(x)).permute(0, 2, 1).numpy() * scale + location
        array = xr.DataArray(
            values, dims=["draw", "row", "task"], name="sample",
            coords={"draw": np.arange(draws), "row": frame_index, "task": names},
        )  # fmt: skip
        return self._finish(array, names, single)

    def derive(
        self,
        function: Callable[[Mapping[str, xr.DataArray]], xr.DataArray],
        new: Table,
        *,
        draws: int = 1000,
        seed: int = 0,
        noise: bool = False,
        quantiles: Sequence[float] = QUANTILES,
    ) -> xr.Dataset:
        """Predict a function of several tasks, errors that the tasks share cancelling as they do in nature.

        Parameters
        ----------
        function : from a mapping of task names to arrays (draw, row) to an array that keeps the dim ``draw``

        Returns
        -------
        xarray.Dataset
            ``mean``, ``std``, ``quantile``; and ``std_independent``, the spread that the same function would have if the
            tasks were predicted as well but independently of one another. Their ratio is what correlation bought.

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
        levels = _levels(quantiles)
        joint = self.sample(new, list(self.data.names), draws=draws, seed=seed, noise=noise)
        by_task = {name: joint.sel(task=name, drop=True) for name in self.data.names}
        result = function(by_task)
        if not isinstance(result, xr.DataArray) or "draw" not in result.dims:
            raise ValueError("`function` must return an xarray.DataArray that keeps the dimension 'draw'.")
        result = result.astype(float)
        # Shuffling the draws of each task keeps its marginal law and breaks its link with the others.
        rng = np.random.default_rng(seed)
        apart = function(
            {name: array.copy(data=array.values[rng.permutation(draws)]) for name, array in by_task.items()}
        )
        level = xr.DataArray(list(levels), dims="quantile_level", coords={"quantile_level": list(levels)})
        found = result.quantile(level.values, dim="draw").rename(quantile="quantile_level")
        return xr.Dataset(
            {
                "mean": result.mean("draw"),
                "std": result.std("draw"),
                "quantile": found,
                "std_independent": apart.astype(float).std("draw"),
            }
        )

    def task_correlation(self, quantiles: Sequence[float] = QUANTILES) -> xr.Dataset:
        """Correlation between the tasks' functions at the same input, as theta has it: comparable across models.

        ``corr[f_o(x), f_o'(x)]`` without the task means; ``mean``, ``std`` and ``quantile`` are over the posterior of theta.
        """
        covariance = self.model.task_covariance(self.theta, self._problem.points.x, self._problem.layout)
        scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        correlation = (covariance / scale.unsqueeze(-1) / scale.unsqueeze(-2)).numpy()
        levels = _levels(quantiles)
        dims = ["task", "other_task"]
        return xr.Dataset(
            {
                "mean": (dims, correlation.mean(0)),
                "std": (dims, correlation.std(0)),
                "quantile": (["quantile_level", *dims], np.quantile(correlation, levels, axis=0)),
            },
            coords={"task": list(self.data.names), "other_task": list(self.data.names), "quantile_level": list(levels)},
        )

    # -- learning more ----------------------------------------------------------------------------------------

    def condition(self, more: TaskData) -> Posterior:
        """Take new rows into account with theta as it is: exact for the functions, no refit.

        `more` has the same inputs and any of the tasks. Refit once the new rows are many enough to change theta, or when
        they bring rows of unknown error to a task whose errors were all known: nothing has been learned of its noise.
        """
        return dataclasses.replace(self, data=self.data.append(more))

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
        sampling while the rest of theta stays put.

        Raises
        ------
        ValueError
            When the model has no embeddings.
        DataError
            When the tasks have different units or spreads, so that nothing is known of the new one's scale.
        """
        if not isinstance(self.model, LatentTask):
            raise ValueError(
                f"new_task needs a model that embeds tasks; this one is {type(self.model).__name__}. Fit "
                "btl.LatentTask(), or refit with the new task's rows."
            )
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1; got {draws}.")
        if name in self.data.names:
            raise DataError(f"Task {name!r} is known already. Use condition to add rows to it.")
        if rows is not None and rows.names != (name,):
            raise DataError(f"`rows` must hold the task {name!r} alone; got {', '.join(map(repr, rows.names))}.")
        if np.ptp(self.scaling.scale) > 0 or np.ptp(self.scaling.location) > 0:
            raise DataError(
                "The tasks differ in unit (or declare none, and differ in spread by more than a factor of ten) and are "
                "standardised each by itself, so nothing is known of the scale of a new one. Bring them to one unit and "
                "declare it: TaskData.from_long(..., units={...})."
            )
        table = fewshot.describe_new(self.data.descriptors, name, descriptors)
        common = self.data.tasks[0].unit
        if rows is not None and rows.tasks[0].unit not in (None, common):
            raise DataError(f"`rows` are in {rows.tasks[0].unit!r}; the other tasks are in {common!r}. Convert them.")
        widened = dataclasses.replace(self.data, tasks=(*self.data.tasks, Task(name, common)), descriptors=table)
        scaling = dataclasses.replace(
            self.scaling,
            location=np.append(self.scaling.location, self.scaling.location[0]),
            scale=np.append(self.scaling.scale, self.scaling.scale[0]),
        )
        layout = scaling.layout(widened)
        described = None if layout.descriptors is None else layout.descriptors[-1]
        more = Problem.of(self.model, widened.append(rows), scaling) if rows is not None else None
        theta = fewshot.extend(
            self.model, self._problem, self._mixed, self._solved(self._mixed), more,
            described, draws, seed,
        )  # fmt: skip
        return dataclasses.replace(
            self, data=widened if rows is None else widened.append(rows), scaling=scaling, theta=theta, components=0
        )

    # -- giving away ------------------------------------------------------------------------------------------

    def log_likelihood(self) -> xr.DataArray:
        """``log p(y_i | y_-i, theta)`` for every draw and row, exact and in the tasks' units; dims (draw, obs)."""
        out = torch.empty(self.draws, len(self.data), dtype=torch.float64)
        for s, theta in self._split(self.theta):
            error, variance = self._solved(theta).leave_one_out()
            out[s] = -0.5 * (error.square() / variance + (2 * torch.pi * variance).log())
        values = out.numpy() - np.log(self.scaling.scale[self.data.task_index])
        return xr.DataArray(values, dims=["draw", "obs"], coords={"obs": np.arange(len(self.data))}, name="y")

    def to_arviz(self, *, seed: int = 0) -> Any:
        """Hand the posterior over to ArviZ: `InferenceData` for ArviZ 0.x, `xarray.DataTree` for 1.x.

        Groups: ``posterior``, ``prior``, ``posterior_predictive``, ``prior_predictive``, ``log_likelihood``,
        ``observed_data``, ``constant_data``, with named dimensions and units in the attributes. Draws lie in (chain = 1,
        draw). The pointwise log likelihood is ``log p(y_i | y_-i, theta)``, the exact leave-one-out conditional of the
        Gaussian process: rows of a GP are dependent once its functions are integrated out, and this is the factor that
        leave-one-out cross-validation asks for. Posterior predictive draws are of each row by itself (its function value
        and its noise): right for checks row by row, not for statistics over rows, which `sample` serves.
        """
        return export.to_arviz(archive.groups(self, seed))

    def save(self, path: str | Path) -> Path:
        """Write everything to one netCDF file; `load` gives back bit-for-bit the same predictions."""
        return storage.write(path, *archive.pack(self))

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> Posterior:
        """Read a posterior that `save` wrote.

        Parameters
        ----------
        model : needed only when the model holds an object of the user's own (a GPyTorch kernel, say), which no file
            without pickle can hold: the same model as was fitted.

        Raises
        ------
        DataError
            For a file that is damaged, not bayestl's, newer than this version, or of another model.
        """
        return cls(*archive.unpack(*storage.read(path), model))

    @property
    def draws(self) -> int:
        """Number of draws of theta."""
        return len(next(iter(self.theta.values())))

    def __repr__(self) -> str:
        return (
            f"Posterior({type(self.model).__name__}, {self.record.method}, {self.draws} draws of {self.record.parameters} "
            f"parameters, {self.data!r})"
        )

    # -- inside -----------------------------------------------------------------------------------------------

    @cached_property
    def _problem(self) -> Problem:
        return Problem.of(self.model, self.data, self.scaling)

    def _solved(self, theta: Theta) -> Conditioned:
        problem = self._problem
        residual = problem.values - self.model.mean(theta, problem.points, problem.layout)
        return Conditioned(problem.observed_covariance(theta), residual)

    @cached_property
    def _chunk(self) -> int:
        """Draws of theta that are worked on in one batch; a function of sizes alone, so that answers repeat exactly."""
        return max(1, min(self.components, int(WORKING_BYTES / (8 * len(self.data) ** 2))))

    @cached_property
    def _mixed(self) -> Theta:
        """The draws that predict."""
        return {name: value[: self.components] for name, value in self.theta.items()}

    @cached_property
    def _kept(self) -> list[Conditioned] | None:
        if 8 * self.components * len(self.data) ** 2 > KEPT_BYTES:
            return None
        return [self._solved(theta) for _, theta in self._split(self._mixed)]

    def _split(self, theta: Theta) -> Iterator[tuple[slice, Theta]]:
        for start in range(0, len(theta["noise"]), self._chunk):
            part = slice(start, start + self._chunk)
            yield part, {name: value[part] for name, value in theta.items()}

    def _batches(self) -> Iterator[tuple[slice, Theta, Conditioned]]:
        """Components in batches, with the data solved for each."""
        kept = self._kept
        for i, (part, theta) in enumerate(self._split(self._mixed)):
            yield part, theta, kept[i] if kept is not None else self._solved(theta)

    def _marginals(self, x: Tensor, outputs: list[int]) -> tuple[Float[Tensor, "S m k"], Float[Tensor, "S m k"]]:
        """Mean and variance of ``f_o(x)`` under every component, for each of several outputs."""
        mean = torch.empty(self.components, len(x), len(outputs), dtype=torch.float64)
        variance = torch.empty_like(mean)
        layout, points = self._problem.layout, self._problem.points
        # A large block, allocated, never touched and freed, teaches glibc's malloc to keep memory for the temporaries below
        # instead of returning it after each (mallopt(3): the threshold is dynamic); page faults would cost a third more.
        torch.empty(2**22 - 2**16, dtype=torch.float64)
        for s, theta, solved in self._batches():
            for i, cross in enumerate(self.model.cross(theta, x, outputs, points, layout)):
                at = Pairs(x, torch.full((len(x),), outputs[i]))
                mean[s, :, i] = self.model.mean(theta, at, layout) + solved.mean(cross)
                variance[s, :, i] = solved.variance(self.model.variance(theta, at, layout), cross)
        return mean, variance

    def _marginals_at(self, at: Pairs) -> tuple[Float[Tensor, "S m"], Float[Tensor, "S m"]]:
        """Mean and variance of ``f(at)`` under every component, for points of mixed outputs."""
        mean = torch.empty(self.components, len(at.output), dtype=torch.float64)
        variance = torch.empty_like(mean)
        for o in at.output.unique().tolist():
            rows = (at.output == o).nonzero().squeeze(-1)
            m, v = self._marginals(at.x[rows], [o])
            mean[:, rows], variance[:, rows] = m[..., 0], v[..., 0]
        return mean, variance

    def _joint(self, theta: Theta, solved: Conditioned, at: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and covariance of ``f(at)`` under one draw of theta, and the size of its prior variance."""
        layout, points = self._problem.layout, self._problem.points
        cross = self.model.covariance(theta, at, points, layout)
        prior = self.model.covariance(theta, at, at, layout)
        mean = self.model.mean(theta, at, layout) + solved.mean(cross)
        return mean, solved.covariance(prior, cross), prior.diagonal().mean()

    def _inputs(self, new: Table) -> tuple[pd.Index, Tensor]:
        x = self.scaling.inputs(self.data.encode(new))
        if len(x) == 0:
            raise DataError("The table of new inputs has no rows.")
        index = new.index if isinstance(new, pd.DataFrame) else pd.RangeIndex(len(x))
        if isinstance(index, pd.MultiIndex):
            index = pd.RangeIndex(len(x))
        if isinstance(index, pd.CategoricalIndex):
            index = pd.Index(index.astype(object))
        return index.rename("row"), x

    def _at(self, x: Tensor, task: str) -> Pairs:
        return Pairs(x, torch.full((len(x),), self.data.index_of(task)))

    def _tasks(self, task: str | Sequence[str] | None) -> tuple[list[str], bool]:
        names = list(self.data.names) if task is None else [task] if isinstance(task, str) else list(task)
        if not names or len(set(names)) < len(names):
            raise DataError(f"Expected one or more tasks, each once; got {names}.")
        for name in names:
            self.data.index_of(name)
        return names, isinstance(task, str)

    def _units(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        index = [self.data.index_of(name) for name in names]
        return self.scaling.location[index], self.scaling.scale[index]

    def _finish(self, out: Any, names: Sequence[str], single: bool) -> Any:
        units = {name: self.data.tasks[self.data.index_of(name)].unit for name in names}
        if single:
            out = out.isel(task=0)
        if len(set(units.values())) == 1 and next(iter(units.values())) is not None:
            for array in out.data_vars.values() if isinstance(out, xr.Dataset) else [out]:
                array.attrs["units"] = next(iter(units.values()))
        elif not single:
            out = out.assign_coords(unit=("task", [unit or "" for unit in units.values()]))
        return out


def _levels(quantiles: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(float(q) for q in quantiles)
    if not levels or any(not 0 < q < 1 for q in levels):
        raise ValueError(f"`quantiles` must be levels strictly between 0 and 1; got {levels}.")
    return levels
