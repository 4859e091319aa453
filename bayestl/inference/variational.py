"""The variational posterior of theta: a Gaussian in the basis of the curvature at the mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.inference.coordinates import Coordinates
from bayestl.inference.mode import Mode

FLOOR = 1e-2  # in the units of the Laplace posterior: gradients below it are noise, which Adam must not blow up


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


@dataclass(frozen=True)
class Schedule:
    """How much work the fit of a variational posterior may take."""

    steps: int
    particles: int
    rate: float = 0.08
    full: bool = False


def refine(
    coordinates: Coordinates,
    mode: Mode,
    schedule: Schedule,
    generator: torch.Generator,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Gaussian, list[float], bool]:
    """Maximise the ELBO by Adam from the Laplace approximation.

    In the basis ``v = m + L u`` the Laplace posterior is ``u ~ N(0, I)`` and q is ``u = a + C e``, C diagonal (mean field
    in a rotated basis) or lower-triangular. Gradients are pathwise without the score term ("sticking the landing", Roeder
    et al. 2017, arXiv:1703.09194), so they vanish where q is exact; particles come in antithetic pairs; the last quarter
    of the iterates is averaged.

    Returns q, the ELBO estimates, and whether the run was interrupted (q is then the average so far).
    """
    dim, half = coordinates.dim, schedule.particles // 2
    shift = torch.zeros(dim, dtype=torch.float64)
    log_scale = torch.zeros(dim, dtype=torch.float64)
    lower = torch.zeros(dim, dim, dtype=torch.float64)
    state = [shift, log_scale, lower] if schedule.full else [shift, log_scale]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in state]
    averages, averaged, trace, interrupted = [torch.zeros_like(p) for p in state], 0, [], False
    log_det = torch.linalg.slogdet(mode.basis)[1]
    limit = 10 * math.sqrt(dim)
    for step in range(schedule.steps):
        try:
            half_noise = torch.randn(half, dim, dtype=torch.float64, generator=generator)
            noise = torch.cat([half_noise, -half_noise])
            scale = torch.diag(log_scale.exp()) + lower.tril(-1)
            u = shift + noise @ scale.mT
            value, slope = coordinates.gradient(mode.v + u @ mode.basis.mT)
        except KeyboardInterrupt:
            interrupted = True
            break
        sound = value > -1e9
        score = torch.linalg.solve_triangular(scale.mT, noise.mT, upper=True).mT  # -d log q / du
        path = torch.where(sound[:, None], slope @ mode.basis + score, 0.0)
        size = path.norm(dim=-1, keepdim=True)
        path = path * (limit / size.clamp_min(limit))
        outer = path.mT @ noise / len(noise)
        gradients = [path.mean(0), outer.diagonal() * log_scale.exp(), outer.tril(-1)]
        # log q at the same points rather than its exact mean: where q is exact the estimate then has no noise at all.
        log_q = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1) - log_det - log_scale.sum()
        trace.append((value - log_q)[sound].mean().item() if sound.any() else -math.inf)
        rate = schedule.rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / schedule.steps)))
        for p, g, (first, second) in zip(state, gradients, moments, strict=False):
            first.mul_(0.9).add_(g, alpha=0.1)
            second.mul_(0.99).addcmul_(g, g, value=0.01)
            p.add_(rate * (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.99 ** (step + 1))).sqrt() + FLOOR))
        if step >= 0.75 * schedule.steps:
            averaged += 1
            for average, p in zip(averages, state, strict=True):
                average += (p - average) / averaged
        tick()
    final = averages if averaged else state
    scale = torch.diag(final[1].exp()) + (final[2].tril(-1) if schedule.full else 0.0)
    return Gaussian(mode.v + mode.basis @ final[0], mode.basis @ scale), trace, interrupted


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
