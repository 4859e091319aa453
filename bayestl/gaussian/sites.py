"""Observations that are not Gaussian, each replaced by a Gaussian site: conjugate-computation variational inference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayestl.gaussian.exact import FAILED, log_marginal

FLOOR = 1e-7  # of a site's precision: a site may say nothing, never less than nothing
ROUNDING = 1e-9  # of the evidence bound: changes below it are no changes


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


class Solved(NamedTuple):
    """Sites at their optimum: with them the posterior of f is regression on `values` with covariance `covariance`.

    `bound` is the evidence lower bound ``log Z + sum_i E_q[log p(y_i | f_i) - log t_i(f_i)]``, `factor` the Cholesky factor of
    the pseudo-data's covariance, `marginals` the q of each block, `steps` how many were taken and `converged` whether every
    draw settled.
    """

    sites: list[Site]
    noise: list[Float[Tensor, "*#draws R c c"]]
    factor: Float[Tensor, "*#draws n n"] | None
    marginals: list[tuple[Tensor, Tensor]]
    bound: Float[Tensor, "*#draws"]
    steps: int
    converged: bool


def settle(
    covariance: Float[Tensor, "S n n"],
    values: Float[Tensor, "*#S n"],
    blocks: list[Block],
    start: list[Site] | None,
    tolerance: float,
    most: int,
) -> Solved:
    """Find the sites by natural-gradient steps (Khan & Lin 2017, arXiv:1703.04265).

    `covariance` and `values` are those of the pseudo-data, whose entries at the blocks hold only the prior of f: its noise
    and its values are what is sought. A step of size r moves every site towards the gradient of the expected log density,
    ``site <- (1 - r) site + r (slope + precision m, precision)``; with r = 1 this is Newton's method on the bound. A step
    after which the bound is lower is taken back and halved, draw by draw.
    """
    draws = len(covariance)
    values = values.expand(draws, -1)
    sites = [_first(covariance, block) for block in blocks] if start is None else start
    sites = [_expanded(site, draws) for site in sites]
    best: Solved | None = None
    target = sites
    rate, growth = covariance.new_ones(draws), covariance.new_full((draws,), 1.5)
    held = sites
    steps, settled = 0, covariance.new_zeros(draws, dtype=torch.bool)
    while steps < most:
        steps += 1
        now = _evaluate(covariance, values, blocks, sites)
        if best is None:
            best, better = now, torch.ones_like(settled)
            gain = torch.full_like(rate, torch.inf)
        else:
            gain = now.bound - best.bound
            better = gain >= -ROUNDING * (1 + best.bound.abs())
            best = _choose(better, now, best)
        held = [_mix(better.double(), old, new) for old, new in zip(held, sites, strict=True)]
        aim = [_target(block, marginal) for block, marginal in zip(blocks, now.marginals, strict=True)]
        target = [_mix(better.double(), old, new) for old, new in zip(target, aim, strict=True)]
        settled = settled | (better & (gain <= tolerance)) | (rate < 1e-3)
        if settled.all():
            break
        # Steps that once went too far, as where two iterates alternate around the optimum, grow again but slowly.
        growth = torch.where(better, growth, 1.05)
        rate = torch.where(better, (growth * rate).clamp_max(1.0), 0.6 * rate)
        # Where full steps alternate around the optimum, a shorter one now and then falls into it.
        length = 0.6 * rate if steps > 4 and steps % 2 else rate
        sites = [_mix(length, old, new) for old, new in zip(held, target, strict=True)]
    assert best is not None
    return best._replace(steps=steps, converged=bool(settled.all()))


def tangent(
    covariance: Float[Tensor, "S n n"], values: Float[Tensor, "*#S n"], blocks: list[Block], start: list[Site]
) -> Solved:
    """One full step from sites that are near their optimum, with q as it was before it.

    ``J(t, q) = log Z(t) + E_q[log p - log t]`` is stationary in both at the optimum, and the step makes it stationary in q at
    the q that it starts from; so its error is of second order in that of the start, at half the price of settling.
    """
    sites = [_expanded(site, len(covariance)) for site in start]
    now = _evaluate(covariance, values.expand(len(covariance), -1), blocks, sites)
    aim = [_target(block, marginal) for block, marginal in zip(blocks, now.marginals, strict=True)]
    noise = [_inverse(site.precision) for site in aim]
    return now._replace(sites=aim, noise=noise, factor=None, steps=1)


def bound(
    covariance: Float[Tensor, "S n n"], values: Float[Tensor, "*#S n"], blocks: list[Block], solved: Solved
) -> Float[Tensor, " S"]:
    """The evidence lower bound at settled sites, differentiable in theta.

    At the optimum the bound does not change with the sites, so they and q are held fixed: what remains is the evidence
    of the pseudo-data, and the expected log density as a function of the likelihood's own parameters.
    """
    full, pseudo = _observed(covariance, values, blocks, solved.noise, [site.natural for site in solved.sites])
    total = log_marginal(full, pseudo, solved.factor)
    for block, (mean, cov), site, noise in zip(blocks, solved.marginals, solved.sites, solved.noise, strict=True):
        total = total + block.expect(mean, cov).value.sum(-1) - _log_site(mean, cov, site, noise)
    return total


def posterior_pair(
    covariance: Tensor, values: Tensor, blocks: list[Block], solved: Solved
) -> tuple[Float[Tensor, "S n n"], Float[Tensor, "S n"]]:
    """Covariance and values of the pseudo-data: what exact regression then works on."""
    return _observed(covariance, values, blocks, solved.noise, [site.natural for site in solved.sites])


def _expanded(site: Site, draws: int) -> Site:
    return Site(
        site.natural.expand(draws, *site.natural.shape[-2:]), site.precision.expand(draws, *site.precision.shape[-3:])
    )


def _first(covariance: Tensor, block: Block) -> Site:
    """Sites at the prior's marginals, or where the likelihood of counts is known to peak."""
    if block.guess is None:
        mean = covariance.new_zeros(len(covariance), *block.where.shape)
        cov = _blocks(covariance, block.where)
    else:
        mean = block.guess[0].expand(len(covariance), *block.where.shape)
        cov = torch.diag_embed(block.guess[1].expand_as(mean))
    return _target(block, (mean, cov))


