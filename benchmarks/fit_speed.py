"""Seconds and held-out NLPD of a whole posterior against BoTorch's point estimate, and the speed of predicting.

python -m benchmarks.fit_speed [--sizes 100,400,1000,2000] [--seeds 8] [--parts ours,rival] [--threads 1]

Tables are measured for as many seeds, but for no more than seeds times rows make 5,000: BoTorch takes minutes from 1,000 rows on.
Scores are of 6,000 test rows: differences of a thousandth of a nat are lost in the noise of some hundreds. Both sides have
as many threads. Results of sizes, seeds and parts that are left out stay as they were.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings

import numpy as np
import pandas as pd
import torch

import bayestl as btl
from benchmarks.report import RESULTS, judge_measured, judge_normal, write
from benchmarks.rivals import botorch_multitask
from benchmarks.simulate import three_tasks

OURS = {
    "MultiTask variational": btl.MultiTask(),
    "Difference variational": btl.Difference.chain("t0", "t1", "t2"),
    "LatentTask variational": btl.LatentTask(),
    "MultiTask variational, Matern-5/2": btl.MultiTask(kernel=btl.Matern52()),
    "MultiTask map": btl.MultiTask(),
}
MOST = 5000  # rows in all of the tables of one size
TESTS = 6000


def timed(name: str, size: int, seed: int) -> dict:
    data, test = three_tasks(size, seed, tests=TESTS)
    began = time.perf_counter()
    method = "map" if name.endswith("map") else "variational"
    posterior = btl.fit(OURS[name], data, method=method, seed=seed, progress=False)
    seconds = time.perf_counter() - began
    return {"n": size, "seed": seed, "method": name, "seconds": seconds, **judge_measured(posterior, test)}


def rival(size: int, seed: int) -> dict:
    data, test = three_tasks(size, seed, tests=TESTS)
    p = botorch_multitask(data, test.x, test.task_index)
    return {
        "n": size, "seed": seed, "method": "BoTorch MultiTaskGP", "seconds": p.seconds,
        **judge_normal(test.values, p.mean, p.noisy_std),
    }  # fmt: skip


def predicting() -> str:
    data, _ = three_tasks(400, 0)
    new = pd.DataFrame(np.random.default_rng(0).random((10_000, 6)), columns=[f"x{j}" for j in range(6)])
    lines = []
    for model in (btl.SingleTask(), btl.MultiTask(), btl.Difference.chain("t0", "t1", "t2"), btl.LatentTask()):
        posterior = btl.fit(model, data, seed=0, progress=False)
        posterior.predict(new.head())
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            posterior.predict(new)
            seconds.append(time.perf_counter() - began)
        lines.append(f"  {type(model).__name__:12s} {np.median(seconds):.2f} s")
    return "Mean, std and three quantiles of 10,000 rows x 3 tasks, n = 400:\n" + "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="100,400,1000,2000")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--parts", default="ours,rival")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    timed("MultiTask variational", 60, 0)  # everything is imported and compiled once
    rival(60, 0)
    rows = []
    for size in (int(size) for size in options.sizes.split(",") if size):
        for seed in range(max(1, min(options.seeds, MOST // size))):
            if "ours" in options.parts:
                rows += [timed(name, size, seed) for name in OURS]
                print(f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
            if "rival" in options.parts:
                rows.append(rival(size, seed))
            print(pd.DataFrame(rows).tail(6).round(3).to_string(), flush=True)
            write("fit_speed", rows, key=["n", "seed", "method"])
    table = pd.read_csv(RESULTS / "fit_speed.csv")
    rival_name = "BoTorch MultiTaskGP"
    every = table.pivot_table("nlpd", ["n", "seed"], "method")
    ahead = every.rsub(every[rival_name], axis=0).reset_index("seed", drop=True).melt(ignore_index=False).reset_index()
    ahead = ahead.groupby(["n", "method"])["value"].agg(["mean", "sem"])
    table = table.groupby(["n", "method"])[["seconds", "nlpd", "coverage"]].mean()
    reference = table["seconds"].xs(rival_name, level="method").reindex(table.index, level="n")
    table = table.assign(
        **{"times faster": reference / table["seconds"], "nats ahead": ahead["mean"], "its error": ahead["sem"]}
    )
    print(table.round(4).to_string())
    print(predicting())
