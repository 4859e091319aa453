import dataclasses
import subprocess
import sys
import warnings
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pytest
import scipy.integrate
import scipy.stats
import torch
import xarray as xr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

import bayestl as btl
from bayestl import storage
from bayestl.archive import prior_draws
from bayestl.fewshot import alike, widen
from bayestl.likelihoods.base import Rows
from bayestl.likelihoods.numeric import NOISE_FLOOR
from bayestl.models.problem import Problem
from bayestl.scaling import Pairs, Scaling

from .conftest import MODELS, grid, table


def test_one_draw_agrees_with_scikit_learn():
    """A single task at fixed theta is scikit-learn's Gaussian process."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"p": rng.random(20), "q": rng.random(20)}).assign(y=lambda f: np.sin(5 * f["p"]) + f["q"])
    data = btl.TaskData.from_wide(frame, inputs=["p", "q"], tasks=["y"])
    scaling = Scaling.of_inputs(data, np.zeros(1), np.ones(1), unscaled={"p", "q"})
    theta = {
        "amplitude": torch.tensor([[1.3]]).double(),
        "noise": torch.tensor([[0.1]]).double(),
        "y.length_scale": torch.tensor([[0.4, 0.9]]).double(),
    }
    posterior = btl.Posterior(btl.SingleTask(), data, scaling, theta, None)
    kernel = ConstantKernel(1.0) + ConstantKernel(1.69) * Matern([0.4, 0.9], nu=2.5) + WhiteKernel(0.01 + 1e-6)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(frame[["p", "q"]], frame["y"])
    new = pd.DataFrame(rng.random((5, 2)), columns=["p", "q"])
    ours = posterior.predict(new, "y", quantiles=[0.1, 0.9])
    mean, std = theirs.predict(new, return_std=True)
    np.testing.assert_allclose(ours["mean"], mean, rtol=1e-8)
    np.testing.assert_allclose(ours["std"], std, rtol=1e-7)
    np.testing.assert_allclose(ours["quantile"][1], scipy.stats.norm.ppf(0.9, mean, std), rtol=1e-7)


def test_predictions_are_labelled_and_coherent(posterior):
    new = grid().set_index(pd.Index(list("abcdefg"), name="compound"))
    out = posterior.predict(new, quantiles=[0.05, 0.25, 0.5, 0.75, 0.95])
    assert out["mean"].dims == ("row", "task")
    assert out["quantile"].dims == ("quantile_level", "row", "task")
    assert out["row"].values.tolist() == list("abcdefg")
    assert out["mean"].attrs["units"] == "eV"
    assert (out["quantile"].diff("quantile_level") > 0).all()
    one = posterior.predict(new, task="b", quantiles=[0.25])
    assert one["mean"].dims == ("row",)
    np.testing.assert_allclose(one["mean"], out["mean"].sel(task="b"), rtol=1e-12)
    quiet = posterior.predict(new, noise=False)
    assert (quiet["std"] < out["std"]).all()
    np.testing.assert_allclose(quiet["mean"], out["mean"])


def test_a_row_is_predicted_alike_alone_and_among_many(posterior):
    new = grid(40)
    together = posterior.predict(new)
    alone = posterior.predict(new.iloc[[17]])
    np.testing.assert_allclose(alone["mean"][0], together["mean"][17], rtol=1e-10)
    np.testing.assert_allclose(alone["quantile"][:, 0], together["quantile"][:, 17], rtol=1e-8)


def test_joint_draws_have_the_predicted_moments(posterior):
    new = grid(3)
    draws = posterior.sample(new, draws=8000, seed=1)
    assert draws.dims == ("draw", "row", "task")
    out = posterior.predict(new, noise=False)
    error = out["std"] / np.sqrt(8000)
    assert (np.abs(draws.mean("draw") - out["mean"]) < 5 * error).all()
    np.testing.assert_allclose(draws.std("draw"), out["std"], rtol=0.05)
    noisy = posterior.sample(new, "b", draws=8000, seed=1, noise=True)
    np.testing.assert_allclose(noisy.std("draw"), posterior.predict(new, "b")["std"], rtol=0.05)
    np.testing.assert_array_equal(draws, posterior.sample(new, draws=8000, seed=1))


def test_rows_drawn_apart_have_the_laws_and_links_of_tasks_and_none_of_rows(posterior):
    new = pd.concat([grid(), grid().iloc[:1]], ignore_index=True)  # the first row twice
    drawn = posterior.sample(new, draws=20_000, joint=False)
    out = posterior.predict(new, noise=False)
    np.testing.assert_allclose(drawn.mean("draw"), out["mean"], atol=0.05 * float(out["std"].max()))
    np.testing.assert_allclose(drawn.std("draw"), out["std"], rtol=0.05, atol=1e-6)
    names = posterior.data.names
    gap = {j: posterior.derive(lambda y: y[names[1]] - y[names[0]], new, draws=20_000, joint=j) for j in (True, False)}
    np.testing.assert_allclose(gap[False]["std"], gap[True]["std"], rtol=0.06)
    one = dataclasses.replace(
        posterior, theta={name: value[:1] for name, value in posterior.theta.items()}, components=1
    )
    first, last = one.sample(new, draws=4000, joint=False).isel(task=1, row=[0, -1]).values.T
    assert abs(np.corrcoef(first, last)[0, 1]) < 0.1
    together = posterior.sample(new, draws=100).isel(task=1)
    np.testing.assert_allclose(together.isel(row=0), together.isel(row=-1), atol=1e-4)  # up to jitter


def test_derived_quantities_know_what_correlation_buys(posterior):
    new = grid(5)
    out = posterior.derive(lambda y: y["b"] - y["a"], new, draws=4000)
    draws = posterior.sample(new, draws=4000)
    np.testing.assert_allclose(out["std"], (draws.sel(task="b") - draws.sel(task="a")).std("draw"))
    apart = np.hypot(draws.sel(task="a").std("draw"), draws.sel(task="b").std("draw"))
    np.testing.assert_allclose(out["std_independent"], apart, rtol=0.06)
    assert out["quantile"].dims == ("quantile_level", "row")
    with pytest.raises(ValueError, match="keeps the dimension 'draw'"):
        posterior.derive(lambda y: y["a"].mean("draw"), new)


@pytest.mark.parametrize(
    ("function", "unit"),
    [
        (lambda y: y["a"] - y["b"], "eV"),
        (lambda y: np.maximum(y["a"], y["b"]), "eV"),
        (lambda y: y["a"] * y["b"] / y["c"], "eV"),
        (lambda y: y["a"] * y["b"], None),
        (lambda y: y["a"] / y["b"], None),
        (lambda y: y["a"] > y["b"], None),
        (lambda y: y["a"] > 1e6, None),  # never
        (lambda y: (y["a"] * y["b"]).assign_attrs(units="eV2"), "eV2"),
    ],
)
def test_a_derived_quantity_has_the_unit_of_what_it_is(posterior, function, unit):
    found = posterior.derive(function, grid(), draws=40)
    assert {array.attrs.get("units") for array in found.values()} == {unit}


def test_task_correlation_is_a_correlation(posterior):
    c = posterior.task_correlation()
    np.testing.assert_allclose(np.diag(c["mean"]), 1.0)
    np.testing.assert_allclose(c["mean"], c["mean"].T)
    assert (np.abs(c["mean"]) <= 1 + 1e-12).all()
    if isinstance(posterior.model, btl.SingleTask):
        np.testing.assert_allclose(c["mean"], np.eye(3))


def test_conditioning_is_a_fit_with_the_same_theta(posterior, data):
    more = table(9, seed=5)
    updated = posterior.condition(more)
    whole = btl.Posterior(
        posterior.model, data.append(more), posterior.scaling, posterior.theta, posterior.record, posterior.components
    )
    new = grid()
    np.testing.assert_allclose(updated.predict(new)["mean"], whole.predict(new)["mean"], rtol=1e-9)
    assert (updated.predict(new, noise=False)["std"] < posterior.predict(new, noise=False)["std"] + 1e-9).mean() > 0.7
    assert len(posterior.data) == len(data)


def test_order_of_conditioning_does_not_matter(posterior):
    first, second, new = table(6, seed=5), table(6, seed=6), grid()
    one, other = posterior.condition(first).condition(second), posterior.condition(second).condition(first)
    np.testing.assert_allclose(one.predict(new)["mean"], other.predict(new)["mean"], rtol=1e-8)


def test_units_do_not_matter(model):
    """A fit in other units is the same fit: to the last bits for units that are powers of two."""
    frame = table().to_frame().reset_index(drop=True)
    options = {"inputs": ["x0", "x1", "phase"], "task": "task", "value": "value", "error": "error"}
    small = btl.TaskData.from_long(frame, **options)
    large = btl.TaskData.from_long(
        frame.assign(x0=frame["x0"] * 1024, value=frame["value"] * 1024, error=frame["error"] * 1024), **options
    )
    new = grid()
    ours, theirs = btl.fit(model, small).predict(new), btl.fit(model, large).predict(new.assign(x0=new["x0"] * 1024))
    np.testing.assert_allclose(theirs["mean"] / 1024, ours["mean"], rtol=1e-9)
    np.testing.assert_allclose(theirs["std"] / 1024, ours["std"], rtol=1e-9)


def test_known_errors_are_used():
    """The more precise of two contradicting rows wins, and a task of known errors predicts with those errors."""
    frame = pd.DataFrame(
        {"x": np.tile(np.linspace(0, 1, 8), 2), "y": np.r_[np.zeros(8), np.ones(8)], "e": [0.01] * 8 + [1.0] * 8}
    )
    data = btl.TaskData.from_long(frame.assign(task="t"), inputs=["x"], task="task", value="y", error="e")
    posterior = btl.fit(btl.SingleTask(), data)
    out = posterior.predict({"x": [0.5]}, "t", noise=False)
    assert abs(float(out["mean"][0])) < 0.05
    noisy = posterior.predict({"x": [0.5]}, "t")
    expected = np.sqrt(np.mean(frame["e"] ** 2) + float(out["std"][0]) ** 2)
    assert float(noisy["std"][0]) == pytest.approx(expected, rel=0.01)


def test_log_likelihood_is_leave_one_out(posterior, data):
    """exp of each entry is the density of that row under the posterior without it, at the same theta."""
    ours = posterior.log_likelihood()
    i = 4
    rest = data.where(np.arange(len(data)) != i)
    without = btl.Posterior(posterior.model, rest, posterior.scaling, posterior.theta, None)
    only = data.to_frame().iloc[[i]]
    task = int(data.task_index[i])
    mean, cov = without._marginals(without._inputs(only)[1], task)
    mean, problem = mean[..., 0], posterior._problem
    rows = problem.rows(task, torch.tensor([i]))
    variance = cov[:, 0, 0, 0] + problem.measurement_noise(posterior.theta, task, rows)[:, 0]
    scale, location = posterior.scaling.scale[data.task_index[i]], posterior.scaling.location[data.task_index[i]]
    expected = scipy.stats.norm.logpdf(
        data.values[i], mean[:, 0].numpy() * scale + location, np.sqrt(variance.numpy()) * scale
    )
    np.testing.assert_allclose(ours[:, i], expected, rtol=1e-7, atol=1e-7)


def test_scores_of_values_without_an_error_are_those_of_the_mixture(posterior):
    """The noise is that of the rows without an error, of those that the fit saw."""
    test, problem = table(12, seed=9), posterior._problem
    score = posterior.score(test)
    for i in np.flatnonzero(np.isnan(test.errors)):
        t, row = int(test.task_index[i]), test.to_frame().iloc[[i]]
        mean, cov = posterior._marginals(posterior._inputs(row)[1], t)
        noise = posterior._mixed["noise"][:, problem.layout.noisy.index(t)].square() + NOISE_FLOOR
        mean, std = mean[:, 0, 0], (cov[:, 0, 0, 0] + noise).sqrt()
        location, scale = posterior.scaling.location[t], posterior.scaling.scale[t]
        y = (test.values[i] - location) / scale
        assert float(score["pit"][i]) == pytest.approx(float(torch.special.ndtr((y - mean) / std).mean()), abs=1e-9)
    z = np.random.default_rng(1).standard_normal((200, len(mean)))
    draws = location + scale * (mean.numpy() + std.numpy() * z).ravel()
    crps = (
        np.abs(draws - test.values[i]).mean() - np.abs(draws - np.random.default_rng(0).permutation(draws)).mean() / 2
    )
    assert float(score["crps"][i]) == pytest.approx(crps, abs=0.05 * draws.std())


@pytest.mark.parametrize("model", [btl.MultiTask(), btl.LatentTask(), btl.Difference.chain("a", "b", "c")], ids=repr)
def test_score_agrees_with_predict(model):
    """Where no errors are known a measured value is the quantile that its score says."""

    def read(rows, seed):
        frame = table(rows, seed=seed).to_frame().drop(columns="error")
        return btl.TaskData.from_long(
            frame, inputs=["x0", "x1", "phase"], task="task", value="value", tasks=["a", "b", "c"]
        )

    posterior, test = btl.fit(model, read(24, 0), method="map", progress=False), read(12, 9)
    levels = posterior.score(test)["pit"].values
    for i, level in enumerate(levels):
        row = test.to_frame().iloc[[i]]
        if 1e-6 < level < 1 - 1e-6:
            quantile = posterior.predict(row, task=row["task"].iloc[0], quantiles=[level])["quantile"]
            assert float(quantile[0, 0]) == pytest.approx(test.values[i], abs=1e-6)


def test_wrong_questions_are_answered_clearly(posterior):
    with pytest.raises(btl.DataError, match="Unknown task 'z'"):
        posterior.predict(grid(), task="z")
    with pytest.raises(btl.DataError, match="lacks columns 'phase'"):
        posterior.predict(grid().drop(columns="phase"))
    with pytest.raises(btl.DataError, match="never seen in the data: 'glass'"):
        posterior.predict(grid().assign(phase="glass"))
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        posterior.predict(grid(), quantiles=[0.5, 1.0])
    with pytest.raises(ValueError, match="do not fit in 4 GB"):
        posterior.sample(grid(200_000))
    with pytest.raises(ValueError, match="`draws`"):
        posterior.sample(grid(), draws=0)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        posterior.predict(grid(), quantiles=[])
    with pytest.raises(btl.DataError, match="no rows"):
        posterior.predict(grid().iloc[:0])
    with pytest.raises(btl.DataError, match="each once"):
        posterior.predict(grid(), task=["a", "a"])
    with pytest.raises(btl.DataError, match="Expected the name of a task, or a list of names; got 0"):
        posterior.predict(grid(), task=0)
    with pytest.raises(ValueError, match=r"list of levels; got 0\.9"):
        posterior.predict(grid(), quantiles=0.9)
    for ask in (posterior.condition, posterior.score):
        with pytest.raises(btl.DataError, match=r"must be a TaskData .* got DataFrame"):
            ask(grid())
    with pytest.raises(FileNotFoundError, match="no folder"):
        posterior.save("nowhere/at-all/posterior.nc")


def test_any_index_names_the_rows(posterior):
    for index in (
        pd.Index(["p", "q"], name="task"),
        pd.CategoricalIndex(["p", "q"]),
        pd.MultiIndex.from_tuples([("Fe", 111), ("Cu", 100)]),
    ):
        out = posterior.predict(grid(2).set_index(index))
        assert [str(row) for row in out["row"].values] == [str(row) for row in index]
        assert out["mean"].dims == ("row", "task")
        assert out["task"].values.tolist() == ["a", "b", "c"]
        assert posterior.sample(grid(2).set_index(index), draws=3).dims == ("draw", "row", "task")


def test_rows_are_grouped_by_their_own_labels_after_a_file_too(tmp_path):
    index = pd.MultiIndex.from_product([["Fe", "Cu", "Ni"], [111, 100]], names=["metal", "facet"])
    frame = pd.DataFrame({"x": np.linspace(0, 1, 6), "a": np.arange(6.0)}, index=index)
    metal = pd.Series(index.get_level_values("metal"), index)
    posterior = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a"]), method="map")
    again = btl.load(posterior.save(tmp_path / "posterior.nc"))
    a, b = (btl.leave_out(one, by=metal) for one in (posterior, again))
    assert a["group"].values.tolist() == b["group"].values.tolist() == ["Fe", "Fe", "Cu", "Cu", "Ni", "Ni"]
    np.testing.assert_array_equal(a["log_density"], b["log_density"])


def test_odd_task_names_survive_a_file(tmp_path):
    frame = pd.DataFrame({"x": np.linspace(0, 1, 8), "a/b": np.arange(8.0), "a__b": np.arange(8.0) ** 2, "noise": 1.0})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a/b", "a__b", "noise"])
    posterior = btl.fit(btl.SingleTask(), data, method="map")
    again = btl.load(posterior.save(tmp_path / "posterior.nc"))
    xr.testing.assert_identical(again.predict(frame), posterior.predict(frame))


# -- new tasks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family():
    rng = np.random.default_rng(1)
    x, z = rng.random((8, 9)), rng.normal(size=8)
    y = np.sin(4 * x) + z[:, None] * np.cos(4 * x) + 0.05 * rng.standard_normal((8, 9))
    frame = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "task": [f"t{t}" for t in range(8) for _ in range(9)]})
    data = btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y")
    return btl.fit(btl.LatentTask(dim=1), data, seed=0)


def rows_of(z, count):
    x = np.linspace(0.1, 0.9, count)
    frame = pd.DataFrame({"x": x, "y": np.sin(4 * x) + z * np.cos(4 * x), "task": "new"})
    return btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y")


def test_a_new_task_is_wide_without_rows_and_narrows_with_them(family):
    at = {"x": np.linspace(0, 1, 11)}
    truth = np.sin(4 * at["x"]) - 1.5 * np.cos(4 * at["x"])
    none = family.new_task("new")
    few = family.new_task("new", rows_of(-1.5, 3))
    assert none.predict(at, "new")["std"].mean() > 3 * few.predict(at, "new")["std"].mean()
    assert np.abs(few.predict(at, "new")["mean"] - truth).mean() < 0.25
    np.testing.assert_allclose(none.predict(at, "t0")["mean"], family.predict(at, "t0")["mean"], atol=0.05)
    assert len(few.data) == len(family.data) + 3


def test_the_first_draws_of_a_new_task_are_a_sample_of_all(family):
    """Decisions look at a few of the draws, the first."""
    few = family.new_task("new", rows_of(0.8, 2), draws=256)
    owners = [len(few.theta["common"][:k].unique()) for k in (16, 256)]
    assert owners[1] > 16
    assert owners[0] > 8


def test_a_new_task_without_rows_takes_all_of_its_law_for_every_draw_of_the_others(family):
    none = family.new_task("new", draws=256)
    _, owner = none.theta["common"].unique(dim=0, return_inverse=True)
    owner = owner.flatten()
    assert len(owner.unique()) == family.components < 256
    assert len(owner[:16].unique()) > 8
    embedding = none.theta["embedding"][:, -1, 0]
    within = torch.stack([embedding[owner == own].std() for own in owner.unique()])
    assert within.mean() > 0.6 * embedding.std()  # a third of that where all lie in one stratum
    early, late = embedding[:64], embedding[64:]
    assert abs(early.mean() - late.mean()) < 0.3 * embedding.std()


def test_new_tasks_one_after_another():
    """A mean of equal numbers may be off by a rounding, and then looks like another scale."""
    frame = pd.DataFrame({"x": np.linspace(0, 1, 40), "task": [f"t{k}" for k in range(5)] * 8})
    for seed in range(12):
        frame["y"] = np.sin(5 * frame["x"]) + 0.3 * np.random.default_rng(seed).random(40)
        units = dict.fromkeys(frame["task"].unique(), "eV")
        data = btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y", units=units)
        scaling = btl.LatentTask().scaling(data)
        for number in range(3):
            _, data, scaling = widen(data, scaling, scaling.layout(data), f"n{number}", None, None)


def test_a_new_task_of_classes_takes_after_the_task_that_has_them():
    rng = np.random.default_rng(0)
    x = rng.random(30)
    frame = pd.DataFrame({"x": x, "phase": np.where(x > 0.5, "p", "q")})
    for name in ("first", "second"):
        frame[name] = np.where(x + 0.2 * rng.normal(size=30) > 0.5, "good", "bad")
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["phase", "first", "second"])
    rows = btl.TaskData.from_wide(
        pd.DataFrame({"x": [0.1, 0.9, 0.8], "third": ["bad", "good", "good"]}), inputs=["x"], tasks=["third"]
    )
    grown = btl.fit(btl.LatentTask(dim=1), data, method="map").new_task("third", rows)
    chance = grown.predict({"x": [0.05, 0.95]}, "third")["probability"]
    assert chance["class"].values.tolist() == ["bad", "good"]
    assert float(chance[0, 0]) > 0.5 > float(chance[1, 0])


def test_all_tasks_of_the_same_classes_tell_where_a_new_one_lies():
    """Not the first alone; and of several kinds of tasks that have the classes none is guessed."""
    rng = np.random.default_rng(0)
    x = rng.random(80)
    frame = pd.DataFrame({"x": x})
    for i, cut in enumerate([0.97, 0.4, 0.45, 0.35, 0.5]):
        frame[f"t{i}"] = np.where(x + 0.1 * rng.normal(size=80) > cut, "yes", "no")
    frame["other"] = np.where(x > 0.5, "yes", np.where(x > 0.2, "perhaps", "no"))
    tasks = [f"t{i}" for i in range(5)]
    rows = btl.TaskData.from_wide(
        pd.DataFrame({"x": [0.6], "n": ["yes"]}), inputs=["x"], tasks=["n"], likelihoods={"n": btl.Bernoulli()}
    )
    assert alike(btl.TaskData.from_wide(frame, inputs=["x"], tasks=tasks), rows) == [0, 1, 2, 3, 4]
    laws = dict.fromkeys([*tasks, "other"], btl.Categorical())
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=[*tasks, "other"], likelihoods=laws)

    def shown(*classes):
        new = pd.DataFrame({"x": np.linspace(0, 1, len(classes)), "n": classes})
        return btl.TaskData.from_wide(new, inputs=["x"], tasks=["n"], likelihoods={"n": btl.Categorical()})

    assert alike(data, shown("yes", "no")) == [0, 1, 2, 3, 4]
    assert alike(data, shown("yes", "perhaps")) == [5]
    with pytest.raises(btl.DataError, match="several kinds of tasks have"):
        alike(data.select(["t0", "other"]), shown("yes", "yes", "yes"))


def test_few_rows_of_a_new_task_need_not_show_every_class():
    rng = np.random.default_rng(0)
    x = rng.random(40)
    frame = pd.DataFrame({"x": x})
    for name in ("first", "second"):
        at = x + 0.1 * rng.normal(size=40)
        frame[name] = pd.Categorical(
            np.where(at > 0.7, "hi", np.where(at > 0.3, "mid", "lo")), ["lo", "mid", "hi"], ordered=True
        )
        frame[f"{name} works"] = np.where(at > 0.5, "yes", "no")
    tasks = ["first", "second", "first works", "second works"]
    posterior = btl.fit(btl.LatentTask(dim=1), btl.TaskData.from_wide(frame, inputs=["x"], tasks=tasks), method="map")
    few = pd.DataFrame({"x": [0.6, 0.9], "rating": pd.Categorical(["mid", "mid"], ["lo", "mid", "hi"], ordered=True)})
    for column, law, classes in (
        ("rating", btl.Ordinal(), ["lo", "mid", "hi"]),
        ("works", btl.Bernoulli(), ["no", "yes"]),
    ):
        new = few.rename(columns={"rating": column}).assign(**({} if column == "rating" else {column: ["yes", "yes"]}))
        rows = btl.TaskData.from_wide(new, inputs=["x"], tasks=[column], likelihoods={column: law})
        chance = posterior.new_task(column, rows).predict({"x": [0.62]}, column)["probability"]
        assert chance["class"].values.tolist() == classes
        assert chance.values.argmax() == 1
    strange = btl.TaskData.from_wide(few.assign(rating=["a", "b"]), inputs=["x"], tasks=["rating"])
    with pytest.raises(btl.DataError, match="classes 'a', 'b'"):
        posterior.new_task("rating", strange)


def test_new_task_agrees_with_weighing_by_brute_force(family):
    """Moments of the prediction, from plain importance sampling of many prior draws of the new task."""
    rows, at = rows_of(0.8, 2), {"x": [0.3, 0.95]}
    few = family.new_task("new", rows, draws=2000)
    many = family.new_task("new", draws=20_000, seed=7)
    layout = many._problem.layout
    new = len(layout.outputs) - 1
    points = Pairs(many.scaling.inputs(rows.x), torch.full((len(rows),), new))
    log_weight, values = [], []
    y = torch.from_numpy((rows.values - many.scaling.location[-1]) / many.scaling.scale[-1])
    for part, theta, solved in many._regression.batches():
        cross = many.model.covariance(theta, points, many._problem.points, layout)
        k = solved.covariance(many.model.covariance(theta, points, points, layout), cross)
        k = k + torch.diag_embed((theta["noise"][:, -1:] ** 2 + 1e-6).expand(-1, len(y)))
        log_weight.append(torch.distributions.MultivariateNormal(solved.mean(cross), k).log_prob(y))
        one = btl.Posterior(many.model, many.data.append(rows), many.scaling, theta, None)
        values.append(one._marginals(many._inputs(at)[1], new)[0][..., 0])
        assert part.stop > 0
    weight = torch.softmax(torch.cat(log_weight), 0)
    expected = (weight[:, None] * torch.cat(values)).sum(0) * many.scaling.scale[-1] + many.scaling.location[-1]
    np.testing.assert_allclose(few.predict(at, "new")["mean"], expected, atol=0.03)


def test_new_tasks_are_refused_where_they_make_no_sense(family, data):
    with pytest.raises(btl.DataError, match="known already"):
        family.new_task("t0")
    with pytest.raises(btl.DataError, match="must hold the task 'other' alone"):
        family.new_task("other", rows_of(0, 2))
    with pytest.raises(btl.DataError, match="without task descriptors"):
        family.new_task("new", descriptors={"p": 1.0})
    with pytest.raises(ValueError, match="needs a model that embeds tasks"):
        btl.fit(btl.MultiTask(), data, method="map").new_task("new")
    frame = family.data.to_frame()
    mixed = btl.TaskData.from_long(
        frame.assign(value=np.where(frame["task"] == "t0", 1000, 1) * frame["value"]),
        inputs=["x"],
        task="task",
        value="value",
    )
    with pytest.raises(btl.DataError, match="differ in unit"):
        btl.fit(btl.LatentTask(dim=1), mixed, method="map").new_task("new")


def test_descriptors_tell_a_new_task_from_the_others():
    """Tasks whose slope is their descriptor: with no rows at all the new one is predicted from its descriptor."""
    rng = np.random.default_rng(0)
    slopes = np.linspace(-1, 1, 10)
    x = rng.random((10, 8))
    y = slopes[:, None] * (2 * x - 1) + 0.02 * rng.standard_normal((10, 8))
    names = [f"t{t}" for t in range(10)]
    frame = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "task": np.repeat(names, 8)})
    descriptors = pd.DataFrame({"slope": slopes}, index=names)
    data = btl.TaskData.from_long(
        frame, inputs=["x"], task="task", value="y", task_descriptors=descriptors, units=dict.fromkeys(names, "eV")
    )
    posterior = btl.fit(btl.LatentTask(dim=1), data, seed=0)
    up = posterior.new_task("up", descriptors={"slope": 0.9}).predict({"x": [0.0, 1.0]}, "up")
    assert float(up["mean"][1] - up["mean"][0]) > 0.9
    with pytest.raises(btl.DataError, match="mapping with keys slope"):
        posterior.new_task("up")


# -- files and ArviZ --------------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_the_same_bit_for_bit(posterior, tmp_path):
    path = posterior.save(tmp_path / "posterior.nc")
    again = btl.load(path)
    new = grid(20)
    xr.testing.assert_identical(posterior.predict(new), again.predict(new))
    xr.testing.assert_identical(posterior.sample(new), again.sample(new))
    assert again.model == posterior.model
    pd.testing.assert_frame_equal(again.data.to_frame(), posterior.data.to_frame())
    for field in dataclasses.fields(posterior.record):
        np.testing.assert_equal(getattr(again.record, field.name), getattr(posterior.record, field.name))


def test_another_process_reads_the_same_predictions(tmp_path):
    posterior = btl.fit(btl.Difference.chain("a", "b", "c"), table(), seed=0)
    posterior.save(tmp_path / "posterior.nc")
    grid().to_pickle(tmp_path / "grid.pkl")
    code = (
        "import sys, pandas as pd, bayestl as btl;"
        "p = btl.load(sys.argv[1] + '/posterior.nc'); g = pd.read_pickle(sys.argv[1] + '/grid.pkl');"
        "sys.stdout.buffer.write(p.predict(g)['quantile'].values.tobytes())"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], capture_output=True, check=True)
    assert out.stdout == posterior.predict(grid())["quantile"].values.tobytes()


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    posterior = btl.fit(btl.SingleTask(), table(12), method="map")
    path = posterior.save(tmp_path / "posterior.nc")
    content = path.read_bytes()
    cut = tmp_path / "cut.nc"
    lengths = {*range(64), *range(64, len(content), max(1, len(content) // 150)), len(content) - 1}
    for length in sorted(lengths):
        cut.write_bytes(content[:length])
        with pytest.raises(btl.DataError, match="damaged"):
            btl.load(cut)


def test_a_flipped_bit_in_the_data_is_noticed(tmp_path):
    posterior = btl.fit(btl.SingleTask(), table(12), method="map")
    path = posterior.save(tmp_path / "posterior.nc")
    content = bytearray(path.read_bytes())
    where = content.find(posterior.data.values.tobytes())
    assert where > 0
    content[where + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(btl.DataError, match="checksum"):
        btl.load(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # HDF5 files that cannot be closed
def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path):
    posterior = btl.fit(btl.SingleTask(), table().select(["a"]), draws=4, seed=0)
    path = posterior.save(tmp_path / "p.nc")
    content, expected = path.read_bytes(), posterior.predict(grid())["mean"]
    text = content.find(b'"components"')
    assert text > 0
    for where in [text - 20, text, text + 9, *np.random.default_rng(0).integers(len(content), size=60)]:
        flipped = bytearray(content)
        flipped[where] ^= 0x80
        path.write_bytes(flipped)
        try:
            found = btl.load(path)
        except btl.DataError:
            continue
        np.testing.assert_array_equal(found.predict(grid())["mean"], expected)


def test_foreign_newer_and_absent_files_are_told_apart(tmp_path):
    with pytest.raises(btl.DataError, match="There is no file"):
        btl.load(tmp_path / "nothing.nc")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(btl.DataError, match="not one that bayestl saved"):
        btl.load(tmp_path / "foreign.nc")
    path = storage.write(tmp_path / "newer.nc", {"a": np.ones(2)}, {})
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        newer = dataset.load().assign_attrs(bayestl_format=99)
    newer.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(btl.DataError, match="newer bayestl"):
        btl.load(path)


def test_a_users_kernel_must_be_given_again(tmp_path):
    import gpytorch

    def model(**options):
        return btl.MultiTask(kernel=gpytorch.kernels.MaternKernel(nu=2.5, **options))

    posterior = btl.fit(model(), table(15), method="map")
    path = posterior.save(tmp_path / "posterior.nc")
    with pytest.raises(btl.DataError, match="Give the same model again"):
        btl.load(path)
    with pytest.raises(btl.DataError, match="another model"):
        btl.load(path, model=btl.SingleTask())
    with pytest.raises(btl.DataError, match="another model"):
        btl.load(path, model=btl.MultiTask(kernel=gpytorch.kernels.MaternKernel(nu=0.5)))
    again = btl.load(path, model=model())
    xr.testing.assert_identical(again.predict(grid()), posterior.predict(grid()))


def test_sums_and_products_survive_a_file(tmp_path):
    kernel = btl.Matern52(["x0"]) * btl.Matern52(["phase"]) + btl.Matern52(["x1"])
    posterior = btl.fit(btl.LatentTask(kernel=kernel), table(15), method="map")
    again = btl.load(posterior.save(tmp_path / "posterior.nc"))
    assert again.model == posterior.model


GROUPS = {
    "posterior", "prior", "posterior_predictive", "prior_predictive", "log_likelihood", "log_prior", "observed_data",
    "constant_data",
}  # fmt: skip


def check_groups(tree, posterior, groups):
    assert set(groups) == GROUPS
    data = posterior.data
    assert tree["posterior"]["noise"].dims == ("chain", "draw", "task")
    assert tree["posterior"].sizes["draw"] == posterior.draws
    assert tree["posterior"]["noise"].attrs["units"] == "eV, eV, eV"
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "obs")
    np.testing.assert_array_equal(tree["observed_data"]["y"], data.values)
    assert tree["constant_data"]["x0"].attrs["units"] == "nm"
    assert tree["constant_data"]["known_error"].attrs["units"] == "eV"
    assert tree["log_likelihood"]["y"].attrs["units"] == "nat"
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        assert tree[group]["y"].attrs["units"] == "eV"
    predicted = tree["posterior_predictive"]["y"]
    spread = np.abs(predicted.mean(["chain", "draw"]) - data.values) / predicted.std(["chain", "draw"])
    assert float((spread < 3).mean()) > 0.9
    low, high = tree["prior_predictive"]["y"].quantile([0.16, 0.84])  # its tails are heavy: so is the prior of rho
    assert 0.3 < float(high - low) / 2 / data.values.std() < 3
    for group in ("posterior", "prior"):
        if isinstance(posterior.model, btl.SingleTask):
            assert "task_correlation" not in tree[group]
        else:
            correlation = tree[group]["task_correlation"]
            assert correlation["task_pair"].values.tolist() == ["a, b", "a, c", "b, c"]
            assert (np.abs(correlation) <= 1 + 1e-9).all()


def test_arviz_takes_it_as_it_is(posterior):
    arviz = pytest.importorskip("arviz")
    tree = btl.fit(posterior.model, posterior.data, draws=300).to_arviz()
    posterior = dataclasses.replace(posterior, theta={"noise": torch.empty(300, 3)})
    if arviz.__version__.startswith("0."):
        assert isinstance(tree, arviz.InferenceData)
        check_groups(tree, posterior, tree.groups())
    else:
        assert isinstance(tree, xr.DataTree)
        check_groups(tree, posterior, tree.children)
    summary = arviz.summary(tree, var_names=["noise"])
    assert len(summary) == 3
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter")  # of single rows among 24
        loo = arviz.loo(tree, var_name="y")
    assert np.isfinite(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)


def test_arviz_draws_the_posterior_as_it_stands(posterior):
    arviz = pytest.importorskip("arviz")
    tree = posterior.to_arviz()
    plots = ("plot_trace", "plot_posterior") if arviz.__version__.startswith("0.") else ("plot_trace_dist", "plot_dist")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in plots:
            getattr(arviz, name)(tree)
    plt.close("all")


def test_sensitivity_of_predictions_to_the_prior():
    arviz = pytest.importorskip("arviz")
    rng = np.random.default_rng(0)
    x = rng.random(60)
    frame = pd.DataFrame({"x": x, "a": np.sin(5 * x) + 0.05 * rng.standard_normal(60)})
    new, found = pd.DataFrame({"x": [0.2, 0.5, 0.8]}), []
    for rows in (5, 60):
        data = btl.TaskData.from_wide(frame.head(rows), inputs=["x"], tasks=["a"], units={"a": "eV"})
        posterior = btl.fit(btl.SingleTask(), data, seed=0)
        tree = posterior.to_arviz(task="a", new=new)
        prediction = tree["posterior"]["prediction"]
        assert prediction.attrs["units"] == "eV"
        middle = posterior.predict(new, task="a", noise=False)["mean"]
        draws = prediction[0, : posterior.components]
        np.testing.assert_allclose(draws.mean("draw"), middle, atol=1e-9)  # the mean of each is its median
        if arviz.__version__.startswith("0."):
            told = arviz.psens(tree, var_names=["prediction"])
        else:
            told = arviz.psense(tree, group="prior", var_names=["prediction"])
        told = told if isinstance(told, xr.DataArray) else told["prediction"]
        found.append(float(np.mean(told)))
    assert 0 <= found[1] < found[0]  # many rows overrule the prior
    with pytest.raises(ValueError, match="`new` needs `task`"):
        posterior.to_arviz(new=new)


def test_the_other_face_of_arviz(monkeypatch):
    """What ArviZ 1.x, or none at all, is handed: an xarray.DataTree with the same groups."""
    posterior = btl.fit(btl.MultiTask(), table(), seed=0)
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "arviz", None)
        assert isinstance(posterior.to_arviz(), xr.DataTree)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0.0")
    tree = posterior.to_arviz()
    assert isinstance(tree, xr.DataTree)
    check_groups(tree, posterior, tree.children)


@pytest.mark.parametrize("name", list(MODELS))
def test_length_scales_are_named_by_their_inputs(name):
    posterior = btl.fit(MODELS[name], table(15), method="map")
    tree = posterior.to_arviz()["posterior"]
    lengths = [v for v in tree if v.endswith("length_scale")]
    assert lengths
    for variable in lengths:
        assert tree[variable]["input"].values.tolist() == ["x0", "x1", "phase"]


def test_two_replicates_do_not_make_a_task_look_certain():
    """A target known by two like values elsewhere: the interval must still hold its other values."""
    rng = np.random.default_rng(3)
    x = rng.random(20)
    source = pd.DataFrame({"x": x, "task": "a", "y": np.sin(6 * x)})
    target = pd.DataFrame({"x": [0.2, 0.2], "task": "b", "y": np.sin(1.2) + np.array([0.5, 0.501])})
    data = btl.TaskData.from_long(pd.concat([source, target], ignore_index=True), inputs=["x"], task="task", value="y")
    for model in (btl.MultiTask(), btl.Difference(), btl.LatentTask()):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
            out = btl.fit(model, data).predict({"x": np.linspace(0, 1, 9)}, "b")
        error = np.abs(out["mean"] - (np.sin(6 * np.linspace(0, 1, 9)) + 0.5))
        assert (error < 4 * out["std"]).all()


def test_units_are_minded(family):
    rows = rows_of(1.0, 3)
    other = dataclasses.replace(rows, tasks=(dataclasses.replace(rows.tasks[0], unit="meV"),))
    with pytest.raises(btl.DataError, match="Convert them"):
        family.new_task("new", other)
    frame = table().to_frame().assign(unit=1)
    in_mev = btl.TaskData.from_long(
        frame, inputs=["x0", "x1", "phase"], task="task", value="value", units=dict.fromkeys("abc", "meV")
    )
    with pytest.raises(btl.DataError, match="has unit 'meV'"):
        btl.fit(btl.SingleTask(), table(), method="map").score(in_mev)


def test_a_second_new_task_keeps_the_meaning_of_descriptors():
    rng = np.random.default_rng(0)
    names = [f"t{t}" for t in range(6)]
    frame = pd.DataFrame({"x": rng.random(36), "y": rng.normal(size=36), "task": np.repeat(names, 6)})
    descriptors = pd.DataFrame({"d": np.arange(6.0)}, index=names)
    data = btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y", task_descriptors=descriptors)
    posterior = btl.fit(btl.LatentTask(dim=1), data, method="map")
    alone = posterior.new_task("one", descriptors={"d": 1.0})
    after = posterior.new_task("far", descriptors={"d": 50.0}).new_task("one", descriptors={"d": 1.0})
    assert alone._problem.layout.descriptors[-1] == after._problem.layout.descriptors[-1]


def test_dense_grids_of_nearly_noise_free_data_can_be_sampled():
    x = np.linspace(0, 1, 30)
    frame = pd.DataFrame({"x": x, "task": "a", "y": np.sin(5 * x), "e": 0.0})
    data = btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y", error="e")
    draws = btl.fit(btl.SingleTask(), data).sample({"x": np.linspace(0, 1, 400)}, draws=100)
    np.testing.assert_allclose(draws.mean("draw")[:, 0], np.sin(5 * np.linspace(0, 1, 400)), atol=0.02)


@pytest.mark.parametrize("name", list(MODELS))
def test_draws_from_the_prior_in_one_batch_are_those_made_one_by_one(name):
    data, model = table(), MODELS[name]
    problem = Problem.of(model, data, model.scaling(data))
    together = prior_draws(problem, 2000, 0)
    with pyro.poutine.block(), torch.random.fork_rng():
        torch.manual_seed(1)
        each = [problem.prior() for _ in range(300)]
    assert set(together) == set(each[0])
    for site, values in together.items():
        apart = torch.stack([one[site] for one in each])
        assert values.shape == (2000, *apart.shape[1:])
        for a, b in zip(values.reshape(2000, -1).T, apart.reshape(300, -1).T, strict=True):
            assert scipy.stats.ks_2samp(a, b).pvalue > 1e-6, site
            assert len(a.unique()) in (1, 2000)  # no two draws share a value; a loading may be zero by construction


def test_tasks_stay_linked_however_many_rows_are_drawn(monkeypatch):
    """Materials have deviations of their own, which all sources share: they cancel in a difference of two."""
    import bayestl.posterior

    rng = np.random.default_rng(0)
    x = rng.random((40, 2))
    own = np.sin(4 * x[:, 0]) + 0.5 * rng.normal(size=40)
    frame = pd.DataFrame(x, columns=["u", "v"]).assign(a=own, b=own + 0.3 * x[:, 1] + 0.02 * rng.normal(size=40))
    frame.loc[20:, "b"] = np.nan
    data = btl.TaskData.from_wide(frame, inputs=["u", "v"], tasks=["a", "b"], units={"a": "eV", "b": "eV"})
    posterior = btl.fit(btl.MultiTask(), data, seed=0, draws=2)
    new = pd.DataFrame(rng.random((60, 2)), columns=["u", "v"])
    exact = posterior.derive(lambda y: y["b"] - y["a"], new, draws=4000)
    monkeypatch.setattr(bayestl.posterior, "DENSE", 20)
    monkeypatch.setattr(bayestl.posterior, "RANK", 10)
    drawn = posterior.derive(lambda y: y["b"] - y["a"], new, draws=4000)
    assert float((exact["std_independent"] / exact["std"]).median()) > 3
    np.testing.assert_allclose(drawn["std"], exact["std"], rtol=0.15)
    twice = posterior.sample(pd.concat([new, new]), "b", draws=10)
    np.testing.assert_array_equal(twice[:, :60], twice[:, 60:])


def test_unknown_tasks_of_a_function_are_named(posterior):
    with pytest.raises(btl.DataError, match=r"Unknown task 'z'\. The tasks are 'a', 'b', 'c'"):
        posterior.derive(lambda y: y["z"], grid(2))
    with pytest.raises(btl.DataError, match="Expected the name of a task, or a list of names; got 5"):
        posterior.sample(grid(2), 5)


def test_a_limit_that_is_not_given_is_pointed_out():
    x = np.linspace(0, 1, 12)
    frame = pd.DataFrame({"x": x, "y": np.maximum(np.sin(4 * x), 0.2), "lod": 0.2})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Censored(lower="lod")})
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map")
    with pytest.warns(UserWarning, match="no column 'lod': task 'y' is predicted without that limit"):
        posterior.predict({"x": [0.5]})


@pytest.mark.parametrize("kernel", ["own order", "nugget", "sum", "product"])
def test_length_scales_keep_the_names_of_their_inputs(kernel):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"T": 300 + 600 * rng.random(24), "x": rng.random(24)})
    frame["y.exp"] = np.sin(6 * frame["x"]) + 0.02 * rng.standard_normal(24)
    data = btl.TaskData.from_wide(frame, inputs=["T", "x"], tasks=["y.exp"], units={"T": "K", "x": "nm"})
    x, both = btl.Matern52(["x"]), btl.Matern52(["x", "T"])
    made = {"own order": both, "nugget": btl.Nugget(both, inputs=["T"]), "sum": x + btl.Matern52(["T"]),
            "product": btl.Matern52(["T"]) * x}[kernel]  # fmt: skip
    posterior = btl.fit(btl.SingleTask(kernel=made), data, method="map", progress=False)
    found = posterior.to_arviz()["posterior"]
    scales = {}
    for name, array in found.data_vars.items():
        if name.endswith("length_scale"):
            own = array.mean(("chain", "draw"))
            named = zip(own[own.dims[0]].values.tolist(), own.values.tolist(), strict=True)
            scales |= dict(zip(named, array.attrs["units"].split(", "), strict=True))
    assert {(name, unit) for (name, _), unit in scales.items()} == {("T", "K"), ("x", "nm")}
    by_name = dict(scales.keys())
    assert by_name["x"] < 2
    assert by_name["T"] > 100


def test_sums_of_three_kernels_weigh_them_alike():
    three = btl.Matern52() + btl.RBF() + btl.Identity()
    assert [type(part).__name__ for part in three.parts] == ["Matern52", "RBF", "Identity"]
    assert len((btl.Matern52() * btl.RBF() * btl.Matern52()).parts) == 3


def test_the_mean_of_a_model_is_in_its_prior_predictions():
    class Lifted(btl.SingleTask):
        def mean(self, theta, a, layout):
            return a.x.new_full(a.output.shape, 50.0)

    data = btl.TaskData.from_wide(pd.DataFrame({"x": [0.0, 0.5, 1.0], "y": [1.0, 2.0, 3.0]}), inputs=["x"], tasks=["y"])
    posterior = btl.fit(Lifted(), data, method="map", progress=False)
    prior = posterior.to_arviz()["prior_predictive"]["y"]
    assert float(prior.median()) > 20


def test_what_arviz_is_handed_is_a_copy(data):
    posterior = btl.fit(btl.MultiTask(), data, seed=0, method="map", progress=False)
    before = {name: value.clone() for name, value in posterior.theta.items()}
    handed = posterior.to_arviz()["posterior"]
    for array in handed.data_vars.values():
        if array.values.flags.writeable:
            array.values[...] = -1.0
    assert all(torch.equal(before[name], value) for name, value in posterior.theta.items())


def test_thresholds_are_taken_as_they_are():
    """A total energy has more digits than single precision."""
    rng = np.random.default_rng(0)
    x = rng.random(30)
    energy = -12345 + 0.001 * (np.sin(5 * x) + 0.2 * rng.standard_normal(30))
    data = btl.TaskData.from_wide(pd.DataFrame({"x": x, "E": energy}), inputs=["x"], tasks=["E"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    new, draws = {"x": [0.5, 0.7, 0.9]}, 20_000
    drawn = posterior.sample(new, "E", draws=draws, noise=True)
    for value in (-12345.0003, -12344.9995):
        expected = (drawn > value).mean("draw")
        np.testing.assert_allclose(posterior.probability(new, "E", above=value), expected, atol=4 * 0.5 / draws**0.5)


def test_nothing_lies_below_the_end_of_a_scale():
    rng = np.random.default_rng(0)
    x = rng.random(30)
    frame = pd.DataFrame({"x": x, "y": (0.5 + 0.5 * np.sin(6 * x) + 0.1 * rng.standard_normal(30)) ** 2 + 1e-3})
    laws = {"y": btl.Gaussian(btl.Sqrt(0.0)), "z": btl.Censored(0.7, 2.0, btl.Log())}
    frame["z"] = np.clip(np.exp(np.sin(5 * x)), 0.7, 2.0)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y", "z"], likelihoods=laws)
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    new = {"x": np.linspace(0, 1, 9)}
    assert (posterior.probability(new, "y", below=0.0) == 0).all()
    assert posterior.probability(new, "y", below=1e-12).max() > 0.01  # what the scale says lies at its end
    told = posterior.predict(new, "z")
    np.testing.assert_allclose(posterior.probability(new, "z", above=0.7), 1 - told["probability_lower"], atol=1e-9)
    with pytest.warns(UserWarning, match="observed beyond its limit"):
        assert (posterior.probability(new, "z", below=0.7) == 0).all()


def test_a_new_task_keeps_its_own_exposure():
    rng = np.random.default_rng(0)
    parts = []
    for t in range(3):
        x = rng.random(15)
        parts.append(
            pd.DataFrame({"x": x, "task": f"t{t}", "y": rng.poisson(np.exp(1.5 + 0.7 * np.sin(4 * x + 0.3 * t)))})
        )
    law = {f"t{t}": btl.Poisson() for t in range(3)}
    told = {"inputs": ["x"], "task": "task", "value": "y"}
    data = btl.TaskData.from_long(pd.concat(parts, ignore_index=True), likelihoods=law, **told)
    posterior = btl.fit(btl.LatentTask(), data, seed=0, method="map", progress=False)
    x = rng.random(20)
    frame = pd.DataFrame(
        {"x": x, "hours": 10.0, "task": "new", "y": rng.poisson(10 * np.exp(1.5 + 0.7 * np.sin(4 * x + 0.3)))}
    )
    rows = btl.TaskData.from_long(frame, likelihoods={"new": btl.Poisson(exposure="hours")}, **told)
    grown = posterior.new_task("new", rows, seed=0)
    np.testing.assert_allclose(grown.predict(frame[["x", "hours"]], "new")["mean"], grown.score(rows)["mean"])
    with pytest.raises(btl.DataError, match="observed as the new one"):
        posterior.new_task(
            "new", btl.TaskData.from_long(frame, likelihoods={"new": btl.Gaussian(btl.Log(1.0))}, **told)
        )


def test_how_new_rows_are_observed_is_not_forgotten():
    frame = pd.DataFrame(
        {"x": [0.0, 0.3, 0.6, 1.0], "y": [1.0, 2.0, 3.0, 5.0], "n": [1, 4, 2, 9], "hours": [1.0, 2.0, 1.0, 3.0]}
    )

    def read(**laws):
        return btl.TaskData.from_wide(frame, inputs=["x"], tasks=list(laws), likelihoods=laws)

    plain = btl.fit(btl.SingleTask(), read(y=btl.Gaussian(), n=btl.Poisson("hours")), method="map", progress=False)
    for lost in ({"y": btl.Censored(upper=5.0)}, {"n": btl.Poisson()}, {"n": btl.NegativeBinomial()}):
        for take in (plain.condition, plain.score):
            with pytest.raises(btl.DataError, match=r"would be lost|were read without"):
                take(read(**lost))
    assert len(plain.condition(read(y=btl.StudentT(), n=btl.NegativeBinomial("hours"))).data) == 16


def test_units_of_inputs_are_minded_too():
    frame = pd.DataFrame({"x": [0.0, 0.3, 0.6, 1.0], "y": [1.0, 2.0, 3.0, 5.0]})
    data, other = (
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], units={"x": unit}) for unit in ("nm", "angstrom")
    )
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    for take in (posterior.condition, posterior.score):
        with pytest.raises(btl.DataError, match="Input 'x' has unit 'angstrom'"):
            take(other)


def test_limits_of_new_rows_are_checked():
    frame = pd.DataFrame({"x": [0.0, 0.3, 0.6, 1.0], "y": [1.0, 2.0, 3.0, 5.0], "low": 1.0, "high": 5.0})
    law = {"y": btl.Censored("low", "high")}
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods=law)
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    for asked in (posterior.predict, posterior.sample, lambda new, task: posterior.probability(new, task, above=2.0)):
        with pytest.raises(btl.DataError, match="must hold numbers"):
            asked({"x": [0.5], "low": ["<3"], "high": [4.0]}, "y")
        with pytest.raises(btl.DataError, match="below the upper one"):
            asked({"x": [0.5], "low": [2.0], "high": [1.0]}, "y")
        with pytest.warns(UserWarning, match="no column 'high'"):
            asked({"x": [0.5], "low": [1.0]}, "y")


def test_names_with_a_slash_can_be_written(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"T/K": rng.random(20), "ok/nok": rng.random(20) > 0.5})
    data = btl.TaskData.from_wide(frame, inputs=["T/K"], tasks=["ok/nok"])
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    posterior.to_arviz().to_netcdf(tmp_path / "a.nc")
    posterior.predict(frame[["T/K"]], ["ok/nok"]).drop_vars(["class_ok\u2215nok", "label_ok\u2215nok"]).to_netcdf(
        tmp_path / "b.nc"
    )


def test_everything_runs_where_tensors_are_for_inference():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": np.linspace(0, 1, 8)}).assign(
        a=lambda t: np.sin(5 * t["x"]), b=lambda t: np.cos(5 * t["x"])
    )
    frame["a"] += 0.1 * rng.standard_normal(8)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a", "b"])
    fits = []
    for mode in (torch.inference_mode(False), torch.inference_mode(True)):
        with mode:
            posterior = btl.fit(btl.MultiTask(), data, seed=0, progress=False)
            fits.append((posterior, posterior.predict({"x": [0.1, 0.2]})))
    assert type(fits[0][0].model.kernel).__name__ == "Nugget"
    xr.testing.assert_identical(fits[0][1], fits[1][1])


def test_samples_of_several_tasks_keep_their_units():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 8)}).assign(gap=lambda t: t["x"] + 1, ok=lambda t: t["x"] > 0.4)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap", "ok"], units={"gap": "eV"})
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    assert posterior.sample({"x": [0.5]}, draws=3)["gap"].attrs["units"] == "eV"


@pytest.mark.parametrize("option", [{"draws": 1.5}, {"pairs": True}, {"pairs": "8"}, {"seed": -1}, {"warmup": 0.5}])
def test_options_that_are_no_whole_numbers_are_refused(option, data):
    with pytest.raises(ValueError, match="must be a whole number"):
        btl.fit(btl.SingleTask(), data, **option)


def test_a_number_of_draws_is_whole(posterior):
    with pytest.raises(ValueError, match="must be a whole number"):
        posterior.sample(grid(2), draws=2.5)


def test_several_threads_fit_and_predict_as_one(request):
    """Pyro's handlers and the parameters of a GPyTorch object belong to the process."""
    from concurrent.futures import ThreadPoolExecutor

    import gpytorch

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((14, 2)), columns=["x", "z"]).assign(a=lambda t: np.sin(5 * t["x"]) + t["z"])
    data = btl.TaskData.from_wide(frame, inputs=["x", "z"], tasks=["a"])
    model = btl.SingleTask(kernel=gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=2))
    posterior = btl.fit(model, data, seed=0, progress=False)
    new = pd.DataFrame(rng.random((400, 2)), columns=["x", "z"])
    whole = posterior.predict(new)["mean"].values
    parts = [new.iloc[start : start + 50] for start in range(0, 400, 50)]
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-5)  # threads take turns often
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: posterior.predict(part)["mean"].values, parts))
        fits = list(pool.map(lambda seed: btl.fit(model, data, seed=seed, method="map", progress=False), range(4)))
    np.testing.assert_allclose(np.concatenate(found), whole)
    for seed, fitted in enumerate(fits):
        alone = btl.fit(model, data, seed=seed, method="map", progress=False)
        assert all(torch.equal(alone.theta[name], value) for name, value in fitted.theta.items())


