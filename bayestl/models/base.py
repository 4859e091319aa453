"""What a model is, and how it meets a table: prior, mean, covariance, and the Pyro program made of them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyro
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayestl import priors
from bayestl.gaussian.exact import GaussianMarginal
from bayestl.kernels import Kernel
from bayestl.priors import Theta
from bayestl.scaling import Layout, Pairs, Scaling, task_means, task_spreads
from bayestl.table import TaskData

NOISE_FLOOR = 1e-6  # variance, in standardised units: a thousandth of the task's spread


class Term(NamedTuple):
    """One summand ``B[o, o'] k(x, x')`` of a covariance; `kernel` None means ``k = 1`` (a constant function).

    `tasks` lists the outputs for which B is not zero (None: all of them), so that the rest need not be computed.
    """

    weights: Float[Tensor, "*#draws T T"]
    kernel: Kernel | None = None
    name: str = ""
    tasks: tuple[int, ...] | None = None


class Model(ABC):
    """A generative model of several latent functions ``f_o(x)``.

    ``theta ~ prior``, ``f ~ GP(mean, covariance)``, ``y_i = f_{o_i}(x_i) + e_i``, ``e_i ~ N(0, noise_{o_i}^2)``, or
    ``N(0, error_i^2)`` where the error of a row is known.
    """

    kernel: Kernel

    @abstractmethod
    def prior(self, layout: Layout) -> Theta:
        """Sample the parameters theta as Pyro sites (`noise`, a standard deviation per task, among them)."""

    @abstractmethod
    def terms(self, theta: Theta, layout: Layout) -> Iterator[Term]:
        """Give the summands of the covariance."""

    @property
    @abstractmethod
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the dimensions of each site, without the draws; those of kernels are known to the kernels."""

    def scaling(self, data: TaskData) -> Scaling:
        """Choose the standardisation of the values: per task, unless the model says otherwise."""
        return Scaling.of_inputs(data, task_means(data), task_spreads(data), self.kernel.unscaled)

    def check(self, data: TaskData) -> None:  # noqa: B027 - most models can describe any data
        """Refuse data that this model cannot describe, with a `DataError`."""

    def mean(self, theta: Theta, a: Pairs, layout: Layout) -> Float[Tensor, "*#draws n"]:
        """Give ``E[f(a)]`` in standardised units: zero, for constants have normal priors and are integrated out."""
        return a.x.new_zeros(a.output.shape)

    def covariance(self, theta: Theta, a: Pairs, b: Pairs, layout: Layout) -> Float[Tensor, "*#draws n m"]:
        """Give ``Cov[f(a), f(b)] = sum_q B_q[o, o'] k_q(x, x')``, batched over the leading dimensions of theta."""
        total: Tensor | None = None
        n, m = len(a.output), len(b.output)
        for term in self.terms(theta, layout):
            rows, columns = _members(a, term.tasks, layout), _members(b, term.tasks, layout)
            if len(rows) == 0 or len(columns) == 0:
                continue
            whole = len(rows) == n and len(columns) == m
            a_, b_ = (a, b) if whole else (a.take(rows), b.take(columns))
            block = _spread(term.weights, a_.output, b_.output)
            if term.kernel is not None:
                block = block * term.kernel(theta, term.name, a_.x, b_.x, layout)
            if not whole:
                block = _embed(block, rows, columns, n, m)
            total = block if total is None else total + block
        assert total is not None  # every model has a term for every output
        return total

    def cross(self, theta: Theta, x: Tensor, outputs: list[int], b: Pairs, layout: Layout) -> Iterator[Tensor]:
        """Give ``Cov[f_o(x), f(b)]`` for one output o after another, each kernel evaluated only once for all of them."""
        parts = []
        for term in self.terms(theta, layout):
            columns = _members(b, term.tasks, layout)
            at = b if len(columns) == len(b.output) else b.take(columns)
            k = None if term.kernel is None else term.kernel(theta, term.name, x, at.x, layout)
            parts.append((term, columns, at.output, k))
        parts.sort(key=lambda part: part[3] is not None)  # constants first: a row, which the rest is added to
        for o in outputs:
            total = x.new_zeros(*theta["noise"].shape[:-1], 1, len(b.output))
            for term, columns, near, k in parts:
                if term.tasks is None or o in term.tasks:
                    weights = term.weights[..., o, near].unsqueeze(-2)
                    if k is None:
                        total[..., columns] += weights
                    elif len(columns) == len(b.output):
                        total = torch.addcmul(total, weights, k)
                    else:
                        total = total.expand(*total.shape[:-2], len(x), -1).clone()
                        total[..., columns] += weights * k
            yield total

    def variance(self, theta: Theta, a: Pairs, layout: Layout) -> Float[Tensor, "*#draws n"]:
        """Give ``Var[f(a)]``, the diagonal of `covariance`."""
        total = a.x.new_zeros(a.output.shape)
        for term in self.terms(theta, layout):
            own = term.weights.diagonal(dim1=-2, dim2=-1)[..., a.output]
            if term.kernel is not None:
                own = own * term.kernel.diagonal(theta, term.name, a.x, layout)
            total = total + own
        return total

    def task_covariance(
        self, theta: Theta, x: Float[Tensor, "m columns"], layout: Layout
    ) -> Float[Tensor, "*#draws T T"]:
        """Give the prior ``Cov[f_o(x), f_o'(x)]``, without the constants, which have no variation to share.

        Averaged over the rows of x, for kernels that are not stationary.
        """
        total = torch.zeros(len(layout.tasks), len(layout.tasks), dtype=x.dtype)
        for term in self.terms(theta, layout):
            if term.kernel is not None:
                size = term.kernel.diagonal(theta, term.name, x, layout).mean(-1)
                total = total + term.weights * size[..., None, None]
        return total

    def pyro_model(self, data: TaskData) -> Callable[[], Tensor]:
        """Write the model of these data as a plain Pyro program, the functions integrated out.

        It runs under Pyro's own `SVI`, `NUTS`, `Predictive` and `poutine.trace`. The site ``y`` holds the standardised
        values, rows in the order of `data`.

        Examples
        --------
        >>> import pandas as pd, pyro, bayestl as btl
        >>> frame = pd.DataFrame({"x": [0.0, 0.5, 1.0], "pbe": [1.0, 1.4, 2.0], "exp": [None, 1.9, 2.3]})
        >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
        >>> trace = pyro.poutine.trace(btl.MultiTask().pyro_model(data)).get_trace()
        >>> "noise" in trace.nodes and bool(trace.log_prob_sum().isfinite())
        True
        """
        return Problem.of(self, data).program


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and data in the model's units: what inference and prediction work on."""

    model: Model
    layout: Layout
    points: Pairs
    values: Float[Tensor, " n"]
    errors: Float[Tensor, " n"]

    @classmethod
    def of(cls, model: Model, data: TaskData, scaling: Scaling | None = None) -> Problem:
        """Standardise `data`, by a given scaling or one learned from them."""
        model.check(data)
        scaling = scaling or model.scaling(data)
        return cls(model, scaling.layout(data), scaling.pairs(data), scaling.values(data), scaling.errors(data))

    def program(self) -> Tensor:
        """Run the Pyro program: theta, then the observed values given theta."""
        theta = self.prior()
        return pyro.sample("y", self.marginal(theta), obs=self.values)

    def prior(self) -> Theta:
        """Run the part of the program that samples theta."""
        return self.model.prior(self.layout)

    def marginal(self, theta: Theta) -> GaussianMarginal:
        """Distribution of the observed values given theta."""
        return GaussianMarginal(self.model.mean(theta, self.points, self.layout), self.observed_covariance(theta))

    def observed_covariance(self, theta: Theta) -> Float[Tensor, "*#draws n n"]:
        """``Cov[y] = Cov[f] + noise``."""
        covariance = self.model.covariance(theta, self.points, self.points, self.layout)
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.noise_variance(theta))
        return covariance

    def parameters(self) -> tuple[str, ...]:
        """Names of the entries of theta."""
        with torch.random.fork_rng(devices=[]):
            return tuple(self.prior())

    def future_noise_variance(self, theta: Theta, output: Int[Tensor, " m"]) -> Float[Tensor, "*#draws m"]:
        """Variance of the noise of an observation yet to be made.

        The inferred one; for a task whose errors were all known, the mean square of those errors.
        """
        variance = theta["noise"].square()
        own = torch.nn.functional.one_hot(self.points.output, len(self.layout.tasks)).to(variance.dtype)
        known = ~self.errors.isnan()
        all_known = (own.sum(0) > 0) & (own[known].sum(0) == own.sum(0))
        mean_square = (own * self.errors.nan_to_num().square()[:, None]).sum(0) / own.sum(0).clamp_min(1.0)
        return torch.where(all_known, mean_square, variance)[..., output] + NOISE_FLOOR

    def noise_variance(self, theta: Theta) -> Float[Tensor, "*#draws n"]:
        """Variance of each observation's noise: the known error's, or the task's inferred one."""
        inferred = theta["noise"].square()[..., self.points.output]
        return torch.where(self.errors.isnan(), inferred, self.errors.square()) + NOISE_FLOOR

    def subset(self, rows: Tensor) -> Problem:
        """Keep some rows."""
        return dataclasses.replace(
            self, points=self.points.take(rows), values=self.values[rows], errors=self.errors[rows]
        )


