"""Matbench's expt_gap: 4,604 measured band gaps, half of them zero, over the five official folds.

python -m benchmarks.matbench [--sources paired|unpaired|none] [--no-forests] [--folds 01234]

Four computed sources: gaps of the Materials Project, of AFLOW and, with two functionals, of JARVIS. What each says of a
composition enters as inputs beside the descriptors: its lowest gap, the median over polymorphs, and whether it is zero. *Paired*
takes these values where a source holds the composition; elsewhere, and everywhere when *unpaired*, a forest trained on the
source tells them, and a Gaussian process from the 256 most similar compositions of the source (its kernel and theta are those of
a `SingleTask` fit to 1,000 rows). Unpaired, every composition of the measured table is first removed from every source. With
*none*, all is learned from the measured rows alone.

What forests trained on the measured rows say enters as inputs too: if a compound is a metal, and how large its gap is. For a
row of the training set these are the forests that did not see it, of ten that each left a tenth of the rows out (cross-fitting).
With `--no-forests` neither these nor those of the sources are asked.

Whether a compound is a metal is a `Bernoulli` task of all rows, the size of the gap of the non-metals a `StudentT` task on a
square-root scale; both are conditioned on exactly. The prediction is the median of the mixture of the two. That a composition is
in the Materials Project tells something of it already, and some metal labels may derive from it.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

import bayestl as btl
from bayestl import datasets
from bayestl.distance import matern52
from bayestl.features import describable, parse_formula
from benchmarks.report import brief, write

NEAREST = 256
FEATURES = btl.Compositions() + btl.Valences()
TREES = {"n_estimators": 200, "max_features": 0.3, "min_samples_leaf": 2, "n_jobs": -1}
NEAR, FORESTED = ("near", "near zero", "near std"), ("low", "median", "zero", "std")  # what is told of each source
FOREST = ["forest metal: log odds", "forest gap: of a non-metal", "forest gap: of any"]
LEVELS = np.linspace(0.01, 0.99, 99)


def keys(formulas: pd.Series) -> list[tuple]:
    out = []
    for formula in formulas:
        amounts = parse_formula(formula)
        total = sum(amounts.values())
        out.append(tuple(sorted((e, round(a / total, 3)) for e, a in amounts.items())))
    return out


def sources() -> dict[str, pd.DataFrame]:
    """Lowest and median gap of each composition of each source, indexed by composition."""
    read = {
        "pbe": datasets.load_materials_project_gaps().rename(columns={"gap_pbe": "gap"}),
        "aflow": datasets.load_aflow_gaps().rename(columns={"gap_pbe": "gap"}),
        "optb88": datasets.load_jarvis("gap_optb88vdw").rename(columns={"gap_optb88vdw": "gap"}),
        "mbj": datasets.load_jarvis("gap_mbj").rename(columns={"gap_mbj": "gap"}),
    }
    out = {}
    for name, table in read.items():
        table = table[describable(table["formula"])].assign(key=lambda t: keys(t["formula"]))
        out[name] = table.groupby("key").agg(formula=("formula", "first"), low=("gap", "min"), mid=("gap", "median"))
    return out


def described(formulas: pd.Series) -> np.ndarray:
    """What the forests see of compositions."""
    return (FEATURES + btl.ElementFractions())(formulas.tolist()).to_numpy(np.float32)


def told_by_forest(source: pd.DataFrame, new: pd.DataFrame) -> np.ndarray:
    """Root of the lowest and of the median gap plus 1 eV, share of zeros, and spread among the trees, (m, 4)."""
    y = np.column_stack([np.sqrt(source["low"] + 1), np.sqrt(source["mid"] + 1), source["low"] == 0])
    forest = ExtraTreesRegressor(**{**TREES, "n_estimators": 100}, random_state=0).fit(described(source["formula"]), y)
    at = described(new["formula"])
    each = np.stack([tree.predict(at) for tree in forest.estimators_])
    return np.column_stack([each.mean(0), each[..., 0].std(0)])


def told_by_neighbours(source: pd.DataFrame, new: pd.DataFrame, seed: int = 1) -> np.ndarray:
    """Root of the gap plus 1 eV, share of zeros, and standard deviation of the root, (m, 3), from the nearest compositions."""
    some = source.assign(z=np.sqrt(source["low"] + 1)).sample(min(1000, len(source)), random_state=seed)
    data = btl.TaskData.from_wide(
        some.reset_index(drop=True), inputs=["formula"], tasks=["z"], features={"formula": FEATURES}
    )
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    theta, families = {k: v[0] for k, v in posterior.theta.items()}, posterior._problem.layout.families
    labels = list(dict.fromkeys(families))
    # Columns are stretched so that the L1 distance of two rows is the kernel's r^2.
    stretch = torch.stack([
        1 / (theta["z.family_scale"][labels.index(f)].square() * families.count(f)) for f in families
    ])  # fmt: skip
    x, at = (
        (posterior.scaling.inputs(FEATURES(t["formula"].tolist()).to_numpy()) * stretch).float() for t in (source, new)
    )
    size, noise = theta["amplitude"][0].square(), theta["noise"][0].square()
    location, scale = float(posterior.scaling.location[0]), float(posterior.scaling.scale[0])
    zero = (source["low"] == 0).to_numpy(float)
    y = np.column_stack([(np.sqrt(source["low"] + 1) - location) / scale, zero - zero.mean()])
    y, out = torch.from_numpy(y), np.empty((len(new), 3))

    def k(square: torch.Tensor) -> torch.Tensor:
        r = square.double().clamp_min(0.0).sqrt().unsqueeze(-1)
        return size * matern52(r.flatten()[:, None], r.new_zeros(1, 1)).reshape(square.shape) + 1.0

    for chunk in torch.arange(len(new)).split(128):
        square, near = torch.cdist(at[chunk], x, p=1.0).topk(min(NEAREST, len(x)), largest=False)
        among = k(torch.cdist(x[near], x[near], p=1.0)) + noise * torch.eye(near.shape[1], dtype=torch.float64)
        cross = k(square)
        solved = torch.cholesky_solve(torch.cat([y[near], cross.unsqueeze(-1)], -1), torch.linalg.cholesky(among))
        told = (cross.unsqueeze(-2) @ solved).squeeze(-2)
        spread = (size + 1.0 - told[:, 2]).clamp_min(1e-9).sqrt()
        out[chunk] = np.column_stack([told[:, 0] * scale + location, told[:, 1] + zero.mean(), spread * scale])
    return out


def table_of(kind: str, forests: bool = True) -> pd.DataFrame:
    measured = datasets.load_kingsbury_gaps()
    measured["key"] = keys(measured["formula"])
    table, paired = measured[["formula", "gap_experiment"]].copy(), kind == "paired"
    if kind == "none":
        return table
    for name, source in sources().items():
        known = source if paired else source[~source.index.isin(measured["key"])]
        columns = dict(zip(NEAR, told_by_neighbours(known, measured).T, strict=True))
        if forests:
            columns |= dict(zip(FORESTED, told_by_forest(known, measured).T, strict=True))
        if paired:
            own = source.reindex(pd.Index(measured["key"], tupleize_cols=False))
            low, median, zero = np.sqrt(own["low"] + 1), np.sqrt(own["mid"] + 1), own["low"] == 0
            said = dict(zip((*NEAR, *FORESTED), (low, zero, 0 * low, low, median, zero, 0 * low), strict=True))
            columns = {c: np.where(own["low"].notna(), said[c].to_numpy(float), told) for c, told in columns.items()}
        else:
            columns.pop("median", None)  # it says the same
        table = table.assign(**{f"{name}: {column}": value for column, value in columns.items()})
        print(f"{name}: {len(source):,} compositions", flush=True)
    return table


def told_by_measured(train: pd.DataFrame, new: pd.DataFrame, seed: int) -> np.ndarray:
    """Log odds of a metal, root of the gap of a non-metal, root of the gap, (m, 3)."""

    def seen(table: pd.DataFrame) -> np.ndarray:
        sources = [c for c in table if c not in ("formula", "gap_experiment")]
        return np.column_stack([described(table["formula"]), table[sources].to_numpy(np.float32)])

    x, at, y = seen(train), seen(new), train["gap_experiment"].to_numpy()
    metal = ExtraTreesClassifier(**TREES, random_state=seed).fit(x, y == 0).predict_proba(at)[:, 1]
    size, root = (
        ExtraTreesRegressor(**TREES, random_state=seed).fit(x[some], np.sqrt(y[some])).predict(at)
        for some in (y > 0, y >= 0)
    )
    return np.column_stack([np.log((metal + 0.01) / (1.01 - metal)), size, root])


def with_forests(train: pd.DataFrame, test: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with what forests say that did not see their rows."""
    said = np.empty((len(train), 3))
    for part, (rest, left_out) in enumerate(KFold(10, shuffle=True, random_state=1).split(train)):
        said[left_out] = told_by_measured(train.iloc[rest], train.iloc[left_out], part)
    ours, theirs = (
        pd.DataFrame(z, columns=FOREST, index=t.index)
        for z, t in ((said, train), (told_by_measured(train, test, 0), test))
    )
    return pd.concat([train, ours], axis=1), pd.concat([test, theirs], axis=1)


