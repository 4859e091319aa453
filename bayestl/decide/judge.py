"""Scores of (candidate, task) pairs, and what they need besides beliefs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bayestl.decide import acquisition
from bayestl.decide.objective import Linear, Sight
from bayestl.gaussian.exact import robust_cholesky
from bayestl.likelihoods.classes import normal_cloud

DRAWS, PEAKS = 256, 16  # draws of the largest value of the objective, and the strata they are averaged over
BOLDNESS = 2.0  # standard deviations of the upper confidence bound


class Chance(NamedTuple):
    """That the constraints hold at some points: its logarithm in each world, and what it rises by with their functions."""

    log: Float[Tensor, "W N"]
    lean: Float[Tensor, "W N C"]

    @property
    def mean(self) -> Float[Tensor, " N"]:
        """Its logarithm, averaged over the worlds."""
        return acquisition.average(self.log)

    @property
    def fine(self) -> Bool[Tensor, " N"]:
        """Where they are not known not to hold."""
        return self.mean > math.log(0.5)

    def at(self, rows: list[int]) -> Chance:
        """At some of the points."""
        return Chance(self.log[:, rows], self.lean[:, rows])


@dataclass(frozen=True, eq=False)
class Judge:
    """A score, and what it needs besides a `Sight`.

    Attributes
    ----------
    score : its name
    fixed : offset and weights of the objective at the anchors
    measured : how many of the anchors, the first, have been measured; the best of them is to be improved upon. 0 means all
    level : the value of the objective to be hit or compared with, (W, 1)
    hit : whether it is to be hit
    floor : utility of what is not feasible: of the worst place known
    chance : that the constraints hold at the anchors; None where there are none
    far : look for gains where no more than those beyond six standard deviations are left
    share : (W, A) weights of the anchors in the quantity whose variance is to fall; None: each by itself
    """

    score: str
    fixed: Linear
    measured: int = 0
    level: Tensor | None = None
    hit: bool = False
    floor: float = 0.0
    chance: Chance | None = None
    share: Tensor | None = None
    far: bool = False

    def utility(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The objective, or minus its expected distance from the value to be hit."""
        return mean if not self.hit else -acquisition.expected_distance(mean - self._level(mean), variance)

    def best(
        self, view: Sight, mine: list[int] | None = None, chance: Chance | None = None
    ) -> tuple[Float[Tensor, " W"], Int[Tensor, " W"]]:
        """The best of what has been measured, and which it is; where constraints are known not to hold, it does not count.

        What is about to be measured counts as measured, the candidates `mine` (the last) and the anchors that are pending.
        """
        upto = self.measured or view.mean.shape[-1]
        value = self.utility(view.mean, view.variance)[:, :upto]
        fine = torch.ones(upto, dtype=torch.bool) if self.chance is None else self.chance.fine[:upto]
        if mine:
            value = torch.cat([value, self.utility(view.own, view.own_variance)[:, mine]], -1)
            more = (
                torch.ones(len(mine), dtype=torch.bool)
                if self.chance is None or chance is None
                else chance.at(mine).fine
            )
            fine = torch.cat([fine, more])
        if fine.any():
            value = torch.where(fine, value, -torch.inf)
        return value.max(-1)

    def __call__(
        self,
        view: Sight,
        best: Float[Tensor, " W"],
        chance: Chance,
        itself: Bool[Tensor, "W R"] | None = None,
        possible: Bool[Tensor, " R"] | None = None,
        known: Bool[Tensor, " R"] | None = None,
    ) -> Float[Tensor, " R"]:
        """Log of the expected gain, for each candidate, `chance` being that of the constraints there.

        `itself` says which candidates are the best so far, which they cannot improve upon; `possible` which are ones of the
        target: what is not tells of those that are, but cannot be chosen in the end; `known` where the target was measured: there
        it has itself to improve upon, though the constraints may keep it from being the best.
        """
        worlds = len(view.own)
        own, std, best, likely = view.own, view.own_variance.sqrt(), best[:worlds, None], chance.mean
        if known is not None and self.chance is not None:
            best = torch.where(known, torch.maximum(best, self.utility(own, view.own_variance)), best)
        match self.score:
            case "knowledge_gradient":
                gain, likely = self._knowledge_gradient(view, chance, possible)
            case "variance":
                cross = view.cross
                if self.share is not None:
                    cross = torch.einsum("wrac,wa->wrc", cross, self.share[:worlds]).unsqueeze(2)
                gain = acquisition.log_variance_reduction(view.slopes(cross))
            case "entropy":
                gain = acquisition.log_information(view.cross, view.observed, robust_cholesky(view.covariance)[0])
            case "max_value_entropy":
                peaks = self.peaks(view)
                gain = acquisition.log_max_value_information(own, std, view.correlation().square(), peaks)
                if possible is not None and not possible.all():
                    gain = torch.where(possible, gain, self._told_of_anchors(view, peaks))
            case "level":
                gain = acquisition.log_level_reduction(
                    view.mean.unsqueeze(1),
                    view.variance.unsqueeze(1),
                    view.lines()[..., :-1],
                    self._level(own).unsqueeze(1),
                )
            case "expected_improvement" if self.hit:
                gain = acquisition.log_expected_approach(own - self._level(own), std, -best)
            case "expected_improvement":
                gain = acquisition.log_expected_improvement(own, std, best)
            case "probability_of_improvement" if self.hit:
                gain = acquisition.log_probability_of_approach(own - self._level(own), std, -best)
            case "probability_of_improvement":
                bar = best if self.level is None else self._level(own)
                gain = acquisition.log_probability_of_improvement(own, std, bar)
                itself = itself if self.level is None else None
            case _:  # the bound; what Thompson draws are made for is chosen by it too
                gain = (self.bound(own, std) - self._floor(view)).clamp_min(acquisition.TINY).log()
        if itself is not None and self.score == "probability_of_improvement":
            gain = gain.masked_fill(itself, -torch.inf)
        return acquisition.average(gain) + likely

    def peaks(self, view: Sight) -> Float[Tensor, "W M"]:
        """Draws of the largest value of the objective among the anchors, averaged over strata of equal weight."""
        z = normal_cloud(DRAWS, view.mean.shape[-1])
        drawn = view.mean.unsqueeze(-2) + torch.einsum("wab,nb->wna", robust_cholesky(view.covariance)[0], z)
        if self.chance is not None and (fine := self.chance.fine).any():
            drawn = torch.where(fine, drawn, -torch.inf)
        return drawn.amax(-1).sort().values.unflatten(-1, (PEAKS, -1)).mean(-1)

    def perfect(self, view: Sight) -> Float[Tensor, " W"]:
        """The value of perfect information: by how much the best of the anchors is expected to beat the best mean.

        By 256 draws: zero where in none of them another point is better. Constraints are not looked at.
        """
        return (self.peaks(view).mean(-1) - view.mean.amax(-1)).clamp_min(0.0)

    def bound(self, mean: Tensor, std: Tensor, boldness: float = BOLDNESS) -> Tensor:
        """Upper confidence bound of the utility (Srinivas et al. 2010, doi 10.48550/arXiv.0912.3995)."""
        if not self.hit:
            return mean + boldness * std
        return -((mean - self._level(mean)).abs() - boldness * std).clamp_min(0.0)

    def _floor(self, view: Sight) -> Float[Tensor, "W 1"]:
        """The lower bound of the worst anchor: what bounds are counted from, to be positive."""
        mean = view.mean if not self.hit else -(view.mean - self._level(view.mean)).abs()
        return (mean - BOLDNESS * view.variance.sqrt()).amin(-1, keepdim=True)

    def _told_of_anchors(self, view: Sight, peaks: Tensor) -> Float[Tensor, "W R"]:
        """Information about the largest value in what is told of the anchor that it is told most by."""
        told = view.lines()[..., :-1].square() / view.variance.clamp_min(1e-300).unsqueeze(1)
        mean, std = (a.unsqueeze(1).expand_as(told).flatten(1) for a in (view.mean, view.variance.sqrt()))
        nats = acquisition.log_max_value_information(mean, std, told.clamp(0.0, 1.0).flatten(1), peaks)
        return nats.reshape(told.shape).amax(-1)

    def _knowledge_gradient(
        self, view: Sight, chance: Chance, possible: Tensor | None
    ) -> tuple[Float[Tensor, "W R"], Float[Tensor, " R"]]:
        """Give the gain, and by what it is yet to be weighted.

        Under constraints what is recommended counts, above the floor, as far as it is feasible; a measurement may tell that too.
        """
        likely, nothing = chance.mean, torch.zeros_like(chance.mean)
        mean, slope = _arms(view.mean, view.own, possible), _choosable(view.lines(), possible)
        if self.hit:
            variance = _arms(view.variance, view.own_variance, possible)
            off = mean - self._level(view.own).unsqueeze(-1)
            gain = acquisition.log_approach_gradient(off, variance, slope, self.far) + likely
            mean = -acquisition.expected_distance(off, variance)
        elif self.chance is None:
            return acquisition.log_knowledge_gradient(mean, slope), nothing
        if self.chance is None:
            return gain, nothing
        worlds = len(mean)
        p = _arms(self.chance.log[:worlds], chance.log, possible).exp()
        rise, slopes = view.turns(_arms(self.chance.lean[:worlds], chance.lean, None))
        value = mean - self.floor
        if not self.hit:
            gain = acquisition.log_knowledge_gradient(p * value, p * slope)
        slopes = torch.zeros_like(slope) if self.hit else _choosable(slopes, possible)
        return torch.maximum(
            gain, acquisition.log_feasible_gradient(value, slopes, p, _choosable(rise, possible))
        ), nothing

    def _level(self, like: Tensor) -> Float[Tensor, "W 1"]:
        assert self.level is not None
        return self.level[: len(like)]


def _arms(anchors: Tensor, own: Tensor, possible: Bool[Tensor, " R"] | None) -> Tensor:
    """What may be chosen in the end, (W, R, A + 1, ...): the anchors, (W, A, ...), and last the candidate itself, (W, R, ...)."""
    first = anchors.unsqueeze(1).expand(-1, own.shape[1], *anchors.shape[1:])
    return _choosable(torch.cat([first, own.unsqueeze(2)], 2), possible)


def _choosable(arms: Tensor, possible: Bool[Tensor, " R"] | None) -> Tensor:
    """In the place of candidates that cannot be chosen in the end, an anchor once more."""
    if possible is None or possible.all():
        return arms
    kept = possible.reshape(-1, 1, *[1] * (arms.dim() - 3))
    return torch.cat([arms[:, :, :-1], torch.where(kept, arms[:, :, -1:], arms[:, :, :1])], 2)
