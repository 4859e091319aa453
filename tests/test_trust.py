"""Leaving out without refitting, scores, comparison, stacking, transfer, diagnosis, pictures."""

import dataclasses
import itertools
import math
import sys
import warnings

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import sklearn.calibration
import sklearn.metrics
import torch
import xarray as xr

import bayestl as btl
from bayestl import cavity, plots
from bayestl.cavity import densities, leave_one_out, left_out
from bayestl.compare import _rmse_change, default_models
from bayestl.condense import condense
from bayestl.crossvalidation import functions, left_out_scores
from bayestl.gaussian import mixture
from bayestl.gaussian.exact import triangular_inverse
from bayestl.likelihoods.base import Rows
from bayestl.likelihoods.predictive import Classes, CountMixture, NormalMixture, bracketed, mixed
from bayestl.models.problem import Problem
from bayestl.psis import fit_pareto, smoothed
from bayestl.regression import Regression
from bayestl.scoring import standard_error
from bayestl.stacking import stacking_weights

from .conftest import draw_theta


def related(
    kind: str = "positive", seed: int = 0, sources: int = 40, targets: int = 15, extra: int = 1
) -> btl.TaskData:
    """A target, and sources that follow it, oppose it, or have nothing to do with it."""
    rng = np.random.default_rng(seed)
    rows = []
    for s in range(extra):
        x = rng.random(sources)
        f = {"positive": np.sin(12 * x), "flipped": -np.sin(12 * x), "irrelevant": np.cos(19 * x + s)}[kind]
        rows.append(pd.DataFrame({"x": x, "task": f"s{s}", "y": f + 0.05 * rng.standard_normal(sources)}))
    x = rng.random(targets)
    rows.append(
        pd.DataFrame({"x": x, "task": "target", "y": np.sin(12 * x) + 0.2 * x + 0.05 * rng.standard_normal(targets)})
    )
    frame = pd.concat(rows, ignore_index=True)
    units = dict.fromkeys(frame["task"].unique(), "eV")
    return btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y", units=units)


@pytest.fixture(scope="module")
def helped():
    return {
        "single": btl.fit(btl.SingleTask(), related(), seed=0),
        "multitask": btl.fit(btl.MultiTask(), related(), seed=0),
    }


# -- leaving out ------------------------------------------------------------------------------------------------------


