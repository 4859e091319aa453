"""Counts: Poisson and negative binomial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayestl import priors
from bayestl.errors import RowsError, listed
from bayestl.likelihoods.base import Kind, Likelihood, Parameters, Rows
from bayestl.likelihoods.predictive import CountMixture, NormalMixture, log_count
from bayestl.likelihoods.warps import Log
from bayestl.priors import Theta


@dataclass(frozen=True)
class _Count(Likelihood):
    """Counts with a log rate: ``E[y] = exposure exp(log(mean rate) + f)``."""

    exposure: str | None = None
    kind: ClassVar[Kind] = "count"

    def columns(self) -> tuple[str | None, str | None]:
        return (self.exposure, None)

    def constants(self) -> tuple[float, float]:
        return (1.0, math.nan)

    def check(self, values: NDArray[np.float64], details: NDArray[np.float64], task: str) -> None:
        if (odd := (values < 0) | (values != np.floor(values))).any():
            raise RowsError(
                f"Counts must be whole numbers, zero or more; task {task!r} holds {listed(values[odd].tolist(), 3)}.",
                odd,
            )
        self.check_details(details, task)

    def check_details(self, details: NDArray[np.float64], task: str) -> None:
        if (odd := ~(details[:, 0] > 0)).any():
            where = f" (column {self.exposure!r})" if isinstance(self.exposure, str) else ""
            raise RowsError(f"The exposure of task {task!r}{where} must be given and positive in every row.", odd)

    def rate(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.float64]:
        return values / details[:, 0]

    def atomic(self, values: NDArray[np.float64], details: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.ones(len(values), dtype=bool)

    def anchor(
        self, values: NDArray[np.float64], details: NDArray[np.float64], levels: Sequence[Any] | None
    ) -> tuple[list[float], list[float]]:
        return [math.log((values.sum() + 0.5) / details[:, 0].sum())], [1.0]

    def guess(self, rows: Rows) -> tuple[Tensor, Tensor]:
        seen = rows.y + 0.5
        mean = ((seen / rows.details[:, 0]).log() - rows.location) / rows.scale
        return mean.unsqueeze(-1), (1 / (1 + seen)).unsqueeze(-1)

    def shape(self, p: Parameters) -> Tensor | None:
        """Shape of the gamma law that over-disperses the rate, None for none."""
        return None

    def log_rate(self, f: Tensor, rows: Rows) -> Tensor:
        """Log of the expected count."""
        return rows.location + rows.scale * f + rows.details[:, 0].log()

    def log_density(self, f: Tensor, rows: Rows, p: Parameters) -> Tensor:
        return log_count(rows.y, self.log_rate(f, rows), self.shape(p))

    def predictive(
        self, mean: Tensor, cov: Tensor, noise: Tensor | None, rows: Rows, p: Parameters
    ) -> CountMixture | NormalMixture:
        centre, sd = self.log_rate(mean[..., 0], rows), rows.scale * cov[..., 0, 0].clamp_min(0.0).sqrt()
        if noise is None:  # the rate itself
            return NormalMixture(centre, sd, 0.0, 1.0, warp=Log())
        shape = self.shape(p)
        return CountMixture(centre, sd, None if shape is None else shape.expand(len(centre), 1))

    def draw(self, f: Tensor, noise: Tensor | None, rows: Rows, p: Parameters, generator: torch.Generator) -> Tensor:
        rate = self.log_rate(f[..., 0], rows).exp()
        if noise is None:
            return rate
        shape = self.shape(p)
        if shape is not None:
            shape = shape.expand_as(rate).contiguous()
            rate = rate * torch._standard_gamma(shape, generator=generator) / shape
        return torch.poisson(rate, generator=generator)


@dataclass(frozen=True)
class Poisson(_Count):
    """``y ~ Poisson(exposure exp(eta))``, ``eta = log(mean rate) + f``.

    Parameters
    ----------
    exposure : name of the column that holds how long, or how much, was counted; by default 1
    """


@dataclass(frozen=True)
class NegativeBinomial(_Count):
    """Over-dispersed counts: mean ``mu = exposure exp(eta)``, variance ``mu + dispersion mu^2``.

    ``dispersion ~ LogNormal(log 0.3, 1.5)``; towards 0 it is the `Poisson`.
    """

    def prior(self, task: str) -> Theta:
        site = f"{task}.dispersion"
        return {site: pyro.sample(site, priors.log_normal(math.log(0.3), 1.5))}

    def shape(self, p: Parameters) -> Tensor:
        return 1.0 / p["dispersion"]
