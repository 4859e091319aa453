"""Sums over rows, seen through inducing points: all that a large table contributes to a posterior."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Sums(NamedTuple):
    """What the rows contribute, for each draw of theta; rows can be added in any order, in pieces, by anyone.

    With features ``phi_i = L^-1 Cov[u, f_i]``, ``L L^T = Cov[u]``, and normal rows ``r_i = f_i + e_i``, ``e_i ~ N(0, 1/w_i)``:

    Attributes
    ----------
    gram, moment : ``sum_i w_i phi_i phi_i'`` and ``sum_i w_i phi_i r_i``
    square, volume : ``sum_i w_i r_i^2`` and ``sum_i log(2 pi / w_i)``
    residual : ``sum_i w_i (k_ii - |phi_i|^2)``, what the inducing points leave untold
    """

    gram: Float[Tensor, "S m m"]
    moment: Float[Tensor, "S m"]
    square: Float[Tensor, " S"]
    volume: Float[Tensor, " S"]
    residual: Float[Tensor, " S"]

    @classmethod
    def zero(cls, draws: int, size: int, device: torch.device | str = "cpu") -> Sums:
        """No rows."""
        shapes = ((draws, size, size), (draws, size), (draws,), (draws,), (draws,))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def plus(self, other: Sums) -> Sums:
        """Rows of both."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


def log_evidence(sums: Sums) -> Float[Tensor, " S"]:
    """Collapsed lower bound of the log evidence of normal rows (Titsias 2009, eq. 9).

    ``log N(r; 0, Phi'Phi + W^-1) - residual / 2``, by the matrix determinant lemma and Woodbury's identity with ``B = I + gram``:
    ``-(volume + log |B| + square - moment' B^-1 moment + residual) / 2``.
    """
    factor = torch.linalg.cholesky(_with_identity(sums.gram))
    half = torch.linalg.solve_triangular(factor, sums.moment.unsqueeze(-1), upper=False).squeeze(-1)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (sums.volume + log_det + sums.square - half.square().sum(-1) + sums.residual)


class Weights(NamedTuple):
    """``q(v) = N(mean, (factor factor')^-1)``, the law of the weights of the features."""

    mean: Float[Tensor, "S m"]
    factor: Float[Tensor, "S m m"]

    @classmethod
    def given(cls, gram: Float[Tensor, "S m m"], moment: Float[Tensor, "S m"]) -> Weights:
        """From the precision that data add to that of the prior, ``N(0, I)``, and the precision times the mean."""
        factor = torch.linalg.cholesky(_with_identity(gram))
        return cls(torch.cholesky_solve(moment.unsqueeze(-1), factor).squeeze(-1), factor)

    def divergence(self) -> Float[Tensor, " S"]:
        """``KL(q || N(0, I))``."""
        covariance = torch.cholesky_inverse(self.factor)
        log_det = 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        return 0.5 * (trace + self.mean.square().sum(-1) - self.mean.shape[-1] + log_det)

    def expected(self, sums: Sums) -> Float[Tensor, " S"]:
        """``E_q[log p]`` of the normal rows."""
        covariance = torch.cholesky_inverse(self.factor) + self.mean.unsqueeze(-1) * self.mean.unsqueeze(-2)
        square = sums.square - 2 * (self.mean * sums.moment).sum(-1) + (sums.gram * covariance).sum((-1, -2))
        return -0.5 * (sums.volume + square + sums.residual)


def _with_identity(gram: Tensor) -> Tensor:
    out = gram.clone()
    out.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return out


def log_volume(precision: Tensor) -> Tensor:
    """``log(2 pi / w)``, elementwise."""
    return math.log(2 * math.pi) - precision.log()
