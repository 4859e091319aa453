"""The rivals: means and intervals of the target's measured values, each method at its sensible best.

Forests see every descriptor; Gaussian processes of other packages its 16 principal components (where there are more), inputs in
the unit cube, values standardised per task, and the square root of a gap where ours see it. A forest's standard deviation is
the spread of its trees, scaled so that out-of-bag errors have unit variance.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor

from benchmarks.rivals import emukit_ar1, smt_mfk

Array = NDArray[np.float64]


MANY, FEWER = 800, 600


class Normal(NamedTuple):
    """Normal predictions, of ``sqrt(y + offset)`` where there is an offset."""

    mean: Array
    std: Array
    offset: float | None = None

    def scores(self, y: Array) -> dict[str, float]:
        z, mean, median, slope = y, self.mean, self.mean, np.zeros_like(y)
        if self.offset is not None:
            z = np.sqrt(y + self.offset)
            mean, median = self.mean**2 + self.std**2 - self.offset, self.mean**2 - self.offset
            slope = -np.log(2 * z)
        return {
            "rmse": float(np.sqrt(np.mean((mean - y) ** 2))),
            "mae": float(np.abs(median - y).mean()),
            "nlpd": float(-(norm.logpdf(z, self.mean, self.std) + slope).mean()),
            "coverage": float((np.abs(z - self.mean) < norm.isf(0.05) * self.std).mean()),
        }


class Forest:
    """A random forest with a standard deviation."""

    def __init__(self, x: Array, y: Array, seed: int) -> None:
        self.forest = RandomForestRegressor(300, max_features=1 / 3, oob_score=True, random_state=seed, n_jobs=1).fit(
            x, y
        )
        trees = np.stack([tree.predict(x) for tree in self.forest.estimators_])
        outside = np.ones(trees.shape, dtype=bool)
        for i, used in enumerate(self.forest.estimators_samples_):
            outside[i, used] = False
        trees[~outside] = np.nan
        self.floor = 0.005 * y.var() + 1e-12
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a row that every tree saw
            ratio = (y - self.forest.oob_prediction_) ** 2 / (np.nanvar(trees, axis=0) + self.floor)
        self.factor = float(np.nanmean(ratio))

    def predict(self, x: Array) -> tuple[Array, Array]:
        trees = np.stack([tree.predict(x) for tree in self.forest.estimators_])
        return trees.mean(0), np.sqrt(self.factor * (trees.var(0) + self.floor))


def everywhere(x: Array, s: Array, x_new: Array, s_new: Array, seed: int) -> tuple[Array, Array]:
    """Source values where they are known, and a forest's elsewhere."""
    s, s_new = s.copy(), s_new.copy()
    for j in range(s.shape[1]):
        known = np.isfinite(s[:, j])
        if known.all() and np.isfinite(s_new[:, j]).all():
            continue
        forest = RandomForestRegressor(300, max_features=1 / 3, random_state=seed, n_jobs=1).fit(x[known], s[known, j])
        for inputs, values in ((x, s), (x_new, s_new)):
            if (missing := ~np.isfinite(values[:, j])).any():
                values[missing, j] = forest.predict(inputs[missing])
    return s, s_new