def test_leaving_groups_out_is_conditioning_on_the_rest(problem):
    """Against conditioning anew on the other rows, at the same theta."""
    theta, data = draw_theta(problem, 3), problem.data
    groups = np.arange(len(data)) % 5
    for found in left_out(Regression(problem, theta), problem, groups):
        part = {name: value[found.draws] for name, value in theta.items()}
        for g, row in zip(found.groups.tolist(), found.rows.tolist(), strict=True):
            rest = Problem.of(problem.model, data.where(groups != g, empty=True), problem.scaling)
            x = problem.scaling.inputs(data.x[[row]])
            ((mean, cov),) = Regression(rest, part).marginals(x, [[found.task]])
            i = found.rows.tolist().index(row)
            torch.testing.assert_close(found.mean[:, i], mean[:, 0], rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(found.cov[:, i], cov[:, 0], rtol=1e-8, atol=1e-8)


def test_the_joint_density_of_a_group_is_the_ratio_of_evidences(problem):
    theta, data = draw_theta(problem, 2), problem.data
    groups = np.arange(len(data)) % 4

    def evidence(own):
        return own.marginal(theta).log_prob(own.values) + own.values_at(theta)[1]

    joint = {}
    for found in left_out(Regression(problem, theta), problem, groups):
        for i, g in enumerate(found.groups.tolist()):
            joint.setdefault(g, {})[found.draws.start] = found.log_joint[:, i]
    for g, parts in joint.items():
        rest = Problem.of(problem.model, data.where(groups != g, empty=True), problem.scaling)
        ours = torch.cat([parts[start] for start in sorted(parts)])
        torch.testing.assert_close(ours, evidence(problem) - evidence(rest), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("likelihood", ["classes", "counts", "stable", "zeros", "limits", "tails"])
def test_sites_of_left_out_rows_leave_little_behind(likelihood):
    """Against settling all other sites anew: under a theta that was learned they stay as they are, and that is nearly right."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(40))
    f = np.sin(6 * x)
    values, law = {
        "classes": (np.array(["a", "b", "c"])[np.digitize(f + 0.2 * rng.standard_normal(40), [-0.4, 0.4])], btl.Categorical()),
        "counts": (rng.poisson(np.exp(1 + f)), btl.Poisson()),
        "stable": (np.where(f + 0.3 * rng.standard_normal(40) > 0, "yes", "no"), btl.Bernoulli()),
        "zeros": (np.maximum(f + 0.1 * rng.standard_normal(40), 0.0), btl.Hurdle()),
        "limits": (np.maximum(f + 0.1 * rng.standard_normal(40), 0.0), btl.Censored(lower=0.0)),
        "tails": (f + 0.1 * rng.standard_t(3, 40), btl.StudentT()),
    }[likelihood]  # fmt: skip
    frame = pd.DataFrame({"x": x, "g": f + 0.1 * rng.standard_normal(40), "t": values})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["g", "t"], likelihoods={"t": law})
    problem = Problem.of(btl.MultiTask(), data)
    theta = {name: value[:4] for name, value in btl.fit(btl.MultiTask(), data, seed=0, progress=False).theta.items()}
    ours = leave_one_out(Regression(problem, theta), problem)
    gaps = []
    for row in range(42, 80, 5):
        rest = Problem.of(btl.MultiTask(), data.where(np.arange(80) != row, empty=True), problem.scaling)
        one = btl.Posterior(btl.MultiTask(), rest.data, problem.scaling, theta, None)
        test = data.where(np.arange(80) == row, empty=True)
        theirs = float(one.score(test)["log_density"][0])
        gaps.append(float(ours[:, row].logsumexp(0)) - np.log(4) - theirs)
    assert np.abs(gaps).mean() < 0.02


def two_functionals(seed: int) -> btl.TaskData:
    """Thirty-five points of two sources that disagree by a factor, fifteen of the target with known errors."""
    rng = np.random.default_rng(seed)
    x = rng.random((35, 2))
    f = np.sin(3 * x[:, 0]) + x[:, 1] + 0.05 * rng.normal(size=35)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "low": 0.95 * f + 0.03 * rng.normal(size=35)})
    frame["mid"] = 1.1 * f + 0.03 * rng.normal(size=35)
    frame["target"] = np.where(np.arange(35) < 15, f + 0.05 * rng.normal(size=35), np.nan)
    return btl.TaskData.from_wide(
        frame, inputs=["a", "b"], tasks=["low", "mid", "target"], errors={"target": 0.05},
        units=dict.fromkeys(["low", "mid", "target"], "eV"),
    )  # fmt: skip


def test_draws_where_the_posterior_is_not_do_not_decide_what_is_left_out():
    """Under the variational law alone the error was 0.126 eV, from a draw of theta that fits all rows badly."""
    data = two_functionals(14)
    model = btl.Difference({"target": ["low", "mid"], "mid": ["low"]})
    posterior = btl.fit(model, data, seed=0)
    errors = []
    for i in np.flatnonzero(data.task_index == 2):
        refit = btl.fit(model, data.where(np.arange(len(data)) != i), seed=0, method="map")
        errors.append(float(refit.score(data.where(np.arange(len(data)) == i, empty=True))["error"][0]))
    refitted = float(np.sqrt(np.mean(np.square(errors))))
    assert refitted == pytest.approx(0.068, abs=0.01)
    far = pd.DataFrame({"a": [0.5], "b": [3.0], "low": [1.0]})  # what theta was not learned from
    later = posterior.condition(btl.TaskData.from_wide(far, inputs=["a", "b"], tasks=["low"]))
    for own in (posterior, later):
        ours = float(np.sqrt(np.mean(np.square(btl.leave_out(own, task="target")["error"]))))
        assert ours == pytest.approx(refitted, rel=0.15)


def test_draws_are_weighed_by_what_theta_was_learned_from():
    """A row's say in theta is what the other *learned* rows do not tell of it, whatever came later."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(32)}).assign(y=lambda f: np.sin(6 * f["x"]) + 0.1 * rng.standard_normal(32))
    frame.loc[4, "y"] += 1.0
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
    first = np.arange(32) < 12
    posterior = btl.fit(btl.SingleTask(), data.where(first), seed=0)
    later = posterior.condition(data.where(~first))
    regression = functions(later)
    learned = Regression(posterior._problem, regression.theta)
    record = posterior.record
    ratio = learned.log_evidence + torch.from_numpy((record.log_prior - record.log_q)[: regression.draws])
    weight, k = smoothed(ratio[:, None] - leave_one_out(learned, posterior._problem))
    by_draw = leave_one_out(regression, later._problem)
    expected = torch.logsumexp(weight + by_draw[:, :12], 0)
    scored = btl.leave_out(later)
    np.testing.assert_allclose(scored["log_density"][:12], expected, atol=1e-8)
    np.testing.assert_allclose(scored["pareto_k"][:12], k, atol=1e-8)
    untouched = torch.logsumexp(by_draw[:, 12:], 0) - np.log(len(by_draw))
    np.testing.assert_allclose(scored["log_density"][12:], untouched, atol=1e-8)
    grouped = btl.leave_out(later, by=np.arange(32) // 16)  # groups of both, and of later ones alone
    assert np.isfinite(grouped["log_density"]).all()


@pytest.mark.parametrize("count", [False, True])
def test_importance_ratios_of_all_draws_are_told_from_the_functions(count):
    data = two_functionals(15)
    if count:
        frame = data.to_frame().reset_index(drop=True)
        frame["value"] = np.where(frame["task"] == "target", (5 * frame["value"]).round(), frame["value"]) + 0.0
        data = btl.TaskData.from_long(
            frame[["a", "b", "task", "value"]], inputs=["a", "b"], task="task", value="value",
            likelihoods={"target": btl.Poisson(), "low": btl.Gaussian(btl.Log(1.0))},
        )  # fmt: skip
    posterior = btl.fit(btl.MultiTask(), data, seed=0)
    record, regression = posterior.record, posterior._whole()
    ours = regression.log_evidence.numpy() + record.log_prior - record.log_q
    off = ours[-len(record.log_ratios) :] - record.log_ratios
    near = record.log_ratios > record.log_ratios.max() - 20  # far out the fit takes one step where sites settle here
    assert near.mean() > 0.5
    np.testing.assert_allclose(off[near], np.median(off), atol=0.1 if count else 1e-9)


def test_where_no_row_can_be_left_out_the_draws_are_named(helped):
    posterior = helped["multitask"]
    found = btl.diagnose(posterior)["influential rows"]
    assert "draws" not in found.meaning
    heavy = 3 * np.random.default_rng(0).standard_t(1, posterior.draws)
    record = dataclasses.replace(posterior.record, log_q=posterior.record.log_q + heavy)
    found = btl.diagnose(dataclasses.replace(posterior, record=record))["influential rows"]
    assert "they, not the rows, are at fault" in found.meaning
    assert "nuts" in found.advice


def test_leave_out_weighs_theta_as_a_refit_would(helped):
    posterior = helped["multitask"]
    scored = btl.leave_out(posterior, task="target")
    assert scored.sizes["row"] == 15
    assert (scored["pareto_k"] < 1).all()
    refits = []
    for i in np.flatnonzero(posterior.data.task_index == 1)[:4]:
        keep = np.arange(len(posterior.data)) != i
        refit = btl.fit(btl.MultiTask(), posterior.data.where(keep), seed=0)
        refits.append(float(refit.score(posterior.data.where(~keep, empty=True))["log_density"][0]))
    assert np.abs(scored["log_density"].values[:4] - refits).mean() < 0.25


def test_groups_may_be_named(data):
    posterior = btl.fit(btl.MultiTask(), data, seed=0)
    by_phase = btl.leave_out(posterior, by="phase")
    alone = btl.leave_out(posterior)
    assert by_phase.sizes == alone.sizes
    assert float(by_phase["log_density"].mean()) < float(alone["log_density"].mean())
    assert set(by_phase["group"].values) == {"cubic", "hexagonal"}
    labels = btl.leave_out(posterior, by=np.arange(len(data)))
    np.testing.assert_allclose(labels["log_density"], alone["log_density"])
    phases = pd.Series(dict(zip(data.rows, by_phase["group"].values, strict=True)))
    indexed = btl.leave_out(posterior, by=phases.sort_values())
    np.testing.assert_allclose(indexed["log_density"], by_phase["log_density"])
    with pytest.raises(btl.DataError, match="no label for rows"):
        btl.leave_out(posterior, by=phases.iloc[1:])
    with pytest.raises(btl.DataError, match="repeats labels"):
        btl.leave_out(posterior, by=pd.concat([phases, phases]))
    with pytest.raises(btl.DataError, match="'row', 'inputs', 'materials' or an input"):
        btl.leave_out(posterior, by="nothing")
    with pytest.raises(btl.DataError, match="label for each"):
        btl.leave_out(posterior, by=[1, 2])


def test_what_other_tasks_know_of_a_group_may_stay(helped):
    """Paired, only the target's observations are left out: the same as giving every other observation a group of its own."""
    posterior = helped["multitask"]
    data = posterior.data
    target = data.task_index == data.index_of("target")
    half = np.where(data.x[:, 0] < 0.5, "left", "right")
    paired = btl.leave_out(posterior, by=half, task="target", paired=True)
    labels = np.where(target, half, np.arange(len(data)).astype(str))
    xr.testing.assert_identical(
        paired.drop_vars("group"), btl.leave_out(posterior, by=labels, task="target").drop_vars("group")
    )
    assert set(paired["group"].values) == {"left", "right"}
    alone = btl.leave_out(posterior, by=half, task="target")
    assert float(paired["log_density"].mean()) > float(alone["log_density"].mean())
    with pytest.raises(ValueError, match="`paired` needs `task`"):
        btl.leave_out(posterior, by="x", paired=True)


def test_leaving_out_works_on_a_condensed_table():
    rng = np.random.default_rng(0)
    x = rng.random(2800)
    frame = pd.DataFrame({"x": x, "y": np.sin(6 * x) + 0.1 * rng.standard_normal(2800)})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    line = btl.scores(btl.leave_out(posterior)).loc["y"]
    assert line["nlpd"] == pytest.approx(-0.88, abs=0.05)
    assert line["coverage_90"] == pytest.approx(0.9, abs=0.03)


def test_rows_on_top_of_a_condensed_table_are_held_whole():
    """Leaving out a row that was added later equals conditioning on the other later rows only."""
    rng = np.random.default_rng(0)

    def made(x):
        return btl.TaskData.from_wide(
            pd.DataFrame({"x": x, "y": np.sin(6 * x) + 0.1 * rng.standard_normal(len(x))}), inputs=["x"], tasks=["y"]
        )

    old, new = made(np.r_[0.4 * rng.random(200), 1.0, 1.0]), made(0.6 + 0.3 * rng.random(10))
    base = btl.fit(btl.SingleTask(), old, seed=0, method="map", pairs=12, progress=False)
    scored = btl.leave_out(base.condition(new)).isel(row=slice(202, None))
    for i in range(10):
        rest = base.condition(new.where(np.arange(10) != i))
        expected = rest.score(new.where(np.arange(10) == i))
        assert float(scored["log_density"][i]) == pytest.approx(float(expected["log_density"][0]), abs=1e-6)


def test_rows_that_theta_has_not_seen_take_nothing_back():
    table_ = related(targets=24)
    late = (np.arange(len(table_)) >= 52) & (table_.task_index == 1)
    posterior = btl.fit(btl.MultiTask(), table_.where(~late), seed=0).condition(table_.where(late, empty=True))
    labels = np.where(np.arange(len(posterior.data)) >= (~late).sum(), "late", "early").astype(object)
    labels[: (~late).sum()] = [f"row {i}" for i in range((~late).sum())]
    scored = btl.leave_out(posterior, by=labels)
    own = scored.isel(row=scored["group"].values == "late")
    draws = dataclasses.replace(
        btl.fit(btl.MultiTask(), table_.where(~late), seed=0), components=256
    )  # leave_out uses all draws
    expected = draws.score(table_.where(late, empty=True))
    np.testing.assert_allclose(own["log_density"], expected["log_density"], atol=1e-6)
    with pytest.raises(btl.DataError, match="no label"):
        btl.leave_out(posterior, by=np.where(labels == "late", None, labels))


# -- importance weights -----------------------------------------------------------------------------------------------


def test_pareto_fit_finds_the_shape():
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    for shape, scale in ((0.3, 2.0), (0.8, 1.0), (1.2, 0.5)):
        values = scale * torch.expm1(-shape * torch.log1p(-u)) / shape
        found, size = fit_pareto(values.unsqueeze(-1))
        assert float(found) == pytest.approx(shape, abs=0.05)
        assert float(size) == pytest.approx(scale, rel=0.05)


def test_smoothed_weights_agree_with_arviz():
    rng = np.random.default_rng(0)
    ratios = rng.standard_normal((1000, 6)) * np.array([0.1, 0.5, 1.0, 1.5, 2.0, 3.0])
    ours, k = smoothed(torch.from_numpy(ratios))
    if not hasattr(az, "psislw"):
        pytest.skip("this ArviZ has no psislw")
    theirs, their_k = az.psislw(ratios.T.copy())
    np.testing.assert_allclose(k, their_k, atol=1e-6)
    np.testing.assert_allclose(ours.T, theirs, atol=1e-6)


def test_weights_without_spread_are_left_alone():
    log_weight, k = smoothed(torch.zeros(100, 2).double())
    torch.testing.assert_close(log_weight, torch.full((100, 2), -np.log(100)).double())
    assert (k == -torch.inf).all()
    assert smoothed(torch.randn(10, 1).double())[1].isnan().all()


def test_ratios_that_are_infinite_or_outweigh_all_others_are_told():
    rng = np.random.default_rng(0)
    ratios = torch.from_numpy(rng.standard_normal((200, 4)))
    ratios[3, 0], ratios[4, 1] = math.inf, math.nan
    ratios[:, 2] -= 720  # of which rounding leaves next to nothing
    ratios[5, 2] = 0.0
    weight, k = smoothed(ratios)
    assert torch.isinf(k[:3]).all()
    assert (k[:3] > 0).all()
    assert k[3] < 0.7
    assert weight.isfinite().all()
    torch.testing.assert_close(weight.exp().sum(0), torch.ones(4).double())


def test_repeated_draws_are_smoothed_as_well():
    once = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)).double()
    _, k = smoothed(once.repeat(4, 1))
    assert torch.isfinite(k).all()


@pytest.mark.filterwarnings("ignore:All observations of task")
def test_rows_are_left_out_by_fits_where_weights_are_unreliable(monkeypatch):
    """Those rows as fits without them say, the others as before; whole groups too."""
    data = related(sources=12, targets=5)
    posterior = btl.fit(btl.MultiTask(), data, seed=3, progress=False)
    before = btl.leave_out(posterior, task="target")
    middle = float(before["pareto_k"].median())
    monkeypatch.setattr("bayestl.crossvalidation.UNRELIABLE", middle)
    found = btl.leave_out(posterior, task="target", refit=True)
    again = (before["pareto_k"] > middle).values
    assert 0 < again.sum() < len(again)
    own = np.flatnonzero(data.task_index == data.index_of("target"))
    for i, fitted in zip(own, again, strict=True):
        place = list(own).index(i)
        if fitted:
            rest = btl.fit(btl.MultiTask(), data.where(np.arange(len(data)) != i), seed=3, progress=False)
            told = rest.score(data.select(["target"]).where(np.arange(len(own)) == place)).isel(row=0)
            assert float(found["pareto_k"][place]) == 0.0
        else:
            told = before.isel(row=place)
        for name in ("log_density", "mean", "crps", "pit"):
            assert float(found[name][place]) == pytest.approx(float(told[name]), rel=1e-9)
    monkeypatch.setattr("bayestl.crossvalidation.UNRELIABLE", -np.inf)
    with pytest.warns(UserWarning, match="without them a task has no rows"):
        btl.leave_out(posterior, by=data.task_index, task="target", refit=True)
    tables = [btl.compare({"a": posterior}, "target", by=by, refit=True) for by in (None, "row")]
    assert all(table["bad_k"].iloc[0] == 0 for table in tables)


def test_reweighting_corrects(helped):
    """Draws of a normal that is off and too wide, with the log ratios that they then have, are weighed into the right one."""
    posterior, size = helped["multitask"], 256
    z = torch.special.ndtri((torch.arange(size).double() + 0.5) / size)
    wrong = 0.7 + 1.5 * z  # of a standard normal
    ratios = (-0.5 * wrong.square() + 0.5 * z.square()).numpy()
    theta = {name: value[:1].expand(size, *value.shape[1:]).clone() for name, value in posterior.theta.items()}
    theta["noise"][:, 0] *= wrong.exp()
    record = dataclasses.replace(posterior.record, log_ratios=ratios, pareto_k=0.1)
    corrected = dataclasses.replace(posterior, theta=theta, record=record).reweighted()
    found = (corrected.theta["noise"][:, 0] / posterior.theta["noise"][0, 0]).log()
    assert len(found) == corrected.components == size
    assert found.mean().abs() < 0.1
    assert abs(found.std() - 1) < 0.1


def test_reweighting_is_refused_where_weights_are_not_reliable(helped):
    posterior = helped["multitask"]
    bad = dataclasses.replace(posterior, record=dataclasses.replace(posterior.record, pareto_k=1.4))
    with pytest.raises(ValueError, match=r"k-hat 1\.40"):
        bad.reweighted()
    with pytest.raises(ValueError, match="importance weights"):
        btl.fit(btl.SingleTask(), related(), method="map").reweighted()


# -- mixtures and scores ----------------------------------------------------------------------------------------------


def test_mixtures_of_laws_mix_their_probabilities():
    g = torch.Generator().manual_seed(0)

    def normal(location, scale, **kwargs):
        return NormalMixture(
            torch.randn(3, 4, generator=g).double(),
            torch.rand(3, 4, generator=g).double() + 0.1,
            location,
            scale,
            **kwargs,
        )

    w = torch.tensor([[0.3], [0.7]]).double()
    y = torch.linspace(0.1, 3, 4).double()
    a, b = normal(1.0, 2.0), normal(-1.0, 0.5)
    both = mixed([a, b], w)
    torch.testing.assert_close(both.cdf(y), 0.3 * a.cdf(y) + 0.7 * b.cdf(y))
    torch.testing.assert_close(both.log_density(y).exp(), 0.3 * a.log_density(y).exp() + 0.7 * b.log_density(y).exp())
    torch.testing.assert_close(both.moments()[0], 0.3 * a.moments()[0] + 0.7 * b.moments()[0])
    atom = torch.rand(4, generator=g).double()
    a, b = normal(1.0, 2.0, atom=atom, warp=btl.Log()), normal(0.0, 0.5, atom=0.5 * atom, warp=btl.Log())
    both = mixed([a, b], w)
    torch.testing.assert_close(both.cdf(y), 0.3 * a.cdf(y) + 0.7 * b.cdf(y))
    torch.testing.assert_close(both.mass(0 * y), 0.3 * atom + 0.35 * atom)
    torch.testing.assert_close(both.log_density(y).exp(), 0.3 * a.log_density(y).exp() + 0.7 * b.log_density(y).exp())
    c = CountMixture(torch.randn(3, 4, generator=g).double(), torch.rand(3, 4, generator=g).double())
    d = CountMixture(torch.randn(2, 4, generator=g).double(), torch.rand(2, 4, generator=g).double())
    both, n = mixed([c, d], w), torch.tensor([0.0, 1.0, 2.0, 5.0]).double()
    torch.testing.assert_close(both.cdf(n), 0.3 * c.cdf(n) + 0.7 * d.cdf(n))
    torch.testing.assert_close(both.log_density(n).exp(), 0.3 * c.log_density(n).exp() + 0.7 * d.log_density(n).exp())
    each = torch.rand(2, 4, generator=g).double()
    each = each / each.sum(0)
    p, q = (torch.rand(4, 3, generator=g).double().softmax(-1) for _ in range(2))
    torch.testing.assert_close(
        mixed([Classes(p), Classes(q)], each).probability, each[0, :, None] * p + each[1, :, None] * q
    )


def test_a_quantile_is_the_least_value_of_no_smaller_probability():
    """Of a smooth law, at a jump, where a level is met on a whole stretch, and far from zero."""
    normal, level = torch.special.ndtr, torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95]).double()
    low, high = torch.full_like(level, -40.0), torch.full_like(level, 1e6)
    smooth = torch.special.ndtri(level)
    torch.testing.assert_close(bracketed(normal, level, low, high), smooth, rtol=1e-13, atol=1e-14)
    jump = bracketed(lambda y: torch.where(y < 1, 0.25 * normal(y), 0.75 + 0.25 * normal(y - 1)), level, low, high)
    torch.testing.assert_close(jump[1:4], torch.ones(3).double(), rtol=1e-14, atol=0.0)
    flat = bracketed(lambda y: ((y >= 1) / 2 + (y >= 2) / 2).double(), level, low, high)
    torch.testing.assert_close(flat, torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0]).double(), rtol=1e-14, atol=0.0)


