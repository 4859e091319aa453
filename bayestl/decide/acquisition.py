"""What a measurement is expected to bring: closed forms for Gaussian beliefs, batched over everything.

Beliefs about the objective at A points are normal, ``o ~ N(m, v)``. A measurement y yet to be made moves the means along lines,
``m_a + s_a z`` with ``z ~ N(0, 1)`` and ``s_a = Cov[o_a, y] / sd[y]``, and takes ``s_a^2`` off the variances, whatever its
value. All scores follow from m, v and s. They are logarithms of positive gains, so that they can be told apart however small
they are.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.special
import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-300
SMALL = 1e-2  # of a standard deviation: closer, what lies within is a series
FAR = -100.0  # standard deviations from which an asymptotic series is the more accurate
STEPS = 31  # of a standard normal, where what is averaged over it has kinks
INNER, OUTER = 6.0, 38.0  # standard deviations that they span, and where they end that look beyond
NODES = 32  # of an integral that stands for a difference of equals
CERTAIN = 1e-9  # deviation of what is known
ROUGH = 1e-8  # a difference of probabilities that has too few digits


def log_improvement(z: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """``log h(z)``, ``h(z) = E[max(z + e, 0)] = phi(z) + z Phi(z)``, e standard normal, without loss in the lower tail.

    Ament et al. 2023, eq. 9 (doi 10.48550/arXiv.2310.20708); beyond 100 standard deviations the asymptotic series.
    """
    inside = z.clamp_min(-1.0)
    near = (torch.exp(-0.5 * inside.square()) / math.sqrt(2 * math.pi) + inside * torch.special.ndtr(inside)).log()
    w = z.clamp(FAR, -1.0)
    # h(z) = phi(z) (1 - |z| sqrt(pi / 2) erfcx(|z| / sqrt 2))
    tail = torch.log(-torch.expm1(torch.log(-w * math.sqrt(math.pi / 2) * torch.special.erfcx(-w / math.sqrt(2)))))
    far = z.clamp_max(FAR)
    i = far.square().reciprocal()
    series = torch.log1p(i * (-3 + i * (15 - 105 * i))) - 2 * (-far).log()
    left = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) + torch.where(z < FAR, series, tail)
    return torch.where(z > -1.0, near, left)


def log_expected_improvement(mean: Tensor, std: Tensor, best: Tensor) -> Tensor:
    """``log E[max(o - best, 0)] = log sd + log h((mean - best) / sd)``.

    Jones et al. 1998 (doi 10.1023/A:1008306431147), in the form of Ament et al. 2023.

    Examples
    --------
    >>> import torch
    >>> mean, std, best = torch.tensor([0.0, 1.0, 0.0]).double()
    >>> round(log_expected_improvement(mean, std, best).exp().item(), 4)
    0.3989
    """
    std = std.clamp_min(1e-150)
    return std.log() + log_improvement(((mean - best) / std).clamp_min(-1e150))


def improvements(
    mean: Float[Tensor, "W 1"], std: Float[Tensor, "W 1"], best: Float[Tensor, "W 1"]
) -> tuple[Float[Tensor, "W n"], Float[Tensor, "W n"]]:
    """Improvements upon the best, ``sd t``, and the log of what each adds to the expected one, ``sd t phi(a + t) dt``.

    Nodes of a trapezium rule about the peak of the density of the gain, so that they tell where it arises however small it is.
    """
    std = std.clamp_min(1e-150)
    a = ((best - mean) / std).clamp(-1e150, 1e150)
    peak = 2 / (a + (a.square() + 4).sqrt())
    peak = torch.where(a < 0, (-a + (a.square() + 4).sqrt()) / 2, peak)
    width = (peak.square().reciprocal() + 1).rsqrt()
    t = peak + width * torch.linspace(-5, 12, 86).double()
    log = t.clamp_min(TINY).log() - 0.5 * t.square() - a * t - 0.5 * a.square() + width.log() + std.log()
    return std * t.clamp_min(TINY), torch.where(t > 0, log, -torch.inf)


def rises(mean: Float[Tensor, "W A"], slope: Float[Tensor, "W A"]) -> tuple[Float[Tensor, "W n"], Float[Tensor, "W n"]]:
    """Rises of the best of lines ``m_a + s_a z``, and the log of what each adds to the expected one, up to a constant."""
    z = torch.linspace(-OUTER, OUTER, 1217).double()
    rise = (mean.unsqueeze(-1) + slope.unsqueeze(-1) * z).amax(1) - mean.amax(-1, keepdim=True)
    return rise.clamp_min(TINY), torch.where(rise > 0, rise.clamp_min(TINY).log() - 0.5 * z.square(), -torch.inf)


def log_probability_of_improvement(mean: Tensor, std: Tensor, best: Tensor) -> Tensor:
    """``log P(o > best)``: Kushner 1964 (doi 10.1115/1.3653121). What is known does not improve upon its like."""
    log = torch.special.log_ndtr((mean - best) / std.clamp_min(1e-150))
    return torch.where((std < CERTAIN) & (mean <= best + CERTAIN), -torch.inf, log)


def log_expected_approach(distance: Tensor, std: Tensor, best: Tensor) -> Tensor:
    """``log E[max(best - |d + sd e|, 0)]``: the expected improvement when a value is to be hit.

    A triangle is ``(x + b)^+ - 2 x^+ + (x - b)^+``, so it is ``sd (h((d + b)/sd) - 2 h(d/sd) + h((d - b)/sd))``, here with d on
    the side where all three are tails.
    """
    std = std.clamp_min(1e-150)
    d = -distance.abs()
    first, middle, last = (
        log_improvement(((d + shift) / std).clamp(-1e150, 1e150)) for shift in (best, torch.zeros_like(best), -best)
    )
    rest = 1 - 2 * torch.exp(middle - first) + torch.exp(last - first)
    wide = std.log() + first + rest.clamp_min(TINY).log()
    # A triangle that is narrow beside the density: its area, b^2, and its second moment.
    close, density, bend = _narrow(d / std, best / std)
    area = std.log() + 2 * (best.clamp_min(0.0) / std).log()
    return torch.where(close, area + density + torch.log1p(bend / 12), wide)


def log_probability_of_approach(distance: Tensor, std: Tensor, best: Tensor) -> Tensor:
    """``log P(|d + sd e| < best)``."""
    std, d = std.clamp_min(1e-150), -distance.abs()
    high, low = (torch.special.log_ndtr(((d + shift) / std).clamp(-1e150, 1e150)) for shift in (best, -best))
    wide = high + torch.log(-torch.expm1((low - high).clamp_max(-1e-16)))
    close, density, bend = _narrow(d / std, best / std)
    return torch.where(close, (2 * best.clamp_min(0.0) / std).log() + density + torch.log1p(bend / 6), wide)


def _narrow(z: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a standard normal density is nearly straight within `width` of z, its log there, and ``width^2 phi'' / phi``."""
    close = width * z.abs().clamp_min(1.0) < SMALL
    bend = torch.where(close, width.square() * (z.square() - 1), 0.0)
    return close, -0.5 * z.square() - 0.5 * math.log(2 * math.pi), bend


