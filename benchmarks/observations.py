"""Likelihoods that are not normal: seconds, class probabilities against long HMC, and the latent posterior of GPyTorch.

python -m benchmarks.observations [--seeds 2] [--first 0] [--models LatentTask] [--parts hmc]

Rows of results/observations.csv that a run does not repeat stay there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import gpytorch
import linear_operator
import numpy as np
import pandas as pd
import pyro
import torch

import bayestl as btl
from bayestl.inference.coordinates import Coordinates
from bayestl.inference.mode import climb, curvature
from bayestl.models.problem import Problem
from bayestl.regression import Regression
from benchmarks.reference import hamiltonian
from benchmarks.report import brief, write

INPUTS = [f"x{j}" for j in range(6)]


def signal(x: np.ndarray) -> np.ndarray:
    return np.sin(4 * x[:, 0]) + x[:, 1] ** 2 + np.cos(3 * x[:, 2]) * x[:, 3]


def binary(n: int, seed: int = 0) -> btl.TaskData:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 6))
    chance = 1 / (1 + np.exp(-4 * (signal(x) - signal(x).mean())))
    frame = pd.DataFrame(x, columns=INPUTS).assign(stable=(rng.random(n) < chance).astype(int))
    return btl.TaskData.from_wide(frame, inputs=INPUTS, tasks=["stable"], likelihoods={"stable": btl.Bernoulli()})


def gaps_and_colours(gaps: int, colours: int, classes: int, seed: int = 0) -> tuple[btl.TaskData, pd.DataFrame]:
    """Gaps everywhere, and the colours, bands of a noisy copy of the gap, of some; a table of new inputs."""
    rng = np.random.default_rng(seed)
    x = rng.random((gaps + 200, 6))
    f = signal(x)
    edges = np.quantile(f, np.linspace(0, 1, classes + 1)[1:-1])
    band = np.searchsorted(edges, f + 0.2 * rng.standard_normal(len(x)))
    frame = pd.DataFrame(x, columns=INPUTS).assign(
        gap=f + 0.1 * rng.standard_normal(len(x)), colour=[f"colour {b}" for b in band]
    )
    new = frame[INPUTS].iloc[gaps:]
    frame = frame.iloc[:gaps].copy()
    frame.loc[colours:, "colour"] = None
    data = btl.TaskData.from_wide(
        frame, inputs=INPUTS, tasks=["gap", "colour"], likelihoods={"colour": btl.Categorical()}
    )
    return data, new


def probabilities(posterior: btl.Posterior, new: pd.DataFrame) -> np.ndarray:
    return posterior.predict(new, task="colour")["probability"].to_numpy()


def by_hmc(
    model: btl.Model, data: btl.TaskData, new: pd.DataFrame, task: str, seed: int, keep: int = 240
) -> tuple[np.ndarray, float]:
    """Class probabilities by long Hamiltonian Monte Carlo over theta and the functions of the classes, and their mean error.

    The error is half the difference of two halves of the chains. The normal observations are integrated out (exactly):
    with them in the chain, their noise makes a funnel that takes it ages to explore.
    """
    problem = Problem.of(model, data)
    at = problem.points
    normal = torch.tensor([i for piece in problem.pieces if piece.law.exact for i in piece.where.flatten().tolist()])
    other = torch.tensor([i for piece in problem.sites for i in piece.where.flatten().tolist()])
    y, size = problem.values[normal], len(other)

    def conditioned(theta: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        k = problem.observed_covariance(theta)
        first, _ = torch.linalg.cholesky_ex(k[..., normal, :][..., normal])
        half = torch.linalg.solve_triangular(first, k[..., normal, :][..., other], upper=False)
        white = torch.linalg.solve_triangular(first, y.unsqueeze(-1), upper=False)
        evidence = -0.5 * white.square().sum((-1, -2)) - first.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        left = k[..., other, :][..., other] - half.mT @ half + 1e-8 * torch.eye(size, dtype=k.dtype)
        return (half.mT @ white).squeeze(-1), torch.linalg.cholesky_ex(left)[0], evidence

    def program() -> None:
        theta = problem.prior()
        mean, factor, evidence = conditioned(theta)
        white = pyro.sample("f", pyro.distributions.Normal(torch.zeros(size).double(), 1.0).to_event(1))
        f = mean + (factor @ white.unsqueeze(-1)).squeeze(-1)
        start = 0
        for piece in problem.sites:
            own = f[..., start : start + piece.where.numel()].reshape(*f.shape[:-1], *piece.where.shape)
            start += piece.where.numel()
            own = own if len(piece.functions) > 1 else own[..., 0]
            evidence = evidence + piece.law.log_density(own, piece.rows, problem.parameters_of(theta, piece.task)).sum(
                -1
            )
        pyro.factor("y", evidence)

    def sampling() -> None:
        problem.prior()
        pyro.sample("f", pyro.distributions.Normal(torch.zeros(size).double(), 1.0).to_event(1))

    joint = Coordinates(program, len(at.output), sampling)
    start = 0.1 * torch.randn(2, joint.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    points, heights = climb(joint, start)
    best = int(heights.argmax())
    mode = curvature(joint, points[best], heights[best].item())
    v = hamiltonian(joint, mode, chains=16, warmup=keep // 2, keep=keep, seed=seed, leaps=12)
    v = v.unflatten(0, (-1, 2, 8)).transpose(0, 1).flatten(0, 2)  # the first eight chains, then the others
    values = joint.theta(v)
    theta = {name: values[name] for name in problem.parameters()}
    mean, factor, _ = conditioned(theta)
    known = torch.zeros(len(v), len(at.output), dtype=torch.float64)
    known[:, normal], known[:, other] = y, mean + (factor @ values["f"].unsqueeze(-1)).squeeze(-1)
    k = problem.observed_covariance(theta)
    k[:, other, other] += 1e-8
    factor = torch.linalg.cholesky(k)
    alpha = torch.cholesky_solve(known.unsqueeze(-1), factor)
    t = data.index_of(task)
    contrasts = problem.layout.contrasts(t)
    x = problem.scaling.inputs(data.encode(new))
    centre, white = [], []
    for cross in problem.model.cross(theta, x, contrasts, at, problem.layout):
        centre.append((cross @ alpha).squeeze(-1))
        white.append(torch.linalg.solve_triangular(factor, cross.mT, upper=False))
    stack = torch.stack(white, -1)
    cov = problem.model.among(theta, x, contrasts, problem.layout) - torch.einsum("snmc,snmd->smcd", stack, stack)
    rows, p = problem.rows(t, torch.zeros(len(x), dtype=torch.int64)), problem.parameters_of(theta, t)
    centre, found, half = torch.stack(centre, -1), [], len(v) // 2
    for part in (slice(0, half), slice(half, None)):
        own = {name: value[part] for name, value in p.items()}
        law = data.tasks[t].likelihood.predictive(centre[part], cov[part], None, rows, own)
        found.append(law.probability.numpy())
    return (found[0] + found[1]) / 2, float(np.abs(found[0] - found[1]).mean() / 2)


def against_hmc(seed: int, keep: int, models: Sequence[str]) -> Iterator[dict]:
    rng = np.random.default_rng(100 + seed)
    for kind in ("two classes", "four classes"):
        n = 60
        x = rng.random((n + 100, 2))
        f = np.sin(5 * x[:, 0]) + x[:, 1]
        z = f + 0.3 * rng.standard_normal(len(x))
        edges = np.quantile(f, [0.5] if kind == "two classes" else [0.25, 0.5, 0.75])
        frame = pd.DataFrame(x, columns=["x0", "x1"]).assign(
            gap=f + 0.1 * rng.standard_normal(len(x)), colour=[f"c{i}" for i in np.searchsorted(edges, z)]
        )
        new = frame[["x0", "x1"]].iloc[n:]
        frame = frame.iloc[:n].copy()
        frame.loc[30:, "colour"] = None
        frame.loc[:20, "gap"] = None
        data = btl.TaskData.from_wide(
            frame, inputs=["x0", "x1"], tasks=["gap", "colour"],
            likelihoods={"colour": btl.Bernoulli() if kind == "two classes" else btl.Categorical()},
        )  # fmt: skip
        for model in (btl.MultiTask(), btl.Difference.chain("gap", "colour"), btl.LatentTask()):
            if type(model).__name__ not in models:
                continue
            began = time.perf_counter()
            posterior = btl.fit(model, data, seed=seed, progress=False)
            ours = probabilities(posterior, new)
            seconds = time.perf_counter() - began
            began = time.perf_counter()
            truth, off = by_hmc(posterior.model, data, new, "colour", seed, keep)
            yield {
                "case": kind, "seed": seed, "model": type(model).__name__, "mean_abs": np.abs(ours - truth).mean(),
                "hmc_off": off, "seconds": seconds, "seconds_hmc": time.perf_counter() - began,
            }  # fmt: skip


def against_gpytorch(n: int = 200, steps: int = 600) -> dict:
    """The latent posterior at one theta, against GPyTorch's variational GP with every row an inducing point."""
    data = binary(n)
    model = btl.SingleTask()
    data = btl.TaskData.from_wide(
        data.to_frame().rename(columns={"value": "stable"}), inputs=INPUTS, tasks=["stable"],
        likelihoods={"stable": btl.Bernoulli(link="probit")},
    )  # fmt: skip
    problem = Problem.of(model, data)
    theta = {"amplitude": torch.tensor([[1.5]]).double(), "stable.length_scale": torch.full((1, 6), 0.7).double()}
    began = time.perf_counter()
    regression = Regression(problem, theta, None)
    ((mean, cov),) = regression.marginals(problem.points.x, [[0]])
    ours = time.perf_counter() - began
    mean, std = mean[0, :, 0], cov[0, :, 0, 0].sqrt()
    shift, scale = float(problem.scaling.location[0]), float(problem.scaling.scale[0])

    class Variational(gpytorch.models.ApproximateGP):
        def __init__(self, x: torch.Tensor) -> None:
            q = gpytorch.variational.CholeskyVariationalDistribution(len(x))
            super().__init__(gpytorch.variational.VariationalStrategy(self, x, q, learn_inducing_locations=False))

        def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
            one = {name: value[0] for name, value in theta.items()}
            at = problem.points._replace(x=x, output=torch.zeros(len(x), dtype=torch.int64))
            k = scale**2 * model.covariance(one, at, at, problem.layout)
            mean = torch.full((len(x),), shift, dtype=torch.float64)
            return gpytorch.distributions.MultivariateNormal(mean, linear_operator.to_linear_operator(k))

    began = time.perf_counter()
    gp = Variational(problem.points.x).double()
    likelihood = gpytorch.likelihoods.BernoulliLikelihood()
    y = torch.from_numpy(data.values.copy())
    objective = gpytorch.mlls.VariationalELBO(likelihood, gp, n)
    optimiser = torch.optim.Adam(gp.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (-objective(gp(problem.points.x), y)).backward()
        optimiser.step()
        schedule.step()
    theirs = time.perf_counter() - began
    gp.eval()
    with torch.no_grad():
        q = gp(problem.points.x)
    return {
        "case": "latent posterior, probit, n = 200", "seed": 0, "model": "SingleTask",
        "seconds": ours, "seconds_gpytorch": theirs,
        "mean_abs": float((q.mean - shift - scale * mean).abs().max()),
        "std_abs": float((q.stddev - scale * std).abs().max()),
    }  # fmt: skip


def speed() -> Iterator[dict]:
    btl.fit(btl.SingleTask(), binary(60), progress=False)  # everything is imported and compiled once
    data, _ = gaps_and_colours(500, 140, 8)
    for case, model, table in (
        ("Bernoulli, 500 rows", btl.SingleTask(), binary(500)),
        ("500 gaps, 140 colours in 8 classes", btl.MultiTask(), data),
    ):
        began = time.perf_counter()
        posterior = btl.fit(model, table, progress=False)
        yield {
            "case": case, "seed": 0, "model": type(model).__name__, "seconds": time.perf_counter() - began,
            "pareto_k": posterior.record.pareto_k,
        }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=int, default=720, help="draws that each of the 16 chains keeps")
    parser.add_argument("--models", default="MultiTask,Difference,LatentTask", help="against the chains")
    parser.add_argument("--parts", default="speed,gpytorch,hmc")
    options = parser.parse_args()
    if odd := set(options.models.split(",")) - {"MultiTask", "Difference", "LatentTask"}:
        parser.error(f"no such models: {', '.join(odd)}")
    warnings.simplefilter("ignore")
    parts: dict[str, Callable[[], Iterable[dict]]] = {
        "speed": speed,
        "gpytorch": lambda: [against_gpytorch()],
        "hmc": lambda: chain.from_iterable(
            against_hmc(options.first + i, options.keep, options.models.split(",")) for i in range(options.seeds)
        ),
    }
    rows = []
    for part in options.parts.split(","):
        for row in parts[part]():
            rows.append(row)
            print(brief(row), flush=True)
            table = write("observations", rows, key=["case", "seed", "model"])
    shown = ["mean_abs", "seconds", "seconds_gpytorch", "seconds_hmc"]
    print(table.groupby("case", sort=False)[shown].mean().to_string())
