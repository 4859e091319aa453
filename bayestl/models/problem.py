"""A model meets a table: the observations in the model's units, and the density of theta that they imply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float, Int
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayestl.gaussian import sites
from bayestl.gaussian.exact import GaussianMarginal
from bayestl.gaussian.sites import Block, Prior, Site, Solved
from bayestl.likelihoods.base import Likelihood, Rows
from bayestl.likelihoods.numeric import NOISE_FLOOR, numbers_of, warp_of
from bayestl.models.base import Model
from bayestl.priors import Theta, pyro_alone
from bayestl.scaling import Layout, Pairs, Scaling
from bayestl.table import TaskData

SETTLED = 1e-6  # of the evidence bound, when the sites are to be at their optimum
ROUGH = 1e-3  # the same, while theta is sought, and for sites that go one step further: their error is of second order
NEAR = 5.0  # nats that one step may promise
STEPS = 400  # a Student-t row that may or may not be an outlier can take hundreds; most take ten


class Piece(NamedTuple):
    """Observations of one task and one law, and where the functions they depend on stand among all points."""

    task: int
    law: Likelihood
    functions: tuple[int, ...]
    rows: Rows
    where: Int[Tensor, "R c"]
    at: Int[Tensor, " R"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and data in the model's units: what inference and prediction work on.

    Attributes
    ----------
    points : where the functions are seen, by task and then by row; an observation of several functions has several
    pieces : the observations, by task and law
    """

    model: Model
    layout: Layout
    data: TaskData
    scaling: Scaling
    points: Pairs
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, model: Model, data: TaskData, scaling: Scaling | None = None) -> Problem:
        """Standardise `data`, by a given scaling or one learned from them."""
        scaling = scaling or model.scaling(data)
        layout = scaling.layout(data)
        x = scaling.inputs(data.x)
        pieces, where_x, outputs, start = [], [], [], 0
        for t, task in enumerate(data.tasks):
            index = torch.from_numpy(np.flatnonzero(data.task_index == t))
            whole = rows_of(data, scaling, layout, t, index)
            taken = torch.zeros(len(index), dtype=torch.int64)
            parts = task.likelihood.parts(whole) if len(index) else []
            functions = [part.functions or tuple(range(layout.first[t + 1] - layout.first[t])) for part in parts]
            places = []
            for part, own in zip(parts, functions, strict=True):
                places.append(taken[part.rows].clone())
                taken[part.rows] += len(own)
            base = start + torch.cumsum(taken, 0) - taken
            x_here, output_here = x.new_empty(int(taken.sum()), x.shape[1]), torch.empty(int(taken.sum())).long()
            for part, own, place in zip(parts, functions, places, strict=True):
                where = (base[part.rows] + place).unsqueeze(-1) + torch.arange(len(own))
                x_here[where - start] = x[index[part.rows]].unsqueeze(1)
                output_here[where - start] = layout.first[t] + torch.tensor(own)
                rows = whole.take(part.rows).of(own)
                pieces.append(Piece(t, part.law, own, rows, where, index[part.rows]))
            where_x.append(x_here)
            outputs.append(output_here)
            start += int(taken.sum())
        return cls(model, layout, data, scaling, Pairs(torch.cat(where_x), torch.cat(outputs)), tuple(pieces))

    # -- the program --------------------------------------------------------------------------------------------------

    def program(self) -> Tensor:
        """Run the generative program: theta, the functions where they cannot be integrated out, the observations."""
        theta = self.prior()
        if self.plain:
            return pyro.sample("y", self.marginal(theta), obs=self.values)
        mean = self.model.mean(theta, self.points, self.layout)
        covariance = self.model.covariance(theta, self.points, self.points, self.layout)
        size = len(self.points.output)
        white = pyro.sample("f", pyro.distributions.Normal(torch.zeros(size).double(), 1.0).to_event(1))
        jitter = 1e-9 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        factor, _ = torch.linalg.cholesky_ex(covariance + jitter * torch.eye(size, dtype=covariance.dtype))
        f = mean + (factor @ white.unsqueeze(-1)).squeeze(-1)
        seen = []
        for i, piece in enumerate(self.pieces):
            law = _Law(piece, f[..., piece.where], self.parameters_of(theta, piece.task))
            name = f"{self.layout.tasks[piece.task]}.{i}"
            seen.append(pyro.sample(name, law, obs=piece.rows.y))
        return torch.cat(seen, -1)

    def prior(self) -> Theta:
        """Run the part of the program that samples theta."""
        theta = self.model.prior(self.layout)
        for task in self.data.tasks:
            theta |= task.likelihood.prior(task.name)
        return theta

    def marginal(self, theta: Theta) -> GaussianMarginal:
        """Distribution of the observed values given theta, where all are normal."""
        covariance = self.observed_covariance(theta)
        mean = self.model.mean(theta, self.points, self.layout).expand(covariance.shape[:-1])
        return GaussianMarginal(mean, covariance)

    def parameters(self) -> tuple[str, ...]:
        """Names of the entries of theta."""
        with pyro_alone(), torch.random.fork_rng(devices=[]):
            return tuple(self.prior())

    def parameters_of(self, theta: Theta, task: int) -> Mapping[str, Tensor]:
        """A likelihood's own parameters and its task's noise, with room for the rows: (S, 1) or (S, k)."""
        name = self.layout.tasks[task] + "."
        own = {site.removeprefix(name): theta[site] for site in self._own[task] if site in theta}
        found = {key: value if key == "gap" else value.unsqueeze(-1) for key, value in own.items()}
        if task in self.layout.noisy:
            at = self.layout.noisy.index(task)
            found["noise"] = theta["noise"][..., at : at + 1]
        return found

    # -- what regression needs ------------------------------------------------------------------------------------

    @cached_property
    def sites(self) -> tuple[Piece, ...]:
        """The observations that are not normal."""
        return tuple(piece for piece in self.pieces if not piece.law.exact)

    @property
    def plain(self) -> bool:
        """Whether the observations are normal in the scale that they are given in: then they have a density in closed form."""
        return not self.sites and not self.moving

    @cached_property
    def moving(self) -> bool:
        """Whether the values depend on theta, through a scale that is inferred."""
        warps = [warp_of(task.likelihood) for task in self.data.tasks]
        return any(warp is not None and warp.fixed is None for warp in warps)

    @cached_property
    def values(self) -> Float[Tensor, " n"]:
        """Standardised values at the points (at the usual parameter of their scale); zero where the observation is not normal."""
        return self.values_at({})[0]

    def values_at(self, theta: Theta) -> tuple[Float[Tensor, "*#draws n"], Float[Tensor, "*#draws"]]:
        """Standardised values given theta, and the log of the volume that standardising them took."""
        found = [
            piece.law.standardised(piece.rows, self.parameters_of(theta, piece.task) if theta else {})
            if piece.law.exact
            else (torch.zeros(piece.where.numel(), dtype=torch.float64), torch.zeros(()).double())
            for piece in self.pieces
        ]
        batch = np.broadcast_shapes(*(value.shape[:-1] for value, _ in found))
        values = torch.cat([value.expand(*batch, -1) for value, _ in found], -1)[..., self._order]
        volume = sum((slope.sum(-1) for _, slope in found), torch.zeros(()).double())
        return values, volume

    def observed_covariance(self, theta: Theta) -> Float[Tensor, "*#draws n n"]:
        """``Cov[f] + noise`` at the points; at those of observations that are not normal, ``Cov[f]``."""
        covariance = self.model.covariance(theta, self.points, self.points, self.layout)
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.noise_variance(theta))
        return covariance

    def noise_variance(self, theta: Theta) -> Float[Tensor, "*#draws n"]:
        """Variance of the noise at the points, zero where the observation is not normal."""
        found = [
            piece.law.noise_variance(piece.rows, self.parameters_of(theta, piece.task))  # type: ignore[attr-defined]
            if piece.law.exact
            else torch.zeros(piece.where.numel(), dtype=torch.float64)
            for piece in self.pieces
        ]
        batch = np.broadcast_shapes(*(value.shape[:-1] for value in found))
        return torch.cat([value.expand(*batch, -1) for value in found], -1)[..., self._order]

    def future_noise_variance(self, theta: Theta, task: int) -> Float[Tensor, "*#draws 1"]:
        """Variance of the noise of an observation yet to be made, zero for a task without noise.

        On average it will be as those before: the mean over the rows of known squared errors and, where none is known, the
        inferred variance. Where the noise is in excess of known errors, both.
        """
        if task not in self.layout.noisy:
            return torch.zeros(1, 1, dtype=torch.float64)
        inferred = self.parameters_of(theta, task)["noise"].square()
        share = self.known_share[task]
        if not getattr(numbers_of(self.data.tasks[task].likelihood), "excess", False):
            inferred = (1 - share) * inferred
        return inferred + share * self.known_square(theta, task) + NOISE_FLOOR

    def untold_noise_variance(self, theta: Theta, task: int) -> Float[Tensor, "*#draws 1"]:
        """Variance of the noise of an observation whose error is not known: inferred, unless those of all others are known."""
        if task in self.layout.noisy and self.known_share[task] < 1.0:
            return self.parameters_of(theta, task)["noise"].square() + NOISE_FLOOR
        return self.future_noise_variance(theta, task)

    @cached_property
    def known_share(self) -> tuple[float, ...]:
        """Share of each task's rows whose error is known."""
        found = [self._known({}, task) for task in range(len(self.data.tasks))]
        return tuple(float((~known.isnan()).double().mean()) if known.numel() else 0.0 for known in found)

    def known_square(self, theta: Theta, task: int) -> Float[Tensor, "*#draws 1"]:
        """Mean square of a task's known errors, standardised; zero where there are none."""
        if self.known_share[task] == 0.0:
            return torch.zeros(1, dtype=torch.float64)
        return self._known(theta, task).square().nanmean(-1, keepdim=True)

    def _known(self, theta: Theta, task: int) -> Float[Tensor, "*#draws R"]:
        """Known errors of a task's rows, standardised, NaN where unknown; at the usual parameter of their scale without theta."""
        p = self.parameters_of(theta, task) if theta else {}
        parts = [
            piece.law.known(piece.rows, p)  # type: ignore[attr-defined]
            for piece in self.pieces
            if piece.task == task and piece.law.noisy
        ]
        batch = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*batch, -1) for part in parts] or [torch.empty(0).double()], -1)

    def measurement_noise(self, theta: Theta, task: int, rows: Rows) -> Float[Tensor, "*#draws R"]:
        """Variance of the noise of given rows: of known errors where they have them; zero for a task without noise.

        Where they have none, what was inferred from others without, unless the errors of all are known: their mean square then.
        """
        if (law := numbers_of(self.data.tasks[task].likelihood)) is None:
            return torch.zeros(1, len(rows.y), dtype=torch.float64)
        own = rows.of([-1])
        p = self.parameters_of(theta, task)
        variance = law.noise_variance(own, p)
        if self.known_share[task] < 1.0:
            return variance
        return torch.where(law.known(own, p).isnan(), self.future_noise_variance(theta, task), variance)

    def rows(self, task: int, index: Tensor) -> Rows:
        """Observations of one task."""
        return rows_of(self.data, self.scaling, self.layout, task, index)

    def blocks(self, theta: Theta) -> list[Block]:
        """The observations that are not normal, as sites see them."""
        return [
            Block(
                piece.where,
                piece.law.expect(piece.rows, self.parameters_of(theta, piece.task)),
                piece.law.guess(piece.rows),
            )
            for piece in self.sites
        ]

    def settle(
        self,
        theta: Theta,
        start: list[Site] | None,
        tolerance: float = SETTLED,
        most: int = STEPS,
        law: Prior | None = None,
    ) -> tuple[Float[Tensor, " S"], Solved]:
        """Optimise the sites at every draw of theta; gives the evidence lower bound, differentiable, and the sites.

        `law` is that of the pseudo-data after other observations, where there are any.
        """
        if law is None:
            law, volume = self.unsettled(theta)
        else:
            volume = self.values_at(theta)[1]
        blocks = self.blocks(theta)
        with torch.no_grad():
            solved = sites.settle(_detached(law), blocks, start, tolerance, most)
        if not torch.is_grad_enabled():
            return solved.bound + volume, solved
        return sites.bound(law, blocks, solved) + volume, solved

    def approach(self, theta: Theta, start: list[Site]) -> Float[Tensor, " S"]:
        """Give the evidence lower bound, differentiable, from sites that are near their optimum: see `sites.tangent`.

        What that gives is not itself a bound. Where it promises more than `NEAR` above the bound of the sites as they were, theta
        is too far away for one step to tell, and the sites of that draw are settled.
        """
        law, volume = self.unsettled(theta)
        blocks = self.blocks(theta)
        with torch.no_grad():
            rest = sites.given_normal(_detached(law), blocks)
            solved = sites.tangent(rest, start)
        if torch.is_grad_enabled():
            value = sites.bound(law, blocks, solved)
        else:
            value = rest.evidence + sites.bound(rest.prior, rest.blocks, solved)
        far = value.detach() - solved.bound > NEAR
        if far.any():
            own = {name: part[far] for name, part in theta.items()}
            value = value.index_put((far,), self.settle(own, start, ROUGH, 30)[0])
            volume = torch.where(far, 0.0, volume)  # which the settled ones hold
        return value + volume

    def unsettled(self, theta: Theta) -> tuple[Prior, Float[Tensor, "*#draws"]]:
        """Give the law of the pseudo-data before the sites are known, and the log volume of `values_at`."""
        values, volume = self.values_at(theta)
        mean = self.model.mean(theta, self.points, self.layout)
        return Prior(mean, self.observed_covariance(theta), values), volume

    @cached_property
    def _own(self) -> list[list[str]]:
        """Sites of each task's likelihood."""
        with pyro_alone(), torch.random.fork_rng(devices=[]), pyro.poutine.block():
            return [list(task.likelihood.prior(task.name)) for task in self.data.tasks]

    @cached_property
    def _order(self) -> Tensor:
        """From the pieces' points, one after another, to all points."""
        return torch.cat([piece.where.flatten() for piece in self.pieces]).argsort()