def expected_distance(distance: Tensor, variance: Tensor) -> Tensor:
    """``E|d + sd e|``, the mean of a folded normal."""
    return _folded(distance, variance.clamp_min(1e-24).sqrt())


def _folded(distance: Tensor, std: Tensor) -> Tensor:
    z = distance / std
    tail = z.square().mul_(-0.5).exp_().mul_(std * math.sqrt(2 / math.pi))
    return tail.addcmul_(distance, z.mul_(1 / math.sqrt(2)).erf_())


def log_knowledge_gradient(mean: Float[Tensor, "*#b A"], slope: Float[Tensor, "*#b A"]) -> Float[Tensor, "*b"]:
    """``log(E[max_a (m_a + s_a z)] - max_a m_a)``: what a measurement is expected to add to the best mean, exactly.

    Frazier et al. 2009 (doi 10.1287/ijoc.1080.0314); for cheaper sources beside the target Poloczek et al. 2017
    (doi 10.48550/arXiv.1603.00389). Where one line overtakes the next, at ``z = c``, the gain grows by
    ``(s' - s) h(-|c|)``. Line a is on top in ``(l_a, u_a)``, from the last line that it overtakes to the first that overtakes
    it; found for all pairs of lines at once, no sorting. With one certain point of mean `best` beside the measured one, this
    is `log_expected_improvement`.

    Examples
    --------
    >>> import torch
    >>> lines = torch.tensor([0.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    >>> round(log_knowledge_gradient(*lines).exp().item(), 4)
    0.3989
    """
    mean, slope = torch.broadcast_tensors(mean, slope)
    slope = slope - slope.gather(-1, mean.argmax(-1, keepdim=True))
    ahead = mean.unsqueeze(-1) - mean.unsqueeze(-2)  # (..., a, b): of a before b
    rise = slope.unsqueeze(-2) - slope.unsqueeze(-1)  # of b above a
    crossing = ahead / torch.where(rise == 0, 1.0, rise)
    upper = torch.where(rise > 0, crossing, torch.inf).amin(-1)
    lower = torch.where(rise < 0, crossing, -torch.inf).amax(-1)
    place = torch.arange(mean.shape[-1])
    first = place.unsqueeze(-1) > place
    beaten = ((rise == 0) & ((ahead < 0) | ((ahead == 0) & first))).any(-1)
    active = (lower < upper) & ~beaten
    starts = torch.where(active & lower.isfinite(), log_improvement(-lower.abs().clamp_max(1e150)), -torch.inf)
    ends = torch.where(active & upper.isfinite(), log_improvement(-upper.abs().clamp_max(1e150)), -torch.inf)
    size = torch.maximum(starts, ends).amax(-1, keepdim=True)
    some = size.isfinite()
    scale = torch.where(some, size, 0.0)
    total = (slope * (torch.exp(starts - scale) - torch.exp(ends - scale))).sum(-1)
    # Where no line overtakes another nothing is gained: less than any gain.
    return torch.where(some.squeeze(-1) & (total > 0), scale.squeeze(-1) + total.clamp_min(TINY).log(), -torch.inf)


