"""Recovery of known parameters, and simulation-based calibration of every model (Talts et al. 2018, arXiv:1804.06788)."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import bayestl as btl
from bayestl.gaussian.exact import robust_cholesky
from bayestl.inference.infer import infer
from bayestl.models.problem import Problem
from bayestl.scaling import Pairs, Scaling

from .conftest import draw_theta


def simulated(model, seed, sources=20, targets=10, new=3):
    """Draw theta, functions and noisy values from the model itself, in its own units: truth and data for one trial."""
    rng = np.random.default_rng(seed)
    n = sources + targets
    frame = pd.DataFrame(
        {"x": rng.random(n), "task": ["source"] * sources + ["target"] * targets, "y": rng.normal(size=n)}
    )
    data = btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y", units={"source": "eV", "target": "eV"})
    scaling = Scaling.of_inputs(data, np.zeros(2), np.ones(2))
    problem = Problem.of(model, data, scaling)
    theta = {name: value[0] for name, value in draw_theta(problem, 1, seed).items()}
    at = Pairs(torch.from_numpy(rng.random((new, 1)) - 0.5), torch.ones(new, dtype=torch.int64))
    both = Pairs(torch.cat([problem.points.x, at.x]), torch.cat([problem.points.output, at.output]))
    factor, _ = robust_cholesky(model.covariance(theta, both, both, problem.layout))
    f = (factor @ torch.from_numpy(rng.normal(size=n + new))).numpy()
    noise = problem.noise_variance(theta).sqrt().numpy()
    observed = dataclasses.replace(data, values=f[:n] + noise * rng.normal(size=n))
    return observed, scaling, theta, at, f[n:]


def target_of(posterior, at):
    """Mean and variance of the target's function under every component."""
    mean, cov = posterior._marginals(at.x, 1)
    return mean[..., 0], cov[..., 0, 0]


def relation_of(problem, theta):
    """What the model is there to learn beside functions: the correlation of the tasks, or the control's length scale."""
    if isinstance(problem.model, btl.SingleTask):
        return theta["target.length_scale"][..., 0]
    return problem.model.task_correlation(theta, problem.points.x, problem.layout)[..., 0, 1]


def ranks_of(model, trials, seed=0):
    """Posterior probabilities below the truth: of the target's function at a new input, its noise, and the tasks' relation.

    The relation is told by weighted draws: a Gaussian falls short in its tails, where correlations are near one.
    """
    function, noise, relation = [], [], []
    for trial in range(trials):
        data, scaling, theta, at, truth = simulated(model, seed + trial)
        problem = Problem.of(model, data, scaling)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
            draws, record, components, _ = infer(problem, seed=trial)
        posterior = btl.Posterior(model, data, scaling, draws, record, components)
        mean, variance = target_of(posterior, at)
        below = torch.special.ndtr((torch.from_numpy(truth) - mean) / variance.sqrt()).mean(0)
        function.append(below[0].item())
        noise.append((draws["noise"][:, 1] < theta["noise"][1]).double().mean().item())
        true = relation_of(problem, {name: value[None] for name, value in theta.items()})
        weighted = posterior.reweighted() if record.pareto_k <= 1 else posterior
        relation.append((relation_of(problem, weighted.theta) < true).double().mean().item())
    return np.array(function), np.array(noise), np.array(relation)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [btl.SingleTask(), btl.MultiTask(), btl.Difference(), btl.LatentTask(dim=1)],
    ids=lambda m: type(m).__name__,
)
def test_simulation_based_calibration(model):
    """Truths drawn from the prior fall uniformly in the posteriors, for functions and for parameters.

    With 100 trials the Kolmogorov-Smirnov distance of uniform ranks exceeds 0.16 in one case of a hundred, and coverage of
    90 % intervals has a standard error of 0.03.
    """
    for ranks in ranks_of(model, trials=100):
        assert scipy.stats.kstest(ranks, "uniform").statistic < 0.16
        assert 0.82 < np.mean((ranks > 0.05) & (ranks < 0.95)) < 0.98


