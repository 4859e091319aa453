"""What a likelihood is: the law of an observation given the latent functions of its task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bayestl.gaussian.sites import Expectation
from bayestl.priors import Theta

Parameters = Mapping[str, Tensor]  # a likelihood's own parameters and its task's noise, (S, 1) or (S, k)
Kind = Literal["numeric", "class", "count"]
NODES = 32


class Rows(NamedTuple):
    """Observations of one task in the model's units.

    `details` holds what the likelihood knows of a row besides its value: the limits of a censored one, in units of the
    value, or the exposure of a count. `location` and `scale` (one entry per function) take the standardised functions to the
    likelihood's natural scale, ``eta = location + scale f``; numeric values are standardised instead.
    """

    y: Float[Tensor, " R"]
    error: Float[Tensor, " R"]
    details: Float[Tensor, "R 2"]
    location: Float[Tensor, " c"]
    scale: Float[Tensor, " c"]

    def take(self, rows: Tensor) -> Rows:
        """Select rows."""
        return self._replace(y=self.y[rows], error=self.error[rows], details=self.details[rows])

    def of(self, functions: Sequence[int]) -> Rows:
        """The same for some of the functions."""
        return self._replace(location=self.location[list(functions)], scale=self.scale[list(functions)])


class Part(NamedTuple):
    """Rows of a task that share a law, and which of the task's functions it depends on (none given: all)."""

    law: Likelihood
    rows: Tensor
    functions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Likelihood(ABC):
    """``p(y | f)`` for the observations of one task; f holds one latent function, or several."""

    kind: ClassVar[Kind] = "numeric"
    exact: ClassVar[bool] = False
    """Whether y is f plus normal noise, so that no site is needed."""
    noisy: ClassVar[bool] = False
    """Whether the task has a noise standard deviation."""

    @abstractmethod
    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        """``log p(y | f)`` for f of shape (J, S, R), or (J, S, R, c) where there are several functions."""

    @abstractmethod
    def predictive(
        self,
        mean: Float[Tensor, "S m c"],
        cov: Float[Tensor, "S m c c"],
        noise: Tensor | None,
        rows: Rows,
        p: Parameters,
    ) -> Any:
        """Law of an observation where the functions are normal: see `bayestl.likelihoods.predictive`.

        `noise` is the variance of the measurement, None for the value underneath.
        """

    @abstractmethod
    def draw(self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator) -> Tensor:
        """Observations given functions (D, R, c), in the user's units or codes; without `noise` what lies underneath."""

    def draw_latent(
        self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator
    ) -> Tensor:
        """Draw what there would be without limits, and of a hurdle its size by itself; else as `draw`."""
        return self.draw(f, noise, rows, p, generator)

    def shown(self, f: Tensor, rows: Rows) -> Tensor | None:
        """Probability (D, R) that what `draw_latent` gives is observed; None where it always is, if perhaps at a limit."""
        return None

    def resolve(
        self, values: NDArray[np.float64], details: NDArray[np.float64], task: str, levels: Sequence[Any] | None
    ) -> Likelihood:
        """Check the values, and settle what is learned from them once and for all."""
        self.check(values, details, task)
        return self

    def check(self, values: NDArray[np.float64], details: NDArray[np.float64], task: str) -> None:  # noqa: B027
        """Refuse values, or details of rows, that the law does not allow."""

    def check_details(self, details: NDArray[np.float64], task: str) -> None:  # noqa: B027
        """Refuse details of rows that the law does not allow."""

    def observed(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values as they are observed: those beyond a limit are at it."""
        return values

    def rate(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values that can be compared between rows: of counts per unit of exposure."""
        return values

    def atomic(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each value has a probability, where others have a density."""
        return np.zeros(len(values), dtype=bool)

    def columns(self) -> tuple[str | None, str | None]:
        """Names of the table's columns that hold the details, where they do."""
        return (None, None)

    def constants(self) -> tuple[float, float]:
        """Details of a row whose table has no such column."""
        return (float("nan"), float("nan"))

    def functions(self, levels: Sequence[Any] | None) -> tuple[str, ...]:
        """Names of the latent functions; a single one has none."""
        return ("",)

    def contrast(self, levels: Sequence[Any] | None) -> NDArray[np.float64] | None:
        """Matrix (c, functions) of the combinations of the functions that matter; None when it is each by itself."""
        return None

    def working(self, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Values on the scale that is standardised, None where the observations are not numbers."""
        return None

    def anchor(
        self, values: NDArray[np.float64], details: NDArray[np.float64], levels: Sequence[Any] | None
    ) -> tuple[list[float], list[float]]:
        """Location and scale of the natural parameters of the contrasts that are not numeric values; these come first."""
        return [], []

    def prior(self, task: str) -> Theta:
        """Sample the likelihood's own parameters, as sites ``task.*``."""
        return {}

    def parts(self, rows: Rows) -> list[Part]:
        """Split the rows by law."""
        return [Part(self, torch.arange(len(rows.y)))]

    def standardised(self, rows: Rows, p: Parameters) -> tuple[Tensor, Tensor]:
        """Numeric values on the model's scale, and ``log |dz/dy|``, (S, R) or (R,)."""
        return rows.y, torch.zeros_like(rows.y)

    def guess(self, rows: Rows) -> tuple[Tensor, Tensor] | None:
        """Means and variances (R, 1) of f from which the sites may start."""
        return None

    def expect(self, rows: Rows, p: Parameters) -> Callable[[Tensor, Tensor], Expectation]:
        """Give ``E[log p(y | f)]`` and its gradients as functions of the moments of f, by Gauss-Hermite quadrature.

        For f ~ N(m, v) the sum over nodes is differentiated itself, so that value and gradients agree exactly.
        """
        nodes, weights = normal_nodes(NODES)
        nodes, weights = nodes[:, None, None], weights[:, None, None]

        def expectation(mean: Tensor, cov: Tensor) -> Expectation:
            m, v = mean[..., 0], cov[..., 0, 0]
            if torch.is_grad_enabled():  # the sites are settled: only theta moves
                value = (weights * self.log_density(m + v.sqrt() * nodes, rows, p)).sum(0)
                return Expectation(value, mean, cov)
            with torch.enable_grad():
                m, v = m.detach().requires_grad_(), v.detach().requires_grad_()
                value = (weights * self.log_density(m + v.sqrt() * nodes, rows, p)).sum(0)
                slope, bend = torch.autograd.grad(value.sum(), (m, v))
            return Expectation(value.detach(), slope.unsqueeze(-1), -2 * bend[..., None, None])

        return expectation


@cache
def normal_nodes(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations under a standard normal."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())
