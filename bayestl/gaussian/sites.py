"""Observations that are not Gaussian, each replaced by a Gaussian site: conjugate-computation variational inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bayestl.gaussian.exact import FAILED, factorise, inverse_blocks, log_density, log_marginal, triangular_inverse

FLOOR = 1e-7  # of a site's precision: a site may say nothing, never less than nothing
ROUNDING = 1e-9  # of the evidence bound: changes below it are no changes
SHORT = 1e-3  # of a full step
NEAR = 1.0  # nat: a step that loses less is not too long for its parabola
WIDEST = 1e10  # variance of a function, in standard units: beyond, what is left of the terms of the bound is noise

State = TypeVar("State")
Trial = TypeVar("Trial", bound=Any)


class Expectation(NamedTuple):
    """``A = E_q[log p(y | f)]``, its gradient in the mean of q, and minus twice its gradient in the covariance."""

    value: Float[Tensor, "*#draws R"]
    slope: Float[Tensor, "*#draws R c"]
    precision: Float[Tensor, "*#draws R c c"]


class Block(NamedTuple):
    """Observations of one law, each of c latent values.

    `where` holds the positions of those values among all; `expect` gives the expectations under normals of given means
    (S, R, c) and covariances (S, R, c, c); `guess` holds the means and variances at which the sites start.
    """

    where: Int[Tensor, "R c"]
    expect: Callable[[Tensor, Tensor], Expectation]
    guess: tuple[Tensor, Tensor] | None = None


class Site(NamedTuple):
    """Gaussian sites ``t(f) = exp(natural . f - f' precision f / 2)`` of a block."""

    natural: Float[Tensor, "*#draws R c"]
    precision: Float[Tensor, "*#draws R c c"]


class Prior(NamedTuple):
    """The normal law of the pseudo-data before the sites are known.

    `mean` and `covariance` are of the observed values where observations are normal, noise included, and of the functions at
    the blocks; `values` are the observed values, whatever stands at the blocks.
    """

    mean: Float[Tensor, "*#draws n"]
    covariance: Float[Tensor, "*#draws n n"]
    values: Float[Tensor, "*#draws n"]


class Solved(NamedTuple):
    """Sites, and the posterior of f that they make.

    `noise` are the inverse precisions of the sites, `marginals` the mean and covariance of q at each block and `expected` the
    expectations there, `factor` the Cholesky factor of the pseudo-data's covariance where it is known, `bound` the lower bound
    ``log Z + sum_i E_q[log p(y_i | f_i) - log t_i(f_i)]``; `converged` says whether every draw settled.
    `ahead` are the sites one more step on, which cost nothing: their error is of second order in that of `sites`.
    """

    sites: list[Site]
    noise: list[Float[Tensor, "*#draws R c c"]]
    marginals: list[tuple[Tensor, Tensor]]
    expected: list[Expectation]
    factor: Float[Tensor, "*#draws n n"] | None
    bound: Float[Tensor, "*#draws"]
    converged: bool = False
    ahead: Sequence[Site] = ()


class Rest(NamedTuple):
    """What sites see: the law of the functions at the blocks given the observations that are normal, and the evidence of these.

    Sites change at every step, these observations do not: where they are many and the sites few, a step costs next to nothing.
    `bad` are the draws that have no such law.
    """

    prior: Prior
    blocks: list[Block]
    evidence: Float[Tensor, "*#draws"]
    bad: Bool[Tensor, "*#draws"]


def given_normal(prior: Prior, blocks: list[Block]) -> Rest:
    """Condition the law of the pseudo-data on the observations that are normal."""
    mean, covariance, values = prior
    own = torch.cat([block.where.flatten() for block in blocks])
    bad = covariance.diagonal(dim1=-2, dim2=-1)[..., own].amax(-1) > WIDEST
    told = torch.ones(covariance.shape[-1], dtype=torch.bool).index_fill(0, own, False).nonzero().squeeze(-1)
    if len(told) == 0:
        return Rest(prior, blocks, torch.zeros(1, dtype=covariance.dtype), bad)
    factor, failed = factorise(covariance[..., told.unsqueeze(-1), told])
    evidence, alpha = log_density(factor, (values - mean)[..., told])
    cross = covariance[..., told.unsqueeze(-1), own]
    white = torch.linalg.solve_triangular(factor, cross, upper=False)
    given = Prior(
        mean[..., own] + (cross.mT @ alpha.unsqueeze(-1)).squeeze(-1),
        torch.baddbmm(covariance[..., own.unsqueeze(-1), own], white.mT, white, alpha=-1),
        torch.zeros(len(own), dtype=values.dtype),
    )
    place = torch.zeros(covariance.shape[-1], dtype=torch.long).index_put((own,), torch.arange(len(own)))
    return Rest(given, [block._replace(where=place[block.where]) for block in blocks], evidence, bad | failed)


def settle(prior: Prior, blocks: list[Block], start: list[Site] | None, tolerance: float, most: int) -> Solved:
    """Find the sites by natural-gradient steps: see `ascend`."""
    draws = len(prior.covariance)
    first = [_expanded(site, draws) for site in start or [_first(prior, block) for block in blocks]]
    rest = given_normal(prior, blocks)
    best, ahead, settled = ascend(
        lambda sites: _evaluate(rest, sites),
        first,
        lambda solved: solved.sites,
        _targets,
        _rise,
        tolerance,
        most,
    )
    converged = bool((settled & (best.bound > FAILED)).all())
    factor = best.factor if rest.prior is prior else None
    return best._replace(factor=factor, converged=converged, ahead=ahead)


def ascend(
    evaluate: Callable[[State], Trial],
    start: State,
    state_of: Callable[[Trial], State],
    target_of: Callable[[Trial], State],
    rise: Callable[[Trial, Trial], Float[Tensor, " S"]],
    tolerance: float,
    most: int,
) -> tuple[Trial, State, Bool[Tensor, " S"]]:
    """Conjugate-computation variational inference (Khan & Lin 2017, arXiv:1703.04265).

    A step of size r moves the natural parameters towards the gradient of the expected log density,
    ``site <- (1 - r) site + r (slope + precision m, precision)``; with r = 1 this is Newton's method on the bound. The bound
    along a step is taken for the parabola through its value and slope at the start and its value at the end. Where it is lower
    at the end, the step is taken back, draw by draw, and the next one leads to the parabola's peak (Nocedal & Wright 2006,
    section 3.5), unless less than `tolerance` is to be gained there.

    `evaluate` gives the posterior of a state, with its `bound`; `target_of` where a full step from it leads; `rise` what the
    bound would gain from one posterior to another if it went on as it starts. States and posteriors are nested tuples and
    lists of tensors with the draws in front. Returns the best posterior, the state that the next step from it would lead to (of
    draws that settled), and which draws settled.
    """

    def step(length: Tensor) -> State:
        return together(lambda a, b: torch.lerp(a, b, _column(length, a)), state_of(best), target_of(best))

    best = evaluate(start)
    rate = torch.ones_like(best.bound)
    settled, downhill = (torch.zeros_like(rate, dtype=torch.bool) for _ in range(2))
    tried, before = torch.full_like(rate, -torch.inf), torch.full_like(rate, torch.inf)
    for _ in range(most - 1):
        if settled.all():
            break
        trial = evaluate(step(rate))
        gain, slope = trial.bound - best.bound, rise(best, trial)
        noise = ROUNDING * (1 + best.bound.abs())
        better = gain >= -noise
        peak, left = _outlook(gain, slope, rate, before, better)
        if better.all():
            best = trial
        else:
            best = together(lambda a, b: torch.where(_column(better, a), a, b), trial, best)  # noqa: B023
        # Lower at two lengths, and not for being too long: where precisions are at their floor a step may lead nowhere.
        down = ~better & (slope <= 0) & (gain > -NEAR)
        # Where even short steps lead down a full one may still lead up; where none did since the last time, all is done.
        short = ~better & (rate < SHORT)
        idle = (
            (better & (rate > 0.5) & (gain <= noise)) | (down & downhill) | (short & (best.bound - tried <= tolerance))
        )
        settled = settled | idle | (left <= tolerance)
        tried, before, downhill = torch.where(short, best.bound, tried), torch.where(better, gain, torch.inf), down
        length = torch.where(better, peak.clamp(0.5, 2.0), peak.clamp(0.1, 0.7)) * rate
        rate = torch.where(short, 1.0, length.clamp_max(1.0))
    return best, step(rate * settled), settled


def _outlook(gain: Tensor, slope: Tensor, rate: Tensor, before: Tensor, better: Tensor) -> tuple[Tensor, Tensor]:
    """Where the bound peaks along a step, in units of it, and what is left to gain after it.

    That is what the parabola promises up to a full step, and, as gains shrink by about the same share each time, what this one
    and the one `before` promise.
    """
    bend = (slope - gain).clamp_min(1e-300)
    peak = torch.where(slope > 0, 0.5 * slope / bend, 0.3)
    end = torch.minimum(peak, 1 / rate)
    promised = torch.where(slope > 0, slope * end - (slope - gain) * end.square(), torch.where(better, 0.0, torch.inf))
    share = (gain / before).clamp_min(0.1)
    rest = torch.where(share < 1, gain * share / (1 - share), torch.inf)
    return peak, torch.where(better, torch.maximum(promised - gain, rest), promised)


def together(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply a function to the tensors at the same place of nested tuples and lists; anything else is taken from the first."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if not isinstance(first, tuple | list):
        return first
    parts = [together(function, *branch) for branch in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def tangent(rest: Rest, start: list[Site]) -> Solved:
    """One full step from sites that are near their optimum, with q and its bound as they were before it.

    ``J(t, q) = log Z(t) + E_q[log p - log t]`` is stationary in both at the optimum, and the step makes it stationary in q at
    the q that it starts from; so its error is of second order in that of the start, at half the price of settling.
    """
    now = _evaluate(rest, [_expanded(site, len(rest.prior.covariance)) for site in start])
    sites = _targets(now)
    return now._replace(sites=sites, noise=noise_of(sites), factor=None)


def bound(prior: Prior, blocks: list[Block], solved: Solved) -> Float[Tensor, " S"]:
    """The evidence lower bound, differentiable in theta.

    At the optimum the bound does not change with the sites, so they and q are held fixed: what remains is the evidence
    of the pseudo-data, and the expected log density as a function of the likelihood's own parameters.
    """
    covariance, pseudo = pseudo_data(prior, blocks, solved.sites, solved.noise)
    factor, bad = (
        factorise(covariance.detach())
        if solved.factor is None
        else (solved.factor, torch.zeros_like(solved.bound).bool())
    )
    evidence, alpha = log_marginal(covariance, pseudo - prior.mean, factor)
    expected = [block.expect(*marginal) for block, marginal in zip(blocks, solved.marginals, strict=True)]
    moving = evidence + sum(part.value.sum(-1) for part in expected)
    with torch.no_grad():
        total = _value(prior, blocks, solved._replace(expected=expected), factor, alpha)
    return torch.where(bad | (solved.bound <= FAILED), FAILED, total + (moving - moving.detach()))


def pseudo_data(
    prior: Prior, blocks: list[Block], sites: Sequence[Site], noise: list[Tensor]
) -> tuple[Float[Tensor, "S n n"], Float[Tensor, "S n"]]:
    """Covariance and values of the pseudo-data: a site's noise is its inverse precision, its value that times `natural`."""
    covariance = prior.covariance.clone()
    values = prior.values.expand(len(covariance), -1).clone()
    for block, own, site in zip(blocks, noise, sites, strict=True):
        covariance[:, block.where.unsqueeze(-1), block.where.unsqueeze(-2)] += own
        values[:, block.where] = (own @ site.natural.unsqueeze(-1)).squeeze(-1)
    return covariance, values


def _expanded(site: Site, draws: int) -> Site:
    return Site(
        site.natural.expand(draws, *site.natural.shape[-2:]), site.precision.expand(draws, *site.precision.shape[-3:])
    )


def _first(prior: Prior, block: Block) -> Site:
    """Sites at the prior's marginals, or where the likelihood of counts is known to peak."""
    draws = len(prior.covariance)
    if block.guess is None:
        mean = prior.mean.expand(draws, -1)[:, block.where]
        return step_from(mean, block.expect(mean, _blocks(prior.covariance, block.where)))
    mean, variance = (guess.expand(draws, *block.where.shape) for guess in block.guess)
    return step_from(mean, block.expect(mean, torch.diag_embed(variance)))


def step_from(mean: Tensor, expected: Expectation) -> Site:
    """Where a full step leads from a posterior with this mean."""
    _, slope, precision = expected
    if precision.shape[-1] == 1:
        precision = precision.clamp_min(FLOOR)
    else:
        precision = precision + FLOOR * torch.eye(precision.shape[-1], dtype=precision.dtype)
    return Site(slope + (precision @ mean.unsqueeze(-1)).squeeze(-1), precision)


def _targets(solved: Solved) -> list[Site]:
    return [step_from(mean, expected) for (mean, _), expected in zip(solved.marginals, solved.expected, strict=True)]


def first_order(ahead: Site, mean: Tensor, cov: Tensor, new_mean: Tensor, new_cov: Tensor) -> Tensor:
    """Change of a bound with the moments of normals to first order, where in natural parameters its gradient is `ahead`.

    ``eta . E[f] - tr(Lambda E[f f']) / 2``, with the second moments about the old mean.
    """
    pull = ahead.natural - (ahead.precision @ mean.unsqueeze(-1)).squeeze(-1)
    return (pull * (new_mean - mean)).sum(-1) - 0.5 * (ahead.precision * (new_cov - cov)).sum((-1, -2))


def _rise(best: Solved, trial: Solved) -> Float[Tensor, " S"]:
    """What the bound gains from one posterior to another to first order: its gradient is the full step, not kept from below."""
    total = torch.zeros_like(best.bound)
    for site, (mean, cov), (_, slope, precision), (new_mean, new_cov) in zip(
        best.sites, best.marginals, best.expected, trial.marginals, strict=True
    ):
        natural = slope + (precision @ mean.unsqueeze(-1)).squeeze(-1)
        ahead = Site(natural - site.natural, precision - site.precision)
        total = total + first_order(ahead, mean, cov, new_mean, new_cov).sum(-1)
    return total


def _evaluate(rest: Rest, sites: list[Site]) -> Solved:
    """The posterior that some sites make, and its bound."""
    prior, blocks = rest.prior, rest.blocks
    noise = noise_of(sites)
    covariance, pseudo = pseudo_data(prior, blocks, sites, noise)
    factor, bad = factorise(covariance)
    _, alpha = log_density(factor, pseudo - prior.mean)
    inverse = triangular_inverse(factor)
    means = prior.mean + (prior.covariance @ alpha.unsqueeze(-1)).squeeze(-1)
    marginals = []
    for block, own in zip(blocks, noise, strict=True):  # (K^-1 + S^-1)^-1 = S - S (K + S)^-1 S
        cov = own - own @ inverse_blocks(inverse, block.where) @ own
        cov.diagonal(dim1=-2, dim2=-1).clamp_min_(1e-12)
        marginals.append((means[:, block.where], cov))
    expected = [block.expect(*marginal) for block, marginal in zip(blocks, marginals, strict=True)]
    solved = Solved(sites, noise, marginals, expected, factor, torch.zeros_like(bad, dtype=alpha.dtype))
    total = rest.evidence + _value(prior, blocks, solved, factor, alpha)
    return solved._replace(bound=torch.where(rest.bad | bad | ~total.isfinite(), FAILED, total))


def _value(prior: Prior, blocks: list[Block], solved: Solved, factor: Tensor, alpha: Tensor) -> Float[Tensor, " S"]:
    """``log Z + sum_i E_q[log p(y_i | f_i) - log t_i(f_i)]``, where `alpha` solves the pseudo-data of the sites.

    A site that says little has pseudo-data of huge variance s, whose squares in log Z and in log t cancel only up to rounding.
    But ``pseudo - E[f | pseudo] = s alpha``, so they are left out: what remains is written in alpha and the means.
    """
    shift = (prior.covariance @ alpha.unsqueeze(-1)).squeeze(-1)
    sites = torch.cat([block.where.flatten() for block in blocks])
    square = ((prior.values - prior.mean) * alpha).index_fill(-1, sites, 0.0).sum(-1)
    normal = alpha.shape[-1] - len(sites)
    total = -0.5 * (square + normal * math.log(2 * math.pi)) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    for block, expected, (mean, cov), site, noise in zip(
        blocks, solved.expected, solved.marginals, solved.sites, solved.noise, strict=True
    ):
        a, own = alpha[:, block.where], shift[:, block.where]
        off = (
            prior.mean.expand_as(alpha)[:, block.where] + own - mean
        )  # zero where q is the posterior of these very sites
        log_det = noise.log().squeeze(-1).squeeze(-1) if mean.shape[-1] == 1 else torch.linalg.slogdet(noise)[1]
        trace = (site.precision * (cov + off.unsqueeze(-1) * off.unsqueeze(-2))).sum((-1, -2))
        total = total + (expected.value + 0.5 * (log_det + trace) + (a * (off - 0.5 * own)).sum(-1)).sum(-1)
    return total


def _blocks(covariance: Tensor, where: Tensor) -> Tensor:
    return covariance[:, where.unsqueeze(-1), where.unsqueeze(-2)]


def noise_of(sites: Sequence[Site]) -> list[Float[Tensor, "*#draws R c c"]]:
    """Covariances of the noise of the pseudo-data."""
    return [
        site.precision.reciprocal()
        if site.precision.shape[-1] == 1
        else torch.cholesky_inverse(torch.linalg.cholesky_ex(site.precision)[0])  # where it fails the bound will
        for site in sites
    ]
