"""Multi-task: all tasks are combinations of the same hidden functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import gpytorch
import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl import priors
from bayestl.errors import expect_whole
from bayestl.kernels import Kernel, as_kernel
from bayestl.models.base import Model, Term, constants, noise
from bayestl.priors import Theta
from bayestl.scaling import Layout

FULL_RANK_LIMIT = 5
LOW_RANK = 3


@dataclass(frozen=True, init=False)
class MultiTask(Model):
    r"""Coregionalisation: ``f_o(x) = m_o + sum_q A_oq g_q(x) + kappa_o h_o(x)``, ``g_q ~ GP(0, k)``, ``h_o ~ GP(0, k')``.

    ``Cov[f_o(x), f_o'(x')] = (A A^T)_oo' k(x, x') + kappa_o^2 1[o = o'] k'(x, x')`` (Alvarez, Rosasco & Lawrence 2012,
    doi 10.1561/2200000036), with ``m_o ~ N(0, 1)`` integrated out.

    The shared functions and the private ones have length scales of their own, so a task that has nothing in common
    with the rest keeps its own smoothness as well. Up to five functions (a task of C classes has C; the others one, `Hurdle`
    two), if `rank` is left open, ``A A^T`` is ``s_o C_oo' s_o'`` with C a
    correlation matrix written in canonical partial correlations ``tanh(N(0, 1.5^2))`` (Lewandowski, Kurowicka & Joe
    2009, doi 10.1016/j.jmva.2009.04.008): either sign is as likely, and strong correlations are favoured (a third of
    the mass lies beyond 0.9), as they are the rule between sources of one property. Beyond, A is lower-trapezoidal
    with `rank` columns, the tasks with the most rows first: ``A_qq ~ LogNormal(-0.2, 0.5)`` (a function's size,
    below ``s_o``, for several add up to a task), below the diagonal ``N(0, 1)`` (of that size, of either sign). Both forms
    are identified: no rotation of the hidden functions leaves them unchanged.

    Priors, on values standardised per task: ``s_o ~ LogNormal(0.2, 0.8)``, ``kappa_o ~ LogNormal(-2.5, 1)`` (a
    twelfth of the spread: imperfect correlations leave room for what is a task's own already; the functions of one
    task share it), ``noise_o ~ LogNormal(-2, 1)``. With fewer hidden functions than tasks ``kappa_o ~ LogNormal(0,
    1)``: a task that the hidden functions have nothing to do with must be able to be all its own (beside ten
    irrelevant sources the smaller prior cost half again in RMSE, and coverage fell to 0.55).

    Parameters
    ----------
    kernel : of the shared and of the private functions
    rank : number of hidden functions; by default one for each function of a task up to five of them, three beyond
    """

    kernel: Kernel
    rank: int | None

    def __init__(self, kernel: Kernel | gpytorch.kernels.Kernel | None = None, rank: int | None = None) -> None:
        if rank is not None:
            expect_whole("rank", rank)
        object.__setattr__(self, "kernel", as_kernel(kernel))
        object.__setattr__(self, "rank", None if rank is None else int(rank))

    def prior(self, layout: Layout) -> Theta:
        count = len(layout.outputs)
        theta = noise(layout)
        if self.rank is None and count <= FULL_RANK_LIMIT:
            rank = count
            amplitude = pyro.sample("amplitude", priors.amplitude(count))
            pairs = count * (count - 1) // 2
            partial = (
                pyro.sample("partial_correlation", priors.partial_correlations(1.5, pairs))
                if pairs
                else amplitude[..., :0]
            )
            loading = amplitude.unsqueeze(-1) * correlation_factor(partial, count)
        else:
            rank = min(self.rank or LOW_RANK, count)
            below = count * rank - rank * (rank + 1) // 2
            diagonal = pyro.sample("loading_diagonal", priors.log_normal(-0.2, 0.5, rank))
            entries = pyro.sample("loading_entry", priors.normal(0.0, 1.0, below)) if below else diagonal[..., :0]
            trapezoid = lower_trapezoid(diagonal, entries, count)
            loading = trapezoid[..., torch.tensor(layout.by_count).argsort(), :]
        theta["loading"] = pyro.deterministic("loading", loading, event_dim=2)
        # With fewer hidden functions than tasks, whatever they do not give is private.
        own = -2.5 if rank >= count else 0.0
        theta["private"] = pyro.sample("private", priors.log_normal(own, 1.0, len(layout.tasks)))
        return theta | self.kernel.prior("shared", layout) | self.kernel.prior("separate", layout)

    def terms(self, theta: Theta, layout: Layout) -> Iterator[Term]:
        a = theta["loading"]
        yield constants(layout)
        yield Term(a @ a.mT, self.kernel, "shared")
        private = theta["private"][..., torch.tensor(layout.owner)]
        yield Term(torch.diag_embed(private.square()), self.kernel, "separate")

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        return {"noise": ("task",), "private": ("task",), "loading": ("task", "factor")}


def correlation_factor(partial: Float[Tensor, "*#draws pairs"], count: int) -> Float[Tensor, "*#draws T T"]:
    """Cholesky factor of the correlation matrix with these canonical partial correlations (rows of the lower triangle).

    ``L_ij = p_ij prod_{k<j} sqrt(1 - p_ik^2)``, ``L_ii = prod_{k<i} sqrt(1 - p_ik^2)``.
    """
    rows, columns = torch.tril_indices(count, count, -1)
    p = partial.new_zeros(*partial.shape[:-1], count, count)
    p[..., rows, columns] = partial
    remaining = (1 - p.square()).clamp_min(1e-12).sqrt().cumprod(-1)
    before = torch.cat([torch.ones_like(remaining[..., :1]), remaining[..., :-1]], -1)
    return p * before + torch.diag_embed(before.diagonal(dim1=-2, dim2=-1))


def lower_trapezoid(
    diagonal: Float[Tensor, "*#draws Q"], below: Float[Tensor, "*#draws entries"], count: int
) -> Float[Tensor, "*#draws T Q"]:
    """(T, Q) matrix, zero above its diagonal, from the diagonal and the entries below it, row by row."""
    rank = diagonal.shape[-1]
    out = diagonal.new_zeros(*diagonal.shape[:-1], count, rank)
    rows, columns = torch.tril_indices(count, rank, -1)
    out[..., rows, columns] = below
    out[..., torch.arange(rank), torch.arange(rank)] = diagonal
    return out
