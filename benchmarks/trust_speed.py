"""Seconds to leave every row out, and to diagnose, beside those of the fit, for every likelihood.

python -m benchmarks.trust_speed [--rows 200 1000] [--seeds 3] [--kinds Gaussian Bernoulli ...]

Two tasks of the same kind in four inputs; `MultiTask` with the defaults.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayestl as btl
from benchmarks.report import brief, write
from benchmarks.scale import matrix_product_rate

Values = NDArray[np.float64]


def observed(kind: str, f: Values, rng: np.random.Generator) -> Values:
    """Observe a function of about unit spread."""
    n = len(f)
    noisy = f + 0.3 * rng.logistic(size=n)
    if kind in ("Categorical", "Ordinal"):
        return np.digitize(noisy, [0.0, 0.7, 1.4])
    return {
        "Gaussian": lambda: f + 0.1 * rng.standard_normal(n),
        "StudentT": lambda: f + 0.1 * rng.standard_t(3, n),
        "Censored": lambda: np.maximum(f + 0.1 * rng.standard_normal(n), 0.0),
        "Hurdle": lambda: np.where(noisy > 0.5, np.exp(f + 0.1 * rng.standard_normal(n)), 0.0),
        "Bernoulli": lambda: (noisy > 0.7).astype(int),
        "Poisson": lambda: rng.poisson(np.exp(f)),
        "NegativeBinomial": lambda: rng.negative_binomial(3, 3 / (3 + np.exp(f))),
    }[kind]()  # fmt: skip


LIKELIHOODS: dict[str, btl.Likelihood] = {
    "Gaussian": btl.Gaussian(), "StudentT": btl.StudentT(), "Censored": btl.Censored(lower=0.0), "Hurdle": btl.Hurdle(),
    "Bernoulli": btl.Bernoulli(), "Categorical": btl.Categorical(), "Ordinal": btl.Ordinal(), "Poisson": btl.Poisson(),
    "NegativeBinomial": btl.NegativeBinomial(),
}  # fmt: skip


def table(kind: str, n: int, seed: int) -> btl.TaskData:
    rng = np.random.default_rng(seed)
    x, second = rng.random((n, 4)), np.arange(n) % 3 == 0
    f = np.sin(5 * x[:, 0]) + x[:, 1] * np.cos(3 * x[:, 2]) + 0.5 * second * x[:, 3]
    names = [f"x{j}" for j in range(4)]
    frame = pd.DataFrame(x, columns=names).assign(task=np.where(second, "b", "a"), value=observed(kind, f, rng))
    law = LIKELIHOODS[kind]
    return btl.TaskData.from_long(frame, inputs=names, task="task", value="value", likelihoods={"a": law, "b": law})


def run(kind: str, n: int, seed: int) -> dict:
    data = table(kind, n, seed)
    clock = [time.perf_counter()]
    posterior = btl.fit(btl.MultiTask(), data, seed=seed, progress=False)
    clock.append(time.perf_counter())
    btl.diagnose(posterior)
    clock.append(time.perf_counter())
    btl.leave_out(posterior)
    clock.append(time.perf_counter())
    fit, diagnosis, left_out = np.diff(clock)
    return {"likelihood": kind, "rows": n, "seed": seed, "fit": fit, "diagnose": diagnosis, "leave_out": left_out}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=list(LIKELIHOODS), default=list(LIKELIHOODS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    run("Gaussian", 50, 0)  # what is loaded once
    rows = []
    for n in options.rows:
        for kind in options.kinds:
            for seed in range(options.seeds):
                rows.append(run(kind, n, seed))
                print(brief(rows[-1]), flush=True)
    found = write("trust_speed", rows, key=["likelihood", "rows", "seed"])
    median = found.groupby(["rows", "likelihood"], sort=False)[["fit", "diagnose", "leave_out"]].median()
    median["diagnose / fit"] = median["diagnose"] / median["fit"]
    print(median.round(2).to_string())
    print(f"on cores that multiply matrices at {matrix_product_rate('cpu') / 1e9:.0f} GFlop/s together")