def test_laws_of_different_make_mix_their_probabilities_too():
    g = torch.Generator().manual_seed(1)

    def normal(**kwargs):
        return NormalMixture(
            torch.randn(3, 4, generator=g).double(), torch.rand(3, 4, generator=g).double() + 0.2, 1.0, 0.7, **kwargs
        )

    zero = torch.zeros(4).double()
    poisson = CountMixture(torch.randn(3, 4, generator=g).double(), torch.full((3, 4), 0.2).double())
    broad = CountMixture(
        torch.randn(5, 4, generator=g).double(), torch.full((5, 4), 0.3).double(), torch.full((5, 1), 2.0).double()
    )
    pairs = {
        "plain and warped": (normal(), normal(warp=btl.Log())),
        "two warps": (normal(warp=btl.Softplus(2.0)), normal(warp=btl.Log())),
        "hurdle and censored": (normal(warp=btl.Log(), atom=torch.full((4,), 0.3).double()), normal(lower=zero)),
        "counts": (poisson, broad),
    }  # fmt: skip
    w = torch.tensor([[0.3], [0.7]]).double()
    levels = [0.02, 0.2, 0.5, 0.9, 0.99]
    for name, (a, b) in pairs.items():
        both, swapped = mixed([a, b], w), mixed([b, a], w.flip(0))
        y = torch.tensor([0.0, 0.4, 1.0, 3.0]).double()
        for ask in ("cdf", "below", "log_density", "crps"):
            torch.testing.assert_close(getattr(swapped, ask)(y), getattr(both, ask)(y), msg=name)
        torch.testing.assert_close(both.cdf(y), 0.3 * a.cdf(y) + 0.7 * b.cdf(y), msg=name)
        torch.testing.assert_close(both.moments()[0], 0.3 * a.moments()[0] + 0.7 * b.moments()[0], msg=name)
        for level, found in zip(levels, both.quantiles(levels), strict=True):
            assert (both.cdf(found + 1e-9) >= level - 1e-9).all(), name
            assert (both.below(found - 1e-9) <= level + 1e-9).all(), name
        if name == "hurdle and censored":
            assert (both.quantiles([0.02])[0] == 0).all()


def test_a_stack_of_two_observation_models_lies_between_them():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30)}).assign(
        y=lambda f: np.exp(np.sin(5 * f["x"]) + 0.1 * rng.standard_normal(30))
    )

    def fitted(law):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": law})
        return btl.fit(btl.SingleTask(), data, seed=0, method="map")

    both = {"log": fitted(btl.Gaussian(btl.Log())), "plain": fitted(btl.Gaussian())}
    new = frame.head(6)
    each = np.sort(np.stack([p.predict(new, task="y")["quantile"] for p in both.values()]), 0)
    for order in (("log", "plain"), ("plain", "log")):
        found = btl.stack({name: both[name] for name in order}, target="y").predict(new)["quantile"].values
        assert (found > each[0] - 1e-9).all()
        assert (found < each[1] + 1e-9).all()


def test_densities_are_not_compared_with_probabilities():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30)}).assign(y=lambda f: np.maximum(np.sin(5 * f["x"]), 0.0))

    def fitted(law, column="y"):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=[column], likelihoods={column: law})
        return btl.fit(btl.SingleTask(), data, seed=0, method="map")

    zeros = {"hurdle": fitted(btl.Hurdle()), "censored": fitted(btl.Censored(lower=0.0))}
    assert len(btl.compare(zeros, target="y")) == 2
    with pytest.raises(btl.DataError, match=r"have a density under the first.*no score compares"):
        btl.compare({"plain": fitted(btl.Gaussian())} | zeros, target="y")
    with pytest.raises(ValueError, match="by name"):
        btl.compare(list(zeros.values()), target="y")
    both = btl.stack(zeros, target="y")
    with pytest.raises(ValueError, match="'s' is a Stack"):
        btl.compare({"s": both}, target="y")
    for ask in (btl.diagnose, btl.leave_out):
        with pytest.raises(ValueError, match="got a Stack"):
            ask(both)
    with pytest.raises(ValueError, match="scores that leave_out"):
        btl.scores(zeros["hurdle"])
    with pytest.raises(ValueError, match="one task at a time"):
        both.predict(frame, ["y"])
    found, each = both.predict(frame), [both.weights[name] * p.predict(frame, task="y") for name, p in zeros.items()]
    for name in ("mean", "latent_mean", "probability_lower", "probability_upper"):
        np.testing.assert_allclose(found[name], sum(part[name] for part in each), atol=1e-9)


