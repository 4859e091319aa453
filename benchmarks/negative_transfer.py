"""Does transfer ever cost anything? A source that agrees, the same with its sign flipped, and one or ten that say nothing.

python -m benchmarks.negative_transfer [--seeds 20] [--reports 20]

Ten target rows in two dimensions; 60 rows of one source, or 30 of each of ten. Scores are of the target's noise-free
function at 400 points. `--reports`: how often `transfer_report` says of a source that it helps or harms (results/verdicts.csv).
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch

import bayestl as btl
from bayestl.compare import default_models
from benchmarks.report import write
from benchmarks.simulate import smooth, table


def tables(seed: int) -> tuple[dict[str, btl.TaskData], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    f, delta = smooth(rng, 2, 0.35), smooth(rng, 2, 0.7)
    others = [smooth(rng, 2, 0.35) for _ in range(10)]
    xt, test = rng.random((10, 2)), rng.random((400, 2))

    def target(x: np.ndarray) -> np.ndarray:
        return 1.2 * f(x) + 0.3 * delta(x) + 0.5

    yt = target(xt) + 0.05 * rng.standard_normal(10)
    xs, noise = rng.random((60, 2)), 0.05 * rng.standard_normal(60)
    many = rng.random((10, 30, 2))
    wild = [other(x) + 0.05 * rng.standard_normal(30) for other, x in zip(others, many, strict=True)]

    def made(x: np.ndarray, names: list[str], y: np.ndarray) -> btl.TaskData:
        return table(np.concatenate([x, xt]), names + ["target"] * 10, np.concatenate([y, yt]))

    one = ["source"] * 60
    return (
        {
            "agrees": made(xs, one, f(xs) + noise),
            "flipped": made(xs, one, -(f(xs) + noise)),
            "irrelevant": made(xs, one, others[0](xs) + noise),
            "ten irrelevant": made(many.reshape(-1, 2), [f"s{i}" for i in range(10) for _ in range(30)], np.concatenate(wild)),
        },
        test, target(test),
    )  # fmt: skip


def judge(model: btl.Posterior | btl.Stack, test: np.ndarray, truth: np.ndarray) -> dict:
    frame = pd.DataFrame(test, columns=["x0", "x1"])
    posteriors = [model] if isinstance(model, btl.Posterior) else [model.posteriors[name] for name in model.weights]
    weights = [1.0] if isinstance(model, btl.Posterior) else list(model.weights.values())
    from bayestl.likelihoods.predictive import mixed

    laws = [next(p.laws(frame, "target", False, len(frame))) for p in posteriors]
    law = mixed(laws, torch.tensor(weights).double().unsqueeze(-1))
    y = torch.from_numpy(truth)
    pit = law.cdf(y)
    return {
        "rmse": float((law.moments()[0] - y).square().mean().sqrt()), "nlpd": -float(law.log_density(y).mean()),
        "coverage": float(((pit > 0.05) & (pit < 0.95)).double().mean()),
    }  # fmt: skip


def verdicts(seeds: int) -> list[dict]:
    """What `transfer_report` says of every source of the tables."""
    rows = []
    for seed in range(seeds):
        made, _, _ = tables(seed)
        for source, data in made.items():
            said = btl.transfer_report(data, "target", seed=seed, progress=False).table
            rows += [
                {"seed": seed, "beside": source, "of": name, **line[["elpd", "elpd_se", "verdict"]].to_dict()}
                for name, line in said.iterrows()
                if len(said) > 2 or name != "(all)"
            ]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--reports", type=int, default=20, help="seeds of `transfer_report`")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    rows = []
    for seed in range(options.seeds):
        made, test, truth = tables(seed)
        for source, data in made.items():
            began = time.perf_counter()
            posteriors = {
                name: btl.fit(model, data, seed=seed, progress=False)
                for name, model in default_models(data, "target").items()
            }
            found = {**posteriors, "fit_best": btl.stack(posteriors, "target")}
            seconds = time.perf_counter() - began
            rows += [
                {"seed": seed, "source": source, "method": name, "seconds": seconds, **judge(model, test, truth)}
                for name, model in found.items()
            ]
        print(
            pd.DataFrame(rows[-20:]).pivot_table(index="source", columns="method", values="rmse").round(3).to_string(),
            flush=True,
        )
    done = write("negative_transfer", rows)
    control = done[done["method"] == "single"].set_index(["seed", "source"])["rmse"]
    keys = pd.MultiIndex.from_frame(done[["seed", "source"]])
    done["to control"] = done["rmse"].to_numpy() / control.reindex(keys).to_numpy()
    print(done.groupby(["source", "method"], sort=False)[["rmse", "to control", "nlpd", "coverage"]].agg(
        {"rmse": "median", "to control": "median", "nlpd": "mean", "coverage": "mean"}).round(3).to_string())  # fmt: skip
    wide = done.pivot_table(index="seed", columns=["source", "method"], values="rmse")
    for method in found:
        ratio = wide["flipped"][method].median() / wide["agrees"][method].median()
        print(f"{method}: median RMSE beside the flipped source is {ratio:.3f} of that beside the source as it is")
    worse = done[done["to control"] > 1].groupby(["source", "method"])["to control"].agg(["count", "max"]).round(2)
    print(f"Tables in which the RMSE is above that of no transfer, and the worst of them:\n{worse.to_string()}")
    if options.reports:
        said = write("verdicts", verdicts(options.reports))
        of = np.where(said["of"] == "(all)", "all together", "each source")
        print(pd.crosstab([said["beside"], of], said["verdict"]).to_string())
