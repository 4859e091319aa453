"""What a model is: a prior over its parameters, and the covariance of its functions as a sum of terms."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from bayestl import priors
from bayestl.kernels import Kernel
from bayestl.priors import Theta
from bayestl.scaling import Layout, Pairs, Scaling, task_means, task_spreads
from bayestl.table import TaskData


class Term(NamedTuple):
    """One summand ``B[o, o'] k(x, x')`` of a covariance; `kernel` None means ``k = 1`` (a constant function).

    `outputs` lists those for which B is not zero (None: all of them), so that the rest need not be computed.
    """

    weights: Float[Tensor, "*#draws T T"]
    kernel: Kernel | None = None
    name: str = ""
    outputs: tuple[int, ...] | None = None


class Model(ABC):
    """A generative model of several latent functions ``f_o(x)``.

    ``theta ~ prior``, ``f ~ GP(mean, covariance)``, ``y_i ~ p(y_i | f(x_i))``, the likelihood of the task: for measured numbers
    ``y_i = f_{o_i}(x_i) + e_i``, ``e_i ~ N(0, noise_{o_i}^2)``, or ``N(0, error_i^2)`` where the error of a row is known.
    Constants have normal priors and are integrated out with the functions, so that `mean` is zero unless a subclass knows
    better.
    """

    kernel: Kernel

    @abstractmethod
    def prior(self, layout: Layout) -> Theta:
        """Sample the parameters theta as Pyro sites; `noise`, a standard deviation per noisy task, among them."""

    @abstractmethod
    def terms(self, theta: Theta, layout: Layout) -> Iterator[Term]:
        """Give the summands of the covariance of the outputs."""

    def pyro_model(self, data: TaskData) -> Callable[[], Tensor]:
        """Write the model of these data as a plain Pyro program.

        It runs under Pyro's own `SVI`, `NUTS`, `Predictive` and `poutine.trace`. Where all observations are normal the functions
        are integrated out, and the site ``y`` holds the standardised values, by task and then by row. Otherwise the functions
        are there, as white noise in the site ``f`` (``L f`` with ``L L' = K`` are their values), and each task has sites of its
        own. The default kernel is Matern-5/2 here; ``posterior.model`` is the model with the kernel that `fit` took.

        Examples
        --------
        >>> import pandas as pd, pyro, bayestl as btl
        >>> frame = pd.DataFrame({"x": [0.0, 0.5, 1.0], "pbe": [1.0, 1.4, 2.0], "exp": [None, 1.9, 2.3]})
        >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
        >>> trace = pyro.poutine.trace(btl.MultiTask().pyro_model(data)).get_trace()
        >>> "noise" in trace.nodes and bool(trace.log_prob_sum().isfinite())
        True
        """
        from bayestl.models.problem import Problem

        self.check(data)
        return Problem.of(self, data).program

    @property
    @abstractmethod
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the dimensions of each site, without the draws; those of kernels are told by `Kernel.labels`."""

    def scaling(self, data: TaskData) -> Scaling:
        """Choose the standardisation of the values: per task, unless the model says otherwise."""
        return Scaling.of_inputs(data, task_means(data), task_spreads(data), self.kernel.unscaled)

    def with_kernel(self, kernel: Kernel) -> Model:
        """Give the same model with another kernel."""
        other = copy.copy(self)
        object.__setattr__(other, "kernel", kernel)
        return other

    def of_tasks(self, tasks: Sequence[str]) -> Model:
        """The model of some of the tasks that it names."""
        return self

    def check(self, data: TaskData) -> None:  # noqa: B027 - most models can describe any data
        """Refuse data that this model cannot describe, with a `DataError`."""

    def mean(self, theta: Theta, a: Pairs, layout: Layout) -> Float[Tensor, "*#draws n"]:
        """Give ``E[f(a)]`` in standardised units: zero, unless a subclass has a law to start from."""
        return a.x.new_zeros(a.output.shape)

    def seen(self, theta: Theta, layout: Layout) -> Iterator[Term]:
        """Give the summands of the covariance of the contrasts, ``C B_q C'``."""
        device = next(iter(theta.values())).device
        contrast = None if layout.contrast is None else layout.contrast.to(device)
        for term in self.terms(theta, layout):
            term = term._replace(weights=term.weights.to(device))
            if contrast is None:
                yield term
            else:
                outputs = None
                if term.outputs is not None:
                    outputs = tuple((contrast[:, list(term.outputs)] != 0).any(-1).nonzero().squeeze(-1).tolist())
                yield term._replace(weights=contrast @ term.weights @ contrast.mT, outputs=outputs)

    def covariance(self, theta: Theta, a: Pairs, b: Pairs, layout: Layout) -> Float[Tensor, "*#draws n m"]:
        """Give ``Cov[f(a), f(b)] = sum_q B_q[o, o'] k_q(x, x')``, batched over the leading dimensions of theta."""
        terms = list(self.seen(theta, layout))
        count = terms[0].weights.shape[-1]
        left = one_hot(a.output, count).to(a.x)
        right = left if b is a else one_hot(b.output, count).to(b.x)
        places, parts = [], []
        for term in terms:
            rows = _members(a, term.outputs)
            columns = rows if b is a else _members(b, term.outputs)
            if rows is None or columns is None:
                continue
            k = None if term.kernel is None else term.kernel(theta, term.name, a.x[rows], b.x[columns], layout)
            places.append((rows, columns))
            parts += [term.weights, k]
        return _Sum.apply(left, right, places, *parts)  # type: ignore[no-any-return]

    def cross(self, theta: Theta, x: Tensor, outputs: list[int], b: Pairs, layout: Layout) -> Iterator[Tensor]:
        """Give ``Cov[f_o(x), f(b)]`` for one output o after another, each kernel evaluated only once for all of them.

        What is given lies column by column in memory, as triangular solves and products with it want it; where it is the same
        for all x, it is one row.
        """
        parts = []
        for term in self.seen(theta, layout):
            reached = (term.weights[..., outputs, :] != 0).flatten(0, -2).any(0).nonzero().squeeze(-1)
            near = _members(b, tuple(reached.tolist()))
            if near is None:
                continue
            k = None if term.kernel is None else term.kernel(theta, term.name, b.x[near], x, layout)
            parts.append((term, near, b.output[near], k))
        parts.sort(key=lambda part: (part[3] is None, -len(part[2])))  # what reaches all pairs first, constants last
        sizes = [value.shape[:-2] for term, *_, k in parts for value in (term.weights, k) if value is not None]
        batch = np.broadcast_shapes(*sizes)
        for o in outputs:
            total, empty = x.new_zeros(*batch, len(b.output), 1), True  # (b, x): the transpose
            for term, near, output, k in parts:
                if term.outputs is not None and o not in term.outputs:
                    continue
                weights = term.weights[..., o, output].unsqueeze(-1)
                if k is None:
                    total[..., near, :] += weights
                elif empty and len(output) == len(b.output):
                    total, empty = (weights * k).expand(*batch, -1, -1).contiguous(), False
                else:
                    if empty:
                        total, empty = x.new_zeros(*batch, len(b.output), len(x)), False
                    if isinstance(near, slice):
                        total[..., near, :].addcmul_(weights, k)
                    else:
                        total[..., near, :] += weights * k
            yield total.mT

    def variance(self, theta: Theta, a: Pairs, layout: Layout) -> Float[Tensor, "*#draws n"]:
        """Give ``Var[f(a)]``, the diagonal of `covariance`."""
        total = a.x.new_zeros(a.output.shape)
        for term in self.seen(theta, layout):
            own = term.weights.diagonal(dim1=-2, dim2=-1)[..., a.output]
            if term.kernel is not None:
                own = own * term.kernel.diagonal(theta, term.name, a.x, layout)
            total = total + own
        return total

    def among(
        self, theta: Theta, x: Float[Tensor, "m columns"], outputs: list[int], layout: Layout
    ) -> Float[Tensor, "*#draws m c c"]:
        """Give ``Cov[f_o(x_i), f_o'(x_i)]`` of several outputs at each point."""
        total = x.new_zeros(len(x), len(outputs), len(outputs))
        for term in self.seen(theta, layout):
            weights = term.weights[..., outputs, :][..., outputs].unsqueeze(-3)
            if term.kernel is not None:
                weights = weights * term.kernel.diagonal(theta, term.name, x, layout)[..., None, None]
            total = total + weights
        return total

    def task_covariance(
        self, theta: Theta, x: Float[Tensor, "m columns"], layout: Layout
    ) -> Float[Tensor, "*#draws T T"]:
        """Give the prior ``Cov[f_o(x), f_o'(x)]`` of the outputs, without the constants, which have no variation to share.

        Averaged over the rows of x, for kernels that are not stationary.
        """
        total = torch.zeros(len(layout.outputs), len(layout.outputs), dtype=x.dtype)
        for term in self.terms(theta, layout):
            if term.kernel is not None:
                size = term.kernel.diagonal(theta, term.name, x, layout).mean(-1)
                total = total + term.weights * size[..., None, None]
        return total

    def task_correlation(
        self, theta: Theta, x: Float[Tensor, "m columns"], layout: Layout
    ) -> Float[Tensor, "*#draws T T"]:
        """Give the prior ``corr[f_o(x), f_o'(x)]``: see `task_covariance`."""
        covariance = self.task_covariance(theta, x, layout)
        scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        return covariance / scale.unsqueeze(-1) / scale.unsqueeze(-2)


def constants(layout: Layout) -> Term:
    """Task means ``m_o ~ N(0, 1)`` in standardised units, independent, integrated out exactly."""
    count = len(layout.outputs)
    return Term(torch.eye(count, dtype=torch.float64))


def noise(layout: Layout) -> Theta:
    """Sample the noise standard deviation of each task that has one."""
    return {"noise": pyro.sample("noise", priors.noise(len(layout.noisy)))} if layout.noisy else {}


def _members(a: Pairs, outputs: tuple[int, ...] | None) -> slice | Tensor | None:
    """Which points belong to some outputs: a slice where they lie together, None where there are none."""
    if outputs is None:
        return slice(0, len(a.output))
    found = torch.isin(a.output, torch.tensor(outputs)).nonzero().squeeze(-1)
    if len(found) == 0:
        return None
    first, last = int(found[0]), int(found[-1])
    return slice(first, last + 1) if last + 1 - first == len(found) else found


class _Sum(torch.autograd.Function):
    """``sum_q B_q[o_i, o_j] k_q[i, j]``, the q-th term on its own rows and columns, with few passes over the (n, m) arrays.

    ``B[o_i, o_j]`` for all pairs is a product with one-hot matrices, and so is the gradient with respect to B.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, places: list[Any], *parts: Tensor | None) -> Tensor:
        weights, kernels = parts[::2], parts[1::2]
        batch = np.broadcast_shapes(*(p.shape[:-2] for p in parts if p is not None))
        total = left.new_zeros(*batch, len(left), len(right))
        spreads = []
        for (rows, columns), w, k in zip(places, weights, kernels, strict=True):
            assert w is not None
            spread = left[rows] @ w @ right[columns].mT
            spreads.append(None if k is None else spread)
            at = _at(rows, columns, len(left), len(right))
            own = total[at]  # a view where rows and columns are slices, else a copy
            own.add_(spread) if k is None else own.addcmul_(spread, k)
            if not isinstance(at[1], slice):
                total[at] = own
        ctx.places, ctx.shapes = places, [None if p is None else p.shape for p in parts]
        ctx.save_for_backward(left, right, *kernels, *spreads)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        left, right, *saved = ctx.saved_tensors
        kernels, spreads = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        found: list[Tensor | None] = []
        for i, ((rows, columns), k, spread) in enumerate(zip(ctx.places, kernels, spreads, strict=True)):
            own = gradient[_at(rows, columns, len(left), len(right))]
            d_weights = d_kernel = None
            if ctx.needs_input_grad[3 + 2 * i]:
                pushed = (own if k is None else own * k) @ right[columns]
                d_weights = (left[rows].mT @ pushed).sum_to_size(ctx.shapes[2 * i])
            if ctx.needs_input_grad[4 + 2 * i]:
                d_kernel = (own * spread).sum_to_size(ctx.shapes[2 * i + 1])
            found += [d_weights, d_kernel]
        return None, None, None, *found


def _at(rows: slice | Tensor, columns: slice | Tensor, n: int, m: int) -> tuple[Any, Any, Any]:
    """Where a block of an (n, m) matrix stands: slices where both are, else open grids of indices."""
    if isinstance(rows, slice) and isinstance(columns, slice):
        return ..., rows, columns
    return ..., torch.arange(n)[rows].unsqueeze(-1), torch.arange(m)[columns]
