"""Small versions of the benchmarks, on the sets that ride in on dependencies."""

import importlib.util
import shutil

import numpy as np
import pandas as pd
import pytest

import bayestl as btl
from bayestl.datasets import load_bulk_moduli, load_gaps_and_colours

pytest.importorskip("benchmarks.case_studies.run", reason="installed without the benchmarks")
from benchmarks import campaigns, colour, known_materials, matbench
from benchmarks.case_studies import pages, run
from benchmarks.case_studies.derived import judge
from benchmarks.case_studies.rivals import Forest, Normal, nearest, rivals, thinned
from benchmarks.case_studies.tables import Case
from benchmarks.matbench import told_by_forest, told_by_neighbours, with_forests

pytestmark = pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
CASE = Case(
    "moduli", lambda: load_bulk_moduli().reset_index(), "B_exp", ("B_wien2k",), "GPa", btl.Compositions(), (20,),
    label="element", tests=15,
)  # fmt: skip


@pytest.mark.parametrize("paired", [False, True])
def test_splits_share_nothing_they_should_not(paired):
    train, test = CASE.split(20, paired, seed=0)
    assert train["B_exp"].notna().sum() == 20
    assert len(test) == 15
    assert train.loc[train.index.intersection(test.index), "B_exp"].isna().all()
    assert train["B_wien2k"].reindex(test.index).notna().any() == paired
    again, _ = CASE.split(20, paired, seed=0)
    pd.testing.assert_frame_equal(again, train)


def test_a_case_from_fits_to_page(tmp_path):
    train, test = CASE.split(20, True, seed=0)
    rows = run.ours(CASE, train, test, True)
    x = CASE.described()
    at = (x.loc[train.index].to_numpy(), train[["B_wien2k"]].to_numpy(float), train["B_exp"].to_numpy(float))
    found = rivals(*at, x.loc[test.index].to_numpy(), test[["B_wien2k"]].to_numpy(float), None, 0)
    y = test["B_exp"].to_numpy(float)
    rows += [{"method": name, **normal.scores(y), "seconds": s} for name, normal, s in found]
    table = pd.DataFrame(rows).assign(size=20, paired=True, seed=0, tests=len(test))
    assert np.isfinite(table[["rmse", "mae", "nlpd", "coverage"]].to_numpy()).all()
    told = pages.summary(table, pooled=False)
    # The control knows 20 moduli, the joint models the computed ones of the very elements as well.
    rmse = told["rmse"].droplevel([0, 1])
    assert rmse["bayestl Difference"] < 0.7 * rmse["bayestl SingleTask"]
    assert "| bayestl MultiTask |" in pages.markdown(told.droplevel([0, 1]))
    assert "of 1); NLPD" in pages.verdict(told.droplevel([0, 1]), table)
    pages.picture(told, "GPa", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.skipif(importlib.util.find_spec("botorch") is None, reason="BoTorch is not installed")
def test_botorch_as_a_rival():
    rows = run.others(CASE, *CASE.split(20, True, seed=0), True, 0, "rivals")
    assert {"BoTorch SingleTaskGP", "BoTorch MultiTaskGP", "BoTorch MultiTaskGP, signed"} <= {r["method"] for r in rows}


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("smt", "emukit")), reason="SMT and Emukit are not installed"
)
def test_models_of_two_fidelities_as_rivals():
    rows = run.others(CASE, *CASE.split(20, True, seed=0), True, 0, "two fidelities")
    assert {r["method"]: np.isfinite(r["nlpd"]) for r in rows} == {"SMT MFK": True, "Emukit AR1": True}


@pytest.mark.skipif(
    shutil.which("java") is None or importlib.util.find_spec("lolopy") is None,
    reason="Java or lolopy are not installed",
)
def test_forests_of_lolo_as_rivals():
    rows = run.others(CASE, *CASE.split(20, True, seed=0), True, 0, "lolo")
    assert {r["method"] for r in rows} == {"lolo, target only", "lolo, difference", "lolo, stacked"}