# -- known errors -----------------------------------------------------------------------------------------------------


def with_errors(error, law=None, missing=0, warp=None):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(60)})
    frame["y"] = 3 + 2 * np.sin(5 * frame["x"]) + error * rng.standard_normal(60)
    frame["e"] = np.where(np.arange(60) < missing, np.nan, error)
    law = law or btl.Gaussian(warp)
    return btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], errors={"y": "e"}, likelihoods={"y": law})


def test_values_without_an_error_are_judged_by_the_noise_that_was_inferred():
    """Where others have known errors, ten times as large: a row is judged alike left out and as one of a test table."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"x": rng.random(60), "e": np.where(np.arange(60) % 2 == 0, 0.5, np.nan)})
    frame["y"] = np.sin(6 * frame["x"]) + frame["e"].fillna(0.05) * rng.standard_normal(60)

    def read(table):
        return btl.TaskData.from_wide(table, inputs=["x"], tasks=["y"], errors={"y": "e"})

    posterior = btl.fit(btl.SingleTask(), read(frame), seed=0, method="map", progress=False)
    left_out = btl.leave_out(posterior, by="row").isel(row=9)
    without = dataclasses.replace(posterior, data=read(frame.drop(index=9)))
    held_out = without.score(read(frame.loc[[9]])).isel(row=0)
    for name in ("log_density", "std"):
        assert float(held_out[name]) == pytest.approx(float(left_out[name]), rel=1e-6)


@pytest.mark.parametrize("warp", [None, btl.Log()])
def test_a_value_without_an_error_is_as_good_as_those_before(warp):
    """Where every error was known nothing was learned of the noise: one value without one must not change all intervals."""
    data = with_errors(0.05, warp=warp)
    posterior = btl.fit(btl.SingleTask(), data, seed=0, progress=False)
    new, value = pd.DataFrame({"x": [0.1, 0.5, 0.9]}), 3 + 2 * np.sin(5 * 0.5)
    row = {"x": [0.5], "y": [value]}

    def after(**error):
        table = pd.DataFrame(row | error)
        errors = {"y": "e"} if error else None
        law = {"y": btl.Gaussian(warp)}
        more = btl.TaskData.from_wide(table, inputs=["x"], tasks=["y"], errors=errors, likelihoods=law)
        return posterior.condition(more).predict(new, task="y")

    # on a logarithmic scale errors are alike as shares of the value
    known = posterior._problem.known_square(posterior._mixed, 0).item() ** 0.5 * float(posterior.scaling.scale[0])
    usual = known if warp is None else known * value
    xr.testing.assert_allclose(after(), after(e=[usual]), rtol=1e-6)


def test_a_new_measurement_is_as_noisy_as_the_others_on_average():
    theta_of = {}
    for missing in (0, 15):
        for law in (btl.Gaussian(), btl.Gaussian(excess=True)):
            posterior = btl.fit(btl.SingleTask(), with_errors(0.5, law, missing), seed=0, progress=False)
            plain, noisy = (posterior.predict({"x": [0.4]}, "y", noise=noise)["std"].item() for noise in (False, True))
            inferred = float((posterior._mixed["noise"][:, 0] * posterior.scaling.scale[0]).square().mean())
            known = (60 - missing) / 60 * 0.25
            share = 1.0 if law.excess else missing / 60
            assert noisy**2 - plain**2 == pytest.approx(known + share * inferred, rel=1e-3)
            theta_of[missing, law.excess] = noisy
    assert theta_of[0, False] == pytest.approx(0.5, rel=0.1)
    assert 0.5 < theta_of[0, True] < 0.6


@pytest.mark.parametrize("model", [btl.SingleTask(), btl.LatentTask(), btl.Difference.chain("b", "a")])
def test_the_order_of_rows_changes_nothing(model):
    """Nor the draws of theta: the signs of eigenvectors hang on rounding."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30)})
    frame["a"] = np.sin(5 * frame["x"]) + 0.1 * rng.standard_normal(30)
    frame["b"] = np.cos(4 * frame["x"]) + 0.1 * rng.standard_normal(30)
    stds = []
    for own in (frame, frame.sample(frac=1, random_state=1)):
        data = btl.TaskData.from_wide(own, inputs=["x"], tasks=["a", "b"])
        stds.append(btl.fit(model, data, seed=0, progress=False).predict({"x": [0.2, 0.5, 0.8]})["std"].values)
    np.testing.assert_allclose(stds[1], stds[0], rtol=1e-7)


