"""What is predicted: mixtures of normals on a warped scale, of counts, and probabilities of classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bayestl.gaussian import mixture
from bayestl.likelihoods.base import normal_nodes
from bayestl.likelihoods.warps import Sqrt, Warp

WIDE = 64  # nodes for moments of warped and clipped normals
EVEN = [(i + 0.5) / 100 for i in range(100)]
LEVELS = [t * t * (3 - 2 * t) for t in EVEN]  # at which quantiles are taken for a pinball integral: closer in the tails
NODES = 48  # nodes for counts over their log rate
PEAK_STEPS = 12  # of Newton's method, to where a count and its rate meet
LARGEST = 690.0  # log of the largest rate
CACHED = 30_000  # numbers that a cache holds a few times
FEW = 512  # counts that are told one by one
TABLE = 20_000_000  # probabilities that a table of them may hold
SUPPORT = 64  # counts at which a distribution function is looked at


class Tails(NamedTuple):
    """Of the laws that components stand for: degrees of freedom, and the standard deviation of the whole law, without a warp."""

    freedom: Float[Tensor, "J 1"]
    std: Float[Tensor, "J m"]

    @classmethod
    def mixed(cls, laws: Sequence[NormalMixture]) -> Tails | None:
        """Those of several laws."""
        if all(law.tails is None for law in laws):
            return None
        each = [law.tails or cls(torch.full((len(law.mean), 1), torch.inf).double(), law.std) for law in laws]
        return cls(
            torch.cat([own.freedom for own in each]),
            torch.cat([law.scale * own.std for law, own in zip(laws, each, strict=True)]),
        )


@dataclass(frozen=True, eq=False)
class NormalMixture:
    """A number: ``y = clip(w^-1(location + scale z))``, z a mixture of normals (components first), or exactly zero.

    Attributes
    ----------
    mean, std, weight : of the components on the model's scale, (J, m); `weight` None means equal
    atom : (m,) probability of an exact zero, or None
    warp, bend : the scale on which z lives, and its parameter; `bend` a number, or (J, 1) where it was inferred
    lower, upper : (m,) limits beyond which the observable stays at the limit, or None
    tails : of laws with heavy tails, which a few normals describe where moments do not look
    """

    mean: Float[Tensor, "J m"]
    std: Float[Tensor, "J m"]
    location: float
    scale: float
    weight: Tensor | None = None
    atom: Float[Tensor, " m"] | None = None
    warp: Warp | None = None
    bend: Tensor | float = 0.0
    lower: Float[Tensor, " m"] | None = None
    upper: Float[Tensor, " m"] | None = None
    tails: Tails | None = None

    @classmethod
    def mixed(cls, laws: Sequence[NormalMixture], weight: Tensor) -> NormalMixture:
        """Mix several, in the units of the values: see `mixed`."""
        own, atom = _own_weights(laws, weight), laws[0].atom
        if atom is not None:
            atoms = [law.atom if law.atom is not None else torch.zeros_like(atom) for law in laws]
            atom = torch.stack([w * a for w, a in zip(weight, atoms, strict=True)]).sum(0)
            own = [part * (1 - a) / (1 - atom).clamp_min(1e-300) for part, a in zip(own, atoms, strict=True)]
        bend = laws[0].bend
        if any(isinstance(law.bend, Tensor) or law.bend != bend for law in laws):
            bend = torch.cat([torch.as_tensor(law.bend).double().expand(len(law.mean), 1) for law in laws])
        return dataclasses.replace(
            laws[0], mean=torch.cat([law.location + law.scale * law.mean for law in laws]),
            std=torch.cat([law.scale * law.std for law in laws]), location=0.0, scale=1.0, weight=torch.cat(own),
            atom=atom, bend=bend, tails=Tails.mixed(laws),
        )  # fmt: skip

    @property
    def latent(self) -> NormalMixture:
        """The same without its limits."""
        return dataclasses.replace(self, atom=None, lower=None, upper=None)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, infinite where tails are too heavy for them."""
        if self._plain:
            std = self.std if self.tails is None else self.tails.std
            centre, spread = mixture.moments(self.mean, std.square(), self.weight)
            return self.location + self.scale * centre, self.scale * spread
        if self.warp is None:
            low = -torch.inf if self.lower is None else (self.lower - self.location) / self.scale
            high = torch.inf if self.upper is None else (self.upper - self.location) / self.scale
            first, variance = mixture.clipped_moments(self.mean, self.std, low, high)
            first, variance = self.location + self.scale * first, self.scale**2 * variance
        else:
            nodes, weights = normal_nodes(WIDE)
            middle = self._user(self.mean, self.bend)
            first, square = torch.zeros_like(middle), torch.zeros_like(middle)
            for node, weight in zip(nodes, weights, strict=True):  # from the middle: no difference of large squares
                off = self._user(self.mean + node * self.std, self.bend) - middle
                first += weight * off
                square += weight * off.square()
            first, variance = middle + first, square - first.square()
        variance = torch.where(variance.isnan(), torch.inf, variance)  # of two infinite squares
        centre, spread = mixture.moments(first, variance.clamp_min(0.0), self.weight)
        if self.tails is not None:
            below, above = (1.0, 1.0) if self.warp is None else self.warp.growth(self.bend)
            below, above = 0.0 if self.lower is not None else below, 0.0 if self.upper is not None else above
            down, up = ((self.tails.freedom <= side).any(0) for side in (below, above))
            wide = ((self.tails.freedom <= 2 * below) | (self.tails.freedom <= 2 * above)).any(0)
            centre = centre.masked_fill(down, -torch.inf).masked_fill(up, torch.inf).masked_fill(down & up, torch.nan)
            spread = spread.masked_fill(wide, torch.inf)
        if self.atom is None:
            return centre, spread
        return (1 - self.atom) * centre, ((1 - self.atom) * (spread.square() + self.atom * centre.square())).sqrt()

    def quantiles(self, levels: Sequence[float]) -> Float[Tensor, "P m"]:
        """Quantiles, exactly; at an atom or a limit, its value."""
        wanted: Sequence[float] | Tensor = levels
        if self.atom is not None:
            given = torch.tensor(levels, dtype=self.mean.dtype)[:, None]
            wanted = ((given - self.atom) / (1 - self.atom).clamp_min(1e-12)).clamp(1e-12, 1 - 1e-12)
        if isinstance(self.bend, Tensor):
            found = self._between(torch.as_tensor(wanted, dtype=self.mean.dtype))
        else:
            found = self._user(mixture.quantiles(self.mean, self.std, wanted, self.weight), self.bend)
        if self.atom is not None:
            found = torch.where(given <= self.atom, 0.0, found)
        return found

    def cdf(self, y: Tensor) -> Float[Tensor, " m"]:
        """Probability of y or less."""
        inside = mixture.cdf(*self._at(y), self.weight)
        if self.atom is not None:
            inside = torch.where(y < 0, 0.0, self.atom + (1 - self.atom) * inside)
        if self.lower is not None:
            inside = torch.where(y < self.lower, 0.0, inside)
        if self.upper is not None:
            inside = torch.where(y >= self.upper, 1.0, inside)
        return inside

    def below(self, y: Tensor) -> Float[Tensor, " m"]:
        """Probability of less than y."""
        return self.cdf(y) - self.mass(y)

    def mass(self, y: Tensor) -> Float[Tensor, " m"]:
        """Probability of exactly y."""
        total = torch.zeros_like(self.mean[0])
        if isinstance(self.warp, Sqrt) and not isinstance(self.bend, Tensor):  # all that lies below on its scale
            total = torch.where(y == -self.bend, mixture.cdf(*self._at(y), self.weight), total)
        if self.atom is not None:
            total = torch.where(y == 0, self.atom, total)
        if self.lower is not None:
            total = torch.where(y == self.lower, mixture.cdf(*self._at(y), self.weight), total)
        if self.upper is not None:
            z, mean, std = self._at(y)
            total = torch.where(y == self.upper, mixture.cdf(-z, -mean, std, self.weight), total)
        return total

    def at_limits(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Probabilities of the lower limit, or of an exact zero, and of the upper limit."""
        none = torch.zeros_like(self.mean[0])
        lower = none if self.lower is None else self.mass(self.lower)
        return lower if self.atom is None else self.atom, none if self.upper is None else self.mass(self.upper)

    def log_density(self, y: Tensor) -> Float[Tensor, " m"]:
        """Log density of y in the user's units, or log probability where y is an atom, or at a limit or beyond it."""
        y = self.observable(y)
        z, mean, std = self._at(y)
        slope = torch.zeros_like(y)
        if self.warp is not None and isinstance(self.bend, Tensor):
            weight = 1 / len(mean) if self.weight is None else self.weight
            each = (
                mixture.log_normal(z - mean, std.square())
                + self.warp.log_slope(y, self.bend)
                + torch.as_tensor(weight).log()
            )
            out = torch.logsumexp(torch.where(z == -torch.inf, -torch.inf, each), 0) - math.log(self.scale)
        else:
            if self.warp is not None:
                slope = self.warp.log_slope(y, self.bend)
            out = mixture.log_density(z, mean, std, self.weight) + slope - math.log(self.scale)
            out = torch.where(z == -torch.inf, -torch.inf, out)  # outside the domain of the warp
        if self.atom is not None:
            out = out + (1 - self.atom).clamp_min(1e-300).log()
            out = torch.where(y == 0, self.atom.log(), out)
        if self.lower is not None or self.upper is not None:
            stuck = (y == self.lower) if self.lower is not None else torch.zeros_like(y, dtype=torch.bool)
            if self.upper is not None:
                stuck = stuck | (y == self.upper)
            out = torch.where(stuck, self.mass(y).clamp_min(1e-300).log(), out)
        return out

    def observable(self, y: Tensor) -> Tensor:
        """Y as far as it can be observed: no further than the limits."""
        y = y if self.lower is None else torch.maximum(y, self.lower)
        return y if self.upper is None else torch.minimum(y, self.upper)

    def crps(self, y: Tensor) -> Float[Tensor, " m"]:
        """Continuous ranked probability score: of a plain mixture from its components, else by its pinball integral."""
        if self._plain:
            return self.scale * mixture.crps((y - self.location) / self.scale, self.mean, self.std, self.weight)
        return pinball(y, self.quantiles(LEVELS))

    @property
    def _plain(self) -> bool:
        return self.warp is None and self.atom is None and self.lower is None and self.upper is None

    def _user(self, z: Tensor, bend: Tensor | float) -> Tensor:
        value = self.location + self.scale * z
        return self.observable(value if self.warp is None else self.warp.inverse(value, bend))

    def _at(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Y on the model's scale, and the components' means and deviations."""
        if self.warp is not None:
            y = self.warp.forward(y, self.bend)
            y = torch.where(y.isnan(), -torch.inf, y)  # below the domain
        return (y - self.location) / self.scale, self.mean, self.std

    def _between(self, levels: Float[Tensor, "P *m"]) -> Float[Tensor, "P m"]:
        """Quantiles where every component has a warp of its own: between the components' quantiles."""
        found = []
        levels = levels if levels.dim() > 1 else levels.unsqueeze(-1)
        for level in levels.expand(-1, self.mean.shape[1]):
            each = self._user(self.mean + torch.special.ndtri(level) * self.std, self.bend)
            found.append(bracketed(lambda y: mixture.cdf(*self._at(y), self.weight), level, each.amin(0), each.amax(0)))
        return torch.stack(found)


@dataclass(frozen=True, eq=False)
class AnyMixture:
    """Numbers predicted by laws of different make, in the proportions `weight` (K, #m): a warped one beside a plain one, say."""

    laws: Sequence[Any]
    weight: Float[Tensor, "K #m"]

    @property
    def latent(self) -> AnyMixture:
        """The same without limits; where all are hurdles if the value is positive, each as often as it says so."""
        weight = self.weight
        atoms: list[Any] = [getattr(law, "atom", None) for law in self.laws]
        if all(atom is not None for atom in atoms):
            weight = weight * (1 - torch.stack(atoms))
            weight = weight / weight.sum(0).clamp_min(1e-300)
        return AnyMixture([law.latent for law in self.laws], weight)

    def at_limits(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Probabilities of the lower limits, or of exact zeros, and of the upper limits."""
        lower, upper = zip(*(law.at_limits() for law in self.laws), strict=True)
        return self._average(list(lower)), self._average(list(upper))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        centres, spreads = zip(*(law.moments() for law in self.laws), strict=True)
        centre = self._average(list(centres))
        each = [(m - centre).square().nan_to_num(torch.inf) + s.square() for m, s in zip(centres, spreads, strict=True)]
        return centre, self._average(each).sqrt()

    def quantiles(self, levels: Sequence[float]) -> Float[Tensor, "P m"]:
        """Quantiles, which lie between those of the laws; at a value of probability mass, that value."""
        found = []
        for level in levels:
            each = [law.quantiles([level])[0] for law in self.laws]
            y = bracketed(self.cdf, torch.full_like(each[0], level), *torch.stack(each).aminmax(dim=0))
            for one in [*each, *self._lumps(y)]:
                upto, below = self.cdf(one), self.below(one)
                y = torch.where((below < level) & (level <= upto) & (below < upto), one, y)
            found.append(y)
        return torch.stack(found)

    def cdf(self, y: Tensor) -> Float[Tensor, " m"]:
        """Probability of y or less."""
        return self._average([law.cdf(y) for law in self.laws])

    def below(self, y: Tensor) -> Float[Tensor, " m"]:
        """Probability of less than y."""
        return self._average([law.below(y) for law in self.laws])

    def log_density(self, y: Tensor) -> Float[Tensor, " m"]:
        """Log density of y; at an atom or a limit of any of the laws its log probability, to which no density adds.

        The values of counts are a unit apart, so that their probabilities are densities.
        """
        each = torch.stack([w.log() + law.log_density(y) for w, law in zip(self.weight, self.laws, strict=True)])
        at = torch.stack(
            [law.mass(law.observable(y)) > 0 if isinstance(law, NormalMixture) else y < y for law in self.laws]
        )
        return torch.logsumexp(torch.where(at.any(0) & ~at, -torch.inf, each), 0)

    def crps(self, y: Tensor) -> Float[Tensor, " m"]:
        """Continuous ranked probability score, by its pinball integral."""
        return pinball(y, self.quantiles(LEVELS))

    def _lumps(self, y: Tensor) -> list[Tensor]:
        """Values near y that may have a probability."""
        found = [y.round(), torch.zeros_like(y)]
        limits = [limit for law in self.laws for limit in (getattr(law, "lower", None), getattr(law, "upper", None))]
        return found + [limit for limit in limits if limit is not None]

    def _average(self, values: list[Tensor]) -> Tensor:
        return torch.stack([w * value for w, value in zip(self.weight, values, strict=True)]).sum(0)


@dataclass(frozen=True, eq=False)
class CountMixture:
    """A count with log rate ``N(mean, std^2)`` (components first), Poisson or, with `shape`, negative binomial."""

    mean: Float[Tensor, "J m"]
    std: Float[Tensor, "J m"]
    shape: Float[Tensor, "J 1"] | None = None
    weight: Tensor | None = None

    @classmethod
    def mixed(cls, laws: Sequence[CountMixture], weight: Tensor) -> CountMixture:
        """Mix several: see `mixed`."""
        shapes = [law.shape.expand(len(law.mean), 1) for law in laws if law.shape is not None]
        return cls(
            torch.cat([law.mean for law in laws]), torch.cat([law.std for law in laws]),
            torch.cat(shapes) if shapes else None, torch.cat(_own_weights(laws, weight)),
        )  # fmt: skip

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        rate = torch.exp(self.mean + 0.5 * self.std.square())
        square = torch.exp(2 * self.mean + 2 * self.std.square())
        extra = 0.0 if self.shape is None else square / self.shape
        centre = mixture.average(rate, self.weight)
        spread = (mixture.average(rate + square + extra, self.weight) - centre.square()).clamp_min(0.0).sqrt()
        return centre, torch.where(centre.isfinite() & ~spread.isnan(), spread, torch.inf)

    def cdf(self, y: Tensor) -> Float[Tensor, " m"]:
        """Probability of y or less."""
        k = torch.floor(y)
        safe = k.clamp_min(0.0)
        few, table = self._few
        told = few & (safe < len(table))
        found = table.gather(0, torch.where(told, safe, 0.0).long().expand(1, -1))[0]
        if not told.all():
            rest = ~told
            law, at = self._of(rest), safe.expand_as(found)[rest]
            each = law._poisson_cdf(at) if law.shape is None else law._negative_binomial_cdf(at, law.shape)
            found = found.masked_scatter(rest, mixture.average(each, law.weight))
        return torch.where(k < 0, 0.0, found)

    def _of(self, rows: Tensor) -> CountMixture:
        """The law of some of the rows."""
        weight = self.weight
        if weight is not None and weight.shape[-1] > 1:
            weight = weight[:, rows]
        return CountMixture(self.mean[:, rows], self.std[:, rows], self.shape, weight)

    def _poisson_cdf(self, k: Tensor) -> Float[Tensor, "J m"]:
        """Of every component: ``P(Poisson(l) <= k) = P(l < g)``, g of Gamma(k + 1), the wider of l and g by its exact law.

        Nodes are of the other, over which that law is smooth.
        """
        narrow = self.std * (k + 1).sqrt() < 1
        found = torch.zeros_like(self.mean)
        if narrow.any():
            nodes, weights = normal_nodes(NODES // 3)
            for node, weight in zip(nodes, weights, strict=True):
                rate = torch.exp((self.mean + node * self.std).clamp_max(LARGEST))
                found += weight * torch.special.gammaincc((k + 1).expand_as(rate), rate)
        if narrow.all():
            return found
        wide = torch.zeros_like(self.mean)
        for log_g, weight in zip(*_log_gamma_nodes(k + 1), strict=True):
            wide += weight * mixture.normal_cdf((log_g - self.mean) / self.std.clamp_min(1e-150))
        return torch.where(narrow, found, wide)

    @cached_property
    def _few(self) -> tuple[Bool[Tensor, " m"], Float[Tensor, "K m"]]:
        """Rows whose law is nearly all among a few counts, and their probabilities of 0, 1, 2, ... or less.

        By ``P(k + 1) = P(k) rate / (k + 1)``, or ``P(k) (k + shape) / (k + 1) rate / (rate + shape)``, a hundred times faster
        than an incomplete gamma or beta function for each.
        """
        centre, spread = self.moments()
        most = centre + 12 * spread
        few = most < min(FEW, TABLE // max(1, len(most)))
        if not few.any():
            return few, torch.zeros(1, len(most), dtype=self.mean.dtype)
        count = max(32, math.ceil(float(most[few].max())))
        below = torch.zeros(count, self.mean.shape[-1], dtype=self.mean.dtype)
        own = (
            torch.full_like(self.mean, 1 / len(self.mean)) if self.weight is None else self.weight.expand_as(self.mean)
        )
        shape = self.shape
        for part in most.argsort()[: int(few.sum())].split(max(1, CACHED // len(self.mean))):
            law = self._of(part)
            for rate, weight in law._rates(most[part].max()):
                factor, first = (
                    (rate, -rate) if shape is None else (rate / (shape + rate), -shape * torch.log1p(rate / shape))
                )
                chance = weight * own[:, part] * first.exp()
                high = float(rate.max())
                for k in range(len(below)):
                    total = chance.sum(0)
                    below[k, part] += total
                    if k > high and k % 8 == 0 and float(total.max()) < 1e-16:
                        break
                    chance.mul_(factor).mul_(1 / (k + 1) if shape is None else (k + shape) / (k + 1))
        return few, below.cumsum(0)

    def _rates(self, k: Tensor) -> Iterator[tuple[Float[Tensor, "J m"], Tensor]]:
        """Rates at nodes of every component, and their weights, for the probabilities of counts to k.

        These change over ``w^2 = min(1 / (k + 1) + 1 / shape, 1)`` of the log rate. Where its normal is wider, the trapezium
        rule in steps of ``std / sqrt(1 + std^2 / w^2)`` is off by ``exp(-2 pi^2)``.
        """
        width = 1 / (k + 1) if self.shape is None else 1 / (k + 1) + 1 / self.shape
        ratio = float((self.std.square() / width.clamp_max(1.0)).max())
        if ratio < 1:
            nodes, weights = normal_nodes(NODES // 3)
        else:
            nodes = torch.linspace(-8, 8, min(1000, math.ceil(16 * math.sqrt(1 + ratio))), dtype=torch.float64)
            weights = torch.softmax(-0.5 * nodes.square(), 0)
        for node, weight in zip(nodes, weights, strict=True):
            yield torch.exp((self.mean + node * self.std).clamp_max(LARGEST)), weight

    def _negative_binomial_cdf(self, k: Tensor, shape: Tensor) -> Float[Tensor, "J m"]:
        """Of every component."""
        found = torch.zeros_like(self.mean)
        for rate, weight in self._rates(k):
            found += weight * torch.from_numpy(
                np.asarray(scipy.special.betainc(shape.numpy(), k.numpy() + 1, (shape / (shape + rate)).numpy()))
            )
        return found

    def below(self, y: Tensor) -> Float[Tensor, " m"]:
        """Probability of less than y."""
        return self.cdf(torch.ceil(y) - 1)

    def log_density(self, y: Tensor) -> Float[Tensor, " m"]:
        """Log probability of y: nodes around the peak of what is integrated, which is narrow where counts are large."""
        sd = self.std.clamp_min(1e-9)
        weigh = y + 0.5
        u = (self.mean / sd.square() + weigh * weigh.log()) / (1 / sd.square() + weigh)
        for _ in range(PEAK_STEPS):
            slope, bend = count_slopes(y, u, self.shape)
            u = u + ((slope - (u - self.mean) / sd.square()) / (bend + 1 / sd.square())).clamp(-2.0, 2.0)
        width = (count_slopes(y, u, self.shape)[1] + 1 / sd.square()).rsqrt()
        own = torch.tensor(1 / len(self.mean), dtype=torch.float64) if self.weight is None else self.weight
        nodes, weights = normal_nodes(NODES // 3)
        each = torch.stack(
            [
                log_count(y, u + node * width, self.shape) + mixture.log_normal(u + node * width - self.mean, sd.square())
                + width.log() + 0.5 * (node.square() + math.log(2 * math.pi)) + weight.log() + own.log()
                for node, weight in zip(nodes, weights, strict=True)
            ]
        )  # fmt: skip
        return torch.logsumexp(each.flatten(0, 1), 0)

    def quantiles(self, levels: Sequence[float]) -> Float[Tensor, "P m"]:
        """Smallest count whose probability of it or less reaches the level: by bisection over the integers."""
        rates = mixture.quantiles(self.mean, self.std, levels, self.weight).clamp_max(LARGEST).exp()
        found = []
        for level, rate in zip(levels, rates, strict=True):
            low, high = torch.full_like(rate, -1.0), torch.ceil(rate)
            while (short := (self.cdf(high) < level) & (high < math.exp(LARGEST))).any():
                low, high = torch.where(short, high, low), torch.where(short, 2 * high + 1, high)
            while (high - low > (1e-12 * high).clamp_min(1.0)).any():
                # Halfway on a scale that is linear near zero, logarithmic far out: rates may span a hundred orders.
                middle = torch.floor(torch.sinh((torch.asinh(low) + torch.asinh(high)) / 2))
                middle = torch.maximum(torch.minimum(middle, high - 1), low + 1)
                enough = self.cdf(middle) >= level
                low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
            found.append(high)
        return torch.stack(found)

    def crps(self, y: Tensor) -> Float[Tensor, " m"]:
        """Continuous ranked probability score, ``sum_k (F(k) - 1[k >= y])^2``: every k of a few, some of many."""
        few, table = self._few
        k = torch.arange(len(table), dtype=y.dtype)[:, None]
        found = (table - (k >= y).to(y.dtype)).square().sum(0) + (y - len(table)).clamp_min(0.0)
        if not few.all():
            rest = ~few
            found = found.masked_scatter(rest, self._of(rest)._crps_of_many(y[rest]))
        return found

    def _crps_of_many(self, y: Tensor) -> Float[Tensor, " m"]:
        """By counts that lie even in the law and, logarithmically, from it to y, in straight lines between them."""
        low, high = self.quantiles([1e-4, 1 - 1e-4])
        step = torch.linspace(0, 1, SUPPORT, dtype=y.dtype)[:, None]
        far = torch.asinh(torch.stack([torch.minimum(low, y) - 1, torch.maximum(high, y) + 1]))
        k = torch.cat([low + step * (high - low), torch.sinh(far[0] + step * (far[1] - far[0])), y[None] - 1, y[None]])
        k = torch.floor(k).sort(0).values
        k = k[torch.cat([torch.tensor([True]), (k.diff(dim=0) > 0).any(-1)])]  # those that repeat add nothing
        under, gap = torch.stack([self.cdf(at) for at in k]), k.diff(dim=0)
        a, rise = (under - (k >= y).to(y.dtype))[:-1], under.diff(dim=0)
        # sum over j < gap of (a + j rise / gap)^2
        return (gap * a.square() + (gap - 1) * rise * (a + rise * (2 * gap - 1) / (6 * gap).clamp_min(1.0))).sum(0)


@dataclass(frozen=True, eq=False)
class Classes:
    """Probabilities (m, K) of the classes."""

    probability: Float[Tensor, "m K"]

    @classmethod
    def mixed(cls, laws: Sequence[Classes], weight: Tensor) -> Classes:
        """Mix several: see `mixed`."""
        return cls(torch.stack([w.unsqueeze(-1) * law.probability for w, law in zip(weight, laws, strict=True)]).sum(0))

    def log_density(self, y: Tensor) -> Float[Tensor, " m"]:
        """Log probability of the class with code y."""
        return self.probability.gather(-1, y.long().unsqueeze(-1)).squeeze(-1).clamp_min(1e-300).log()

    def brier(self, y: Tensor) -> Float[Tensor, " m"]:
        """``sum_k (p_k - 1[y = k])^2``."""
        seen = torch.nn.functional.one_hot(y.long(), self.probability.shape[-1])
        return (self.probability - seen).square().sum(-1)


Predictive = NormalMixture | CountMixture | Classes | AnyMixture


def mixed(laws: Sequence[Any], weight: Float[Tensor, "K #m"]) -> Any:
    """Mix laws of the same observations, with weights that sum to one, the same for all observations or each its own."""
    alike = isinstance(laws[0], Classes | NormalMixture | CountMixture) and all(
        _alike(laws[0], law) for law in laws[1:]
    )
    return type(laws[0]).mixed(laws, weight) if alike else AnyMixture(laws, weight)


def _alike(a: Any, b: Any) -> bool:
    """Whether two laws differ in their components alone."""
    if type(a) is not type(b) or isinstance(a, Classes):
        return type(a) is type(b)
    if isinstance(a, CountMixture):
        return (a.shape is None) == (b.shape is None)
    limits = ((a.lower, b.lower), (a.upper, b.upper))
    same = all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in limits)
    return same and a.warp == b.warp and (a.atom is None) == (b.atom is None)


def _own_weights(laws: Sequence[Any], weight: Tensor) -> list[Tensor]:
    """Weights (J_k, m) of the components of each law within the mixture of laws."""
    return [
        (
            w
            * (
                torch.full((len(law.mean), 1), 1 / len(law.mean), dtype=torch.float64)
                if law.weight is None
                else law.weight
            )
        ).expand_as(law.mean)
        for w, law in zip(weight, laws, strict=True)
    ]


def log_count(y: Tensor, log_rate: Tensor, shape: Tensor | None) -> Tensor:
    """Log probability of a count: Poisson, or negative binomial with variance ``rate + rate^2 / shape``."""
    constant = torch.lgamma(y + 1)
    if shape is None:
        return y * log_rate - torch.exp(log_rate) - constant
    log_total = torch.logaddexp(shape.log(), log_rate)
    return (
        torch.lgamma(y + shape) - torch.lgamma(shape) - constant
        + shape * (shape.log() - log_total) + y * (log_rate - log_total)
    )  # fmt: skip


def count_slopes(y: Tensor, log_rate: Tensor, shape: Tensor | None) -> tuple[Tensor, Tensor]:
    """Slope of `log_count` in the log rate, and minus its curvature."""
    rate = torch.exp(log_rate.clamp_max(LARGEST))
    if shape is None:
        return y - rate, rate
    share = rate / (shape + rate)
    return y - (y + shape) * share, (y + shape) * share * (1 - share)


def _log_gamma_nodes(shape: Float[Tensor, " m"], count: int = 32) -> tuple[Tensor, Tensor]:
    """Logarithms (count, m) of equally probable stretches of a gamma law, and their weights."""
    x, w = np.polynomial.legendre.leggauss(count)
    level = (x[:, None] + 1) / 2
    with np.errstate(all="ignore"):
        exact = np.log(scipy.special.gammaincinv(shape.numpy(), level))
    large = np.log(shape.numpy()) + scipy.special.ndtri(level) / np.sqrt(shape.numpy())
    return torch.from_numpy(np.where(shape.numpy() < 1e8, exact, large)), torch.from_numpy(w / 2)


def bracketed(cdf: Callable[[Tensor], Tensor], level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The level's quantile, the least value of no smaller probability, which lies between two: to a part in 10^15 of their least.

    By Chandrupatla's method (1997, doi 10.1016/S0965-9978(96)00051-8), which interpolates where the function bends little and
    halves the bracket where it does not, on a scale that is linear about the smaller end and logarithmic beyond: heavy
    tails reach far.
    """
    size = torch.minimum(low.abs(), high.abs()).clamp_min(1e-300) + 1e-12 * (high - low).clamp_max(1.0)

    def beyond(t: Tensor) -> Tensor:
        excess = cdf(size * torch.sinh(t)) - level
        return torch.where(excess < 0, excess, excess.clamp_min(1e-300))  # where it is met, look to the left

    start, end = (torch.asinh((end / size).clamp(-1e300, 1e300)) for end in (low, high))
    a, b, c = end, start, start
    at_a, at_b = beyond(a), beyond(b)
    found = torch.where(at_b > 0, start, end)  # where the ends are one, but for rounding
    inside = (at_b < 0) & (at_a > 0)
    at_c, share = at_b, torch.full_like(a, 0.5)
    for _ in range(150):
        new = a + share * (b - a)
        at_new = beyond(new)
        same = (at_new < 0) == (at_a < 0)
        c, at_c = torch.where(same, a, b), torch.where(same, at_a, at_b)
        b, at_b = torch.where(same, b, a), torch.where(same, at_b, at_a)
        a, at_a = new, at_new
        least = 4e-16 * a.abs() + 1e-16
        if not (inside & ((b - a).abs() > 2 * least)).any():
            break
        xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
        quadratic = at_a / (at_b - at_a) * at_c / (at_b - at_c)
        quadratic = quadratic + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
        share = torch.where((phi.square() < xi) & ((1 - phi).square() < 1 - xi), quadratic, 0.5).nan_to_num(0.5)
        edge = (least / (b - a).abs()).nan_to_num(0.5).clamp_max(0.5)
        share = torch.maximum(torch.minimum(share, 1 - edge), edge)
    return size * torch.sinh(torch.where(inside, torch.maximum(a, b), found))


def pinball(y: Tensor, found: Float[Tensor, "P m"]) -> Float[Tensor, " m"]:
    """``2 int (1[y < Q(p)] - p)(Q(p) - y) dp``, the ranked probability score of the quantile function Q, found at `LEVELS`.

    With ``p = t^2 (3 - 2 t)`` and the midpoint rule in t, so that heavy tails are not missed.
    """
    t = torch.tensor(EVEN, dtype=y.dtype)[:, None]
    p, weight = torch.tensor(LEVELS, dtype=y.dtype)[:, None], t * (1 - t)
    return 2 * (weight * ((y < found).to(y.dtype) - p) * (found - y)).sum(0) / weight.sum()
