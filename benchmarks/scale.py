"""From a thousand rows to a million: seconds, memory and scores; and against GPyTorch's stochastic variational GP.

python -m benchmarks.scale [--sizes 1000,10000,100000,1000000] [--rival 100000] [--predictions 1000000] [--device cuda]

With `--device cuda` the passes are made on a GPU, and their results are written to scale_cuda.csv.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import torch

import bayestl as btl
from bayestl.condense import CHUNK, GPU_CHUNK, _normal, factors
from bayestl.models.problem import Problem
from bayestl.selection import choose_pairs, typical
from benchmarks.report import judge_measured, judge_normal, write
from benchmarks.rivals import standardised
from benchmarks.simulate import three_tasks

MODELS = {
    "MultiTask": btl.MultiTask(),
    "Difference": btl.Difference.chain("t0", "t1", "t2"),
    "MultiTask, Matern-5/2": btl.MultiTask(kernel=btl.Matern52()),
}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def one(size: int, name: str, seed: int, tests: int, device: str) -> dict:
    """A whole call, in a process of its own."""
    data, test = three_tasks(size, seed, tests=tests)
    before = peak()
    btl.fit(btl.MultiTask(), three_tasks(60, 0)[0], progress=False)  # everything is imported
    if device != "cpu":
        torch.linalg.cholesky(torch.eye(2, device=device))  # the libraries of the device too
    began = time.perf_counter()
    posterior = btl.fit(MODELS[name], data, seed=seed, device=device, progress=False)
    seconds = time.perf_counter() - began
    stages = posterior.record.seconds
    theta = sum(stages.get(stage, 0.0) for stage in ("mode", "curvature", "variational"))
    held = posterior.inducing
    return {
        "n": size, "seed": seed, "method": name, "seconds": seconds, "theta": theta, "pairs": stages.get("pairs", 0.0),
        "all rows": stages.get("all rows", 0.0), "draws": posterior.components, "GB": peak(), "GB of data": before,
        "inducing": 0 if held is None else len(held.pairs.output), "untold": 0.0 if held is None else held.untold,
        **judge_measured(posterior, test),
    }  # fmt: skip


def predicting(rows: int, size: int) -> dict:
    """Mean, standard deviation and three quantiles of one task at many new inputs, streamed from and to disk."""
    import tempfile
    from pathlib import Path

    posterior = btl.fit(btl.MultiTask(), three_tasks(size, 0)[0], seed=0, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "new"
        source.mkdir()
        rng = np.random.default_rng(0)
        for part in range(10):
            frame = pd.DataFrame(rng.random((rows // 10, 6)), columns=[f"x{j}" for j in range(6)])
            frame.to_parquet(source / f"{part}.parquet")
        posterior.predict(frame.head(), task="t0")
        began = time.perf_counter()
        out = posterior.predict(source, task="t0")
        import dask

        with dask.config.set(scheduler="synchronous"):
            out.to_netcdf(Path(folder) / "out.nc", engine="h5netcdf")
        return {"rows": rows, "n": size, "seconds": time.perf_counter() - began, "GB": peak()}


def matrix_product_rate(device: str, repeats: int = 40) -> float:
    """Operations per second of a product of the pass's shape."""
    chunk = CHUNK if device == "cpu" else GPU_CHUNK
    a, b = torch.rand(512, chunk, device=device).double(), torch.rand(chunk, 512, device=device).double()
    float((a @ b)[0, 0])  # waits
    began = time.perf_counter()
    for _ in range(repeats):
        product = a @ b
    float(product[0, 0])
    return 2 * 512 * 512 * chunk * repeats / (time.perf_counter() - began)


def pass_rate(device: str, size: int, pairs: int = 512) -> dict:
    """Operations per second of the pass, counting its triangular solve and its product and nothing else."""
    rates, products = [], []
    data, _ = three_tasks(size, 0)
    posterior = btl.fit(btl.MultiTask(), data, method="map", seed=0, progress=False)
    problem = Problem.of(posterior.model, data, posterior.scaling)
    held, _ = choose_pairs(problem, typical(posterior.theta), pairs, 0)
    factor = factors(problem.model, posterior.theta, held, problem.layout)
    for _ in range(3):
        products.append(matrix_product_rate(device))
        began = time.perf_counter()
        _normal(problem, posterior.theta, held, factor, device)
        rates.append(3 * size * pairs**2 / (time.perf_counter() - began))
    return {"pass": np.median(rates) / 1e9, "product": np.median(products) / 1e9}