def _target(block: Block, marginal: tuple[Tensor, Tensor]) -> Site:
    mean, cov = marginal
    _, slope, precision = block.expect(mean, cov)
    if precision.shape[-1] == 1:
        precision = precision.clamp_min(FLOOR)
    else:
        precision = precision + FLOOR * torch.eye(precision.shape[-1], dtype=precision.dtype)
    return Site(slope + (precision @ mean.unsqueeze(-1)).squeeze(-1), precision)


def _evaluate(covariance: Tensor, values: Tensor, blocks: list[Block], sites: list[Site]) -> Solved:
    noise = [_inverse(site.precision) for site in sites]
    full, pseudo = _observed(covariance, values, blocks, noise, [site.natural for site in sites])
    factor, info = torch.linalg.cholesky_ex(full)
    bad = info > 0
    if bad.any():
        factor = torch.where(bad[:, None, None], torch.eye(full.shape[-1], dtype=full.dtype), factor)
    alpha = torch.cholesky_solve(pseudo.unsqueeze(-1), factor)
    total = (
        -0.5 * (pseudo * alpha.squeeze(-1)).sum(-1)
        - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        - 0.5 * pseudo.shape[-1] * math.log(2 * math.pi)
    )
    everywhere = torch.cat([block.where.flatten() for block in blocks])
    cross = covariance[:, :, everywhere]
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    means = (cross.mT @ alpha).squeeze(-1)
    marginals, at = [], 0
    for block, site, own in zip(blocks, sites, noise, strict=True):
        rows, c = block.where.shape
        part = slice(at, at + rows * c)
        at += rows * c
        mean = means[:, part].reshape(-1, rows, c)
        white = half[:, :, part].reshape(len(half), -1, rows, c)
        cov = _blocks(covariance, block.where) - torch.einsum("snrc,snrd->srcd", white, white)
        variance = cov.diagonal(dim1=-2, dim2=-1)
        variance.clamp_min_(1e-12)
        marginals.append((mean, cov))
        total = total + block.expect(mean, cov).value.sum(-1) - _log_site(mean, cov, site, own)
    total = torch.where(bad | ~total.isfinite(), FAILED, total)
    return Solved(sites, noise, factor, marginals, total, 0, False)


def _observed(
    covariance: Tensor, values: Tensor, blocks: list[Block], noise: list[Tensor], natural: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Pseudo-data: the noise of a site is its inverse precision, its value that times its natural mean."""
    full, pseudo = covariance.clone(), values.expand(len(covariance), -1).clone()
    for block, own, eta in zip(blocks, noise, natural, strict=True):
        rows, columns = block.where.unsqueeze(-1), block.where.unsqueeze(-2)
        full[:, rows, columns] += own
        pseudo[:, block.where] = (own @ eta.unsqueeze(-1)).squeeze(-1)
    return full, pseudo


def _blocks(covariance: Tensor, where: Tensor) -> Tensor:
    return covariance[:, where.unsqueeze(-1), where.unsqueeze(-2)]


def _inverse(precision: Tensor) -> Tensor:
    if precision.shape[-1] == 1:
        return precision.reciprocal()
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(precision)[0])  # where it fails the bound will


def _log_site(mean: Tensor, cov: Tensor, site: Site, noise: Tensor) -> Tensor:
    """``sum_i E_q[log N(noise natural; f, noise)]``."""
    pseudo = (noise @ site.natural.unsqueeze(-1)).squeeze(-1)
    gap = (pseudo - mean).unsqueeze(-1)
    size = mean.shape[-1]
    log_det = noise.log().squeeze(-1).squeeze(-1) if size == 1 else torch.linalg.slogdet(noise)[1]
    square = (gap.mT @ site.precision @ gap).squeeze(-1).squeeze(-1)
    trace = (site.precision * cov).sum((-1, -2))
    return -0.5 * (square + trace + log_det + size * math.log(2 * math.pi)).sum(-1)


def _mix(rate: Tensor, old: Site, new: Site) -> Site:
    r = rate[:, None, None]
    # lerp(1) is exactly `new` and lerp(0) exactly `old`, infinities of a rejected step excepted
    return Site(
        torch.where(r == 0, old.natural, old.natural + r * (new.natural - old.natural)),
        torch.where(r[..., None] == 0, old.precision, old.precision + r[..., None] * (new.precision - old.precision)),
    )


def _choose(better: Tensor, new: Solved, old: Solved) -> Solved:
    if better.all():
        return new

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *[1] * (a.dim() - 1)), a, b)

    return Solved(
        [
            Site(pick(a.natural, b.natural), pick(a.precision, b.precision))
            for a, b in zip(new.sites, old.sites, strict=True)
        ],
        [pick(a, b) for a, b in zip(new.noise, old.noise, strict=True)],
        pick(new.factor, old.factor) if new.factor is not None and old.factor is not None else None,
        [(pick(a, c), pick(b, d)) for (a, b), (c, d) in zip(new.marginals, old.marginals, strict=True)],
        pick(new.bound, old.bound),
        0,
        False,
    )
