"""Pareto-smoothed importance sampling (Vehtari et al. 2024, arXiv:1507.02646)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

HUGE = 1e300  # log ratio beyond which there is nothing
LEAST = 5  # ratios in a tail that can be fitted


def smoothed(log_ratios: Float[Tensor, "S n"]) -> tuple[Float[Tensor, "S n"], Float[Tensor, " n"]]:
    """Smoothed log weights that sum to one over the draws, and k-hat, the shape of the tail, column by column.

    The largest ratios, a fifth of them or ``3 sqrt(S)``, are replaced by the expected order statistics of the generalised Pareto
    law that fits them. k-hat is NaN, and nothing is replaced, where there are fewer than 21 draws; it is ``-inf`` where all
    ratios are equal, and ``inf`` where a few outweigh all others beyond rounding, as those do that are infinite, or no numbers.
    """
    count = len(log_ratios)
    log_ratios = log_ratios.nan_to_num(nan=HUGE, posinf=HUGE, neginf=-HUGE)
    log_weight = log_ratios - log_ratios.amax(0)
    tail = math.ceil(min(0.2 * count, 3 * math.sqrt(count)))
    k = torch.full(log_ratios.shape[1:], math.nan, dtype=torch.float64)
    if tail >= LEAST:
        order = log_weight.argsort(0)
        top, edge = order[-tail:], log_weight.gather(0, order[-tail - 1 : -tail]).exp()
        excess = log_weight.gather(0, top).exp() - edge
        # Fewer than the tail where draws repeat: the tail is what lies strictly above its edge.
        above = (excess > torch.finfo(excess.dtype).tiny).sum(0)
        k = torch.where(above == 0, -math.inf, torch.full_like(k, math.inf))
        for size in above[above >= LEAST].unique().tolist():
            own = (above == size).nonzero().squeeze(-1)
            quantile, k[own] = smoothed_tail(excess[-size:, own])
            replaced = (edge[:, own] + quantile).log().clamp_max(0.0)
            log_weight[:, own] = log_weight[:, own].scatter(0, top[-size:, own], replaced)
    return log_weight - log_weight.logsumexp(0), torch.where((log_ratios >= HUGE).any(0), math.inf, k)


def smoothed_tail(excess: Float[Tensor, "M n"]) -> tuple[Float[Tensor, "M n"], Float[Tensor, " n"]]:
    """Expected order statistics of the generalised Pareto law that fits sorted positive values, and its shape."""
    shape, scale = fit_pareto(excess)
    p = ((torch.arange(len(excess), dtype=torch.float64) + 0.5) / len(excess)).unsqueeze(-1)
    flat = shape.abs() < 1e-8
    steep = scale * torch.expm1(-shape * torch.log1p(-p)) / torch.where(flat, 1.0, shape)
    return torch.where(flat, -scale * torch.log1p(-p), steep), shape


def fit_pareto(excess: Float[Tensor, "M n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Shape and scale of the generalised Pareto law of sorted positive values (Zhang & Stephens 2009, doi
    10.1198/tech.2009.08017).

    The shape is drawn towards 0.5 with the weight of ten values, as by Vehtari et al.
    """
    count = len(excess)
    grid = 30 + int(math.sqrt(count))
    steps = 1 - torch.sqrt(grid / (torch.arange(1, grid + 1, dtype=torch.float64) - 0.5))
    b = steps.unsqueeze(-1) / (3 * excess[int(count / 4 + 0.5) - 1]) + 1 / excess[-1]
    mean_log = torch.log1p(-b.unsqueeze(1) * excess).mean(1)  # (grid, n)
    height = count * ((-b / mean_log).log() - mean_log - 1)
    b = (height.softmax(0) * b).sum(0)
    shape = torch.log1p(-b * excess).mean(0)
    scale = -shape / b
    return (count * shape + 5) / (count + 10), scale


def pareto_k(log_ratios: Float[Tensor, " S"]) -> float:
    """k-hat of one set of importance ratios; those that are not finite are left out."""
    return float(smoothed(log_ratios[log_ratios.isfinite()].unsqueeze(-1))[1])


def reliable(draws: int) -> float:
    """k-hat below which so many draws can be reweighted: ``min(1 - 1 / log10(S), 0.7)`` (Vehtari et al. 2024, sec. 3.2.4)."""
    return min(1 - 1 / math.log10(max(draws, 11)), 0.7)


def resampled(weight: Float[Tensor, " n"], draws: int) -> Int[Tensor, " draws"]:
    """Systematic resampling: each is drawn its expected number of times, rounded up or down (weights sum to one)."""
    grid = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    return torch.searchsorted(weight.cumsum(0), grid).clamp_max(len(weight) - 1)
