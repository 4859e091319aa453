"""A new task for a latent-task posterior: its embedding drawn from the population, and weighed by its rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.errors import DataError
from bayestl.gaussian.exact import Conditioned, GaussianMarginal
from bayestl.inference.variational import normal_points
from bayestl.models.base import Problem
from bayestl.models.latent import LatentTask
from bayestl.priors import Theta

CANDIDATES = 16_384
ROUNDS = 3


def extend(
    model: LatentTask,
    problem: Problem,
    theta: Theta,
    solved: Conditioned,
    more: Problem | None,
    descriptors: tuple[float, ...] | None,
    draws: int,
    seed: int,
) -> Theta:
    """Give every draw of theta a new task: from the population, and by importance resampling if there are rows of it.

    `more` is the problem with the new task and its rows, at the end. The weight of a candidate is the density of the new
    rows given the old ones, theta and the candidate; candidates are proposed by the population first, then by normals
    fitted to what was found (population Monte Carlo, Cappe et al. 2004, doi 10.1198/106186004X12803).
    """
    size = len(next(iter(theta.values())))
    dim = theta["embedding"].shape[-1] + 1
    if more is None:
        owner = torch.arange(draws) % size
        white = normal_points(draws, dim, seed)
        return model.with_new_task(_take(theta, owner), problem.layout, descriptors, white)
    each = max(16, CANDIDATES // size)
    owner = torch.arange(size).repeat_interleave(each)
    centre, spread = torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    for round_ in range(ROUNDS):
        points = normal_points(size * each, dim, seed + round_)
        white = centre + points @ spread.mT
        log_weight = (
            _evidence(model, problem, theta, solved, more, descriptors, white.reshape(size, each, dim)).reshape(-1)
            - 0.5 * white.square().sum(-1) + 0.5 * points.square().sum(-1) + torch.linalg.slogdet(spread)[1]
        )  # fmt: skip
        weight = torch.softmax(log_weight, 0)
        effective = 1.0 / weight.square().sum().item()
        if effective > 4 * draws or round_ == ROUNDS - 1:
            break
        centre = weight @ white
        offset = white - centre
        cov = (weight[:, None] * offset).mT @ offset + 1e-4 * torch.eye(dim, dtype=torch.float64)
        spread = 1.3 * torch.linalg.cholesky(cov)
    if effective < draws / 4:
        warnings.warn(
            f"The new task's rows single out few of the candidate embeddings (effective sample size {effective:.0f}). "
            "Refit with the task among the data for a better answer.",
            stacklevel=4,
        )
    # Systematic resampling: every candidate is drawn its expected number of times, rounded up or down.
    grid = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    chosen = torch.searchsorted(weight.cumsum(0), grid).clamp_max(len(weight) - 1)
    return model.with_new_task(_take(theta, owner[chosen]), problem.layout, descriptors, white[chosen])


def _take(theta: Theta, owner: Tensor) -> Theta:
    return {name: value[owner] for name, value in theta.items()}


def _evidence(
    model: LatentTask,
    problem: Problem,
    theta: Theta,
    solved: Conditioned,
    more: Problem,
    descriptors: tuple[float, ...] | None,
    white: Float[Tensor, "S J size"],
) -> Float[Tensor, "S J"]:
    """``log p(y_new | y, theta_s, candidate_j)``."""
    n = len(problem.values)
    new = more.subset(torch.arange(n, len(more.values)))
    count = len(new.values)
    out = []
    for s in range(len(white)):
        one = {name: value[s].unsqueeze(0) for name, value in theta.items()}
        candidates = model.with_new_task(one, problem.layout, descriptors, white[s])
        cross = model.covariance(candidates, new.points, problem.points, more.layout)  # (J, count, n)
        factor, alpha = solved.factor[s], solved.alpha[s]
        half = torch.linalg.solve_triangular(factor, cross.reshape(-1, n).mT, upper=False)
        half = half.mT.reshape(-1, count, n)
        covariance = new.observed_covariance(candidates) - half @ half.mT
        out.append(GaussianMarginal(cross @ alpha, covariance).log_prob(new.values))
    return torch.stack(out)


def describe_new(table: pd.DataFrame | None, name: str, descriptors: Mapping[str, float] | None) -> pd.DataFrame | None:
    """Add the new task's line to the table of descriptors."""
    if table is None:
        if descriptors is not None:
            raise DataError("The model was fitted without task descriptors; leave `descriptors` out.")
        return None
    if descriptors is None or set(map(str, table.columns)) != set(descriptors):
        raise DataError(
            f"Give `descriptors` for the new task: a mapping with keys {', '.join(map(str, table.columns))}."
        )
    values = [float(descriptors[str(column)]) for column in table.columns]
    if not all(math.isfinite(value) for value in values):
        raise DataError("`descriptors` must be finite numbers.")
    return pd.concat([table, pd.DataFrame([values], index=[name], columns=table.columns)])
