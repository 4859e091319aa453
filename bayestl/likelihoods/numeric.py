"""Numbers: normal, heavy-tailed, censored, and zero-or-positive."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayestl import priors
from bayestl.errors import RowsError, listed
from bayestl.gaussian.mixture import log_normal
from bayestl.likelihoods.base import Likelihood, Parameters, Part, Rows, normal_nodes
from bayestl.likelihoods.classes import Bernoulli
from bayestl.likelihoods.predictive import NormalMixture, Tails
from bayestl.likelihoods.warps import Softplus, Warp, warped
from bayestl.priors import Theta

OUT, FEW = 10.0, 0.1  # interquartile ranges, and the share of rows beyond them that may be outliers
LONGEST = 150.0  # of the grid of precisions beyond the usual, in its units
NOISE_FLOOR = 1e-6  # variance, in standardised units: a thousandth of the task's spread


@dataclass(frozen=True)
class _Numeric(Likelihood):
    """What normal, Student-t and censored observations have in common: a warp, a noise, and known errors."""

    warp: Warp | None = None
    noisy = True

    def __post_init__(self) -> None:
        if self.warp is not None and not isinstance(self.warp, Warp):
            raise ValueError(f"`warp` must be a scale such as btl.Log(); got {self.warp!r}.")

    def check(self, values: NDArray[np.float64], details: NDArray[np.float64], task: str) -> None:
        if self.warp is not None:
            self.warp.check(values, task)

    def resolve(
        self, values: NDArray[np.float64], details: NDArray[np.float64], task: str, levels: Sequence[Any] | None
    ) -> Likelihood:
        return self if self.warp is None else dataclasses.replace(self, warp=self.warp.resolve(values, task))

    def working(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return warped(self.warp, values)

    def prior(self, task: str) -> Theta:
        if self.warp is None or (law := self.warp.prior()) is None:
            return {}
        site = f"{task}.{self.warp.parameter}"
        return {site: pyro.sample(site, law)}

    def standardised(self, rows: Rows, p: Parameters) -> tuple[Tensor, Tensor]:
        if self.warp is None:
            return (rows.y - rows.location) / rows.scale, -rows.scale.log().expand(len(rows.y))
        at = self.bend(p)
        z = (self.warp.forward(rows.y, at) - rows.location) / rows.scale
        return z, self.warp.log_slope(rows.y, at) - rows.scale.log()

    def bend(self, p: Parameters) -> Tensor | float:
        """The warp's parameter: fixed, or of each draw."""
        return 0.0 if self.warp is None else p.get(self.warp.parameter, self.warp.usual)

    def noise_variance(self, rows: Rows, p: Parameters) -> Tensor:
        """Variance of each observation's noise, standardised: the known error's, or the task's inferred one."""
        inferred = p["noise"].square()
        known = self.known(rows, p).square()
        return torch.where(known.isnan(), inferred, known) + NOISE_FLOOR

    def known(self, rows: Rows, p: Parameters) -> Tensor:
        """Known errors on the model's scale, (R,) or (S, R), NaN where unknown; on a warped scale to first order."""
        error = rows.error.nan_to_num() / rows.scale  # a NaN would spread to the gradient of the warp's parameter
        if self.warp is not None:
            error = error * self.warp.log_slope(rows.y, self.bend(p)).exp()
        # At an end of the scale, as of a zero, it says nothing.
        return torch.where(rows.error.isnan() | ~error.isfinite(), torch.nan, error)

    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        y, slope = self.standardised(rows, p)
        variance = self.noise_variance(rows, p)
        return log_normal(y - f, variance) + slope

    def predictive(self, mean: Tensor, cov: Tensor, noise: Tensor | None, rows: Rows, p: Parameters) -> NormalMixture:
        variance = cov[..., 0, 0] if noise is None else cov[..., 0, 0] + noise
        return NormalMixture(
            mean[..., 0], variance.clamp_min(0.0).sqrt(), float(rows.location[0]), float(rows.scale[0]),
            warp=self.warp, bend=self.bend(p),
        )  # fmt: skip

    def draw(self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator) -> Tensor:
        z = f[..., 0]
        if noise is not None:
            z = z + noise.sqrt() * self._standard(z, p, generator)
        value = rows.location + rows.scale * z
        return value if self.warp is None else self.warp.inverse(value, self.bend(p))

    def _standard(self, like: Tensor, p: Parameters, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)


