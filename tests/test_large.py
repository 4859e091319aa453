"""Tables of any size: the inducing engine, the choice of rows and pairs, streams, clusters, checkpoints, memory."""

import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import bayestl as btl
from bayestl import condense as condensing
from bayestl import fitting
from bayestl.cavity import leave_one_out
from bayestl.checkpoint import Checkpoint
from bayestl.condense import add_gram, condense, relearn_noise
from bayestl.gaussian.conditional import Conditioned, Updated
from bayestl.gaussian.greedy import pivoted_cholesky
from bayestl.gaussian.inducing import Sums, Weights, log_evidence
from bayestl.inference import infer as inferring
from bayestl.inference.infer import _best_mode
from bayestl.inference.variational import refine
from bayestl.memory import foresee, free_memory
from bayestl.models.problem import Problem
from bayestl.regression import Regression, low_rank_draws
from bayestl.selection import choose_pairs, learning_rows, marks_at, shares
from bayestl.stream import Want, loaders_of, reservoir

from .conftest import draw_theta, grid, table


def empty_of(problem: Problem) -> Problem:
    data = problem.data
    return Problem.of(problem.model, data.where(np.zeros(len(data), bool), empty=True), problem.scaling)


def condensed(problem: Problem, theta, pairs=None, **kwargs):
    return condense([lambda: problem], problem.model, problem.layout, theta, pairs or problem.points, **kwargs)


def big(n: int = 3000, seed: int = 0, scarce: int = 40) -> btl.TaskData:
    """A rich source, and a scarce target that runs opposite to it."""
    rng = np.random.default_rng(seed)
    x = rng.random((n + scarce, 2))
    f = np.sin(5 * x[:, 0]) + x[:, 1]
    source = np.arange(n + scarce) < n
    frame = pd.DataFrame(x, columns=["x0", "x1"]).assign(
        source=np.where(source, "cheap", "dear"),
        y=np.where(source, f, 2.0 - 0.8 * f) + 0.1 * rng.standard_normal(n + scarce),
    )
    return btl.TaskData.from_long(
        frame, inputs=["x0", "x1"], task="source", value="y", units={"cheap": "eV", "dear": "eV"}
    )


@pytest.fixture(scope="module")
def large():
    return btl.fit(btl.MultiTask(), big(), seed=0, progress=False)


def truth(new: pd.DataFrame) -> np.ndarray:
    return (2.0 - 0.8 * (np.sin(5 * new["x0"]) + new["x1"])).to_numpy()


def new_rows(n: int = 50, seed: int = 7) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).random((n, 2)), columns=["x0", "x1"])


def test_threads_share_the_rows_and_change_nothing():
    problem = Problem.of(btl.MultiTask(kernel=btl.Matern52()), big(9000))
    theta, pairs = draw_theta(problem, 2, seed=1), problem.points.take(torch.arange(0, 9040, 300))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(condensed(problem, theta, pairs))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in ("gram", "moment", "bound"):
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name), rtol=1e-10, atol=1e-10)


# -- noise ------------------------------------------------------------------------------------------------------------


def relearned(problem: Problem, theta, learned) -> torch.Tensor:
    """The noise learned again with all points as pairs."""
    held = problem.points.take(problem.points.output.argsort(stable=True))
    learned = np.asarray(learned)
    return relearn_noise(problem.model, problem.data, problem.scaling, theta, held, learned, seed=0)["noise"]


def test_noise_learned_again_is_at_the_peak_of_the_evidence():
    data = big(150, scarce=30)
    problem = Problem.of(btl.MultiTask(kernel=btl.Matern52()), data)
    theta = draw_theta(problem, 1, seed=1)
    theta["private"] = torch.full((1, 2), 0.1).double()
    found = relearned(problem, theta, [10, 10])
    assert ((found / theta["noise"]) != 1).all()

    def evidence(noise):
        return problem.marginal(theta | {"noise": noise}).log_prob(problem.values)

    peak = found.clone().requires_grad_()
    (slope,) = torch.autograd.grad(evidence(peak.log().exp()).sum(), peak)
    torch.testing.assert_close(
        slope * found, torch.zeros(1, 2).double(), atol=0.3, rtol=0
    )  # of some 75 that each row could push
    assert evidence(found) > evidence(theta["noise"])


def test_noise_learned_again_is_the_truth():
    posterior = btl.fit(btl.SingleTask(), big(6000).select(["cheap"]), seed=0, progress=False)
    noise = posterior.theta["noise"][:, 0] * float(posterior.scaling.scale[0])
    assert float(noise.median()) == pytest.approx(
        0.1, abs=0.003
    )  # three standard errors of 6,000 rows; of 600 it would be one
    assert float(noise.log().std()) < 2 / np.sqrt(2 * 6000)


def test_noise_that_few_more_rows_tell_of_stays_as_it_is():
    problem = Problem.of(btl.MultiTask(kernel=btl.Matern52()), big(150, scarce=30))
    theta = draw_theta(problem, 3, seed=1)
    found = relearned(problem, theta, [10, 20])
    assert (found[:, 1] == theta["noise"][:, 1]).all()
    assert (found[:, 0].argsort() == theta["noise"][:, 0].argsort()).all()
    assert found[:, 0].log().std() < theta["noise"][:, 0].log().std()


def test_noise_of_known_errors_is_not_learned_again():
    data = big(150, scarce=30)
    errors = np.where(data.task_index == 0, 0.1, np.nan)
    errors[0] = np.nan
    problem = Problem.of(btl.MultiTask(kernel=btl.Matern52()), dataclasses.replace(data, errors=errors))
    theta = draw_theta(problem, 2, seed=1)
    found = relearned(problem, theta, [10, 10])
    assert (found[:, 0] == theta["noise"][:, 0]).all()
    assert (found[:, 1] != theta["noise"][:, 1]).all()


# -- the engine -------------------------------------------------------------------------------------------------------


def test_all_pairs_are_the_exact_engine(problem):
    theta = draw_theta(problem, 3)
    inducing = condensed(problem, theta)
    x = problem.scaling.inputs(problem.data.encode(grid()))
    groups = [[0], [1], [2]]
    exact = Regression(problem, theta)
    through = Regression(empty_of(problem), theta, None, inducing)
    for ours, theirs in zip(through.marginals(x, groups), exact.marginals(x, groups), strict=True):
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-8, atol=1e-8)
    evidence = problem.marginal(theta).log_prob(problem.values) + problem.values_at(theta)[1]
    torch.testing.assert_close(inducing.bound, evidence, rtol=1e-8, atol=1e-7)
    torch.testing.assert_close(
        leave_one_out(through, problem, in_sums=np.ones(len(problem.data), bool)),
        leave_one_out(exact, problem),
        rtol=1e-6,
        atol=1e-6,
    )


def test_the_bound_rises_with_the_pairs_to_the_evidence(problem):
    theta = draw_theta(problem, 2, seed=4)
    order = pivoted_cholesky(
        *_matrix(problem.model.covariance(theta, problem.points, problem.points, problem.layout)[0]), 24, never
    ).pivots
    evidence = problem.marginal(theta).log_prob(problem.values) + problem.values_at(theta)[1]
    last = torch.full((2,), -torch.inf).double()
    for count in range(2, len(order) + 1, 4):
        bound = condensed(problem, theta, problem.points.take(order[:count].sort().values)).bound
        assert (bound >= last - 1e-7).all()
        assert (bound <= evidence + 1e-7).all()
        last = bound


def test_the_bound_is_the_density_of_the_low_rank_normal():
    """Against torch's own low-rank normal, trace term and all, and its gradient in the noise."""
    g = torch.Generator().manual_seed(0)
    phi, r = torch.randn(6, 30, generator=g).double(), torch.randn(30, generator=g).double()
    w, left = torch.rand(30, generator=g).double() + 0.5, torch.rand(30, generator=g).double()
    sums = Sums(
        ((phi * w) @ phi.mT)[None], (phi @ (w * r))[None], (w * r * r).sum()[None],
        (2 * torch.pi / w).log().sum()[None], (w * left).sum()[None],
    )  # fmt: skip
    theirs = torch.distributions.LowRankMultivariateNormal(torch.zeros(30).double(), phi.mT, 1 / w).log_prob(r)
    torch.testing.assert_close(log_evidence(sums)[0], theirs - 0.5 * (w * left).sum())
    q = Weights.given(sums.gram, sums.moment)  # at the optimum the bound of the weights is the collapsed one
    torch.testing.assert_close(q.expected(sums) - q.divergence(), log_evidence(sums))


def test_order_chunks_and_parts_do_not_matter(problem, monkeypatch):
    theta = draw_theta(problem, 2)
    pairs = problem.points.take(torch.arange(0, 24, 3))
    whole = condensed(problem, theta, pairs)
    monkeypatch.setattr(condensing, "CHUNK", 5)
    data = problem.data
    third = np.arange(len(data)) % 3
    parts = [
        (lambda k=k: Problem.of(problem.model, data.where(third == k, empty=True), problem.scaling)) for k in (2, 0, 1)
    ]
    apart = condense(parts, problem.model, problem.layout, theta, pairs)
    for name in ("gram", "moment", "bound"):
        torch.testing.assert_close(getattr(apart, name), getattr(whole, name), rtol=1e-8, atol=1e-8)
    assert apart.rows == whole.rows == len(data)


