"""The variational posterior against long Hamiltonian Monte Carlo on the same density, and against Pyro's NUTS in seconds.

python -m benchmarks.reference [--sizes 30,60,100,200] [--seeds 5] [--models LatentTask] [--again]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings

import numpy as np
import pandas as pd
import pyro
import torch

import bayestl as btl
from bayestl.inference.coordinates import Coordinates
from bayestl.inference.infer import _best_mode, _starts
from bayestl.inference.mode import Mode, climb
from benchmarks.report import RESULTS, judge_measured, write
from benchmarks.simulate import smooth, table

MODELS = (btl.MultiTask(), btl.Difference.chain("source", "target"), btl.LatentTask())


def tables(n: int, seed: int, d: int = 2) -> tuple[btl.TaskData, btl.TaskData]:
    """Four fifths source rows and one fifth (at least eight) target rows; 300 measured target values to predict."""
    rng = np.random.default_rng(seed)
    f, g = smooth(rng, d, 0.4), smooth(rng, d, 0.6)

    def draw(sources: int, targets: int) -> btl.TaskData:
        x = rng.random((sources + targets, d))
        target = np.arange(sources + targets) >= sources
        y = np.where(target, 0.8 * f(x) + 0.4 * g(x) + 1, f(x)) + 0.1 * rng.standard_normal(len(x))
        return table(x, np.where(target, "target", "source").tolist(), y)

    targets = max(n // 5, 8)
    return draw(n - targets, targets), draw(0, 300)


def hamiltonian(
    coordinates: Coordinates, mode: Mode, chains: int, warmup: int, keep: int, seed: int, leaps: int = 8
) -> torch.Tensor:
    """Draws of v from many chains in one batch, in the basis of the curvature, started over-dispersed around the mode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def density(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, slope = coordinates.gradient(mode.v + u @ mode.basis.mT)
        return value, slope @ mode.basis

    u = 1.2 * normal(chains, coordinates.dim)
    value, slope = density(u)
    step, draws = 0.3, []
    for iteration in range(warmup + keep):
        p = momentum = normal(chains, coordinates.dim)
        size = step * (0.8 + 0.4 * torch.rand(chains, 1, dtype=torch.float64, generator=generator))
        new, new_value, new_slope = u, value, slope
        for _ in range(leaps):
            p = p + 0.5 * size * new_slope
            new = new + size * p
            new_value, new_slope = density(new)
            p = p + 0.5 * size * new_slope
        energy = new_value - 0.5 * p.square().sum(-1) - value + 0.5 * momentum.square().sum(-1)
        accept = energy.clamp_max(0.0).exp().nan_to_num(0.0)
        taken = torch.rand(chains, dtype=torch.float64, generator=generator) < accept
        u = torch.where(taken[:, None], new, u)
        slope, value = torch.where(taken[:, None], new_slope, slope), torch.where(taken, new_value, value)
        if iteration < warmup:
            step *= float(np.exp(0.1 * (accept.mean() - 0.8)))
        elif iteration % 4 == 0:
            draws.append(u)
    return mode.v + torch.cat(draws) @ mode.basis.mT


def ours(n: int, seed: int, model: btl.Model) -> dict:
    data, test = tables(n, seed)
    posterior = btl.fit(model, data, seed=seed, progress=False)
    score = judge_measured(posterior, test)
    return {
        "nlpd": score["nlpd"], "coverage": score["coverage"], "pareto_k": posterior.record.pareto_k,
        "seconds": posterior.record.seconds["total"],
    }  # fmt: skip


def reference(n: int, seed: int, model: btl.Model, chains: int, warmup: int, keep: int) -> dict:
    data, test = tables(n, seed)
    posterior = btl.fit(model, data, seed=seed, progress=False)
    problem = posterior._problem
    coordinates = Coordinates(problem.program, n, problem.prior)
    points, heights = climb(coordinates, _starts(coordinates.dim, n, torch.Generator().manual_seed(seed)))
    mode = _best_mode(coordinates, points, heights)
    began = time.perf_counter()
    theta = coordinates.theta(hamiltonian(coordinates, mode, chains, warmup, keep, seed))
    theta = {name: theta[name] for name in problem.parameters()}
    seconds = time.perf_counter() - began
    long = judge_measured(dataclasses.replace(posterior, theta=theta, components=0), test)
    point = judge_measured(btl.fit(model, data, method="map", seed=seed, progress=False), test)
    return {
        "n": n, "seed": seed, "model": type(model).__name__, "nlpd_hmc": long["nlpd"], "nlpd_map": point["nlpd"],
        "coverage_hmc": long["coverage"], "coverage_map": point["coverage"], "seconds_hmc": seconds,
    }  # fmt: skip


def nuts_seconds(n: int, draws: int = 100, warmup: int = 100) -> float:
    """Seconds of Pyro's own NUTS on the plain Pyro model, for `draws` draws after `warmup` steps."""
    data, _ = tables(n, 0)
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        began = time.perf_counter()
        kernel = pyro.infer.NUTS(btl.MultiTask().pyro_model(data))
        pyro.infer.MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True).run()
        return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="30,60,100,200")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--nuts", default="60,100", help="sizes at which Pyro's NUTS is timed; empty for none")
    parser.add_argument("--models", default=",".join(type(model).__name__ for model in MODELS))
    parser.add_argument("--again", action="store_true", help="our fits only, against the chains of the results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, before = [], {}
    if options.again:
        kept = ["n", "seed", "model", "nlpd_hmc", "nlpd_map", "coverage_hmc", "coverage_map", "seconds_hmc"]
        chains = pd.read_csv(RESULTS / "reference.csv")[kept]
        before = {(row["n"], row["seed"], row["model"]): row for row in chains.to_dict("records")}
    for size in map(int, options.sizes.split(",")):
        for seed in range(options.seeds):
            for model in (m for m in MODELS if type(m).__name__ in options.models.split(",")):
                long = before.get((size, seed, type(model).__name__)) or reference(
                    size, seed, model, chains=24 if size <= 100 else 16, warmup=50, keep=100
                )
                rows.append({**long, **ours(size, seed, model)})
                print(rows[-1], flush=True)
    results = write("reference", rows, key=["n", "seed", "model"])
    results["gap"] = results["nlpd"] - results["nlpd_hmc"]
    results["abs_gap"] = results["gap"].abs()
    results["abs_gap_map"] = (results["nlpd_map"] - results["nlpd_hmc"]).abs()
    columns = ["gap", "abs_gap", "abs_gap_map", "coverage", "coverage_hmc", "coverage_map", "pareto_k", "seconds"]
    print(results.groupby("n")[columns].mean().round(3).to_string())
    print(results.groupby("model")[columns].mean().round(3).to_string())
    print(results[columns].mean().round(3).to_string())
    for size in (int(s) for s in options.nuts.split(",") if s):
        ours = results[(results["n"] == size) & (results["model"] == "MultiTask")]["seconds"].mean()
        seconds = nuts_seconds(size)
        print(
            f"n = {size}: Pyro's NUTS (100 + 100) {seconds:.0f} s, {seconds / ours:.0f} times the variational fit",
            flush=True,
        )