def rows_of(data: TaskData, scaling: Scaling, layout: Layout, task: int, index: Tensor) -> Rows:
    """Observations of one task, with the constants of its functions."""
    own = slice(layout.first[task], layout.first[task + 1])
    numpy_index = index.numpy()
    return Rows(
        torch.tensor(data.values[numpy_index]),
        torch.tensor(data.errors[numpy_index]),
        torch.tensor(data.details[numpy_index]),
        torch.tensor(scaling.location[own]),
        torch.tensor(scaling.scale[own]),
    )


class _Law(TorchDistribution):
    """The observations of a piece given their functions, as a Pyro distribution."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, piece: Piece, f: Tensor, p: Mapping[str, Tensor]) -> None:
        self.piece, self.f, self.p = piece, f, p
        super().__init__(f.shape[:-2], torch.Size([len(piece.rows.y)]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        f = self.f if len(self.piece.functions) > 1 else self.f[..., 0]
        return self.piece.law.log_density(f, self.piece.rows._replace(y=value), self.p).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        f = self.f.expand(*shape[:-1], *self.f.shape[-2:]).reshape(-1, *self.f.shape[-2:])
        noise = None
        if self.piece.law.noisy:
            noise = self.piece.law.noise_variance(self.piece.rows, self.p).reshape(-1, f.shape[-2])  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        p = {k: v.reshape(-1, v.shape[-1]) for k, v in self.p.items()}
        noise = torch.zeros(1, dtype=torch.float64) if noise is None else noise
        return self.piece.law.draw(f, noise, self.piece.rows, p, generator).reshape(shape)


def _detached(law: Prior) -> Prior:
    return Prior(*(part.detach() for part in law))
