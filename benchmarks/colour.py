"""Colours of eighty compositions beside five hundred band gaps (Strehlow & Cook 1973), three to six times five-fold.

python -m benchmarks.colour [--repeats 3] [--first 0] [--methods MultiTask;...]

The gap of the test compounds is known or is not. Some recorded colours are wrong (PbTe is not white), so all of our
models, the control too, allow for a share of lapses among the labels. Colours are classes without an order, or ("ordered") in
that of the energies at which they begin to absorb. Rivals: the frequencies of the classes, and random forests on the
composition alone, with the gap as an input (predicted by another forest where it is not known), tuned on their own out-of-bag
log loss. Results of methods and repeats that are left out stay as they were.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import cached_property, partial

import numpy as np
import pandas as pd
import xarray as xr
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
ORDERED = ", ordered"
STACK = "stack of the two with the gap as input"
OURS = [f"{name}{order}" for order in ("", ORDERED) for name in (*MODELS, GAP_SEEN)] + [STACK]
# Metallic lustre, then by what is absorbed: all that is seen, all but red, ..., the ends of it or a band within, nothing.
ORDER = ["gray", "black", "brown", "red", "orange", "yellow", "blue to green", "white"]
LOG = btl.Gaussian(btl.Log())


class Fold:
    """One training table, and our models of it."""

    def __init__(self, table: pd.DataFrame, inputs: list[str], test: pd.Index, known: bool, seed: int) -> None:
        self.table = table.assign(colour=pd.Categorical(table["colour"], ORDER, ordered=True))
        self.inputs, self.test, self.known, self.seed = inputs, test, known, seed
        self.posteriors: dict[str, btl.Posterior] = {}  # the stack is of models that are also scored alone

    def chances(self, name: str) -> np.ndarray:
        """Probabilities of the classes, in their order."""
        if name == STACK:
            both = {other: self.fitted(other) for other in (GAP_SEEN, GAP_SEEN + ORDERED)}
            posterior = btl.stack(both, target="colour")
        else:
            posterior = self.fitted(name)
        new = self.with_gap[1] if name == STACK or name.startswith(GAP_SEEN) else self.table.loc[self.test]
        return posterior.predict(new, task="colour")["probability"].to_pandas()[ORDER].to_numpy()

    def fitted(self, name: str) -> btl.Posterior:
        """Fit the model of that name, once."""
        if name not in self.posteriors:
            self.posteriors[name] = self._fit(name)
        return self.posteriors[name]

    def _fit(self, name: str) -> btl.Posterior:
        plain = name.removesuffix(ORDERED)
        law = (
            btl.Ordinal(lapse=None) if name.endswith(ORDERED) else btl.Categorical(lapse=None)
        )  # some records are wrong
        if plain == GAP_SEEN:
            table, inputs = self.with_gap[0], [*self.inputs, "seen"]
            kernel = btl.Matern52(self.inputs) + btl.Identity(self.inputs) + btl.Matern52(["seen"])
            model: btl.Model = btl.MultiTask(kernel=kernel)
        else:
            table, inputs, model = self.table.copy(), self.inputs, MODELS[plain]
            table.loc[self.test, "colour"] = None
            if not self.known:
                table.loc[self.test, ["gap", "gap_error"]] = np.nan
        data = btl.TaskData.from_wide(
            table,
            inputs=inputs,
            tasks=["gap", "colour"],
            errors={"gap": "gap_error"},
            likelihoods={"gap": LOG, "colour": law},
        )
        if plain == "SingleTask":
            data = data.select(["colour"])
        return btl.fit(model, data, seed=self.seed, progress=False)

    @cached_property
    def with_gap(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Training and test rows in which the colours also see the gap as an input, in its curved way.

        Measured gaps where that of the test compounds is known; else predicted ones, of the training rows by leave-one-out, so
        that they are as wrong as those of the test rows. Rows of gaps have the mean there, which tells them nothing.
        """
        table, test = self.table, self.test
        gaps = table[table["gap"].notna() & (self.known | ~table.index.isin(test))]
        coloured = table[table["colour"].notna()]
        data = btl.TaskData.from_wide(
            gaps, inputs=self.inputs, tasks=["gap"], errors={"gap": "gap_error"}, likelihoods={"gap": LOG}
        )
        alone = btl.fit(btl.SingleTask(), data, seed=self.seed, progress=False)
        median = alone.predict(coloured, task="gap", noise=False, quantiles=[0.5])["quantile"].to_numpy()[0]
        seen = pd.Series(np.log(median), coloured.index)
        measured = (
            gaps["gap"] if self.known else pd.Series(btl.leave_out(alone, by="row")["median"].to_numpy(), gaps.index)
        )
        seen.update(np.log(measured))
        parts = [
            gaps[[*self.inputs, "gap", "gap_error"]].assign(seen=seen.mean()),
            coloured.drop(test)[[*self.inputs, "colour"]].assign(seen=seen),
        ]
        return pd.concat(parts, ignore_index=True), coloured.loc[test].assign(seen=seen)


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


