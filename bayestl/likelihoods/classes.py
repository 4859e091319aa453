"""Classes: two, several, and ordered."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyro
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayestl import priors
from bayestl.errors import DataError
from bayestl.gaussian.mixture import normal_cdf
from bayestl.gaussian.sites import Expectation
from bayestl.likelihoods.base import NODES, Kind, Likelihood, Parameters, Rows, normal_nodes
from bayestl.likelihoods.predictive import Classes
from bayestl.priors import Theta

LOGIT = 2.0  # of a standardised function: one standard deviation takes even odds to 88 %
POINTS = 128  # that stand for a normal of several dimensions
CLOUDS, SINGLE = 16, 4  # sets of them, one after another for the draws that predict; times as many for a single draw

AT_ONCE = 200_000  # values of functions whose probabilities are worked on


@dataclass(frozen=True)
class _Classes(Likelihood):
    kind: ClassVar[Kind] = "class"

    lapse: float | None = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.lapse is not None and not 0 <= self.lapse < 1:
            raise ValueError(f"`lapse` must be a share from 0 to below 1, or None; got {self.lapse}.")

    def prior(self, task: str) -> Theta:
        if self.lapse is not None:
            return {}
        return {f"{task}.lapse": pyro.sample(f"{task}.lapse", priors.share(0.02, 1.0))}

    def wrong(self, p: Parameters) -> Tensor:
        """The lapse, with room for rows."""
        return p["lapse"] if self.lapse is None else torch.tensor(float(self.lapse), dtype=torch.float64)

    def draw(self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator) -> Tensor:
        chances = self.probabilities(f, rows, p)
        if noise is None:
            return chances
        u = torch.rand(*chances.shape[:-1], 1, dtype=f.dtype, generator=generator)
        return (chances.cumsum(-1)[..., :-1] < u).sum(-1).to(f.dtype)

    def probabilities(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        """Probabilities (..., R, K) of the classes given functions (..., R, c)."""
        chance = self.clean(f, rows, p)
        e = self.wrong(p).unsqueeze(-1)
        return chance * (1 - e) + e / chance.shape[-1]

    @abstractmethod
    def clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        """Probabilities (..., R, K) of the classes where nothing lapses."""

    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        clean, e = self.log_clean(f, rows, p), self.wrong(p)
        return clean if self.lapse == 0.0 else torch.logaddexp(clean + torch.log1p(-e), torch.log(e / self.count(rows)))

    @abstractmethod
    def log_clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        """Log probability of the class seen where nothing lapses, a concave function of f, which `log_density` takes too."""

    def count(self, rows: Rows) -> int:
        """How many classes there are."""
        return len(rows.location) + 1


@dataclass(frozen=True)
class _Threshold(_Classes):
    """Classes told by one function and where it stands."""

    def expect(self, rows: Rows, p: Parameters) -> Callable[[Tensor, Tensor], Expectation]:
        """Expectations by quadrature; with lapses ``slope = E[r l']`` and ``precision = -E[r l'']``, l the clean log density.

        r is the probability that the label is no lapse. What is left out of the precision would be negative.
        """
        whole = super().expect(rows, p)
        if self.lapse == 0.0:
            return whole
        nodes, weights = (column[:, None, None] for column in normal_nodes(NODES))

        def expectation(mean: Tensor, cov: Tensor) -> Expectation:
            if torch.is_grad_enabled():
                return whole(mean, cov)
            f = mean[..., 0] + cov[..., 0, 0].sqrt() * nodes
            with torch.enable_grad():
                f.requires_grad_()
                clean = self.log_clean(f, rows, p)
                (slope,) = torch.autograd.grad(clean.sum(), f, create_graph=True)
                (bend,) = torch.autograd.grad(slope.sum(), f)
            total = self.log_density(f.detach(), rows, p)
            right = weights * torch.exp(clean.detach() + torch.log1p(-self.wrong(p)) - total)
            precision = -(right * bend).sum(0)[..., None, None]
            return Expectation((weights * total).sum(0), (right * slope.detach()).sum(0).unsqueeze(-1), precision)

        return expectation

    def predictive(self, mean: Tensor, cov: Tensor, noise: Tensor | None, rows: Rows, p: Parameters) -> Classes:
        """Average the probabilities over the normal function, by quadrature, and over the draws."""
        nodes, weights = normal_nodes(NODES)
        sd = cov[..., 0, 0].clamp_min(0.0).sqrt()
        step = max(1, AT_ONCE // sd.numel())
        chances = [
            torch.einsum(
                "n,nsmk->mk", w, self.probabilities((mean[..., 0] + node[:, None, None] * sd).unsqueeze(-1), rows, p)
            )
            for node, w in zip(nodes.split(step), weights.split(step), strict=True)
        ]
        return Classes(torch.stack(chances).sum(0) / len(sd))


@dataclass(frozen=True)
class Bernoulli(_Threshold):
    """``P(y = 1) = sigmoid(eta)``, ``eta = logit(frequency) + 2 f``; the normal distribution function of ``eta / 1.7`` by probit.

    The second of the two levels is the one that counts as 1: True, the later in the alphabet, the larger.

    Parameters
    ----------
    link : "logit" or "probit"
    lapse : the share of labels that are recorded at random; None infers it, see `Categorical`
    """

    link: str = "logit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.link not in ("logit", "probit"):
            raise ValueError(f"`link` must be 'logit' or 'probit'; got {self.link!r}.")

    def resolve(
        self, values: NDArray[np.float64], details: NDArray[np.float64], task: str, levels: Sequence[Any] | None
    ) -> Likelihood:
        if levels is not None and len(levels) > 2:
            raise DataError(f"Bernoulli needs two classes; task {task!r} holds {len(levels)}. Use Categorical().")
        return self

    def anchor(
        self, values: NDArray[np.float64], details: NDArray[np.float64], levels: Sequence[Any] | None
    ) -> tuple[list[float], list[float]]:
        ones = float(values.sum())
        odds = math.log((ones + 0.5) / (len(values) - ones + 0.5))
        return ([odds], [LOGIT]) if self.link == "logit" else ([odds / 1.7], [LOGIT / 1.7])

    def log_clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        eta = (2 * rows.y - 1) * (rows.location + rows.scale * f)
        return torch.nn.functional.logsigmoid(eta) if self.link == "logit" else torch.special.log_ndtr(eta)

    def clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        eta = rows.location + rows.scale * f[..., 0]
        both = torch.stack([-eta, eta], -1)
        return torch.sigmoid(both) if self.link == "logit" else normal_cdf(both)


@dataclass(frozen=True)
class Ordinal(_Threshold):
    """Ordered classes: ``P(y <= k) = sigmoid(b_k - 2 f)``, thresholds ``b_1 < b_2 < ...`` inferred (McCullagh 1980).

    The first threshold is the logit of its class's frequency (a constant in f moves all of them); the gaps to the next are
    log-normal, half a unit wide, around those that the frequencies imply.

    Parameters
    ----------
    lapse : the share of labels that are recorded at random; None infers it, see `Categorical`. Without lapses a label far from
        where the others stand pulls hard
    """

    start: tuple[float, ...] = field(default=(), kw_only=True)

    def resolve(
        self, values: NDArray[np.float64], details: NDArray[np.float64], task: str, levels: Sequence[Any] | None
    ) -> Likelihood:
        if levels is None or len(levels) < 2:
            raise DataError(f"Ordinal needs two or more ordered classes; task {task!r} holds {len(levels or ())}.")
        counts = np.bincount(values.astype(int), minlength=len(levels)) + 0.5
        share = np.cumsum(counts)[:-1] / counts.sum()
        return dataclasses.replace(self, start=tuple(np.log(share / (1 - share)).tolist()))

    def anchor(
        self, values: NDArray[np.float64], details: NDArray[np.float64], levels: Sequence[Any] | None
    ) -> tuple[list[float], list[float]]:
        return [0.0], [LOGIT]

    def prior(self, task: str) -> Theta:
        theta = super().prior(task)
        if len(self.start) < 2:
            return theta
        gaps = torch.tensor(np.log(np.diff(self.start)))
        site = f"{task}.gap"
        law = pyro.distributions.LogNormal(gaps, torch.full_like(gaps, 0.5)).to_event(1)
        return {**theta, site: pyro.sample(site, law)}

    def count(self, rows: Rows) -> int:
        return len(self.start) + 1

    def thresholds(self, p: Parameters) -> Tensor:
        """Thresholds (S, K - 1), or (1, 1) when there is but one."""
        first = torch.tensor([self.start[0]], dtype=torch.float64)
        if "gap" not in p:
            return first.unsqueeze(0)
        gap = p["gap"]
        return torch.cat([first.expand(*gap.shape[:-1], 1), first + gap.cumsum(-1)], -1)

    def log_clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        b = self.thresholds(p)
        code = rows.y.long()
        last = b.shape[-1]
        eta = rows.location + rows.scale * f
        high = b[..., code.clamp_max(last - 1)] - eta
        low = b[..., (code - 1).clamp_min(0)] - eta
        log_sigmoid = torch.nn.functional.logsigmoid
        # sigmoid(h) - sigmoid(l) = sigmoid(h) sigmoid(-l) (1 - exp(l - h)), with nothing lost far from the thresholds
        apart = torch.where((code > 0) & (code < last), high - low, 1.0)
        return (
            torch.where(code < last, log_sigmoid(high), 0.0)
            + torch.where(code > 0, log_sigmoid(-low), 0.0)
            + torch.where((code > 0) & (code < last), torch.log(-torch.expm1(-apart)), 0.0)
        )

    def clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        eta = rows.location + rows.scale * f[..., 0]
        edge = self.thresholds(p).unsqueeze(-2) - eta.unsqueeze(-1)
        ends = torch.full_like(edge[..., :1], torch.inf)
        edge = torch.cat([-ends, edge, ends], -1)
        # A class above the middle of the logistic law is the difference of what lies above its edges: no difference of ones.
        from_below, from_above = torch.sigmoid(edge).diff(dim=-1), -torch.sigmoid(-edge).diff(dim=-1)
        return torch.where(edge[..., :-1] > 0, from_above, from_below).clamp_min(0.0)


@dataclass(frozen=True)
class Categorical(_Classes):
    """``P(y = k) = (1 - e) softmax(eta)_k + e / K``, ``eta_k = log(frequency_k) + 2 f_k``, one latent function per class.

    Only differences of the functions matter: the engine works on ``f_k - f_K``, of which there are K - 1.

    Parameters
    ----------
    lapse : e, the share of labels that are recorded at random; None infers it, ``logit(e) ~ N(logit(0.02), 1)``. Where
        some labels are known to be wrong, a model without lapses is both misled by them and too sure of the rest
    """

    def functions(self, levels: Sequence[Any] | None) -> tuple[str, ...]:
        return tuple(str(level) for level in levels or ())

    def contrast(self, levels: Sequence[Any] | None) -> NDArray[np.float64]:
        count = len(levels or ())
        return np.hstack([np.eye(count - 1), -np.ones((count - 1, 1))])

    def resolve(
        self, values: NDArray[np.float64], details: NDArray[np.float64], task: str, levels: Sequence[Any] | None
    ) -> Likelihood:
        if levels is None or len(levels) < 2:
            raise DataError(f"Categorical needs two or more classes; task {task!r} holds {len(levels or ())}.")
        return self

    def anchor(
        self, values: NDArray[np.float64], details: NDArray[np.float64], levels: Sequence[Any] | None
    ) -> tuple[list[float], list[float]]:
        count = len(levels or ())
        log_share = np.log(np.bincount(values.astype(int), minlength=count) + 0.5)
        return (log_share[:-1] - log_share[-1]).tolist(), [LOGIT] * (count - 1)

    def log_clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        log_p = torch.log_softmax(self._eta(f, rows), -1)
        return log_p.gather(-1, rows.y.long()[:, None].expand(*log_p.shape[:-1], 1)).squeeze(-1)

    def clean(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        return torch.softmax(self._eta(f, rows), -1)

    def _eta(self, f: Tensor, rows: Rows) -> Tensor:
        eta = rows.location + rows.scale * f
        return torch.cat([eta, torch.zeros_like(eta[..., :1])], -1)

    def expect(self, rows: Rows, p: Parameters) -> Callable[[Tensor, Tensor], Expectation]:
        """Expectations over quasi-random points; ``slope = E[r (1[y] - p)]`` and ``precision = E[r (diag(p) - p p')]``.

        r is the probability that the label is no lapse. Without lapses it is 1 and the precision is minus twice the gradient;
        with them, what is left out of it would be negative.
        """
        seen = torch.nn.functional.one_hot(rows.y.long(), len(rows.location) + 1).to(torch.float64)
        points = normal_cloud(POINTS, len(rows.location))
        e = self.wrong(p).unsqueeze(-1)

        def expectation(mean: Tensor, cov: Tensor) -> Expectation:
            chance = torch.softmax(self._eta(_spread(mean.detach(), cov.detach(), points), rows), -1)
            right = (chance * seen).sum(-1, keepdim=True) * (1 - e)
            total = (right + e / chance.shape[-1]).clamp_min(1e-300)
            p1, weight = chance[..., :-1], right / total
            average = (weight * p1).mean(0)
            outer = torch.einsum("jsrc,jsrd->srcd", weight * p1, p1) / len(points)
            size = rows.scale
            precision = (torch.diag_embed(average) - outer) * (size[:, None] * size)
            slope = (weight * (seen[..., :-1] - p1)).mean(0) * size
            return Expectation(total.log().mean(0).squeeze(-1), slope, precision)

        return expectation

    def predictive(self, mean: Tensor, cov: Tensor, noise: Tensor | None, rows: Rows, p: Parameters) -> Classes:
        # Points of its own for each draw: their errors cancel, which are a tenth of a probability of a few per cent.
        count = POINTS * max(1, SINGLE // len(mean))
        total = torch.zeros(*mean.shape[1:-1], mean.shape[-1] + 1, dtype=mean.dtype)
        for s, (m, c) in enumerate(zip(mean, cov, strict=True)):
            points = normal_cloud(count, mean.shape[-1], s % CLOUDS)
            own = {name: value[s : s + 1] if len(value) > 1 else value for name, value in p.items()}
            total += self.probabilities(_spread(m, c, points), rows, own).mean(0)
        return Classes(total / len(mean))


def _spread(mean: Tensor, cov: Tensor, points: Tensor) -> Tensor:
    """Points (J, ..., c) of the normals N(mean, cov)."""
    size = cov.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype)
    factor, _ = torch.linalg.cholesky_ex(cov + 1e-9 * size[..., None, None] * eye)
    return mean + torch.einsum("...cd,jd->j...c", factor, points)


@cache
def normal_cloud(count: int, dim: int, seed: int = 0) -> Tensor:
    """Quasi-random standard normals in antithetic pairs, whitened: their mean and covariance are exactly 0 and I.

    They are four for each dimension at least, a power of two.
    """
    half = 2 ** math.ceil(math.log2(max(count, 4 * dim) / 2))
    uniform = scipy.stats.qmc.Sobol(dim, scramble=True, rng=seed).random(half)
    z = torch.special.ndtri(torch.from_numpy(uniform).clamp(1e-9, 1 - 1e-9))
    z = torch.cat([z, -z])
    return torch.linalg.solve_triangular(torch.linalg.cholesky(z.mT @ z / len(z)), z.mT, upper=False).mT.contiguous()
