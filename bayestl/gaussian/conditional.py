"""Gaussian vectors given data: solved exactly, through inducing points, or one after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.errors import notice
from bayestl.gaussian.exact import log_density, robust_cholesky
from bayestl.gaussian.sites import Site


class Conditional(ABC):
    """What data say about any Gaussian vector f*, through its covariance with f at a support of n points.

    ``E[f* | data] = E[f*] + C alpha`` and ``Cov[f* | data] = Cov[f*] - (F C')' (F C')``, with C the covariance (m, n) of f* and
    the support. `whiten` gives ``F C'``.
    """

    alpha: Float[Tensor, "*#draws n"]
    jitter: float = 0.0

    @abstractmethod
    def whiten(self, cross: Float[Tensor, "*#draws m n"]) -> Float[Tensor, "*#draws k m"]:
        """``F C'``."""

    @abstractmethod
    def lift(self, white: Float[Tensor, "*#draws k"]) -> Float[Tensor, "*#draws n"]:
        """``F' white``."""

    @abstractmethod
    def __getitem__(self, draw: int) -> Conditional:
        """Pick one draw of a batch."""

    def mean(self, cross: Float[Tensor, "*#draws m n"]) -> Float[Tensor, "*#draws m"]:
        """``E[f* | data] - E[f*]``."""
        return (cross @ self.alpha.unsqueeze(-1)).squeeze(-1)

    def variance(
        self, prior: Float[Tensor, "*#draws m"], cross: Float[Tensor, "*#draws m n"]
    ) -> Float[Tensor, "*#draws m"]:
        """``Var[f* | data]``, elementwise."""
        return (prior - self.whiten(cross).square().sum(-2)).clamp_min(0.0)

    def covariance(
        self, prior: Float[Tensor, "*#draws m m"], cross: Float[Tensor, "*#draws m n"]
    ) -> Float[Tensor, "*#draws m m"]:
        """``Cov[f* | data]``."""
        white = self.whiten(cross)
        return prior - white.mT @ white


class Conditioned(Conditional):
    """Conditioned exactly on ``y = f + e``; the support is where y was observed, and ``F = L^-1``.

    Parameters
    ----------
    covariance : ``K = Cov[y] = L L^T``, noise included
    residual : ``y - E[y]``
    sites : those that the observations were replaced by, block by block, where they are not normal

    `log_evidence` is the log density of y.
    """

    def __init__(
        self, covariance: Float[Tensor, "*#draws n n"], residual: Float[Tensor, "*#draws n"], sites: Sequence[Site] = ()
    ) -> None:
        self.sites = sites
        self.factor, jitter = robust_cholesky(covariance)
        self.jitter = jitter
        if jitter:
            notice(
                f"A jitter of {jitter:.0e} of its mean was added to the diagonal of a covariance of observations. Rows that "
                "repeat with tiny known errors can cause it."
            )
        self.log_evidence, self.alpha = log_density(self.factor, residual)

    def __getitem__(self, draw: int) -> Conditioned:
        one = object.__new__(Conditioned)
        one.factor, one.alpha, one.jitter = self.factor[draw], self.alpha[draw], self.jitter
        one.log_evidence = self.log_evidence[draw]
        one.sites = [Site(site.natural[draw], site.precision[draw]) for site in self.sites]
        return one

    def whiten(self, cross: Float[Tensor, "*#draws m n"]) -> Float[Tensor, "*#draws n m"]:
        if (
            self.factor.dim() == 2 and cross.dim() > 2
        ):  # one solve with many columns, not many with copies of the factor
            flat = torch.linalg.solve_triangular(
                self.factor.mT, cross.reshape(-1, cross.shape[-1]), upper=True, left=False
            )
            return flat.reshape(cross.shape).mT
        return torch.linalg.solve_triangular(self.factor.mT, cross, upper=True, left=False).mT

    def lift(self, white: Float[Tensor, "*#draws n"]) -> Float[Tensor, "*#draws n"]:
        return torch.linalg.solve_triangular(self.factor.mT, white.unsqueeze(-1), upper=True).squeeze(-1)


class Projected(Conditional):
    """Conditioned on sums over rows, seen through inducing points, which are the support (Titsias 2009).

    With ``L L^T = Cov[u]`` and features ``phi = L^-1 Cov[u, f]``, f is ``phi . v`` and what the inducing points do not tell;
    ``v ~ N(0, I)`` a priori and ``v | data ~ N(B^-1 h, B^-1)``, ``B = I + sum_i w_i phi_i phi_i'``, ``h = sum_i w_i phi_i r_i``.
    So ``F'F = L^-T (I - B^-1) L^-1``.

    Parameters
    ----------
    factor : L
    gram, moment : the two sums, without the identity
    """

    def __init__(
        self,
        factor: Float[Tensor, "*#draws n n"],
        gram: Float[Tensor, "*#draws n n"],
        moment: Float[Tensor, "*#draws n"],
    ) -> None:
        size, basis = torch.linalg.eigh(gram)
        size = size.clamp_min(0.0)  # the sum of squares that it is, up to rounding
        inverse = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[-1]).to(factor), upper=False)
        weights = (basis.mT @ moment.unsqueeze(-1)).squeeze(-1) / (1 + size)
        self.root = (size / (1 + size)).sqrt().unsqueeze(-1) * (basis.mT @ inverse)
        self.alpha = (inverse.mT @ (basis @ weights.unsqueeze(-1))).squeeze(-1)

    def __getitem__(self, draw: int) -> Projected:
        one = object.__new__(Projected)
        one.root, one.alpha = self.root[draw], self.alpha[draw]
        return one

    def whiten(self, cross: Float[Tensor, "*#draws m n"]) -> Float[Tensor, "*#draws n m"]:
        return self.root @ cross.mT

    def lift(self, white: Float[Tensor, "*#draws n"]) -> Float[Tensor, "*#draws n"]:
        return (self.root.mT @ white.unsqueeze(-1)).squeeze(-1)


class Updated(Conditional):
    """Conditioned on more observations after others; the support is that of `base`, then where the new ones are.

    Parameters
    ----------
    base : given the data so far
    reach : ``base.whiten`` of the covariance of the new observations' functions with the support of base
    more : the new observations, conditioned on with the law that base gives them
    """

    def __init__(self, base: Conditional, reach: Float[Tensor, "*#draws k e"], more: Conditioned) -> None:
        self.base, self.reach, self.more = base, reach, more
        self.jitter = max(base.jitter, more.jitter)
        own = base.alpha - base.lift((reach @ more.alpha.unsqueeze(-1)).squeeze(-1))
        self.alpha = torch.cat([own, more.alpha], -1)

    def __getitem__(self, draw: int) -> Updated:
        return Updated(self.base[draw], self.reach[draw], self.more[draw])

    def whiten(self, cross: Float[Tensor, "*#draws m n"]) -> Float[Tensor, "*#draws n m"]:
        size = self.base.alpha.shape[-1]
        first = self.base.whiten(cross[..., :size])
        return torch.cat([first, self.more.whiten(cross[..., size:] - first.mT @ self.reach)], -2)

    def lift(self, white: Float[Tensor, "*#draws n"]) -> Float[Tensor, "*#draws n"]:
        size = self.reach.shape[-2]
        more = self.more.lift(white[..., size:])
        first = self.base.lift(white[..., :size] - (self.reach @ more.unsqueeze(-1)).squeeze(-1))
        return torch.cat([first, more], -1)