def test_what_the_nearest_source_says_of_the_rows_to_be_predicted_stays():
    rng = np.random.default_rng(0)
    y = np.where(np.arange(300) < 40, rng.normal(size=300), np.nan)
    s = np.column_stack([rng.normal(size=300), np.nan_to_num(y) + 0.1 * rng.normal(size=300), np.full(300, np.nan)])
    kept = np.arange(300) >= 200
    assert nearest(s, y) == 1
    left = thinned(s, y, kept, 160)
    assert left.shape == (300, 1)
    np.testing.assert_array_equal(left[kept, 0], s[kept, 1])
    assert np.isfinite(left).sum() == 120  # 160 less the 40 of the target


def test_medians_are_over_the_splits_that_all_parts_saw():
    parts = {
        "bayestl fit_best": (0, 1),
        "BoTorch MultiTaskGP": (0, 1, 2),
        "lolo, difference": (0, 1, 2),
        "SMT MFK": (0, 1, 3),
        "BoTorch MultiTaskGP, signed": (0,),
    }
    rows = [
        {"case": "c", "size": 30, "paired": True, "seed": seed, "method": method}
        for method, seeds in parts.items()
        for seed in seeds
    ]
    kept = pages.complete(pd.DataFrame(rows))
    assert set(zip(kept["method"], kept["seed"], strict=True)) == {(m, i) for m in list(parts)[:4] for i in (0, 1)}


def test_a_choice_by_the_other_splits_never_sees_its_own():
    """The best of the others is the worst of its own, on every split."""
    scores = {"bayestl A": [1.0, 9.0], "bayestl B": [9.0, 1.0], "bayestl fit_best": [0.0, 0.0], "a forest": [0.0, 0.0]}
    table = pd.DataFrame(
        [
            {"size": 3, "paired": True, "seed": seed, "method": method, **dict.fromkeys(pages.SCORES, own[seed])}
            for method, own in scores.items()
            for seed in (0, 1)
        ]
    )
    assert pages.by_the_others(table, "rmse", pooled=False).to_list() == [9.0]


def test_a_fold_of_the_colours():
    table = load_gaps_and_colours()
    table = table[table["colour"].notna() | (np.arange(len(table)) % 10 == 0)]
    inputs = [c for c in table.columns if c.startswith(("mean_", "range_"))][:4]
    test = table.index[table["colour"].notna()][::8]
    fold = colour.Fold(table, inputs, test, known=False, seed=0)
    chances = {
        "ours": fold.chances("SingleTask, ordered"),
        "frequencies": colour.frequencies(table, test, colour.ORDER),
    }
    for chance in chances.values():
        assert chance.shape == (len(test), 8)
        np.testing.assert_allclose(chance.sum(1), 1.0)
    train, new = fold.with_gap
    assert train["gap"].notna().sum() == table["gap"].drop(test).notna().sum()  # those of the test rows are not known
    assert not train.loc[train["colour"].notna(), "gap"].notna().any()
    assert list(new.index) == list(test)
    assert new["seen"].notna().all()


def test_rows_over_groups_are_scored_together():
    """The RMSE of two groups of different sizes is that of all their rows."""
    parts = [np.array([1.0, -1.0]), np.array([3.0])]
    table = pd.DataFrame(
        [
            {"size": 0, "paired": True, "method": "m", "rmse": np.sqrt(np.mean(e**2)), "mae": np.abs(e).mean(),
             "nlpd": 0.0, "coverage": 1.0, "seconds": 1.0, "tests": len(e)}
            for e in parts
        ]
    )  # fmt: skip
    found = pages.summary(table, pooled=True).iloc[0]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(np.concatenate(parts) ** 2)))
    assert found["mae"] == pytest.approx(np.abs(np.concatenate(parts)).mean())


def test_scores_on_a_root_scale_are_those_of_the_density():
    """Against the change of variables done by sampling."""
    rng = np.random.default_rng(0)
    normal = Normal(np.array([1.5]), np.array([0.2]), 1.0)
    draws = rng.normal(1.5, 0.2, 400_000) ** 2 - 1.0
    found = normal.scores(np.array([1.4]))
    inside = np.mean(np.abs(draws - 1.4) < 0.02) / 0.04
    assert found["nlpd"] == pytest.approx(-np.log(inside), abs=0.02)
    assert found["rmse"] == pytest.approx(abs(draws.mean() - 1.4), abs=2e-3)


