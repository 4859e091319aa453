"""Cost of finding the best, or of learning, in campaigns simulated on finished tables.

python -m benchmarks.campaigns [--seeds 20] [--first 0] [--only cofs,branin] [--strategies bayestl,botorch] [--scale 1.0]

* cofs: of 605 covalent organic frameworks (Gantzler et al. 2023) the one with the highest Xe/Kr selectivity by GCMC, with Henry
  coefficients as the cheap source; costs are the recorded minutes of each run. Begins with both of ten.
* arylation: the highest yield of a direct arylation at 120 C (Shields et al. 2021), all 576 yields at 90 and at 105 C known;
  begins with two at 120 C, each measurement costs 1.
* arylation_tenth: the same from 58 yields at either lower temperature, beside BayBE's transfer learning, which took
  more than 400 s for a suggestion from all of them.
* borlido: measured band gaps of 472 solids from their formula (Borlido et al. 2019): root mean squared error on those not yet
  measured, against cost, with PBE gaps at a hundredth of the cost. Begins with five of each.
* branin, hartmann: BoTorch's augmented Branin (2 inputs) and Hartmann (6) functions at fidelities 0.5 and 1, of which the first
  costs a tenth; the best of 512 and 1,024 quasi-random points. Begins with five of either fidelity.

Strategies are those of `bayestl.decide.replay`: bayestl, single-task, random, and for branin and hartmann target-only. The
name of a score of `suggest` stands for bayestl with that score in place of its default, which is the knowledge gradient, and
where there are sources to choose from and it is stuck, the information about the best value. Only the target is measured in
arylation and in the single-task and target-only loops. Rivals: "botorch", its `qMultiFidelityMaxValueEntropy` of every pair
not measured yet, under its `SingleTaskMultiFidelityGP` (branin, hartmann), and "baybe" (arylation_tenth). "botorch KG" must
be asked for: `qMultiFidelityKnowledgeGradient` (16 fantasies), optimised over the unit cube by `optimize_acqf_mixed` (2
restarts of 32 samples), then moved to the nearest pair not measured yet.

Costs include what a strategy knew at the start. A row of results/campaigns_PROBLEM.csv, in which a later run replaces only
what it repeats, holds what one campaign came to: `cost_to_best` (infinite: not within the budget), `cost_to_1%` (a regret of
at most 1 % of the range), and the regret or error at tenths of the budget. `--scale` shortens the budgets.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import qmc

import bayestl as btl
from bayestl import datasets
from bayestl.decide.goals import SCORES
from bayestl.decide.replay import replay
from benchmarks.report import brief, write


@dataclass
class Problem:
    """A finished table, and how it is searched."""

    data: btl.TaskData
    model: btl.Model
    target: str
    costs: dict[str, Any]
    initial: dict[str, Any]
    budget: float
    strategies: tuple[str, ...] = ("bayestl", "knowledge_gradient", "max_value_entropy", "single-task", "random")
    options: dict[str, Any] = field(default_factory=dict)
    rivals: tuple[str, ...] = ()


def cofs() -> Problem:
    table = datasets.load_cofs().dropna(subset=["gcmc_selectivity"])
    inputs = list(table.columns[: list(table.columns).index("henry_selectivity")])
    for name in ("henry", "gcmc"):  # far below what matters, Henry goes down to 1e-54
        table[name] = np.log(table[f"{name}_selectivity"].clip(lower=0.1))
    costs = {name: table[f"{name}_minutes"].to_numpy() for name in ("henry", "gcmc")}
    data = btl.TaskData.from_wide(table, inputs=inputs, tasks=["henry", "gcmc"])
    model = btl.Difference.chain("henry", "gcmc")
    return Problem(data, model, "gcmc", costs, {"henry": 10, "gcmc": 10}, 10_000.0, options={"refit_every": 5})


def arylation(known: Any = "all", budget: float = 200.0) -> Problem:
    inputs = ["base", "ligand", "solvent", "concentration"]
    table = datasets.load_direct_arylation().pivot_table("yield", inputs, "temperature")
    table.columns = [f"at_{name}" for name in table.columns]
    data = btl.TaskData.from_wide(table.reset_index(), inputs=inputs, tasks=list(table.columns))
    initial = {"at_90": known, "at_105": known, "at_120": 2}
    # Nothing but the target is measured: bayestl is target-only.
    return Problem(
        data, btl.MultiTask(), "at_120", {"at_120": 1.0}, initial, budget,
        ("bayestl", "max_value_entropy", "single-task", "random"), {"refit_every": 5},
        rivals=("baybe",) if known != "all" else (),
    )  # fmt: skip


def borlido() -> Problem:
    table = datasets.load_borlido_gaps()
    data = btl.TaskData.from_wide(
        table, inputs=["formula"], tasks=["gap_pbe", "gap_experiment"], features={"formula": btl.Compositions()},
        units={"gap_pbe": "eV", "gap_experiment": "eV"},
    )  # fmt: skip
    costs, initial = {"gap_pbe": 0.01, "gap_experiment": 1.0}, {"gap_pbe": 5, "gap_experiment": 5}
    options = {"goal": "learn", "batch": 8, "every": 8, "refit_every": 24, "growth": 0.25}
    return Problem(
        data,
        btl.Difference.chain("gap_pbe", "gap_experiment"),
        "gap_experiment",
        costs,
        initial,
        100.0,
        ("bayestl", "single-task", "random"),
        options,
    )


def analytic(dim: int, points: int, budget: float) -> Problem:
    from botorch.test_functions.multi_fidelity import AugmentedBranin, AugmentedHartmann

    f: Any = (AugmentedBranin if dim == 2 else AugmentedHartmann)(negate=True).double()
    unit = torch.from_numpy(qmc.Sobol(dim, rng=0).random(points))
    low, high = (torch.tensor(side[:dim]).double() for side in zip(*f._bounds, strict=True))
    names = [f"x{j}" for j in range(dim)]
    table = pd.DataFrame(unit.numpy(), columns=names)
    for name, fidelity in (("low", 0.5), ("high", 1.0)):
        x = torch.cat([low + (high - low) * unit, torch.full((points, 1), fidelity).double()], -1)
        table[name] = f(x).numpy()
    data = btl.TaskData.from_wide(table, inputs=names, tasks=["low", "high"])
    return Problem(
        data, btl.Difference.chain("low", "high"), "high", {"low": 0.1, "high": 1.0}, {"low": 5, "high": 5}, budget,
        ("bayestl", "knowledge_gradient", "max_value_entropy", "target-only", "single-task", "random"), {"refit_every": 5},
        ("botorch",),
    )  # fmt: skip


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "cofs": cofs,
    "arylation": arylation,
    "arylation_tenth": lambda: arylation(58, 40.0),
    "borlido": borlido,
    "branin": lambda: analytic(2, 512, 40.0),
    "hartmann": lambda: analytic(6, 1024, 60.0),
}


def botorch(problem: Problem, seed: int, budget: float, kind: str) -> pd.DataFrame:
    """The same campaign with BoTorch's multi-fidelity max-value entropy or knowledge gradient."""
    from botorch.acquisition import PosteriorMean
    from botorch.acquisition.cost_aware import InverseCostWeightedUtility
    from botorch.acquisition.fixed_feature import FixedFeatureAcquisitionFunction
    from botorch.acquisition.knowledge_gradient import qMultiFidelityKnowledgeGradient
    from botorch.acquisition.max_value_entropy_search import qMultiFidelityMaxValueEntropy
    from botorch.acquisition.utils import project_to_target_fidelity
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import AffineFidelityCostModel, SingleTaskMultiFidelityGP
    from botorch.models.transforms.outcome import Standardize
    from botorch.optim import optimize_acqf, optimize_acqf_mixed
    from gpytorch.mlls import ExactMarginalLogLikelihood

    from bayestl.decide.replay import _start

    torch.manual_seed(seed)
    data, dim = problem.data, len(problem.data.inputs)
    fidelity = torch.tensor([0.5, 1.0]).double()[torch.from_numpy(data.task_index.copy())]
    whole = torch.cat([torch.from_numpy(data.x.copy()), fidelity[:, None]], -1)
    y, price = torch.from_numpy(data.values.copy()), torch.where(fidelity == 1.0, 1.0, 0.1)
    seen = torch.from_numpy(_start(data, problem.initial, seed))
    order, first = seen.nonzero().squeeze(-1).tolist(), float(price[seen].sum())
    top, spent, lines = y[fidelity == 1.0].max(), 0.0, []
    bounds = torch.tensor([[0.0] * (dim + 1), [1.0] * (dim + 1)]).double()
    # cost = 0.1 at fidelity 0.5 and 1 at 1
    utility = InverseCostWeightedUtility(AffineFidelityCostModel(fidelity_weights={dim: 1.8}, fixed_cost=-0.8))

    def project(x: torch.Tensor) -> torch.Tensor:
        return project_to_target_fidelity(x, {dim: 1.0}, dim + 1)

    def by_entropy(model: Any) -> int:
        """The best of the pairs not measured yet."""
        entropy = qMultiFidelityMaxValueEntropy(
            model, whole[fidelity == 1.0], cost_aware_utility=utility, project=project
        )
        left = (~seen).nonzero().squeeze(-1)
        with torch.no_grad():
            scores = torch.cat([entropy(whole[part].unsqueeze(-2)) for part in left.split(256)])
        return int(left[scores.argmax()])

    def by_knowledge_gradient(model: Any) -> int:
        """The pair not measured yet that is nearest to the best within bounds."""
        mean = FixedFeatureAcquisitionFunction(PosteriorMean(model), d=dim + 1, columns=[dim], values=[1.0])
        _, current = optimize_acqf(mean, bounds[:, :dim], q=1, num_restarts=4, raw_samples=256)
        gradient = qMultiFidelityKnowledgeGradient(
            model, num_fantasies=16, current_value=current, cost_aware_utility=utility, project=project
        )
        found, _ = optimize_acqf_mixed(
            gradient, bounds, q=1, fixed_features_list=[{dim: 0.5}, {dim: 1.0}], num_restarts=2, raw_samples=32,
            options={"maxiter": 30},
        )  # fmt: skip
        return int((whole - found).square().sum(-1).where((fidelity == found[0, -1]) & ~seen, torch.inf).argmin())

    choose = by_entropy if kind == "botorch" else by_knowledge_gradient
    while True:
        best = y[seen & (fidelity == 1.0)].max()
        lines.append({"step": len(lines), "cost": first + spent, "regret": float(top - best)})
        if spent >= budget or best == top:
            return pd.DataFrame(lines)
        model = SingleTaskMultiFidelityGP(
            whole[order], y[order, None], data_fidelities=[dim], outcome_transform=Standardize(1)
        )
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        order.append(choose(model))
        seen[order[-1]], spent = True, spent + float(price[order[-1]])