def test_new_rows_on_top_are_the_rows_from_the_start(problem):
    """Exact updates of a condensed table, one after the other, equal conditioning on everything at once."""
    theta, data = draw_theta(problem, 2), problem.data
    late = np.arange(len(data)) >= 15
    early = Problem.of(problem.model, data.where(~late, empty=True), problem.scaling)
    fresh = Problem.of(problem.model, data.where(late, empty=True), problem.scaling)
    x = problem.scaling.inputs(data.encode(grid()))
    ours = Regression(fresh, theta, None, condensed(early, theta)).marginals(x, [[0], [1], [2]])
    theirs = Regression(problem, theta).marginals(x, [[0], [1], [2]])
    for (mean, cov), (expected, expected_cov) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mean, expected, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(cov, expected_cov, rtol=1e-7, atol=1e-7)


def test_updates_stack():
    g = torch.Generator().manual_seed(1)
    a = torch.randn(9, 9, generator=g).double()
    k = a @ a.mT + torch.eye(9).double()
    y = torch.randn(6, generator=g).double()
    noisy = k[:6, :6] + 0.1 * torch.eye(6).double()
    whole = Conditioned(noisy, y)
    first = Conditioned(noisy[:2, :2], y[:2])
    for start, stop in ((2, 4), (4, 6)):
        reach = first.whiten(k[start:stop, :start])
        law = noisy[start:stop, start:stop] - reach.mT @ reach
        first = Updated(first, reach, Conditioned(law, y[start:stop] - first.mean(k[start:stop, :start])))
    cross = k[6:, :6]
    torch.testing.assert_close(first.mean(cross), whole.mean(cross))
    torch.testing.assert_close(first.covariance(k[6:, 6:], cross), whole.covariance(k[6:, 6:], cross))
    white = torch.randn(6, generator=g).double()
    torch.testing.assert_close(cross @ first.lift(white), first.whiten(cross).mT @ white)


LIKELIHOODS = ["classes", "counts", "outliers", "limits", "zeros", "stable"]


