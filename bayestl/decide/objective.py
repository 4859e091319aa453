"""What is wanted, as a combination of latent functions, and what a measurement of one task has to do with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from bayestl.decide.lookahead import Beliefs
from bayestl.gaussian.exact import robust_cholesky
from bayestl.likelihoods.base import Likelihood, Parameters, Rows
from bayestl.likelihoods.classes import normal_cloud
from bayestl.posterior import Posterior
from bayestl.priors import Theta

CLOUD = 64  # points that a function of several latent functions is linearised over
FARTHEST = 6.0  # units of the functions, within which it is asked whether an observable bends


@dataclass(frozen=True, eq=False)
class Objective:
    """What is wanted of a candidate, as a combination of latent functions: ``o = offset + weights . f``, larger is better.

    Where the target has one latent function, which its observable rises with, o is that function (on the model's scale), or
    minus it: what is best does not change with the scale. Else o is the best linear approximation of the observable's mean u
    under the present beliefs, ``f ~ N(m, L L')``: ``weights = L^-T E[e u(m + L e)] = E[du/df]`` (Stein's lemma), so that its
    covariance with any function is that of u, exactly.

    Attributes
    ----------
    outputs : the latent functions
    function : u, of functions (W, R, k) under W draws of theta, in the user's units
    sign : 1, or -1 where less is better
    rising : whether o is the only function
    size : of u in the user's units, by which it is divided where it is approximated: its spread where functions are standard
    unit : of u
    limits : between which u lies
    name, verb : of the target, and what is wanted of it, to be said
    """

    outputs: list[int]
    function: Callable[[Tensor], Tensor]
    sign: float = 1.0
    rising: bool = True
    size: float = 1.0
    unit: str = ""
    name: str = ""
    verb: str = "raise"
    limits: tuple[float, float] = (-np.inf, np.inf)

    def linear(
        self, mean: Float[Tensor, "W R k"], cov: Float[Tensor, "W R k k"]
    ) -> tuple[Float[Tensor, "W R"], Float[Tensor, "W R k"]]:
        """Offset and weights."""
        if self.rising:
            return torch.zeros_like(mean[..., 0]), torch.full_like(mean, self.sign)
        typical = cov.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
        factor = torch.linalg.cholesky_ex(cov + 1e-9 * typical[..., None, None] * torch.eye(mean.shape[-1]).double())[0]
        level, slope = torch.zeros_like(mean[..., 0]), torch.zeros_like(mean)
        for e in normal_cloud(CLOUD, mean.shape[-1]):
            u = self.sign / self.size * self.function(mean + factor @ e) / CLOUD
            level, slope = level + u, slope + u.unsqueeze(-1) * e
        weights = torch.linalg.solve_triangular(factor.mT, slope.unsqueeze(-1), upper=True).squeeze(-1)
        return level - (weights * mean).sum(-1), weights

    def observable(self, value: Float[Tensor, "W *R"]) -> Float[Tensor, "W *R"]:
        """Values of o in the user's units."""
        if not self.rising:
            return self.sign * self.size * value
        return self.function(self.sign * value.flatten(1).unsqueeze(-1)).unflatten(1, value.shape[1:])

    def at(self, value: float, worlds: int) -> Float[Tensor, "W 1"]:
        """O where the observable has a value: by bisection, for u rises."""
        if not self.rising:
            return torch.full((worlds, 1), self.sign * value / self.size, dtype=torch.float64)
        low, high = torch.full((worlds, 1), -1e3).double(), torch.full((worlds, 1), 1e3).double()
        for _ in range(80):
            middle = (low + high) / 2
            under = self.function(middle.unsqueeze(-1)) < value
            low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        if (low.abs() > 999).any():
            raise ValueError(
                f"{self.name} cannot be {value:g}, or not within a thousand of its spreads. Check its units."
            )
        return self.sign * low

    def approximated(self, worlds: int) -> Objective:
        """The same, o being the approximation of the observable, in units of its spread where functions are standard."""
        e, limits = normal_cloud(CLOUD, len(self.outputs)), self.limits
        spread = float(self.function(e.expand(worlds, *e.shape)).std(-1).mean())
        if self.rising:
            ends = self.function(torch.tensor([-FARTHEST, FARTHEST]).double().expand(worlds, 2).unsqueeze(-1))
            limits = float(ends[:, 0].min()), float(ends[:, 1].max())
        return dataclasses.replace(self, rising=False, size=spread if 0 < spread < np.inf else 1.0, limits=limits)

    def bends(self, worlds: int) -> tuple[bool, bool]:
        """Whether u is no straight line of the only function, and whether it ends in one value that none is better than."""
        at = torch.linspace(-FARTHEST, FARTHEST, 25).double() * self.sign
        steps = (self.function(at.expand(worlds, -1).unsqueeze(-1)) * self.sign).diff(dim=-1)
        straight = steps.diff(dim=-1).abs() <= 1e-9 * steps.amax()  # not where it is infinite at an end
        return not bool(straight.all()), bool((steps[..., -1] == 0).any())


class Sight(NamedTuple):
    """The objective at anchors and at candidates, and what an observation of one task at each candidate has to do with it."""

    mean: Float[Tensor, "W A"]
    covariance: Float[Tensor, "W A A"]
    own: Float[Tensor, "W R"]
    own_variance: Float[Tensor, "W R"]
    cross: Float[Tensor, "W R A c"]
    own_cross: Float[Tensor, "W R 1 c"]
    held_cross: Float[Tensor, "W R A+1 C c"]
    observed: Float[Tensor, "W R c c"]

    @property
    def variance(self) -> Float[Tensor, "W A"]:
        """Variance of the objective at the anchors."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0.0)

    def only(self, r: int) -> Sight:
        """As if there were one candidate."""
        names = ("own", "own_variance", "cross", "own_cross", "held_cross", "observed")
        return self._replace(**{name: getattr(self, name)[:, r : r + 1] for name in names})

    def slopes(self, cross: Float[Tensor, "W R m c"]) -> Float[Tensor, "W R m c"]:
        """By how much means move with the whitened observation, ``C L^-T``."""
        factor = robust_cholesky(self.observed)[0].mT
        return torch.linalg.solve_triangular(factor, cross, upper=True, left=False)

    def lines(self) -> Float[Tensor, "W R A+1"]:
        """Slopes along one direction, the candidate itself last.

        Of an observation of several functions, the combination is taken that moves the objective most.
        """
        both = self.slopes(torch.cat([self.cross, self.own_cross], -2))
        if both.shape[-1] > 1:
            both = both @ torch.linalg.eigh(both.mT @ both)[1][..., -1:]
        return both.squeeze(-1)

    def turns(self, lean: Float[Tensor, "W R A+1 C"]) -> tuple[Float[Tensor, "W R A+1"], Float[Tensor, "W R A+1"]]:
        """By how much chances, which rise by `lean` with the functions, and the objective move along one direction.

        Of an observation of several functions the combination that moves the chances most; the candidate itself is last.
        """
        moves = torch.einsum(
            "wraC,wraCc->wrac", lean, self.slopes(self.held_cross.flatten(2, 3)).unflatten(2, lean.shape[-2:])
        )
        both = self.slopes(torch.cat([self.cross, self.own_cross], -2))
        if moves.shape[-1] > 1:
            along = torch.linalg.eigh(moves.mT @ moves)[1][..., -1:]
            moves, both = moves @ along, both @ along
        return moves.squeeze(-1), both.squeeze(-1)

    def correlation(self) -> Float[Tensor, "W R"]:
        """How well the observation would tell the candidate's own objective: the multiple correlation."""
        told = self.slopes(self.own_cross).square().sum((-1, -2))
        return (told / self.own_variance.clamp_min(1e-300)).clamp(0.0, 1.0).sqrt()


Linear = tuple[Tensor, Tensor]  # offset and weights of an objective
Held = tuple[Sequence[int], Sequence[int]]  # places of the functions of constraints


def sight(
    beliefs: Beliefs,
    own: Linear,
    fixed: Linear,
    wanted: list[int],
    seen: list[int],
    noise: Tensor,
    held: Held = ((), ()),
) -> Sight:
    """Look at the objective, given its linear form at candidates (`own`) and at anchors (`fixed`), through one task.

    `wanted` and `seen` are the places of the objective's and of the task's functions among those of the beliefs; `held` those of
    the functions of constraints, at candidates and at anchors, where those of the objective are first.
    """
    (offset, weights), (level, anchor_weights) = own, fixed
    cov, k = beliefs.cov[:, :, wanted], anchor_weights.shape[-1]
    at_anchors = beliefs.reach[:, :, seen][..., list(held[1])].permute(0, 1, 3, 4, 2)
    at_own = beliefs.cov[:, :, list(held[0])][..., seen].unsqueeze(2)
    return Sight(
        mean=level + (anchor_weights * beliefs.anchor_mean[..., :k]).sum(-1),
        covariance=torch.einsum(
            "wak,wakbl,wbl->wab", anchor_weights, beliefs.anchor_cov[:, :, :k, :, :k], anchor_weights
        ),
        own=offset + (weights * beliefs.mean[..., wanted]).sum(-1),
        own_variance=torch.einsum("wrk,wrkl,wrl->wr", weights, cov[..., wanted], weights).clamp_min(0.0),
        cross=torch.einsum("wrcak,wak->wrac", beliefs.reach[:, :, seen][..., :k], anchor_weights),
        own_cross=torch.einsum("wrk,wrkc->wrc", weights, cov[..., seen]).unsqueeze(-2),
        held_cross=torch.cat([at_anchors, at_own], 2),
        observed=beliefs.cov[:, :, seen][..., seen] + noise,
    )


def observable(likelihood: Likelihood, f: Float[Tensor, "W R c"], rows: Rows, p: Parameters) -> Tensor:
    """Mean of what is observed of a task given its functions: a value in its units, a rate, or probabilities of classes."""
    if (chance := likelihood.shown(f, rows)) is None:
        return likelihood.draw(f, None, rows, p, torch.Generator())
    return chance * likelihood.draw_latent(f, None, rows, p, torch.Generator())


def objective_of(
    posterior: Posterior,
    theta: Theta,
    target: str | Callable[[Mapping[str, xr.DataArray]], xr.DataArray],
    sign: float = 1.0,
    label: Any = None,
) -> Objective:
    """Make the objective of a task, of the probability of one of its classes (`label`), or of a function of several tasks."""
    data, problem = posterior.data, posterior._problem

    def values(f: Tensor, task: int) -> Tensor:
        """In worlds that are the first of those that theta was drawn for."""
        p = {k: v[: len(f)] for k, v in problem.parameters_of(theta, task).items()}
        law = data.tasks[task].likelihood
        return observable(law, f, posterior._rows_at(task, np.tile(np.array(law.constants()), (f.shape[1], 1))), p)

    if callable(target):
        derived = target

        def combined(f: Tensor) -> Tensor:
            given = {}
            for t, task in enumerate(data.tasks):
                dims = ["draw", "row"] if task.levels is None else ["draw", "row", f"class_{task.name}"]
                array = values(f[..., problem.layout.contrasts(t)], t).numpy()
                given[task.name] = xr.DataArray(array, dims=dims, coords={d: list(task.levels or ()) for d in dims[2:]})
            found = derived(given)
            if not isinstance(found, xr.DataArray) or set(found.dims) != {"draw", "row"}:
                raise ValueError(
                    "A `target` that is a function must return an xarray.DataArray with the dimensions 'draw' and 'row', a value "
                    f"for each row by itself; got {getattr(found, 'dims', type(found).__name__)}. For a quantity of all rows "
                    "together, give the points it is made of as `region`."
                )
            return torch.tensor(found.transpose("draw", "row").to_numpy().astype(float))

        name = getattr(target, "__name__", "the target").replace("<lambda>", "the target")
        return Objective(list(range(problem.layout.first[-1])), combined, sign, rising=False, name=name)
    t = data.index_of(target)
    task, verb = data.tasks[t], "raise" if sign > 0 else "lower"
    outputs = problem.layout.contrasts(t)
    count = len(task.levels or ())
    if label is not None:
        wanted = list(task.levels or ()).index(label)
        rising = count == 2 and len(outputs) == 1
        if rising and wanted == 0:  # it falls as the function rises
            sign = -sign
        name = f"probability of {task.name} = {label}"
        return Objective(
            outputs, lambda f: values(f, t)[..., wanted], sign, rising=rising, name=name, verb=verb, limits=(0.0, 1.0),
        )  # fmt: skip
    code = torch.arange(count).double()  # of ordered classes, the mean place
    function: Callable[[Tensor], Tensor] = (lambda f: values(f, t) @ code) if count else (lambda f: values(f, t))
    return Objective(outputs, function, sign, rising=len(outputs) == 1, unit=task.unit or "", name=task.name, verb=verb)
