"""The reference: Pyro's No-U-Turn sampler on the same density, in the basis of the curvature."""

from __future__ import annotations

import warnings

import pyro
import torch
from jaxtyping import Float
from pyro.infer import MCMC, NUTS
from torch import Tensor

from bayestl.inference.coordinates import Coordinates
from bayestl.inference.mode import Mode


def sample(
    coordinates: Coordinates, mode: Mode, draws: int, warmup: int, seed: int, progress: bool
) -> tuple[Float[Tensor, "S D"], int]:
    """Draw from the posterior; returns the draws of v and the number of divergent transitions.

    In ``v = m + L u`` the posterior is near to standard normal, so the adaptation has little to do.
    """

    class Potential(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, u: Tensor) -> Tensor:
            value, slope = coordinates.gradient((mode.v + mode.basis @ u).unsqueeze(0))
            ctx.save_for_backward(-(mode.basis.mT @ slope[0]))  # type: ignore[attr-defined]
            return -value[0]

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * ctx.saved_tensors[0]  # type: ignore[attr-defined, no-any-return]

    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's own notes on deprecated calls it makes itself
        torch.manual_seed(seed)
        kernel = NUTS(potential_fn=lambda z: Potential.apply(z["u"]), jit_compile=False)
        chain = MCMC(
            kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=not progress,
            initial_params={"u": torch.zeros(coordinates.dim, dtype=torch.float64)},
        )  # fmt: skip
        chain.run()
        u = chain.get_samples()["u"]
        divergences = sum(len(d) for d in chain.diagnostics().get("divergences", {}).values())
    return mode.v + u @ mode.basis.mT, divergences
