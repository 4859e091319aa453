"""Sixteen to forty inputs whose names tell no family: length scales of their own beside a distance that all share, or that alone.

python -m benchmarks.plain_inputs [--seeds 4] [--only simulated]

The same columns are given twice: named ``x0, x1, ...``, and ``all: x0, all: x1, ...``, which makes them one family.

* simulated: 20 and 36 inputs of which five matter, 100 rows of a source and 20 of the target, 300 to predict.
* real: means of element properties (with 14 of their ranges: 36 inputs) on the gaps and enthalpies of `case_studies`, and RDKit's
  physical descriptors on hydration energies; nothing known of the test rows.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

import bayestl as btl
from benchmarks.case_studies.tables import CASES
from benchmarks.report import judge_measured, write

SETTINGS = (
    ("formation enthalpies", 150, 0), ("formation enthalpies", 150, 14), ("gaps of 450 solids, PBE", 150, 0),
    ("gaps of 450 solids, PBE", 30, 0), ("gaps of 450 solids, four functionals", 30, 0), ("hydration free energies", 50, 0),
)  # fmt: skip
FIRST = 40  # seeds before it chose the priors


class Told(NamedTuple):
    """Tables of training and test rows, with the inputs first and the target last."""

    name: str
    train: pd.DataFrame
    test: pd.DataFrame
    tasks: list[str]
    likelihood: btl.likelihoods.Likelihood


def simulated(d: int, seed: int) -> Told:
    """Give a source that is a sum of sines of five inputs, and a target that is the source and something of two of them."""
    rng = np.random.default_rng(seed)
    rate, phase = rng.uniform(0.5, 2, 5), rng.uniform(0, 6, 5)
    x = rng.random((420, d))
    f = np.sin(3 * rate * x[:, :5] + phase).sum(1)
    own = f + 0.4 * (np.cos(4 * x[:, 0]) + x[:, 1])
    table = pd.DataFrame(x, columns=[f"x{j}" for j in range(d)])
    table["source"] = (f + 0.1 * rng.standard_normal(420)).astype(float)
    table["target"] = own + 0.1 * rng.standard_normal(420)
    table.loc[100:, "source"], table.loc[:99, "target"] = np.nan, np.nan
    return Told(f"simulated, {d}", table.iloc[:120], table.iloc[120:], ["source", "target"], btl.Gaussian())


def real(name: str, size: int, ranges: int, seed: int) -> Told:
    """Give a split of a case study under a few plain descriptors."""
    case = CASES[name]
    tasks = [*case.sources, case.target]

    def described(table: pd.DataFrame) -> pd.DataFrame:
        found = case.features(table[case.label].tolist())
        wanted = [c for c in found if c.startswith(("mean", "physical"))]
        wanted += [c for c in found if c.startswith("range")][:ranges]
        x = found[wanted].set_axis([f"x{j}" for j in range(len(wanted))], axis=1).set_axis(table.index)
        return pd.concat([x, table[tasks]], axis=1)

    train, test = map(described, case.split(size, paired=False, seed=seed))
    return Told(f"{name}, {size}, {train.shape[1] - len(tasks)} inputs", train, test, tasks, case.likelihood)


def rows(told: Told, seed: int) -> Iterator[dict]:
    """Fit three models to the columns as they are, and to the same as one family."""
    *sources, target = told.tasks
    models = {
        "SingleTask": btl.SingleTask(),
        "MultiTask": btl.MultiTask(),
        "Difference": btl.Difference({target: sources}),
    }
    for way, prefix in (("own and shared", ""), ("one family", "all: ")):
        inputs = [c for c in told.train if c not in told.tasks]
        names = {c: prefix + c for c in inputs}

        def read(table: pd.DataFrame, tasks: list[str], names: dict[str, str] = names) -> btl.TaskData:
            table = table[table[tasks].notna().any(axis=1)].rename(columns=names)
            return btl.TaskData.from_wide(
                table, inputs=list(names.values()), tasks=tasks, units=dict.fromkeys(tasks, "u"),
                likelihoods=dict.fromkeys(tasks, told.likelihood),
            )  # fmt: skip

        for name, model in models.items():
            data = read(told.train, [target] if name == "SingleTask" else told.tasks)
            posterior = btl.fit(model, data, seed=0, progress=False)
            yield {
                "case": told.name, "seed": seed, "method": name, "inputs": way,
                **judge_measured(posterior, read(told.test, [target])), "seconds": posterior.record.seconds["total"],
            }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", choices=["simulated", "real"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: list[dict] = []
    for seed in range(FIRST, FIRST + options.seeds):
        tables = [] if options.only == "real" else [simulated(d, seed) for d in (20, 36)]
        tables += [] if options.only == "simulated" else [real(*setting, seed) for setting in SETTINGS]
        for told in tables:
            found += rows(told, seed)
        done = write("plain_inputs", found, key=["case", "seed", "method", "inputs"])
    both = done.pivot_table(index=["case", "method", "seed"], columns="inputs", values=["rmse", "nlpd", "seconds"])
    gain = pd.DataFrame(
        {
            "RMSE, %": 100 * np.log(both["rmse"]["own and shared"] / both["rmse"]["one family"]),
            "nats": both["nlpd"]["own and shared"] - both["nlpd"]["one family"],
            "times as long": both["seconds"]["own and shared"] / both["seconds"]["one family"],
        }
    )
    print(gain.groupby(["case", "method"], sort=False).mean().round(3).to_string())