def constants(layout: Layout) -> Term:
    """Task means ``m_o ~ N(0, 1)`` in standardised units, independent, integrated out exactly."""
    count = len(layout.tasks)
    return Term(torch.eye(count, dtype=torch.float64))


def noise(layout: Layout) -> Tensor:
    """Sample the noise standard deviation of each task."""
    return pyro.sample("noise", priors.noise(len(layout.tasks)))


def _members(a: Pairs, tasks: tuple[int, ...] | None, layout: Layout) -> Tensor:
    if tasks is None or len(tasks) == len(layout.tasks):
        return torch.arange(len(a.output))
    return torch.isin(a.output, torch.tensor(tasks)).nonzero().squeeze(-1)


def _spread(weights: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``B[o_i, o_j]`` for all pairs of rows, by products with one-hot matrices: their gradient is a product too."""
    count = weights.shape[-1]
    left = torch.nn.functional.one_hot(rows, count).to(weights.dtype)
    right = torch.nn.functional.one_hot(columns, count).to(weights.dtype)
    return left @ weights @ right.mT


def _embed(block: Tensor, rows: Tensor, columns: Tensor, n: int, m: int) -> Tensor:
    """Place a block into an otherwise zero (n, m) matrix."""
    out = block.new_zeros(*block.shape[:-2], n, m)
    out[..., rows.unsqueeze(-1), columns] = block
    return out
