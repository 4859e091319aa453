"""What measured values say of what was predicted of them: scores row by row, their sums, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from bayestl.columns import labels_of
from bayestl.errors import DataError
from bayestl.likelihoods.predictive import Classes, Predictive
from bayestl.table import TaskData

SCORES = (
    "measured", "mean", "median", "lower_90", "upper_90", "std", "error", "log_density", "crps", "pit", "mass", "brier",
    "probability", "class_measured", "class_predicted",
)  # fmt: skip


class Scores:
    """Scores of the observations of some data, filled in part by part: see `Posterior.score` for their names."""

    def __init__(self, data: TaskData) -> None:
        self.data = data
        self.arrays: dict[str, NDArray[np.float64]] = {name: np.full(len(data), np.nan) for name in SCORES}
        self.arrays["class_probability"] = np.full((len(data), 0), np.nan)

    def put(self, rows: NDArray[np.int64], law: Predictive, y: Tensor, *, crps: bool = True) -> None:
        """Judge what was predicted of some rows by what was measured. The `crps` is the dearest."""
        for name, value in _judged(law, y, crps).items():
            if name == "class_probability":  # of all that the law knows, whichever were measured
                more = max(0, value.shape[-1] - self.arrays[name].shape[1])
                self.arrays[name] = np.pad(self.arrays[name], ((0, 0), (0, more)), constant_values=np.nan)
                self.arrays[name][rows, : value.shape[-1]] = value.numpy()
            else:
                self.arrays[name][rows] = value.numpy()

    def labelled(self) -> xr.Dataset:
        """The scores that apply to any of the observations, by row and task."""
        dims = {"class_probability": ("row", "class_code")}
        kept = {
            name: (dims.get(name, "row"), array) for name, array in self.arrays.items() if not np.isnan(array).all()
        }
        rows = labels_of(self.data.rows)
        tasks = np.array(self.data.names)[self.data.task_index]
        units = np.array([task.unit or "" for task in self.data.tasks])[self.data.task_index]
        return xr.Dataset(kept, coords={"row": ("row", rows), "task": ("row", tasks), "unit": ("row", units)})


def _judged(law: Predictive, y: Tensor, crps: bool) -> dict[str, Tensor]:
    out = {"log_density": law.log_density(y)}
    if isinstance(law, Classes):
        out |= {"brier": law.brier(y), "probability": out["log_density"].exp(), "class_probability": law.probability}
        return out | {"class_measured": y, "class_predicted": law.probability.argmax(-1).double()}
    centre, spread = law.moments()
    upto, below = law.cdf(y), law.below(y)
    out |= {
        "measured": y,
        "mean": centre,
        "std": spread,
        "error": y - centre,
        "pit": 0.5 * (upto + below),
        "mass": upto - below,
    }
    if not crps:
        return out | {"median": law.quantiles([0.5])[0]}
    lower, median, upper = law.quantiles([0.05, 0.5, 0.95])
    return out | {"lower_90": lower, "median": median, "upper_90": upper, "crps": law.crps(y)}


def scores(scored: xr.Dataset) -> pd.DataFrame:
    """Sum scores up, one line per task, the means with their standard errors in the columns beside them (``*_se``).

    Parameters
    ----------
    scored : as `leave_out` or `Posterior.score` give it. Where it has groups, rows of one group are not taken to be independent

    Returns
    -------
    pandas.DataFrame
        ``rows``; ``nlpd`` (negative log predictive density; for classes the log loss). For numbers and counts
        ``rmse``, ``mae`` (of the median), ``crps``, ``coverage_50`` and ``coverage_90`` (of central intervals),
        ``sharpness`` (mean predictive standard deviation), ``width_90`` (median width of 90 % intervals), ``ence`` (expected
        normalised calibration error over up to ten bins of the predicted spread, Levi et al. 2022,
        doi 10.3390/s22155540). For classes ``brier`` (Brier
        1950: the squares summed over all classes, so that of two classes it is twice scikit-learn's), ``accuracy``,
        ``macro_f1``, ``ece`` (expected calibration error of `reliability`'s ten bins).
    """
    expect_scores(scored)
    if scored.sizes["row"] == 0:
        raise DataError("There are no scored rows to sum up.")
    lines = {}
    for name in dict.fromkeys(scored["task"].values.tolist()):
        own = scored.isel(row=np.flatnonzero(scored["task"].values == name))
        groups = _groups_of(own)
        line: dict[str, float] = {"rows": own.sizes["row"]}

        def put(key: str, values: NDArray[np.float64], line: dict[str, float] = line, groups: Any = groups) -> None:
            line[key], line[f"{key}_se"] = float(values.mean()), standard_error(values, groups)

        put("nlpd", -own["log_density"].values)
        if "error" in own and not np.isnan(own["error"].values).any():
            square = own["error"].values ** 2
            put("rmse", square)
            line["rmse"] = line["rmse"] ** 0.5
            line["rmse_se"] /= 2 * line["rmse"] if line["rmse"] else 1.0
            put("mae", np.abs(own["measured"].values - own["median"].values))
            if "crps" in own:
                put("crps", own["crps"].values)
            for level in (50, 90):
                put(f"coverage_{level}", covered(own, level / 100))
            put("sharpness", own["std"].values)
            if "upper_90" in own:
                line["width_90"] = float(np.median(own["upper_90"].values - own["lower_90"].values))
            line["ence"] = _ence(own["std"].values, square)
        else:
            put("brier", own["brier"].values)
            put("accuracy", (own["class_measured"] == own["class_predicted"]).values.astype(float))
            line["macro_f1"] = _macro_f1(own["class_measured"].values, own["class_predicted"].values)
            curve = reliability(own)
            gap = np.abs(curve["probability"] - curve["frequency"])
            line["ece"] = float((gap * curve["pairs"]).sum() / curve["pairs"].sum())
        lines[name] = line
    return pd.DataFrame(lines).T.rename_axis("task").astype({"rows": int})


def expect_scores(scored: object) -> None:
    """Refuse what is no table of scores."""
    if not isinstance(scored, xr.Dataset) or not {"log_density", "pit", "class_probability"} & set(scored):
        told = "predictions" if isinstance(scored, xr.Dataset) and "mean" in scored else f"a {type(scored).__name__}"
        raise ValueError(f"Expected the scores that leave_out or Posterior.score give; got {told}.")


def covered(scored: xr.Dataset, level: float) -> NDArray[np.float64]:
    """Whether the central interval covers each value, 0 or 1; of counts and values at a limit the share of it that is covered.

    A value y of probability mass takes the place of the whole of [F(y-), F(y)] (Czado, Gneiting & Held 2009,
    doi 10.1111/j.1541-0420.2009.01191.x), so that the average is `level` where predictions are right.
    """
    pit, mass = scored["pit"].values, scored["mass"].values if "mass" in scored else np.zeros(scored.sizes["row"])
    low, high = pit - mass / 2, pit + mass / 2
    inside = np.minimum(high, 0.5 + level / 2) - np.maximum(low, 0.5 - level / 2)
    return np.where(mass > 1e-12, np.clip(inside, 0, None) / np.maximum(mass, 1e-300), np.abs(pit - 0.5) <= level / 2)


def _groups_of(scored: xr.Dataset) -> NDArray[Any]:
    """What was left out together with each row: by itself where nothing is said."""
    return scored["group"].values if "group" in scored.coords else np.arange(scored.sizes["row"])


def standard_error(values: NDArray[np.float64], groups: NDArray[Any]) -> float:
    """Standard error of a mean whose rows are independent between groups only."""
    sums = pd.Series(values - values.mean()).groupby(pd.factorize(groups)[0]).sum().to_numpy()
    count = len(sums)
    return float("nan") if count < 2 else float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values))


def calibration(
    scored: xr.Dataset, levels: Sequence[float] = tuple(np.round(np.arange(0.05, 1.0, 0.05), 2))
) -> xr.Dataset:
    """Share of the measured values that central intervals of every level cover, per task.

    Returns
    -------
    xarray.Dataset
        ``coverage`` and its standard error ``coverage_se``, dims (task, level); tasks of numbers and counts only.
    """
    expect_scores(scored)
    if "pit" not in scored:
        raise DataError("Calibration curves need numbers or counts; these scores are of classes. See `reliability`.")
    names = [
        n
        for n in dict.fromkeys(scored["task"].values.tolist())
        if np.isfinite(scored["pit"].values[scored["task"].values == n]).all()
    ]
    share, error = np.empty((len(names), len(levels))), np.empty((len(names), len(levels)))
    for t, name in enumerate(names):
        own = scored.isel(row=np.flatnonzero(scored["task"].values == name))
        groups = _groups_of(own)
        for i, level in enumerate(levels):
            inside = covered(own, level)
            share[t, i], error[t, i] = inside.mean(), standard_error(inside, groups)
    dims = ["task", "level"]
    return xr.Dataset(
        {"coverage": (dims, share), "coverage_se": (dims, error)}, coords={"task": names, "level": list(levels)}
    )


def reliability(scored: xr.Dataset, bins: int = 10) -> xr.Dataset:
    """How often classes occur that were given some probability, per task of classes.

    All pairs of a row and a class (of two classes, the second alone) are sorted by the probability given and cut into bins of
    equal size, as far as they are that many (Nixon et al. 2019, arXiv:1904.01685).

    Returns
    -------
    xarray.Dataset
        ``probability`` (mean of those given), ``frequency`` and its standard error ``frequency_se``, and ``pairs``, how many
        there are, dims (task, bin).
    """
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1; got {bins}.")
    expect_scores(scored)
    if "class_probability" not in scored or np.isnan(scored["class_probability"].values).all():
        raise DataError(
            "Reliability needs the probabilities of classes; these scores are of numbers. See `calibration`."
        )
    found: dict[str, list[NDArray[np.float64]]] = {}
    for name in dict.fromkeys(scored["task"].values.tolist()):
        own = scored.isel(row=np.flatnonzero(scored["task"].values == name))
        chance = own["class_probability"].values
        chance = chance[:, ~np.isnan(chance).all(0)]
        if chance.shape[1] == 0:
            continue
        hit = (own["class_measured"].values[:, None] == np.arange(chance.shape[1])).astype(float)
        groups = _groups_of(own)
        if chance.shape[1] == 2:
            chance, hit = chance[:, 1:], hit[:, 1:]
        groups = np.repeat(groups, chance.shape[1])
        chance, hit = chance.ravel(), hit.ravel()
        level = np.unique(chance, return_inverse=True)[
            1
        ].ravel()  # pairs given the same are told by their mean: in any order
        share = (np.bincount(level, hit) / np.bincount(level))[level]
        parts = np.array_split(np.argsort(chance, kind="stable"), bins)
        found[name] = [
            np.array([chance[p].mean(), share[p].mean(), standard_error(hit[p], groups[p]), len(p)])
            if len(p)
            else np.array([np.nan, np.nan, np.nan, 0.0])
            for p in parts
        ]
    table = np.array(list(found.values()))
    return xr.Dataset(
        {
            name: (("task", "bin"), table[..., i])
            for i, name in enumerate(("probability", "frequency", "frequency_se", "pairs"))
        },
        coords={"task": list(found)},
    )


def _ence(spread: NDArray[np.float64], square: NDArray[np.float64], bins: int = 10) -> float:
    """``mean_b |RMV_b - RMSE_b| / RMV_b`` over bins of equal size of the predicted spread."""
    order = np.argsort(spread)
    found = []
    for part in np.array_split(order, min(bins, max(1, len(order) // 5))):
        predicted = np.sqrt((spread[part] ** 2).mean())
        if predicted > 0:  # far beyond a limit nothing is uncertain
            found.append(abs(predicted - np.sqrt(square[part].mean())) / predicted)
    return float(np.mean(found)) if found else np.nan


def _macro_f1(measured: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Mean over the classes that were measured or predicted of the F1 score."""
    found = []
    for k in np.union1d(measured, predicted):
        hit = ((measured == k) & (predicted == k)).sum()
        found.append(2 * hit / ((measured == k).sum() + (predicted == k).sum()))
    return float(np.mean(found))