def test_what_can_hardly_be_meant_is_named():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(20)}).assign(y=lambda t: np.sin(6 * t["x"]) + 0.1 * rng.standard_normal(20))
    told = {"inputs": ["x"], "tasks": ["y"]}
    posterior = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, **told), seed=0, progress=False)
    with pytest.warns(UserWarning, match=r"Input 'x' is 50 in rows 1, and was observed from .* another unit"):
        posterior.predict({"x": [0.5, 50.0]})
    odd = pd.DataFrame({"x": [0.5, 0.6], "y": [1e3, np.sin(3.6)]}, index=["a", "b"])
    with pytest.warns(UserWarning, match=r"Task 'y': 1000 in row a had a chance of less than one in a million"):
        posterior.condition(btl.TaskData.from_wide(odd, **told))
    with pytest.warns(UserWarning, match="All 20 new rows are in the data already"):
        posterior.condition(posterior.data)
    counts = btl.TaskData.from_wide(frame.assign(y=rng.poisson(9, 20)), likelihoods={"y": btl.Poisson()}, **told)
    counted = btl.fit(btl.SingleTask(), counts, seed=0, progress=False)
    with pytest.warns(UserWarning, match=r"Task 'y': 1000 in row a had a chance of less than one in a million"):
        counted.condition(btl.TaskData.from_wide(odd.assign(y=[1000, 9]), **told))
    posterior.predict({"x": [-0.5, 1.5]})  # somewhat outside, as extrapolation goes
    posterior.condition(btl.TaskData.from_wide(odd.iloc[1:], **told))