def rivals(
    x: Array, s: Array, y: Array, x_new: Array, s_new: Array, offset: float | None, seed: int
) -> Iterator[tuple[str, Normal, float]]:
    """Give name, predictions and seconds: x (n, d), source values s (n, k) and target values y (n), NaN where unknown."""
    labelled = np.isfinite(y)
    began = time.perf_counter()

    def lap() -> float:
        nonlocal began
        now, before = time.perf_counter(), began
        began = time.perf_counter()
        return now - before

    def predicted(inputs: Array, values: Array, new: Array, shift: Array | float = 0.0) -> Normal:
        mean, std = Forest(inputs[labelled], values[labelled], seed).predict(new)
        return Normal(mean + shift, std)

    yield "forest, target only", predicted(x, y, x_new), lap()
    s, s_new = (
        everywhere(x, s, x_new, s_new, seed) if not np.isfinite(s).all() or not np.isfinite(s_new).all() else (s, s_new)
    )
    best = nearest(s, y)
    off = y - s[:, best]
    flat = np.full(len(x_new), off[labelled].std(ddof=1))
    yield "constant shift", Normal(s_new[:, best] + off[labelled].mean(), flat), lap()
    yield "forest, difference", predicted(x, off, x_new, s_new[:, best]), lap()
    both, both_new = np.column_stack([x, s]), np.column_stack([x_new, s_new])
    yield "forest, stacked", predicted(both, y, both_new), lap()
    yield "forest, stacked difference", predicted(both, off, both_new, s_new[:, best]), lap()
    task, task_new = np.repeat(np.arange(s.shape[1] + 1.0), len(x)), np.full(len(x_new), s.shape[1] + 0.0)
    pooled = np.concatenate([*s.T, y])
    seen = np.isfinite(pooled)
    stacked = np.column_stack([np.tile(x, (s.shape[1] + 1, 1)), task])[seen]
    forest = Forest(stacked, pooled[seen], seed)
    yield "forest, multi-task", Normal(*forest.predict(np.column_stack([x_new, task_new]))), lap()
    yield "forest, pooled", Normal(*Forest(stacked[:, :-1], pooled[seen], seed).predict(x_new)), lap()


def lolo_forests(
    x: Array, s: Array, y: Array, x_new: Array, s_new: Array, seed: int
) -> Iterator[tuple[str, Normal, float]]:
    """Hutchinson's forests, lolo with its calibrated standard deviations; nothing where lolopy or Java are not installed."""
    if shutil.which("java") is None or importlib.util.find_spec("lolopy") is None:
        return
    from lolopy.learners import RandomForestRegressor as Lolo

    labelled = np.isfinite(y)
    began = time.perf_counter()
    s, s_new = everywhere(x, s, x_new, s_new, seed)
    filling = time.perf_counter() - began
    best = nearest(s, y)
    both, both_new = np.column_stack([x, s]), np.column_stack([x_new, s_new])
    for name, inputs, values, new, shift in (
        ("lolo, target only", x, y, x_new, 0.0),
        ("lolo, difference", x, y - s[:, best], x_new, s_new[:, best]),
        ("lolo, stacked", both, y, both_new, 0.0),
    ):
        began = time.perf_counter()
        forest = Lolo(num_trees=300, uncertainty_calibration=True)
        forest.fit(inputs[labelled], values[labelled], random_seed=seed + 1)  # 0 means none
        mean, std = forest.predict(new, return_std=True)
        # A single value seen by all trees has no spread at all.
        std = np.maximum(std, 0.05 * values[labelled].std())
        used = 0.0 if name == "lolo, target only" else filling
        yield name, Normal(mean + shift, std), used + time.perf_counter() - began


def gaussian_processes(
    x: Array, s: Array, y: Array, x_new: Array, offset: float | None, kept: NDArray[np.bool_]
) -> Iterator[tuple[str, Normal, float]]:
    """BoTorch alone and multi-task (its kernel of tasks cannot be negative), and on small tables with one that can; as `rivals`.

    A fit to more than 800 rows takes minutes: then it sees what `two_fidelities` do.
    """
    if np.isfinite(s).sum() + np.isfinite(y).sum() > MANY:
        s = thinned(s, y, kept, FEWER)
    inputs, values, x_new, location, scale = in_unit_cube(x, s, y, x_new, offset)
    target = s.shape[1]
    own = inputs[:, -1] == target
    for name, taken, kind in (
        ("BoTorch SingleTaskGP", own, "single"),
        ("BoTorch MultiTaskGP", own | True, "positive"),
        *([("BoTorch MultiTaskGP, signed", own | True, "signed")] if len(own) < 300 else []),
    ):
        began = time.perf_counter()
        mean, std = _botorch(inputs[taken], values[taken], x_new, target, kind)
        yield name, Normal(mean * scale[-1] + location[-1], std * scale[-1], offset), time.perf_counter() - began