def svgp(data: btl.TaskData, test: btl.TaskData, pairs: int, rate: float, epochs: int, kernel: str) -> dict:
    """GPyTorch's stochastic variational GP on (x, task) pairs, intrinsic coregionalisation, Adam, minibatches of 1024."""
    import gpytorch

    torch.manual_seed(0)
    # One scale for all tasks, whose unit and noise are the same: its likelihood has one noise.
    _, index, location, _ = standardised(data)
    scale = np.full(len(location), data.values.std())
    y = (data.values - location[index]) / scale[index]
    x = torch.from_numpy(np.column_stack([data.x, data.task_index])).float()  # single precision, as GPyTorch has it
    y = torch.from_numpy(y).float()
    count = len(data.tasks)

    class Model(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            q = gpytorch.variational.CholeskyVariationalDistribution(pairs)
            start = x[torch.randperm(len(x))[:pairs]]
            super().__init__(gpytorch.variational.VariationalStrategy(self, start, q, learn_inducing_locations=True))
            self.mean_module = gpytorch.means.ConstantMean()
            family = gpytorch.kernels.RBFKernel if kernel == "RBF" else gpytorch.kernels.MaternKernel  # Matern-5/2
            self.over_inputs = family(ard_num_dims=x.shape[1] - 1)
            self.over_tasks = gpytorch.kernels.IndexKernel(num_tasks=count, rank=count)

        def forward(self, x):
            k = self.over_inputs(x[..., :-1]) * self.over_tasks(x[..., -1:].long())
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), k)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        model, likelihood = Model(), gpytorch.likelihoods.GaussianLikelihood()
        bound = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(y))
        optimiser = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=rate)
        steps = epochs * (len(y) // 1024)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < 1024:
                order = torch.randperm(len(y))
            batch, order = order[:1024], order[1024:]
            optimiser.zero_grad()
            loss = -bound(model(x[batch]), y[batch])
            loss.backward()
            optimiser.step()
            schedule.step()
        seconds = time.perf_counter() - began
        model.eval()
        with torch.no_grad():
            out = likelihood(model(torch.from_numpy(np.column_stack([test.x, test.task_index])).float()))
    t = test.task_index
    mean, std = out.mean.double().numpy() * scale[t] + location[t], out.variance.sqrt().double().numpy() * scale[t]
    return {"seconds": seconds, **judge_normal(test.values, mean, std)}


def apart(*arguments: str) -> dict:
    """Run one measurement in a process of its own, so that its peak memory is its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="1000,3000,10000,30000,100000,300000,1000000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rival", type=int, default=100_000, help="rows of the comparison with SVGP; 0 for none")
    parser.add_argument("--rates", default="0.01,0.03,0.1", help="learning rates tried in five epochs each")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--tests", type=int, default=20_000, help="test rows of the comparison with SVGP")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", nargs=3, metavar=("N", "MODEL", "TESTS"), help=argparse.SUPPRESS)
    parser.add_argument("--predict-one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
    if options.one:
        print(json.dumps(one(int(options.one[0]), options.one[1], options.seed, int(options.one[2]), options.device)))
        sys.exit()
    if options.predict_one:
        print(json.dumps(predicting(options.predict_one, 10_000)))
        sys.exit()
    rows = []
    for size in map(int, options.sizes.split(",")) if options.sizes else []:
        for name in MODELS if size <= 100_000 else ["MultiTask"]:
            rows.append(apart("--one", str(size), name, "600", "--seed", str(options.seed), "--device", options.device))
            print(pd.DataFrame(rows).tail(1).round(3).to_string(header=len(rows) == 1), flush=True)
    if rows:
        table = write("scale" if options.device == "cpu" else f"scale_{options.device}", rows)
        large = table[(table["method"] == "MultiTask") & (table["n"] >= 10_000)]
        if len(large) > 1:
            print("log-log slopes beyond 10,000 rows:")
            for column in ("seconds", "all rows", "GB"):
                slope = np.polyfit(np.log(large["n"]), np.log(large[column]), 1)[0]
                print(f"  {column:10s} {slope:.2f}")
        rate = pass_rate(options.device, 100_000 if options.device == "cpu" else 1_000_000)
        share = rate["pass"] / rate["product"]
        print(f"the pass: {rate['pass']:.0f} GFlop/s, {share:.0%} of a matrix product's {rate['product']:.0f}")
    if options.rival:
        data, test = three_tasks(options.rival, options.seed, tests=options.tests)

        def tried(rate: float, kernel: str, epochs: int) -> dict:
            method = f"SVGP, {kernel}, rate {rate:g}, {epochs} epochs"
            row = {"n": options.rival, "method": method, "kernel": kernel, "rate": rate}
            row |= svgp(data, test, 512, rate, epochs, kernel)
            print(pd.DataFrame([row]).round(3).to_string(), flush=True)
            return row

        def best() -> dict:
            return min(rivals, key=lambda row: row["nlpd"])

        rivals = [tried(float(rate), "RBF", 5) for rate in options.rates.split(",")]
        rivals.append(tried(best()["rate"], "Matern-5/2", 5))
        rivals.append(tried(best()["rate"], best()["kernel"], options.epochs))
        for name in MODELS:
            rivals.append(apart("--one", str(options.rival), name, str(options.tests), "--seed", str(options.seed)))
        table = write("scale_svgp", rivals)
        print(table[["method", "seconds", "nlpd", "rmse", "coverage"]].round(3).to_string())
    if options.predictions:
        out = apart("--predict-one", str(options.predictions))
        print(f"{out['rows']:,} predictions in {out['seconds']:.0f} s and {out['GB']:.1f} GB")
        write("scale_predictions", [out])
