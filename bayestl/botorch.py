"""BoTorch models: a posterior under BoTorch's acquisition functions, samplers and optimisers."""
# ruff: noqa: N803 (BoTorch calls its tensors X and Y)

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayestl.errors import expect_whole, listed
from bayestl.gaussian.exact import robust_cholesky
from bayestl.likelihoods.numeric import warp_of
from bayestl.posterior import Posterior, expect_posterior
from bayestl.scaling import Pairs

try:
    from botorch.exceptions.errors import UnsupportedError
    from botorch.models.model import FantasizeMixin, Model
    from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
    from botorch.posteriors.gpytorch import GPyTorchPosterior
    from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
    from linear_operator.operators import RootLinearOperator
except ImportError as error:
    raise ImportError("bayestl.botorch needs BoTorch 0.18 or newer: pip install 'bayestl[botorch]'.") from error

WORKING_BYTES = 2e7  # of one array while the points of several t-batches are looked at together
BLOCK_BYTES = 2e6  # of a covariance of which only the diagonal blocks are kept


def as_botorch_model(
    posterior: Posterior,
    task: str | Sequence[str] | None = None,
    *,
    draws: int = 16,
    mixture: bool = True,
    latent: bool = False,
) -> BoTorchModel:
    """Show one task of a posterior, several, or all of them, to BoTorch.

    X holds the inputs in the order and the units of ``posterior.data.inputs``, categories by their codes (positions in
    ``levels``); values are in the task's unit. BoTorch maximises: for a minimum give it an objective, or
    ``ScalarizedPosteriorTransform(weights=torch.tensor([-1.0], dtype=torch.float64))``.

    Parameters
    ----------
    task : its function becomes the model's only output; of a list of tasks each is an output, in that order and jointly, for
        several objectives or constraints. None shows all tasks by one output: the last column of X is then the
        position of a task in ``posterior.data.names``, as with BoTorch's `MultiTaskGP` and ``task_feature=-1``
    draws : how many draws of theta make up the model, at most: of a chain evenly spaced, else the first of those that
        predict. A call costs in proportion to them, and an acquisition function averages over them. On four synthetic
        tables of 12 to 60 rows the log expected improvement of the best candidates was off by 0.01 to 0.12 with 16
        draws of 64 (by up to 0.3 with 4), and the best candidate was the same
    mixture : True keeps the draws apart, as BoTorch's fully Bayesian models do: the posterior is a
        `GaussianMixturePosterior` with the draws in dimension -3, and acquisition functions average over them. False
        gives the one normal distribution with the mean and covariance of the mixture, for acquisition functions that
        know no mixtures: knowledge gradients divided by a cost (`qMultiFidelityKnowledgeGradient`), entropy searches
    latent : needed for tasks whose function is on another scale than their values: the working scale of a warp
        (``log y``), the natural parameter of counts and classes (a log rate, log odds; by the probit link 1.7 times the
        probit). The model then speaks of that function, ``best_f`` and Y included. A scale with a parameter that is inferred
        is another one in each draw: fix it, ``btl.Log(offset=0.1)`` or ``btl.YeoJohnson(power=0.5)``

    Returns
    -------
    BoTorchModel
        With gradients in X and joint samples. ``observation_noise=True`` adds the noise of a new measurement, each
        draw its own. `condition_on_observations` and `fantasize` keep theta as it is, as `Posterior.condition` does,
        and also the sites of observations that are not normal, which `Posterior.condition` settles anew.

    Raises
    ------
    ValueError
        When the task's function is not in the task's unit and `latent` is not given, or the task has several.
    DataError
        For an unknown task.

    Notes
    -----
    Of censored and Student-t tasks the model gives the value without limits and outliers, in the task's unit. Only
    `Posterior.condition` can take new rows of them into account.

    A fantasy without `mixture` is drawn from the one normal, and all draws of theta are conditioned on it with the
    weights that they had; so the mean over fantasies is only nearly the mean before.

    A covariance that is singular up to rounding (points that coincide) takes the least jitter that it needs, at most
    1e-6 of the prior variance.

    Examples
    --------
    >>> import pandas as pd, torch, bayestl as btl
    >>> from botorch.acquisition import LogExpectedImprovement
    >>> from bayestl.botorch import as_botorch_model
    >>> frame = pd.DataFrame({"x": [0.0, 0.3, 0.6, 1.0], "pbe": [1.0, 1.5, 1.8, 1.2], "exp": [None, 1.9, 2.1, 1.6]})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
    >>> model = as_botorch_model(btl.fit(btl.MultiTask(), data, method="map"), "exp")
    >>> improvement = LogExpectedImprovement(model, best_f=2.1)
    >>> X = torch.tensor([[[0.0]], [[0.5]]], dtype=torch.float64)
    >>> improvement(X).argmax().item()
    1
    """
    expect_whole("draws", draws)
    expect_posterior(posterior)
    names = None if task is None else posterior._tasks(task)[0]
    shown = None if names is None else tuple(posterior.data.index_of(name) for name in names)
    for own in shown or ():
        if reason := _refusal(posterior, own, latent):
            raise ValueError(reason)
    with torch.inference_mode(False):  # what the model keeps takes part in gradients later
        return BoTorchModel(_thinned(posterior, draws), shown, mixture, latent)