def mixed_trial(model, trial):
    """Numbers, classes, ratings and counts drawn from a model of all four; the posterior, and what was true."""
    rng = np.random.default_rng(trial)
    generator = torch.Generator().manual_seed(trial)
    sizes = {"number": 15, "yes": 20, "rating": 15, "count": 10}
    laws = {
        "yes": btl.Bernoulli(), "rating": btl.Ordinal(), "count": btl.Poisson(), "number": btl.StudentT(degrees=4.0),
    }  # fmt: skip
    frame = pd.concat(
        (
            pd.DataFrame({"x": rng.random(n), "task": task, "y": np.arange(n) % (3 if task == "rating" else 2)})
            for task, n in sizes.items()
        ),
        ignore_index=True,
    )
    empty = btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y", tasks=list(sizes), likelihoods=laws)
    scaling = Scaling.of_inputs(empty, np.zeros(4), np.ones(4))
    problem = Problem.of(model, empty, scaling)
    theta = draw_theta(problem, 1, trial)
    one = {name: value[0] for name, value in theta.items()}
    at = Pairs(torch.from_numpy(rng.random((4, 1)) - 0.5), torch.arange(4))
    both = Pairs(torch.cat([problem.points.x, at.x]), torch.cat([problem.points.output, at.output]))
    f = robust_cholesky(model.covariance(one, both, both, problem.layout))[0] @ torch.from_numpy(rng.normal(size=64))
    values = empty.values.copy()
    for t in range(4):
        index = torch.from_numpy(np.flatnonzero(empty.task_index == t))
        rows, p = problem.rows(t, index), problem.parameters_of(theta, t)
        noise = problem.measurement_noise(theta, t, rows)
        own = f[:60][problem.points.output == t][None, :, None]
        values[index.numpy()] = empty.tasks[t].likelihood.draw(own, noise, rows, p, generator)[0].numpy()
    data = dataclasses.replace(empty, values=values)
    inferred = infer(Problem.of(model, data, scaling), seed=trial)
    return btl.Posterior(model, data, scaling, *inferred), at, f[60:], one


@pytest.mark.slow
def test_simulation_based_calibration_of_a_mixed_table():
    """As above, for a table of numbers with outliers, classes, ratings and counts in one model."""
    ranks = {name: [] for name in ("number", "yes", "rating", "count", "threshold")}
    for trial in range(32):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
            posterior, at, truth, theta = mixed_trial(btl.MultiTask(rank=1), trial)
        for t, name in enumerate(posterior.data.names):
            mean, cov = posterior._marginals(at.x[t : t + 1], t)
            below = torch.special.ndtr((truth[t] - mean[:, 0, 0]) / cov[:, 0, 0, 0].sqrt()).mean()
            ranks[name].append(below.item())
        ranks["threshold"].append((posterior.theta["rating.gap"][:, 0] < theta["rating.gap"][0]).double().mean().item())
    for name, found in ranks.items():
        found = np.array(found)
        assert scipy.stats.kstest(found, "uniform").statistic < 0.28, name  # one in a hundred
        assert np.mean((found > 0.05) & (found < 0.95)) > 0.75, name


@pytest.mark.slow
def test_calibration_notices_a_posterior_that_is_too_narrow():
    """The same trials with the mode in place of the posterior: the intervals must be seen to be too narrow."""
    covered = []
    for trial in range(60):
        data, scaling, _, at, truth = simulated(btl.MultiTask(), trial)
        theta, record, *_ = infer(Problem.of(btl.MultiTask(), data, scaling), method="map", seed=trial)
        mean, variance = target_of(btl.Posterior(btl.MultiTask(), data, scaling, theta, record), at)
        below = torch.special.ndtr((torch.from_numpy(truth) - mean) / variance.sqrt()).mean(0)
        covered.append(0.05 < below[0].item() < 0.95)
    assert np.mean(covered) < 0.82


@pytest.mark.slow
def test_rho_and_noise_are_recovered():
    """Two hundred rows of a difference model: the true rho and noise lie in the 95 % intervals, which are narrow."""
    rng = np.random.default_rng(4)
    x = rng.random(200)
    low = np.sin(9 * x) + np.cos(4 * x)
    frame = pd.DataFrame({"x": x, "low": low + 0.1 * rng.normal(size=200)})
    high = -0.7 * low + 0.3 * x + 0.05 * rng.normal(size=200)
    frame["high"] = np.where(np.arange(200) % 3 == 0, high, np.nan)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["low", "high"], units={"low": "eV", "high": "eV"})
    posterior = btl.fit(btl.Difference.chain("low", "high"), data, seed=0)
    tree = posterior.to_arviz()["posterior"]
    rho = np.quantile(tree["rho"].values, [0.025, 0.975])
    assert rho[0] < -0.7 < rho[1]
    assert rho[1] - rho[0] < 0.4
    for task, true in (("low", 0.1), ("high", 0.05)):
        low_, high_ = np.quantile(tree["noise"].sel(task=task).values, [0.025, 0.975])
        assert low_ < true < high_
        assert high_ - low_ < 0.06
