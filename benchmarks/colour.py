"""Colours of eighty compositions beside five hundred band gaps (Strehlow & Cook 1973), three times five-fold.

python -m benchmarks.colour [--repeats 3] [--models MultiTask,...]

The gap of the test compounds is known or is not. Some recorded colours are wrong (PbTe is not white), so all of our
models, the control too, allow for a share of lapses among the labels. Rivals: the frequencies of the classes, and random
forests on the composition alone, with the gap as an input (predicted by another forest where it is not known), tuned on their own
out-of-bag log loss.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import StratifiedKFold

import bayestl as btl
from bayestl.datasets import load_gaps_and_colours
from benchmarks.report import write

FLOOR = 1e-3  # of a forest's probabilities: a class that no leaf holds would else cost an infinite loss
OWN = btl.Matern52() + btl.Identity()  # a compound's gap is above or below that of its likes, and its colour follows
MODELS = {
    "SingleTask": btl.SingleTask(),
    "MultiTask": btl.MultiTask(kernel=OWN),
    "Difference": btl.Difference.chain("gap", "colour", kernel=OWN),
    "LatentTask": btl.LatentTask(kernel=OWN),
}
GAP_SEEN = "MultiTask with the gap as input"


def ours(name: str, table: pd.DataFrame, inputs: list[str], test: pd.Index, known: bool, classes: list[str], seed: int):
    train = table.copy()
    train.loc[test, "colour"] = None
    if not known:
        train.loc[test, ["gap", "gap_error"]] = np.nan
    tasks = ["colour"] if name == "SingleTask" else ["gap", "colour"]
    data = btl.TaskData.from_wide(
        train, inputs=inputs, tasks=["gap", "colour"], errors={"gap": "gap_error"},
        likelihoods={"gap": btl.Gaussian(btl.Log()), "colour": btl.Categorical(lapse=None)},  # some records are known to be wrong
    ).select(tasks)  # fmt: skip
    posterior = btl.fit(MODELS[name], data, seed=seed, progress=False)
    out = posterior.predict(table.loc[test], task="colour")["probability"]
    return out.to_pandas().reindex(columns=classes, fill_value=0.0).to_numpy()


def with_gap(table: pd.DataFrame, inputs: list[str], test: pd.Index, known: bool, classes: list[str], seed: int):
    """A joint model in which the colours also see the gap as an input, in its curved way.

    Measured gaps where that of the test compounds is known; else predicted ones, of the training rows by leave-one-out, so that
    they are as wrong as those of the test rows. Rows of gaps have the mean there, which tells them nothing.
    """
    gaps = table[table["gap"].notna()] if known else table[table["gap"].notna() & ~table.index.isin(test)]
    coloured = table[table["colour"].notna()]
    named: dict = {"inputs": inputs, "tasks": ["gap"], "errors": {"gap": "gap_error"}}
    log: dict = {"gap": btl.Gaussian(btl.Log())}
    alone = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(gaps, likelihoods=log, **named), seed=seed, progress=False)
    median = alone.predict(coloured, task="gap", noise=False, quantiles=[0.5])["quantile"].to_numpy()[0]
    seen = pd.Series(np.log(median), coloured.index)
    seen.update(
        np.log(gaps["gap"] if known else pd.Series(btl.leave_out(alone, by="row")["median"].to_numpy(), gaps.index))
    )
    train = pd.concat(
        [
            gaps[[*inputs, "gap", "gap_error"]].assign(seen=seen.mean()),
            coloured.drop(test)[[*inputs, "colour"]].assign(seen=seen),
        ],
        ignore_index=True,
    )
    data = btl.TaskData.from_wide(
        train, inputs=[*inputs, "seen"], tasks=["gap", "colour"], errors={"gap": "gap_error"},
        likelihoods={**log, "colour": btl.Categorical(lapse=None)},
    )  # fmt: skip
    kernel = btl.Matern52(inputs) + btl.Identity(inputs) + btl.Matern52(["seen"])
    posterior = btl.fit(btl.MultiTask(kernel=kernel), data, seed=seed, progress=False)
    out = posterior.predict(coloured.loc[test].assign(seen=seen), task="colour")["probability"]
    return out.to_pandas().reindex(columns=classes, fill_value=0.0).to_numpy()


def forest(
    kind: str, table: pd.DataFrame, inputs: list[str], test: pd.Index, known: bool, classes: list[str], seed: int
):
    coloured = table[table["colour"].notna()]
    train = coloured.drop(test)
    x, x_test = train[inputs].copy(), table.loc[test, inputs].copy()
    if kind != "composition":
        gaps = table.drop(test)["gap"].dropna()
        regressor = RandomForestRegressor(300, random_state=seed, oob_score=True)
        regressor.fit(table.loc[gaps.index, inputs], np.log(gaps))
        inside = pd.Series(regressor.oob_prediction_, gaps.index)
        predicted = pd.Series(regressor.predict(x_test), test)
        measured = np.log(table["gap"])
        if kind == "predicted gap":
            x["gap"] = inside.reindex(train.index).fillna(pd.Series(regressor.predict(train[inputs]), train.index))
            x_test["gap"] = predicted
        else:
            x["gap"] = measured[train.index].fillna(inside.mean())
            x_test["gap"] = measured[test].fillna(predicted) if known else predicted
    best = None
    for leaf in (1, 2, 4, 8):
        model = RandomForestClassifier(500, min_samples_leaf=leaf, oob_score=True, random_state=seed)
        model.fit(x, train["colour"])
        oob = np.clip(np.nan_to_num(model.oob_decision_function_, nan=1 / len(model.classes_)), FLOOR, 1)
        column = [list(model.classes_).index(c) for c in train["colour"]]
        loss = -np.log((oob / oob.sum(1, keepdims=True))[np.arange(len(oob)), column]).mean()
        if best is None or loss < best[0]:
            best = (loss, model)
    chance = pd.DataFrame(best[1].predict_proba(x_test), columns=best[1].classes_).reindex(
        columns=classes, fill_value=0.0
    )
    chance = chance.to_numpy().clip(FLOOR, 1)
    return chance / chance.sum(1, keepdims=True)


def frequencies(table: pd.DataFrame, test: pd.Index, classes: list[str]):
    counts = table["colour"].drop(test).value_counts().reindex(classes, fill_value=0).to_numpy() + 0.5
    return np.tile(counts / counts.sum(), (len(test), 1))


def expected_calibration_error(chance: np.ndarray, hit: np.ndarray, bins: int = 5) -> float:
    """Mean gap between the probability given to a class and its frequency, over equally filled bins of all classes."""
    order = np.argsort(chance.ravel())
    return float(
        sum(
            len(part) * abs(chance.ravel()[part].mean() - hit.ravel()[part].mean())
            for part in np.array_split(order, bins * 2)
        )
        / chance.size
    )


def run(repeats: int, models: list[str]) -> pd.DataFrame:
    table = load_gaps_and_colours()
    inputs = [c for c in table.columns if c.startswith(("mean_", "range_"))]
    coloured = table.index[table["colour"].notna()]
    classes = sorted(table["colour"].dropna().unique())
    rows = []
    for repeat in range(repeats):
        folds = StratifiedKFold(5, shuffle=True, random_state=repeat)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the rarest class has four members
            parts = list(folds.split(coloured, table.loc[coloured, "colour"]))
        for fold, (_, test_index) in enumerate(parts):
            test = coloured[test_index]
            truth = np.array([classes.index(c) for c in table.loc[test, "colour"]])
            for known in (True, False):
                at = (table, inputs, test, known, classes, repeat)
                methods = {"class frequencies": partial(frequencies, table, test, classes)}
                for kind in ("composition", "gap", "predicted gap"):
                    methods[f"forest, {kind}"] = partial(forest, kind, *at)
                for name in models:
                    methods[name] = partial(with_gap, *at) if name == GAP_SEEN else partial(ours, name, *at)
                for name, method in methods.items():
                    if not known and name in ("class frequencies", "forest, composition", "SingleTask"):
                        continue  # they do not use the gap
                    began = time.perf_counter()
                    chance = method()
                    hit = np.eye(len(classes))[truth]
                    rows += [
                        {"repeat": repeat, "fold": fold, "gap": "known" if known else "not known", "method": name,
                         "formula": formula, "log_loss": -np.log(max(c[t], 1e-12)), "brier": ((c - h) ** 2).sum(),
                         "hit": int(c.argmax() == t), "truth": classes[t], "seconds": time.perf_counter() - began,
                         **{f"p_{k}": v for k, v in zip(classes, c, strict=True)}}
                        for formula, c, t, h in zip(test, chance, truth, hit, strict=True)
                    ]  # fmt: skip
                both = pd.DataFrame(rows)
                both = both[(both["repeat"] == repeat) & (both["fold"] == fold)]
                print(both.groupby(["gap", "method"], sort=False)["log_loss"].mean().round(3).to_dict(), flush=True)
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    classes = [c for c in rows.columns if c.startswith("p_")]
    lines = {}
    for key, group in rows.groupby(["gap", "method"], sort=False):
        hit = np.stack([(group["truth"] == c.removeprefix("p_")) for c in classes], -1)
        lines[key] = {
            "log loss": group["log_loss"].mean(), "Brier": group["brier"].mean(), "accuracy": group["hit"].mean(),
            "calibration error": expected_calibration_error(group[classes].to_numpy(), hit),
            "seconds": group.groupby(["repeat", "fold"])["seconds"].first().mean(),
        }  # fmt: skip
    return pd.DataFrame(lines).T.round(3)


def against(rows: pd.DataFrame, rival: str) -> pd.DataFrame:
    """Log loss relative to that of a rival, and its standard error by composition, whose repeats are not independent."""
    loss = rows.pivot_table("log_loss", ["gap", "repeat", "fold", "formula"], "method")
    gap = loss.sub(loss[rival], axis=0).groupby(["gap", "formula"]).mean()
    return gap.groupby("gap").agg(["mean", "sem"]).stack(0, future_stack=True).round(3)  # noqa: PD013


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", default=",".join([*MODELS, GAP_SEEN]))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    found = write("colour", run(options.repeats, options.models.split(",")).to_dict("records"))
    print(summary(found).to_string())
    for rival in ("forest, gap", "forest, predicted gap"):
        print(f"Log loss less that of {rival!r}, and its standard error:\n{against(found, rival).to_string()}")