def one_fold(train: pd.DataFrame, test: pd.DataFrame, forests: bool = True) -> dict[str, float]:
    began = time.perf_counter()
    if forests:
        train, test = with_forests(train, test)
    inputs = [c for c in train if c not in ("gap_experiment", "metal")]
    features = {"formula": FEATURES}
    train = train.assign(metal=train["gap_experiment"] == 0)
    metals = btl.TaskData.from_wide(
        train, inputs=inputs, tasks=["metal"], features=features, likelihoods={"metal": btl.Bernoulli()}
    )
    gaps = btl.TaskData.from_wide(
        train[~train["metal"]], inputs=inputs, tasks=["gap_experiment"], features=features,
        likelihoods={"gap_experiment": btl.StudentT(btl.Sqrt())}, units={"gap_experiment": "eV"},
    )  # fmt: skip
    is_metal = btl.fit(btl.SingleTask(), metals, pairs=0, draws=2, progress=False)
    size = btl.fit(btl.SingleTask(), gaps, pairs=0, draws=8, progress=False)
    p = is_metal.predict(test, task="metal")["probability"].sel({"class": True}).to_numpy()
    q = (
        size.predict(test, task="gap_experiment", quantiles=LEVELS)["quantile"]
        .transpose("quantile_level", "row")
        .to_numpy()
    )

    def quantile(level: float) -> np.ndarray:
        inside = (level - p) / (1 - p)
        at = [0.0 if u <= 0 else np.interp(u, LEVELS, q[:, j]) for j, u in enumerate(inside)]
        return np.maximum(at, 0.0)

    y = test["gap_experiment"].to_numpy()
    low, median, high = quantile(0.05), quantile(0.5), quantile(0.95)
    inside, positive = (low <= y) & (y <= high), y > 0
    return {
        "mae": np.abs(median - y).mean(), "mae_positive": np.abs(median - y)[positive].mean(),
        "auc": roc_auc_score(~positive, p), "coverage": inside.mean(), "coverage_positive": inside[positive].mean(),
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", choices=["paired", "unpaired", "none"], default="unpaired")
    parser.add_argument("--no-forests", action="store_true")
    parser.add_argument("--folds", default="01234")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    forests = not asked.no_forests
    whole, rows = table_of(asked.sources, forests), []
    for fold, (train, test) in enumerate(KFold(5, shuffle=True, random_state=18012019).split(whole)):
        if str(fold) in asked.folds:
            found = one_fold(whole.iloc[train], whole.iloc[test], forests)
            rows.append({"sources": asked.sources, "forests": forests, "fold": fold, **found})
            print(brief(rows[-1]), flush=True)
            write(f"matbench_{asked.sources}{'' if forests else '_no_forests'}", rows, key=["fold"])
    print(pd.DataFrame(rows).drop(columns=["sources", "forests"]).mean().round(4).to_string())