def baybe(problem: Problem, seed: int, budget: float) -> pd.DataFrame:
    """The same campaign with BayBE, in an environment of its own, which is made at the first call."""
    from bayestl.decide.replay import _start

    home = Path(__file__).parents[1]
    python = home / ".venv-baybe" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        torch = re.search(r"^torch==.*$", (home / "constraints.txt").read_text(), re.MULTILINE)[0]
        wanted = [torch if sys.version_info < (3, 12) else "torch", "baybe>=0.15"]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    data = problem.data
    table = data.to_frame().rename(columns={"value": "yield"})[[*(c.name for c in data.inputs), "task", "yield"]]
    given = {
        "known": table[_start(data, problem.initial, seed)].to_dict("records"),
        "table": table[table["task"] == problem.target].to_dict("records"),
        "target": problem.target, "most": int(budget), "seed": seed,
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        script = Path(__file__).with_name("baybe_rival.py")
        done = subprocess.run([python, script, file.name], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    own = table[table["task"] == problem.target]["yield"]
    first = table[_start(data, problem.initial, seed)].query("task == @problem.target")["yield"]
    best = np.maximum.accumulate([first.max(), *found])
    return pd.DataFrame(
        {"step": range(len(best)), "cost": len(first) + np.arange(len(best)), "regret": own.max() - best}
    )


def came_to(run: pd.DataFrame, problem: Problem, budget: float) -> dict[str, float]:
    """What one campaign came to."""
    first = run["cost"].iloc[0]
    y = "rmse" if "rmse" in run else "regret"
    known = run.dropna(subset=[y])
    at = np.searchsorted(known["cost"] - first, budget * np.arange(0.1, 1.01, 0.1) + 1e-9, side="right") - 1
    out = {f"{y} at {10 * (i + 1)} %": float(known[y].iloc[j]) for i, j in enumerate(at)}
    if y == "regret":
        own = problem.data.values[problem.data.task_index == problem.data.index_of(problem.target)]
        for name, within in (("cost_to_best", 0.0), ("cost_to_1%", 0.01 * np.ptp(own))):
            reached = run["cost"][run["regret"] <= within]
            out[name] = float(reached.min()) if len(reached) else np.inf
    return {**out, "spent": float(run["cost"].iloc[-1]), "steps": int(run["step"].iloc[-1])}


def campaign(problem: Problem, strategy: str, seed: int, budget: float) -> pd.DataFrame:
    """One campaign, step by step."""
    if strategy == "baybe":
        return baybe(problem, seed, budget)
    if strategy.startswith("botorch"):
        return botorch(problem, seed, budget, strategy)
    score = {"score": strategy} if strategy in SCORES["optimum"] else {}
    return replay(
        problem.data, problem.model, target=problem.target, costs=problem.costs, initial=problem.initial, budget=budget,
        seeds=[seed], strategies=["bayestl" if score else strategy], **problem.options, **score,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default=",".join(PROBLEMS))
    parser.add_argument("--strategies", help="only these, with commas between")
    parser.add_argument("--scale", type=float, default=1.0)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in asked.only.split(","):
        problem, rows = PROBLEMS[name](), []
        budget = asked.scale * problem.budget
        for seed in range(asked.first, asked.first + asked.seeds):
            for strategy in asked.strategies.split(",") if asked.strategies else (*problem.strategies, *problem.rivals):
                began = time.perf_counter()
                found = came_to(campaign(problem, strategy, seed, budget), problem, budget)
                seconds = time.perf_counter() - began
                rows.append(
                    {"problem": name, "strategy": strategy, "seed": seed, "budget": budget, "seconds": seconds, **found}
                )
                print(brief(rows[-1]), flush=True)
                table = write(f"campaigns_{name}", rows, key=["strategy", "seed", "budget"])
        shown = [c for c in ("cost_to_best", "cost_to_1%", "rmse at 50 %", "rmse at 100 %", "seconds") if c in table]
        print(f"{name}, medians:\n{table.groupby(['budget', 'strategy'])[shown].median().to_string()}")


if __name__ == "__main__":
    main()
