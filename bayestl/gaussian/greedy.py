"""Pivoted Cholesky: the few points that tell the most about many."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Pivoted(NamedTuple):
    """``K ~ rows' rows + diag(remaining)``, exact in the rows and columns of the pivots.

    `pivots` are in the order in which they were picked.
    """

    pivots: Int[Tensor, " r"]
    rows: Float[Tensor, "r n"]
    remaining: Float[Tensor, " n"]


def pivoted_cholesky(
    diagonal: Float[Tensor, " n"],
    column: Callable[[int], Float[Tensor, " n"]],
    rank: int,
    enough: Callable[[Float[Tensor, " n"], int], bool],
    weight: Float[Tensor, " n"] | None = None,
) -> Pivoted:
    """Pick, one after another, the point whose variance given those picked before is the largest.

    Greedy maximisation of the conditional variance (Burt, Rasmussen & van der Wilk 2020, arXiv:2008.00323) is Cholesky
    factorisation with pivoting (Harbrecht, Peters & Schneider 2012, doi 10.1016/j.apnum.2011.10.001). It ends with `rank`
    pivots, when the matrix has no more to tell (1e-12 of its largest entry), or when it is enough.

    Parameters
    ----------
    diagonal, column : of a positive semi-definite matrix that is never formed
    enough : whether to stop, given the conditional variances and the number of pivots
    weight : the choice is by conditional variance times weight
    """
    weight = torch.ones_like(diagonal) if weight is None else weight
    left, rows, pivots = diagonal.clone(), diagonal.new_empty(min(rank, len(diagonal)), len(diagonal)), list[int]()
    nothing = 1e-12 * diagonal.max()
    for j in range(len(rows)):
        i = int((weight * left).argmax())
        if left[i] <= nothing or enough(left, j):
            break
        row = (column(i) - rows[:j, i] @ rows[:j]) / left[i].sqrt()
        rows[j] = row
        left = (left - row.square()).clamp_min(0.0)
        left[i] = 0.0
        pivots.append(i)
    return Pivoted(torch.tensor(pivots, dtype=torch.int64), rows[: len(pivots)], left)
