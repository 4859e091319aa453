"""Finite mixtures of normals: moments and exact quantiles. Components lie along the first dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

PAIRS = 300  # components, every pair of which counts
COARSEST, FINEST = 64, 1024  # steps of an integral over values


def average(values: Float[Tensor, "S *shape"], weight: Tensor | None = None) -> Float[Tensor, "*shape"]:
    """Weighted mean over the components; equal weights when None."""
    return values.mean(0) if weight is None else (weight * values).sum(0)


def moments(
    mean: Float[Tensor, "S *shape"], variance: Float[Tensor, "S *shape"], weight: Tensor | None = None
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Mean and standard deviation: ``Var = E[variance] + Var[mean]``."""
    centre = average(mean, weight)
    return centre, (average(variance, weight) + average((mean - centre).square(), weight)).sqrt()


def clipped_moments(
    mean: Float[Tensor, "S *shape"], std: Float[Tensor, "S *shape"], low: Tensor | float, high: Tensor | float
) -> tuple[Float[Tensor, "S *shape"], Float[Tensor, "S *shape"]]:
    """Mean and variance of every component where values beyond the limits are at them.

    With ``E[max(z, 0)] = mean Phi + std phi`` and ``E[max(z, 0)^2] = (mean^2 + std^2) Phi + mean std phi`` (Tobin 1958), from the
    nearer limit: what is clipped is ``low + max(z - low, 0) - max(z - high, 0)``.
    """
    std = std.clamp_min(1e-150)
    low, high = (torch.as_tensor(limit, dtype=mean.dtype) for limit in (low, high))
    a, b = (low - mean) / std, (high - mean) / std
    below, above = normal_cdf(a), normal_cdf(-b)
    inside = torch.where(a > 0, normal_cdf(-a) - above, normal_cdf(b) - below)
    edge_a, edge_b = (torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi) for z in (a, b))
    # In units of the deviation, from the mean; a limit at infinity has neither probability nor density.
    a_, b_ = a.nan_to_num(posinf=0.0, neginf=0.0), b.nan_to_num(posinf=0.0, neginf=0.0)
    first = below * a_ + above * b_ + edge_a - edge_b
    second = below * a_.square() + above * b_.square() + inside + a_ * edge_a - b_ * edge_b
    return mean + std * first, std.square() * (second - first.square()).clamp_min(0.0)


def normal_cdf(z: Tensor) -> Tensor:
    """Probability below z under the standard normal, right in its lower tail (`torch.special.ndtr` is 0 from -9 on)."""
    return 0.5 * torch.special.erfc(z * (-(0.5**0.5)))


def log_normal(error: Tensor, variance: Tensor) -> Tensor:
    """``log N(error; 0, variance)``, elementwise."""
    return -0.5 * (error.square() / variance + variance.log() + math.log(2 * math.pi))


def cdf(
    y: Tensor, mean: Float[Tensor, "S *shape"], std: Float[Tensor, "S *shape"],
    weight: Tensor | None = None,
) -> Float[Tensor, "*shape"]:  # fmt: skip
    """Probability below y."""
    return average(normal_cdf((y - mean) / std.clamp_min(1e-150)), weight)


def log_density(
    y: Float[Tensor, "*#shape"], mean: Float[Tensor, "S *shape"], std: Float[Tensor, "S *shape"],
    weight: Tensor | None = None,
) -> Float[Tensor, "*shape"]:  # fmt: skip
    """Log of the mixture density at y."""
    each = log_normal(y - mean, std.square())
    if weight is None:
        return torch.logsumexp(each, 0) - math.log(len(mean))
    return torch.logsumexp(each + weight.log(), 0)


def crps(
    y: Float[Tensor, "*#shape"], mean: Float[Tensor, "S *shape"], std: Float[Tensor, "S *shape"],
    weight: Tensor | None = None,
) -> Float[Tensor, "*shape"]:  # fmt: skip
    """Continuous ranked probability score ``E|Y - y| - E|Y - Y'|/2`` (Grimit et al. 2006, doi 10.1256/qj.05.235)."""
    first = average(_absolute_moment(y - mean, std), weight)
    shares = torch.full_like(mean, 1 / len(mean)) if weight is None else weight
    if len(mean) > PAIRS:
        flat = (part.expand_as(mean).reshape(len(mean), -1) for part in (mean, std, shares))
        return first - _half_difference(*flat).reshape(first.shape)
    second = torch.zeros_like(first)
    for m, s, w in zip(mean, std, shares, strict=True):
        second += w * average(_absolute_moment(mean - m, (std.square() + s.square()).sqrt()), weight)
    return first - second / 2