def mixed(likelihood: str) -> Problem:
    """A numeric task beside one of another kind."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(40))
    f = np.sin(6 * x)
    made = {
        "classes": (np.array(["a", "b", "c"])[np.digitize(f + 0.2 * rng.standard_normal(40), [-0.4, 0.4])], btl.Categorical()),
        "counts": (rng.poisson(np.exp(1 + f)), btl.Poisson()),
        "outliers": (f + 0.1 * rng.standard_t(2, 40), btl.StudentT()),
        "limits": (np.maximum(f + 0.1 * rng.standard_normal(40), -0.3), btl.Censored(lower=-0.3)),
        "zeros": (np.maximum(f + 0.1 * rng.standard_normal(40), 0.0), btl.Hurdle()),
        "stable": (np.where(f + 0.3 * rng.standard_normal(40) > 0, "yes", "no"), btl.Bernoulli()),
    }  # fmt: skip
    values, law = made[likelihood]
    frame = pd.DataFrame({"x": x, "g": f + 0.1 * rng.standard_normal(40), "t": values})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["g", "t"], likelihoods={"t": law})
    return Problem.of(btl.MultiTask(), data)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_sites_settle_where_the_exact_engine_does(likelihood, monkeypatch):
    monkeypatch.setattr(condensing, "SETTLED", 1e-8)
    problem = mixed(likelihood)
    theta = draw_theta(problem, 2, seed=1)
    pairs = problem.points
    exact = Regression(problem, theta, tolerance=1e-8)
    bound = problem.settle(theta, None, tolerance=1e-9)[0]
    inducing = condensed(problem, theta, pairs)
    torch.testing.assert_close(inducing.bound, bound, rtol=0, atol=1e-4)
    at = torch.linspace(-0.5, 0.5, 9).double()[:, None]
    groups = [problem.layout.contrasts(0), problem.layout.contrasts(1)]
    through = Regression(empty_of(problem), theta, None, inducing)
    for (mean, cov), (expected, expected_cov) in zip(
        through.marginals(at, groups), exact.marginals(at, groups), strict=True
    ):
        torch.testing.assert_close(mean, expected, rtol=0, atol=2e-3)
        torch.testing.assert_close(cov, expected_cov, rtol=0, atol=2e-3)
    torch.testing.assert_close(
        leave_one_out(through, problem, in_sums=np.ones(len(problem.data), bool)),
        leave_one_out(exact, problem),
        rtol=0,
        atol=5e-3,
    )


def test_how_much_of_normal_rows_is_untold_does_not_hang_on_the_others():
    """Condensed at once or in two steps; labels, counts and the like have no noise to compare it with."""
    problem = mixed("counts")
    theta, pairs = draw_theta(problem, 2, seed=1), problem.points.take(torch.arange(0, 80, 8))
    data = problem.data
    late = (np.arange(len(data)) % 4 == 0) | (data.task_index == 1)
    early, fresh = (Problem.of(problem.model, data.where(mask, empty=True), problem.scaling) for mask in (~late, late))
    whole, base = condensed(problem, theta, pairs), condensed(early, theta, pairs)
    both = condensed(fresh, theta, pairs, base=base)
    assert (both.rows, both.exact) == (whole.rows, whole.exact) == (80, 40)
    assert both.blur == pytest.approx(whole.blur, rel=1e-10)


# -- the choice -------------------------------------------------------------------------------------------------------


def never(left, picked):
    return False


def _matrix(k):
    return k.diagonal().clone(), lambda i: k[i]


def test_pivoted_cholesky_is_the_factor_and_its_remainder():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(12, 5, generator=g).double()
    k = a @ a.mT
    found = pivoted_cholesky(*_matrix(k), 12, never)
    assert len(found.pivots) == 5  # the rank, up to rounding
    torch.testing.assert_close(found.rows.mT @ found.rows, k)
    half = pivoted_cholesky(*_matrix(k), 3, never)
    torch.testing.assert_close((half.rows.mT @ half.rows).diagonal() + half.remaining, k.diagonal())
    inverse = torch.linalg.inv(k[half.pivots][:, half.pivots])
    explained = k[:, half.pivots] @ inverse @ k[half.pivots]
    torch.testing.assert_close(half.rows.mT @ half.rows, explained)
    assert half.pivots[0] == k.diagonal().argmax()


def test_greedy_pairs_tell_more_than_random_ones(large):
    problem = Problem.of(large.model, large.data, large.scaling)
    theta = {name: value[0] for name, value in large.theta.items()}
    chosen, untold = choose_pairs(problem, theta, 60, seed=0)
    at = problem.points.take(torch.arange(0, 3040, 7))
    total = problem.model.variance(theta, at, problem.layout).expand(len(at.output)).sum()

    def left(pairs):
        k = problem.model.covariance(theta, pairs, pairs, problem.layout)
        cross = problem.model.covariance(theta, at, pairs, problem.layout)
        explained = (cross @ torch.linalg.inv(k + 1e-9 * torch.eye(len(k)).double()) * cross).sum()
        return float((total - explained) / total)

    random = problem.points.take(torch.randperm(3040, generator=torch.Generator().manual_seed(0))[:60])
    assert left(chosen) < 0.2 * left(random)
    assert untold == pytest.approx(left(chosen), abs=0.02)
    assert (chosen.output.diff() >= 0).all()


def test_rows_near_the_scarce_target_weigh_more():
    rng = np.random.default_rng(0)
    n = 3000
    x = np.concatenate([rng.random(n), 0.9 + 0.1 * rng.random(20)])
    frame = pd.DataFrame({"x": x, "s": ["cheap"] * n + ["dear"] * 20, "y": np.sin(40 * x)})
    data = btl.TaskData.from_long(frame, inputs=["x"], task="s", value="y")
    problem = Problem.of(btl.MultiTask(), data)
    theta = draw_theta(problem, 1, seed=2)
    theta = {name: value[0] for name, value in theta.items()}
    theta["shared.length_scale"] = torch.tensor([0.03]).double()
    theta["loading"] = torch.tensor([[1.0, 0.0], [0.95, 0.2]]).double()
    pairs, _ = choose_pairs(problem, theta, 30, seed=0)
    near = float((pairs.x[:, 0] > 0.38).double().mean())  # scaled: the last tenth and a margin
    whole = data.where(np.concatenate([np.ones(n, bool), np.arange(20) < 0]), empty=True)
    alone, _ = choose_pairs(Problem.of(btl.MultiTask(), whole, problem.scaling), theta, 30, seed=0)
    assert near >= 0.05 + float((alone.x[:, 0] > 0.38).double().mean())


def test_scarce_tasks_keep_their_rows():
    assert shares(np.array([1000, 10, 500]), 300).tolist() == [145, 10, 145]
    assert shares(np.array([5, 5]), 300).tolist() == [5, 5]
    data = big()
    x = torch.tensor(data.x)
    chosen = learning_rows(data, x, np.array([1, 1]), 200, seed=0)
    assert chosen.sum() == 200
    assert chosen[data.task_index == 1].all()
    near = torch.cdist(x[chosen & (data.task_index == 0)], x[data.task_index == 1]).amin(-1)
    everyone = torch.cdist(x[data.task_index == 0], x[data.task_index == 1]).amin(-1)
    assert near.mean() < 0.8 * everyone.mean()


def test_rich_tasks_teach_theta_at_the_same_inputs():
    rng = np.random.default_rng(0)
    n = 400
    frame = pd.DataFrame(
        {"x": rng.random(n), "z": rng.random(n), "a": rng.random(n), "b": rng.random(n), "lab": np.nan}
    )
    frame.loc[rng.permutation(n)[:80], "lab"] = 1.0
    frame.loc[:39, "b"] = np.nan  # b was not computed everywhere
    data = btl.TaskData.from_wide(frame, inputs=["x", "z"], tasks=["a", "b", "lab"])
    for seed in range(3):
        chosen = learning_rows(data, torch.tensor(data.x), np.array([1, 1, 1]), 280, seed)
        assert chosen.sum() == 280
        asked = [set(np.array(data.rows)[chosen & (data.task_index == t)].tolist()) for t in range(3)]
        assert len(asked[0]) == len(asked[1]) == 100
        assert len(asked[0] & asked[1]) >= 80  # apart from rows that b does not have; drawn apart, about 30
        assert len(asked[0] & asked[1] & asked[2]) >= 40
        shuffled = rng.permutation(n)
        again = btl.TaskData.from_wide(frame.iloc[shuffled], inputs=["x", "z"], tasks=["a", "b", "lab"])
        same = learning_rows(again, torch.tensor(again.x), np.array([1, 1, 1]), 280, seed)
        assert set(np.array(again.rows)[same].tolist()) == set(np.array(data.rows)[chosen].tolist())


def test_draws_whose_sites_would_take_long_do_not_predict(monkeypatch):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(60), "y": rng.random(60) < 0.5})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
    monkeypatch.setattr(fitting, "LEARN", 40)
    many = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    monkeypatch.setattr(fitting, "SITE_WORK", 7 * 60.0**3)
    few = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    assert many.components > few.components == 7
    asked = btl.fit(btl.SingleTask(), data, seed=0, draws=9, progress=False)
    assert asked.components == 9


def test_gram_in_blocks():
    a = torch.randn(50, 70, generator=torch.Generator().manual_seed(0)).double()
    gram = torch.zeros(70, 70).double()
    add_gram(gram, a, block=16)
    torch.testing.assert_close(gram.tril(), (a.mT @ a).tril())


# -- the posterior ----------------------------------------------------------------------------------------------------


def test_a_large_table_is_condensed_and_predicts(large, capsys):
    assert large.inducing is not None
    assert large.record.learned_from <= fitting.LEARN
    assert large.inducing.rows == 3040
    new = new_rows(200)
    out = large.predict(new, task="dear", noise=False)
    assert float(np.abs(out["mean"] - truth(new)).mean()) < 0.06
    inside = (out["quantile"][0] < truth(new)) & (truth(new) < out["quantile"][-1])
    assert 0.6 < float(inside.mean()) <= 1.0
    assert float(large.task_correlation()["mean"][0, 1]) < -0.8
    btl.fit(btl.MultiTask(), big(), seed=0, method="map")
    assert "inducing pairs" in capsys.readouterr().out


def test_few_pairs_are_warned_about():
    with pytest.warns(UserWarning, match="untold.*pairs=8"):
        btl.fit(btl.MultiTask(), big(), seed=0, method="map", pairs=4, progress=False)


def test_pairs_may_be_asked_for_on_a_small_table(data):
    with pytest.raises(ValueError, match="pairs"):
        btl.fit(btl.MultiTask(), data, pairs=-1)
    exact = btl.fit(btl.MultiTask(), data, seed=0)
    through = btl.fit(btl.MultiTask(), data, seed=0, pairs=24, progress=False)
    np.testing.assert_allclose(through.predict(grid())["mean"], exact.predict(grid())["mean"], atol=1e-5)


def test_everything_a_posterior_does_works_on_a_condensed_table(large, tmp_path):
    new = new_rows(5)
    drawn = large.sample(new, draws=4000, seed=1)
    out = large.predict(new, noise=False)
    np.testing.assert_allclose(drawn.mean("draw"), out["mean"], atol=0.01)
    np.testing.assert_allclose(drawn.std("draw"), out["std"], rtol=0.1)
    derived = large.derive(lambda y: y["dear"] + 0.8 * y["cheap"], new, draws=4000)
    assert (derived["std"] < derived["std_independent"]).all()
    score = large.score(large.data.where(np.arange(3040) % 50 == 0))
    assert float(score["log_density"].mean()) > 0.5
    leave_one_out = large.log_likelihood()
    assert leave_one_out.shape == (large.components, 3040)
    assert float(leave_one_out.mean()) < float(large.score(large.data)["log_density"].mean()) + 1e-6
    loaded = btl.load(large.save(tmp_path / "large.nc"))
    assert loaded.predict(new).equals(large.predict(new))


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_condition_is_an_update(large):
    frame = new_rows(60, seed=11).assign(source="dear")
    frame["y"] = truth(frame) + 0.5  # an experiment that says something else
    more = btl.TaskData.from_long(frame, inputs=["x0", "x1"], task="source", value="y")
    new = new_rows(30)
    before, after = (p.predict(new, task="dear")["mean"].mean() for p in (large, large.condition(more)))
    assert float(after - before) > 0.1
    in_one = large.condition(more)
    halves = large.condition(more.where(np.arange(60) < 20)).condition(more.where(np.arange(60) >= 20))
    np.testing.assert_allclose(halves.predict(new)["mean"], in_one.predict(new)["mean"], atol=1e-8)


def test_many_new_rows_are_condensed_too(large, monkeypatch):
    import bayestl.posterior

    frame = new_rows(60, seed=11).assign(source="dear")
    frame["y"] = truth(frame) + 0.3
    more = btl.TaskData.from_long(frame, inputs=["x0", "x1"], task="source", value="y")
    one_by_one = large.condition(more).predict(new_rows())["mean"]
    monkeypatch.setattr(bayestl.posterior, "FRESH", 10)
    condensed_too = large.condition(more)
    assert condensed_too.inducing.rows == 3100
    np.testing.assert_allclose(condensed_too.predict(new_rows())["mean"], one_by_one, atol=0.05)


# What is common to multiples of one function, and what is not, is a ridge.
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_new_task_on_a_condensed_table():
    rng = np.random.default_rng(0)
    rows = []
    for t in range(6):
        x = rng.random(700)
        rows.append(
            pd.DataFrame({"x": x, "t": f"t{t}", "y": (1 + 0.3 * t) * np.sin(5 * x) + 0.05 * rng.standard_normal(700)})
        )
    data = btl.TaskData.from_long(
        pd.concat(rows, ignore_index=True), inputs=["x"], task="t", value="y", units={f"t{t}": "eV" for t in range(6)}
    )
    posterior = btl.fit(btl.LatentTask(), data, seed=0, progress=False)
    assert posterior.inducing is not None
    new = {"x": np.linspace(0, 1, 9)}
    nothing = posterior.new_task("new", draws=64).predict(new, task="new", noise=False)
    few = pd.DataFrame({"x": [0.2, 0.5, 0.9], "new": 1.45 * np.sin(5 * np.array([0.2, 0.5, 0.9]))})
    shots = btl.TaskData.from_wide(few, inputs=["x"], tasks=["new"], units={"new": "eV"})
    some = posterior.new_task("new", shots, draws=64).predict(new, task="new", noise=False)
    assert (some["std"] < nothing["std"]).all()
    np.testing.assert_allclose(some["mean"], 1.45 * np.sin(5 * new["x"]), atol=0.25)


def test_arviz_takes_a_condensed_table(large):
    groups = large.to_arviz()
    posterior = groups["posterior"]
    assert posterior.sizes["draw"] == large.components
    assert groups["log_likelihood"].sizes["obs"] == 3040


def test_low_rank_draws_have_the_law():
    g = torch.Generator().manual_seed(0)
    x = torch.linspace(0, 1, 40).double()
    k = torch.exp(-0.5 * ((x[:, None] - x) / 0.2) ** 2)
    diagonal, column = _matrix(k)
    drawn = low_rank_draws(diagonal[:, None, None], column, 40_000, 8, g)
    torch.testing.assert_close(torch.cov(drawn.mT), k, rtol=0, atol=0.04)


def test_joint_draws_of_many_values_agree_with_those_of_few(large, monkeypatch):
    import bayestl.posterior

    new = new_rows(30)
    exact = large.sample(new, "dear", draws=6000, seed=0)
    monkeypatch.setattr(bayestl.posterior, "DENSE", 10)
    low_rank = large.sample(new, "dear", draws=6000, seed=0)
    np.testing.assert_allclose(low_rank.mean("draw"), exact.mean("draw"), atol=0.01)
    np.testing.assert_allclose(np.cov(low_rank.T), np.cov(exact.T), atol=3e-4)
    with pytest.raises(ValueError, match="do not fit"):
        large.sample(new_rows(100_000), draws=10_000)


def sine(n, noise, seed=0, **columns):
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    return pd.DataFrame({"x": x, "y": np.sin(20 * x) + noise * rng.standard_normal(n)}).assign(**columns)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1])
def test_pairs_tell_as_much_as_the_noise_lets_rows_know(noise, monkeypatch):
    data = btl.TaskData.from_wide(sine(3000, noise), inputs=["x"], tasks=["y"])
    through = btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)
    exact = dataclasses.replace(through, inducing=None, condensed=0)
    new = {"x": np.linspace(0.01, 0.99, 101)}
    ours, theirs = through.predict(new, noise=False), exact.predict(new, noise=False)
    far = np.abs(ours["mean"] - theirs["mean"]) / theirs["std"].clip(1e-4)
    assert float(far.max()) < 0.5
    np.testing.assert_allclose(ours["std"], theirs["std"], rtol=0.2, atol=2e-4)


def test_large_counts_have_their_pairs():
    rng = np.random.default_rng(0)
    x = rng.random(3000)
    frame = pd.DataFrame({"x": x, "y": rng.poisson(1e5 * np.exp(np.sin(6 * x)))})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Poisson()})
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)
    assert posterior.inducing.rows == 3000
    out = posterior.predict({"x": [0.3, 0.7]}, task="y", noise=False)
    np.testing.assert_allclose(out["mean"], 1e5 * np.exp(np.sin([1.8, 4.2])), rtol=2e-3)


def test_many_new_rows_far_away_are_not_lost(monkeypatch):
    import bayestl.posterior

    monkeypatch.setattr(bayestl.posterior, "FRESH", 50)
    old = btl.TaskData.from_wide(sine(3000, 0.01), inputs=["x"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), old, seed=0, method="map", progress=False)
    far = sine(200, 0.01, seed=1).assign(x=lambda f: f["x"] + 2, y=lambda f: np.sin(20 * (f["x"])))
    later = posterior.condition(btl.TaskData.from_wide(far, inputs=["x"], tasks=["y"]))
    assert len(later.inducing.pairs.output) > len(posterior.inducing.pairs.output)
    new = {"x": [2.25, 2.5, 2.75]}
    out = later.predict(new, task="y", noise=False)
    np.testing.assert_allclose(out["mean"], np.sin(20 * np.array(new["x"])), atol=0.05)
    near = {"x": [0.25, 0.5]}
    np.testing.assert_allclose(later.predict(near)["mean"], posterior.predict(near)["mean"], atol=2e-3)


# -- tables larger than memory ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same observations as `big(9000)`, in parquet files."""
    where = tmp_path_factory.mktemp("table")
    frame = big(9000).to_frame().reset_index(drop=True)
    for i, part in enumerate(np.array_split(np.random.default_rng(0).permutation(len(frame)), 4)):
        frame.iloc[part].drop(columns="error").to_parquet(where / f"{i}.parquet")
    return where