def test_what_is_certain_is_scored():
    """Predictions far beyond a limit have no spread, and a gate of forty leaves no chance of a zero."""
    frame = pd.DataFrame({"x": np.linspace(0, 1, 40)}).assign(y=lambda f: np.maximum(f["x"] - 0.5, 0.0) * 100)
    law = btl.Censored(lower=0.0)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": law})
    scored = btl.fit(btl.SingleTask(), data, seed=0).score(data)
    sure = scored.assign(std=scored["std"].where(scored["row"] > scored["row"][9], 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(btl.scores(sure)["ence"]).all()
    for gate in (-60.0, 60.0):
        unknown = torch.full((2, 2), torch.nan).double()
        rows = Rows(
            torch.tensor([0.0, 2.0]).double(), unknown[0], unknown, torch.zeros(2).double(), torch.ones(2).double()
        )
        law = btl.Hurdle().predictive(
            torch.tensor([[[gate, 0.3], [gate, 0.3]]]).double(),
            0.01 * torch.eye(2).double().expand(1, 2, 2, 2),
            None,
            rows,
            {},
        )
        density = law.log_density(rows.y)
        assert not density.isnan().any()
        assert (law.atom >= 0).all()
        np.testing.assert_allclose(law.atom, scipy.special.expit(-gate), rtol=0.02)
        assert (density.isfinite() | (density < -20)).all()


def test_scores_agree_with_scikit_learn(helped):
    scored = helped["multitask"].score(related(seed=5))
    line = btl.scores(scored).loc["target"]
    own = scored.isel(row=np.flatnonzero(scored["task"].values == "target"))
    measured = own["mean"].values + own["error"].values
    assert line["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(measured, own["mean"].values))
    assert line["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(measured, own["median"].values))
    frame = pd.DataFrame(
        {
            "x": np.linspace(0, 1, 60),
            "colour": np.array(["red", "white", "gray"])[np.digitize(np.linspace(0, 1, 60), [0.3, 0.6])],
        }
    )
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["colour"], likelihoods={"colour": btl.Categorical()})
    scored = btl.fit(btl.SingleTask(), data, seed=0, method="map").score(data)
    line = btl.scores(scored).loc["colour"]
    theirs = sklearn.metrics.f1_score(scored["class_measured"], scored["class_predicted"], average="macro")
    assert line["macro_f1"] == pytest.approx(theirs)


def test_standard_errors_know_of_groups():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(50)
    assert standard_error(values, np.arange(50)) == pytest.approx(scipy.stats.sem(values))
    assert standard_error(np.repeat(values, 4), np.repeat(np.arange(50), 4)) == pytest.approx(scipy.stats.sem(values))


def test_a_calibrated_posterior_is_found_to_be_so():
    rng = np.random.default_rng(1)
    pit = rng.random(2000)
    scored = xr.Dataset({"pit": ("row", pit)}, coords={"task": ("row", np.repeat("t", 2000))})
    curve = btl.calibration(scored)
    assert (np.abs(curve["coverage"] - curve["level"]) < 4 * curve["coverage_se"]).all()


def test_reliability_of_a_perfect_forecaster_and_of_a_boastful_one():
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.ones(4), 5000)
    measured = (chance.cumsum(1) < rng.random((5000, 1))).sum(1).astype(float)
    bold = chance**3 / (chance**3).sum(1, keepdims=True)
    right, wrong = (scored_classes(p, measured) for p in (chance, bold))
    curve = btl.reliability(right)
    assert (np.abs(curve["frequency"] - curve["probability"]) < 4 * curve["frequency_se"]).all()
    assert int(curve["pairs"].sum()) == 20_000
    assert btl.scores(right).loc["t", "ece"] < 0.01 < 0.1 < btl.scores(wrong).loc["t", "ece"]
    # Of two classes: as scikit-learn has it.
    two, hit = chance[:, :2] / chance[:, :2].sum(1, keepdims=True), rng.integers(0, 2, 5000)
    curve = btl.reliability(scored_classes(two, hit.astype(float)), bins=5).sel(task="t")
    share, given = sklearn.calibration.calibration_curve(hit, two[:, 1], n_bins=5, strategy="quantile")
    np.testing.assert_allclose(curve["probability"], given)
    np.testing.assert_allclose(curve["frequency"], share)
    # Of probabilities that repeat the order of the rows says nothing.
    few = np.repeat([[0.2, 0.8], [0.5, 0.5], [0.8, 0.2]], 100, axis=0)
    label = np.concatenate([np.arange(100) < 80, np.arange(100) < 50, np.arange(100) < 20]).astype(float)
    assert btl.scores(scored_classes(few, label)).loc["t", "ece"] < 1e-12
    assert plots.plot_reliability(right).get_xlabel()
    plt.close("all")
    with pytest.raises(btl.DataError, match="See `reliability`"):
        btl.calibration(right)
    numbers = xr.Dataset({"pit": ("row", np.full(3, 0.5))}, coords={"task": ("row", ["t"] * 3)})
    with pytest.raises(btl.DataError, match="See `calibration`"):
        btl.reliability(numbers)


def scored_classes(chance, measured):
    best = chance.argmax(1).astype(float)
    own = chance[np.arange(len(measured)), measured.astype(int)]
    return xr.Dataset(
        {
            "class_probability": (("row", "class_code"), chance),
            "class_measured": ("row", measured),
            "class_predicted": ("row", best),
            "log_density": ("row", np.log(own)),
            "brier": ("row", ((chance - np.eye(chance.shape[1])[measured.astype(int)]) ** 2).sum(1)),
        },
        coords={"task": ("row", ["t"] * len(measured))},
    )


def test_intervals_of_counts_and_limits_cover_as_often_as_they_say():
    """A perfect forecaster of small counts, and of values of which half are at a limit."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, 20_000)
    upto, below = scipy.stats.poisson.cdf(counts, 0.7), scipy.stats.poisson.cdf(counts - 1, 0.7)
    limited = np.maximum(rng.standard_normal(20_000), 0.0)
    top = scipy.stats.norm.cdf(limited)
    bottom = np.where(limited == 0, 0.0, top)
    for high, low in ((upto, below), (top, bottom)):
        scored = xr.Dataset(
            {"pit": ("row", (high + low) / 2), "mass": ("row", high - low)},
            coords={"task": ("row", np.repeat("t", 20_000))},
        )
        curve = btl.calibration(scored)
        np.testing.assert_allclose(curve["coverage"].sel(task="t"), curve["level"], atol=0.015)


def test_weighted_crps_is_that_of_repeated_components():
    g = torch.Generator().manual_seed(0)
    mean, std = torch.randn(3, 5, generator=g).double(), torch.rand(3, 5, generator=g).double() + 0.1
    y, w = torch.randn(5, generator=g).double(), torch.tensor([[0.5], [0.25], [0.25]]).double()
    repeated = mixture.crps(y, mean[[0, 0, 1, 2]], std[[0, 0, 1, 2]])
    torch.testing.assert_close(mixture.crps(y, mean, std, w), repeated)


# -- comparing, stacking, transfer ------------------------------------------------------------------------------------


def test_stacking_weights_recover_a_known_mixture():
    rng = np.random.default_rng(0)
    first = rng.random(4000) < 0.7
    y = np.where(first, rng.normal(0, 1, 4000), rng.normal(4, 1, 4000))
    density = np.stack(
        [scipy.stats.norm.logpdf(y, 0, 1), scipy.stats.norm.logpdf(y, 4, 1), scipy.stats.norm.logpdf(y, -5, 1)], -1
    )
    np.testing.assert_allclose(stacking_weights(density), [0.7, 0.3, 0.0], atol=0.03)
    alike = stacking_weights(np.zeros((5, 3)))
    np.testing.assert_allclose(alike, 1 / 3)
    near = density[:4, :1] + np.array([[0.0, -0.3, -9.0]])  # four rows do not decide, but they rule out
    weights = stacking_weights(near)
    assert weights[1] > 0.1
    assert weights[2] < 1e-3


def test_what_a_model_rules_out_costs_it_no_more_than_everything():
    density = np.array([[0.0, -np.inf], [-np.inf, 0.0], [0.0, 0.0], [0.0, -0.1]])
    np.testing.assert_allclose(stacking_weights(density), stacking_weights(np.maximum(density, -1e4)), atol=1e-3)
    with pytest.raises(btl.DataError, match="NaN"):
        stacking_weights(np.array([[0.0, np.nan]]))


def test_rows_of_a_group_count_as_one():
    """Repeating every row within its group changes nothing; without the groups it makes the weights surer."""
    density = np.random.default_rng(3).normal(size=(6, 3)) + np.array([0.4, 0.0, -0.3])
    groups = np.repeat(list("abcdef"), 4)
    once, thrice = stacking_weights(density), stacking_weights(density.repeat(4, 0), groups)
    np.testing.assert_allclose(thrice, once, atol=1e-6)
    assert stacking_weights(density.repeat(4, 0))[0] > once[0] + 0.05
    uneven = np.repeat(np.arange(6), [1, 9, 2, 5, 1, 3])
    np.testing.assert_allclose(stacking_weights(density[uneven], uneven), once, atol=1e-6)
    shuffled = np.random.default_rng(0).permutation(24)
    again = stacking_weights(density.repeat(4, 0)[shuffled], groups[shuffled])
    np.testing.assert_allclose(again, once, atol=0.03)  # another order of the groups, another bootstrap


def test_comparison_prefers_what_transfers(helped):
    table = btl.compare(helped, target="target")
    rows = btl.pointwise(helped, target="target")
    assert rows["elpd_diff"].dims == ("model", "row")
    np.testing.assert_allclose(
        rows["elpd_diff"].sum("row").sel(model=table.index), table["elpd_diff"].astype(float), rtol=1e-12
    )
    np.testing.assert_allclose(
        rows["log_density"].sum("row").sel(model=table.index), table["elpd"].astype(float), rtol=1e-12
    )
    assert table.index[0] == "multitask"
    assert table["weight"].sum() == pytest.approx(1.0)
    assert table.loc["single", "elpd_diff"] > 0
    half = np.where(helped["multitask"].data.x[:, 0] < 0.5, "left", "right")
    paired = btl.compare(helped, target="target", by=half, paired=True)
    for name, posterior in helped.items():
        scored = btl.leave_out(posterior, by=half, task="target", paired=True)
        assert paired.loc[name, "elpd"] == pytest.approx(float(scored["log_density"].sum()))
    assert btl.stack(helped, target="target", by=half, paired=True).weights == paired["weight"].to_dict()
    other = btl.fit(btl.SingleTask(), related(seed=3), seed=0, method="map")
    with pytest.raises(btl.DataError, match="different observations"):
        btl.compare({**helped, "other": other}, target="target")


def test_a_stack_predicts_between_its_parts(helped, capsys, tmp_path):
    stack = btl.stack(helped, target="target")
    new = {"x": np.linspace(0.05, 0.95, 9)}
    out, parts = stack.predict(new), [p.predict(new, task="target") for p in helped.values()]
    w = np.array([stack.weights[name] for name in helped])
    np.testing.assert_allclose(out["mean"], sum(a * p["mean"] for a, p in zip(w, parts, strict=True)))
    later = stack.predict(xr.Dataset({"x": ("row", new["x"])}).chunk({"row": 4}))
    assert len(later["mean"].chunks[0]) == 3
    xr.testing.assert_allclose(later.compute(), out)
    np.testing.assert_allclose(out["std"] >= np.minimum(*(p["std"] for p in parts)) - 1e-9, True)
    assert out["mean"].attrs["units"] == "eV"
    drawn = stack.sample(new, draws=3000, noise=True)
    assert drawn.sizes == {"draw": 3000, "row": 9}
    np.testing.assert_allclose(drawn.mean("draw"), out["mean"], atol=0.05)
    chance = stack.probability(new, above=0.0)
    assert ((chance >= 0) & (chance <= 1)).all()
    score = btl.scores(stack.score(related(seed=8))).loc["target"]
    alone = [btl.scores(p.score(related(seed=8))).loc["target", "nlpd"] for p in helped.values()]
    assert score["nlpd"] <= max(alone)
    assert "target" in repr(stack)
    stack.save(tmp_path / "stack.nc")
    again = btl.load(tmp_path / "stack.nc")
    xr.testing.assert_identical(again.predict(new), out)
    pd.testing.assert_frame_equal(again.comparison, stack.comparison)
    assert list(again.weights.items()) == list(stack.weights.items())
    with pytest.raises(btl.DataError, match="holds a stack: give its models by name"):
        btl.load(tmp_path / "stack.nc", btl.MultiTask())
    with pytest.raises(btl.DataError, match="holds one posterior: give its model"):
        btl.load(stack.best.save(tmp_path / "best.nc"), {"best": btl.MultiTask()})
    derived = stack.derive(lambda y: y["target"] - y["s0"], new, draws=100)
    assert derived["mean"].sizes == {"row": 9}


def test_fit_best_stacks_classes_too(capsys):
    rng = np.random.default_rng(0)
    x = rng.random(60)
    frame = pd.DataFrame(
        {
            "x": x,
            "gap": np.sin(5 * x),
            "stable": np.where(np.sin(5 * x) + 0.2 * rng.standard_normal(60) > 0.2, "yes", "no"),
        }
    )
    frame.loc[20:, "stable"] = None
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap", "stable"], likelihoods={"stable": btl.Bernoulli()})
    best = btl.fit_best(
        data, target="stable", seed=0, models={"single": btl.SingleTask(), "multitask": btl.MultiTask()}
    )
    assert "multitask" in capsys.readouterr().out
    out = best.predict({"x": [0.2, 0.9]})
    np.testing.assert_allclose(out["probability"].sum("class"), 1.0)
    assert set(out["label"].values) <= {"yes", "no"}


@pytest.mark.parametrize(
    ("kind", "verdict"), [("positive", "helps"), ("flipped", "helps"), ("irrelevant", "no clear effect")]
)
def test_the_report_tells_which_source_helped(kind, verdict):
    report = btl.transfer_report(related(kind), "target", progress=False)
    line = report.table.loc["s0"]
    assert line["verdict"] == verdict
    if kind != "irrelevant":
        assert np.sign(line["correlation"]) == (1 if kind == "positive" else -1)
        assert line["rmse_%"] < 0
    assert line["verdict"] == report.table.loc["(all)", "verdict"]
    assert "s0 (40 rows)" in str(report)
    assert "<table" in report._repr_html_()
    with pytest.raises(btl.DataError, match="no source"):
        btl.transfer_report(related().select(["target"]), "target")


def test_transfer_report_by_a_column_of_the_table(helped):
    data = helped["multitask"].data
    half = pd.Series(np.where(data.x[:, 0] < 0.5, "left", "right"), index=list(data.rows))
    told = {"by": half, "task": "target", "paired": True}
    alone = btl.fit(btl.SingleTask(), data.select(["target"]), seed=0)
    gain = btl.leave_out(helped["multitask"], **told)["log_density"] - btl.leave_out(alone, **told)["log_density"]
    report = btl.transfer_report(data, "target", by=half, paired=True, progress=False)
    assert report.table.loc["s0", "elpd"] == pytest.approx(float(gain.sum()))
    with pytest.raises(ValueError, match="must be a name or a Series"):
        btl.transfer_report(data, "target", by=half.to_numpy())


# -- diagnosis --------------------------------------------------------------------------------------------------------


def test_materials_that_tasks_share_are_left_out_whole(capsys):
    """What a source says of a material is no prediction of a new one: diagnose leaves both out, fit_best says so."""
    rng = np.random.default_rng(3)
    x = rng.random(16)
    own = 0.3 * rng.standard_normal(16)
    frame = pd.DataFrame({"x": x, "pbe": np.sin(5 * x) + own, "exp": np.cos(5 * x) + own})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
    assert data.shared_inputs == 16
    assert data.select(["exp"]).shared_inputs == 0
    posterior = btl.fit(btl.MultiTask(), data, seed=0)
    found = btl.diagnose(posterior)["coverage of exp"]
    assert "all that was observed at its inputs" in found.meaning
    whole = btl.scores(btl.leave_out(posterior, by="inputs"))
    assert found.value == whole.loc["exp", "coverage_90"]
    models = {"single": btl.SingleTask(), "multitask": btl.MultiTask()}
    btl.fit_best(data, target="exp", models=models)
    assert 'give by="inputs"' in capsys.readouterr().out
    btl.fit_best(data, target="exp", models=models, by="inputs")
    assert 'give by="inputs"' not in capsys.readouterr().out
    # No two observations of the target share inputs: paired, each is left out by itself.
    together = btl.fit_best(data, target="exp", models=models, by="inputs", paired=True)
    alone = btl.fit_best(data, target="exp", models=models)
    np.testing.assert_allclose(together.comparison["elpd"], alone.comparison["elpd"], atol=0.05)


def test_a_sound_posterior_is_found_sound(helped):
    diagnosis = btl.diagnose(helped["multitask"])
    assert diagnosis["ELBO drift"].level == "good"
    assert diagnosis["noise of target"].level == "good"
    assert len(diagnosis.to_xarray()["value"]) == len(diagnosis.findings)
    assert "k-hat" in str(diagnosis)
    assert "<table>" in diagnosis._repr_html_()
    with pytest.raises(KeyError, match=r"no finding 'hat'.*'k-hat'"):
        diagnosis["hat"]


def test_k_hat_flags_a_bad_guide(helped, monkeypatch):
    posterior = helped["multitask"]
    narrow = torch.from_numpy(np.random.default_rng(0).standard_t(1.0, 256) ** 2)
    _, k = smoothed(narrow.unsqueeze(-1))
    record = dataclasses.replace(posterior.record, pareto_k=float(k[0]))
    finding = btl.diagnose(dataclasses.replace(posterior, record=record))["k-hat"]
    assert finding.level == "warning"
    assert "nuts" in finding.advice


@pytest.mark.parametrize(("memory", "level"), [(0.3, "good"), (0.98, "warning")])
def test_a_chain_that_did_not_mix_is_told_as_arviz_tells_it(helped, memory, level):
    arviz = pytest.importorskip("arviz")
    posterior, rng = helped["multitask"], np.random.default_rng(1)
    steps = rng.standard_normal((400, 40))
    for i in range(1, 400):
        steps[i] = memory * steps[i - 1] + np.sqrt(1 - memory**2) * steps[i]
    chain, used = {}, 0
    for name, value in posterior.theta.items():
        size = value[0].numel()
        chain[name] = torch.from_numpy(np.exp(steps[:, used : used + size])).reshape(400, *value.shape[1:])
        used += size
    record = dataclasses.replace(posterior.record.of_other_draws(), method="nuts", log_prior=np.zeros(400))
    diagnosis = btl.diagnose(dataclasses.replace(posterior, theta=chain, components=16, record=record))
    assert diagnosis["R-hat"].level == level == diagnosis["effective draws"].level
    least = min(float(arviz.ess(steps[None, :, i])) for i in range(used))
    assert diagnosis["effective draws"].value == pytest.approx(least, rel=0.1)
    ranked = [steps[:, i].argsort().argsort() for i in range(used)]
    z = [torch.special.ndtri(torch.tensor((r + 0.625) / 400.25)).numpy() for r in ranked]
    apart = [
        np.var([h.mean() for h in np.split(v, 2)], ddof=1) / np.mean([h.var(ddof=1) for h in np.split(v, 2)]) for v in z
    ]
    assert diagnosis["R-hat"].value == pytest.approx(np.sqrt(199 / 200 + max(apart)), rel=1e-6)
    stuck = {name: value[:1].expand_as(value) for name, value in chain.items()}
    diagnosis = btl.diagnose(dataclasses.replace(posterior, theta=stuck, components=16, record=record))
    assert "never moved" in diagnosis["effective draws"].meaning


def test_what_is_wrong_with_a_table_is_told():
    rng = np.random.default_rng(0)
    x = rng.random(80)
    noise = btl.TaskData.from_wide(pd.DataFrame({"x": x, "y": rng.standard_normal(80)}), inputs=["x"], tasks=["y"])
    found = btl.diagnose(btl.fit(btl.SingleTask(), noise, seed=0))
    assert found["noise of y"].level in ("note", "warning")
    y = np.sin(5 * x) + 0.05 * rng.standard_normal(80)
    y[7] += 3
    broken = btl.TaskData.from_wide(pd.DataFrame({"x": x, "y": y}), inputs=["x"], tasks=["y"])
    found = btl.diagnose(btl.fit(btl.SingleTask(), broken, seed=0))
    assert "7" in found["outliers of y"].meaning
    point = btl.diagnose(btl.fit(btl.SingleTask(), noise, seed=0, method="map"))
    assert point["method"].level == "note"


def test_pictures_are_drawn(helped):
    posterior = helped["multitask"]
    scored = btl.leave_out(posterior)
    table = btl.compare(helped, target="target")
    report = btl.transfer_report(related(), "target", progress=False)
    for ax in (
        plots.plot_calibration(scored), plots.plot_pit(scored, "target"), plots.plot_parity(scored, "target", unit="eV"),
        plots.plot_elbo(posterior), plots.plot_comparison(table), plots.plot_transfer(report),
    ):  # fmt: skip
        assert ax.get_xlabel()
    plt.close("all")
    with pytest.raises(btl.DataError, match="several tasks"):
        plots.plot_pit(scored)
    with pytest.raises(btl.DataError, match="no evidence bound"):
        plots.plot_elbo(btl.fit(btl.SingleTask(), related(), method="map"))


def test_a_slice_shows_what_is_predicted_and_what_was_observed_there():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"t": rng.random(24), "phase": np.array(["alpha", "beta"])[np.arange(24) % 2], "load": 2.0})
    table["hard"] = 300 + 40 * np.sin(4 * table["t"]) + (table["phase"] == "beta") * 15 + rng.normal(size=24)
    table["gap"] = np.where(np.arange(24) % 3 == 0, 1 + table["t"], np.nan)
    table["good"] = table["t"] > 0.5
    data = btl.TaskData.from_wide(
        table, inputs=["t", "phase", "load"], tasks=["hard", "gap", "good"], units={"hard": "HV", "gap": "eV", "t": "s"}
    )
    posterior = btl.fit(btl.MultiTask(), data, seed=0, method="map")
    ax = plots.plot_slice(posterior, "t", {"phase": "beta"}, tasks="hard")
    curve, points = ax.lines[0], ax.lines[1]
    grid = pd.DataFrame({"t": curve.get_xdata(), "phase": "beta", "load": 2.0})
    predicted = posterior.predict(grid, task="hard", noise=False)["quantile"]
    assert np.allclose(curve.get_ydata(), predicted.sel(quantile_level=0.5))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.allclose([band.min(), band.max()], [predicted.min(), predicted.max()])
    own = table[table["phase"] == "beta"]
    assert sorted(points.get_ydata()) == sorted(own["hard"])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("t (s)", "HV", "phase beta, load 2")
    both = plots.plot_slice(posterior, "t")  # classes have no curve
    other = both.figure.axes[1]  # each unit has an axis of its own
    assert (both.get_ylabel(), other.get_ylabel()) == ("HV", "eV")
    assert both.get_ylim()[0] > 200
    assert other.get_ylim()[1] < 10
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["hard (HV)", "gap (eV)"]
    assert both.get_title() == "phase alpha, load 2"
    plt.close("all")
    for options, message in (
        ({"along": "phase"}, "must be a numeric input \\('t', 'load'\\)"), ({"along": "t", "at": {"time": 1.0}}, "names 'time'"),
        ({"along": "t", "tasks": ["good"]}, "leave 'good' out"), ({"along": "t", "tasks": []}, "empty"),
        ({"along": "t", "at": {"phase": "gamma"}}, "never seen"),
    ):  # fmt: skip
        with pytest.raises(btl.DataError, match=message):
            plots.plot_slice(posterior, **options)


def test_a_slice_of_counts_is_drawn_at_one_exposure():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"t": rng.random(30), "hours": rng.integers(20, 200, 30).astype(float)})
    table["pits"] = rng.poisson(0.1 * table["hours"] * (1 + table["t"]))
    table["film"] = 2 + table["t"] + 0.1 * rng.normal(size=30)
    data = btl.TaskData.from_wide(
        table,
        inputs=["t"],
        tasks=["pits", "film"],
        units={"film": "nm"},
        likelihoods={"pits": btl.Poisson(exposure="hours")},
    )
    posterior = btl.fit(btl.MultiTask(), data, seed=0, method="map")
    for hours in (None, 50.0):
        ax = plots.plot_slice(posterior, "t", None if hours is None else {"hours": hours}, tasks=["pits", "film"])
        curve, points = ax.lines[0], ax.lines[1]
        assert np.allclose(points.get_ydata(), table["pits"] / table["hours"] * (hours or 1.0))
        assert np.median(points.get_ydata()) == pytest.approx(np.median(curve.get_ydata()), rel=0.3)
        assert [text.get_text() for text in ax.figure.axes[1].get_legend().get_texts()] == ["pits", "film (nm)"]
        assert ax.get_title() == ("" if hours is None else "hours 50")
    with pytest.raises(btl.DataError, match="names 'hour'; beside 't' there are 'hours'"):
        plots.plot_slice(posterior, "t", {"hour": 1.0})
    plt.close("all")


def test_a_slice_of_a_stack_holds_a_formula():
    table = pd.DataFrame({"formula": ["NaCl", "KBr", "NaCl", "LiF"] * 4, "t": np.arange(16.0)})
    table["y"] = table["t"] ** 2 / 50 + table["formula"].map({"NaCl": 1.0, "KBr": 2.0, "LiF": 0.0})
    data = btl.TaskData.from_wide(
        table, inputs=["formula", "t"], tasks=["y"], features={"formula": btl.ElementFractions()}
    )
    posteriors = {
        name: btl.fit(btl.SingleTask(kernel=k()), data, method="map")
        for name, k in (("a", btl.RBF), ("b", btl.Matern52))
    }
    stack = btl.stack(posteriors, target="y", by="row")
    ax = plots.plot_slice(stack, "t")
    frame = pd.DataFrame({"formula": "NaCl", "t": ax.lines[0].get_xdata()})  # the most frequent
    assert np.allclose(
        ax.lines[0].get_ydata(), stack.predict(frame, "y", noise=False)["quantile"].sel(quantile_level=0.5)
    )
    assert len(ax.lines[1].get_xdata()) == 8
    ax = plots.plot_slice(stack, "t", {"formula": "KBr"})
    assert ax.get_title() == "formula KBr"
    assert len(ax.lines[1].get_xdata()) == 4
    plt.close("all")


def test_arviz_compares_on_the_target(helped):
    handed = {name: posterior.to_arviz(task="target") for name, posterior in helped.items()}
    assert handed["single"]["log_likelihood"].sizes["obs"] == 15
    ours = btl.compare(helped, target="target")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a row or two have a large k-hat
        theirs = {name: az.loo(data, pointwise=True) for name, data in handed.items()}
    for name, loo in theirs.items():
        elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd  # ArviZ 0.x and 1.x
        assert float(elpd) == pytest.approx(ours.loc[name, "elpd"], abs=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, to ArviZ 0.23
        az.plot_compare(ours)
    plt.close("all")


def test_what_is_left_without_a_row_is_a_distribution():
    """A site that was found anew instead of the one in the posterior told more than there was: a mean of 1e10, a density of 0."""
    rng = np.random.default_rng(0)
    x = rng.random(24)
    frame = pd.DataFrame({"x": x, "a": np.sin(6 * x) + 0.05 * rng.standard_normal(24)})
    frame["b"] = 1 - 0.9 * np.sin(6 * x) + 0.05 * rng.standard_normal(24) - 0.8
    frame.loc[14:, "b"] = np.nan
    frame["b"] = frame["b"].clip(lower=0.0)
    law = btl.Hurdle(btl.StudentT(btl.Softplus()))
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a", "b"], likelihoods={"b": law})
    posterior = btl.fit(btl.MultiTask(), data, seed=0)
    regression = functions(posterior, most=96)
    for part in left_out(regression, posterior._problem, np.arange(len(data)), data.task_index == 1):
        assert (torch.linalg.eigvalsh(part.cov) > 0).all()
        theta = {name: value[part.draws] for name, value in regression.theta.items()}
        each = densities(posterior._problem, theta, part)
        assert (torch.logsumexp(each, 0) - math.log(len(each)) > -2.5).all()  # before the draws are weighted
    scored = left_out_scores(posterior, task="b", regression=regression)
    k = scored["pareto_k"].values
    assert np.isfinite(k).all()
    assert scored["log_density"].values[k < 1].min() > -10
    # Two rows decide alone which draws count, and their k-hat says so: refits have -3.0 and -3.1 for the fourth and the twelfth.
    assert set(np.flatnonzero(k >= 1)) <= {3, 11}


def test_a_task_whose_only_row_is_left_out_is_warned_of():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 8), "a": np.sin(np.arange(8.0)), "b": [1e6, *[np.nan] * 7]})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a", "b"], units={"a": "eV", "b": "GPa"})
    posterior = btl.fit(btl.MultiTask(), data, seed=0, method="map")
    with pytest.warns(UserWarning, match="left out together"):
        btl.leave_out(posterior, task="b")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*left out together")
        btl.leave_out(posterior, task="a")
    with pytest.warns(UserWarning, match="left out together"):
        report = btl.transfer_report(data, target="b", seed=0, progress=False)
    assert report.table["rmse_%"].isna().all()
    assert "cannot be told" in str(report)


def test_sums_of_nothing_and_reports_of_everything_say_so():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 8), "(all)": np.sin(np.arange(8.0)), "b": np.cos(np.arange(8.0))})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["(all)", "b"])
    with pytest.raises(btl.DataError, match="Rename"):
        btl.transfer_report(data, target="b", seed=0)
    scored = btl.leave_out(btl.fit(btl.MultiTask(), data, seed=0, method="map"))
    with pytest.raises(btl.DataError, match="no scored rows"):
        btl.scores(scored.isel(row=[]))
    with pytest.raises(btl.DataError, match="calibration"):
        btl.reliability(scored)


# -- what a second reading of the mathematics found -------------------------------------------------------------------


def zeros_beside_a_source(n=40):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 1, n))
    g = np.sin(6 * x)
    size = np.maximum(3 + 4 * g + 0.1 * rng.normal(size=n), 0.3)
    gap = np.where(g + 0.3 * rng.normal(size=n) < 0, 0.0, size)
    frame = pd.DataFrame({"x": x, "source": g + 0.1 * rng.normal(size=n), "gap": gap})
    return btl.TaskData.from_wide(frame, inputs=["x"], tasks=["source", "gap"], likelihoods={"gap": btl.Hurdle()})


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(("model", "tolerance"), [(btl.SingleTask(), 1e-8), (btl.MultiTask(), 0.01)])
def test_how_large_a_left_out_zero_would_be_is_told_by_the_other_rows(model, tolerance, by_row):
    """Of a zero only the gate is observed; the size is predicted all the same, exactly where it is independent of the gate."""
    data = zeros_beside_a_source()
    posterior = btl.fit(model, data, seed=0, progress=False)
    theta = {name: value[:2] for name, value in posterior.theta.items()}
    problem = posterior._problem
    groups = pd.factorize(data.rows)[0] if by_row else np.arange(len(data))
    checked = 0
    for found in cavity.left_out(Regression(problem, theta, tolerance=1e-10), problem, groups):
        zeros = [k for k, row in enumerate(found.rows.tolist()) if found.task == 1 and data.values[row] == 0]
        for k in zeros[::4]:
            row = int(found.rows[k])
            rest = Problem.of(posterior.model, data.where(groups != groups[row]), posterior.scaling)
            at = posterior.scaling.inputs(data.x[row : row + 1])
            ((mean, cov),) = Regression(rest, theta, tolerance=1e-10).marginals(at, [problem.layout.contrasts(1)])
            size = found.functions.index(1)
            torch.testing.assert_close(found.mean[:, k, size], mean[:, 0, 1], rtol=0, atol=tolerance)
            torch.testing.assert_close(found.cov[:, k, size, size], cov[:, 0, 1, 1], rtol=0, atol=tolerance)
            gate = found.functions.index(0)
            torch.testing.assert_close(found.cov[:, k, size, gate], cov[:, 0, 1, 0], rtol=0, atol=max(tolerance, 1e-6))
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("by_row", [False, True])
def test_both_ways_of_leaving_out_agree(by_row):
    """From the inverse covariance of the pseudo-data, and by taking sites out of the posterior as condensed tables do."""
    data = zeros_beside_a_source()
    posterior = btl.fit(btl.MultiTask(), data, seed=0, progress=False)
    problem, theta = posterior._problem, {name: value[:1] for name, value in posterior.theta.items()}
    regression = Regression(problem, theta, tolerance=1e-12)
    groups = pd.factorize(data.rows)[0] if by_row else None
    ((_, theta, solved),) = regression.batches()
    inverse = triangular_inverse(solved.factor)
    for bucket in cavity._buckets(problem, groups, None):
        mean, cov, _ = cavity._by_precision(problem, theta, solved, inverse, bucket)
        held = torch.zeros(len(data), dtype=torch.bool)
        other_mean, other_cov, _ = cavity._by_sites(regression, problem, theta, solved, held, None, None, bucket)
        assert mean.shape[-1] == sum(problem.pieces[k].where.shape[1] for k in bucket.pieces) + len(bucket.hidden)
        torch.testing.assert_close(mean, other_mean, rtol=0, atol=1e-3)
        torch.testing.assert_close(cov, other_cov, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Task .* none is beyond")
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
@pytest.mark.filterwarnings("ignore:Task 'y'. 12 of 30 values are exactly 0")
def test_values_beyond_a_limit_count_as_the_limit():
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, 30)
    y = np.sin(5 * x) + 0.1 * rng.normal(size=30)
    found = []
    for written in (0.0, -0.8, -99.0):
        frame = pd.DataFrame({"x": x, "y": np.where(y <= 0, written, y)})
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Censored(lower=0.0)})
        posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
        plain = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
        found.append((posterior.scaling.scale, btl.leave_out(posterior), posterior.score(plain)))
    for scale, left, score in found[1:]:
        np.testing.assert_array_equal(scale, found[0][0])
        xr.testing.assert_allclose(left, found[0][1])
        xr.testing.assert_allclose(score, found[0][2])


def test_a_known_error_of_an_exact_zero_says_nothing():
    data = zeros_beside_a_source()
    frame = data.to_frame().query("task == 'gap'").assign(error=0.1)
    known = btl.TaskData.from_long(
        frame, inputs=["x"], task="task", value="value", error="error", likelihoods={"gap": btl.Hurdle()}
    )
    posterior = btl.fit(btl.SingleTask(), known, seed=0, progress=False)
    line = btl.scores(posterior.score(known)).loc["gap"]
    assert np.isfinite(line[["nlpd", "rmse", "mae", "crps"]].astype(float)).all()
    assert line["coverage_90"] > 0.8


def test_rows_that_a_new_task_was_inferred_from_had_a_say_in_it():
    """Weighing the draws takes the say back: leaving a row out is no better than never having had it."""
    rng = np.random.default_rng(2)
    lines = [
        {"x": x, "task": f"t{t}", "value": np.sin(5 * x + 0.3 * t) + 0.2 * t + 0.3 * rng.normal()}
        for t in range(6) for x in rng.uniform(0, 1, 8)
    ]  # fmt: skip
    data = btl.TaskData.from_long(
        pd.DataFrame(lines), inputs=["x"], task="task", value="value", units={f"t{t}": "eV" for t in range(6)}
    )
    posterior = btl.fit(btl.LatentTask(), data, seed=0, progress=False)
    x = rng.uniform(0, 1, 5)
    rows = btl.TaskData.from_long(
        pd.DataFrame({"x": x, "task": "new", "value": np.sin(5 * x + 0.5) + 0.4 + 0.3 * rng.normal(size=5)}),
        inputs=["x"],
        task="task",
        value="value",
    )
    grown = posterior.new_task("new", rows)
    left = btl.leave_out(grown, task="new")
    assert (left["pareto_k"] > -np.inf).all()
    never = 0.0
    for i in range(5):
        mask = np.arange(5) == i
        one = rows.where(mask)
        never += float(posterior.new_task("new", rows.where(~mask)).score(one)["log_density"].sum())
    assert float(left["log_density"].sum()) == pytest.approx(never, abs=1.5)


def test_a_group_without_which_a_task_is_nowhere_is_named():
    x = np.linspace(0, 1, 8)
    frame = pd.DataFrame({"x": x, "a": np.sin(5 * x), "b": 5 + np.sin(5 * x)})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a", "b"], units={"a": "eV", "b": "eV"})
    posterior = btl.fit(btl.MultiTask(), data, seed=0, progress=False)
    with pytest.warns(UserWarning, match="'b' are left out together"):
        btl.leave_out(posterior, by=np.where(data.task_index == 1, "all of b", data.rows.astype(str)))


def test_new_rows_of_a_stack_reach_every_posterior_that_knows_their_task():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(24)})
    frame["pbe"] = np.sin(5 * frame["x"]) + 0.05 * rng.standard_normal(24)
    frame["exp"] = (frame["pbe"] + 0.3).where(frame.index < 6)
    read = {"inputs": ["x"], "units": {"pbe": "eV", "exp": "eV"}}
    both = btl.TaskData.from_wide(frame, tasks=["pbe", "exp"], **read)
    fits = {
        "alone": btl.fit(btl.SingleTask(), both.select("exp"), method="map"),
        "joint": btl.fit(btl.MultiTask(), both, method="map"),
    }
    stack = btl.stack(fits, target="exp")
    new = pd.DataFrame({"x": [0.15, 0.55], "pbe": [0.7, 0.4], "exp": [1.0, 0.7]})
    more = btl.TaskData.from_wide(new, tasks=["pbe", "exp"], **read)
    grown, at = stack.condition(more), {"x": [0.2, 0.5, 0.9]}
    assert grown.weights == stack.weights
    mean = sum(
        weight * fits[name].condition(more.select(fits[name].data.names)).predict(at, "exp")["mean"]
        for name, weight in stack.weights.items()
    )
    np.testing.assert_allclose(grown.predict(at)["mean"], mean, rtol=1e-9)
    source = stack.condition(more.select("pbe"))  # of which the control knows nothing
    assert source.posteriors["alone"] is fits["alone"]
    assert len(source.posteriors["joint"].data) == len(both) + 2
    stray = btl.TaskData.from_wide(new.rename(columns={"exp": "other"}), inputs=["x"], tasks=["other"])
    with pytest.raises(btl.DataError, match="Unknown task 'other'"):
        stack.condition(stray)


def test_a_stack_mixes_no_task_that_differs():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 12)
    frame = pd.DataFrame({"x": x, "y": np.sin(4 * x), "k": np.where(rng.random(12) < 0.5, "p", "q")})
    frame.loc[[0, 1], "k"] = ["p", "q"]
    turned = frame.assign(k=pd.Categorical(frame["k"], ["q", "p"]))
    likelihoods = {"k": btl.Bernoulli()}
    one, other = (
        btl.fit(
            btl.SingleTask(),
            btl.TaskData.from_wide(f, inputs=["x"], tasks=["y", "k"], likelihoods=likelihoods),
            method="map",
        )
        for f in (frame, turned)
    )
    stack = btl.stack({"one": one, "other": other}, target="y")
    assert stack.predict(frame, "y").sizes["row"] == 12
    for ask in (stack.predict, stack.sample):
        with pytest.raises(btl.DataError, match="Task 'k' has the classes"):
            ask(frame, "k")
    with pytest.raises(AttributeError, match=r"A Stack has no 'new_task'\. Ask `best`"):
        stack.new_task("z")
    with pytest.raises(ValueError, match=r"got a Stack\. Of a stack give its `best`"):
        btl.diagnose(stack)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], units={"y": "meV"})
    with pytest.raises(btl.DataError, match="The unit of 'y' is 'meV' in 'other' and None in the first"):
        btl.compare({"one": one, "other": btl.fit(btl.SingleTask(), data, method="map")}, target="y")


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_condensed_rows_are_left_out_as_they_were_put_in():
    """Their sites were settled before later rows came that say otherwise: those are what is taken out."""
    rng = np.random.default_rng(0)
    x = rng.random(120)
    frame = pd.DataFrame({"x": x, "y": np.maximum(np.sin(5 * x) + 0.1 * rng.normal(size=120), 0.3)})
    law = {"y": btl.Censored(lower=0.3)}
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods=law)
    posterior = btl.fit(btl.SingleTask(), data, seed=0, pairs=40, draws=2, progress=False)
    at = rng.random(10)
    against = pd.DataFrame({"x": at, "y": np.maximum(0.5 - np.sin(5 * at), 0.3)})
    more = btl.TaskData.from_wide(against, inputs=["x"], tasks=["y"], likelihoods=law)
    scored = btl.leave_out(posterior.condition(more))
    for row in range(0, 120, 15):
        mask = np.arange(120) != row
        problem = Problem.of(posterior.model, data.where(mask), posterior.scaling)
        again = condense(
            [lambda p=problem: p], posterior.model, problem.layout, posterior._mixed, posterior.inducing.pairs
        )
        rest = dataclasses.replace(posterior, data=data.where(mask), inducing=again, condensed=119, sites=None)
        expected = float(rest.condition(more).score(data.where(~mask))["log_density"][0])
        assert float(scored["log_density"][row]) == pytest.approx(expected, rel=0.15, abs=0.3)


@pytest.mark.parametrize("judge", [btl.scores, btl.calibration, btl.reliability, plots.plot_parity])
def test_what_is_no_score_is_refused(helped, judge):
    posterior = next(iter(helped.values()))
    with pytest.raises(
        ValueError, match=r"Expected the scores that leave_out or Posterior\.score give; got a Posterior"
    ):
        judge(posterior)
    with pytest.raises(ValueError, match="got predictions"):
        judge(posterior.predict({"x": [0.5]}, task="target"))


def test_a_stack_judges_data_and_no_table(helped):
    with pytest.raises(btl.DataError, match="`test` must be a TaskData"):
        btl.stack(helped, "target").score(pd.DataFrame({"x": [0.5]}))


def test_data_and_models_are_told_from_what_holds_them(helped):
    posterior = next(iter(helped.values()))
    with pytest.raises(btl.DataError, match="`data` must be a TaskData"):
        btl.transfer_report(posterior, target="target")
    with pytest.raises(ValueError, match=r"got the class: write btl.MultiTask\(\)"):
        btl.fit(btl.MultiTask, posterior.data)
    with pytest.raises(ValueError, match=r"got the class: write RBF\(\)"):
        btl.MultiTask(kernel=btl.RBF)


@pytest.mark.parametrize("by", ["row", "inputs"])
def test_classes_are_compared_where_groups_hold_numbers_too(by):
    rng = np.random.default_rng(0)
    x = rng.random(30)
    frame = pd.DataFrame({"x": x, "gap": np.sin(5 * x) + 0.05 * rng.standard_normal(30)})
    frame["colour"] = np.where(frame["gap"] + 0.1 * rng.standard_normal(30) > 0.2, "red", "white")
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap", "colour"])
    posterior = btl.fit(btl.MultiTask(), data, seed=0, method="map", progress=False)
    scored = btl.leave_out(posterior, by, task="colour")
    assert "error" not in scored
    assert scored.sizes["row"] == 30
    posteriors = {"a": posterior, "b": btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)}
    table = btl.compare(posteriors, target="colour", by=by)
    assert table[["elpd", "accuracy"]].notna().all(axis=None)
    report = btl.transfer_report(data, "colour", by=by)
    assert report.table["elpd"].notna().all()


def test_atoms_are_not_mixed_with_densities():
    """Where one law gives a value a probability, the density of another adds nothing."""
    rng = np.random.default_rng(0)
    x = rng.random(30)
    frame = pd.DataFrame({"x": x, "y": np.maximum(np.sin(5 * x), 0.0)})
    laws = {"plain": btl.Gaussian(), "limited": btl.Censored(lower=0.0)}
    fits = {
        name: btl.fit(
            btl.SingleTask(),
            btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": law}), seed=0, progress=False,
        )
        for name, law in laws.items()
    }  # fmt: skip
    laws = [next(posterior.laws({"x": [0.8]}, "y", True, 1)) for posterior in fits.values()]
    both = mixed(laws, torch.tensor([[0.5], [0.5]]).double())
    zero, positive = torch.zeros(1).double(), torch.full((1,), 0.3).double()
    chance = float(fits["limited"].predict({"x": [0.8]}, "y")["probability_lower"][0])
    assert float(both.log_density(zero).exp()) == pytest.approx(0.5 * chance)
    each = [float(law.log_density(positive).exp()) for law in laws]
    assert float(both.log_density(positive).exp()) == pytest.approx(sum(each) / 2)


def test_known_errors_are_the_noise_that_is_reported():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30), "e": 3.0}).assign(
        y=lambda t: np.sin(5 * t["x"]) + 3 * rng.standard_normal(30)
    )
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], errors={"y": "e"})
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    assert btl.diagnose(posterior)["noise of y"].value > 0.7


@pytest.mark.parametrize("degrees", [1.5, 4.0, 10.0, None])
def test_how_far_a_value_is_off_is_told_however_far_it_is(degrees):
    """Of nearly certain functions the density is that of Student's law."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": np.linspace(0, 1, 200)})
    frame["y"] = np.sin(5 * frame["x"]) + 0.1 * rng.standard_t(4, 200)
    law = {"y": btl.StudentT(degrees=degrees)}
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods=law)
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    off = np.array([1.0, 30.0, 1e3, 1e5, -1e7])
    test = btl.TaskData.from_wide(pd.DataFrame({"x": 0.5, "y": off}), inputs=["x"], tasks=["y"], likelihoods=law)
    ((mean, cov),) = posterior._regression.marginals(posterior._inputs({"x": [0.5]})[1], [[0]])
    scale, location = posterior.scaling.scale[0], posterior.scaling.location[0]
    noise = posterior._mixed["noise"][:, 0].numpy()
    nu = posterior._mixed["y.degrees"].numpy() if degrees is None else np.full(len(noise), degrees)
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    f = mean[:, 0, 0, None].numpy() + cov[:, 0, 0, 0, None].sqrt().numpy() * nodes
    z = ((off - location) / scale)[:, None, None] - f
    each = scipy.stats.t.pdf(z, nu[:, None], scale=np.sqrt(noise**2 + 1e-6)[:, None]) @ (weights / weights.sum())
    expected = np.log(each.mean(1) / scale)
    np.testing.assert_allclose(posterior.score(test)["log_density"], expected, atol=0.05)


def test_pictures_of_values_with_probability_are_flat_where_predictions_are_right():
    rng = np.random.default_rng(0)
    x = rng.random(150)
    frame = pd.DataFrame({"x": x, "y": np.maximum(np.sin(6 * x) + 0.2 * rng.standard_normal(150), 0.0)})
    data = btl.TaskData.from_wide(
        frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Censored(lower=0.0)}, units={"y": "eV"}
    )
    scored = btl.leave_out(btl.fit(btl.SingleTask(), data, seed=0, progress=False))
    heights = [bar.get_height() for bar in plots.plot_pit(scored).patches if bar.get_width() < 0.1]
    assert len(heights) == 10
    assert sum(heights) == pytest.approx(150)
    assert max(heights) < 30
    assert plots.plot_parity(scored).get_xlabel() == "predicted (eV)"
    plt.close("all")


