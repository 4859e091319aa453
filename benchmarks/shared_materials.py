"""Tasks observed on the same materials, of which the inputs do not tell all: what the nugget buys, and what it costs.

python -m benchmarks.shared_materials [--seeds 6] [--rival 6]

* simulated: two tasks in two dimensions, the target measured on some of the source's materials; ``own``: each material has a
  deviation of its own that both tasks share; ``smooth``: the inputs tell all.
* COFs: Xe/Kr selectivity by Henry coefficients and by GCMC (Gantzler et al. 2023) from 14 descriptors, in logarithms.
* steels: yield strength, tensile strength and elongation from element fractions.

The sources are known for 100 materials (steels: 60 beside a scarcer target), the target for 15, 40 or 100 of those; tested are
measured values (simulated: noise-free ones) of other materials. Beside the default stand the same models with Matern-5/2 alone,
the control, and BoTorch's MultiTaskGP with inputs in the unit cube.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

import bayestl as btl
from bayestl import datasets
from benchmarks.report import judge_measured, judge_normal, judge_truth, write
from benchmarks.rivals import botorch_multitask
from benchmarks.simulate import smooth, table

SIZES = (15, 40, 100)


def simulated(seed: int) -> Iterator[tuple[str, int, btl.TaskData, np.ndarray, np.ndarray]]:
    """Name, size, training table, inputs of the tests, and the truth there."""
    for name, own in (("simulated, own", 0.3), ("simulated, smooth", 0.0)):
        for size in (15, 40):
            rng = np.random.default_rng(seed)
            f, delta = smooth(rng, 2, 0.35), smooth(rng, 2, 0.7)
            x, test = rng.random((40, 2)), rng.random((300, 2))
            deviation, other = own * rng.standard_normal(40), own * rng.standard_normal(300)
            y = np.concatenate([f(x) + deviation, (1.2 * (f(x) + deviation) + 0.3 * delta(x) + 0.5)[:size]])
            y += 0.05 * rng.standard_normal(len(y))
            data = table(np.concatenate([x, x[:size]]), ["source"] * 40 + ["target"] * size, y)
            yield name, size, data, test, 1.2 * (f(test) + other) + 0.3 * delta(test) + 0.5


def public() -> dict[str, tuple[pd.DataFrame, list[str], list[str]]]:
    """Table, inputs (in the unit cube) and tasks, the target last."""
    cofs = datasets.load_cofs().dropna(subset=["gcmc_selectivity"])
    described = list(cofs.columns[: list(cofs.columns).index("henry_selectivity")])
    for name in ("henry", "gcmc"):
        cofs[name] = np.log(cofs[f"{name}_selectivity"].clip(lower=0.1))
    steels = datasets.load_steel_strength()
    strengths = [c for c in steels if "strength" in c or "elongation" in c]
    elements = [c for c in steels.select_dtypes("number") if c not in strengths]
    found = {"COFs": (cofs, described, ["henry", "gcmc"]), "steels": (steels, elements, strengths)}
    for frame, inputs, _ in found.values():
        low, high = frame[inputs].min(), frame[inputs].max()
        frame[inputs] = (frame[inputs] - low) / (high - low).where(high > low, 1.0)
    return found


def split(
    frame: pd.DataFrame, inputs: list[str], tasks: list[str], size: int, seed: int
) -> tuple[btl.TaskData, btl.TaskData]:
    """Training table with the sources of some materials and the target of the first of them; and the target of others."""
    order = frame.iloc[np.random.default_rng(1000 + seed).permutation(len(frame))]
    tests = 200 if len(frame) > 450 else 120
    known = 60 if len(frame) <= 450 and size < 60 else 100
    train = order.iloc[tests : tests + known].copy()
    train.iloc[size:, train.columns.get_loc(tasks[-1])] = np.nan
    return (
        btl.TaskData.from_wide(train, inputs=inputs, tasks=tasks),
        btl.TaskData.from_wide(order.iloc[:tests].dropna(subset=tasks[-1:]), inputs=inputs, tasks=tasks[-1:]),
    )


def models(tasks: list[str]) -> dict[str, btl.Model]:
    plain = btl.Matern52()
    return {
        "SingleTask": btl.SingleTask(),
        "MultiTask": btl.MultiTask(),
        "MultiTask, no nugget": btl.MultiTask(kernel=plain),
        "Difference": btl.Difference.chain(*tasks),
        "Difference, no nugget": btl.Difference.chain(*tasks, kernel=plain),
        "LatentTask": btl.LatentTask(),
        "LatentTask, no nugget": btl.LatentTask(kernel=plain),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rival", type=int, default=6, help="seeds of BoTorch")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    sets, rows = public(), []
    for seed in range(options.seeds):
        cases = [(name, size, data, (x, truth)) for name, size, data, x, truth in simulated(seed)]
        cases += [(name, size, *split(*parts, size, seed)) for name, parts in sets.items() for size in SIZES]
        for name, size, data, test in cases:
            target, keys = data.names[-1], {"case": name, "size": size, "seed": seed}
            for method, model in models(data.names).items():
                own = data.select([target]) if method == "SingleTask" else data
                began = time.perf_counter()
                posterior = btl.fit(model, own, seed=seed, progress=False)
                seconds = time.perf_counter() - began
                if isinstance(test, tuple):
                    found = judge_truth(posterior, *test, target)
                else:
                    found = judge_measured(posterior, test)
                rows.append({**keys, "method": method, **found, "seconds": seconds})
            if seed < options.rival:
                x, y = test if isinstance(test, tuple) else (test.x, test.values)
                p = botorch_multitask(data, x, np.full(len(x), len(data.names) - 1))
                std = p.std if isinstance(test, tuple) else p.noisy_std
                rows.append(
                    {**keys, "method": "BoTorch MultiTaskGP", **judge_normal(y, p.mean, std), "seconds": p.seconds}
                )
        done = write("shared_materials", rows)
        shown = done[done["seed"] == seed].pivot_table(
            index=["case", "size"], columns="method", values="nlpd", sort=False
        )
        print(f"seed {seed}, NLPD", shown.round(2).to_string(), sep="\n", flush=True)
    print(done.groupby(["case", "size", "method"], sort=False)[["rmse", "nlpd", "coverage", "seconds"]]
          .agg({"rmse": "median", "nlpd": "mean", "coverage": "mean", "seconds": "median"}).round(3).to_string())  # fmt: skip
    nlpd = done.pivot_table(index=["case", "size", "seed"], columns="method", values="nlpd", sort=False)
    for model in ("MultiTask", "Difference", "LatentTask"):
        gain = (
            (nlpd[f"{model}, no nugget"] - nlpd[model]).groupby(level=[0, 1], sort=False).agg(["mean", "sem"]).round(3)
        )
        print(f"{model}: nats a row that the nugget gains\n{gain.to_string()}")