def test_a_forest_knows_its_errors():
    rng = np.random.default_rng(1)
    x = rng.random((400, 3))
    y = np.sin(4 * x[:, 0]) + 0.2 * rng.normal(size=400)
    mean, std = Forest(x[:200], y[:200], 0).predict(x[200:])
    assert 0.8 < np.mean(((mean - y[200:]) / std) ** 2) < 1.3


@pytest.mark.parametrize("told_by", [told_by_forest, told_by_neighbours])
def test_sources_tell_what_is_known(told_by):
    table = load_gaps_and_colours().reset_index()[["formula", "gap"]].dropna()
    source = table.rename(columns={"gap": "low"}).assign(mid=table["gap"])
    told = told_by(source.iloc[:250], source.iloc[250:300])
    z = np.sqrt(source["low"].to_numpy()[250:300] + 1)
    assert np.sqrt(np.mean((told[:, 0] - z) ** 2)) < 0.8 * z.std()
    assert np.isfinite(told).all()
    assert (told[:, -1] > 0).all()


def test_forests_do_not_see_the_rows_that_they_describe(monkeypatch):
    monkeypatch.setitem(matbench.TREES, "n_estimators", 10)
    table = load_gaps_and_colours().reset_index()[["formula"]].drop_duplicates().iloc[:120]
    rng = np.random.default_rng(0)  # nothing to be learned, so that only a forest that saw a row can tell its value
    table = table.assign(gap_experiment=np.where(rng.random(len(table)) < 0.5, 0.0, rng.random(len(table)) + 1))
    train, test = with_forests(table.iloc[:100], table.iloc[100:])
    for part in (train, test):
        own = part["gap_experiment"] == 0
        assert abs(np.corrcoef(part["forest metal: log odds"], own)[0, 1]) < 0.4
    seen = matbench.told_by_measured(table.iloc[:100], table.iloc[:100], 0)
    assert np.corrcoef(seen[:, 0], table["gap_experiment"].iloc[:100] == 0)[0, 1] > 0.8


def test_differences_are_judged_by_joint_draws():
    table = load_bulk_moduli().reset_index()
    data = btl.TaskData.from_wide(
        table.iloc[:50], inputs=["element"], tasks=["B_wien2k", "B_exp"], features={"element": btl.Compositions()}
    )
    posterior = btl.fit(btl.MultiTask(), data, method="map")
    rows = judge(posterior, table.iloc[50:].dropna(), "B_wien2k", "B_exp")
    assert len(rows) == table.iloc[50:].dropna().shape[0]
    assert all(row["width"] > 0 for row in rows)


@pytest.mark.parametrize("strategy", ["bayestl", "knowledge_gradient", "single-task", "botorch"])
def test_a_campaign_on_a_few_points_finds_the_best(strategy):
    pytest.importorskip("botorch", reason="BoTorch is not installed")
    problem = campaigns.analytic(2, 16, 20.0)
    run = campaigns.campaign(problem, strategy, seed=0, budget=20.0)
    found = campaigns.came_to(run, problem, 20.0)
    assert run["regret"].iloc[-1] == 0.0
    assert found["cost_to_1%"] <= found["cost_to_best"] == found["spent"] <= 5.5 + 11.0 + 1.1


def test_known_materials_are_known_by_the_source_alone():
    both = load_bulk_moduli().reset_index().rename(columns={"element": "formula", "B_wien2k": "pbe", "B_exp": "hse"})
    both = both[["formula", "pbe", "hse"]].dropna().reset_index(drop=True)
    aflow = pd.DataFrame({"formula": [f"{a}O" for a in both["formula"] if a != "O"]}).assign(aflow=1.0)
    train, test = known_materials.split(both, aflow, seed=0)
    counts = dict(zip(train.names, train.counts, strict=True))
    assert counts["pbe"] == len(both) == counts["hse"] + len(test)
    told = train.rows[train.task_index == train.index_of("hse")]
    assert sorted([*told, *test.rows]) == list(range(len(both)))
    few = known_materials.thinned(train, len(train) - 10, seed=0)
    assert dict(zip(few.names, few.counts, strict=True)) == counts | {"aflow": len(aflow) - 10}