def test_advice_on_outliers_is_one_that_can_be_taken():
    rng = np.random.default_rng(0)
    x = rng.random(60)
    y = np.where(x < 0.4, 0.0, 2 + np.sin(6 * x))
    x[-1], y[-1] = 0.7, 40.0
    frame = pd.DataFrame({"x": x, "gap": y})
    for law, advised in ((btl.Hurdle(), "Hurdle(StudentT(Softplus()))"), (btl.Censored(lower=0.0), None)):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap"], likelihoods={"gap": law})
        found = btl.diagnose(btl.fit(btl.SingleTask(), data, seed=0, progress=False))["outliers of gap"]
        assert ("StudentT" in found.advice) == (advised is not None)
        assert (advised or "Check them.") in found.advice


def test_one_source_is_fitted_with_and_without_and_a_row_that_decides_is_named(monkeypatch):
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 24)
    frame = pd.DataFrame({"x": x, "a": np.sin(5 * x)}, index=[f"m{i}" for i in range(24)])
    frame["b"] = frame["a"] + 0.05 * rng.standard_normal(24)
    frame.loc["m7", "b"] = 9.0
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a", "b"])
    fits = []
    monkeypatch.setattr(
        sys.modules["bayestl.compare"], "fit_whole", lambda *a, **k: (fits.append(1), btl.fit(*a, **k))[1]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = btl.transfer_report(data, "b", progress=False)
    assert len(fits) == 2  # with the source and without
    assert "check its value" not in report.sentences[0]  # it is far off with the source as without
    decisive = sys.modules["bayestl.compare"]._decisive
    rows = frame.index.to_numpy()
    assert decisive(np.where(rows == "m7", -56.0, 0.8), rows) == ", of which -56.0 from row m7 alone (check its value)"
    assert decisive(np.where(rows == "m7", 3.0, 0.01), rows) == ""  # not worth a word
    assert decisive(np.full(24, 5.0), rows) == ""


def test_a_skewed_task_is_advised_another_scale():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(60)})
    normal = np.sin(5 * frame["x"]) + 0.3 * rng.standard_normal(60)
    for y, power in ((normal, None), (np.exp(2 * normal), "low"), (-np.exp(2 * normal), "high")):
        data = btl.TaskData.from_wide(frame.assign(y=y), inputs=["x"], tasks=["y"])
        found = {f.name: f for f in btl.diagnose(btl.fit(btl.SingleTask(), data, seed=0, method="map")).findings}
        assert ("scale of y" in found) == (power is not None)
        if power is not None:
            assert (found["scale of y"].value < 0.6) == (power == "low")
            assert "btl.Gaussian(btl.YeoJohnson())" in found["scale of y"].advice
    law = {"y": btl.Gaussian(btl.YeoJohnson())}
    data = btl.TaskData.from_wide(frame.assign(y=y), inputs=["x"], tasks=["y"], likelihoods=law)
    found = btl.diagnose(btl.fit(btl.SingleTask(), data, seed=0, method="map")).findings
    assert not any(f.name == "scale of y" for f in found)


