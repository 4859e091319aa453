"""The variational posterior of theta: a Gaussian in the basis of the curvature at the mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.inference.coordinates import Coordinates
from bayestl.inference.mode import Mode

FIRST, DECAY = 0.6, 0.4  # step t of the natural gradient is FIRST / (1 + t)^DECAY long
TRUST = 0.5  # nats that q may move in one step: far out, gradients of a skewed density are no guide
SCATTER = 100  # draws after which what they say of correlations counts half


@dataclass(frozen=True, eq=False)
class Gaussian:
    """``q(v) = N(centre, factor factor^T)``."""

    centre: Float[Tensor, " D"]
    factor: Float[Tensor, "D D"]

    def push(self, white: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """Map standard normals to draws."""
        return self.centre + white @ self.factor.mT

    def log_density_of(self, white: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
        """Log density of the draws that `white` maps to."""
        entropy = torch.linalg.slogdet(self.factor)[1] + 0.5 * len(self.centre) * math.log(2 * math.pi)
        return -0.5 * white.square().sum(-1) - entropy


class Schedule(NamedTuple):
    """How much work the fit of a variational posterior may take."""

    steps: int
    particles: int


def refine(
    coordinates: Coordinates,
    mode: Mode,
    schedule: Schedule,
    seed: int,
    tick: Callable[[], object] = lambda: None,
) -> tuple[Gaussian, list[float], bool]:
    """Maximise the ELBO by natural gradients from the Laplace approximation.

    In the basis ``v = m + L u`` the Laplace posterior is ``u ~ N(0, I)``, and q is ``u ~ N(a, P^-1)``. The natural gradient moves
    P towards the mean curvature under q, and a by ``P^-1 E[d log p/du]``. The curvature is told by gradients alone
    (``E[-d2 log p] - P = -E[(d log p/du + P (u - a)) (u - a)'] P``, Stein's lemma), without the score term ("sticking the
    landing", Roeder et al. 2017, arXiv:1703.09194), so that all noise vanishes where q is exact; a term of second order keeps
    P positive definite (Lin, Schmidt & Khan 2020, arXiv:2002.10060). Steps shrink, so that the iterates average, and are
    never longer than `TRUST`. Off the diagonal, where there is much to learn from few draws, steps are shorter at first. Where
    the bound is still rising at the end there are as many steps again.

    Returns q, the ELBO estimates, and whether the run was interrupted (q is then where it had come to).
    """
    dim, (steps, particles) = coordinates.dim, schedule
    eye = torch.eye(dim, dtype=torch.float64)
    centre, precision, trace, interrupted = torch.zeros(dim, dtype=torch.float64), eye, list[float](), False
    log_det, limit = torch.linalg.slogdet(mode.basis)[1], 10 * math.sqrt(dim)

    def whites() -> Iterator[Float[Tensor, "J D"]]:
        yield from orthogonal_normals(steps * particles, dim, seed).unflatten(0, (steps, particles))
        if rise(trace)[1]:
            yield from orthogonal_normals(steps * particles, dim, seed + 1).unflatten(0, (steps, particles))

    for step, z in enumerate(whites()):
        root = torch.linalg.cholesky(precision)
        u = centre + torch.linalg.solve_triangular(root.mT, z.mT, upper=True).mT
        try:
            value, slope = coordinates.gradient(mode.v + u @ mode.basis.mT)
        except KeyboardInterrupt:
            interrupted = True
            break
        sound = value > -1e9
        path = torch.where(sound[:, None], slope @ mode.basis + z @ root.mT, 0.0)
        path *= limit / path.norm(dim=-1, keepdim=True).clamp_min(limit)
        # log q at the same points rather than its exact mean: where q is exact the estimate then has no noise at all.
        log_q = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1) - log_det + root.diagonal().log().sum()
        trace.append((value - log_q)[sound].mean().item() if sound.any() else -math.inf)
        bend = path.mT @ z @ root.mT / particles
        trusted = particles * (step + 1) / (particles * (step + 1) + SCATTER)
        bend = 0.5 * (bend + bend.mT) * (trusted + (1 - trusted) * eye)
        half = torch.linalg.solve_triangular(root, bend, upper=False)
        push = torch.linalg.solve_triangular(root, path.mean(0)[:, None], upper=False)
        squeeze = torch.linalg.solve_triangular(root, half.mT, upper=False)
        moved = 0.5 * push.square().sum() + 0.25 * squeeze.square().sum()  # nats, for a step of 1
        rate = min(FIRST / (1 + step) ** DECAY, math.sqrt(TRUST / max(moved.item(), 1e-12)))
        precision = precision - rate * bend + 0.5 * rate**2 * half.mT @ half
        centre = centre + rate * torch.linalg.solve(precision, path.mean(0))
        tick()
    root = torch.linalg.cholesky(precision)
    factor = mode.basis @ torch.linalg.solve_triangular(root.mT, eye, upper=True)
    return Gaussian(mode.v + mode.basis @ centre, factor), trace, interrupted


def rise(trace: Iterable[float]) -> tuple[float, bool]:
    """By how much the last quarter of estimates of the bound is above that before, and whether that is a rise."""
    found = np.array([value for value in trace if np.isfinite(value)])
    if len(found) < 8:
        return float("nan"), False
    last, before = found[-len(found) // 4 :], found[-len(found) // 2 : -len(found) // 4]
    drift, noise = float(last.mean() - before.mean()), float(np.hypot(last.std(), before.std()) + 1e-9)
    return drift, drift > max(0.5, 2 * noise)


def normal_points(count: int, dim: int, seed: int) -> Float[Tensor, "count dim"]:
    """Quasi-random standard normals (scrambled Sobol): their averages converge faster than those of random draws."""
    sobol = scipy.stats.qmc.Sobol(dim, scramble=True, rng=seed)
    uniform = torch.from_numpy(sobol.random_base2(math.ceil(math.log2(max(1, count))))[:count])
    return torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))


def orthogonal_normals(count: int, dim: int, seed: int) -> Float[Tensor, "count dim"]:
    """Standard normals in pairs ``+z, -z`` along directions that are orthogonal by blocks of D, their lengths stratified.

    Each is exactly normal. Odd moments vanish, and together 2D of them have the second moments that they should, up to the
    scatter of their lengths, so that a few stand for the whole distribution (Yu et al. 2016, arXiv:1610.09072).
    """
    rng, pairs = np.random.default_rng(seed), -(-count // 2)
    q, r = np.linalg.qr(rng.standard_normal((-(-pairs // dim), dim, dim)))
    q *= np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]  # else it is not uniform among rotations
    directions = q.reshape(-1, dim)[:pairs]
    levels = scipy.stats.qmc.Sobol(1, rng=rng).random_base2(math.ceil(math.log2(pairs)))[:pairs]
    half = torch.from_numpy(np.sqrt(scipy.stats.chi2.ppf(levels.clip(1e-12, 1 - 1e-12), dim)) * directions)
    return torch.stack([half, -half], 1).reshape(-1, dim)[:count]