class _Points(NamedTuple):
    """Points at which functions are asked for, in the model's units: x (B, q, columns), output (B, q)."""

    x: Tensor
    output: Tensor

    def take(self, rows: slice | Tensor) -> _Points:
        """Select batches."""
        return _Points(self.x[rows], self.output[rows])

    @property
    def flat(self) -> Pairs:
        """All of them in one list."""
        return Pairs(self.x.flatten(0, 1), self.output.flatten())


class _Stage(NamedTuple):
    """Observations that came later, k in each of b batches, or in as many as `place` has.

    `white` (b, S, n, k) is what the earlier ones explain of them, `factor` (b, S, k, k) that of the covariance that is
    left, `weights` (*batch, S, k) its inverse times the residual, `place` (*batch) which of the b belongs to each.
    """

    at: _Points
    white: Tensor
    factor: Tensor
    weights: Tensor
    place: Tensor


class BoTorchModel(Model, FantasizeMixin):  # type: ignore[misc]
    """A BoTorch model of a posterior, made by `as_botorch_model`.

    For every draw s of theta ``f(X) | data, theta_s`` is normal. With W the covariance of f(X) and the observations,
    whitened by those, its mean is ``m(X) + W' w`` and its covariance ``k(X, X) - W' W``. Rows observed later, by
    `condition_on_observations`, append to W.

    Attributes
    ----------
    source : the posterior, of the draws that are used
    tasks : positions of the tasks that are its outputs; None for all by one, told by the last column of X
    mixture, latent : as given to `as_botorch_model`
    """

    likelihood = None  # noise is given by `posterior` itself

    def __init__(self, source: Posterior, tasks: tuple[int, ...] | None, mixture: bool, latent: bool) -> None:
        super().__init__()
        self.source, self.tasks, self.mixture, self.latent = source, tasks, mixture, latent
        self._is_ensemble = self._is_fully_bayesian = mixture
        regression = source._functions
        self._solved = [(theta, solved) for _, theta, solved in regression.batches()]
        self._support = regression.support
        self._stages: tuple[_Stage, ...] = ()
        self._fantasies = torch.Size()
        layout, every = source._problem.layout, source.data.tasks
        first = list(layout.first[:-1])
        self._first = torch.tensor(first)
        self._location, self._scale = (
            torch.tensor(both[first]) for both in (source.scaling.location, source.scaling.scale)
        )
        problem, missing = source._problem, torch.full((source.components, 1), torch.nan, dtype=torch.float64)
        # of new measurements; and of those that are told without an error, as `Posterior.condition` takes them
        self._noise, self._untold = (
            torch.cat(
                [
                    missing if not each.likelihood.exact else of(source._mixed, t).expand_as(missing)  # type: ignore[union-attr]
                    for t, each in enumerate(every)
                ], -1,
            )
            for of in (problem.future_noise_variance, problem.untold_noise_variance)
        )  # fmt: skip
        self._refused = [_refusal(source, t, latent) for t in range(len(every))]

    # -- what BoTorch asks for -------------------------------------------------------------------------------------

    @property
    def num_outputs(self) -> int:
        return 1 if self.tasks is None else len(self.tasks)

    @property
    def batch_shape(self) -> torch.Size:
        return self._fantasies + torch.Size([self.source.components] if self.mixture else [])

    @property
    def train_inputs(self) -> tuple[Tensor]:
        """Give the inputs (n, d) at which the tasks were observed, each once where they are several: an `X_baseline`."""
        data = self.source.data
        if self.tasks is None:
            return (torch.from_numpy(np.column_stack([data.x, data.task_index])),)
        own = np.isin(data.task_index, self.tasks)
        if len(self.tasks) > 1:
            own &= ~pd.Series(np.where(own, data.places, -1 - np.arange(len(own)))).duplicated().to_numpy()
        return (torch.from_numpy(data.x[own]),)

    def subset_output(self, idcs: list[int]) -> BoTorchModel:
        wanted = [i if i >= 0 else i + self.num_outputs for i in idcs]
        if not wanted or any(not 0 <= i < self.num_outputs for i in wanted) or len(set(wanted)) < len(wanted):
            raise UnsupportedError(
                f"The model has {self.num_outputs} output{'s' * (self.num_outputs > 1)}, from 0; asked for {list(idcs)}."
            )
        if wanted == list(range(self.num_outputs)):
            return self
        out = copy.copy(self)
        out.tasks = None if self.tasks is None else tuple(self.tasks[i] for i in wanted)
        return out

    def posterior(  # type: ignore[override]
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: Any = None,
        **kwargs: Any,
    ) -> GPyTorchPosterior:
        """Give the joint law of the q values of each batch.

        Parameters
        ----------
        X : (..., q, d) double tensor
        output_indices : of the outputs that are wanted; None for all
        observation_noise : whether to add that of a new measurement; or its variance (..., q, outputs), in the squared unit
        posterior_transform : a BoTorch `PosteriorTransform`

        Returns
        -------
        GaussianMixturePosterior, or GPyTorchPosterior without `mixture`
            Of batch shape (..., S), or (...).

        Raises
        ------
        ValueError
            When X is not of doubles, has another number of columns, or holds a code that is none.
        UnsupportedError
            For the noise of a task whose noise is not normal.
        """
        if output_indices is not None:
            return self.subset_output(output_indices).posterior(
                X, observation_noise=observation_noise, posterior_transform=posterior_transform
            )
        at, task = self._encode(X)
        mean, covariance, size = self._moments(at)
        if observation_noise is not False:
            given = self._flat(observation_noise) if isinstance(observation_noise, Tensor) else None
            covariance = covariance + torch.diag_embed(
                self._noise_of(task, given, X.dim(), self._noise).expand_as(mean)
            )
        location, scale = self._location[task], self._scale[task]
        if self.mixture:
            location, scale = location.unsqueeze(-2), scale.unsqueeze(-2)
        else:
            mean, covariance, size = _merged(mean, covariance, size)
        factor = scale.unsqueeze(-1) * robust_cholesky(covariance, size)[0]
        law = MultivariateNormal(location + scale * mean, RootLinearOperator(factor))
        if self.num_outputs > 1:
            shape = (X.shape[-2], self.num_outputs)
            law = MultitaskMultivariateNormal(law.mean.unflatten(-1, shape), law.lazy_covariance_matrix)
        kind = GaussianMixturePosterior if self.mixture else GPyTorchPosterior
        if posterior_transform is None:
            return kind(law)
        out = posterior_transform(posterior=kind(law), X=X)
        return kind(out.distribution) if type(out) is GPyTorchPosterior else out

    def condition_on_observations(
        self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any
    ) -> BoTorchModel:
        """Take new rows into account, theta and the sites of other rows being as they are.

        Parameters
        ----------
        X : (..., k, d) double tensor
        Y : (..., k, outputs) values in the tasks' units. With `mixture`, when it has more dimensions than X, dimension -3 is
            that of the draws
        noise : variances of the noise like Y, in the squared unit; by default as `Posterior.condition` takes values without
            a known error

        Raises
        ------
        ValueError
            As `posterior`, and when Y has another number of draws.
        UnsupportedError
            For a task whose noise is not normal, unless `noise` is given.
        """
        at, task = self._encode(X)
        if Y.dtype != torch.float64 or Y.shape[-2:] != (X.shape[-2], self.num_outputs):
            raise ValueError(
                f"Y must hold doubles, (..., {X.shape[-2]}, {self.num_outputs}); got {Y.dtype}, {tuple(Y.shape)}."
            )
        batch = torch.broadcast_shapes(at.x.shape[:-2], self._fantasies)
        points = _expanded(at, batch)
        mean, white, size = self._given(points, self._spread(batch))
        covariance = self._blocks(points, points) - white.mT @ white
        noise = self._noise_of(task, None if noise is None else self._flat(noise), X.dim(), self._untold)
        variance = noise.expand(*batch, *mean.shape[1:]).reshape(mean.shape)
        factor = robust_cholesky(covariance + torch.diag_embed(variance), size)[0]
        location, scale = self._location[task].unsqueeze(-2), self._scale[task].unsqueeze(-2)
        target = (self._lifted(self._flat(Y), X.dim(), "Y") - location) / scale
        residual = target - mean.reshape(*batch, *mean.shape[1:])
        weights = torch.cholesky_solve(
            residual.unsqueeze(-1), factor.reshape(*batch, *factor.shape[1:]).expand(*residual.shape, -1)
        )
        whole = residual.shape[:-2]
        place = torch.arange(math.prod(batch)).reshape(batch).expand(whole)
        out = copy.copy(self)
        out._fantasies = whole
        out._stages = (*self._stages, _Stage(points, white, factor, weights.squeeze(-1), place))
        return out

    def fantasize(
        self, X: Tensor, sampler: Any, observation_noise: Tensor | None = None, **kwargs: Any
    ) -> BoTorchModel:
        """Condition on values drawn at X: see `botorch.models.model.FantasizeMixin.fantasize`.

        With `mixture` each draw of theta has values of its own, and what is returned is to BoTorch no ensemble but a
        batch (num_fantasies, ..., S): BoTorch's knowledge gradients average over the draws themselves, and if the
        fantasies did so too, they would average over the candidates (github.com/meta-pytorch/botorch/issues/2938).

        Raises
        ------
        UnsupportedError
            With `mixture` when all tasks are shown: BoTorch divides by the costs of candidates before it averages over
            draws, and would pair the ones with the others.
        """
        if self.mixture and self.tasks is None:
            raise UnsupportedError(
                "BoTorch's multi-fidelity knowledge gradient would pair costs with draws of theta. Make the model by "
                "as_botorch_model(posterior, mixture=False)."
            )
        out = super().fantasize(X, sampler, observation_noise, **kwargs)
        out._is_ensemble = False
        return out  # type: ignore[no-any-return]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _encode(self, X: Tensor) -> tuple[_Points, Tensor]:
        """Points in the model's units, and the task (..., q outputs) of each: of one point all outputs, then of the next."""
        data, scaling = self.source.data, self.source.scaling
        columns = len(data.inputs) + (self.tasks is None)
        if X.dtype != torch.float64 or X.dim() < 2 or X.shape[-1] != columns or X.shape[-2] == 0:
            names = [column.name for column in data.inputs] + ["the task"] * (self.tasks is None)
            raise ValueError(
                f"X must hold doubles, (..., q, {columns}), with the columns {listed(names, 20)}; got {X.dtype}, "
                f"{tuple(X.shape)}."
            )
        if not X.isfinite().all():
            raise ValueError("X holds values that are missing or infinite. Give finite ones.")
        for j, count in enumerate(scaling.levels):
            if count:
                _codes(X[..., j], count, f"codes of the input {data.inputs[j].name!r}")
        if self.tasks is None:
            task = _codes(X[..., -1], len(data.tasks), "positions of tasks")
        else:
            task = torch.tensor(self.tasks).repeat(X.shape[-2]).expand(*X.shape[:-2], -1)
        for t in task.unique().tolist():
            if (reason := self._refused[t]) is not None:
                raise ValueError(reason)
        x = scaling.inputs(X[..., : len(data.inputs)])
        return _Points(x.repeat_interleave(self.num_outputs, -2), self._first[task]), task

    def _flat(self, values: Tensor) -> Tensor:
        """From (..., q, outputs) to (..., q outputs, 1)."""
        return values.reshape(*values.shape[:-2], -1, 1)

    def _noise_of(self, task: Tensor, given: Tensor | None, dim: int, usual: Tensor) -> Tensor:
        """Standardised variances (..., S or 1, q) of noise: given for X of `dim` dimensions, or the usual of each task."""
        if given is not None:
            return self._lifted(given, dim, "The noise") / self._scale[task].unsqueeze(-2).square()
        for t in task.unique().tolist():
            if not self.source.data.tasks[t].likelihood.exact:
                raise UnsupportedError(
                    f"The noise of task {self.source.data.names[t]!r} is not normal, so BoTorch can neither add it nor "
                    "condition on it. Use posterior.condition, and observation_noise=False."
                )
        return usual[:, task].movedim(0, -2)

    def _lifted(self, values: Tensor, dim: int, what: str) -> Tensor:
        """From (..., q, 1), where there may be draws before q, to (..., S or 1, q)."""
        values = values.squeeze(-1)
        if not self.mixture or values.dim() < dim:
            return values.unsqueeze(-2)
        if values.shape[-2] not in (1, self.source.components):
            raise ValueError(
                f"{what} has more dimensions than X, so its dimension -3 must be that of the "
                f"{self.source.components} draws; got {values.shape[-2]}."
            )
        return values

    def _moments(self, at: _Points) -> tuple[Tensor, Tensor, Tensor]:
        """Means (..., S, q), covariances (..., S, q, q), and the size (..., S) of the prior variance."""
        batch = torch.broadcast_shapes(at.x.shape[:-2], self._fantasies)
        points, stages = _expanded(at, batch), self._spread(batch)
        q = at.x.shape[-2]
        step = max(1, int(WORKING_BYTES / (8 * self.source.components * q * max(len(self._support.output), q))))
        found = []
        for start in range(0, len(points.x), step):
            own = slice(start, start + step)
            here = points.take(own)
            mean, white, size = self._given(here, [(stage, w[own], place[own]) for stage, w, place in stages])
            found.append((mean, self._blocks(here, here) - white.mT @ white, size))
        mean, covariance, size = (torch.cat(each).unflatten(0, batch or (1,)) for each in zip(*found, strict=True))
        return (mean, covariance, size) if batch else (mean[0], covariance[0], size[0])

    def _spread(self, batch: torch.Size) -> list[tuple[_Stage, Tensor, Tensor]]:
        """Weights (B, S, k) and places (B) of each stage, for all batches one after another."""
        return [
            (
                stage,
                stage.weights.expand(*batch, -1, -1).reshape(-1, *stage.weights.shape[-2:]),
                stage.place.expand(batch).reshape(-1),
            )
            for stage in self._stages
        ]

    def _given(self, at: _Points, stages: list[tuple[_Stage, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Means (B, S, q), what is explained of the values (B, S, n, q), and the size (B, S) of the prior variance."""
        model, layout, flat, shape = self.source.model, self.source._problem.layout, at.flat, at.output.shape
        means, whites = [], []
        for theta, solved in self._solved:
            cross = model.covariance(theta, flat, self._support, layout)
            mean, white = model.mean(theta, flat, layout) + solved.mean(cross), solved.whiten(cross)
            means.append(mean.unflatten(-1, shape).movedim(-2, 0))
            whites.append(white.unflatten(-1, shape).movedim(-2, 0))
        mean, white = torch.cat(means, 1), torch.cat(whites, 1)
        for stage, weights, place in stages:
            prior = self._prior(stage.at, place, at)
            left = prior - stage.white[place].mT @ white
            mean = mean + (weights.unsqueeze(-2) @ left).squeeze(-2)
            white = torch.cat([white, torch.linalg.solve_triangular(stage.factor[place], left, upper=False)], -2)
        return mean, white, self._variance(at).detach().mean(-1)

    def _prior(self, a: _Points, place: Tensor, b: _Points) -> Tensor:
        """Prior covariances (B, S, k, q) of the batch of `a` that belongs to each batch of `b`, with that."""
        if len(a.x) > 1:
            return self._blocks(a.take(place), b)
        whole = self.source.model.covariance(self.source._mixed, a.flat, b.flat, self.source._problem.layout)
        return whole.expand(self.source.components, -1, -1).unflatten(-1, b.output.shape).movedim(-2, 0)

    def _blocks(self, a: _Points, b: _Points) -> Tensor:
        """Prior covariances (B, S, k, q) of the points of each batch: diagonal blocks of those of several batches."""
        (count, k), q = a.output.shape, b.output.shape[1]
        if a is b and q == 1:
            return self._variance(a).unsqueeze(-1)
        draws, step = self.source.components, max(1, int((BLOCK_BYTES / (8 * self.source.components * k * q)) ** 0.5))
        found = []
        for start in range(0, count, step):
            own = slice(start, start + step)
            whole = self.source.model.covariance(
                self.source._mixed, a.take(own).flat, b.take(own).flat, self.source._problem.layout
            )
            square = whole.expand(draws, -1, -1).unflatten(-1, (-1, q)).unflatten(-3, (-1, k))
            found.append(square.diagonal(dim1=-4, dim2=-2))
        return torch.cat(found, -1).movedim(-1, 0)

    def _variance(self, at: _Points) -> Tensor:
        """Prior variances (B, S, q)."""
        flat = self.source.model.variance(self.source._mixed, at.flat, self.source._problem.layout)
        return flat.expand(self.source.components, -1).unflatten(-1, at.output.shape).movedim(-2, 0)


def _merged(mean: Tensor, covariance: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of a mixture over dimension S of means (..., S, q), covariances (..., S, q, q) and sizes (..., S)."""
    apart = mean - mean.mean(-2, keepdim=True)
    return mean.mean(-2), covariance.mean(-3) + apart.mT @ apart / mean.shape[-2], size.mean(-1)


def _expanded(at: _Points, batch: torch.Size) -> _Points:
    """All batches one after another."""
    q, columns = at.x.shape[-2:]
    return _Points(at.x.expand(*batch, q, columns).reshape(-1, q, columns), at.output.expand(*batch, q).reshape(-1, q))


def _codes(column: Tensor, count: int, what: str) -> Tensor:
    """Whole numbers in a column of X."""
    codes = column.detach().round()
    if ((codes != column) | (codes < 0) | (codes >= count)).any():
        raise ValueError(
            f"X must hold {what} there, whole numbers from 0 to {count - 1}. Fix them with optimize_acqf_mixed, or "
            "choose among candidates with optimize_acqf_discrete."
        )
    return codes.long()


def _thinned(posterior: Posterior, draws: int) -> Posterior:
    """Keep some of the draws that predict: of a chain evenly spaced, else the first."""
    draws = min(draws, posterior.components)
    chosen = torch.arange(draws)
    if posterior.record.method == "nuts":
        chosen = torch.linspace(0, posterior.components - 1, draws).round().long()
    return dataclasses.replace(
        posterior,
        theta={name: value[chosen] for name, value in posterior.theta.items()},
        components=draws,
        inducing=None if posterior.inducing is None else posterior.inducing.taken(chosen),
    )


def _refusal(posterior: Posterior, task: int, latent: bool) -> str | None:
    """Say why a task cannot be shown to BoTorch, if it cannot."""
    own = posterior.data.tasks[task]
    if len(posterior._problem.layout.contrasts(task)) > 1:
        return (
            f"Task {own.name!r} ({own.likelihood!r}) has several latent functions; to BoTorch it must have one. "
            "Use posterior.predict or posterior.sample."
        )
    if not latent and (own.likelihood.kind != "numeric" or warp_of(own.likelihood) is not None):
        return (
            f"The function of task {own.name!r} ({own.likelihood!r}) is not on the scale of its values, and it is the "
            "function that BoTorch takes for normal. Give latent=True to speak of the function, also in `best_f` and Y."
        )
    if (warp := warp_of(own.likelihood)) is not None and warp.fixed is None:
        return (
            f"The scale of task {own.name!r} ({own.likelihood!r}) has a parameter that is inferred, so that it is another one in "
            "each draw, and no `best_f` or Y holds for all. Fix it, as in btl.Log(offset=0.1) or btl.YeoJohnson(power=0.5)."
        )
    return None
