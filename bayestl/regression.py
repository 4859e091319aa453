"""Gaussian-process regression under every draw of theta; observations that are not normal enter as their sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.condense import Inducing, keep_memory
from bayestl.errors import notice
from bayestl.gaussian.conditional import Conditional, Conditioned, Updated
from bayestl.gaussian.exact import robust_cholesky
from bayestl.gaussian.greedy import pivoted_cholesky
from bayestl.gaussian.sites import Prior, Site, noise_of, pseudo_data, together
from bayestl.models.problem import ROUGH, STEPS, Problem
from bayestl.priors import Theta
from bayestl.scaling import Pairs

WORKING_BYTES = 2e6  # of one temporary array while predicting: it should stay in the caches
KEPT_BYTES = 1e9  # of factors kept between calls
MANY = 4096  # points worked on at a time where none are kept


class Regression:
    """The functions given the data, for each of several draws of theta.

    Parameters
    ----------
    problem : the observations that are conditioned on exactly, and the model; those of a condensed table are none or few
    theta : draws of the parameters
    start : sites from which those of each draw are settled; by default from the prior
    base : rows that were condensed onto inducing pairs before
    tolerance : of the evidence bound, in nats, to which sites are settled
    """

    def __init__(
        self,
        problem: Problem,
        theta: Theta,
        start: list[Site] | None = None,
        base: Inducing | None = None,
        tolerance: float = ROUGH,
    ) -> None:
        self.tolerance = tolerance
        self.problem, self.theta, self.start, self.base = problem, theta, start, base
        self.draws = len(next(iter(theta.values())))
        size = len(self.support.output)
        # Draws worked on in one batch: a function of sizes alone, so that answers repeat exactly.
        self.chunk = max(1, min(self.draws, int(WORKING_BYTES / (8 * size**2))))
        self.step = max(1, int(WORKING_BYTES / (8 * self.chunk * size)))
        self.held = 8 * self.draws * size**2 <= KEPT_BYTES
        if not self.held:  # everything is solved again for each call: for more points then
            self.step = max(self.step, MANY)

    @cached_property
    def support(self) -> Pairs:
        """Where the functions are held: what a `Conditional` takes covariances with."""
        if self.base is None:
            return self.problem.points
        return joined(self.base.pairs, self.problem.points)

    def batches(self) -> Iterator[tuple[slice, Theta, Conditional]]:
        """Draws in batches, with the data solved for each."""
        for i, part in enumerate(self._parts):
            theta = {name: value[part] for name, value in self.theta.items()}
            yield part, theta, self._kept[i] if self._kept is not None else self.solve(part)

    @property
    def solved(self) -> bool:
        """Whether the draws are conditioned on the data already."""
        return self.__dict__.get("_kept") is not None

    @property
    def log_evidence(self) -> Float[Tensor, " S"]:
        """Log density of the observations, none of them condensed; its lower bound where sites stand for some."""
        return torch.cat([solved.log_evidence for *_, solved in self.batches() if isinstance(solved, Conditioned)])

    @property
    def jitter(self) -> float:
        """The largest jitter that a covariance took, relative to the mean of its diagonal."""
        return max(solved.jitter for _, _, solved in self.batches())

    def solve(self, part: slice) -> Conditional:
        """Condition some of the draws on the data, the sites settled first."""
        return self._solve(part, self.start)[0]

    def _solve(self, part: slice, start: list[Site] | None) -> tuple[Conditional, list[Site] | None]:
        """The same from given sites; gives those of the last draw too, which are a start for the next."""
        problem, base, last = self.problem, None, start
        theta = {name: value[part] for name, value in self.theta.items()}
        with torch.no_grad():
            if self.base is not None:
                base = self.base.conditional(problem.model, theta, problem.layout, part)
                if not problem.pieces:
                    return base, None
            law, volume, reach = given(problem, theta, base, None if self.base is None else self.base.pairs)
            if problem.sites:
                bound, solved = problem.settle(theta, start, self.tolerance, law=law)
                last = [Site(site.natural[-1:], site.precision[-1:]) for site in solved.ahead]
                if not solved.converged:
                    notice(
                        f"The Gaussian sites of the observations did not settle within {STEPS} steps for every draw of "
                        "theta; the predictions of those draws may be off."
                    )
                covariance, values = pseudo_data(law, problem.blocks(theta), solved.ahead, noise_of(solved.ahead))
            else:
                covariance, values = law.covariance, law.values
            more = Conditioned(covariance, values - law.mean, solved.ahead if problem.sites else ())
            more.log_evidence = bound if problem.sites else more.log_evidence + volume
            return (more if base is None else Updated(base, reach, more)), last

    def marginals(
        self, x: Float[Tensor, "m columns"], groups: list[list[int]]
    ) -> list[tuple[Float[Tensor, "S m c"], Float[Tensor, "S m c c"]]]:
        """Means and covariances of functions at each of some points, for each of several groups of functions."""
        model, layout, points = self.problem.model, self.problem.layout, self.support
        flat = [o for group in groups for o in group]
        out = [
            (x.new_empty(self.draws, len(x), len(group)), x.new_empty(self.draws, len(x), len(group), len(group)))
            for group in groups
        ]
        keep_memory()
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

    def joint(self, theta: Theta, solved: Conditional, at: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and covariance of the functions at `at` under one draw of theta, and the size of their prior variance."""
        model, layout = self.problem.model, self.problem.layout
        cross = model.covariance(theta, at, self.support, layout)
        prior = model.covariance(theta, at, at, layout)
        mean = model.mean(theta, at, layout) + solved.mean(cross)
        return mean, solved.covariance(prior, cross), prior.diagonal(dim1=-2, dim2=-1).mean(-1)

    def draw(
        self,
        theta: Theta,
        solved: Conditional,
        x: Float[Tensor, "m columns"],
        functions: list[int],
        draws: int,
        dense: int,
        rank: int,
        generator: torch.Generator,
    ) -> Float[Tensor, "draws m c"]:
        """Draw functions at some points jointly under one draw of theta; of more than `dense` values see `low_rank_draws`."""
        count = len(functions)
        if len(x) * count > dense:
            distinct, place = torch.unique(x, dim=0, return_inverse=True)
            if len(distinct) < len(x):  # at equal points functions are equal
                return self.draw(theta, solved, distinct, functions, draws, dense, rank, generator)[:, place]
        at = Pairs(x.repeat(count, 1), torch.tensor(functions).repeat_interleave(len(x)))
        size = len(at.output)
        if size <= dense:
            mean, covariance, prior_size = self.joint(theta, solved, at)
            factor = robust_cholesky(covariance, prior_size)[0]
            drawn = mean + torch.randn(draws, size, dtype=torch.float64, generator=generator) @ factor.mT
            return drawn.unflatten(-1, (count, -1)).mT
        model, layout = self.problem.model, self.problem.layout
        mean, white = torch.empty(size).double(), torch.empty(len(self.support.output), size).double()
        for start in range(0, size, self.step):
            part = slice(start, min(start + self.step, size))
            cross = model.covariance(theta, Pairs(at.x[part], at.output[part]), self.support, layout)
            white[:, part] = solved.whiten(cross)
            mean[part] = solved.mean(cross)
        mean += model.mean(theta, at, layout)
        apart = white.unflatten(-1, (count, -1))
        blocks = model.among(theta, x, functions, layout) - torch.einsum("kcm,kdm->mcd", apart, apart)

        def column(i: int) -> Tensor:
            return model.covariance(theta, at.take(torch.tensor([i])), at, layout)[0] - white[:, i] @ white

        return (mean + low_rank_draws(blocks, column, draws, rank, generator)).unflatten(-1, (count, -1)).mT

    @cached_property
    def _parts(self) -> list[slice]:
        return [slice(start, start + self.chunk) for start in range(0, self.draws, self.chunk)]

    @cached_property
    def _kept(self) -> list[Conditional] | None:
        if not self.held:
            return None
        found, start = list[Conditional](), self.start
        for count, part in enumerate(self._parts):
            solved, last = self._solve(part, start)
            found.append(solved)
            if count and start and last:  # the mean of those so far is nearer to the next than any of them is
                last = together(lambda a, b: torch.lerp(a, b, 1 / (count + 1)), start, last)  # noqa: B023
            start = last
        return found


