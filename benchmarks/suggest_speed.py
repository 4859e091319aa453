"""Seconds for a batch of suggestions, every score, against BoTorch's multi-fidelity knowledge gradient on the same data.

python -m benchmarks.suggest_speed [--rows 400] [--candidates 10000] [--batch 8] [--rival 1]

Ours scores every (candidate, task) pair of the pool. BoTorch's `qMultiFidelityKnowledgeGradient` (16 fantasies) has no pool: it
is optimised over the unit cube by `optimize_acqf_mixed`, once for each choice and with the fidelity held at each of its values,
4 restarts of 64 raw samples; its model is fitted before the clock starts, as ours is.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch

import bayestl as btl
from bayestl.decide.goals import SCORES
from bayestl.decide.suggest import suggest
from benchmarks.report import write
from benchmarks.simulate import three_tasks

COSTS = {"t0": 1.0, "t1": 2.0, "t2": 10.0}
GOALS = {"optimum": "maximize", "hit": 0.5, "region": "learn", "level": {"above": 0.3}}


def ours(data: btl.TaskData, candidates: int, batch: int, repeats: int) -> list[dict]:
    posterior = btl.fit(btl.MultiTask(), data, seed=0, progress=False)
    names = [column.name for column in data.inputs]
    new = pd.DataFrame(np.random.default_rng(1).random((candidates, len(names))), columns=names)
    suggest(posterior, new.head(500), target="t2", costs=COSTS, batch=1)  # the data are solved once, and kept
    rows = []
    for kind, goal in GOALS.items():
        for score in SCORES[kind]:
            seconds = []
            for _ in range(repeats):
                began = time.perf_counter()
                suggest(posterior, new, target="t2", goal=goal, score=score, costs=COSTS, batch=batch)
                seconds.append(time.perf_counter() - began)
            rows.append(
                {
                    "method": "bayestl",
                    "goal": str(goal),
                    "score": score,
                    "batch": batch,
                    "seconds": float(np.median(seconds)),
                }
            )
            print(rows[-1], flush=True)
    return rows


def rival(data: btl.TaskData, choices: int) -> list[dict]:
    from botorch.acquisition.cost_aware import InverseCostWeightedUtility
    from botorch.acquisition.knowledge_gradient import qMultiFidelityKnowledgeGradient
    from botorch.acquisition.utils import project_to_target_fidelity
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import AffineFidelityCostModel, SingleTaskMultiFidelityGP
    from botorch.models.transforms import Standardize
    from botorch.optim import optimize_acqf_mixed
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(0)
    d = data.x.shape[1]
    x = torch.from_numpy(np.column_stack([data.x, data.task_index / 2.0]))
    y = torch.tensor(data.values)[:, None]
    model = SingleTaskMultiFidelityGP(x, y, data_fidelities=[d], outcome_transform=Standardize(m=1))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    fidelities = {d: 1.0}
    utility = InverseCostWeightedUtility(AffineFidelityCostModel(fidelity_weights={d: 9.0}, fixed_cost=1.0))
    bounds = torch.tensor([[0.0] * (d + 1), [1.0] * (d + 1)]).double()
    current = float(model.posterior(project_to_target_fidelity(x, fidelities, d + 1)).mean.detach().max())
    seconds = []
    for _ in range(choices):
        score = qMultiFidelityKnowledgeGradient(
            model, num_fantasies=16, current_value=torch.tensor(current).double(), cost_aware_utility=utility,
            project=lambda points: project_to_target_fidelity(points, fidelities, d + 1),
        )  # fmt: skip
        began = time.perf_counter()
        optimize_acqf_mixed(score, bounds, q=1, num_restarts=4, raw_samples=64, options={"maxiter": 50},
                            fixed_features_list=[{d: value} for value in (0.0, 0.5, 1.0)])  # fmt: skip
        seconds.append(time.perf_counter() - began)
    name = "qMultiFidelityKnowledgeGradient"
    return [{"method": "BoTorch", "goal": "maximize", "score": name, "batch": 1, "seconds": float(np.median(seconds))}]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rival", type=int, default=1, help="choices that BoTorch makes; 0 for none")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    warnings.filterwarnings("ignore", module="botorch|linear_operator|gpytorch")
    data, _ = three_tasks(options.rows, 0)
    results = ours(data, options.candidates, options.batch, options.repeats)
    if options.rival:
        results += rival(data, options.rival)
    size = {"rows": options.rows, "candidates": options.candidates}
    table = write(
        "suggest_speed", [size | row for row in results],
        key=["rows", "candidates", "method", "goal", "score", "batch"],
    )  # fmt: skip
    table["per choice"] = table["seconds"] / table["batch"]
    print(table.drop(columns="commit").round(3).to_string())
