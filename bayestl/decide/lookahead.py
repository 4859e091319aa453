"""What a measurement yet to be made would tell: normal beliefs about candidates, tasks and objective, draw by draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayestl.gaussian.conditional import Conditional, Conditioned, Updated
from bayestl.gaussian.exact import robust_cholesky
from bayestl.models.problem import Problem
from bayestl.posterior import Posterior
from bayestl.priors import Theta
from bayestl.regression import joined
from bayestl.scaling import Pairs

LABELS = 4  # imagined observations that the information in one of them is averaged over
FLOOR = 1e-7  # of an observation's precision


class World(NamedTuple):
    """One draw of theta and, given it, what is known: the data and imagined values of what is pending."""

    theta: Theta
    solved: Conditional
    support: Pairs

    def joint(self, problem: Problem, at: Pairs) -> tuple[Float[Tensor, " P"], Float[Tensor, "P P"]]:
        """Mean and covariance of the functions at some points."""
        model, layout = problem.model, problem.layout
        cross = model.covariance(self.theta, at, self.support, layout)
        mean = model.mean(self.theta, at, layout) + self.solved.mean(cross)
        return mean, self.solved.covariance(model.covariance(self.theta, at, at, layout), cross)

    def beside(
        self, problem: Problem, x: Tensor, outputs: list[int], anchors: Pairs
    ) -> tuple[Float[Tensor, "R K"], Float[Tensor, "R K K"], Float[Tensor, "R K Q"]]:
        """Means and covariances of functions at each of many points by itself, and their covariances with a few anchors."""
        model, layout = problem.model, problem.layout
        fixed = self.solved.whiten(model.covariance(self.theta, anchors, self.support, layout))
        means, whites, reach = [], [], []
        crosses = model.cross(self.theta, x, outputs, self.support, layout)
        priors = model.cross(self.theta, x, outputs, anchors, layout)
        for o, cross, prior in zip(outputs, crosses, priors, strict=True):
            white = self.solved.whiten(cross).expand(-1, len(x))
            points = Pairs(x, torch.full((len(x),), o))
            means.append(model.mean(self.theta, points, layout) + self.solved.mean(cross))
            reach.append(prior.expand(len(x), -1) - white.mT @ fixed)
            whites.append(white)
        stack = torch.stack(whites, -1)
        cov = model.among(self.theta, x, outputs, layout) - torch.einsum("nmc,nmd->mcd", stack, stack)
        return torch.stack(means, -1), cov, torch.stack(reach, -2)


class Beliefs(NamedTuple):
    """About K functions at each of R candidates, and k functions at each of A anchors, under W worlds.

    These are the functions of the objective and, after them, of constraints.
    """

    mean: Float[Tensor, "W R K"]
    cov: Float[Tensor, "W R K K"]
    reach: Float[Tensor, "W R K A k"]
    anchor_mean: Float[Tensor, "W A k"]
    anchor_cov: Float[Tensor, "W A k A k"]


@dataclass(frozen=True, eq=False)
class Joint:
    """The joint law of everything at a few candidates and the anchors: candidates first, by row and then by function."""

    mean: Float[Tensor, "W P"]
    cov: Float[Tensor, "W P P"]
    rows: int
    functions: int
    anchored: int

    def beliefs(self) -> Beliefs:
        """Take out what scores look at."""
        worlds, r, k, c = len(self.mean), self.rows, self.functions, self.anchored
        own = r * k
        blocks = self.cov[:, :own, :own].reshape(worlds, r, k, r, k).diagonal(dim1=1, dim2=3).movedim(-1, 1)
        fixed = (self.cov.shape[-1] - own) // c
        return Beliefs(
            self.mean[:, :own].reshape(worlds, r, k), blocks,
            self.cov[:, :own, own:].reshape(worlds, r, k, fixed, c), self.mean[:, own:].reshape(worlds, fixed, c),
            self.cov[:, own:, own:].reshape(worlds, fixed, c, fixed, c),
        )  # fmt: skip

    def given(self, points: list[int], noise: Float[Tensor, "W c c"], z: Float[Tensor, "W c"]) -> Joint:
        """Condition on an imagined observation: ``m + C L^-T z``, ``K - C S^-1 C'``, ``S = Cov[f] + noise = L L'``.

        The covariance does not depend on the value, which is drawn, by z, from what is believed of it.
        """
        cross = self.cov[:, :, points]
        factor = robust_cholesky(cross[:, points] + noise)[0]
        white = torch.linalg.solve_triangular(factor, cross.mT, upper=False)
        mean = self.mean + (white.mT @ z.unsqueeze(-1)).squeeze(-1)
        return Joint(mean, self.cov - white.mT @ white, self.rows, self.functions, self.anchored)


def worlds(
    posterior: Posterior, count: int, pending: list[tuple[int, Tensor, Tensor]], seed: int
) -> tuple[Theta, list[World]]:
    """Give `count` worlds: draws of theta, as often as need be, each with values of its own for what is pending.

    `pending` lists tasks, inputs (m, columns) and details (m, 2).
    """
    regression, problem, generator = posterior._functions, posterior._problem, torch.Generator().manual_seed(seed)
    found: list[World] = []
    for part, thetas, solved in regression.batches():
        for i in range(min(part.stop - part.start, count - len(found))):
            found.append(World({name: value[i] for name, value in thetas.items()}, solved[i], regression.support))
        if len(found) == count:
            break
    owner = torch.arange(count) % len(found)
    theta = {name: value[owner] for name, value in posterior._mixed.items()}
    out = [found[i] for i in owner.tolist()]
    if not pending:
        return theta, out
    groups = [problem.layout.contrasts(t) for t, *_ in pending]
    at = Pairs(
        torch.cat([x.repeat_interleave(len(own), 0) for (_, x, _), own in zip(pending, groups, strict=True)]),
        torch.cat([torch.tensor(own).repeat(len(x)) for (_, x, _), own in zip(pending, groups, strict=True)]),
    )
    laws = [world.joint(problem, at) for world in found]
    mean, cov = (torch.stack([law[i] for law in laws])[owner] for i in (0, 1))
    start = 0
    added = cov.clone()
    for (t, x, details), own in zip(pending, groups, strict=True):
        place = start + torch.arange(len(x) * len(own)).reshape(len(x), len(own))
        start += place.numel()
        blocks = cov[:, place.unsqueeze(-1), place.unsqueeze(-2)]
        noise = observation_noise(posterior, theta, t, mean[:, place], blocks, details, generator)
        added[:, place.unsqueeze(-1), place.unsqueeze(-2)] += noise
    z = torch.randn(mean.shape, dtype=torch.float64, generator=generator)
    more = Conditioned(added, (robust_cholesky(added)[0] @ z.unsqueeze(-1)).squeeze(-1))
    support = joined(regression.support, at)
    reach = [w.solved.whiten(problem.model.covariance(w.theta, at, w.support, problem.layout)) for w in found]
    return theta, [
        World(world.theta, Updated(world.solved, reach[i], more[w]), support)
        for w, (i, world) in enumerate(zip(owner.tolist(), out, strict=True))
    ]


def observation_noise(
    posterior: Posterior,
    theta: Theta,
    task: int,
    mean: Float[Tensor, "W R c"],
    cov: Float[Tensor, "W R c c"],
    details: Tensor,
    generator: torch.Generator,
) -> Float[Tensor, "W R c c"]:
    """Noise of a normal observation of a task's functions that tells as much as one of the task is expected to.

    Normal measurements have theirs. Others are worth the Gaussian site that they will be replaced by: its precision is averaged
    over a few imagined observations, drawn from what is believed, the same for all worlds.
    """
    problem, likelihood = posterior._problem, posterior.data.tasks[task].likelihood
    worlds_, rows, c = mean.shape
    future = problem.future_noise_variance(theta, task)
    if likelihood.exact:
        return future.unsqueeze(-1).unsqueeze(-1).expand(worlds_, rows, 1, 1)
    p = problem.parameters_of(theta, task)
    spread = robust_cholesky(cov)[0]
    at = posterior._rows_at(task, details.numpy())
    precision = torch.zeros_like(cov)
    for _ in range(LABELS):
        e = torch.randn(mean.shape, dtype=torch.float64, generator=generator)
        y = likelihood.draw(mean + (spread @ e.unsqueeze(-1)).squeeze(-1), future, at, p, generator)
        y = y[torch.randint(worlds_, (rows,), generator=generator), torch.arange(rows)]
        for part in likelihood.parts(at._replace(y=y)):
            own = list(part.functions or range(c))
            here = at._replace(y=y).take(part.rows).of(own)
            m, v = mean[:, part.rows][..., own], cov[:, part.rows][..., own, :][..., own]
            if part.law.exact:
                told = part.law.noise_variance(here, p).reciprocal()[..., None, None]  # type: ignore[attr-defined]
            else:
                with torch.no_grad():
                    told = part.law.expect(here, p)(m, v).precision
            where = torch.tensor(own)
            precision[:, part.rows[:, None, None], where[:, None], where] += told / LABELS
    precision.diagonal(dim1=-2, dim2=-1).clamp_min_(0.0).add_(FLOOR)
    return torch.linalg.inv(precision)


def joint_of(
    problem: Problem,
    found: list[World],
    x: Float[Tensor, "R columns"],
    outputs: list[int],
    anchors: Pairs,
    anchored: int,
) -> Joint:
    """The joint law at a few candidates and the anchors, under every world."""
    places: Int[Tensor, " P"] = torch.cat([torch.tensor(outputs).repeat(len(x)), anchors.output])
    at = Pairs(torch.cat([x.repeat_interleave(len(outputs), 0), anchors.x]), places)
    laws: dict[int, tuple[Tensor, Tensor]] = {}
    for world in found:  # worlds that share a draw of theta, with nothing pending, are the same object
        if id(world) not in laws:
            laws[id(world)] = world.joint(problem, at)
    mean, cov = (torch.stack([laws[id(world)][i] for world in found]) for i in (0, 1))
    return Joint(mean, cov, len(x), len(outputs), anchored)


def beliefs_of(
    problem: Problem,
    found: list[World],
    x: Float[Tensor, "R columns"],
    outputs: list[int],
    anchors: Pairs,
    joint: Joint,
) -> Beliefs:
    """Beliefs about many candidates, each by itself; those about the anchors are taken from `joint`."""
    each = [world.beside(problem, x, outputs, anchors) for world in found]
    mean, cov, reach = (torch.stack([own[i] for own in each]) for i in range(3))
    fixed = joint.beliefs()
    worlds_ = slice(0, len(found))
    return Beliefs(
        mean,
        cov,
        reach.reshape(*reach.shape[:-1], -1, joint.anchored),
        fixed.anchor_mean[worlds_],
        fixed.anchor_cov[worlds_],
    )
