"""The density of theta with the functions integrated out: exactly where observations are normal, else by sites."""

from __future__ import annotations

import pyro
import torch

from bayestl.gaussian.sites import Site
from bayestl.models.problem import ROUGH, Problem
from bayestl.priors import Theta


class Collapsed:
    """The program ``theta ~ prior``, times the evidence lower bound with every site at its optimum for that theta.

    The sites are found anew at every theta, from `start`, the best seen so far. While the mode is sought the start follows,
    and the sites settle on the way. Afterwards it stays at the mode, so that the density is a function of theta alone, and
    one step is taken from there: it is a step of Newton's method, and an error e in the sites changes the bound by e^2 only.
    Far from the mode one step may promise anything; there the sites are settled (`Problem.approach`). A chain has them settled
    everywhere (`exact`): the slope of what one step promises is off by e, and its steps had to be twenty times as small.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.start: list[Site] | None = None
        self.following = True
        self.exact = False

    def __call__(self) -> None:
        theta = self.problem.prior()
        if not self.problem.sites:
            values, volume = self.problem.values_at(theta)
            pyro.factor("y", self.problem.marginal(theta).log_prob(values) + volume)
            return
        if self.following:
            value, solved = self.problem.settle(theta, self.start, ROUGH, 30 if self.start is None else 2)
            best = int(value.argmax())
            if value[best] > -1e9:
                self.start = [Site(site.natural[best], site.precision[best]) for site in solved.sites]
        elif self.exact:
            value, _ = self.problem.settle(theta, self.start)
        else:
            assert self.start is not None
            value = self.problem.approach(theta, self.start)
        pyro.factor("y", value)

    def fix(self, theta: Theta) -> bool:
        """Settle the sites at one theta (with a leading dimension of 1) and start from there ever after."""
        with torch.no_grad():
            _, solved = self.problem.settle(theta, self.start)
        self.start = [Site(site.natural[0], site.precision[0]) for site in solved.sites]
        self.following = False
        return solved.converged
