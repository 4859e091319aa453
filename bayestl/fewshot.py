"""A new task for a latent-task posterior: its embedding drawn from the population, and weighed by its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.columns import Task
from bayestl.errors import DataError, listed, notice
from bayestl.gaussian.conditional import Conditional
from bayestl.gaussian.exact import GaussianMarginal
from bayestl.inference.variational import normal_points
from bayestl.models.latent import LatentTask
from bayestl.models.problem import Problem
from bayestl.priors import Theta
from bayestl.psis import resampled
from bayestl.regression import Regression, given
from bayestl.scaling import Layout, Scaling
from bayestl.table import TaskData

CANDIDATES = 16_384
ROUNDS = 3
BATCH_BYTES = 1e8  # of the covariances of candidates that are weighed together


DETAILS = ("exposure", "lower", "upper")  # of a likelihood: what each task has of its own
LEARNED = ("start", "typical", "centre", "scale")  # from the values


def widen(
    data: TaskData, scaling: Scaling, layout: Layout, name: str, rows: TaskData | None,
    descriptors: Mapping[str, float] | None,
) -> tuple[int, TaskData, Scaling]:  # fmt: skip
    """Data and scaling with one more task, without its rows, after a task that is observed alike, which is named too.

    Raises
    ------
    DataError
        When nothing is known of the new task's scale, and for rows or descriptors that do not fit.
    """
    like = alike(data, rows)
    own = np.array([layout.contrasts(t) for t in like])
    location, scale = scaling.location[own], scaling.scale[own]
    donor = data.tasks[like[0]]
    if donor.likelihood.kind == "numeric" and (np.ptp(scale[:, -1]) > 0 or np.ptp(location[:, -1]) > 0):
        raise DataError(
            "The tasks differ in unit (or declare none, and differ in spread by more than a factor of ten) and are "
            "standardised each by itself, so nothing is known of the scale of a new one. Bring them to one unit and "
            "declare it: TaskData.from_long(..., units={...}). Where their warps learn something from each task (a Hurdle's "
            "does), fix it: Hurdle(Gaussian(Softplus(1.0))), Log(offset=0.0), YeoJohnson(power, centre, scale)."
        )
    table = describe_new(data.descriptors, name, descriptors)
    if rows is not None and rows.tasks[0].unit not in (None, donor.unit):
        raise DataError(f"`rows` are in {rows.tasks[0].unit!r}; the other tasks are in {donor.unit!r}. Convert them.")
    added = named(donor, name, None if rows is None else rows.tasks[0])
    scaling = replace(
        scaling,
        location=np.append(scaling.location, _common(location)),
        scale=np.append(scaling.scale, _common(scale)),
    )
    return like[0], replace(data, tasks=(*data.tasks, added), descriptors=table), scaling


def _common(values: np.ndarray) -> np.ndarray:
    """Means over the tasks, exactly what they are where all are the same: a mean of equals may be off by a rounding."""
    return np.where(np.ptp(values, axis=0) == 0, values[0], values.mean(0))


def alike(data: TaskData, rows: TaskData | None) -> list[int]:
    """Positions of the tasks that are observed as the new one, of these rows, is; by default as the first task is.

    Of tasks with classes those that have the classes of the new one, of which its few rows may show only some: its own where
    there is such a task, else those of the only kind of tasks that have them all.
    """
    kind = data.tasks[0] if rows is None else rows.tasks[0]
    found = [t for t, task in enumerate(data.tasks) if _make(task.likelihood) == _make(kind.likelihood)]
    told = ""
    if kind.levels is not None:
        shown = set(kind.levels) if rows is None else {kind.levels[int(code)] for code in np.unique(rows.values)}
        told = f", classes {listed(sorted(shown, key=str))}"
        have = {t: frozenset(data.tasks[t].levels or ()) for t in found}
        fitting = {own for own in have.values() if shown <= own}
        exact = [own for own in (frozenset(kind.levels), frozenset(shown)) if own in fitting]
        if not exact and len(fitting) > 1:
            which = [
                f"{data.tasks[t].name!r} ({listed(list(data.tasks[t].levels or ()))})"
                for t in found
                if shown <= have[t]
            ]
            raise DataError(
                f"The rows show the classes {listed(sorted(shown, key=str))}, which several kinds of tasks have: "
                f"{listed(which)}. Give rows that show all classes of the new task."
            )
        fitting = set(exact[:1]) or fitting
        found = [t for t in found if have[t] in fitting]
    if not found:
        raise DataError(
            f"None of the tasks is observed as the new one is ({kind.likelihood!r}{told}), so nothing is known of its scale. "
            "Refit with the new task's rows among the data."
        )
    return found


def named(donor: Task, name: str, kind: Task | None) -> Task:
    """The new task: as the donor, with limits and exposures of its own."""
    own = (
        {} if kind is None else {key: getattr(kind.likelihood, key) for key in DETAILS if hasattr(kind.likelihood, key)}
    )
    return replace(donor, name=name, likelihood=replace(donor.likelihood, **own))


def _make(law: object) -> object:
    """What a likelihood is, without what tasks have of their own and what was learned from their values."""
    if not is_dataclass(law):
        return law
    held = {f.name: _make(getattr(law, f.name)) for f in fields(law) if f.name not in (*DETAILS, *LEARNED)}
    return type(law), held


def extend(
    model: LatentTask,
    old: Regression,
    alone: Problem | None,
    task: Task,
    donor: int,
    descriptors: tuple[float, ...] | None,
    draws: int,
    seed: int,
) -> tuple[Theta, Tensor]:
    """Give every draw of theta a new task: from the population, and by importance resampling if there are rows of it.

    `alone` is the problem of the new task's rows, `donor` the task whose likelihood's parameters it takes. The weight of a
    candidate is the density of the new rows given the old ones, theta and the candidate (the evidence lower bound, where
    they are not normal); candidates are proposed by the population first, then by normals fitted to what was found
    (population Monte Carlo, Cappe et al. 2004, doi 10.1198/106186004X12803). Returns theta, and which old draw each belongs to.
    """
    layout = old.problem.layout
    name = layout.tasks[donor]
    theta = dict(old.theta)
    for key in tuple(theta):
        if key.startswith(f"{name}."):
            theta[f"{task.name}{key.removeprefix(name)}"] = theta[key]
    outputs, noisy = len(task.likelihood.functions(task.levels)), task.likelihood.noisy
    size, dim = old.draws, model.white_size(theta, outputs, noisy)

    def grown(part: Theta, white: Tensor) -> Theta:
        return model.with_new_task(part, descriptors, white, outputs, noisy)

    if alone is None:
        # Each old draw takes a block of the quasi-random normals, which covers their law; those of one block come far apart.
        owner = torch.arange(draws) * size // draws
        place = torch.arange(draws) - torch.searchsorted(owner, owner)
        order = ((place + owner) % owner.bincount(minlength=size)[owner]).argsort(stable=True)
        return grown(_take(theta, owner[order]), normal_points(draws, dim, seed)[order]), owner[order]
    each = max(16, CANDIDATES // size)
    most = max(
        1, int(BATCH_BYTES / (8 * len(alone.points.output) * (len(alone.points.output) + len(old.support.output))))
    )
    owner = torch.arange(size).repeat_interleave(each)
    centre, spread = torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    for round_ in range(ROUNDS):
        points = normal_points(size * each, dim, seed + round_)
        white = centre + points @ spread.mT
        evidence = []
        for part, _, solved in old.batches():
            for i, s in enumerate(range(size)[part]):
                for own in white[s * each : (s + 1) * each].split(most):
                    candidates = grown(_take(theta, torch.tensor([s])), own)
                    evidence.append(_evidence(old, solved[i], alone, candidates))
        log_weight = (
            torch.cat(evidence)
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
        notice(
            f"The new task's rows single out few of the candidate embeddings (effective sample size {effective:.0f}). "
            "Refit with the task among the data for a better answer."
        )
    chosen = resampled(weight, draws)  # in order of what was resampled; any beginning of them shall be a good sample
    chosen = chosen[torch.randperm(draws, generator=torch.Generator().manual_seed(seed))]
    return grown(_take(theta, owner[chosen]), white[chosen]), owner[chosen]


def _take(theta: Theta, owner: Tensor) -> Theta:
    return {name: value[owner] for name, value in theta.items()}


def _evidence(old: Regression, solved: Conditional, alone: Problem, candidates: Theta) -> Float[Tensor, " J"]:
    """``log p(y_new | y, theta, candidate)`` of candidates that share one draw of theta."""
    law, volume, _ = given(alone, candidates, solved, old.support)
    if not alone.sites:
        return GaussianMarginal(law.mean, law.covariance).log_prob(law.values) + volume
    with torch.no_grad():
        return alone.settle(candidates, None, 1e-4, 30, law=law)[0]


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
