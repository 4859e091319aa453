"""The reference: Pyro's No-U-Turn sampler on the same density, in the basis of the curvature."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pyro.infer import MCMC, NUTS
from torch import Tensor

from bayestl.inference.coordinates import Coordinates
from bayestl.inference.mode import Mode
from bayestl.priors import pyro_alone

BLOCK = 50  # draws between notes, at most so many of which an interruption loses


class Notes(Protocol):
    """Where a chain is noted as it grows."""

    def read_chain(self) -> dict[str, NDArray[Any]] | None: ...

    def write_chain(self, chain: dict[str, NDArray[Any]]) -> None: ...


def sample(
    coordinates: Coordinates,
    mode: Mode,
    draws: int,
    warmup: int,
    seed: int,
    tick: Callable[[], object],
    notes: Notes | None = None,
) -> tuple[Float[Tensor, "S D"], int, bool]:
    """Draw from the posterior; returns the draws of v, the number of divergent transitions, and whether it was interrupted.

    In ``v = m + L u`` the posterior is near to standard normal, so the adaptation has little to do. What it found is kept for
    blocks of draws, each with a seed of its own, so that a chain that stopped after any block goes on to the same answer: the
    notes hold the basis too, which another machine would find a little different.

    Raises
    ------
    KeyboardInterrupt
        When interrupted before there is a block of draws.
    """

    def block(
        u: Tensor, centre: Tensor, basis: Tensor, count: int, seed: int, **adapt: Any
    ) -> tuple[Tensor, NUTS, int]:
        class Potential(torch.autograd.Function):
            @staticmethod
            def forward(ctx: object, u: Tensor) -> Tensor:
                value, slope = coordinates.gradient((centre + basis @ u).unsqueeze(0))
                ctx.save_for_backward(-(basis.mT @ slope[0]))  # type: ignore[attr-defined]
                return -value[0]

            @staticmethod
            def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
                return gradient * ctx.saved_tensors[0]  # type: ignore[attr-defined, no-any-return]

        torch.default_generator.manual_seed(seed)
        steps = adapt.pop("warmup", 0)
        kernel = NUTS(potential_fn=lambda z: Potential.apply(z["u"]), jit_compile=False, **adapt)
        bad: list[int] = []

        def hook(kernel: NUTS, _: Any, stage: str, __: int) -> None:
            if not stage.startswith("Warmup"):
                bad[:] = kernel.diagnostics()["divergences"]
            tick()

        chain = MCMC(
            kernel, num_samples=count, warmup_steps=steps, disable_progbar=True, initial_params={"u": u}, hook_fn=hook
        )
        chain.run()
        return chain.get_samples()["u"], kernel, len(bad)

    chain = None if notes is None else notes.read_chain()
    for _ in range(0 if chain is None else warmup + 1 + len(chain["u"])):
        tick()
    with pyro_alone(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's own notes on deprecated calls it makes itself
        if chain is None:
            start = torch.zeros(coordinates.dim, dtype=torch.float64)
            u, kernel, _ = block(start, mode.v, mode.basis, 1, seed, warmup=warmup)
            (variance,) = kernel.inverse_mass_matrix.values()
            scale = variance.sqrt()
            chain = {
                "centre": mode.v.numpy(), "basis": (mode.basis * scale).numpy(), "step": np.array(kernel.step_size),
                "start": (u[0] / scale).numpy(), "u": np.empty((0, coordinates.dim)), "divergences": np.array(0),
            }  # fmt: skip
            if notes is not None:
                notes.write_chain(chain)
        centre, basis = (torch.from_numpy(chain[name].copy()) for name in ("centre", "basis"))
        fixed = {"step_size": float(chain["step"]), "adapt_step_size": False, "adapt_mass_matrix": False}
        interrupted = False
        try:
            while (done := len(chain["u"])) < draws:
                last = torch.from_numpy(chain["u"][-1] if done else chain["start"]).clone()
                u, _, bad = block(last, centre, basis, min(BLOCK, draws - done), seed + 1 + done, **fixed)
                chain = chain | {
                    "u": np.concatenate([chain["u"], u.numpy()]), "divergences": chain["divergences"] + bad,
                }  # fmt: skip
                if notes is not None:
                    notes.write_chain(chain)
        except KeyboardInterrupt:
            if not len(chain["u"]):
                raise
            interrupted = True
    return centre + torch.from_numpy(chain["u"]) @ basis.mT, int(chain["divergences"]), interrupted