def test_limits_and_zeros_are_no_surprise():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(40)}).assign(y=lambda t: np.maximum(np.sin(9 * t["x"]), 0.0))
    new = pd.DataFrame({"x": [0.5, 0.12], "y": [0.0, float(np.sin(9 * 0.12))]})
    for law in (btl.Hurdle(), btl.Censored(lower=0.0), btl.Censored(upper=0.5)):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": law})
        posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
        more = btl.TaskData.from_wide(new, inputs=["x"], tasks=["y"], likelihoods={"y": law})
        assert len(posterior.condition(more).data) == 42


@pytest.mark.parametrize("warp", [btl.Log(offset=None), btl.Sqrt(offset=None), btl.YeoJohnson()])
def test_known_errors_are_taken_at_the_scale_that_is_inferred(warp):
    """To first order, whatever the parameter of the scale: it adds to what is not known of the value."""
    rng = np.random.default_rng(1)
    x = np.sort(rng.random(60))
    f = 10 ** (2 * np.sin(4 * x))
    frame = pd.DataFrame({"x": x, "y": f * np.exp(0.1 * rng.standard_normal(60))})
    told = {"inputs": ["x"], "tasks": ["y"], "likelihoods": {"y": btl.Gaussian(warp)}}
    posterior = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, **told), seed=0, method="map", progress=False)
    low = frame.iloc[[int(f.argmin())]]
    under = posterior.predict(low, "y", noise=False)
    error = 0.3 * under["std"].item()
    test = btl.TaskData.from_wide(low.assign(y=under["quantile"].values[1]), errors={"y": error}, **told)
    assert posterior.score(test)["std"].item() == pytest.approx(np.hypot(under["std"].item(), error), rel=0.02)