def test_what_would_be_refused_is_not_advised():
    """Of theta that was moved to the mode of more rows there are no weights."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(700)})
    frame["y"] = np.sin(5 * frame["x"]) + 0.1 * rng.normal(size=700)
    posterior = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"]), progress=False)
    between = dataclasses.replace(posterior.record, pareto_k=0.9)
    advice = {f.name: f.advice for f in btl.diagnose(dataclasses.replace(posterior, record=between)).findings}
    assert "nuts" in advice["k-hat"]
    assert "reweighted" not in advice["k-hat"]
    with pytest.raises(ValueError, match="moved to the mode of all"):
        posterior.reweighted()


def test_the_target_is_built_on_each_of_its_sources_whatever_their_order():
    """As a chain in the order of the table a source that tells nothing would stand between the target and one that does."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": np.linspace(0, 1, 40)}).assign(dft=lambda t: np.sin(7 * t["x"]), bulk=rng.random(40))
    frame["exp"] = (1.1 * frame["dft"] + 0.2).where(frame.index % 5 == 0)
    fits = {}
    for order in (["dft", "bulk", "exp"], ["bulk", "dft", "exp"]):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=order)
        model = default_models(data, "exp")["difference"]
        fits[order[0]] = btl.fit(model, data, seed=0, progress=False).predict(frame, "exp", noise=False)
        assert float(abs(fits[order[0]]["mean"].values - 1.1 * frame["dft"] - 0.2).mean()) < 0.1
    np.testing.assert_allclose(fits["dft"]["mean"], fits["bulk"]["mean"], atol=0.05)


