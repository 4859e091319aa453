"""The control: every task on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import gpytorch
import pyro
import torch

from bayestl import priors
from bayestl.kernels import Kernel, as_kernel
from bayestl.models.base import Model, Term, constants, noise
from bayestl.priors import Theta
from bayestl.scaling import Layout


@dataclass(frozen=True, init=False)
class SingleTask(Model):
    r"""No transfer: ``f_o(x) = m_o + s_o g_o(x)``, ``g_o ~ GP(0, k_o)`` independent, ``m_o ~ N(0, 1)``.

    Priors, on values standardised per task: ``s_o ~ LogNormal(0.2, 0.8)``, ``noise_o ~ LogNormal(-2, 1)``, a kernel of
    its own for each task, shared by the functions of a task that has several. Why these: `bayestl.priors`, under ``amplitude``,
    ``noise`` and ``length_scales``.

    Parameters
    ----------
    kernel : `MaternOrRBF` by default, or any bayestl or GPyTorch kernel
    """

    kernel: Kernel

    def __init__(self, kernel: Kernel | gpytorch.kernels.Kernel | None = None) -> None:
        object.__setattr__(self, "kernel", as_kernel(kernel))

    def prior(self, layout: Layout) -> Theta:
        theta = {
            "amplitude": pyro.sample("amplitude", priors.amplitude(len(layout.outputs))),
            **noise(layout),
        }
        for task in layout.tasks:
            theta |= self.kernel.prior(task, layout)
        return theta

    def terms(self, theta: Theta, layout: Layout) -> Iterator[Term]:
        yield constants(layout)
        for t, task in enumerate(layout.tasks):
            own = torch.tensor([float(owner == t) for owner in layout.owner], dtype=torch.float64)
            outputs = tuple(layout.functions(t))
            yield Term(
                torch.diag_embed(theta["amplitude"].square() * own.to(theta["amplitude"])), self.kernel, task, outputs
            )

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        return {"amplitude": ("task",), "noise": ("task",)}
