"""Sixty source points, ten target points, two dimensions; and a new task of a family. Against three rivals.

python -m benchmarks.toys [--seeds 20] [--again]        (again: our models only; the rows of the rivals stay)
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd

import bayestl as btl
from benchmarks.report import judge_normal, judge_truth, write
from benchmarks.rivals import RIVALS
from benchmarks.simulate import family_predictor, table, task_family, two_fidelities

MODELS = {
    "SingleTask": btl.SingleTask(), "MultiTask": btl.MultiTask(), "Difference": btl.Difference.chain("source", "target"),
    "LatentTask": btl.LatentTask(),
}  # fmt: skip

MORE = (
    3  # times as many tables for our own models: a table of a family has but one new task, and coverage is told slowly
)


def two_dimensional(seeds: int, rivals: dict) -> list[dict]:
    rows = []
    for kind in ("positive", "flipped", "irrelevant"):
        for seed in range(MORE * seeds):
            data, x, truth = two_fidelities(kind, seed)
            for name, model in MODELS.items():
                posterior = btl.fit(model, data, seed=seed, progress=False)
                rows.append(
                    {"case": kind, "seed": seed, "method": name, **judge_truth(posterior, x, truth, "target"),
                     "seconds": posterior.record.seconds["total"], "pareto_k": posterior.record.pareto_k}
                )  # fmt: skip
            for name, rival in rivals.items() if seed < seeds else ():
                p = rival(data, x, np.ones(len(x), dtype=int))
                rows.append(
                    {
                        "case": kind,
                        "seed": seed,
                        "method": name,
                        **judge_normal(truth, p.mean, p.std),
                        "seconds": p.seconds,
                    }
                )
    return rows


def families(seeds: int) -> list[dict]:
    """A new task beside twelve others: with no rows, and with three."""
    rows = []
    for seed in range(seeds):
        data, few, x, truth = task_family(seed)
        posterior = btl.fit(btl.LatentTask(dim=2), data, seed=seed, progress=False)
        pooled = table(data.x, ["new"] * len(data), data.values)
        everything = table(
            np.concatenate([data.x, few.x]), ["new"] * (len(data) + len(few)), np.r_[data.values, few.values]
        )
        cases = {
            "new task, no rows": {
                "LatentTask": posterior.new_task("new", seed=seed), "pooled GP": btl.fit(btl.SingleTask(), pooled, seed=seed),
            },
            "new task, three rows": {
                "LatentTask": posterior.new_task("new", few, seed=seed),
                "pooled GP": btl.fit(btl.SingleTask(), everything, seed=seed),
                "SingleTask": btl.fit(btl.SingleTask(), few, seed=seed),
            },
        }  # fmt: skip
        for case, posteriors in cases.items():
            for name, p in posteriors.items():
                rows.append({"case": case, "seed": seed, "method": name, **judge_truth(p, x, truth, "new")})
        known = family_predictor(data, x)
        rows.append(
            {
                "case": "new task, no rows", "seed": seed, "method": "its law known",
                "rmse": float(np.sqrt(np.mean((known - truth) ** 2))),
            }
        )  # fmt: skip
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby(["case", "method"], sort=False)
    return pd.concat(
        [
            groups[["rmse", "nlpd"]].median().add_prefix("median "),
            groups[["rmse", "nlpd", "coverage", "seconds"]].mean().add_prefix("mean "),
        ],
        axis=1,
    ).round(3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    rows = families(MORE * options.seeds) + two_dimensional(options.seeds, {} if options.again else RIVALS)
    table = write("toys", rows, key=["case", "seed", "method"] if options.again else None)
    family = table["case"].str.startswith("new task")
    print(summary(table[family | (table["seed"] < options.seeds)]).to_string())
    first = summary(table[family & (table["seed"] < options.seeds)])
    print(f"New tasks of the first {options.seeds} tables alone:\n{first.to_string()}")
    rmse = table.pivot_table("rmse", ["case", "seed"], "method")
    beside = rmse.loc["irrelevant"].div(rmse.loc["irrelevant"]["SingleTask"], axis=0).median()
    print(f"RMSE beside an irrelevant source, relative to none, median over tables:\n{beside.round(3).to_string()}")
    gain = rmse.loc["new task, no rows"]["pooled GP"] - rmse.loc["new task, no rows"]["LatentTask"]
    print(
        f"LatentTask's RMSE without rows is below the pooled GP's by {gain.mean():.3f} (standard error {gain.sem():.3f})."
    )
    print(table.groupby(["case", "method"])["coverage"].agg(["mean", "sem", "count"]).round(3).to_string())
