"""The density of a normal vector with its own gradient, and Cholesky factors of what is positive up to rounding."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayestl.errors import FitError

FAILED = -1e10  # log density of a theta whose covariance has no Cholesky factor: never accepted, never fatal
LEAF = 256  # size of a triangle that is inverted at once


def factorise(covariance: Float[Tensor, "*#draws n n"]) -> tuple[Float[Tensor, "*#draws n n"], Bool[Tensor, "*#draws"]]:
    """Cholesky factors, and which of the batch have none: theirs is the identity."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    bad = info > 0
    if bad.any():
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        factor = torch.where(bad[..., None, None], eye, factor)
    return factor, bad


def triangular_inverse(factor: Float[Tensor, "*#draws n n"]) -> Float[Tensor, "*#draws n n"]:
    """``L^-1``, by halves: with ``L = [[A, 0], [B, C]]`` its corner is ``-C^-1 B A^-1``, a third of the operations of a solve."""
    n = factor.shape[-1]
    if n <= LEAF:
        eye = torch.eye(n, dtype=factor.dtype, device=factor.device)
        return torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    half = n // 16 * 8
    a, b, c = factor[..., :half, :half], factor[..., half:, :half], factor[..., half:, half:]
    out = torch.zeros_like(factor)
    out[..., :half, :half], out[..., half:, half:] = triangular_inverse(a), triangular_inverse(c)
    corner = torch.linalg.solve_triangular(c, b, upper=False)
    out[..., half:, :half] = torch.linalg.solve_triangular(a, corner.neg_(), upper=False, left=False)
    return out


def inverse_blocks(inverse: Float[Tensor, "*draws n n"], where: Int[Tensor, "R c"]) -> Float[Tensor, "*draws R c c"]:
    """Blocks of ``(L L')^-1`` on its diagonal, from ``L^-1``."""
    if where.shape[-1] == 1:
        return inverse.square().sum(-2)[..., where].unsqueeze(-1)
    columns = inverse[..., where]
    return torch.einsum("...nrc,...nrd->...rcd", columns, columns)


def log_density(
    factor: Float[Tensor, "*#draws n n"], residual: Float[Tensor, "*#draws n"]
) -> tuple[Float[Tensor, "*#draws"], Float[Tensor, "*#draws n"]]:
    """``log N(r; 0, L L^T)`` and ``alpha = (L L^T)^-1 r`` (Rasmussen & Williams 2006, eq. 2.30)."""
    alpha = torch.cholesky_solve(residual.expand(factor.shape[:-1]).unsqueeze(-1), factor).squeeze(-1)
    value = (
        -0.5 * (residual * alpha).sum(-1)
        - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        - 0.5 * factor.shape[-1] * math.log(2 * math.pi)
    )
    return value, alpha


class _LogMarginal(torch.autograd.Function):
    """``log N(r; 0, K)``, with ``d/dK = (alpha alpha^T - K^-1)/2``, ``d/dr = -alpha`` and ``alpha = K^-1 r``.

    Rasmussen & Williams 2006, eqs. 2.30 and 5.9. Three to four times faster than backpropagation through Cholesky.
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, residual: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor]:
        bad = torch.zeros(covariance.shape[:-2], dtype=torch.bool, device=covariance.device)
        if factor is None:
            factor, bad = factorise(covariance)
        value, alpha = log_density(factor, residual)
        ctx.save_for_backward(factor, alpha, bad)
        ctx.mark_non_differentiable(alpha)
        return torch.where(bad, FAILED, value), alpha

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        factor, alpha, bad = ctx.saved_tensors
        gradient = torch.where(bad, 0.0, gradient)
        d_covariance = torch.cholesky_inverse(factor)
        torch.sub(alpha.unsqueeze(-1) * alpha.unsqueeze(-2), d_covariance, out=d_covariance)
        d_covariance *= 0.5 * gradient[..., None, None]
        return d_covariance, -alpha * gradient[..., None], None


def log_marginal(
    covariance: Float[Tensor, "*#draws n n"],
    residual: Float[Tensor, "*#draws n"],
    factor: Float[Tensor, "*#draws n n"] | None = None,
) -> tuple[Float[Tensor, "*#draws"], Float[Tensor, "*#draws n"]]:
    """Differentiable `log_density` of a covariance, whose Cholesky factor may be known already; alpha has no gradient."""
    return _LogMarginal.apply(covariance, residual, factor)  # type: ignore[no-any-return]


class GaussianMarginal(TorchDistribution):
    """Multivariate normal ``N(mean, covariance)`` as a Pyro distribution, batched over draws.

    The same as `torch.distributions.MultivariateNormal`, but with a closed-form gradient and, where the covariance of one
    particle of a batch is not positive definite, a very low density for that particle instead of an error for all.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Float[Tensor, "*#draws n"], covariance: Float[Tensor, "*#draws n n"]) -> None:
        self.mean_, self.covariance = mean, covariance
        super().__init__(covariance.shape[:-2], covariance.shape[-1:], validate_args=False)

    def log_prob(self, value: Float[Tensor, "*#draws n"]) -> Float[Tensor, "*#draws"]:
        return log_marginal(self.covariance, value - self.mean_)[0]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        white = torch.randn(shape, dtype=self.covariance.dtype, device=self.covariance.device)
        return self.mean_ + (robust_cholesky(self.covariance)[0] @ white.unsqueeze(-1)).squeeze(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianMarginal:
        shape = torch.Size(batch_shape)
        return GaussianMarginal(
            self.mean_.expand(shape + self.event_shape), self.covariance.expand(shape + self.event_shape * 2)
        )


def robust_cholesky(
    covariance: Float[Tensor, "*#draws n n"], size: Float[Tensor, "*#draws"] | None = None
) -> tuple[Float[Tensor, "*#draws n n"], float]:
    """Cholesky factors of matrices that are positive semi-definite up to rounding, and the largest jitter that one took.

    Each takes the least that it needs, whatever others stand beside it. Jitter is relative to `size`, by default the mean of
    the diagonal. A posterior covariance is the difference of two larger matrices, and its rounding errors are relative to the
    prior's.
    """
    factor, info = torch.linalg.cholesky_ex(covariance)
    size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1) if size is None else size
    jitter = torch.zeros(covariance.shape[:-2], dtype=covariance.dtype, device=covariance.device)
    for more in (1e-12, 1e-10, 1e-8, 1e-6):
        if not (info > 0).any():
            break
        jitter = jitter.masked_fill(info > 0, more)
        added = (jitter * size).unsqueeze(-1).expand(covariance.shape[:-1])
        factor, info = torch.linalg.cholesky_ex(covariance + torch.diag_embed(added))
    if (info > 0).any():
        raise FitError(
            "A covariance matrix is not positive definite even with a jitter of 1e-6 of its diagonal. "
            "Check a user-given kernel for positive definiteness."
        )
    return factor, float(jitter.max()) if jitter.numel() else 0.0
