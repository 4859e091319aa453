"""A target that is a curved function of its source: the plain scale, and one that the data choose.

python -m benchmarks.curved_links [--seeds 8]

60 rows of a source f in two dimensions, 20 of a target ``h(f) + 0.15 delta + 0.5``, 300 to predict, noise 0.05. h is linear,
exponential, its mirror image (it saturates above) or saturates at both ends. The scores are in units of the target's spread.
Rivals: BoTorch's MultiTaskGP, which is linear too, and a Gaussian process on the inputs and a prediction of the source
(scikit-learn), which may bend as it likes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

import bayestl as btl
from benchmarks.report import judge_measured, judge_normal, write
from benchmarks.rivals import botorch_multitask
from benchmarks.simulate import smooth

LINKS = {
    "linear": lambda f: 1.2 * f,
    "exponential": lambda f: np.exp(0.9 * f),
    "saturating": lambda f: -np.exp(-0.9 * f),
    "at both ends": lambda f: 1.5 * np.tanh(f),
}
FIRST, SOURCES, TARGETS, TESTS, NOISE = 100, 60, 20, 300, 0.05


def simulated(link: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give training and test rows; the values of the target are in units of its spread."""
    rng = np.random.default_rng(seed)
    f, delta = smooth(rng, 2, 0.35), smooth(rng, 2, 0.7)
    x = rng.random((SOURCES + TARGETS + TESTS, 2))
    target = LINKS[link](f(x)) + 0.15 * delta(x) + 0.5
    is_source = np.arange(len(x)) < SOURCES
    y = np.where(is_source, f(x), target) + NOISE * rng.standard_normal(len(x))
    y[~is_source] /= target[-TESTS:].std()
    table = pd.DataFrame(x, columns=["x0", "x1"]).assign(task=np.where(is_source, "source", "target"), y=y)
    return table.iloc[:-TESTS], table.iloc[-TESTS:]


def read(table: pd.DataFrame, law: btl.likelihoods.Likelihood, tasks: tuple[str, ...]) -> btl.TaskData:
    return btl.TaskData.from_long(
        table[table["task"].isin(tasks)], inputs=["x0", "x1"], task="task", value="y",
        likelihoods=dict.fromkeys(tasks, law), units={task: f"unit of {task}" for task in tasks},
    )  # fmt: skip


def nested(train: pd.DataFrame, test: pd.DataFrame) -> tuple[NDArray, NDArray]:
    """Predict the source by a Gaussian process, and the target by another, on the inputs and that prediction."""

    def regressor(d: int) -> GaussianProcessRegressor:
        kernel = ConstantKernel(1.0) * Matern(np.ones(d), nu=2.5) + WhiteKernel(0.01)
        return GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=3, random_state=0)

    inputs, source = ["x0", "x1"], train["task"] == "source"
    first = regressor(2).fit(train.loc[source, inputs].to_numpy(), train.loc[source, "y"])

    def seen(table: pd.DataFrame) -> NDArray:
        x = table[inputs].to_numpy()
        return np.column_stack([x, first.predict(x)])

    return regressor(3).fit(seen(train[~source]), train.loc[~source, "y"]).predict(seen(test), return_std=True)


def rows(link: str, seed: int) -> Iterator[dict]:
    train, test = simulated(link, seed)
    both, alone = ("source", "target"), ("target",)
    told = {"link": link, "seed": seed}
    for scale, law in (("plain", btl.Gaussian()), ("inferred", btl.Gaussian(btl.YeoJohnson()))):
        for model in (btl.SingleTask(), btl.MultiTask(), btl.Difference.chain(*both)):
            data = read(train, law, alone if isinstance(model, btl.SingleTask) else both)
            posterior = btl.fit(model, data, seed=0, progress=False)
            judged = judge_measured(posterior, read(test, posterior.data.tasks[-1].likelihood, alone))
            yield (
                told
                | {"method": type(model).__name__, "scale": scale}
                | judged
                | {"seconds": posterior.record.seconds["total"]}
            )
    x, y = test[["x0", "x1"]].to_numpy(), test["y"].to_numpy()
    found = botorch_multitask(read(train, btl.Gaussian(), both), x, np.ones(len(x), dtype=int))
    own = judge_normal(y, found.mean, found.noisy_std) | {"seconds": found.seconds}
    yield told | {"method": "BoTorch MultiTaskGP", "scale": "plain"} | own
    began = time.perf_counter()
    own = judge_normal(y, *nested(train, test)) | {"seconds": time.perf_counter() - began}
    yield told | {"method": "GP on inputs and predicted source", "scale": "plain"} | own


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    everything = [row for link in LINKS for seed in range(FIRST, FIRST + options.seeds) for row in rows(link, seed)]
    done = write("curved_links", everything)
    columns = {"rmse": "median", "nlpd": "mean", "coverage": "mean", "seconds": "mean"}
    print(done.groupby(["link", "method", "scale"], sort=False).agg(columns).round(3).to_string())