@dataclass(frozen=True)
class Gaussian(_Numeric):
    """``w(y) = f + e``, ``e ~ N(0, noise^2)``, or ``N(0, error^2)`` where the error of a row is known.

    Parameters
    ----------
    warp : `Log`, `Sqrt`, `Softplus` or `YeoJohnson`: the scale on which f lives; by default the values' own
    excess : add the inferred noise to known errors also, where they are thought to be too small
    """

    excess: bool = False
    exact = True

    def noise_variance(self, rows: Rows, p: Parameters) -> Tensor:
        if not self.excess:
            return super().noise_variance(rows, p)
        return p["noise"].square() + self.known(rows, p).nan_to_num().square() + NOISE_FLOOR


@dataclass(frozen=True)
class StudentT(_Numeric):
    """``w(y) = f + noise t``, t of Student's law with ``degrees`` of freedom: outliers are noise, not signal.

    The inferred degrees have the prior ``2 + LogNormal(log 3, 1)``: outliers of hundreds of deviations and nearly normal noise
    are both within two deviations, and the variance exists. With degrees of two or less, which may be given, the standard
    deviation is infinite, and so are on a bent scale moments that its tails are too heavy for (on `Log` the mean itself, for
    that of exp(t) is): medians and quantiles exist always. A known error of a row takes the place of its noise.

    Parameters
    ----------
    warp : as of `Gaussian`
    degrees : fixed degrees of freedom, above 1; None infers them
    """

    degrees: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degrees is not None and not self.degrees > 1:
            raise ValueError(f"`degrees` must be above 1; got {self.degrees}.")

    def prior(self, task: str) -> Theta:
        theta = super().prior(task)
        if self.degrees is None:
            site = f"{task}.degrees"
            theta[site] = 2.0 + pyro.sample(f"{site}_above_two", priors.log_normal(math.log(3.0), 1.0))
            pyro.deterministic(site, theta[site])
        return theta

    def working(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values on the working scale, without those ten interquartile ranges off: they are not what a scale is learned from.

        Unless these are more than a tenth: then most values lie on a plateau, and the others are what there is to learn.
        """
        found = super().working(values)
        if len(found) == 0:
            return found
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
        usual = np.abs(found - middle) <= OUT * (high - low)
        return found[usual] if high > low and (~usual).sum() <= max(1, FEW * len(found)) else found

    def freedom(self, p: Parameters) -> Tensor:
        """Degrees of freedom."""
        return p["degrees"] if self.degrees is None else torch.tensor(float(self.degrees), dtype=torch.float64)

    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        y, slope = self.standardised(rows, p)
        variance, nu = self.noise_variance(rows, p), self.freedom(p)
        size = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * (nu * math.pi * variance).log()
        return size - (nu + 1) / 2 * torch.log1p((y - f).square() / (nu * variance)) + slope

    def predictive(self, mean: Tensor, cov: Tensor, noise: Tensor | None, rows: Rows, p: Parameters) -> NormalMixture:
        plain = super().predictive(mean, cov, None, rows, p)
        if noise is None:
            return plain
        # t is a normal whose precision is Gamma(nu/2, nu/2): the trapezium rule in its logarithm, whose width goes with nu.
        # A value r deviations off is told by precisions about r^-2: as far as it needs, where it was measured, nodes go on; those
        # that only other rows need have no weight.
        nu = self.freedom(p).expand(len(mean), 1)
        narrow = (1 + nu / 8).rsqrt()
        off = (self.standardised(rows, p)[0] - mean[..., 0]).square() / noise
        further = (off.nan_to_num(0.0, 0.0, 0.0).clamp_min(1.0).log() / narrow).amax(0).clamp_max(LONGEST).ceil()  # (m)
        steps = torch.arange(-20.0 - float(further.max()), 3.5, 0.5, dtype=torch.float64)
        needed = steps.unsqueeze(-1) >= -20.0 - further  # (nodes, m)
        u = (steps * narrow).unsqueeze(-1)  # (S, nodes, 1)
        log_weight = torch.where(needed, 0.5 * nu.unsqueeze(-1) * (u - u.exp()), -torch.inf)
        weight = torch.softmax(log_weight, 1) / len(mean)
        precision = torch.where(needed, u, -20.0 * narrow.unsqueeze(-1)).exp()  # (S, nodes, m)
        own, noise = cov[..., 0, 0].unsqueeze(1), noise.unsqueeze(1)
        count, m = len(steps), mean.shape[1]

        def each(of_draws: Tensor) -> Tensor:
            return of_draws.expand(len(mean), *of_draws.shape[1:]).repeat_interleave(count, 0)

        whole = own + noise * torch.where(nu > 2, nu / (nu - 2).clamp_min(1e-12), torch.inf).unsqueeze(-1)
        return dataclasses.replace(
            plain, mean=each(mean[..., 0]), std=(own + noise / precision).reshape(-1, m).sqrt(), weight=weight.reshape(-1, m),
            bend=each(plain.bend) if isinstance(plain.bend, Tensor) else plain.bend,
            tails=Tails(each(nu), each(whole.squeeze(1).sqrt())),
        )  # fmt: skip

    def _standard(self, like: Tensor, p: Parameters, generator: torch.Generator) -> Tensor:
        nu = self.freedom(p).expand(len(like), 1)
        normal = super()._standard(like, p, generator)
        half = (0.5 * nu).expand_as(like)
        gamma = torch._standard_gamma(half, generator=generator) / half
        return normal / gamma.sqrt()


@dataclass(frozen=True)
class Censored(_Numeric):
    """``y = min(max(w^-1(f + e), lower), upper)``, ``e ~ N(0, noise^2)``: values at a limit are only known to lie beyond it.

    Tobin 1958 (doi 10.2307/1907382). Rows strictly between the limits are normal observations, and exact.

    Parameters
    ----------
    lower, upper : a number, for all rows; or the name of a column that holds the limit of each row (empty: no limit). A value
        at its limit, or beyond, is censored, and held as the limit
    warp : as of `Gaussian`
    """

    warp: Warp | None = None
    lower: float | str | None = None
    upper: float | str | None = None

    def __init__(
        self, lower: float | str | None = None, upper: float | str | None = None, warp: Warp | None = None
    ) -> None:
        if lower is None and upper is None:
            raise ValueError("Censored needs `lower`, `upper` or both: a number, or the name of a column.")
        for name, limit in (("lower", lower), ("upper", upper)):
            if not isinstance(limit, str | numbers.Real | None):
                raise ValueError(f"`{name}` must be a number or the name of a column; got {limit!r}.")
            object.__setattr__(self, name, float(limit) if isinstance(limit, numbers.Real) else limit)
        if isinstance(self.lower, float) and isinstance(self.upper, float) and not self.lower < self.upper:
            raise ValueError(f"`lower` must be below `upper`; got {self.lower:g} and {self.upper:g}.")
        object.__setattr__(self, "warp", warp)
        self.__post_init__()

    def columns(self) -> tuple[str | None, str | None]:
        return (
            self.lower if isinstance(self.lower, str) else None,
            self.upper if isinstance(self.upper, str) else None,
        )

    def constants(self) -> tuple[float, float]:
        return (
            self.lower if isinstance(self.lower, float) else math.nan,
            self.upper if isinstance(self.upper, float) else math.nan,
        )

    def resolve(
        self, values: NDArray[np.float64], details: NDArray[np.float64], task: str, levels: Sequence[Any] | None
    ) -> Likelihood:
        self.check(values, details, task)
        return super().resolve(_clipped(values, details), details, task, levels)

    def check(self, values: NDArray[np.float64], details: NDArray[np.float64], task: str) -> None:
        self.check_details(details, task)
        super().check(_clipped(values, details), details, task)

    def check_details(self, details: NDArray[np.float64], task: str) -> None:
        if (odd := details[:, 0] >= details[:, 1]).any():
            raise RowsError(f"Task {task!r}: the lower limit must be below the upper one in every row.", odd)

    def observed(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.float64]:
        return _clipped(values, details)

    def atomic(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (values <= details[:, 0]) | (values >= details[:, 1])

    def limits(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Limits of every row in the user's units, infinite where there are none."""
        low, high = rows.details.unbind(-1)
        return low.nan_to_num(-math.inf), high.nan_to_num(math.inf)

    def parts(self, rows: Rows) -> list[Part]:
        low, high = self.limits(rows)
        stuck = (rows.y <= low) | (rows.y >= high)
        found = []
        if (~stuck).any():
            found.append(Part(Gaussian(self.warp), (~stuck).nonzero().squeeze(-1)))
        if stuck.any():
            found.append(Part(self, stuck.nonzero().squeeze(-1)))
        return found

    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        low, high = self.limits(rows)
        below = rows.y <= low
        limit, _ = self.standardised(rows._replace(y=torch.where(below, low, high)), p)
        z = (limit - f) / self.noise_variance(rows, p).sqrt()
        return torch.special.log_ndtr(torch.where(below, z, -z))

    def predictive(self, mean: Tensor, cov: Tensor, noise: Tensor | None, rows: Rows, p: Parameters) -> NormalMixture:
        low, high = self.limits(rows)
        return dataclasses.replace(super().predictive(mean, cov, noise, rows, p), lower=low, upper=high)

    def draw(self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator) -> Tensor:
        low, high = self.limits(rows)
        return torch.minimum(torch.maximum(self.draw_latent(f, noise, rows, p, generator), low), high)

    def draw_latent(
        self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator
    ) -> Tensor:
        return super().draw(f, noise, rows, p, generator)


@dataclass(frozen=True)
class Hurdle(Likelihood):
    """Exactly zero, or positive: ``P(y > 0) = sigmoid(g)``, and where it is, y follows `positive` with a function of its own.

    Cragg 1971 (doi 10.2307/1909582). The band gap of a metal is not a small gap: whether there is one and how large it is are
    two functions, both shared with other tasks.

    Parameters
    ----------
    positive : `Gaussian` or `StudentT` with a warp onto the positive numbers; by default ``Gaussian(Softplus())``
    """

    positive: Gaussian | StudentT = field(default_factory=lambda: Gaussian(Softplus()))
    noisy = True

    def __post_init__(self) -> None:
        inner = self.positive
        if not isinstance(inner, Gaussian | StudentT) or inner.warp is None or not inner.warp.positive:
            raise ValueError(
                "`positive` must be Gaussian or StudentT on a scale of positive numbers, Gaussian(btl.Softplus()) for instance; "
                f"got {self.positive!r}, which allows others."
            )

    def functions(self, levels: Sequence[Any] | None) -> tuple[str, ...]:
        return ("positive", "")

    def resolve(
        self, values: NDArray[np.float64], details: NDArray[np.float64], task: str, levels: Sequence[Any] | None
    ) -> Likelihood:
        self.check(values, details, task)
        if not (values > 0).any():  # as in a part of a large table; of a whole one `scaling` refuses it
            return self
        positive = self.positive.resolve(values[values > 0], details[values > 0], task, levels)
        assert isinstance(positive, Gaussian | StudentT)
        return dataclasses.replace(self, positive=positive)

    def check(self, values: NDArray[np.float64], details: NDArray[np.float64], task: str) -> None:
        if (odd := values < 0).any():
            raise RowsError(
                f"Hurdle needs values of zero or more; task {task!r} holds {listed(values[odd].tolist(), 3)}.", odd
            )
        self.positive.check(values[values > 0], details[values > 0], task)

    def atomic(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.bool_]:
        return values == 0

    def working(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.positive.working(values[values > 0])

    def anchor(
        self, values: NDArray[np.float64], details: NDArray[np.float64], levels: Sequence[Any] | None
    ) -> tuple[list[float], list[float]]:
        return Bernoulli().anchor((values > 0).astype(float), details, None)

    def prior(self, task: str) -> Theta:
        return self.positive.prior(task)

    def parts(self, rows: Rows) -> list[Part]:
        above = rows.y > 0
        found = [Part(Gate(), torch.arange(len(rows.y)), (0,))]
        if above.any():
            found.append(Part(self.positive, above.nonzero().squeeze(-1), (1,)))
        return found

    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        gate = Gate().log_density(f[..., 0], rows.of([0]), p)
        size = self.positive.log_density(f[..., 1], rows.of([1]), p)
        return gate + torch.where(rows.y > 0, size, 0.0)

    def predictive(self, mean: Tensor, cov: Tensor, noise: Tensor | None, rows: Rows, p: Parameters) -> NormalMixture:
        # Given theta the gate and the size are jointly normal: for every node of the gate, the size is normal still.
        nodes, weights = normal_nodes(32)
        draws = len(mean)
        gate_sd = cov[..., 0, 0].clamp_min(1e-24).sqrt()
        gain = cov[..., 0, 1] / gate_sd
        gate = torch.cat([mean[..., 0] + node * gate_sd for node in nodes])  # (nodes * S, m)
        gate, share = rows.location[0] + rows.scale[0] * gate, weights.repeat_interleave(draws)[:, None] / draws
        odds, zero = torch.sigmoid(gate) * share, (torch.sigmoid(-gate) * share).sum(0)
        centre = torch.cat([mean[..., 1] + node * gain for node in nodes])
        left = (cov[..., 1, 1] - gain.square()).clamp_min(1e-12).repeat(len(nodes), 1)
        above = odds.sum(0).clamp_min(1e-300)

        def repeat(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.expand(draws, *value.shape[1:]).repeat(len(nodes), 1)

        spread = {name: repeat(value) if value.shape[0] == draws else value for name, value in p.items()}
        inner = self.positive.predictive(
            centre.unsqueeze(-1),
            left[..., None, None],
            repeat(noise),
            rows.of([1]),
            spread,  # type: ignore[arg-type]
        )
        share = odds / above
        if inner.weight is not None:  # the nodes of a Student-t
            each = len(inner.mean) // len(centre)
            share = share.repeat_interleave(each, 0) * inner.weight * len(centre)
        return dataclasses.replace(inner, weight=share, atom=zero)

    def draw(self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator) -> Tensor:
        size, chance = self.draw_latent(f, noise, rows, p, generator), self.shown(f, rows)
        return torch.where(torch.rand(chance.shape, dtype=chance.dtype, generator=generator) < chance, size, 0.0)

    def shown(self, f: Tensor, rows: Rows) -> Tensor:
        return torch.sigmoid(rows.location[0] + rows.scale[0] * f[..., 0])

    def draw_latent(
        self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator
    ) -> Tensor:
        return self.positive.draw(f[..., 1:], noise, rows.of([1]), p, generator)


@dataclass(frozen=True)
class Gate(Bernoulli):
    """Whether a value is positive."""

    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        return super().log_density(f, rows._replace(y=(rows.y > 0).to(f.dtype)), p)


def _clipped(values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values as far as the limits let them be observed."""
    return np.fmin(np.fmax(values, details[:, 0]), details[:, 1])


def warp_of(likelihood: Likelihood) -> Warp | None:
    """The scale on which a likelihood's numbers live."""
    inner = numbers_of(likelihood)
    return None if inner is None else inner.warp


def numbers_of(likelihood: Likelihood) -> _Numeric | None:
    """The law of a likelihood's numbers, of a hurdle those above it; None where there are none."""
    inner = likelihood.positive if isinstance(likelihood, Hurdle) else likelihood
    return inner if isinstance(inner, _Numeric) else None
