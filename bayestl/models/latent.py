"""Latent task: what distinguishes the tasks is a point in a hidden space, inferred with the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gpytorch
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl import priors
from bayestl.errors import expect_whole
from bayestl.kernels import Kernel, as_kernel
from bayestl.models.base import Model, Term
from bayestl.models.multitask import lower_trapezoid
from bayestl.priors import Theta
from bayestl.scaling import Layout, Scaling, share_a_scale, spread_of, task_means, task_spreads, working_values
from bayestl.table import TaskData

SPREADS = {"private": 0.8, "noise": 0.5}  # among the tasks, of the logarithm
FIXED: Any = {"fixed": True}  # coordinates that do not follow the other sites; see `Coordinates`


@dataclass(frozen=True, init=False)
class LatentTask(Model):
    r"""A function of the input and of a hidden task vector: ``f_t(x) = m_t + f(x, z_t) + p_t h_t(x)``.

    ``Cov[f(x, z), f(x', z')] = (c^2 + s^2 z . z') k(x, x')``, ``h_t ~ GP(0, k')``, ``z_t ~ N(W phi_t, I)`` with optional
    task descriptors phi, ``m_t ~ N(m, tau^2)``, ``m ~ N(0, 1)``. The c-term is what all tasks have in common, the s-term lets
    them differ and even run opposite to one another (a stationary kernel of z cannot: its correlations are positive), p_t
    is the size of what is private to the task. In the family of Dai, Alvarez & Lawrence 2017 (arXiv:1705.09862) and
    Zhang et al. 2020 (doi 10.1080/00401706.2019.1638834), with the linear kernel in z.

    Tasks are exchangeable: a new one is a new z, drawn from its prior when there is nothing else to go by
    (`Posterior.new_task`). So values of all tasks are standardised together if they have one declared unit, or none and
    spreads within a factor of ten. Rotations of z, which leave the model unchanged, are removed by writing the hidden parts of
    the z as a lower-trapezoidal matrix with ``chi^2`` and normal entries (Bartlett 1933,
    doi 10.1017/S0370164600015096), which has the same prior on ``Z Z^T``.

    Priors: ``s ~ LogNormal(-0.1, 0.5)``, ``tau ~ LogNormal(-1, 0.7)`` (sources of one property are offset by a third of its
    spread, from a tenth to all of it). Private parts and noise are hierarchical, so that a
    family tells what to expect of one task more, and yet one may be unlike the rest (a measurement beside four computations: one
    p for all cost a tenth in RMSE there): ``log p_t ~ N(level, 0.8^2)``, ``level ~ N(-2.5, 0.6^2)``, ``log noise_t ~ N(level,
    0.5^2)``, ``level ~ N(-2, 1)``. ``c ~ LogNormal(-0.8, 1.2)``, from 0.04 to 5 within two deviations: tasks may have nothing in
    common, or run opposite to one another (with ``LogNormal(-0.1, 0.5)`` the error beside a sign-flipped source was a quarter
    larger).

    Parameters
    ----------
    dim : dimension of the hidden space; no more than there are functions of tasks
    kernel : of the shared and of the private functions
    """

    dim: int
    kernel: Kernel

    def __init__(self, dim: int = 2, kernel: Kernel | gpytorch.kernels.Kernel | None = None) -> None:
        expect_whole("dim", dim)
        object.__setattr__(self, "dim", int(dim))
        object.__setattr__(self, "kernel", as_kernel(kernel))

    def scaling(self, data: TaskData) -> Scaling:
        means, spreads = task_means(data), task_spreads(data)
        numeric = [y for t in range(len(data.tasks)) if (y := working_values(data, t)) is not None]
        if numeric and share_a_scale(data):
            values = np.concatenate(numeric)
            spread = spreads[0] if np.isnan(spread_of(values)) else spread_of(values)
            means, spreads = np.full_like(means, values.mean()), np.full_like(spreads, spread)
        return Scaling.of_inputs(data, means, spreads, self.kernel.unscaled)

    def prior(self, layout: Layout) -> Theta:
        count = len(layout.outputs)
        dim = min(self.dim, count)
        below = count * dim - dim * (dim + 1) // 2
        theta = {
            "common": pyro.sample("common", priors.log_normal(-0.8, 1.2)),
            "amplitude": pyro.sample("amplitude", priors.log_normal(-0.1, 0.5)),
            "mean_spread": pyro.sample("mean_spread", priors.log_normal(-1.0, 0.7)),
            **_of_tasks("private", -2.5, 0.6, len(layout.tasks)),
        }
        if layout.noisy:
            theta |= _of_tasks("noise", -2.0, 1.0, len(layout.noisy))
        # The data know the loadings s z better than s and z, so these are what is sampled, around s (centred, "fixed"): with z
        # itself there is a ridge along which s grows and all z shrink, which no Gaussian follows.
        size = theta["amplitude"].unsqueeze(-1)
        degrees = torch.arange(dim, 0, -1, dtype=torch.float64)
        square = dist.Gamma(0.5 * degrees, 0.5 / size.square()).to_event(1)
        length = pyro.sample("loading_square", square, infer=FIXED).sqrt()
        entries = length[..., :0]
        if below:
            spread = size.expand(*size.shape[:-1], below)
            law = dist.Normal(torch.zeros_like(spread), spread).to_event(1)
            entries = pyro.sample("loading_entry", law, infer=FIXED)
        loading = lower_trapezoid(length, entries, count)[..., torch.tensor(layout.by_count).argsort(), :]
        z = loading / size.unsqueeze(-1)
        if layout.descriptors is not None:
            phi = torch.tensor(layout.descriptors, dtype=torch.float64)
            p = phi.shape[1]
            weights = pyro.sample("descriptor_weight", priors.normal(0.0, p**-0.5, p, dim))
            theta["descriptor_weight"] = weights
            z = z + phi @ weights
        theta["embedding"] = pyro.deterministic("embedding", z, event_dim=2)
        return theta | self.kernel.prior("shared", layout) | self.kernel.prior("separate", layout)

    def terms(self, theta: Theta, layout: Layout) -> Iterator[Term]:
        z = theta["embedding"]
        eye = torch.eye(len(layout.outputs), dtype=z.dtype, device=z.device)
        yield Term(1.0 + _matrix(theta["mean_spread"]).square() * eye)
        weights = _matrix(theta["common"]).square() + _matrix(theta["amplitude"]).square() * (z @ z.mT)
        yield Term(weights, self.kernel, "shared")
        private = theta["private"][..., torch.tensor(layout.owner)]
        yield Term(torch.diag_embed(private.square()), self.kernel, "separate")

    def white_size(self, theta: Theta, outputs: int, noisy: bool) -> int:
        """How many standard normals a new task of some functions takes."""
        return outputs * theta["embedding"].shape[-1] + 1 + noisy

    def with_new_task(
        self,
        theta: Theta,
        descriptors: tuple[float, ...] | None,
        white: Float[Tensor, "*#draws size"],
        outputs: int = 1,
        noisy: bool = True,
    ) -> Theta:
        """Extend theta by a new task drawn from the population.

        `white` holds standard normals, per draw: the hidden parts of the z, the private size and the noise of the new task.
        """
        z = theta["embedding"]
        dim, batch = z.shape[-1], white.shape[:-1]
        new = white[..., : outputs * dim].reshape(*batch, outputs, dim)
        if descriptors is not None:
            new = new + (torch.tensor(descriptors, dtype=z.dtype) @ theta["descriptor_weight"]).unsqueeze(-2)
        out = theta | {"embedding": torch.cat([z.expand(*batch, *z.shape[-2:]), new], -2)}
        for name, v in zip(("private", "noise")[: 1 + noisy], white[..., outputs * dim :].unbind(-1), strict=True):
            own = (theta[f"{name}_level"] + SPREADS[name] * v).exp()
            out[name] = torch.cat([theta[name].expand(*batch, -1), own.unsqueeze(-1)], -1)
        return out

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        return {
            "private": ("task",),
            "noise": ("task",),
            "embedding": ("task", "latent"),
            "descriptor_weight": ("descriptor", "latent"),
        }


def _of_tasks(name: str, loc: float, scale: float, count: int) -> Theta:
    """A size for each task, log-normal around a level that is inferred: ``log size_t ~ N(level, spread^2)``."""
    level = pyro.sample(f"{name}_level", priors.normal(loc, scale))
    offset = pyro.sample(f"{name}_offset", priors.normal(0.0, SPREADS[name], count))
    sizes = pyro.deterministic(name, (level.unsqueeze(-1) + offset).exp(), event_dim=1)
    return {f"{name}_level": level, name: sizes}


def _matrix(scalar: Tensor) -> Tensor:
    return scalar[..., None, None]
