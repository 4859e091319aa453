"""Simulated tables whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import bayestl as btl

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def smooth(rng: np.random.Generator, d: int, length: float, features: int = 300) -> Function:
    """A draw from a unit-variance GP with a squared-exponential kernel, by random Fourier features."""
    w, b = rng.normal(size=(d, features)) / length, rng.uniform(0, 2 * np.pi, features)
    a = rng.normal(size=features) * np.sqrt(2 / features)
    return lambda x: np.cos(x @ w + b) @ a


def table(x: NDArray[np.float64], task: list[str], y: NDArray[np.float64]) -> btl.TaskData:
    names = [f"x{j}" for j in range(x.shape[1])]
    frame = pd.DataFrame(x, columns=names).assign(task=task, y=y)
    return btl.TaskData.from_long(frame, inputs=names, task="task", value="y", units=dict.fromkeys(task, "eV"))


def two_fidelities(kind: str, seed: int, sources: int = 60, targets: int = 10, d: int = 2, noise: float = 0.05):
    """Source and target in `d` dimensions, `kind` being positive, flipped or irrelevant.

    Returns the training table and (x, truth) of the target's noise-free function at 400 points.
    """
    rng = np.random.default_rng(seed)
    f, delta, other = smooth(rng, d, 0.35), smooth(rng, d, 0.7), smooth(rng, d, 0.35)
    sign = {"positive": 1.0, "flipped": -1.0, "irrelevant": 0.0}[kind]
    target: Function = (
        (lambda x: sign * 1.2 * f(x) + 0.3 * delta(x) + 0.5) if sign else (lambda x: 1.2 * other(x) + 0.5)
    )
    xs, xt, test = rng.random((sources, d)), rng.random((targets, d)), rng.random((400, d))
    y = np.concatenate([f(xs), target(xt)]) + noise * rng.standard_normal(sources + targets)
    return table(np.concatenate([xs, xt]), ["source"] * sources + ["target"] * targets, y), test, target(test)


def three_tasks(n: int, seed: int, d: int = 6, tests: int = 600):
    """Three related tasks in `d` dimensions; returns a training table of n rows and one of `tests` rows."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> btl.TaskData:
        x, t = rng.random((count, d)), np.arange(count) % 3
        f = np.sin(4 * x[:, 0]) + x[:, 1] ** 2 + np.cos(3 * x[:, 2]) * x[:, 3]
        y = f + (t == 1) * 0.3 * np.cos(5 * x[:, 0]) + (t == 2) * (0.5 * x[:, 2] - 0.8 * f)
        return table(x, [f"t{i}" for i in t], y + 0.1 * rng.standard_normal(count))

    return draw(n), draw(tests)


def task_family(seed: int, tasks: int = 12, rows: int = 8, few: int = 3, noise: float = 0.05):
    """Tasks that are points of a two-dimensional family of functions of one input, and one more task.

    Returns the training table, `few` rows of the new task, and (x, truth) of the new task at 200 points.
    """
    rng = np.random.default_rng(seed)
    common, first, second = smooth(rng, 1, 0.3), smooth(rng, 1, 0.3), smooth(rng, 1, 0.3)

    def member(z: NDArray[np.float64]) -> Function:
        return lambda x: common(x) + z[0] * first(x) + z[1] * second(x)

    z = 0.7 * rng.standard_normal((tasks + 1, 2))
    x = rng.random((tasks, rows, 1))
    y = np.stack([member(z[t])(x[t]) for t in range(tasks)]) + noise * rng.standard_normal((tasks, rows))
    names = [f"t{t}" for t in range(tasks) for _ in range(rows)]
    new = member(z[tasks])
    x_few, test = rng.random((few, 1)), rng.random((200, 1))
    y_few = new(x_few) + noise * rng.standard_normal(few)
    return table(x.reshape(-1, 1), names, y.ravel()), table(x_few, ["new"] * few, y_few), test, new(test)


def family_predictor(data: btl.TaskData, x: NDArray[np.float64], noise: float = 0.05) -> NDArray[np.float64]:
    """The best linear prediction of a task of `task_family` that has no rows, by one who knows the law of the family.

    ``Cov[f_t(x), f_t'(x')] = (1 + 1[t = t'] 2 (0.7)^2) k(x, x')``.
    """

    def k(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(-((a - b.T) ** 2) / (2 * 0.3**2))

    same = data.task_index[:, None] == data.task_index
    gram = k(data.x, data.x) * (1 + 0.98 * same) + noise**2 * np.eye(len(data))
    return k(x, data.x) @ np.linalg.solve(gram, data.values)