def run(repeats: range, asked: list[str]) -> pd.DataFrame:
    table = load_gaps_and_colours()
    inputs = [c for c in table.columns if c.startswith(("mean_", "range_"))]
    coloured = table.index[table["colour"].notna()]
    for repeat in repeats:
        folds = StratifiedKFold(5, shuffle=True, random_state=repeat)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the rarest class has four members
            parts = list(folds.split(coloured, table.loc[coloured, "colour"]))
        for number, (_, test_index) in enumerate(parts):
            test, rows = coloured[test_index], []
            truth = np.array([ORDER.index(c) for c in table.loc[test, "colour"]])
            for known in (True, False):
                fold = Fold(table, inputs, test, known, repeat)
                methods = {"class frequencies": partial(frequencies, table, test, ORDER)}
                for kind in ("composition", "gap", "predicted gap"):
                    methods[f"forest, {kind}"] = partial(forest, kind, table, inputs, test, known, ORDER, repeat)
                methods |= {name: partial(fold.chances, name) for name in OURS}
                for name, method in methods.items():
                    alone = name.startswith(("class frequencies", "forest, composition", "SingleTask"))
                    if name not in asked or (alone and not known):  # they do not use the gap
                        continue
                    began = time.perf_counter()
                    chance = method()
                    hit = np.eye(len(ORDER))[truth]
                    rows += [
                        {"repeat": repeat, "fold": number, "gap": "known" if known else "not known", "method": name,
                         "formula": formula, "log_loss": -np.log(max(c[t], 1e-12)), "brier": ((c - h) ** 2).sum(),
                         "hit": int(c.argmax() == t), "truth": ORDER[t], "seconds": time.perf_counter() - began,
                         **{f"p_{k}": v for k, v in zip(ORDER, c, strict=True)}}
                        for formula, c, t, h in zip(test, chance, truth, hit, strict=True)
                    ]  # fmt: skip
            found = write("colour", rows, key=["repeat", "fold", "gap", "method", "formula"])
            both = found[(found["repeat"] == repeat) & (found["fold"] == number)]
            print(both.groupby(["gap", "method"], sort=False)["log_loss"].mean().round(3).to_dict(), flush=True)
    return found


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    classes = [c for c in rows.columns if c.startswith("p_")]
    codes = {c.removeprefix("p_"): float(k) for k, c in enumerate(classes)}
    lines = {}
    for key, group in rows.groupby(["gap", "method"], sort=False):
        chance = group[classes].to_numpy()
        scored = xr.Dataset(
            {
                "log_density": ("row", -group["log_loss"].to_numpy()),
                "brier": ("row", group["brier"].to_numpy()),
                "class_probability": (("row", "class_code"), chance),
                "class_measured": ("row", group["truth"].map(codes).to_numpy()),
                "class_predicted": ("row", chance.argmax(1).astype(float)),
            },
            coords={"task": ("row", ["colour"] * len(group))},
        )
        line = btl.scores(scored).loc["colour"]
        lines[key] = {
            "log loss": line["nlpd"], "Brier": line["brier"], "accuracy": line["accuracy"], "calibration error": line["ece"],
            "seconds": group.groupby(["repeat", "fold"])["seconds"].first().mean(), "repeats": group["repeat"].nunique(),
        }  # fmt: skip
    return pd.DataFrame(lines).T.round(3)


def against(rows: pd.DataFrame, rival: str) -> pd.DataFrame:
    """Log loss relative to that of a rival, and its standard error by composition, whose repeats are not independent."""
    loss = rows.pivot_table("log_loss", ["gap", "repeat", "fold", "formula"], "method")
    gap = loss.sub(loss[rival], axis=0).groupby(["gap", "formula"]).mean()
    return gap.groupby("gap").agg(["mean", "sem"]).stack(0, future_stack=True).round(3)  # noqa: PD013


if __name__ == "__main__":
    everything = ["class frequencies", "forest, composition", "forest, gap", "forest, predicted gap", *OURS]
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--methods", default=";".join(everything), help="with semicolons between")
    options = parser.parse_args()
    asked = options.methods.split(";")
    if odd := set(asked) - set(everything):
        parser.error(f"no such methods: {'; '.join(sorted(odd))}")
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    found = run(range(options.first, options.first + options.repeats), asked)
    print(summary(found).to_string())
    for rival in ("forest, gap", "forest, predicted gap"):
        print(f"Log loss less that of {rival!r}, and its standard error:\n{against(found, rival).to_string()}")
