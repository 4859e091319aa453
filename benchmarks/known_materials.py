"""Gaps of materials whose computed gap is known, beside a large table of other materials: what condensing that table costs.

python -m benchmarks.known_materials [--seeds 5]

HSE gaps of half of the non-metals of Phys. Rev. Materials 8, 043803 (2024), told by the other half, by the PBE gaps of all of
them, and by the PBE gaps of the non-metals of AFLOW (Clement, Kauwe and Sparks 2020), which are other compositions. Above 2,500
rows a table is condensed onto inducing pairs; a material's own rows are conditioned on exactly all the same. Beside this stand
the same posterior by its pairs alone, all rows conditioned on exactly where AFLOW is thinned to 2,200 rows in all, and no AFLOW.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings

import numpy as np
import pandas as pd

import bayestl as btl
from bayestl import datasets
from bayestl.features import describable
from benchmarks.report import brief, judge_measured, write

EXACT = 2200
MODELS = {"MultiTask": btl.MultiTask(), "Difference": btl.Difference.chain("aflow", "pbe", "hse")}


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gaps with both functionals, and AFLOW's, of compositions whose PBE gap is not zero, one row each."""
    both = datasets.load_hse_pbe_gaps().rename(columns={"gap_pbe": "pbe", "gap_hse": "hse"})
    both = both[describable(both["formula"])].sort_values("pbe").drop_duplicates("formula")
    aflow = datasets.load_aflow_gaps().rename(columns={"gap_pbe": "aflow"})
    aflow = aflow[describable(aflow["formula"])]
    return both.query("pbe > 0")[["formula", "pbe", "hse"]], aflow.query("aflow > 0")[["formula", "aflow"]]


def split(both: pd.DataFrame, aflow: pd.DataFrame, seed: int) -> tuple[btl.TaskData, btl.TaskData]:
    """The training table, and the HSE gaps of the tests."""
    test = np.random.default_rng(seed).permutation(len(both))[: len(both) // 2]
    known = both.copy()
    known.iloc[test, known.columns.get_loc("hse")] = np.nan
    told = {"inputs": ["formula"], "features": {"formula": btl.Compositions() + btl.Valences()}}
    train = pd.concat([known, aflow], ignore_index=True)
    return (
        btl.TaskData.from_wide(
            train, tasks=["pbe", "aflow", "hse"], units=dict.fromkeys(["pbe", "aflow", "hse"], "eV"), **told
        ),
        btl.TaskData.from_wide(both.iloc[test], tasks=["hse"], units={"hse": "eV"}, **told),
    )


def thinned(data: btl.TaskData, most: int, seed: int) -> btl.TaskData:
    """The same with as many rows of AFLOW as make `most` in all."""
    own = np.flatnonzero(data.task_index == data.index_of("aflow"))
    kept = np.ones(len(data), dtype=bool)
    kept[np.random.default_rng(seed).permutation(own)[max(0, most - len(data) + len(own)) :]] = False
    return data.where(kept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    sets, rows = tables(), []
    for seed in range(options.seeds):
        data, test = split(*sets, seed)
        cases = {
            "all rows": data,
            f"{EXACT} rows, exactly": thinned(data, EXACT, seed),
            "no AFLOW": data.select(["pbe", "hse"]),
        }
        for name, model in MODELS.items():
            for case, own in cases.items():
                if case == "no AFLOW" and name == "Difference":
                    model = btl.Difference.chain("pbe", "hse")
                began = time.perf_counter()
                posterior = btl.fit(model, own, seed=seed, progress=False)
                fitted = time.perf_counter()
                judged = {case: judge_measured(posterior, test)}
                seconds = {"fit": fitted - began, "predict": time.perf_counter() - fitted}
                if posterior._materials is not None:
                    alone = dataclasses.replace(posterior)
                    alone.__dict__["_materials"] = None
                    judged[f"{case}, by the pairs alone"] = judge_measured(alone, test)
                for label, found in judged.items():
                    rows.append({"model": name, "rows": len(own), "known": label, "seed": seed, **found, **seconds})
                    print(brief(rows[-1]), flush=True)
        done = write("known_materials", rows)
    shown = {"rmse": "median", "nlpd": "mean", "coverage": "mean", "fit": "median", "predict": "median"}
    print(done.groupby(["model", "known"], sort=False)[list(shown)].agg(shown).round(3).to_string())