def log_feasible_gradient(
    value: Float[Tensor, "*#b A"],
    slope: Float[Tensor, "*#b A"],
    chance: Float[Tensor, "*#b A"],
    rise: Float[Tensor, "*#b A"],
) -> Float[Tensor, "*b"]:
    """``log(E[max_a p_a(z) (v_a + s_a z)] - max_a E[p_a(z) (v_a + s_a z)])``: what is gained where chances move as well.

    ``p_a(z) = Phi((h_a + r_a z) / sqrt(1 - r_a^2))``, ``Phi(h_a) = p_a``, is the probability of an event of normal origin given a
    measurement whose correlation with it is ``r_a``; on the average it stays p_a, and `rise` is by how much more it is for a z a
    little above 0: ``phi(h_a) r_a``, but for the root. By Gauss-Legendre quadrature in the probability of z, which
    takes steps as they come.

    Examples
    --------
    >>> import torch
    >>> value, chance = torch.tensor([1.0, 4.0]).double(), torch.tensor([1.0, 0.2]).double()
    >>> told = log_feasible_gradient(value, 0 * value, chance, torch.tensor([0.0, 0.28]).double())
    >>> round(told.exp().item(), 1)  # 1 is certain, 4 would hold in a fifth of all cases, and which that is is told
    0.6
    """
    value, slope, chance, rise = torch.broadcast_tensors(value, slope, chance, rise)
    h = torch.special.ndtri(chance.clamp(1e-15, 1 - 1e-15))
    turn = (rise * (0.5 * h.square()).exp() * math.sqrt(2 * math.pi)).clamp(-0.9999, 0.9999)
    rest = (1 - turn.square()).sqrt()
    nodes, weights = scipy.special.roots_legendre(NODES)
    top, each = torch.zeros_like(value[..., 0]), torch.zeros_like(value)
    for z, weight in zip(scipy.special.ndtri((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
        worth = torch.special.ndtr((h + turn * z) / rest) * (value + slope * z)
        top, each = top + weight * worth.amax(-1), each + weight * worth
    gain = top - each.amax(-1)
    return torch.where(gain > 1e-13 * each.abs().amax(-1), gain.clamp_min(TINY).log(), -torch.inf)


def log_approach_gradient(
    distance: Float[Tensor, "*#b A"], variance: Float[Tensor, "*#b A"], slope: Float[Tensor, "*#b A"], far: bool = False
) -> Float[Tensor, "*b"]:
    """The knowledge gradient when a value is to be hit: ``log(min_a E|o_a| - E[min_a E[|o_a| | y]])``, o being off by `distance`.

    What is measured narrows the beliefs too, which counts here. The outer expectation is of ``E[|o_b| | y] - min_a E[|o_a| | y]``
    with b the best now, whose mean is known: never negative, and no difference of what is nearly equal. It has kinks, so it is
    taken at equal steps, of which each draw (the first dimension) has its own, one a little further than the last: their errors
    cancel in the mean. They span six standard deviations, or, if `far`, what is beyond.
    """
    distance, variance, slope = torch.broadcast_tensors(distance, variance, slope)
    step, draws = 2 * INNER / STEPS, len(distance) if distance.dim() > 1 else 1
    first = step * (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    first = first.reshape(-1, *[1] * (distance.dim() - 1)) if distance.dim() > 1 else first
    if not far:
        nodes = step * torch.arange(STEPS, dtype=torch.float64) - INNER
    else:  # there the normal falls by half within a tenth
        step, first = step / 4, first / 4
        beyond = torch.arange(INNER, OUTER, step, dtype=torch.float64)
        nodes = torch.cat([-beyond - step, beyond])
    best = expected_distance(distance, variance).argmin(-1, keepdim=True)
    std = (variance - slope.square()).clamp_min(1e-24).sqrt()
    gain = torch.full_like(std[..., 0], -torch.inf)
    for node in nodes:
        z = first + node
        after = _folded(torch.addcmul(distance, slope, z), std)
        nearer = after.gather(-1, best).squeeze(-1) - after.amin(-1)
        gain = torch.logaddexp(gain, nearer.log() - 0.5 * z.squeeze(-1).square())
    return gain + math.log(step) - 0.5 * math.log(2 * math.pi)


def log_variance_reduction(slopes: Float[Tensor, "*b A c"]) -> Float[Tensor, "*b"]:
    """``log mean_a s_a . s_a``: by how much the variance of the objective falls, averaged over the points.

    Exact for normal beliefs (Cohn 1996, doi 10.1016/0893-6080(95)00137-9), and then it does not depend on the value measured.
    """
    return slopes.square().sum(-1).mean(-1).clamp_min(TINY).log()


def log_level_reduction(
    mean: Float[Tensor, "*#b A"], variance: Float[Tensor, "*#b A"], slope: Float[Tensor, "*#b A"], level: Tensor
) -> Float[Tensor, "*b"]:
    """How much surer it becomes which points lie above a level: log of the mean fall of ``p (1 - p)``, p = P(o > level).

    Chevalier et al. 2014 (doi 10.1080/00401706.2013.860918). With ``h = (m - level) / sd`` and r the share of the variance that
    the measurement takes away, ``E[p (1 - p)] = 2 T(h, a)``, ``a = sqrt((1 - r) / (1 + r))``, T being Owen's function; before it,
    a is 1. Where the two are nearly equal, their difference is ``int_a^1 exp(-h^2 (1 + x^2) / 2) / (1 + x^2) dx / pi``.
    """
    variance = variance.clamp_min(1e-24)
    h = ((mean - level) / variance.sqrt()).abs()
    share = (slope.square() / variance).clamp(0.0, 1.0)
    h, share = torch.broadcast_tensors(h, share)
    later = ((1 - share) / (1 + share)).sqrt()
    now = torch.special.ndtr(h) * torch.special.ndtr(-h)
    fall = now - 2 * torch.from_numpy(np.asarray(scipy.special.owens_t(h.numpy(), later.numpy())))
    gain = fall.mean(-1).clamp_min(TINY).log()
    small = fall.amax(-1) < ROUGH
    if small.any():
        each = _log_fall(h[small], share[small], later[small])
        gain = gain.masked_scatter(small, torch.logsumexp(each, -1) - math.log(each.shape[-1]))
    return gain


def _log_fall(h: Tensor, share: Tensor, a: Tensor) -> Tensor:
    """Log of that integral, by Gauss-Legendre's rule as far as the integrand matters."""
    square = 2 * share / (1 + share)  # 1 - a^2
    square = torch.minimum(square, 80 / h.square().clamp_min(TINY))
    width = square / (a + (a.square() + square).sqrt())
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    total = torch.zeros_like(h)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        step = width * node
        total += weight * torch.exp(-0.5 * h.square() * step * (2 * a + step)) / (1 + (a + step).square())
    return width.log() + total.log() - 0.5 * h.square() * (1 + a.square()) - math.log(math.pi)


def log_information(
    cross: Float[Tensor, "W R A c"], own: Float[Tensor, "W R c c"], factor: Float[Tensor, "W A A"]
) -> Float[Tensor, "W R"]:
    """Log of the mutual information in nats, the expected fall of the entropy of the objective at all the points jointly.

    ``I = (log|S| - log|S - C' K^-1 C|) / 2``, S the covariance of the measurement, C that of objective and measurement,
    ``K = L L'`` that of the objective, `factor` L. Krause et al. 2008 (jmlr.org/papers/v9/krause08a.html).
    """
    w, r, a, c = cross.shape
    columns = cross.transpose(1, 2).reshape(w, a, r * c)
    white = torch.linalg.solve_triangular(factor, columns, upper=False).reshape(w, a, r, c)
    left = own - torch.einsum("warc,ward->wrcd", white, white)
    gain = 0.5 * (torch.linalg.slogdet(own)[1] - torch.linalg.slogdet(left)[1])
    return gain.clamp_min(TINY).log()


def log_max_value_information(
    mean: Tensor, std: Tensor, told: Tensor, peaks: Float[Tensor, "W M"]
) -> Float[Tensor, "W R"]:
    """Log of the information in nats about the largest value of the objective, of which `peaks` are draws.

    ``-log(1 - t q(g)) / 2`` averaged over the draws, ``q(g) = r (g + r)``, ``r = phi(g) / Phi(g)``, ``g = (peak - mean) / sd``,
    where t is the share of the variance of the objective at the candidate that the measurement takes away. A lower
    bound: given the largest value the objective is a truncated normal, of whose variance q is the share that is lost, and
    a normal has the most entropy of all laws of a given variance. Moss et al. 2021, eq. 15
    (jmlr.org/papers/v22/21-0120.html), for cheaper sources after Takeno et al. 2020 (doi 10.48550/arXiv.1901.08275).
    """
    std = std.clamp_min(1e-150).unsqueeze(-1)
    g = ((peaks.unsqueeze(-2) - mean.unsqueeze(-1)) / std).clamp(-1e8, 1e8)
    log_r = -0.5 * g.square() - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(g)
    log_q = log_r + (g + log_r.exp()).clamp_min(TINY).log()
    w = (
        g.square().clamp_min(900.0).reciprocal()
    )  # in the tail 1 - q is the difference of equals, and a series the better
    log_q = torch.where(g < -30.0, torch.log1p(-w * (1 - w * (6 - 50 * w))), log_q)
    share = (told.clamp_min(TINY).log().unsqueeze(-1) + log_q).clamp_max(-1e-12)
    nats = torch.where(share < -20.0, share, torch.log(-torch.log(-torch.expm1(share.clamp_min(-20.0)))))
    return torch.logsumexp(nats, -1) - math.log(2 * nats.shape[-1])


def average(log_gain: Float[Tensor, "W *b"]) -> Float[Tensor, "*b"]:
    """Log of the mean over draws of theta (Snoek et al. 2012, doi 10.48550/arXiv.1206.2944)."""
    return torch.logsumexp(log_gain, 0) - math.log(len(log_gain))