def _half_difference(mean: Tensor, std: Tensor, weight: Tensor) -> Tensor:
    """``E|Y - Y'| / 2 = int F (1 - F) dx`` of many components, by the trapezium rule in t, ``x = centre + width sinh(t)``.

    The integrand dies off at both ends, so the rule converges geometrically once its steps are no wider than the components are:
    64 where these overlap, up to 1,024 where narrow ones lie far apart.
    """
    std = std.clamp_min(1e-150)
    centre, width = (weight * mean).sum(0), 1 / (weight / std).sum(0)
    off = (mean - centre).abs()
    reach = torch.asinh((off + 8 * std).amax(0) / width)
    needed = 3 * reach * (weight * torch.hypot(off, width) / std).sum(0)
    steps = 2 ** needed.nan_to_num(FINEST).clamp(COARSEST, FINEST).log2().ceil()
    found = torch.zeros_like(centre)
    for count in steps.unique().tolist():
        own = steps == count
        rate, w, c, r = 0.5**0.5 / std[:, own], 0.5 * weight[:, own], width[own], reach[own]
        zero, z, total = (mean[:, own] - centre[own]) * rate, torch.empty_like(rate), torch.zeros_like(c)
        for node in torch.linspace(-1, 1, int(count) + 1, dtype=mean.dtype)[:-1]:
            torch.mul(rate, c * torch.sinh(node * r), out=z)
            off = torch.erf(z.sub_(zero), out=z).mul_(w).sum(0)  # F - 1/2
            total += (0.25 - off.square()) * torch.cosh(node * r)
        found[own] = total * c * r * (2 / count)
    return found


def _absolute_moment(mean: Tensor, std: Tensor) -> Tensor:
    """``E|X|`` for ``X ~ N(mean, std^2)``."""
    z = mean / std.clamp_min(1e-150)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return mean * torch.special.erf(z * 0.5**0.5) + 2 * std * density


def quantiles(
    mean: Float[Tensor, "S *shape"],
    std: Float[Tensor, "S *shape"],
    levels: Sequence[float] | Float[Tensor, "P *shape"],
    weight: Tensor | None = None,
) -> Float[Tensor, "P *shape"]:
    """Solve ``cdf(y) = level`` by Newton steps kept inside a shrinking bracket, from the level before where that is near.

    They stop, one step after, when the probability is met to 1e-9 or the step is below 1e-12 of the spread.
    """
    std = std.clamp_min(1e-150)
    centre, spread = moments(mean, std.square(), weight)
    rate = 1.0 / (std * math.sqrt(2 * math.pi))
    found: list[Tensor] = []
    last, density = math.inf, torch.ones_like(centre)
    for level in levels:
        z = torch.special.ndtri(torch.as_tensor(level, dtype=mean.dtype))
        low, high = (mean + z * std).amin(0), (mean + z * std).amax(0)  # each component's quantile bounds the mixture's
        near = isinstance(level, float) and abs(level - last) < 0.02
        start = found[-1] + (level - last) / density.clamp_min(1e-300) if near else centre + z * spread
        y, last = start.clamp(low, high), level if isinstance(level, float) else math.inf
        before = moved = high - low
        for _ in range(120):
            u = (y - mean) / std
            excess = average(normal_cdf(u), weight) - level
            low, high = torch.where(excess <= 0, y, low), torch.where(excess >= 0, y, high)
            density = average(u.square_().mul_(-0.5).exp_().mul_(rate), weight)
            step = y - excess / density.clamp_min(1e-300)
            # Where steps do not halve every other time, Newton's method is lost between peaks: halve the bracket.
            sound = (step >= low) & (step <= high) & ((step - y).abs() <= 0.5 * before)
            new = torch.where(sound, step, (low + high) / 2)
            before, moved, y = moved, (new - y).abs(), new
            if ((excess.abs() <= 1e-9) | (moved <= 1e-12 * spread)).all():
                break
        found.append(y)
    return torch.stack(found)
