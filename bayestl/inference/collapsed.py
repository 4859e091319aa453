"""The density of theta with the functions integrated out: exactly where observations are normal, else by sites."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from bayestl.gaussian.sites import Site
from bayestl.models.problem import Problem
from bayestl.priors import Theta

ROUGH, FINE = 1e-3, 1e-6  # of the evidence bound: where theta is sought, and where the density is differentiated twice


class Collapsed:
    """The program ``theta ~ prior``, times the evidence lower bound with every site at its optimum for that theta.

    The sites are found anew at every theta, a few steps from `start`, the best seen so far: near one another in theta the
    optima are near too, and an error e in the sites changes the bound by e^2 only. While the mode is sought the start
    follows; afterwards it stays, so that the density is a function of theta alone.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.start: list[Site] | None = None
        self.tolerance, self.most = ROUGH, 30
        self.following = True

    def __call__(self) -> None:
        theta = self.problem.prior()
        if not self.problem.sites:
            values, volume = self.problem.values_at(theta)
            pyro.factor("y", self.problem.marginal(theta).log_prob(values) + volume)
            return
        value, solved = self.problem.settle(theta, self.start, self.tolerance, self.most)
        if self.following:
            best = int(value.argmax())
            self.start = [Site(site.natural[best], site.precision[best]) for site in solved.sites]
        pyro.factor("y", value)

    def fix(self, theta: Theta) -> bool:
        """Settle the sites at one theta (with a leading dimension of 1) and start from there ever after."""
        with torch.no_grad():
            _, solved = self.problem.settle(theta, self.start)
        self.start = [Site(site.natural[0], site.precision[0]) for site in solved.sites]
        self.following = False
        return solved.converged


def one(theta: Theta, draw: int) -> dict[str, Tensor]:
    """One draw of a batch, as a batch."""
    return {name: value[draw : draw + 1] for name, value in theta.items()}
