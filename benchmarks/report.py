"""Where results go: tidy CSV with the commit, and the same table on the screen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import bayestl as btl
from bayestl.gaussian import mixture

RESULTS = Path(__file__).parent / "results"


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=RESULTS.parents[1])


# Of the code that is imported, not of whatever is checked out when a long run ends. New results do not make it dirty.
COMMIT = _git("describe", "--always").stdout.strip()
if _git("diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results").returncode == 1:
    COMMIT += "-dirty"


def write(name: str, rows: list[dict], key: list[str] | None = None) -> pd.DataFrame:
    """Write rows to results/NAME.csv, with the commit they were measured at; with a key, rows of other keys stay there."""
    table, path = pd.DataFrame(rows).assign(commit=COMMIT), RESULTS / f"{name}.csv"
    RESULTS.mkdir(exist_ok=True)
    if key and path.exists():
        before = pd.read_csv(path, dtype={"commit": str})
        again = pd.MultiIndex.from_frame(before[key]).isin(pd.MultiIndex.from_frame(table[key]))
        table = pd.concat([before[~again], table], ignore_index=True).sort_values(key, ignore_index=True)
    table.to_csv(path, index=False, float_format="%.5g")
    return table


def brief(row: dict) -> dict:
    """The row with rounded numbers, to be printed."""
    return {name: value if isinstance(value, str) else round(float(value), 4) for name, value in row.items()}


def judge_truth(posterior: btl.Posterior, x: NDArray[np.float64], truth: NDArray[np.float64], task: str) -> dict:
    """RMSE, NLPD and 90 % coverage of a task's noise-free function."""
    frame = pd.DataFrame(x, columns=[column.name for column in posterior.data.inputs])
    output = posterior.data.index_of(task)
    mean, cov = posterior._marginals(posterior._inputs(frame)[1], output)
    mean, std = mean[..., 0], cov[..., 0, 0].sqrt()
    location, scale = posterior.scaling.location[output], posterior.scaling.scale[output]
    y = torch.from_numpy((truth - location) / scale)
    pit = mixture.cdf(y, mean, std)
    return {
        "rmse": float((mean.mean(0) - y).square().mean().sqrt() * scale),
        "nlpd": float(np.log(scale) - mixture.log_density(y, mean, std).mean()),
        "coverage": float(((pit > 0.05) & (pit < 0.95)).double().mean()),
    }


def judge_normal(y: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64]) -> dict:
    """The same scores for a normal prediction."""
    z = (y - mean) / std
    return {
        "rmse": float(np.sqrt(np.mean((mean - y) ** 2))),
        "nlpd": float(np.mean(0.5 * z**2 + np.log(std) + 0.5 * np.log(2 * np.pi))),
        "coverage": float(np.mean(np.abs(z) < 1.6448536)),
    }


def judge_measured(posterior: btl.Posterior, test: btl.TaskData) -> dict:
    """The same scores for measured values, noise included."""
    score = posterior.score(test)
    return {
        "rmse": float((score["error"] ** 2).mean() ** 0.5),
        "nlpd": -float(score["log_density"].mean()),
        "coverage": float(((score["pit"] > 0.05) & (score["pit"] < 0.95)).mean()),
    }
