"""Small tables and posteriors that many tests share."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch

import bayestl as btl
from bayestl.models.problem import Problem

MODELS = {
    "single": btl.SingleTask(),
    "multitask": btl.MultiTask(),
    "multitask-rank2": btl.MultiTask(rank=2),
    "difference": btl.Difference.chain("a", "b", "c"),
    "difference-dag": btl.Difference({"c": ["a", "b"]}),
    "latent": btl.LatentTask(dim=2),
}


def table(n: int = 24, d: int = 2, seed: int = 0) -> btl.TaskData:
    """Three related tasks, some rows with known errors, one input categorical."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    task = rng.permutation(np.arange(n) % 3)
    f = np.sin(4 * x[:, 0]) + x[:, 1]
    y = 5 + 2 * f + (task == 1) * (0.5 - x[:, 0]) + (task == 2) * 0.3 + 0.1 * rng.standard_normal(n)
    frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(d)])
    frame = frame.assign(
        phase=rng.choice(["cubic", "hexagonal"], n), source=np.array(["a", "b", "c"])[task], y=y,
        err=np.where(rng.random(n) < 0.3, 0.1, np.nan),
    )  # fmt: skip
    return btl.TaskData.from_long(
        frame, inputs=[*frame.columns[:d], "phase"], task="source", value="y", error="err", tasks=["a", "b", "c"],
        units={"a": "eV", "b": "eV", "c": "eV", "x0": "nm"},
    )  # fmt: skip


def grid(n: int = 7, d: int = 2, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.random((n, d)), columns=[f"x{j}" for j in range(d)])
    return frame.assign(phase=rng.choice(["cubic", "hexagonal"], n))


def draw_theta(problem: Problem, draws: int, seed: int = 0):
    """Draws of theta from the prior, stacked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        each = [problem.prior() for _ in range(draws)]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


@pytest.fixture(scope="session")
def data() -> btl.TaskData:
    return table()


@pytest.fixture(params=MODELS, scope="session")
def model(request):
    return MODELS[request.param]


@pytest.fixture(scope="session")
def problem(model, data) -> Problem:
    return Problem.of(model, data)


@pytest.fixture(scope="session")
def posterior(model, data) -> btl.Posterior:
    return btl.fit(model, data, seed=2)
