"""Exact Gaussian-process regression under every draw of theta; observations that are not normal enter as their sites."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.gaussian.exact import Conditioned
from bayestl.gaussian.mixture import log_normal
from bayestl.gaussian.sites import Site, Solved, pseudo_data
from bayestl.models.problem import Piece, Problem
from bayestl.priors import Theta
from bayestl.scaling import Pairs

WORKING_BYTES = 2e6  # of one temporary array while predicting: it should stay in the caches
KEPT_BYTES = 1e9  # of Cholesky factors kept between calls


class Regression:
    """The functions given the data, for each of several draws of theta.

    Parameters
    ----------
    problem, theta : the model, the data, and draws of the parameters
    start : sites from which those of each draw are settled; by default from the prior
    """

    def __init__(self, problem: Problem, theta: Theta, start: list[Site] | None) -> None:
        self.problem, self.theta, self.start = problem, theta, start
        self.draws = len(next(iter(theta.values())))
        size = len(problem.points.output)
        # Draws worked on in one batch: a function of sizes alone, so that answers repeat exactly.
        self.chunk = max(1, min(self.draws, int(WORKING_BYTES / (8 * size**2))))
        self.step = max(1, int(WORKING_BYTES / (8 * self.chunk * size)))

    def batches(self) -> Iterator[tuple[slice, Theta, Conditioned]]:
        """Draws in batches, with the data solved for each."""
        for i, part in enumerate(self._parts):
            theta = {name: value[part] for name, value in self.theta.items()}
            yield part, theta, self._kept[i] if self._kept is not None else self.solve(theta)[0]

    def solve(self, theta: Theta) -> tuple[Conditioned, Solved | None]:
        """Condition on the data, the sites settled first."""
        problem = self.problem
        with torch.no_grad():
            law, _ = problem.unsettled(theta)
            if not problem.sites:
                return Conditioned(law.covariance, law.values - law.mean), None
            _, solved = problem.settle(theta, self.start)
            if not solved.converged:
                warnings.warn(
                    "The Gaussian sites of the observations did not settle within 100 steps for every draw of theta; the "
                    "predictions of those draws may be off.",
                    stacklevel=2,
                )
            covariance, values = pseudo_data(law, problem.blocks(theta), solved.sites, solved.noise)
            return Conditioned(covariance, values - law.mean), solved

    def marginals(
        self, x: Float[Tensor, "m columns"], groups: list[list[int]]
    ) -> list[tuple[Float[Tensor, "S m c"], Float[Tensor, "S m c c"]]]:
        """Means and covariances of functions at each of some points, for each of several groups of functions."""
        model, layout, points = self.problem.model, self.problem.layout, self.problem.points
        flat = [o for group in groups for o in group]
        out = [
            (x.new_empty(self.draws, len(x), len(group)), x.new_empty(self.draws, len(x), len(group), len(group)))
            for group in groups
        ]
        # A large block, allocated, never touched and freed, teaches glibc's malloc to keep memory for the temporaries below
        # instead of returning it after each (mallopt(3): the threshold is dynamic); page faults would cost a third more.
        torch.empty(2**22 - 2**16, dtype=torch.float64)
        for part, theta, solved in self.batches():
            crosses = model.cross(theta, x, flat, points, layout)
            every = model.among(theta, x, flat, layout)
            start = 0
            for group, (mean, cov) in zip(groups, out, strict=True):
                own = slice(start, start + len(group))
                start = own.stop
                prior = every[..., own, own]
                for i, o in enumerate(group):
                    mean[part, :, i] = model.mean(theta, Pairs(x, torch.full((len(x),), o)), layout)
                if len(group) == 1:
                    cross = next(crosses)
                    mean[part, :, 0] += solved.mean(cross)
                    cov[part, :, 0, 0] = solved.variance(prior[..., 0, 0], cross)
                    continue
                white = []
                for i in range(len(group)):
                    cross = next(crosses)
                    mean[part, :, i] += solved.mean(cross)
                    white.append(solved.whiten(cross).expand(*cross.shape[:-2], -1, len(x)))
                stack = torch.stack(white, -1)  # (..., n, m, c)
                cov[part] = prior - torch.einsum("...nmc,...nmd->...mcd", stack, stack)
        return out

    def joint(self, theta: Theta, solved: Conditioned, at: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and covariance of the functions at `at` under one draw of theta, and the size of their prior variance."""
        model, layout, points = self.problem.model, self.problem.layout, self.problem.points
        cross = model.covariance(theta, at, points, layout)
        prior = model.covariance(theta, at, at, layout)
        mean = model.mean(theta, at, layout) + solved.mean(cross)
        return mean, solved.covariance(prior, cross), prior.diagonal(dim1=-2, dim2=-1).mean(-1)

    def leave_one_out(self) -> Float[Tensor, "S n"]:
        """``log p(y_i | y_-i, theta)`` for every draw and observation, in the tasks' units.

        Exact for normal observations (Rasmussen & Williams 2006, eq. 5.12). For others the sites of all but i are kept: the
        cavity of expectation propagation, over which the likelihood of i is integrated.
        """
        problem, data = self.problem, self.problem.data
        out = torch.empty(self.draws, len(data.values), dtype=torch.float64)
        together = _together(problem)
        for part in self._parts:
            theta = {name: value[part] for name, value in self.theta.items()}
            solved, sites = self.solve(theta)
            error, variance = solved.leave_one_out()
            noise = problem.noise_variance(theta).expand_as(variance)
            for pieces in together:
                first = pieces[0]
                p = problem.parameters_of(theta, first.task)
                if len(pieces) == 1 and first.law.exact:
                    where = first.where[:, 0]
                    _, slope = first.law.standardised(first.rows, p)
                    out[part, first.at] = log_normal(error[..., where], variance[..., where]) + slope
                else:
                    mean, cov = self._cavity(theta, solved, sites, noise, pieces)
                    out[part, first.at] = self._density(mean, cov, theta, first.task, first.at, pieces)
        return out

    def _cavity(
        self, theta: Theta, solved: Conditioned, sites: Solved | None, noise: Tensor, pieces: list[Piece]
    ) -> tuple[Tensor, Tensor]:
        """Moments of the functions of some rows given all other rows."""
        problem = self.problem
        where = torch.cat([piece.where for piece in pieces], -1)
        model, layout, points = problem.model, problem.layout, problem.points
        at = points.take(where.flatten())
        cross = model.covariance(theta, at, points, layout)
        rows, c = where.shape
        mean = (model.mean(theta, at, layout) + solved.mean(cross)).reshape(-1, rows, c)
        white = solved.whiten(cross)
        white = white.reshape(*white.shape[:-1], rows, c)
        prior = model.among(theta, at.x[::c], at.output[:c].tolist(), layout)
        cov = prior - torch.einsum("...nrc,...nrd->...rcd", white, white)
        precision = torch.zeros_like(cov)
        natural = torch.zeros_like(mean)
        values = problem.values_at(theta)[0]
        start = 0
        for piece in pieces:
            own = slice(start, start + piece.where.shape[1])
            start = own.stop
            if piece.law.exact:
                lam = 1 / noise[..., piece.where]
                precision[..., own, own] = lam.unsqueeze(-1)
                natural[..., own] = lam * values[..., piece.where]
            else:
                assert sites is not None
                number = next(i for i, other in enumerate(problem.sites) if other is _whole(problem, piece))
                rows_in = torch.searchsorted(problem.sites[number].at, piece.at)
                precision[..., own, own] = sites.sites[number].precision[:, rows_in]
                natural[..., own] = sites.sites[number].natural[:, rows_in]
        eye = torch.eye(c, dtype=cov.dtype)
        inverse = torch.linalg.inv(eye - cov @ precision)
        cavity = inverse @ cov
        centre = (inverse @ (mean - (cov @ natural.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)).squeeze(-1)
        return centre, 0.5 * (cavity + cavity.mT)

    def _density(
        self, mean: Tensor, cov: Tensor, theta: Theta, task: int, index: Tensor, pieces: list[Piece]
    ) -> Tensor:
        """Log predictive density of some rows under each draw, given the moments of their functions."""
        problem = self.problem
        likelihood = problem.data.tasks[task].likelihood
        count = len(problem.layout.contrasts(task))
        functions = [f for piece in pieces for f in piece.functions]
        whole_mean = mean.new_zeros(*mean.shape[:-1], count)
        whole_cov = torch.eye(count, dtype=mean.dtype).expand(*mean.shape[:-1], count, count).clone()
        whole_mean[..., functions] = mean
        rows_i, columns_i = torch.tensor(functions)[:, None], torch.tensor(functions)
        whole_cov[..., rows_i, columns_i] = cov
        rows = problem.rows(task, index)
        out = []
        for s in range(len(mean)):
            one = {name: value[s : s + 1] for name, value in theta.items()}
            p = problem.parameters_of(one, task)
            noise = problem.measurement_noise(one, task, rows)
            law = likelihood.predictive(whole_mean[s : s + 1], whole_cov[s : s + 1], noise, rows, p)
            out.append(law.log_density(rows.y))
        return torch.stack(out)

    @cached_property
    def _parts(self) -> list[slice]:
        return [slice(start, start + self.chunk) for start in range(0, self.draws, self.chunk)]

    @cached_property
    def _kept(self) -> list[Conditioned] | None:
        if 8 * self.draws * len(self.problem.points.output) ** 2 > KEPT_BYTES:
            return None
        return [self.solve({name: value[part] for name, value in self.theta.items()})[0] for part in self._parts]


def _together(problem: Problem) -> list[list[Piece]]:
    """The pieces split so that each list holds all that was seen of its rows."""
    found = []
    for task in range(len(problem.layout.tasks)):
        pieces = [piece for piece in problem.pieces if piece.task == task]
        if not pieces:
            continue
        index = torch.cat([piece.at for piece in pieces]).unique()
        member = torch.stack([torch.isin(index, piece.at) for piece in pieces], -1)
        for pattern in member.unique(dim=0):
            rows = index[(member == pattern).all(-1)]
            found.append([_only(piece, rows) for piece, yes in zip(pieces, pattern.tolist(), strict=True) if yes])
    return found


def _only(piece: Piece, rows: Tensor) -> Piece:
    at = torch.searchsorted(piece.at, rows)
    return piece._replace(rows=piece.rows.take(at), where=piece.where[at], at=rows)


def _whole(problem: Problem, piece: Piece) -> Piece:
    """The piece of the problem that a selection of its rows was taken from."""
    return next(
        other for other in problem.pieces
        if other.task == piece.task and other.functions == piece.functions and other.law is piece.law
    )  # fmt: skip
