"""The search for a batch: anchors, a shortlist, and from it one pair after another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from bayestl.decide import acquisition
from bayestl.decide.judge import Chance, Judge
from bayestl.decide.lookahead import Beliefs, Joint, World, beliefs_of, joint_of, observation_noise
from bayestl.decide.objective import Linear, Objective, Sight, sight
from bayestl.decide.pool import Pool, among
from bayestl.decide.reasons import Report, said
from bayestl.errors import listed, notice
from bayestl.gaussian.exact import robust_cholesky
from bayestl.likelihoods.classes import normal_cloud
from bayestl.likelihoods.predictive import Classes
from bayestl.posterior import Posterior
from bayestl.priors import Theta
from bayestl.scaling import Pairs

WORLDS = 16  # draws of theta, and of what is pending, that judge
SCREEN, LARGE = (8, 2), 2000  # how many of them choose the shortlist, from at most this many candidates, and from more
SHORT, POINTS = 128, 640  # candidates that are looked at jointly, and functions of theirs in all
STEP = 1000  # candidates looked at in one go
REGION = 100  # points that stand for a region
MEASURED, PROMISING = 5, 9  # points, of either kind, among which the best is expected after the measurement
MANY = 60  # of the latter where the law of the best value counts
LEVELS = 4  # of subsets, each a quarter of the one before
WORST = -1e300  # log of no gain at all: what is on offer is better than what is not
DRAWS = 512  # of the objective at all points of a region
NOTHING = 1e-9  # value of information that counts as none, in the model's units
HOPELESS = 1e-3  # probability that constraints hold, below which a limit is likelier wrong
BOLD = ("thompson", "upper_confidence_bound")  # scores that are no gains
REFINED = 12  # candidates within bounds that are refined
STEP_ASIDE = 0.01  # of a standard deviation, for slopes of probabilities


@dataclass(frozen=True, eq=False)
class Search:
    """All that a search looks at; `run` gives its table.

    `merit` is what the values of the target are worth, larger the better, and `running` where it is being measured.
    """

    posterior: Posterior
    theta: Theta
    found: list[World]
    objective: Objective
    pool: Pool
    score: str
    target: int
    level: Tensor | None
    hit: bool
    constraints: list[tuple[int, Any]]
    generator: torch.Generator
    costs: Mapping[str, Any] | None
    merit: NDArray[np.float64]
    running: Tensor

    def run(
        self,
        batch: int,
        region: Tensor | None,
        over: bool,
        replicates: bool,
        least: float = 0.0,
        elsewhere: bool = False,
    ) -> pd.DataFrame | None:
        """Choose anchors, then a shortlist, then from it one pair after another; `over` a region, or for the best of it.

        The knowledge gradient is stuck where its choice is expected to bring less than a share `least` of what perfect
        information would, or that would bring nothing. Without sources the improvement upon the best that was measured is then
        looked at: what is thought to be the best is to be confirmed. With sources None is returned instead of the table where
        the first choice is stuck: information about the best value should be sought. `elsewhere` measures the target where it
        was not measured yet.
        """
        problem, k = self.posterior._problem, self.anchored
        x, measured, floor = (self._region(region), 0, 0.0) if over else self._promising()
        anchors = Pairs(x.repeat_interleave(len(k), 0), torch.tensor(k).repeat(len(x)))
        fixed = joint_of(problem, self.found, x[:0], self.outputs, anchors, len(k))
        judge = self._judge(fixed.beliefs(), measured, floor, not over)
        pool = self._shortlist(judge, anchors, fixed, batch)
        joint = joint_of(problem, self.found, pool.x, self.outputs, anchors, len(k))
        beliefs = joint.beliefs()
        own = self._linear(beliefs)
        noise = {t: self._noise(t, beliefs, pool) for t in pool.tasks}
        offered, choices = self._unmeasured(pool) if elsewhere else pool.offered.copy(), []
        mine, taken = list[int](), np.zeros_like(offered)
        report: Report | None = None
        place, known = pool.places, among(pool.x, self._seen)
        first = int(torch.randint(len(self.found), (), generator=self.generator)) if self.score == "thompson" else 0
        for step in range(batch):
            beliefs = joint.beliefs()
            judge, chance = self._under_constraints(judge, beliefs), self._chance(beliefs.mean, beliefs.cov, pool)
            views = self._views(beliefs, own, judge, noise)
            view = views[pool.tasks[0]]
            report = report or Report(self, judge, pool, view, chance.mean)
            best, which = judge.best(view, mine, chance)
            rivals = torch.cat([x[: judge.measured or len(x)], pool.x[mine]])
            itself = (pool.x == rivals[which].unsqueeze(1)).all(-1)
            if self.score == "thompson":
                gains = np.tile(
                    self._drawn(joint, own, judge, chance.mean, first + step).numpy()[:, None], offered.shape[1]
                )
            else:
                for far in (False, True):
                    asked = dataclasses.replace(judge, far=far)
                    gains = self._gains(asked, views, best, chance, itself, pool, known)
                    if not self.hit or np.isfinite(gains[offered]).any():
                        break
            values, r, t = _best_of(gains - np.log(pool.costs) - report.unit, offered)
            if least > 0.0:
                perfect = float(judge.perfect(view).mean())
                if perfect < NOTHING or math.exp(gains[r, t]) < least * perfect:
                    if pool.tasks != [self.target]:
                        if step == 0:
                            return None
                    else:
                        asked = dataclasses.replace(judge, score="expected_improvement")
                        sure = self._gains(asked, views, best, chance, itself, pool)
                        sure[itself.any(0).numpy()] = -np.inf  # the best so far is not improved upon by itself
                        gains = sure if np.isfinite(sure[offered]).any() else gains
                        values, r, t = _best_of(gains - np.log(pool.costs) - report.unit, offered)
            if step == 0:
                self._say_if_vain(float(gains[r, t]) - report.unit, float(chance.mean.max().exp()))
            choices.append(report.line(r, t, gains[r, t], values[r, t], views[t], best))
            taken[place == place[r], t] = True
            if not replicates or elsewhere:
                offered &= ~taken
            if not offered.any():
                offered = pool.offered.copy() if replicates else pool.offered & ~taken
            mine += [r] * (t == self.target)
            known = known | ((place == place[r]) & (t == self.target))
            points = [r * len(self.outputs) + i for i in self._places(t)]
            joint = joint.given(points, noise[t][:, r], _strata(len(self.found), len(points), self.generator))
        return pd.DataFrame(choices)

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _say_if_vain(self, log_gain: float, likely: float) -> None:
        """Give notice where the constraints hold nowhere, and where nothing is gained."""
        if likely < HOPELESS:
            names = [self.posterior.data.names[t] for t, _ in self.constraints]
            notice(
                f"The constraints on {listed(names)} are thought to hold at none of the candidates: with probability "
                f"{said(likely)} at best. What is suggested is as good as any other: are the limits in the units of the task? "
                "Else offer other candidates."
            )
        elif self.score not in BOLD and log_gain < math.log(NOTHING):
            notice(
                f"Nothing on offer is expected to tell anything of {self.objective.name} that matters: it is known already, "
                "or the candidates have nothing to do with it. What is suggested is as good as any other: stop here, or "
                "offer other candidates or tasks."
            )

    def _region(self, region: Tensor | None) -> Tensor:
        """Points that stand for a region: all of it, or some of the target's candidates."""
        x = self.pool.x[torch.from_numpy(self.pool.of(self.target))] if region is None else region
        if len(x) <= REGION:
            return x
        return x[torch.randperm(len(x), generator=self.generator)[:REGION].sort().values]

    @property
    def _seen(self) -> Tensor:
        """Where the target was measured, or is being."""
        data = self.posterior.data
        return torch.cat([self.posterior.scaling.inputs(data.x[data.task_index == self.target]), self.running])

    def _unmeasured(self, pool: Pool) -> np.ndarray:
        """What is offered, but for the target where it was measured, or is being; all of it where nothing else is."""
        offered = pool.offered.copy()
        offered[among(pool.x, self._seen), self.target] = False
        return offered if offered.any() else pool.offered.copy()

    def _promising(self) -> tuple[Tensor, int, float]:
        """Points among which the best will be, of those measured (and how many they are) and of the candidates; and the worst."""
        data = self.posterior.data
        seen, place = np.unique(data.x[data.task_index == self.target], axis=0, return_inverse=True)
        if len(seen) > LARGE:  # those with the best values
            worth = np.full(len(seen), -np.inf)
            np.maximum.at(worth, place.ravel(), self.merit)
            seen = seen[np.sort(np.argsort(-worth, kind="stable")[:LARGE])]
        measured, pool = self.posterior.scaling.inputs(seen), self.pool.x[torch.from_numpy(self.pool.of(self.target))]
        looked = [self._looked_at(x) for x in (measured, self.running, pool)]
        judge = Judge(self.score, (pool, pool), level=self.level, hit=self.hit)
        floor = min(float(judge.utility(mean, variance).mean(0).min()) for mean, variance, _ in looked if mean.numel())
        count = (MANY if self.score in ("variance", "max_value_entropy") else PROMISING) // 3
        top = [
            self._top(judge, *own, floor, boldness, most)
            for own, boldness, most in zip(
                looked, ((0.0,), (0.0,), (0.0, 1.0, 2.0)), (MEASURED, MANY, count), strict=True
            )
        ]
        best = torch.cat([measured[top[0]], self.running[sorted(top[1])]])
        return torch.cat([best, pool[top[2]]]), len(best), floor

    def _looked_at(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`_moments`, some points at a time."""
        if len(x) == 0:
            return torch.zeros(1, 0).double(), torch.zeros(1, 0).double(), torch.zeros(0).double()
        mean, variance, chance = zip(*(self._moments(part) for part in x.split(STEP)), strict=True)
        return torch.cat(mean, -1), torch.cat(variance, -1), torch.cat(chance)

    def _top(
        self,
        judge: Judge,
        mean: Tensor,
        variance: Tensor,
        chance: Tensor,
        floor: float,
        boldness: tuple[float, ...],
        count: int,
    ) -> list[int]:
        """Places of the highest confidence bounds, a few for each degree of boldness, as far above the floor as feasible."""
        found: dict[int, None] = {}
        for bold in boldness:
            value = judge.bound(mean, variance.sqrt(), bold).mean(0)
            value = floor + chance * (value - floor)
            found |= dict.fromkeys(value.topk(min(count, len(value))).indices.tolist())
        return list(found)

    def _moments(self, x: Tensor) -> tuple[Float[Tensor, "W R"], Float[Tensor, "W R"], Float[Tensor, " R"]]:
        """Mean and variance of the objective, and the probability that the constraints hold."""
        outputs = self.outputs if self.constraints else self.objective.outputs
        wanted = [outputs.index(o) for o in self.objective.outputs]
        any_ = Pairs(x[:0], torch.empty(0, dtype=torch.int64))
        each = [world.beside(self.posterior._problem, x, outputs, any_) for world in self.found[: self.few]]
        mean, cov = (torch.stack([own[i] for own in each]) for i in range(2))
        own, spread = mean[..., wanted], cov[:, :, wanted][..., wanted]
        offset, weights = self.objective.linear(own, spread)
        variance = torch.einsum("wrk,wrkl,wrl->wr", weights, spread, weights).clamp_min(0.0)
        return offset + (weights * own).sum(-1), variance, self._chance(mean, cov, None).mean.exp()

    def _judge(self, beliefs: Beliefs, measured: int, floor: float, optimum: bool) -> Judge:
        k = len(self.objective.outputs)
        cov = beliefs.anchor_cov.diagonal(dim1=1, dim2=3).movedim(-1, 1)[..., :k, :k]
        judge = Judge(
            self.score, self.objective.linear(beliefs.anchor_mean[..., :k], cov), measured, self.level, self.hit, floor
        )
        judge = self._under_constraints(judge, beliefs)
        if self.score == "variance" and optimum:
            view = sight(beliefs, self._linear(beliefs), judge.fixed, self.wanted, self.wanted, torch.zeros(1).double())
            z = normal_cloud(DRAWS, view.mean.shape[-1])
            drawn = view.mean + torch.einsum("wab,nb->nwa", robust_cholesky(view.covariance)[0], z)
            drawn = judge.utility(drawn, torch.zeros_like(drawn))
            share = torch.nn.functional.one_hot(drawn.argmax(-1), drawn.shape[-1]).double().mean(0)
            judge = dataclasses.replace(judge, share=share)
        return judge

    def _under_constraints(self, judge: Judge, beliefs: Beliefs) -> Judge:
        """The same judge with what is believed of the constraints at the anchors."""
        if not self.constraints:
            return judge
        cov = beliefs.anchor_cov.diagonal(dim1=1, dim2=3).movedim(-1, 1)
        chance = self._chance(beliefs.anchor_mean, cov, None, self.anchored)
        return dataclasses.replace(judge, chance=chance)

    def _shortlist(self, judge: Judge, anchors: Pairs, fixed: Joint, batch: int) -> Pool:
        """The best candidates in every task, of all and of ever smaller random subsets, so that they do not crowd.

        As many more of the best as a batch without replicates needs.
        """
        pool, most = self.pool, min(SHORT, max(8, POINTS // len(self.outputs)))
        if pool.box is None and len(pool) <= most:
            return pool
        values = self._screened(pool, judge, anchors, fixed)
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=self.generator)))
        if pool.box is not None:
            for width in (0.1, 0.03, 0.01):
                best = np.argsort(-values.max(1), kind="stable")[:REFINED]
                assert pool.cube is not None
                near = pool.box.around(pool.cube[best], width, REFINED, self.costs, rng)
                near = dataclasses.replace(near, offered=near.offered & pool.offered.any(0))
                values = np.concatenate([values, self._screened(near, judge, anchors, fixed)])
                pool = pool.plus(near)
        order, kept = rng.permutation(len(pool)), np.zeros(len(pool), dtype=bool)
        for level in range(LEVELS):
            subset = np.sort(order[: max(most, len(pool) // 4**level)])
            for t in pool.tasks:
                rest = subset[~kept[subset]]
                first = rest[np.argsort(-values[rest, t], kind="stable")]
                kept[first[: max(1, most // LEVELS // len(pool.tasks))]] = True
        if self.score == "knowledge_gradient":  # what may be the best already, which has nothing to gain
            kept |= among(pool.x, anchors.x)
        rest, wanted = np.argsort(-values.max(1), kind="stable"), min(batch, pool.pairs)
        while (missing := wanted - pool.take(np.flatnonzero(kept)).pairs) > 0:
            rest = rest[~kept[rest]]
            kept[rest[:missing]] = True
        return pool.take(np.flatnonzero(kept))

    def _gains(
        self,
        judge: Judge,
        views: Mapping[int, Sight],
        best: Tensor,
        chance: Chance,
        itself: Tensor | None,
        pool: Pool,
        known: NDArray[np.bool_] | None = None,
    ) -> np.ndarray:
        """Log of the expected gain of all pairs (R, T)."""
        possible, measured = self._possible(pool), None if known is None else torch.from_numpy(known)
        out = np.full(pool.offered.shape, -np.inf)
        for t, view in views.items():
            out[:, t] = judge(view, best, chance, itself, possible, measured).numpy()
        return out

    def _screened(self, pool: Pool, judge: Judge, anchors: Pairs, fixed: Joint) -> np.ndarray:
        """Gain per cost of all pairs (R, T) under the first worlds."""
        parts = []
        for start in range(0, len(pool), STEP):
            part = pool.take(np.arange(start, min(start + STEP, len(pool))))
            beliefs = beliefs_of(self.posterior._problem, self.found[: self.few], part.x, self.outputs, anchors, fixed)
            noise = {t: self._noise(t, beliefs, part) for t in pool.tasks}
            few = dataclasses.replace(judge, fixed=(judge.fixed[0][: self.few], judge.fixed[1][: self.few]))
            views = self._views(beliefs, self._linear(beliefs), few, noise)
            chance, known = self._chance(beliefs.mean, beliefs.cov, part), among(part.x, self._seen)
            gains = self._gains(few, views, few.best(views[pool.tasks[0]])[0], chance, None, part, known)
            parts.append(np.where(part.offered, gains - np.log(part.costs), -np.inf))
        return np.concatenate(parts)

    def _drawn(self, joint: Joint, own: Linear, judge: Judge, likely: Tensor, step: int) -> Tensor:
        """Log of what one world's draw of the objective at all candidates exceeds its least by (Thompson 1933)."""
        w, rows, count = step % len(self.found), joint.rows, len(self.outputs)
        places = (torch.arange(rows)[:, None] * count + torch.tensor(self.wanted)).flatten()
        mean = joint.mean[w, places].reshape(rows, -1)
        factor = robust_cholesky(joint.cov[w][places][:, places])[0]
        e = torch.randn(len(places), dtype=torch.float64, generator=self.generator)
        f = mean + (factor @ e).reshape(rows, -1)
        value = own[0][w] + (own[1][w] * f).sum(-1)
        if self.hit and judge.level is not None:
            value = -(value - judge.level[w]).abs()
        return (value - value.min()).clamp_min(acquisition.TINY).log() + likely

    # -- what is looked at --------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[int]:
        """The latent functions that are looked at, those of the objective, of the tasks offered and of the constraints."""
        layout = self.posterior._problem.layout
        tasks = [*self.pool.tasks, *(t for t, _ in self.constraints)]
        return sorted({*self.objective.outputs, *(o for t in tasks for o in layout.contrasts(t))})

    def _possible(self, pool: Pool) -> Bool[Tensor, " R"] | None:
        """Which candidates are ones of the target, where it has a list of its own."""
        if self.target < 0 or not self.pool.listed[:, self.target].any():
            return None
        return torch.from_numpy(pool.among[:, self.target])

    @property
    def few(self) -> int:
        """How many worlds choose the shortlist."""
        return SCREEN[len(self.pool) > LARGE]

    @property
    def held(self) -> list[int]:
        """The latent functions of the constraints."""
        return sorted({o for t, _ in self.constraints for o in self.posterior._problem.layout.contrasts(t)})

    @property
    def anchored(self) -> list[int]:
        """The latent functions that are looked at at the anchors: the objective's first, then those of the constraints."""
        return [*self.objective.outputs, *(o for o in self.held if o not in self.objective.outputs)]

    @property
    def wanted(self) -> list[int]:
        """Places among them of the objective's."""
        return [self.outputs.index(o) for o in self.objective.outputs]

    def _places(self, task: int) -> list[int]:
        return [self.outputs.index(o) for o in self.posterior._problem.layout.contrasts(task)]

    def _views(self, beliefs: Beliefs, own: Linear, judge: Judge, noise: Mapping[int, Tensor]) -> dict[int, Sight]:
        held = [self.outputs.index(o) for o in self.held], [self.anchored.index(o) for o in self.held]
        return {t: sight(beliefs, own, judge.fixed, self.wanted, self._places(t), noise[t], held) for t in noise}

    def _linear(self, beliefs: Beliefs) -> Linear:
        return self.objective.linear(beliefs.mean[..., self.wanted], beliefs.cov[:, :, self.wanted][..., self.wanted])

    def _noise(self, task: int, beliefs: Beliefs, pool: Pool) -> Tensor:
        places = self._places(task)
        theta = {name: value[: len(beliefs.mean)] for name, value in self.theta.items()}
        mean, cov = beliefs.mean[..., places], beliefs.cov[:, :, places][..., places]
        return observation_noise(
            self.posterior, theta, task, mean, cov, pool.details(self.posterior, task), self.generator
        )

    def _chance(
        self,
        mean: Float[Tensor, "W N K"],
        cov: Float[Tensor, "W N K K"],
        pool: Pool | None,
        given: list[int] | None = None,
    ) -> Chance:
        """That all constraints hold, each by itself, and by how much more where their functions are a little higher.

        `given` says which functions these are, all that are looked at by default.
        """
        outputs, held, rows = given or self.outputs, self.held, mean.shape[1]
        log, lean = torch.zeros(mean.shape[:2]).double(), torch.zeros(*mean.shape[:2], len(held)).double()
        for t, wanted in self.constraints:
            own = self.posterior._problem.layout.contrasts(t)
            places, there = [outputs.index(o) for o in own], [held.index(o) for o in own]
            law = self.posterior.data.tasks[t].likelihood
            details = (
                np.tile(np.array(law.constants()), (rows, 1))
                if pool is None
                else pool.details(self.posterior, t).numpy()
            )
            m, v = mean[..., places], cov[:, :, places][..., places]
            chance = self._held(t, wanted, m, v, details).clamp_min(1e-12)
            log = log + chance.log()
            if self.score != "knowledge_gradient":
                continue
            for c, place in enumerate(there):
                step = torch.zeros_like(m)
                step[..., c] = STEP_ASIDE * v[..., c, c].clamp_min(1e-12).sqrt()
                ahead, behind = (self._held(t, wanted, m + side * step, v, details) for side in (1, -1))
                lean[..., place] += (ahead - behind) / (2 * step[..., c]) / chance
        return Chance(log, lean * log.exp().unsqueeze(-1))

    def _held(
        self,
        task: int,
        wanted: Any,
        mean: Float[Tensor, "W N c"],
        cov: Float[Tensor, "W N c c"],
        details: NDArray[np.float64],
    ) -> Float[Tensor, "W N"]:
        """Probability of a constraint, world by world."""
        posterior, found = self.posterior, []
        at, law = posterior._rows_at(task, details), posterior.data.tasks[task].likelihood
        for w in range(len(mean)):
            theta = {name: value[w : w + 1] for name, value in self.theta.items()}
            p = posterior._problem.parameters_of(theta, task)
            said = law.predictive(mean[w : w + 1], cov[w : w + 1], None, at, p)
            if isinstance(said, Classes):
                found.append(said.probability[:, wanted].sum(-1))
                continue
            low, high = (torch.full((len(details),), edge).double() for edge in wanted)
            chance = torch.ones_like(low) if np.isinf(wanted[1]) else said.cdf(high)
            found.append(chance if np.isinf(wanted[0]) else chance - said.below(low))
        return torch.stack(found)


def _best_of(scores: np.ndarray, offered: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Scores (R, T) of what is offered, and the pair with the highest."""
    values = np.where(offered, np.maximum(scores, WORST), -np.inf)
    r, t = (int(i) for i in np.unravel_index(values.argmax(), values.shape))
    return values, r, t


def _strata(worlds_: int, count: int, generator: torch.Generator) -> Float[Tensor, "W c"]:
    """Standard normals, one from each stratum."""
    places = torch.stack([torch.randperm(worlds_, generator=generator) for _ in range(count)], -1)
    return torch.special.ndtri((places + 0.5).double() / worlds_)
