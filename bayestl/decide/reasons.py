"""Why a measurement is suggested, in the user's units and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl.decide import acquisition
from bayestl.decide.judge import Judge
from bayestl.decide.objective import Sight
from bayestl.decide.pool import Pool

if TYPE_CHECKING:
    from bayestl.decide.search import Search


STEP = 0.01  # of the objective, over which slopes are told


def said(value: float) -> str:
    """A number to three digits, without an exponent where it is of a usual size."""
    rounded = float(f"{value:.3g}")
    return np.format_float_positional(rounded, trim="-") if 1e-3 <= abs(rounded) < 1e6 else f"{value:.3g}"


class Report:
    """Puts choices into the user's units and into words."""

    def __init__(self, search: Search, judge: Judge, pool: Pool, view: Sight, likely: Tensor) -> None:
        self.search, self.judge, self.pool, self.likely = search, judge, pool, likely
        # The log of what scores count gains in: variances, whose unit is that of nothing else, are shares of what there is.
        self.unit = float(self._total(view).clamp_min(acquisition.TINY).log()) if search.score == "variance" else 0.0

    def _total(self, view: Sight) -> Tensor:
        """Variance of what is to be known."""
        if self.judge.share is None:
            return view.variance.mean()
        return torch.einsum("wa,wab,wb->w", self.judge.share, view.covariance, self.judge.share).mean()

    def _steepness(self, at: Float[Tensor, "W N"]) -> float:
        """Units of the target for one of the objective, about some of its values."""
        ends = [self.search.objective.observable(at + side * STEP) for side in (1, -1)]
        return float(((ends[0] - ends[1]).abs() / (2 * STEP)).mean())

    def _scale(self, r: int, view: Sight, best: Float[Tensor, " W"]) -> float:
        """Units of the target for one of the gain: the slope of the chord from the best so far to where the gain arises."""
        objective, own = self.search.objective, view.only(r)
        if not objective.rising:
            return objective.size
        if self.search.hit:
            assert self.judge.level is not None
            return self._steepness(self.judge.level[: len(best)])
        if self.search.score == "expected_improvement":
            rise, weight = acquisition.improvements(own.own, own.own_variance.sqrt(), best[:, None])
        else:
            possible, mean, slope = self.search._possible(self.pool), view.mean, own.lines().squeeze(1)
            if possible is None or possible[r]:
                mean = torch.cat([mean, own.own], -1)
            best = mean.amax(-1)
            rise, weight = acquisition.rises(mean, slope[:, : mean.shape[-1]])
        if not torch.isfinite(weight).any():
            return self._steepness(best[:, None])
        chord = (objective.observable(best[:, None] + rise) - objective.observable(best[:, None])).abs() / rise
        share = weight.flatten().softmax(0).reshape(weight.shape)
        return float((share * torch.where(share > 0, chord, 0.0)).sum())

    def line(self, r: int, t: int, log_gain: float, score: float, view: Sight, best: Tensor) -> dict[str, Any]:
        """Give one row of the table."""
        search, pool = self.search, self.pool
        data, objective = search.posterior.data, search.objective
        gain, unit = float(np.exp(log_gain)), f" {objective.unit}" if objective.unit else ""
        own, std = view.own[:, r : r + 1], view.own_variance[:, r : r + 1].sqrt()
        match search.score:
            case "knowledge_gradient" | "expected_improvement":
                gain *= self._scale(r, view, best)
                what = f"expected to {objective.verb} the best {objective.name} by {said(gain)}{unit}"
                if search.hit:
                    what = f"expected to bring {objective.name} {said(gain)}{unit} closer to what is wanted"
            case "variance":
                before = float(self._total(view))
                scale = self._steepness(view.mean)  # the same everywhere: what is learned is straight
                gain = scale * (before**0.5 - max(before - gain, 0.0) ** 0.5)
                what = f"expected to lower the standard deviation of {objective.name} by {said(gain)}{unit}"
            case "entropy":
                what = f"expected to tell {said(gain)} nats about {objective.name}"
            case "max_value_entropy":
                what = f"expected to tell {said(gain)} nats about the best {objective.name}"
            case "level":
                what = f"expected to lower the doubt about the side of the level, p (1 - p), by {said(gain)}"
            case "probability_of_improvement":
                what = f"better than the best so far, or beyond the level, with probability {said(gain)}"
            case _:
                value = self.judge.utility(own, std**2) if search.score == "thompson" else self.judge.bound(own, std)
                if search.hit:
                    gain = float((value - best[:, None]).mean()) * self._steepness(own)
                else:
                    gain = objective.sign * float(
                        (objective.observable(value) - objective.observable(best[:, None])).mean()
                    )
                what = f"chosen by {search.score.replace('_', ' ')}; {said(gain)}{unit} beyond the best so far"
        spread = (std.square().mean() + own.var(correction=0)).sqrt()  # within worlds and among them
        ends = (own.mean() + side * spread for side in (-1.645, 1.645))
        found = sorted(float(objective.observable(end.expand_as(own)).mean()) for end in ends)
        low, high = np.clip(found, *objective.limits)  # a linear approximation may leave them
        why = f"{data.names[t]} here is {what}, at a cost of {pool.costs[r, t]:g}; {objective.name} is thought to be "
        why += f"{said(low)} to {said(high)}{unit} (90 %)"
        if t != search.target:
            why += f", correlation of the observation with it {float(view.correlation()[:, r].mean()):.2f}"
        if search.constraints:
            why += f"; the constraints hold with probability {float(self.likely[r].exp()):.2g}"
        names = dict.fromkeys([*(name for name, _ in data.features), *(column.name for column in data.inputs)])
        shown = {name: pool.frame[name].iloc[r] for name in names if name in pool.frame}
        return {
            "row": pool.labels[r], **shown, "task": data.names[t], "score": float(score), "gain": gain,
            "cost": float(pool.costs[r, t]), "why": why + ".",
        }  # fmt: skip
