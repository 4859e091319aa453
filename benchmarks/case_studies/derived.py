"""Differences of barriers on surfaces of a metal never seen: what sharing errors buys.

python -m benchmarks.case_studies.derived

Either nothing is known of the metal, or one barrier, that of N2, and the two others are to be told. The difference of two steps'
barriers decides which is slower. Joint models predict both with errors that are shared and cancel; the control subtracts two
independent predictions, whose variances add up.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd

import bayestl as btl
from benchmarks.case_studies.tables import CASES, NO_STEPS
from benchmarks.report import write

MODELS = {
    "SingleTask": btl.SingleTask(), "MultiTask": btl.MultiTask(),
    "Difference": btl.Difference({"ea_no_adsorbed": ["ea_n2_gas"], "ea_o2_gas": ["ea_n2_gas"]}), "LatentTask": btl.LatentTask(),
}  # fmt: skip


def judge(posterior: btl.Posterior, test: pd.DataFrame, a: str, b: str) -> list[dict]:
    """Error, cover and width of each surface's difference."""
    draws = posterior.sample(test, tasks=[a, b], draws=4000, noise=True, seed=0)
    gap = (draws.sel(task=a) - draws.sel(task=b)).transpose("draw", "row").to_numpy()
    low, high = np.quantile(gap, [0.05, 0.95], axis=0)
    truth = (test[a] - test[b]).to_numpy()
    found = zip(gap.mean(0) - truth, (low <= truth) & (truth <= high), high - low, strict=True)
    return [{"error": e, "covered": c, "width": w} for e, c, w in found]


def main() -> None:
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    case, tasks, rows = CASES["NO dissociation, one metal left out"], list(NO_STEPS), []
    table = case.table()
    for seed, metal in enumerate(sorted(table["metal"].unique())):
        test = table[table["metal"] == metal]
        for known in (None, "ea_n2_gas"):
            train = table.copy()
            train.loc[test.index, [t for t in tasks if t != known]] = np.nan
            data = btl.TaskData.from_wide(
                train[train[tasks].notna().any(axis=1)], inputs=["surface"], tasks=tasks, units=dict.fromkeys(tasks, "eV"),
                features={"surface": case.features},
            )  # fmt: skip
            for name, model in MODELS.items():
                posterior = btl.fit(model, data, seed=0, progress=False)
                for a, b in itertools.combinations([t for t in tasks if t != known], 2):
                    both = test.dropna(subset=[a, b])
                    if len(both) == 0:
                        continue
                    keys = {
                        "known": str(known),
                        "difference": f"{a} - {b}",
                        "metal": metal,
                        "seed": seed,
                        "model": name,
                    }
                    rows += [keys | own for own in judge(posterior, both, a, b)]
        print(metal, len(test), flush=True)
    out = write("derived", rows)
    out["square"] = out["error"] ** 2
    found = out.groupby(["known", "difference", "model"])[["square", "covered", "width"]].mean()
    print(found.assign(rmse=found["square"] ** 0.5).drop(columns="square").round(3).to_string())


if __name__ == "__main__":
    main()
