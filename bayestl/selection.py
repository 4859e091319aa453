"""Large tables: which rows teach theta, and which inducing pairs stand for the rest."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bayestl.columns import DIGITS, marks_of
from bayestl.gaussian.greedy import pivoted_cholesky
from bayestl.gaussian.sites import step_from
from bayestl.models.problem import Problem
from bayestl.priors import Theta
from bayestl.scaling import Pairs
from bayestl.table import TaskData

CANDIDATES = 8192
SCARCE = 200  # rows
PAIRS = 512
NEAR = 256  # rows of the scarcest task that the choice of pairs looks at


def shares(counts: NDArray[np.int64], budget: int, cost: NDArray[np.int64] | int = 1) -> NDArray[np.int64]:
    """Split a budget over tasks: a scarce task keeps all of its rows, the rich ones share the rest equally.

    A row of a task costs as much as it has functions. A task of at most 200 rows may take three quarters of what is left.
    """
    cost = np.broadcast_to(cost, counts.shape)
    out = np.zeros_like(counts)
    left = budget
    for rank, t in enumerate(np.argsort(counts, kind="stable")):
        fair = left // (len(counts) - rank)
        allowed = max(fair, 3 * left // 4) if counts[t] <= SCARCE else fair
        out[t] = max(min(counts[t], allowed // cost[t]), min(counts[t], 1))
        left = max(0, left - out[t] * cost[t])
    return out


def learning_rows(
    data: TaskData, x: Float[Tensor, "n columns"], cost: NDArray[np.int64], budget: int, seed: int
) -> NDArray[np.bool_]:
    """Choose the rows that theta is learned from: all of a scarce task, and of a rich one those near the scarcest and others.

    Half of a rich task's rows are the nearest to rows of the scarcest task, taken in turn, for what relates the two is seen
    there; the other half is drawn at random. All rich tasks are asked about the same inputs, where they have them: what they
    tell together is seen only where they were observed together. `cost` is the number of functions that an observation of
    each task depends on.
    """
    rng = np.random.default_rng(seed)
    counts = np.array([int((data.task_index == t).sum()) for t in range(len(data.tasks))])
    wanted = shares(counts, budget, cost)
    scarce = int(np.argmin(counts))
    order = np.lexsort((data.values, shuffled(x, rng)))
    anchors = order[data.task_index[order] == scarce]
    chosen = np.zeros(len(data), dtype=bool)
    for t, count in enumerate(wanted):
        own = order[data.task_index[order] == t]
        if count == len(own) or t == scarce:
            chosen[own[:count]] = True
            continue
        pool = own[:20_000]
        nearest = torch.cdist(x[anchors[: max(1, count // 2)]], x[pool]).argsort(-1)[:, :8].numpy()
        near = list(dict.fromkeys(pool[nearest.T.ravel()].tolist()))[: count // 2]
        chosen[near] = True
        rest = own[~chosen[own]]
        chosen[rest[: count - len(near)]] = True
    return chosen


def marks_at(x: Float[Tensor, "n columns"]) -> NDArray[np.uint64]:
    """A mark for each standardised point, the same whatever its unit was and however it was rounded."""
    return marks_of(x.numpy().round(DIGITS))


def shuffled(x: Float[Tensor, "n columns"], rng: np.random.Generator) -> NDArray[np.uint64]:
    """Random numbers to sort points by, the same for the same point."""
    return np.multiply(marks_at(x), np.uint64(2 * int(rng.integers(2**62)) + 1))


def typical(theta: Theta, keep: bool = False) -> Theta:
    """The median of the draws, entry by entry; with their dimension, of length one, where it is to be kept."""
    return {name: value.median(0, keepdim=keep).values for name, value in theta.items()}


def choose_pairs(
    problem: Problem, theta: Theta, most: int, seed: int, all_of_them: bool = False
) -> tuple[Pairs, float]:
    """Pick inducing (x, output) pairs among the points of a problem, greedily by conditional variance: `pivoted_cholesky`.

    They are enough when what they leave untold is a hundredth of what the rows leave uncertain: with w the precisions of the
    rows, ``sum_i w_i untold_i <= m / 100``, for m is about ``sum_i w_i Var[f_i | y]`` once the rows determine what is told.

    Points that the scarcest task depends on count up to five times: the weight of a candidate is one plus four times its
    largest squared correlation with a point of that task, where it has less than a tenth of the points.

    `all_of_them` asks for `most` even so. Returns the pairs, in the order of the outputs, and the share of the variance of the
    candidates that they leave untold.
    """
    rng = np.random.default_rng(seed)
    model, layout, points = problem.model, problem.layout, problem.points
    outputs = points.output.numpy()
    counts = np.bincount(outputs, minlength=layout.first[-1])
    wanted = shares(counts, max(CANDIDATES, 8 * most))
    own = [np.flatnonzero(outputs == o) for o in range(len(wanted))]
    index = np.concatenate(
        [i[np.argsort(shuffled(points.x[i], rng), kind="stable")[:count]] for i, count in zip(own, wanted, strict=True)]
    )
    pool = points.take(torch.from_numpy(index))
    diagonal = model.variance(theta, pool, layout).expand(len(index))
    weight = torch.ones_like(diagonal)
    present = np.flatnonzero(counts)
    scarce = present[np.argmin(counts[present])]
    if counts[scarce] < 0.1 * counts.sum():
        target = pool.take(torch.from_numpy(np.flatnonzero(outputs[index] == scarce)[:NEAR]))
        sizes = diagonal.unsqueeze(-1) * model.variance(theta, target, layout).expand(len(target.output))
        correlation = model.covariance(theta, pool, target, layout).square() / sizes
        weight = 1 + 4 * correlation.amax(-1)

    def column(i: int) -> Tensor:
        return model.covariance(theta, pool.take(torch.tensor([i])), pool, layout)[0]

    # A candidate stands for all rows of its task, those of a table that is not in memory too.
    rows = np.concatenate(
        [np.full(layout.first[t + 1] - layout.first[t], n) for t, n in enumerate(problem.data.counts)]
    )
    stands_for = (rows / np.maximum(wanted, 1))[outputs[index]]
    precision = row_precisions(problem, theta)[torch.from_numpy(index)] * torch.from_numpy(stands_for)

    def enough(left: Tensor, picked: int) -> bool:
        return not all_of_them and float(precision @ left) <= 0.01 * picked

    found = pivoted_cholesky(diagonal, column, most, enough, weight)
    chosen = found.pivots.sort().values  # the pool lies by output
    return pool.take(chosen), float(found.remaining.sum() / diagonal.sum())


@torch.no_grad()
def row_precisions(problem: Problem, theta: Theta) -> Float[Tensor, " n"]:
    """What a row says of each function that it depends on: the inverse variance of its noise, or of its first site."""
    one = {name: value.unsqueeze(0) for name, value in theta.items()}
    out = torch.zeros(len(problem.points.output), dtype=torch.float64)
    for piece in problem.pieces:
        p = problem.parameters_of(one, piece.task)
        if piece.law.exact:
            noise = piece.law.noise_variance(piece.rows, p)  # type: ignore[attr-defined]
            out[piece.where[:, 0]] = 1 / noise.reshape(-1).expand(len(piece.at))
            continue
        x, outputs = problem.points.x[piece.where[:, 0]], problem.points.output[piece.where[0]].tolist()
        cov = problem.model.among(one, x, outputs, problem.layout).expand(1, len(x), -1, -1)
        mean = torch.zeros(cov.shape[:-1], dtype=torch.float64)
        if (guess := piece.law.guess(piece.rows)) is not None:
            mean, cov = guess[0].expand_as(mean), torch.diag_embed(guess[1].expand_as(mean))
        site = step_from(mean, piece.law.expect(piece.rows, p)(mean, cov))
        out[piece.where] = site.precision[0].diagonal(dim1=-2, dim2=-1)
    return out
