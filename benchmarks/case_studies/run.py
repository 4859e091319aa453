"""Fit everything to every split: python -m benchmarks.case_studies.run [case ...] [--seeds 5] [--jobs 2] [--parts ours]."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np
import pandas as pd
import torch

import bayestl as btl
from benchmarks.case_studies.rivals import gaussian_processes, lolo_forests, rivals, two_fidelities
from benchmarks.case_studies.tables import CASES, Case
from benchmarks.report import COMMIT, RESULTS

FILE = RESULTS / "case_studies.csv"
KEY = ["case", "size", "paired", "seed"]
PARTS = ("ours", "rivals", "lolo", "two fidelities")


def data_of(case: Case, table: pd.DataFrame, tasks: list[str]) -> btl.TaskData:
    return btl.TaskData.from_wide(
        table[table[tasks].notna().any(axis=1)], inputs=[case.label], tasks=tasks, units=dict.fromkeys(tasks, case.unit),
        likelihoods=dict.fromkeys(tasks, case.likelihood), features={case.label: case.features},
    )  # fmt: skip


def judge(posterior: btl.Posterior | btl.Stack, case: Case, test: pd.DataFrame) -> dict[str, float]:
    y = test[case.target].to_numpy(dtype=float)
    out = posterior.predict(test[[case.label]], task=case.target, quantiles=(0.05, 0.5, 0.95))
    low, median, high = out["quantile"].transpose("quantile_level", "row").to_numpy()
    score = posterior.score(data_of(case, test, [case.target]))
    return {
        "rmse": float(np.sqrt(np.mean((out["mean"].to_numpy() - y) ** 2))),
        "mae": float(np.abs(median - y).mean()),
        "nlpd": -float(score["log_density"].mean()),
        "coverage": float(((low <= y) & (y <= high)).mean()),
    }


def ours(case: Case, train: pd.DataFrame, test: pd.DataFrame, paired: bool) -> list[dict]:
    """Fit the four models, and stack them by how they predict what is left out, unpaired with all that is known of it."""
    tasks = [*case.sources, case.target]
    models = {
        "SingleTask": btl.SingleTask(), "MultiTask": btl.MultiTask(),
        "Difference": btl.Difference({case.target: case.sources}), "LatentTask": btl.LatentTask(),
    }  # fmt: skip
    rows, fits, spent = [], {}, 0.0
    for name, model in models.items():
        own = [case.target] if name == "SingleTask" else tasks
        fits[name] = btl.fit(model, data_of(case, train, own), seed=0, progress=False)
        seconds = fits[name].record.seconds["total"]
        spent += seconds
        rows.append({"method": f"bayestl {name}", **judge(fits[name], case, test), "seconds": seconds})
    began = time.perf_counter()
    by = "row" if case.group is None else train[case.group]
    stack = btl.stack(fits, target=case.target, by=by, paired=paired)
    spent += time.perf_counter() - began
    return [*rows, {"method": "bayestl fit_best", **judge(stack, case, test), "seconds": spent}]


def others(case: Case, train: pd.DataFrame, test: pd.DataFrame, paired: bool, seed: int, part: str) -> list[dict]:
    x, sources = case.described(), list(case.sources)
    at = (x.loc[train.index].to_numpy(), train[sources].to_numpy(float), train[case.target].to_numpy(float))
    known = test[sources].to_numpy(float)
    if not paired:
        known = np.full_like(known, np.nan)
    new, y = x.loc[test.index].to_numpy(), test[case.target].to_numpy(float)
    kept = train.index.isin(test.index)
    if part == "two fidelities":
        found = list(two_fidelities(*at, new, case.offset, kept, seed))
    elif part == "lolo":
        found = list(lolo_forests(*at, new, known, seed))
    else:
        found = [*rivals(*at, new, known, case.offset, seed), *gaussian_processes(*at, new, case.offset, kept)]
    return [{"method": name, **normal.scores(y), "seconds": seconds} for name, normal, seconds in found]


def run(name: str, size: int, paired: bool, seed: int, part: str) -> list[dict]:
    """Fit to one split our models, or one part of the rivals."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case = CASES[name]
    train, test = case.split(size, paired, seed)
    rows = ours(case, train, test, paired) if part == "ours" else others(case, train, test, paired, seed, part)
    labels = int(train[case.target].notna().sum())
    keys = {"case": name, "size": size, "paired": paired, "seed": seed, "labels": labels, "tests": len(test)}
    return [keys | row | {"commit": COMMIT} for row in rows]


def main(names: list[str], seeds: int, jobs: int, wanted_parts: Sequence[str] = PARTS) -> pd.DataFrame:
    done = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=[*KEY, "method"])
    kinds = {"bayestl": "ours", "lolo,": "lolo", "SMT": "two fidelities", "Emukit": "two fidelities"}
    parts = [kinds.get(method.split()[0], "rivals") for method in done["method"]]
    ready = set(done[KEY].assign(part=parts).drop_duplicates().itertuples(index=False, name=None))
    wanted = [
        (name, size, paired, seed, part)
        for name in names
        for size in CASES[name].sizes or (0,)
        for paired in (False, True)
        for seed in range(CASES[name].repeats(size, seeds))
        for part in wanted_parts
    ]
    todo = [key for key in sorted(wanted, key=lambda key: key[3]) if key not in ready]
    print(f"{len(todo)} of {len(wanted)} splits to do")
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(run, *key): key for key in todo}
        for future in as_completed(running):
            rows = pd.DataFrame(future.result())
            rows.to_csv(FILE, mode="a", header=not FILE.exists(), index=False, float_format="%.5g")
            best = rows.sort_values("rmse").iloc[0]
            print(*running[future], f"best RMSE {best['rmse']:.3f}: {best['method']}", flush=True)
    return pd.read_csv(FILE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS))
    asked = parser.parse_args()
    table = main(asked.cases or list(CASES), asked.seeds, asked.jobs, asked.parts.split(","))
    print(
        table.groupby(["case", "size", "paired", "method"])[["rmse", "mae", "nlpd", "coverage", "seconds"]]
        .median()
        .round(3)
        .to_string()
    )
