"""From a problem to draws of theta, and the record of how they came about."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from bayestl.errors import notice
from bayestl.gaussian.sites import Site
from bayestl.inference import nuts
from bayestl.inference.collapsed import Collapsed
from bayestl.inference.coordinates import Coordinates
from bayestl.inference.mode import InBasis, Mode, climb, curvature
from bayestl.inference.variational import Gaussian, Schedule, normal_points, orthogonal_normals, refine
from bayestl.models.problem import STEPS, Problem
from bayestl.priors import Theta
from bayestl.psis import pareto_k

Method = Literal["variational", "map", "nuts"]
ALARMING, BAD = 0.7, 1.0  # k-hat above which it is told again, from more draws; of which a warning is due
AGAIN, SETTLED = (
    5,
    0.01,
)  # climbs with sites found anew, as often as they gain nats: sites that lag behind theta end one early
STRONG = 3.0  # nats by which the density must rise for the smoother kernel to be taken


@dataclass(frozen=True, eq=False)
class FitRecord:
    """How a posterior came about.

    Attributes
    ----------
    method, seed : as asked for
    parameters : dimension of theta
    evaluations : of the log density, with or without its gradient
    seconds : per stage, and in `total`
    elbo : estimates of the evidence lower bound, one per variational step
    modes : log density of the mode that each start reached
    pareto_k : tail shape of the importance ratios between the true posterior of theta and its approximation. Below 0.7
        reweighting by them would be reliable, so the two are close; above 1 their tails differ by much
    divergences : of the NUTS reference
    interrupted : whether the fit was stopped by the user before its end
    sites_converged : whether the sites of observations that are not normal settled at the mode
    learned_from : observations that theta was learned from
    log_ratios : log importance ratios, up to a constant, of the last draws of a variational posterior (before they were moved
        to the mode of all rows, where they were)
    log_prior : log prior density of every draw, in coordinates in which the prior is a standard normal
    log_q : log density of every draw under the variational posterior, in the same coordinates (before they were moved)
    learned : positions among the data of the observations that theta was learned from
    smoother : how much higher the density at the mode is under the smoother of two kernels, in nats; nan where none was tried
    """

    method: str
    seed: int
    parameters: int
    evaluations: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    elbo: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    modes: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    pareto_k: float = float("nan")
    divergences: int = 0
    interrupted: bool = False
    sites_converged: bool = True
    learned_from: int = 0
    log_ratios: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    log_prior: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    log_q: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)
    learned: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64), repr=False)
    smoother: float = float("nan")

    ARRAYS: ClassVar[tuple[str, ...]] = ("elbo", "modes", "log_ratios", "log_prior", "log_q", "learned")

    @property
    def moved(self) -> bool:
        """Whether theta was learned from some of the rows, and then moved to the mode of all."""
        return "mode of all rows" in self.seconds

    @property
    def took_smoother(self) -> bool:
        """Whether the smoother of two kernels was taken."""
        return self.smoother > STRONG

    def of_other_draws(self) -> FitRecord:
        """The record of a posterior whose draws are no longer those of the fit."""
        none = np.empty(0)
        return dataclasses.replace(self, log_ratios=none, log_prior=none, log_q=none, pareto_k=float("nan"))


class Inferred(NamedTuple):
    """Draws of theta with equal weights, the record, how many of the draws should predict, and the sites at the mode."""

    theta: Theta
    record: FitRecord
    components: int
    sites: list[Site] | None = None


def schedule(rows: int, parameters: int, sites: bool = False, scarcest: int = 1000) -> tuple[Schedule, int]:
    """Choose the variational work, and the number of components that predict, by what they cost and what they buy.

    Few rows leave theta uncertain and its posterior skewed, and are cheap; with many it is nearly Gaussian and dear. Observations
    by `sites` cost twice as much. A task that is scarce beside rich ones leaves its own parameters uncertain: more components.
    """
    if rows > 250:
        # Less leaves a k-hat whose doubts cost more than is saved.
        steps = 10 if parameters <= 30 else 40 if sites else 20
        particles = 8 if parameters > 50 and not sites else 4
        return Schedule(steps, particles), 32 if scarcest <= 80 else 8 if sites or rows < 400 else 4
    if parameters > 40 or sites:  # embeddings of many tasks, scales that few classes leave open: far from normal
        return Schedule(60, 16), 64 if rows <= 80 else 32
    return (Schedule(24, 16), 64) if rows <= 80 else (Schedule(12, 8), 32)


def infer(
    problem: Problem,
    method: Method = "variational",
    seed: int = 0,
    draws: int | None = None,
    warmup: int = 300,
    progress: bool = True,
    notes: nuts.Notes | None = None,
    smoother: Problem | None = None,
    whole: Problem | None = None,
) -> Inferred:
    """Infer theta. See `bayestl.fit`. A NUTS chain is noted as it grows, and goes on from its notes.

    `smoother` is the same problem with a smoother kernel, whose parameters are the same: it takes the place of the problem
    where its mode is higher by more than `STRONG`. `whole` holds all rows where the problem holds some of them: a variational
    posterior is then moved to their mode, which takes a few steps, and stays as wide as some of them leave it.
    """
    if method not in ("variational", "map", "nuts"):
        raise ValueError(f"`method` must be 'variational', 'map' or 'nuts'; got {method!r}.")
    began = time.perf_counter()
    rows = len(problem.points.output)
    collapsed = Collapsed(problem)
    coordinates = Coordinates(problem.program if problem.plain else collapsed, rows, problem.prior)
    generator = torch.Generator().manual_seed(seed)
    scarcest = int(problem.data.counts.min())
    plan, components = schedule(rows, coordinates.dim, bool(problem.sites), scarcest)
    seconds: dict[str, float] = {}

    def lap(stage: str) -> None:
        seconds[stage] = time.perf_counter() - began - sum(seconds.values())

    with tqdm(
        desc="fit: mode", total=plan.steps, leave=False, delay=2.0, disable=not (progress and sys.stderr.isatty())
    ) as bar:
        try:
            starts = _starts(coordinates.dim, rows, scarcest, generator)
            tolerance, gain = 1e-6 if method == "map" else 1e-3, float("nan")
            points, heights = climb(coordinates, starts, tolerance)
            for _ in range(AGAIN if problem.sites else 0):
                before, collapsed.start = heights.max(), None
                points, heights = climb(coordinates, points, tolerance)
                if heights.max() - before < SETTLED:
                    break
            if smoother is not None:
                other = Coordinates(smoother.program, rows, smoother.prior)
                there, height = climb(other, points[heights.argmax()][None], tolerance)
                gain = (height - heights.max()).item()
                if gain > STRONG:
                    other.evaluations += coordinates.evaluations
                    problem, coordinates, points, heights = smoother, other, there, height
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "The fit was interrupted before it had found a mode: there is no posterior."
            ) from None
        lap("mode")
        best = int(heights.argmax())
        settled = not problem.sites or collapsed.fix(coordinates.theta(points[best : best + 1]))
        v, interrupted, trace, k, divergences = points[best : best + 1], False, list[float](), float("nan"), 0
        ratios, log_q, left = np.empty(0), np.empty(0), "is only the mode: its intervals are too narrow."
        if method != "map":
            try:
                bar.set_description("fit: curvature")
                mode = _best_mode(coordinates, points, heights)
                lap("curvature")
                if method == "variational":
                    bar.set_description("fit: variational")
                    q, trace, interrupted = refine(coordinates, mode, plan, seed, bar.update)
                    left = "stands on an unfinished variational run." if interrupted else "its k-hat was not told."
                    white = _white(coordinates.dim, draws or components, 0 if draws else 256, seed)
                    v, log_q = q.push(white), q.log_density_of(white).numpy()
                    judged = min(draws or 256, 256 if rows <= 80 else 48 if rows <= 250 else 32)  # as many as are cheap
                    ratios = _log_ratios(coordinates, q, white[-judged:]).numpy()
                    k = _tail(coordinates, q, ratios, seed)
                    lap(method)
                    if whole is not None and not interrupted:
                        left = "theta is that of some of the rows, not yet moved to the mode of all."
                        bar.set_description("fit: mode of all rows")
                        v = v + _way_to_the_mode(dataclasses.replace(whole, model=problem.model), q)
                        lap("mode of all rows")
                else:
                    bar.set_description("fit: nuts")
                    collapsed.exact = True
                    bar.reset(total=warmup + 1 + (draws or 1000))
                    v, divergences, interrupted = nuts.sample(
                        coordinates, mode, draws or 1000, warmup, seed, bar.update, notes
                    )
                    more = "" if notes is None else ", and the same call goes on"
                    left = f"stands on {len(v)} draws of the {draws or 1000}{more}." if len(v) > 1 else left
                    lap(method)
            except KeyboardInterrupt:
                interrupted = True
    if interrupted:
        notice(f"The fit was interrupted. The posterior is usable but {left}")
    if k > BAD:
        notice(
            f"The variational posterior of theta fits badly (Pareto k-hat {k:.2f} > 1). Predictions are usually still "
            'sound; compare with method="nuts" before relying on parameters or on the width of intervals.'
        )
    if not settled:
        notice(
            f"The Gaussian sites of the observations did not settle within {STEPS} steps at the mode of theta. Look for "
            "classes that the inputs separate perfectly, or for outliers among counts."
        )
    seconds["total"] = time.perf_counter() - began
    record = FitRecord(
        method, seed, coordinates.dim, coordinates.evaluations, seconds, np.array(trace), heights.numpy(), k,
        divergences, interrupted, settled, len(problem.data), ratios, coordinates.log_prior(v).numpy(), log_q,
        smoother=gain,
    )  # fmt: skip
    return Inferred(
        coordinates.theta(v), record, len(v) if draws or method != "variational" else min(components, len(v)),
        collapsed.start,
    )  # fmt: skip


def _starts(dim: int, rows: int, scarcest: int, generator: torch.Generator) -> torch.Tensor:
    """Starting points in whitened coordinates, all a little off the prior's centre, which can be a saddle.

    Several where modes are many: few rows, in all or of a task, or many tasks. With a hundred rows of three tasks all starts
    reach the same; beside a hundred rows of a source, fifteen of a target may be signal or noise.
    """
    count = 3 if rows <= 80 or (rows <= 250 and scarcest <= 30) else 2 if rows <= 250 and dim > 30 else 1
    noise = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return noise * torch.tensor([0.3, 1.0, 1.0][:count], dtype=torch.float64)[:, None]


def _best_mode(coordinates: Coordinates, points: torch.Tensor, heights: torch.Tensor) -> Mode:
    """The mode with the most posterior mass around it, of those that are distinct."""
    distinct: list[int] = []
    for i in heights.argsort(descending=True).tolist():
        if heights[i] > heights.max() - 10 and all((heights[i] - heights[j]).abs() > 0.05 for j in distinct):
            distinct.append(i)
    modes = [curvature(coordinates, points[i], heights[i].item()) for i in distinct]
    return max(modes, key=lambda mode: mode.log_evidence)


def _white(dim: int, predicting: int, more: int, seed: int) -> torch.Tensor:
    """Standard normals for the draws from q: those that predict, and a quasi-random sequence of others."""
    others = normal_points(more, dim, seed).flip(0)  # the beginning of the sequence, which is a good sample, comes last
    return torch.cat([orthogonal_normals(predicting, dim, seed), others])


def _log_ratios(coordinates: Coordinates, q: Gaussian, white: torch.Tensor) -> torch.Tensor:
    """Log importance ratios of the draws that `white` maps to."""
    return coordinates.density(q.push(white)) - q.log_density_of(white)


def _tail(coordinates: Coordinates, q: Gaussian, ratios: NDArray[np.float64], seed: int) -> float:
    """k-hat of q. A few hundred ratios tell it to 0.2: before it alarms more are looked at, up to sixteen times as many."""
    found = torch.from_numpy(ratios)
    k = pareto_k(found)
    for look in range(1, 6):
        if k <= (ALARMING if look == 1 else BAD):
            break
        white = normal_points(3 * len(ratios), coordinates.dim, seed + look)
        found = torch.cat([found, _log_ratios(coordinates, q, white)])
        k = pareto_k(found)
    return k


def _way_to_the_mode(whole: Problem, q: Gaussian) -> torch.Tensor:
    """From the centre of q to the mode of all rows, in a few steps: q is nearly round in its own basis."""
    coordinates = Coordinates(whole.program, len(whole.points.output), whole.prior)
    u, _ = climb(InBasis(coordinates, q.centre, q.factor), torch.zeros_like(q.centre)[None], 1e-2)
    return u @ q.factor.mT