def gaps(kernel=None, law=None, method="map"):
    """Gaps of which about half are zero, the larger the likelier there is one."""
    rng = np.random.default_rng(2)
    x = np.sort(rng.random(50))
    u = 2 * np.sin(5 * x) + 0.5 * rng.standard_normal(50)
    gap = np.where(u + 0.3 * rng.standard_normal(50) > 0, np.log1p(np.exp(u)), 0.0)
    frame = pd.DataFrame({"x": x, "source": u + 0.2 * rng.standard_normal(50), "gap": gap})
    frame.loc[::3, "gap"] = np.nan
    data = btl.TaskData.from_wide(
        frame, inputs=["x"], tasks=["source", "gap"], likelihoods={"gap": law or btl.Hurdle()}
    )
    return btl.fit(btl.MultiTask(kernel=kernel), data, seed=0, method=method, progress=False)


@pytest.mark.parametrize("joint", [True, False])
def test_latent_draws_of_a_hurdle_are_those_of_positive_values(joint):
    posterior, new = gaps(), {"x": [0.8, 1.3]}
    told = posterior.predict(new, "gap", quantiles=[0.5])
    options = {"draws": 200_000, "noise": True, "joint": joint}  # one in fifty has a gap at the first
    plain = posterior.sample(new, "gap", **options)
    latent = posterior.sample(new, "gap", latent=True, **options)
    np.testing.assert_allclose(latent.mean("draw"), told["latent_mean"], rtol=0.03)
    np.testing.assert_allclose(latent.std("draw"), told["latent_std"], rtol=0.05)
    np.testing.assert_allclose(latent.mean("draw"), plain.where(plain > 0).mean("draw"), rtol=0.05)
    chance = posterior.probability(new, "gap", above=0.5, latent=True)
    np.testing.assert_allclose((latent > 0.5).mean("draw"), chance, atol=0.02)
    both = posterior.sample(new, latent=True, **options)
    alone = posterior.sample(new, **options)
    xr.testing.assert_equal(both.sel(task="source"), alone.sel(task="source"))  # what it stands beside is what it was