def test_labels_of_scores_are_those_of_the_table():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 12)}, index=range(100, 112)).assign(y=lambda t: np.sin(5 * t["x"]))
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    left = btl.leave_out(posterior)
    assert frame.join(left["error"].to_series())["error"].notna().all()
    assert posterior.score(data)["row"].dtype == posterior.predict(frame)["row"].dtype
    dated = btl.TaskData.from_wide(frame.set_index(pd.date_range("2026-01-01", periods=12)), inputs=["x"], tasks=["y"])
    assert posterior.score(dated)["row"].dtype.kind == "M"
    mixed = btl.TaskData.from_wide(frame.set_index(pd.Index([1, "a", *range(2, 12)])), inputs=["x"], tasks=["y"])
    assert posterior.score(mixed)["row"].values[:2].tolist() == ["1", "a"]


def test_labels_are_not_asked_of_probabilities():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30)}).assign(
        ok=lambda t: np.where(t["x"] > 0.5, "yes", "no"), y=lambda t: t["x"]
    )
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["ok", "y"])
    posterior = btl.fit(btl.MultiTask(), data, method="map", progress=False)
    both = lambda v: (v["ok"] == "yes") & (v["y"] > 0.2)  # noqa: E731
    with pytest.raises(ValueError, match="noise=True to speak of labels"):
        posterior.derive(both, frame)
    assert posterior.derive(both, {"x": [0.9]}, noise=True)["mean"].item() > 0.5


