"""Experimental band gaps, half of them zero, beside computed ones: three ways to treat the metals.

python -m benchmarks.censored [--seeds 5]

300 measured and 300 computed gaps of other compositions to learn from, 400 measured ones to predict. A Gaussian gives a
zero no probability of its own: to be comparable, its predictions are cut at zero too, and what lies below counts as
zero. The negative log predictive density is then a probability where the gap is zero and a density where it is not, for
all three alike.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import bayestl as btl
from bayestl.datasets import load_kingsbury_gaps, load_materials_project_gaps
from bayestl.features import describable
from benchmarks.report import brief, write

FEATURES = btl.Compositions() + btl.Valences()
OBSERVED = {
    "Gaussian": btl.Gaussian(), "Censored": btl.Censored(lower=0.0), "Hurdle": btl.Hurdle(),
    "Hurdle, Student-t": btl.Hurdle(btl.StudentT(btl.Softplus())),
}  # fmt: skip


def tables(
    seed: int, measured: int = 300, computed: int = 300, held_out: int = 400
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test table with columns formula, gap_pbe and gap_exp, no composition in two places."""
    exp = load_kingsbury_gaps().groupby("formula")["gap_experiment"].median()
    pbe = load_materials_project_gaps().groupby("formula")["gap_pbe"].min()
    rng = np.random.default_rng(seed)
    names = rng.permutation(exp.index)[: measured + held_out]
    others = rng.permutation(pbe.index.difference(exp.index))[: 2 * computed]
    others = others[describable(others)][:computed]
    measured_gaps = pd.DataFrame({"formula": names, "gap_exp": exp[names].to_numpy()})
    computed_gaps = pd.DataFrame({"formula": others, "gap_pbe": pbe[others].to_numpy()})
    return pd.concat([measured_gaps[:measured], computed_gaps], ignore_index=True), measured_gaps[measured:]


def judge(posterior: btl.Posterior, test: pd.DataFrame) -> dict:
    y = test["gap_exp"].to_numpy()
    out = posterior.predict(test, task="gap_exp", quantiles=(0.05, 0.5, 0.95))
    low, median, high = out["quantile"].to_numpy().clip(0.0, None)
    metal = 1 - posterior.probability(test, "gap_exp", above=0.0).to_numpy()
    data = btl.TaskData.from_wide(
        test, inputs=["formula"], tasks=["gap_exp"], units={"gap_exp": "eV"}, features={"formula": FEATURES}
    )
    density = posterior.score(data)["log_density"].to_numpy()
    log_p = np.where(y == 0, np.log(metal.clip(1e-12)), density)
    inside = (y >= low) & (y <= high)
    return {
        "nlpd": -log_p.mean(), "nlpd_zero": -log_p[y == 0].mean(), "nlpd_positive": -log_p[y > 0].mean(),
        "mae": np.abs(median - y).mean(), "auc": roc_auc_score(y == 0, metal), "coverage": inside.mean(),
        "coverage_positive": inside[y > 0].mean(),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    rows = []
    for seed in range(seeds):
        train, test = tables(seed)
        for name, law in OBSERVED.items():
            for model in (btl.SingleTask(), btl.Difference.chain("gap_pbe", "gap_exp")):
                tasks = ["gap_exp"] if isinstance(model, btl.SingleTask) else ["gap_pbe", "gap_exp"]
                data = btl.TaskData.from_wide(
                    train[train[tasks].notna().any(axis=1)], inputs=["formula"], tasks=tasks, features={"formula": FEATURES},
                    likelihoods=dict.fromkeys(tasks, law), units=dict.fromkeys(tasks, "eV"),
                )  # fmt: skip
                posterior = btl.fit(model, data, seed=seed, progress=False)
                rows.append(
                    {"seed": seed, "model": type(model).__name__, "observed as": name, **judge(posterior, test),
                     "seconds": posterior.record.seconds["total"]}
                )  # fmt: skip
                print(brief(rows[-1]), flush=True)
                table = write("censored", rows)
    print(
        table.groupby(["model", "observed as"], sort=False)
        .mean(numeric_only=True)
        .drop(columns="seed")
        .round(3)
        .to_string()
    )