def test_a_parquet_folder_is_a_table(folder):
    stream = btl.TaskData.from_long(folder, inputs=["x0", "x1"], task="task", value="value", tasks=["cheap", "dear"])
    assert stream.parts is not None
    assert stream.counts.tolist() == [9000, 40]
    assert len(stream) == 5040  # all of the scarce task, a sample of the rich one
    assert stream.summary()["rows"].tolist() == [9000, 40]
    frames = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    memory = btl.TaskData.from_long(
        pd.concat(frames), inputs=["x0", "x1"], task="task", value="value", tasks=["cheap", "dear"]
    )
    ours = btl.fit(btl.MultiTask(), stream, seed=0, method="map", progress=False)
    assert ours.inducing.rows == 9040
    problem = Problem.of(ours.model, memory, ours.scaling)
    theirs = condense([lambda: problem], ours.model, problem.layout, ours.theta, ours.inducing.pairs)
    torch.testing.assert_close(ours.inducing.gram, theirs.gram, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours.inducing.moment, theirs.moment, rtol=1e-8, atol=1e-8)
    assert ours.data.parts is None
    with pytest.raises(btl.DataError, match="larger than memory"):
        stream.append(memory)


@pytest.mark.parametrize("shape", ["long", "wide"])
def test_one_error_for_a_task_holds_in_every_part(tmp_path, shape):
    n = 6000
    frame = pd.DataFrame({"x": np.linspace(0, 1, n), "task": np.where(np.arange(n) < n - 9, "a", "b")}).assign(y=1.0)
    frame["y"] += frame["x"]
    read = {"inputs": ["x"], "task": "task", "value": "y", "error": {"a": 0.1, "b": 0.3}}
    make = btl.TaskData.from_long
    if shape == "wide":
        frame = frame.pivot_table(index="x", columns="task", values="y").reset_index()
        read, make = {"inputs": ["x"], "tasks": ["a", "b"], "errors": {"a": 0.1, "b": 0.3}}, btl.TaskData.from_wide
    frame.iloc[: n // 2].to_parquet(tmp_path / "0.parquet")
    frame.iloc[n // 2 :].to_parquet(tmp_path / "1.parquet")
    stream = make(tmp_path, **read)
    parts = [source() for source in stream.parts.sources()]
    assert sum(map(len, parts)) == n
    for part in parts:
        np.testing.assert_array_equal(part.errors, np.array([0.1, 0.3])[part.task_index])


def test_some_tasks_of_a_table_larger_than_memory(folder):
    """The rest of the rows used to be lost."""
    stream = btl.TaskData.from_long(folder, inputs=["x0", "x1"], task="task", value="value", tasks=["cheap", "dear"])
    turned = stream.select(["dear", "cheap"])
    assert turned.counts.tolist() == [40, 9000]
    assert stream.select(["dear"]).parts is None  # all of them are in the sample
    alone, both = (
        btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False).inducing
        for data in (stream.select(["cheap"]), stream)
    )
    assert (alone.rows, both.rows) == (9000, 9040)


def test_streams_of_mixed_tables(tmp_path):
    rng = np.random.default_rng(0)
    n = 12_000
    x = rng.random(n)
    frame = pd.DataFrame({"x": x, "phase": np.where(rng.random(n) < 0.5, "cubic", "hexagonal"), "gap": np.sin(5 * x)})
    frame.loc[7, "phase"] = "rare"
    frame["stable"] = np.where(x + 0.1 * rng.standard_normal(n) > 0.5, "yes", "no")
    frame.loc[x > 0.1, "stable"] = frame.loc[x > 0.1, "stable"].where(rng.random((x > 0.1).sum()) < 0.02)
    frame.iloc[:6000].to_parquet(tmp_path / "a.parquet")
    frame.iloc[6000:].to_parquet(tmp_path / "b.parquet")
    stream = btl.TaskData.from_wide(
        tmp_path, inputs=["x", "phase"], tasks=["gap", "stable"], likelihoods={"stable": btl.Bernoulli()}
    )
    assert stream.inputs[1].levels == ("cubic", "hexagonal", "rare")
    assert stream.counts.tolist() == [n, int(frame["stable"].notna().sum())]
    posterior = btl.fit(btl.MultiTask(), stream, seed=0, method="map", progress=False)
    chance = posterior.predict({"x": [0.1, 0.9], "phase": ["cubic", "rare"]}, task="stable")["probability"]
    assert float(chance[0, 0]) > 0.8
    assert float(chance[1, 1]) > 0.8


def test_a_part_of_zeros_is_no_table_of_zeros(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):
        x = rng.random(4000)
        y = np.zeros(4000) if k == 1 else np.where(x > 0.3, x + 0.1 * rng.random(4000), 0.0)
        pd.DataFrame({"x": x, "source": "a", "y": y}).to_parquet(tmp_path / f"{k}.parquet")
    data = btl.TaskData.from_long(tmp_path, inputs=["x"], task="source", value="y", likelihoods={"a": btl.Hurdle()})
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map", pairs=32, progress=False)
    low, high = posterior.predict({"x": [0.1, 0.9]}, task="a")["probability_lower"].values
    assert low > 0.9
    assert 0.2 < high < 0.5  # a third of the rows are in the part of zeros


def test_units_of_a_chunked_dataset_are_kept(large):
    frame = sine(30, 0.1)
    dataset = xr.Dataset.from_dataframe(frame)
    dataset["y"].attrs["units"] = "eV"
    whole = btl.TaskData.from_wide(dataset, inputs=["x"], tasks=["y"])
    chunked = btl.TaskData.from_wide(dataset.chunk({"index": 10}), inputs=["x"], tasks=["y"])
    assert whole.tasks == chunked.tasks
    assert chunked.tasks[0].unit == "eV"
    import dask.dataframe

    with pytest.raises(btl.DataError, match="compute"):
        large.sample(dask.dataframe.from_pandas(new_rows(), npartitions=2))


def test_what_is_wrong_in_a_part_is_told_at_once(tmp_path):
    frame = sine(20, 0.1, task="a")
    frame.to_parquet(tmp_path / "0.parquet")
    frame.assign(task=[None] + ["a"] * 19).to_parquet(tmp_path / "1.parquet")
    with pytest.raises(btl.DataError, match="names no task in rows 0"):
        btl.TaskData.from_long(tmp_path, inputs=["x"], task="task", value="y")
    with pytest.raises(btl.DataError, match="lacks columns 'err'"):
        btl.TaskData.from_wide(tmp_path, inputs=["x"], tasks=["y"], errors={"y": "err"})


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(btl.DataError, match="not a parquet file"):
        btl.TaskData.from_long(tmp_path, inputs=["x"], task="t", value="y")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(btl.DataError, match="cannot be read as parquet"):
        btl.TaskData.from_long(tmp_path, inputs=["x"], task="t", value="y")
    two = xr.Dataset({"x": (("a", "b"), np.zeros((4, 4)))}).chunk({"a": 2, "b": 2})
    with pytest.raises(btl.DataError, match="one dimension"):
        loaders_of(two)


def test_the_reservoir_is_uniform():
    frames = [pd.DataFrame({"k": np.arange(start, start + 100)}) for start in range(0, 1000, 100)]
    counts = np.zeros(1000)
    for seed in range(200):
        sample, found = reservoir(
            [lambda f=f: f for f in frames], lambda f: [Want("all", np.ones(len(f), bool), 50)], seed
        )
        assert len(sample) == 50
        assert found == {"all": 1000}
        assert sample["k"].is_monotonic_increasing
        counts[sample["k"]] += 1
    assert counts.mean() == 10
    by_part = counts.reshape(10, 100).sum(1)
    assert np.abs(by_part - 1000).max() < 5 * np.sqrt(1000)


def test_predictions_of_chunked_tables_are_lazy(large, tmp_path):
    import dask.array
    import dask.dataframe

    new = new_rows(101)
    expected = large.predict(new)
    new.to_parquet(tmp_path / "new.parquet")
    chunked = {
        "dask": dask.dataframe.from_pandas(new, npartitions=3),
        "xarray": xr.Dataset.from_dataframe(new).chunk({"index": 40}),
        "parquet": tmp_path / "new.parquet",
    }
    for name, source in chunked.items():
        out = large.predict(source)
        assert isinstance(out["mean"].data, dask.array.Array), name
        if name != "parquet":
            assert len(out["mean"].chunks[0]) == 3
        assert out["quantile"].dims == expected["quantile"].dims
        np.testing.assert_allclose(out["mean"].compute(), expected["mean"], rtol=1e-10)
        np.testing.assert_allclose(out["quantile"].compute(), expected["quantile"], rtol=1e-8)
        assert out["mean"].attrs == expected["mean"].attrs


CLUSTER = """
import os, signal, sys, threading
import numpy as np
import bayestl as btl
from dask.distributed import Client, LocalCluster

COLUMNS = {"inputs": ["x0", "x1"], "task": "task", "value": "value", "tasks": ["cheap", "dear"]}


def gram(data, client=None):
    return btl.fit(btl.MultiTask(), data, seed=0, method="map", progress=False, client=client).inducing.gram


if __name__ == "__main__":
    folder, out = sys.argv[1:]
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            data = btl.TaskData.from_long(folder, **COLUMNS)
            here = gram(data)
            # A worker is killed while it works: its parts are made again.
            victim = list(client.run(os.getpid).values())[0]
            threading.Timer(0.3, lambda: os.kill(victim, signal.SIGKILL)).start()
            there = gram(data, client)
            memory = btl.TaskData.from_long(data.to_frame(), **COLUMNS)
            np.savez(out, here=here, there=there, apart=gram(memory, client), alone=gram(memory))
"""


@pytest.mark.slow
def test_a_cluster_gives_the_same_answer_though_a_worker_dies(folder, tmp_path):
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(tmp_path / "out.npz")],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(out["there"], out["here"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(out["apart"], out["alone"], rtol=1e-8, atol=1e-8)


# -- checkpoints and memory -------------------------------------------------------------------------------------------


def test_a_fit_resumes_to_the_same_answer(tmp_path, monkeypatch):
    data, notes = big(), tmp_path / "notes.nc"
    whole = btl.fit(btl.MultiTask(), data, seed=0, method="map", progress=False, checkpoint=tmp_path / "other")
    calls = []
    original = Checkpoint.write_sums
    monkeypatch.setattr(
        Checkpoint, "write_sums",
        lambda self, total, parts: (original(self, total, parts), calls.append(parts), _stop() if parts == 3 else None),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        btl.fit(btl.MultiTask(), data, seed=0, method="map", progress=False, checkpoint=notes)
    assert notes.is_file()
    monkeypatch.setattr(
        Checkpoint, "write_sums", lambda self, total, parts: (original(self, total, parts), calls.append(parts))
    )
    monkeypatch.setattr(fitting, "infer", None)  # theta is not learned again
    with pytest.raises(btl.DataError, match="another fit"):
        btl.fit(btl.MultiTask(), data, seed=1, method="map", progress=False, checkpoint=notes)
    resumed = btl.fit(btl.MultiTask(), data, seed=0, method="map", progress=False, checkpoint=notes)
    assert calls == [1, 2, 3, 4, *calls[4:]]
    torch.testing.assert_close(resumed.inducing.gram, whole.inducing.gram, rtol=0, atol=0)
    assert resumed.predict(new_rows()).equals(whole.predict(new_rows()))
    assert list(tmp_path.iterdir()) == []


def test_sums_of_a_fit_that_was_interrupted_are_not_taken_for_those_of_its_end(tmp_path, monkeypatch):
    """Its draws of theta are not noted, for the same call learns them to the end; then the sums are of others."""
    data, told = big(400), {"seed": 0, "pairs": 30, "progress": False}
    whole = btl.fit(btl.MultiTask(), data, checkpoint=tmp_path / "other", **told)
    told["checkpoint"] = tmp_path / "notes"

    def stopping(coordinates, *rest):
        calls, original = itertools.count(), coordinates.gradient
        coordinates.gradient = lambda v: original(v) if next(calls) < 2 else _stop()
        return refine(coordinates, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(inferring, "refine", stopping)
        with pytest.warns(UserWarning, match="interrupted"):
            short = btl.fit(btl.MultiTask(), data, **told)
    assert short.record.interrupted
    resumed = btl.fit(btl.MultiTask(), data, **told)
    torch.testing.assert_close(resumed.inducing.gram, whole.inducing.gram, rtol=0, atol=0)
    assert resumed.predict(new_rows()).equals(whole.predict(new_rows()))
    assert list(tmp_path.iterdir()) == []


def test_a_chain_of_nuts_resumes_to_the_same_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("bayestl.inference.nuts.BLOCK", 5)
    data, notes = big(24, scarce=6), tmp_path / "notes.nc"
    options = {"method": "nuts", "seed": 0, "draws": 12, "warmup": 20, "progress": False}
    whole = btl.fit(btl.SingleTask(), data, **options)
    original, counts = Checkpoint.write_chain, []

    def interrupted(self, chain):
        original(self, chain)
        counts.append(len(chain["u"]))
        if counts[-1] == 10:
            raise RuntimeError("killed")

    monkeypatch.setattr(Checkpoint, "write_chain", interrupted)
    with pytest.raises(RuntimeError, match="killed"):
        btl.fit(btl.SingleTask(), data, checkpoint=notes, **options)
    monkeypatch.setattr(
        Checkpoint, "write_chain", lambda self, chain: (original(self, chain), counts.append(len(chain["u"])))
    )
    resumed = btl.fit(btl.SingleTask(), data, checkpoint=notes, **options)
    assert counts == [0, 5, 10, 12]
    for name, value in whole.theta.items():
        torch.testing.assert_close(resumed.theta[name], value, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []

    def stop(self, chain):
        original(self, chain)
        if len(chain["u"]) == 5:
            raise KeyboardInterrupt

    def wrong_mode(*args, **options):
        mode = _best_mode(*args, **options)
        return mode._replace(v=mode.v + 1)

    monkeypatch.setattr(Checkpoint, "write_chain", stop)
    with pytest.warns(UserWarning, match="5 draws of the 12, and the same call goes on"):
        short = btl.fit(btl.SingleTask(), data, checkpoint=notes, **options)
    assert short.record.interrupted
    torch.testing.assert_close(short.theta["noise"], whole.theta["noise"][:5], rtol=0, atol=0)
    monkeypatch.setattr(Checkpoint, "write_chain", original)
    monkeypatch.setattr("bayestl.inference.infer._best_mode", wrong_mode)  # that of the notes counts
    again = btl.fit(btl.SingleTask(), data, checkpoint=notes, **options)
    torch.testing.assert_close(again.theta["noise"], whole.theta["noise"], rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []


def test_notes_of_another_fit_or_damaged_ones_are_refused(tmp_path):
    data, frame = big(), None
    notes = tmp_path / "notes"
    model = btl.MultiTask()
    first = Checkpoint(notes, model, data, ("map",))
    first.write_sums((Sums.zero(1, 2), 5, 0), 1)
    assert first.read_sums()[1] == 1
    frame = data.to_frame()
    excess = btl.TaskData.from_long(
        frame, inputs=["x0", "x1"], task="task", value="value", units={"cheap": "eV", "dear": "eV"},
        likelihoods={"cheap": btl.Gaussian(excess=True)},
    )  # fmt: skip
    for other in (Checkpoint(notes, model, excess, ("map",)), Checkpoint(notes, btl.SingleTask(), data, ("map",))):
        with pytest.raises(btl.DataError, match="another fit"):
            other.read_sums()
    notes.write_bytes(first.sums.read_bytes())
    with pytest.raises(btl.DataError, match="another fit"):
        first.read_theta()
    notes.write_bytes(b"cut short")
    with pytest.raises(btl.DataError, match="Delete the file"):
        first.read_theta()
    for path in (tmp_path, tmp_path / "nowhere" / "notes"):
        with pytest.raises(btl.DataError, match="folder that exists"):
            btl.fit(model, data, checkpoint=path)


def _stop():
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_fit_that_is_killed_resumes(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time
        import bayestl as btl
        from bayestl.checkpoint import Checkpoint
        from tests.test_large import big, new_rows
        if sys.argv[2] == "slow":
            original = Checkpoint.write_sums
            Checkpoint.write_sums = lambda self, *a: (original(self, *a), print("noted", flush=True), time.sleep(0.5))
        posterior = btl.fit(btl.MultiTask(), big(), seed=0, method="map", progress=False, checkpoint=sys.argv[1])
        print(float(posterior.predict(new_rows())["mean"].sum()).hex())
        """)
    )

    def run(notes, speed):
        return subprocess.Popen(
            [sys.executable, str(script), str(notes), speed], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )  # fmt: skip

    expected = run(tmp_path / "other", "fast").communicate(timeout=120)[0]
    victim = run(tmp_path / "notes", "slow")
    for _ in range(3):
        assert victim.stdout.readline() == "noted\n"
    time.sleep(0.2)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert (tmp_path / "notes.sums").is_file()
    assert run(tmp_path / "notes", "fast").communicate(timeout=120)[0] == expected


def test_a_fit_that_would_not_fit_is_refused(monkeypatch):
    with pytest.raises(btl.FitError, match=r"needs about .* GB .* are available.*pairs=\d+\) would do"):
        btl.fit(btl.MultiTask(), big(), memory=2e7)
    monkeypatch.setattr("bayestl.memory.free_memory", lambda: 1e3)
    with pytest.raises(btl.FitError, match="fewer rows"):
        btl.fit(btl.MultiTask(), table())


def test_what_is_advised_where_memory_is_short_would_fit():
    """Condensing a few hundred rows takes more than conditioning on them."""
    with pytest.raises(btl.FitError) as refusal:
        foresee(2400, 0, 256, 16, True, 8e8)
    assert "draws=4" in str(refusal.value)
    foresee(2400, 0, 4, 16, True, 8e8)
    with pytest.raises(btl.FitError, match="fewer rows"):
        foresee(540, 0, None, 16, True, 1e7)
    with pytest.raises(btl.FitError) as refusal:
        foresee(100_000, 512, None, 16, False, 1e8)
    foresee(100_000, int(re.search(r"pairs=(\d+)", str(refusal.value))[1]), None, 16, False, 1e8)


def test_a_row_more_of_a_middle_fidelity_is_no_lone_row():
    rng = np.random.default_rng(0)
    x = rng.random(300)
    frame = pd.DataFrame({"x": x, "task": np.arange(300) % 3, "y": np.sin(5 * x) + 0.1 * rng.normal(size=300)})
    frame["task"] = frame["task"].map({0: "a", 1: "b", 2: "c"})
    columns = {"inputs": ["x"], "task": "task", "value": "y"}
    data = btl.TaskData.from_long(frame, **columns)
    posterior = btl.fit(btl.Difference.chain("a", "b", "c"), data, method="map", pairs=40, progress=False)
    more = btl.TaskData.from_long(pd.DataFrame({"x": [0.5], "task": ["b"], "y": [0.6]}), **columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior.condition(more).predict({"x": [0.5]})


def test_memory_limits_of_control_groups_are_seen(tmp_path):
    """What the group may use, less what it uses, but for pages of files that it would give back; the tightest group counts."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("1:cpu:/\n0::/job/step\n")
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  64000000 kB\n")

    def limited(group, limit, used, cached=None):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "memory.max").write_text(f"{limit}\n")
        (tmp_path / group / "memory.current").write_text(f"{used}\n")
        if cached is not None:
            (tmp_path / group / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")

    assert free_memory(tmp_path, tmp_path) == 64e6 * 1024
    limited("job/step", "max", 10**9)
    limited("job", 16 * 10**9, 15 * 10**9, 14 * 10**9)
    assert free_memory(tmp_path, tmp_path) == 15e9
    limited(".", 8 * 10**9, 5 * 10**9)
    assert free_memory(tmp_path, tmp_path) == 3e9


@pytest.mark.slow
def test_memory_limit_of_the_process_is_seen():
    script = (
        "import resource, sys, numpy as np, bayestl as btl\n"
        "from bayestl.memory import free_memory\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))\n"
        "from tests.test_large import big\n"
        "assert free_memory() <= 200_000_000\n"
        "try:\n    btl.fit(btl.MultiTask(), big(), seed=0, pairs=2500)\n"
        "except btl.FitError as error:\n    print('refused', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.stdout.startswith("refused"), done.stderr[-2000:]


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@on_a_gpu
def test_a_gpu_gives_the_same_sums(problem):
    theta = draw_theta(problem, 2)
    here, there = condensed(problem, theta), condensed(problem, theta, device="cuda")
    torch.testing.assert_close(there.gram, here.gram, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(there.bound, here.bound, rtol=1e-8, atol=1e-8)


@on_a_gpu
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_sites_settle_on_a_gpu_where_they_do_here(likelihood, monkeypatch):
    monkeypatch.setattr(condensing, "SETTLED", 1e-8)  # both at the peak, not each on its way there
    problem = mixed(likelihood)
    theta = draw_theta(problem, 2, seed=1)
    here, there = condensed(problem, theta), condensed(problem, theta, device="cuda")
    for name in ("gram", "moment", "bound"):
        a, b = getattr(there, name), getattr(here, name)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8 * float(b.abs().max()))


@on_a_gpu
def test_a_fit_on_a_gpu_predicts_the_same(large):
    there = btl.fit(btl.MultiTask(), big(), seed=0, device="cuda", progress=False)
    a, b = there.predict(new_rows()), large.predict(new_rows())
    np.testing.assert_allclose(a["mean"], b["mean"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(a["std"], b["std"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("device", ["gpu", *([] if torch.cuda.is_available() else ["cuda", "cuda:1"])])
def test_a_device_that_is_not_there_is_refused_at_once(data, device):
    with pytest.raises(ValueError, match="`device` must be"):
        btl.fit(btl.SingleTask(), data, device=device)


def test_the_pass_keeps_to_its_device(problem):
    """No GPU here: on torch's meta device, tensors of two devices cannot be mixed either."""
    theta = draw_theta(problem, 1)
    pairs = problem.points
    away = {name: value[0].to("meta") for name, value in theta.items()}
    x, held = problem.points.x.to("meta"), pairs._replace(x=pairs.x.to("meta"))
    weights = [term.weights for term in problem.model.seen(away, problem.layout)]
    assert all(weight.device.type == "meta" for weight in weights)
    assert problem.model.variance(away, problem.points._replace(x=x), problem.layout).device.type == "meta"
    for term in problem.model.terms(away, problem.layout):
        if term.kernel is not None:
            assert term.kernel(away, term.name, x, held.x, problem.layout).device.type == "meta"


@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
@pytest.mark.parametrize("draws", [4, 16])
def test_new_rows_after_a_new_task_are_condensed_for_every_draw(draws, monkeypatch):
    """Draws that share their sums of old rows have sums of their own after new ones."""
    import bayestl.posterior

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(240), "t": np.tile(["a", "b", "c"], 80)})
    frame["y"] = np.sin(5 * frame["x"]) + 0.3 * (frame["t"] == "b") + 0.05 * rng.standard_normal(240)
    told = {"inputs": ["x"], "task": "t", "value": "y"}
    data = btl.TaskData.from_long(frame, units=dict.fromkeys("abc", "eV"), **told)
    posterior = btl.fit(btl.LatentTask(), data, seed=0, pairs=30, draws=4, progress=False)
    grown = posterior.new_task("new", draws=draws)
    more = pd.DataFrame(
        {"x": [0.1, 0.3, 0.5, 0.7, 0.9], "t": "new", "y": np.sin(5 * np.array([0.1, 0.3, 0.5, 0.7, 0.9]))}
    )
    rows = btl.TaskData.from_long(more, units={"new": "eV"}, **told)
    new = {"x": np.linspace(0, 1, 7)}
    exactly = grown.condition(rows).predict(new, "new")
    monkeypatch.setattr(bayestl.posterior, "FRESH", 3)
    condensed_too = grown.condition(rows).predict(new, "new")
    np.testing.assert_allclose(condensed_too["mean"], exactly["mean"], atol=0.02)
    np.testing.assert_allclose(condensed_too["std"], exactly["std"], rtol=0.1)


def test_a_fit_of_classes_resumes_to_the_same_sites(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(80)}).assign(
        y=lambda t: np.sin(6 * t["x"]) + 0.3 * rng.standard_normal(80) > 0
    )
    data, notes = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"]), tmp_path / "notes.nc"
    whole = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "Posterior", lambda *_: _stop())
        with pytest.raises(KeyboardInterrupt):
            btl.fit(btl.SingleTask(), data, seed=0, progress=False, checkpoint=notes)
    assert notes.is_file()
    resumed = btl.fit(btl.SingleTask(), data, seed=0, progress=False, checkpoint=notes)
    assert resumed.predict(frame[["x"]]).equals(whole.predict(frame[["x"]]))


def test_described_columns_of_a_table_in_parts(tmp_path):
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"formula": rng.choice(["GaAs", "AlAs", "InP"], 60), "phase": rng.choice(["cubic", "wurtzite"], 60)}
    )
    frame["gap"] = rng.random(60)
    frame.to_parquet(tmp_path / "a.parquet")
    told = {"inputs": ["formula", "phase"], "tasks": ["gap"], "features": {"formula": btl.ElementFractions()}}
    assert len(btl.TaskData.from_wide(str(tmp_path / "a.parquet"), **told)) == 60
    frame.drop(columns="formula").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(btl.DataError, match="lacks columns 'formula'"):
        btl.TaskData.from_wide(str(tmp_path / "a.parquet"), **told)


# -- materials of which something was observed ------------------------------------------------------------------------


def rough(rows=1000, known=150, noise=0.02):
    """A rough function of five inputs, by a source everywhere and by a target for some; and what is true."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((rows, 5)), columns=list("abcde"))
    y = np.sin(9 * frame["a"]) + np.cos(8 * frame["b"]) * frame["c"] + np.sin(6 * frame["d"] + 5 * frame["e"])
    frame["dft"] = y + noise * rng.standard_normal(rows)
    frame["exp"] = (1.1 * y - 0.2 + 0.03 * rng.standard_normal(rows)).where(np.arange(rows) < known)
    return frame, 1.1 * y - 0.2


def of_rough(frame, likelihoods=None):
    return btl.TaskData.from_wide(frame, inputs=list("abcde"), tasks=["dft", "exp"], likelihoods=likelihoods)


@pytest.mark.filterwarnings("ignore:The .* inducing pairs leave")
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_what_is_known_of_a_material_is_not_condensed_away(tmp_path):
    """Its own value of the source predicts the target as on the exact engine; predictions, draws and scores agree."""
    frame, truth = rough()
    model, new = btl.Difference.chain("dft", "exp"), frame.iloc[150:350]
    fits = {pairs: btl.fit(model, of_rough(frame), seed=0, pairs=pairs, progress=False) for pairs in (200, 0)}
    off = {pairs: fit.predict(new, "exp", noise=False)["mean"].values - truth[150:350] for pairs, fit in fits.items()}
    rmse = {pairs: float(np.sqrt(np.mean(own**2))) for pairs, own in off.items()}
    assert rmse[200] < 1.4 * rmse[0] < 0.06
    plain = fits[200]._regression.marginals(fits[200]._inputs(new)[1], [[1]])[0][0].mean(0)[:, 0]
    blurred = fits[200].scaling.location[1] + fits[200].scaling.scale[1] * plain.numpy()
    assert np.sqrt(np.mean((blurred - truth[150:350]) ** 2)) > 2 * rmse[200]  # by the inducing pairs alone
    drawn = fits[200].sample(new.iloc[:20], "exp", draws=4000)
    np.testing.assert_allclose(
        drawn.mean("draw"), fits[200].predict(new.iloc[:20], "exp", noise=False)["mean"], atol=0.01
    )
    again = btl.load(fits[200].save(tmp_path / "rough.nc"))
    xr.testing.assert_identical(again.predict(new), fits[200].predict(new))
    # new ones are predicted as before, beside known ones or not
    unknown = pd.DataFrame(np.random.default_rng(1).random((5, 5)), columns=list("abcde"))
    both = fits[200].predict(pd.concat([new.iloc[:3], unknown], ignore_index=True), "exp")["mean"].values
    np.testing.assert_allclose(both[3:], fits[200].predict(unknown, "exp")["mean"], rtol=1e-9)


@pytest.mark.filterwarnings("ignore:The .* inducing pairs leave")
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_where_pairs_tell_all_exact_rows_change_nothing(monkeypatch):
    frame, _ = rough(rows=120, known=60, noise=0.1)
    posterior = btl.fit(btl.Difference.chain("dft", "exp"), of_rough(frame), seed=0, pairs=180, progress=False)
    before = posterior.predict(frame, noise=False)
    scored = btl.leave_out(posterior)
    monkeypatch.setattr("bayestl.posterior.BLUR", -1.0)
    beside = dataclasses.replace(posterior)
    after = beside.predict(frame, noise=False)
    np.testing.assert_allclose(after["mean"], before["mean"], atol=1e-5)
    np.testing.assert_allclose(after["std"], before["std"], rtol=1e-3)
    np.testing.assert_allclose(btl.leave_out(beside)["log_density"], scored["log_density"], atol=1e-3)


@pytest.mark.filterwarnings("ignore:The .* inducing pairs leave")
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
@pytest.mark.filterwarnings("ignore:The inducing pairs leave")
@pytest.mark.parametrize(
    "law", [{}, {"dft": btl.Censored(lower=-1.5)}, {"exp": btl.StudentT()}, {"exp": btl.Hurdle()}],
    ids=["normal", "censored source", "tails", "zeros"],
)  # fmt: skip
def test_rows_are_left_out_as_if_they_had_never_been_there(law):
    """As the same theta and pairs predict a row of the target that was not condensed, beside all known of its material."""
    frame, _ = rough()
    if "Hurdle" in repr(law):
        frame["exp"] = frame["exp"].clip(lower=0.0)
    data = of_rough(frame, law)
    posterior = btl.fit(btl.Difference.chain("dft", "exp"), data, seed=0, pairs=200, draws=2, progress=False)
    scored = btl.leave_out(posterior, task="exp")["log_density"].values
    target, held = data.where(data.task_index == 1, empty=True), posterior.inducing
    theirs, by_pairs = [], []
    for i in range(0, len(target), 10):
        kept = data.where(np.arange(len(data)) != 1000 + i)
        rest = dataclasses.replace(posterior, data=kept, condensed=len(kept))
        again = condense(
            [lambda p=rest._problem: p],
            posterior.model,
            rest._problem.layout,
            posterior._mixed,
            held.pairs,
            held.untold,
        )
        for found, blur in (
            (theirs, again.blur),
            (by_pairs, 0.0),
        ):  # in the same company: all of the target's materials
            anew = dataclasses.replace(rest, inducing=dataclasses.replace(again, blur=blur))
            found.append(float(anew.score(target)["log_density"][i]))
    off, otherwise = (np.abs(scored[::10] - np.array(other)) for other in (theirs, by_pairs))
    assert np.median(off) < 0.03
    assert off.mean() < 0.1 * otherwise.mean()


@pytest.mark.filterwarnings("ignore:The .* inducing pairs leave")
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
@pytest.mark.filterwarnings("ignore:The inducing pairs leave")
def test_later_rows_are_left_out_beside_the_condensed_ones_of_their_material():
    frame, _ = rough()
    posterior = btl.fit(btl.MultiTask(), of_rough(frame), seed=0, pairs=200, draws=2, progress=False)
    more = of_rough(frame.assign(exp=rough(known=1000)[0]["exp"]).iloc[400:420]).select(["exp"])
    longer = posterior.condition(more)
    ours = btl.leave_out(longer, task="exp")["log_density"].values[-20:]
    theirs = [
        float(
            posterior.condition(more.where(np.arange(20) != i)).score(more.where(np.arange(20) == i))["log_density"][0]
        )
        for i in range(20)
    ]
    np.testing.assert_allclose(ours, theirs, atol=0.2)
    np.testing.assert_allclose(longer.log_likelihood().values[:, -20:].mean(0), ours, atol=0.1)


@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_where_pairs_tell_too_little_nothing_is_judged():
    frame, _ = rough()
    with pytest.warns(UserWarning, match="inducing pairs leave"):
        posterior = btl.fit(btl.Difference.chain("dft", "exp"), of_rough(frame), seed=0, pairs=100, progress=False)
    with pytest.warns(UserWarning, match="Hold rows out"):
        btl.leave_out(posterior, by="inputs", task="exp")
    text = str(btl.diagnose(posterior))
    assert "not judged" in text
    assert "coverage of" not in text


@pytest.fixture(scope="module")
def blurred():
    """A posterior whose pairs leave much untold: few pairs of a rough table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return btl.fit(btl.MultiTask(), of_rough(rough()[0]), seed=0, pairs=100, draws=2, progress=False)


def more_of_rough(rows):
    """Other rows of the source, as a table and as a frame, and what is true of the target there."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.random((rows, 5)), columns=list("abcde"))
    y = np.sin(9 * frame["a"]) + np.cos(8 * frame["b"]) * frame["c"] + np.sin(6 * frame["d"] + 5 * frame["e"])
    frame["dft"] = y + 0.02 * rng.standard_normal(rows)
    return btl.TaskData.from_wide(frame, inputs=list("abcde"), tasks=["dft"]), frame, 1.1 * y - 0.2


@pytest.mark.parametrize("fresh", [100, 1000])
def test_new_rows_on_a_blurred_table_help(blurred, fresh, monkeypatch):
    """Conditioned on exactly, or condensed onto more pairs: of the other task, at those rows and elsewhere."""
    monkeypatch.setattr("bayestl.posterior.FRESH", fresh)
    more, later, target = more_of_rough(400)
    old, of_old = rough()
    grown = blurred.condition(more)
    assert grown.inducing.grown == (fresh == 100)
    some = marks_at(grown._inputs(old.iloc[200:240])[1])
    assert torch.linalg.eigvalsh(grown._materials.others(some).gram).min() > -1e-6
    exact = dataclasses.replace(grown, inducing=None, condensed=0, sites=None)
    unknown = pd.DataFrame(np.random.default_rng(1).random((100, 5)), columns=list("abcde"))
    for new, truth in ((later, target), (old.iloc[200:300], of_old[200:300]), (unknown, None)):
        before, after, best = (p.predict(new, "exp", noise=False) for p in (blurred, grown, exact))
        if truth is None:
            truth = best["mean"].values
        off = [float(((p["mean"] - truth) ** 2).mean() ** 0.5) for p in (before, after)]
        assert off[1] < 1.02 * off[0]
        z = (after["mean"] - truth) / after["std"]
        assert float((z**2).mean() ** 0.5) < 1.7


def test_what_is_drawn_and_decided_by_is_what_is_predicted(blurred):
    unknown = pd.DataFrame(np.random.default_rng(1).random((20, 5)), columns=list("abcde"))
    for new in (unknown, rough()[0].iloc[200:220, :5]):
        told, drawn = blurred.predict(new, "exp", noise=False), blurred.sample(new, "exp", draws=6000)
        assert float((abs(drawn.mean("draw") - told["mean"]) / told["std"]).max()) < 0.06
        np.testing.assert_allclose(drawn.std("draw"), told["std"], rtol=0.05)
    model = pytest.importorskip("bayestl.botorch").as_botorch_model(blurred, "exp")
    mean = model.posterior(torch.tensor(unknown.to_numpy())).mixture_mean.squeeze(-1)
    np.testing.assert_allclose(mean.detach(), blurred.predict(unknown, "exp", noise=False)["mean"], atol=1e-6)


def test_a_material_is_known_again_though_its_inputs_were_rounded(blurred):
    new = rough()[0].iloc[200:230, :5]
    np.testing.assert_allclose(
        blurred.predict(new * (1 + 4e-16), "exp")["std"], blurred.predict(new, "exp")["std"], rtol=1e-6
    )


def test_a_new_task_leaves_the_others_as_they_were():
    frame, _ = rough(300, 60)
    data = btl.TaskData.from_wide(
        frame, inputs=list("abcde"), tasks=["dft", "exp"], units=dict.fromkeys(("dft", "exp"), "eV")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = btl.fit(btl.LatentTask(), data, seed=0, pairs=60, draws=4, progress=False)
        wider = posterior.new_task("new", draws=64)  # a multiple of the four: each as often as before
    assert posterior._materials is not None
    new = frame.iloc[100:120]
    before, after = posterior.predict(new), wider.predict(new, ["dft", "exp"])
    np.testing.assert_allclose(after["mean"], before["mean"], rtol=1e-6)
    np.testing.assert_allclose(after["std"], before["std"], rtol=1e-6)


def test_replicates_of_one_material_do_not_crowd_out_the_others():
    frame, _ = rough(300, 60)
    control = frame.iloc[[0] * 900].assign(exp=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = of_rough(pd.concat([frame, control], ignore_index=True))
        posterior = btl.fit(btl.MultiTask(), data, seed=0, pairs=60, draws=2, progress=False)
    assert posterior._materials is not None
    assert posterior._materials.core[data.task_index == 1].all()
    (own,) = posterior._materials.parts(marks_at(posterior._inputs(frame.iloc[:1])[1]))
    assert len(posterior._materials.rows_beside(own)) < 500


def test_rows_that_were_never_in_memory_are_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.setattr("bayestl.table.SAMPLE", 400)
    frame, _ = rough(3000)
    long = pd.concat(
        [frame[[*"abcde", t]].rename(columns={t: "y"}).dropna().assign(task=t) for t in ("dft", "exp")],
        ignore_index=True,
    ).sample(frac=1.0, random_state=0)
    for i in range(3):
        long.iloc[i::3].to_parquet(tmp_path / f"{i}.parquet")
    data = btl.TaskData.from_long(tmp_path, inputs=list("abcde"), task="task", value="y")
    assert data.parts is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = btl.fit(btl.MultiTask(), data, seed=0, pairs=60, draws=2, progress=False)
    assert posterior.inducing.blur > 1.0
    assert posterior._materials is None
    again = btl.load(posterior.save(tmp_path / "posterior.nc"))
    assert again._materials is None


def test_noise_is_not_learned_again_through_a_blur():
    """The difference of two large numbers: half the noise was learned, at any noise."""
    frame, _ = rough(3000, noise=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = btl.fit(btl.SingleTask(), of_rough(frame).select(["dft"]), seed=0, pairs=100, progress=False)
    assert posterior.inducing.blur > 1.0
    noise = float(posterior.theta["noise"].median() * posterior.scaling.scale[0])
    assert noise == pytest.approx(0.1, rel=0.35)


@pytest.mark.filterwarnings("ignore:The .* inducing pairs leave")
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_order_and_units_of_the_inputs_do_not_matter():
    frame, _ = rough()
    new = frame.iloc[300:320, :5]
    model = btl.MultiTask()
    wanted = btl.fit(model, of_rough(frame), seed=0, pairs=100, draws=2, progress=False).predict(new, noise=False)
    mixed_up = frame.sample(frac=1.0, random_state=1)
    for changed, asked in ((mixed_up, new), (frame.assign(a=1000 * frame["a"] + 3), new.assign(a=1000 * new["a"] + 3))):
        found = btl.fit(model, of_rough(changed), seed=0, pairs=100, draws=2, progress=False).predict(
            asked, noise=False
        )
        assert float((abs(found["mean"] - wanted["mean"]) / wanted["std"]).max()) < 0.02
        np.testing.assert_allclose(found["std"], wanted["std"], rtol=0.02)


@pytest.mark.filterwarnings("ignore:The .* inducing pairs leave")
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_without_scarce_tasks_the_pairs_alone_predict_what_nothing_is_known_of():
    frame, _ = rough(1200)
    posterior = btl.fit(btl.SingleTask(), of_rough(frame).select(["dft"]), seed=0, pairs=100, draws=2, progress=False)
    assert posterior._materials is not None
    assert not posterior._materials.core.any()
    alone = dataclasses.replace(posterior)
    alone.__dict__["_materials"] = None
    unknown = pd.DataFrame(np.random.default_rng(1).random((20, 5)), columns=list("abcde"))
    xr.testing.assert_allclose(posterior.predict(unknown), alone.predict(unknown), rtol=1e-9)
    known = [own.predict(frame.iloc[:20], noise=False)["std"].mean() for own in (posterior, alone)]
    assert known[0] < 0.7 * known[1]


def test_what_came_later_does_not_sum_the_condensed_rows_again(blurred, monkeypatch):
    blurred.predict(rough()[0].iloc[:3])
    grown = blurred.condition(more_of_rough(5)[0])
    monkeypatch.setattr(condensing.Inducing, "softened", None)  # it would fail
    assert np.isfinite(grown.predict(rough()[0].iloc[:3], "exp")["mean"]).all()