def test_the_same_inputs_are_the_same_however_they_were_rounded():
    rng = np.random.default_rng(0)
    x = rng.random(20)
    frame = pd.DataFrame({"x": x, "a": np.sin(6 * x), "b": np.sin(6 * x) + rng.standard_normal(20)})
    long = frame.melt("x", ["a", "b"], "task", "value")
    off = long.assign(x=np.where(long["task"] == "b", np.nextafter(long["x"], 2.0), long["x"]))
    exact, rounded = (btl.TaskData.from_long(table, inputs=["x"], task="task", value="value") for table in (long, off))
    assert not np.array_equal(exact.x, rounded.x)
    assert exact.shared_inputs == rounded.shared_inputs == 20
    assert rounded.summary()["shared with a"].tolist() == [20, 20]
    posteriors = [btl.fit(btl.MultiTask(), data, method="map", progress=False) for data in (exact, rounded)]
    left = [btl.leave_out(posterior, by="inputs", task="b") for posterior in posteriors]
    np.testing.assert_allclose(*(own["log_density"] for own in left), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_dates_label_rows_alike_everywhere(tmp_path):
    days = pd.date_range("2026-01-01", periods=12)
    frame = pd.DataFrame({"x": np.linspace(0, 1, 12), "y": np.sin(np.linspace(0, 6, 12))}, index=days)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    left = btl.leave_out(posterior)
    assert left.indexes["row"].equals(days.rename("row"))
    assert posterior.predict(frame).indexes["row"].equals(days.rename("row"))
    loaded = btl.load(posterior.save(tmp_path / "dated.nc"))
    more = btl.TaskData.from_wide(
        frame.set_axis(days + pd.Timedelta(days=12)).assign(x=lambda t: t["x"] + 1), inputs=["x"], tasks=["y"]
    )
    weeks = pd.Series(np.arange(24) // 7, index=pd.date_range("2026-01-01", periods=24))
    by_week = btl.leave_out(loaded.condition(more), by=weeks)
    assert len(by_week["row"]) == 24
    expected = btl.leave_out(posterior.condition(more), by=weeks)
    np.testing.assert_allclose(by_week["log_density"], expected["log_density"])


def test_parameters_at_an_edge_have_their_names():
    """A straight line along an input pulls its length scale as far as one without any effect does."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"temp": rng.random(20), "ratio": rng.random(20)}).assign(y=lambda t: np.sin(5 * t["temp"]))
    data = btl.TaskData.from_wide(frame, inputs=["temp", "ratio"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    (name,) = (own for own in posterior.theta if own.endswith("length_scale"))
    longer = posterior.theta[name] * torch.tensor([1.0, 1e3])
    found = str(btl.diagnose(dataclasses.replace(posterior, theta=posterior.theta | {name: longer})))
    assert f"edge: {name}[ratio]" in found
    assert "straight line along it" in found
    assert f"edge: {name}[temp]" not in found


def test_a_change_that_one_row_makes_is_not_certain():
    """One of the squared errors is 95 % of all: how much smaller they became is that row's, and the standard error says so."""
    rng = np.random.default_rng(0)
    other = rng.standard_normal(14)
    error = 0.95 * other
    other[3], error[3] = 20.0, 13.0
    change, spread = _rmse_change(error, other, np.arange(14))
    assert change == pytest.approx(-0.34, abs=0.02)
    assert spread > 0.25
    many = rng.standard_normal(4000)
    change, spread = _rmse_change(0.8 * many, many, np.arange(4000))
    assert change == pytest.approx(-0.2)
    assert spread < 1e-9  # all rows agree
    a, b = rng.standard_normal((2, 4000))
    delta = 0.5 * np.std(a**2 - b**2) / 4000**0.5  # of two independent errors of one size, to first order
    assert _rmse_change(a, b, np.arange(4000))[1] == pytest.approx(delta, rel=0.1)


# -- materials under several conditions ---------------------------------------------------------------------------------------


def under_conditions(seed, materials=range(30), per=4):
    """Materials whose descriptors do not tell all of them, each measured at a few temperatures."""
    rng = np.random.default_rng(seed)
    x, own, drift = rng.random((80, 3)), 0.3 * rng.standard_normal(80), rng.random(80)
    chosen = np.repeat(np.array(materials), per)
    frame = pd.DataFrame(x[chosen], columns=["a", "b", "c"]).assign(material=chosen)
    frame["kelvin"] = np.tile(np.linspace(300, 450, per), len(materials))
    base = np.sin(4 * x[:, 0]) + x[:, 1] + own
    frame["y"] = base[chosen] + (0.004 + 0.001 * drift[chosen]) * (frame["kelvin"] - 300)
    frame["y"] += 0.05 * np.random.default_rng(seed + 99).standard_normal(len(frame))
    return frame


def test_intervals_hold_for_new_materials_of_which_each_was_measured_at_several_conditions():
    """Of what a material has of its own there is one value, however many temperatures it was measured at."""
    found, plain = [], []
    for seed in range(4):
        train, test = under_conditions(seed), under_conditions(seed, range(30, 80))
        data = btl.TaskData.from_wide(train, inputs=["a", "b", "c", "kelvin"], tasks=["y"])
        assert data.repeated == ("a", "b", "c")
        for kernel, into in ((None, found), (btl.Matern52(), plain)):
            posterior = btl.fit(btl.SingleTask(kernel), data, seed=0, progress=False)
            out = (
                posterior.predict(test, quantiles=(0.05, 0.95))["quantile"]
                .squeeze()
                .transpose("quantile_level", "row")
                .values
            )
            into.append(((out[0] <= test["y"]) & (test["y"] <= out[1])).mean())
        assert isinstance(posterior.model.kernel, btl.Matern52)
    assert 0.84 < np.mean(found) < 0.96
    assert np.mean(plain) < 0.8


def test_effects_of_materials_that_add_to_those_of_conditions_stay_smooth():
    """A smooth function of few materials and of conditions, one added to the other, is no property of each material."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        a, b, kelvin = (column[:, None] + np.zeros(5) for column in rng.random((3, 12)))
        kelvin = np.linspace(0, 1, 5) + np.zeros((12, 1))
        frame = pd.DataFrame({"a": a.ravel(), "b": b.ravel(), "kelvin": kelvin.ravel()})
        new = pd.DataFrame(rng.random((200, 3)), columns=["a", "b", "kelvin"])
        noisefree = [np.sin(4 * own["a"]) + own["b"] ** 2 + np.cos(3 * own["kelvin"]) for own in (frame, new)]
        frame["y"] = noisefree[0] + 0.03 * rng.standard_normal(60)
        data = btl.TaskData.from_wide(frame, inputs=["a", "b", "kelvin"], tasks=["y"])
        assert data.repeated == ("a", "b")
        posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
        error = posterior.predict(new, task="y", noise=False)["mean"].values - noisefree[1]
        assert np.sqrt(np.mean(error**2)) < 0.25 * noisefree[1].std()  # about one, if each has a constant of its own


def test_materials_are_left_out_whole():
    frame = under_conditions(0)
    data = btl.TaskData.from_wide(frame, inputs=["a", "b", "c", "kelvin"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    whole, named = (btl.leave_out(posterior, by=by) for by in ("materials", frame["material"]))
    np.testing.assert_array_equal(whole["log_density"], named["log_density"])
    said = btl.diagnose(posterior)
    assert "all of the same 'a', 'b', 'c', 30 in all" in str(said)
    assert "materials" not in [finding.name for finding in said.findings]
    lone = btl.TaskData.from_wide(frame.iloc[::4], inputs=["a", "b", "c"], tasks=["y"])
    assert lone.repeated == ()
    with pytest.raises(btl.DataError, match="by='materials' has no meaning here"):
        btl.leave_out(btl.fit(btl.SingleTask(), lone, method="map"), by="materials")


def test_few_materials_under_many_conditions_are_named():
    frame = under_conditions(0).iloc[:16]  # four materials
    data = btl.TaskData.from_wide(frame, inputs=["a", "b", "c", "kelvin"], tasks=["y"])
    assert data.repeated == ()
    few = btl.diagnose(btl.fit(btl.SingleTask(), data, method="map", progress=False))["materials"]
    assert few.value == 4
    assert "'a', 'b', 'c'" in few.meaning


def test_which_inputs_repeat():
    rng = np.random.default_rng(0)

    def repeated(frame, inputs, **options):
        frame = frame.assign(y=rng.random(len(frame)))
        return btl.TaskData.from_wide(frame, inputs=inputs, tasks=["y"], **options).repeated

    formulas = pd.DataFrame(
        {"formula": ["GaAs", "InP", "ZnO", "CdS", "MgO", "Si"] * 3, "kelvin": np.repeat([300, 400, 500], 6)}
    )
    assert repeated(formulas, ["formula", "kelvin"], features={"formula": btl.Compositions()}) == ("formula",)
    assert repeated(
        formulas.assign(kelvin=rng.random(18)), ["formula", "kelvin"], features={"formula": btl.Compositions()}
    )
    assert (
        repeated(formulas, ["formula", "kelvin"], categorical=["formula"], features={}) == ()
    )  # nothing else is told of them
    two = under_conditions(0).assign(bar=rng.random(120))
    assert repeated(two, ["a", "b", "c", "kelvin", "bar"]) == ("a", "b", "c")
    assert repeated(two, ["a", "kelvin", "bar"]) == ()  # most of the inputs vary
    wide, narrow = (np.array(np.meshgrid(*map(range, sizes))).reshape(len(sizes), -1) for sizes in ((9, 4), (6, 6, 4)))
    assert repeated(pd.DataFrame(wide.T, columns=["c", "kelvin"]), ["c", "kelvin"]) == ()  # factors are no materials
    assert repeated(pd.DataFrame(narrow.T, columns=["c", "d", "kelvin"]), ["d", "c", "kelvin"]) == ()
    pairs = pd.DataFrame(list(itertools.product(formulas["formula"].unique(), repeat=2)), columns=["film", "base"])
    both = {"film": btl.Compositions(), "base": btl.Compositions()}
    assert repeated(pairs, ["film", "base"], features=both) == ()  # either would do, and the order does not decide
    coarse = pd.DataFrame(rng.random((100, 6)), columns=list("abcdef")).assign(a=rng.integers(0, 20, 100))
    assert repeated(coarse, list("abcdef")) == ()


def test_probabilities_of_classes_are_judged():
    rng = np.random.default_rng(0)
    x = rng.random(60)
    frame = pd.DataFrame({"x": x, "told": x > 0.5, "noise": rng.random(60) > 0.5})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["told", "noise"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    found = btl.diagnose(posterior).findings
    told = next(own for own in found if own.name == "log loss of told")
    assert told.level == "good"
    scored = btl.leave_out(posterior)
    assert told.value == pytest.approx(btl.scores(scored).loc["told", "nlpd"], rel=0.05)
    swapped = posterior.score(data)
    swapped["class_measured"] = 1 - swapped["class_measured"]
    swapped["log_density"] = np.log1p(-np.exp(swapped["log_density"]))
    from bayestl.diagnostics import _of_classes

    assert _of_classes("told", btl.scores(swapped).loc["told"], swapped).level == "warning"


def test_parity_shows_intervals_as_they_are():
    rng = np.random.default_rng(0)
    x = rng.random(40)
    frame = pd.DataFrame({"x": x, "y": np.exp(8 * x + 0.2 * rng.standard_normal(40))})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Gaussian(btl.Log())})
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    scored = posterior.score(data)
    expected = posterior.predict(frame, task="y", quantiles=(0.05, 0.5, 0.95))["quantile"].transpose(
        "quantile_level", "row"
    )
    for found, wanted in zip((scored["lower_90"], scored["median"], scored["upper_90"]), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    ax = plots.plot_parity(scored)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert btl.scores(scored).loc["y", "width_90"] == pytest.approx(
        float((scored["upper_90"] - scored["lower_90"]).median())
    )


def test_scores_of_a_mode_are_said_to_flatter():
    x = np.linspace(0, 1, 14)
    data = btl.TaskData.from_wide(pd.DataFrame({"x": x, "y": np.sin(6 * x)}), inputs=["x"], tasks=["y"])
    mode, whole = (btl.fit(btl.SingleTask(), data, seed=0, method=m, progress=False) for m in ("map", "variational"))
    with pytest.warns(UserWarning, match="the mode of theta alone: .* flatters"):
        table = btl.compare({"mode": mode, "whole": whole}, target="y")
    assert np.isnan(table.loc["mode", "bad_k"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert btl.compare({"whole": whole}, target="y")["bad_k"].dtype == int