def low_rank_draws(
    blocks: Float[Tensor, "m c c"], column: Callable[[int], Tensor], draws: int, rank: int, generator: torch.Generator
) -> Float[Tensor, "draws cm"]:
    """Draw c functions at m points from ``N(0, R'R + D)``, one function after the other.

    R are the rows of a pivoted Cholesky factorisation of the covariance; `blocks` are the covariances of the functions at one
    point, and D is what R leaves of these: so functions at one point are linked as they are, and points by what R tells.
    """
    m, c = blocks.shape[:2]
    diagonal = blocks.diagonal(dim1=-2, dim2=-1).mT.flatten().clamp_min(0.0)
    found = pivoted_cholesky(diagonal, column, rank, lambda left, _: bool(left.sum() <= 1e-6 * diagonal.sum()))
    told = found.rows.unflatten(-1, (c, m))
    left = blocks - torch.einsum("rcm,rdm->mcd", told, told)
    size = blocks.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-12
    factor = robust_cholesky(left, size)[0]
    common = torch.randn(draws, len(found.pivots), dtype=torch.float64, generator=generator)
    own = torch.randn(draws, c, m, dtype=torch.float64, generator=generator)
    return common @ found.rows + torch.einsum("mcd,sdm->scm", factor, own).flatten(-2)


def joined(a: Pairs, b: Pairs) -> Pairs:
    """One after the other."""
    return Pairs(torch.cat([a.x, b.x]), torch.cat([a.output, b.output]))


def given(
    problem: Problem, theta: Theta, base: Conditional | None, support: Pairs | None
) -> tuple[Prior, Float[Tensor, "*#draws"], Float[Tensor, "*#draws k n"]]:
    """Give the law of pseudo-data after other data, its log volume, and the whitened covariance with the support of those."""
    law, volume = problem.unsettled(theta)
    if base is None or support is None:
        return law, volume, law.covariance[..., :0, :]
    cross = problem.model.covariance(theta, problem.points, support, problem.layout)
    reach = base.whiten(cross)
    return law._replace(mean=law.mean + base.mean(cross), covariance=law.covariance - reach.mT @ reach), volume, reach
