"""The mode of the posterior of theta, and the curvature there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.errors import FitError
from bayestl.inference.coordinates import Coordinates


class Mode(NamedTuple):
    """A mode ``v``, its log density, and a basis L with ``L L^T`` the inverse negative Hessian."""

    v: Float[Tensor, " D"]
    log_density: float
    basis: Float[Tensor, "D D"]
    log_evidence: float


class InBasis(NamedTuple):
    """The log density at ``v = centre + basis u``, as a function of u."""

    coordinates: Coordinates
    centre: Float[Tensor, " D"]
    basis: Float[Tensor, "D D"]

    def gradient(self, u: Float[Tensor, "S D"]) -> tuple[Float[Tensor, " S"], Float[Tensor, "S D"]]:
        """Log density and its gradient at every row."""
        value, slope = self.coordinates.gradient(self.centre + u @ self.basis.mT)
        return value, slope @ self.basis


def climb(
    coordinates: Coordinates | InBasis,
    starts: Float[Tensor, "S D"],
    tolerance: float = 1e-3,
    iterations: int = 200,
) -> tuple[Float[Tensor, "S D"], Float[Tensor, " S"]]:
    """Climb from every start to a mode by L-BFGS (Nocedal & Wright 2006, alg. 7.4), all starts in one batch.

    Steps are halved until they gain enough (Armijo); a start is done when a step, or its prediction, gains less than
    `tolerance`. Returns the points reached and their log densities.
    """
    x = starts.clone()
    f, g = coordinates.gradient(x)
    active = f > -1e9
    if not active.any():
        raise FitError(
            "The posterior density is not finite anywhere near the prior's centre. Check the values and the errors for "
            "extreme outliers, and a user-given kernel for positive definiteness."
        )
    histories: list[list[tuple[Tensor, Tensor]]] = [[] for _ in starts]
    for _ in range(iterations):
        todo = active.nonzero().squeeze(-1)
        if len(todo) == 0:
            break
        direction = torch.stack([_two_loop(g[i], histories[i]) for i in todo.tolist()])
        slope = (direction * g[todo]).sum(-1)
        step = torch.ones(len(todo), dtype=x.dtype)
        searching = torch.arange(len(todo))
        for _ in range(12):
            rows = todo[searching]
            trial = x[rows] + step[searching, None] * direction[searching]
            value, gradient = coordinates.gradient(trial)
            good = value >= f[rows] + 1e-4 * step[searching] * slope[searching]
            for i, new, grad, val in zip(rows[good].tolist(), trial[good], gradient[good], value[good], strict=True):
                moved, bent = new - x[i], g[i] - grad
                if (moved @ bent) > 1e-10 * moved.norm() * bent.norm():
                    histories[i] = [*histories[i][-19:], (moved, bent)]
                active[i] = bool(val - f[i] > tolerance or (grad @ _two_loop(grad, histories[i])) > 2 * tolerance)
                x[i], f[i], g[i] = new, val, grad
            # Where the density cannot even be evaluated a halving is not enough.
            step[searching] *= torch.where(value > -1e9, 0.5, 0.1)
            searching = searching[~good]
            if len(searching) == 0:
                break
        active[todo[searching]] = False
    return x, f


def _two_loop(gradient: Tensor, history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Product of the inverse negative Hessian, as the history knows it, with the gradient."""
    q, coefficients = gradient.numpy().copy(), []
    pairs = [(s.numpy(), y.numpy()) for s, y in history]
    for s, y in reversed(pairs):
        coefficients.append((s @ q) / (s @ y))
        q -= coefficients[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    else:
        q /= max(1.0, float(np.linalg.norm(q)))
    for (s, y), a in zip(pairs, reversed(coefficients), strict=True):
        q += s * (a - (y @ q) / (s @ y))
    return torch.from_numpy(q)


def curvature(coordinates: Coordinates, v: Float[Tensor, " D"], log_density: float, step: float = 1e-3) -> Mode:
    """Take the Hessian by forward differences of gradients, in one batch.

    Its eigenvalues are floored at 1, the curvature of the prior: in a direction that the likelihood says nothing about,
    or in which the mode is a saddle, the posterior is taken to be as wide as the prior.
    """
    steps = step * torch.eye(coordinates.dim, dtype=v.dtype)
    _, slopes = coordinates.gradient(torch.cat([v + steps, v[None]]))
    hessian = (slopes[-1] - slopes[:-1]) / step
    values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    values = values.clamp_min(1.0)
    # Which of its two signs a direction has hangs on rounding, and draws with it: on the order of the rows of a table.
    vectors = vectors * torch.sign(torch.linspace(1.0, 2.0, len(v), dtype=v.dtype) @ vectors + 1e-300)
    return Mode(
        v,
        log_density,
        vectors * values.rsqrt(),
        log_density + 0.5 * (len(v) * np.log(2 * np.pi) - values.log().sum().item()),
    )