def two_fidelities(
    x: Array, s: Array, y: Array, x_new: Array, offset: float | None, kept: NDArray[np.bool_], seed: int
) -> Iterator[tuple[str, Normal, float]]:
    """SMT's and Emukit's models of two fidelities, from the nearest source; as `rivals`.

    At most 600 rows besides those that must be kept: the source beyond is drawn at random.
    """
    inputs, values, x_new, location, scale = in_unit_cube(x, thinned(s, y, kept, FEWER), y, x_new, offset)
    task = inputs[:, -1].astype(int)
    data: Any = SimpleNamespace(
        x=inputs[:, :-1], values=values * scale[task] + location[task], task_index=task, tasks=("source", "target")
    )
    for name, method in (("SMT MFK", smt_mfk), ("Emukit AR1", emukit_ar1)):
        np.random.seed(seed)  # noqa: NPY002 - their restarts draw from it
        p = method(data, x_new, np.ones(len(x_new), dtype=int))
        yield name, Normal(p.mean, p.noisy_std, offset), p.seconds


def nearest(s: Array, y: Array) -> int:
    """Of several sources the one that is nearest to the target where both are known."""
    off = (y[:, None] - s)[np.isfinite(y)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a source that is known nowhere
        spread = np.where(np.isfinite(off).sum(0) > 2, np.nanstd(off, axis=0), np.inf)
    return int(spread.argmin())


def thinned(s: Array, y: Array, kept: NDArray[np.bool_], most: int) -> Array:
    """Only the nearest source; what is beyond `most` rows with the target's is left out.

    What the source says of the rows to be predicted, `kept`, stays.
    """
    s = s[:, [nearest(s, y)]].copy()
    known = np.isfinite(s[:, 0])
    extra = max(0, int(known.sum()) - max(most - int(np.isfinite(y).sum()), 100))
    s[np.random.default_rng(0).permutation(np.flatnonzero(known & ~kept))[:extra], 0] = np.nan
    return s


def in_unit_cube(
    x: Array, s: Array, y: Array, x_new: Array, offset: float | None
) -> tuple[Array, Array, Array, Array, Array]:
    """Inputs of all observations with their task last, values standardised per task, new inputs; locations and scales."""
    centre, width = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
    x, x_new = (x - centre) / width, (x_new - centre) / width
    if x.shape[1] > 16:
        pca = PCA(16).fit(x)
        x, x_new = pca.transform(x), pca.transform(x_new)
    low, high = x.min(0), x.max(0)
    x, x_new = (x - low) / np.where(high > low, high - low, 1), (x_new - low) / np.where(high > low, high - low, 1)
    columns = [*s.T, y] if offset is None else [np.sqrt(v + offset) for v in (*s.T, y)]
    location = np.array([np.nanmean(v) for v in columns])
    scale = np.array([np.nanstd(v) for v in columns])
    inputs, values = [], []
    for t, column in enumerate(columns):
        known = np.isfinite(column)
        inputs.append(np.column_stack([x[known], np.full(known.sum(), t)]))
        values.append((column[known] - location[t]) / scale[t])
    inputs, values = np.concatenate(inputs), np.concatenate(values)
    return inputs, values, x_new, location, scale


def _botorch(inputs: Array, values: Array, new: Array, target: int, kind: str) -> tuple[Array, Array]:
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MultiTaskGP, SingleTaskGP
    from gpytorch.kernels import IndexKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = torch.from_numpy(inputs), torch.from_numpy(values).unsqueeze(-1)
        if kind == "single":
            model = SingleTaskGP(x[:, :-1], y)
        else:
            model = MultiTaskGP(x, y, task_feature=-1)
            if kind == "signed":
                tasks = IndexKernel(num_tasks=target + 1, rank=target + 1, active_dims=[x.shape[1] - 1]).double()
                model.covar_module = model.covar_module.kernels[0] * tasks
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        at = new if kind == "single" else np.column_stack([new, np.full(len(new), float(target))])
        posterior = model.posterior(torch.from_numpy(at), observation_noise=True)
    return posterior.mean.detach().squeeze(-1).numpy(), posterior.variance.detach().sqrt().squeeze(-1).numpy()