def test_a_stack_of_hurdles_counts_each_as_often_as_it_expects_something():
    alike = {"a": gaps(), "b": gaps(btl.RBF())}
    unlike = {"a": alike["a"], "b": gaps(law=btl.Hurdle(btl.Gaussian(btl.Log())))}
    new = {"x": [0.7, 0.85, 1.3]}
    for several in (alike, unlike):
        stack = btl.Stack(several, {"a": 0.3, "b": 0.7}, "gap", pd.DataFrame(index=["a", "b"]))
        zeros = [p.predict(new, "gap")["probability_lower"] for p in several.values()]
        assert np.abs(zeros[0] - zeros[1]).max() > 1e-4  # or nothing is told
        told = stack.predict(new)
        np.testing.assert_allclose(told["latent_mean"], told["mean"] / (1 - told["probability_lower"]), rtol=1e-6)
        above = stack.probability(new, above=0.5)
        np.testing.assert_allclose(
            stack.probability(new, above=0.5, latent=True), above / stack.probability(new, above=0.0), rtol=1e-6
        )
        drawn = stack.sample(new, draws=20000, noise=True, latent=True, joint=False)
        np.testing.assert_allclose(drawn.mean("draw"), told["latent_mean"], rtol=0.03)


def test_a_stack_refuses_to_score_what_is_beyond_the_limit_of_one():
    x = np.linspace(0, 1, 20)
    frame = pd.DataFrame({"x": x, "y": 1 + np.sin(5 * x) + 0.1 * np.cos(40 * x)})

    def fitted(law):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": law})
        return btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)

    several = {"plain": fitted(btl.Gaussian()), "limited": fitted(btl.Censored(lower=-0.05))}
    for order in (["plain", "limited"], ["limited", "plain"]):
        stack = btl.Stack({n: several[n] for n in order}, dict.fromkeys(order, 0.5), "y", pd.DataFrame(index=order))
        test = btl.TaskData.from_wide(
            pd.DataFrame({"x": [0.2, 0.93], "y": [1.8, -0.1]}, index=["A", "B"]), inputs=["x"], tasks=["y"]
        )
        with pytest.raises(btl.DataError, match=r"in rows 'B' are beyond a limit of '\w+' or of '\w+' alone"):
            stack.score(test)


@pytest.mark.parametrize("gate, deviation", [(-2.0, 2.0), (-1.0, 3.0), (1.0, 0.5)])
def test_the_probability_of_a_zero_is_that_of_the_integral(gate, deviation):
    def chance(g):
        return scipy.stats.norm.pdf(g, gate, deviation) / (1 + np.exp(g))

    exact = scipy.integrate.quad(chance, gate - 12 * deviation, gate + 12 * deviation)[0]
    one, zero = torch.ones(1).double(), torch.zeros(1, 2).double()
    law = btl.Hurdle(btl.Gaussian(btl.Softplus(1.0))).resolve(np.array([0.0, 1.0]), np.full((2, 2), np.nan), "y", None)
    rows = Rows(one * torch.nan, one * torch.nan, zero * torch.nan, zero[0], torch.ones(2).double())
    cov = torch.diag(torch.tensor([deviation**2, 1.0])).double()[None, None]
    told = law.predictive(torch.tensor([[[gate, 0.3]]]).double(), cov, None, rows, {})
    assert told.at_limits()[0].item() == pytest.approx(exact, abs=0.004)
