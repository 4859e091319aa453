"""The scikit-learn estimators: scikit-learn's own checks, and agreement with `fit` and `predict`."""

import builtins
import importlib
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, PredefinedSplit, StratifiedKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bayestl as btl
from bayestl.sklearn import TransferClassifier, TransferRegressor

INPUTS = ["x0", "x1", "phase"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Two sources of one property, one row in four of the scarce one; a text input."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((48, 2)), columns=["x0", "x1"])
    frame["source"] = np.where(np.arange(48) % 4 == 0, "exp", "pbe")
    return frame.assign(phase=rng.choice(["cubic", "hexagonal"], 48))


@pytest.fixture(scope="module")
def y(frame) -> np.ndarray:
    noise = 0.05 * np.random.default_rng(1).standard_normal(len(frame))
    return np.sin(5 * frame["x0"]) + frame["x1"] + 0.5 * (frame["source"] == "exp").to_numpy() + noise


@pytest.fixture(scope="module")
def labels(y) -> np.ndarray:
    return np.array(["low", "middle", "top"])[np.digitize(y, [0.9, 1.4])]


@pytest.fixture(scope="module")
def fitted(frame, y) -> TransferRegressor:
    return TransferRegressor(task="source", target="exp").fit(frame, y)


# The mode alone: the checks fit some hundred times, the classifier's for two minutes with the variational posterior, which
# also warns, rightly, that one of their tables (six rows) determines no parameter.
@parametrize_with_checks([TransferRegressor(method="map"), TransferClassifier(method="map")])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# -- the same answer as `fit` -----------------------------------------------------------------------------------------


def test_agrees_with_fit(frame, y, fitted):
    data = btl.TaskData.from_long(
        frame.assign(y=y), inputs=INPUTS, task="source", value="y", tasks=["exp", "pbe"]
    )  # fmt: skip
    posterior = btl.fit(btl.MultiTask(), data, seed=0)
    mean, std = fitted.predict(frame, return_std=True)
    for task in posterior.data.names:
        own = (frame["source"] == task).to_numpy()
        expected = posterior.predict(frame[own], task=task)
        np.testing.assert_array_equal(mean[own], expected["mean"])
        np.testing.assert_array_equal(std[own], expected["std"])
    np.testing.assert_array_equal(fitted.predict(frame), mean)


def test_known_errors_are_those_of_a_table(frame, y):
    """Of all rows, of some, and through what splits the rows."""
    error = np.where(np.arange(len(y)) % 3 == 0, np.nan, 0.1)
    own = TransferRegressor(task="source", method="map").fit(frame, y, error=error)
    table = frame.assign(y=np.asarray(y), e=error)
    data = btl.TaskData.from_long(table, inputs=INPUTS, task="source", value="y", error="e", tasks=["exp", "pbe"])
    expected = btl.fit(btl.MultiTask(), data, seed=0, method="map").predict(frame, task=data.names[0])["mean"]
    np.testing.assert_array_equal(own.posterior_.predict(frame, task=data.names[0])["mean"], expected)
    assert (TransferRegressor(task="source", method="map").fit(frame, y, error=0.1).posterior_.data.errors == 0.1).all()
    with config_context(enable_metadata_routing=True):
        routed = TransferRegressor(task="source", method="map").set_fit_request(error=True)
        told = cross_validate(
            routed, frame, y, cv=2, params={"error": error}, return_estimator=True, return_indices=True
        )
    for fold, rows in zip(told["estimator"], told["indices"]["train"], strict=True):
        assert np.isnan(fold.posterior_.data.errors).sum() == np.isnan(error[rows]).sum()
    with pytest.raises(ValueError, match="one for each of the"):
        own.fit(frame, y, error=[0.1, 0.2])


def test_classes_agree_with_fit(frame, labels):
    model = TransferClassifier(btl.MultiTask(rank=1), task="source", method="map").fit(frame, labels)
    data = btl.TaskData.from_long(
        frame.assign(y=labels), inputs=INPUTS, task="source", value="y", tasks=["exp", "pbe"],
        likelihoods=dict.fromkeys(["exp", "pbe"], btl.Categorical()),
    )  # fmt: skip
    posterior = btl.fit(btl.MultiTask(rank=1), data, method="map")
    assert model.classes_.tolist() == ["low", "middle", "top"]
    for task in posterior.data.names:
        own = (frame["source"] == task).to_numpy()
        expected = posterior.predict(frame[own], task=task)
        np.testing.assert_array_equal(model.predict_proba(frame)[own], expected["probability"])
        np.testing.assert_array_equal(model.predict(frame)[own], expected["label"])


def test_default_models_and_likelihoods(frame, y, labels):
    alone = TransferRegressor(method="map").fit(frame[["x0", "x1"]], y).posterior_
    assert (alone.model, alone.data.names) == (btl.SingleTask(), ("value",))
    both = TransferClassifier(task="source", method="map").fit(frame, labels == "top").posterior_
    assert both.model == btl.MultiTask()
    assert {type(task.likelihood) for task in both.data.tasks} == {btl.Bernoulli}
    assert both.data.tasks[0].levels == (False, True)


def test_seeds(frame, y, fitted):
    X, y, new = frame[["x0"]].iloc[:12], y[:12], frame[["x0"]]
    first, again, other = (
        TransferRegressor(random_state=seed).fit(X, y).predict(new)
        for seed in (np.random.RandomState(3), np.random.RandomState(3), 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# -- the column of the tasks ------------------------------------------------------------------------------------------


def test_task_by_name_and_by_index_agree(frame, y):
    X = frame[["x0", "source", "x1"]]
    expected = TransferRegressor(task="source", method="map").fit(X, y).predict(X)
    for task in (1, -2):
        np.testing.assert_array_equal(TransferRegressor(task=task, method="map").fit(X, y).predict(X), expected)
    text = X.to_numpy(dtype=str)  # what np.column_stack makes of numbers and text
    for array in (X.to_numpy(), text, X.assign(source=(X["source"] == "pbe").astype(float)).to_numpy(dtype=float)):
        model = TransferRegressor(task=1, method="map").fit(array, y)
        np.testing.assert_allclose(model.predict(array), expected, rtol=1e-9)
    assert [column.name for column in model.posterior_.data.inputs] == ["x0", "x2"]
    assert model.posterior_.data.names == ("0", "1")


def test_numbered_tasks_have_one_name(frame, y):
    X = frame[["x0", "source"]].assign(source=(frame["source"] == "exp").astype(int))
    model = TransferRegressor(btl.Difference.chain("0", "1"), task="source", target=1.0, method="map").fit(X, y)
    np.testing.assert_array_equal(model.predict(X.astype(float)), model.predict(X))


def test_target_stands_in_for_missing_tasks(frame, fitted):
    expected = fitted.predict(frame.assign(source="exp"))
    np.testing.assert_array_equal(fitted.predict(frame.drop(columns="source")), expected)
    np.testing.assert_array_equal(fitted.predict(frame.assign(source=None)), expected)
    some = frame.assign(source=frame["source"].where(frame["source"] == "pbe").astype("category"))
    np.testing.assert_array_equal(fitted.predict(some), fitted.predict(frame))


def test_rows_may_come_in_any_order(frame, y, fitted):
    order = np.random.default_rng(2).permutation(len(frame))
    np.testing.assert_allclose(fitted.predict(frame.iloc[order]), fitted.predict(frame)[order], rtol=1e-9)
    refitted = clone(fitted).fit(frame.iloc[order], y[order])  # labels of rows play no part
    np.testing.assert_allclose(refitted.predict(frame), fitted.predict(frame), atol=0.02)


def test_tasks_share_their_classes(frame, labels):
    """The scarce task shows two classes of three; then one of two."""
    kept = ~((frame["source"] == "exp").to_numpy() & (labels == "middle"))
    model = TransferClassifier(task="source", method="map").fit(frame[kept], labels[kept])
    chances = model.predict_proba(frame)
    assert chances.shape == (48, 3)
    assert (chances > 0).all()
    kept = ~((frame["source"] == "exp").to_numpy() & (labels != "top"))
    model = TransferClassifier(task="source", method="map").fit(frame[kept], labels[kept] == "top")
    assert set(model.predict(frame)) == {False, True}


@pytest.mark.filterwarnings("ignore:Task .* none is beyond")
def test_likelihoods_of_each_task_and_their_columns(frame, y):
    X = frame[["x0", "source"]].assign(lod=0.6)
    limits = {"exp": btl.Censored(lower="lod")}
    model = TransferRegressor(task="source", likelihood=limits, method="map").fit(X, np.maximum(y, 0.6))
    assert [column.name for column in model.posterior_.data.inputs] == ["x0"]
    assert model.predict(X)[X["source"] == "exp"].min() >= 0.6
    assert type(model.posterior_.data.tasks[1].likelihood) is btl.Gaussian
    ordered = TransferClassifier(task="source", likelihood=btl.Ordinal(), method="map").fit(
        X, np.digitize(y, [0.9, 1.4])
    )
    np.testing.assert_allclose(ordered.predict_proba(X).sum(1), 1.0)
    counts = TransferRegressor(task="source", likelihood=btl.Poisson(), method="map").fit(X, np.rint(3 * y.clip(0)))
    assert (counts.predict(X) > 0).all()


# -- inside scikit-learn ----------------------------------------------------------------------------------------------


def test_pipeline_with_pandas(frame, y):
    scaled = ColumnTransformer(
        [("scale", StandardScaler(), ["x0", "x1"])], remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")
    model = make_pipeline(scaled, TransferRegressor(task="source", method="map")).fit(frame, y)
    assert model[-1].feature_names_in_.tolist() == ["x0", "x1", "source", "phase"]
    assert model.score(frame, y) > 0.9


def test_cross_validation(frame, y, labels):
    model = TransferRegressor(task="source", method="map")
    assert (cross_val_score(model, frame, y, cv=3) > 0.5).all()
    fold = np.where(frame["source"] == "exp", np.arange(len(frame)) // 4 % 3, -1)  # scored on one task, trained on both
    assert len(cross_val_score(model, frame, y, cv=PredefinedSplit(fold), scoring="neg_root_mean_squared_error")) == 3
    classifier = TransferClassifier(task="source", method="map")
    losses = cross_val_score(
        classifier, frame, labels == "top", cv=StratifiedKFold(3), scoring="neg_log_loss", error_score="raise"
    )
    assert (losses > -0.7).all()


def test_grid_search_over_models(frame, y):
    models = [
        btl.SingleTask(),
        btl.MultiTask(kernel=btl.RBF()),
        btl.Difference.chain("pbe", "exp"),
        btl.LatentTask(dim=1),
    ]
    search = GridSearchCV(
        TransferRegressor(task="source", method="map"), {"model": models}, cv=2, error_score="raise"
    ).fit(frame, y)  # fmt: skip
    assert search.best_params_["model"] in models
    assert search.best_estimator_.posterior_.model == search.best_params_["model"]
    assert search.predict(frame).shape == (48,)


def test_clone_and_pickle(frame, fitted):
    copy = clone(TransferRegressor(btl.Difference.chain("pbe", "exp"), task="source"))
    assert copy.get_params()["model"] == btl.Difference.chain("pbe", "exp")
    assert not hasattr(clone(fitted), "posterior_")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(frame), fitted.predict(frame))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "code"}, "`task` must be the name of a column"),
        ({"task": 4}, "X is a table of 4 columns: 'x0', 'x1', 'source', 'phase'"),
        ({"task": "source", "target": "hse"}, "The tasks are 'exp', 'pbe'"),
        ({"task": "source", "likelihood": {"hse": btl.Gaussian()}}, "`likelihood` names 'hse'"),
        (
            {"task": "source", "likelihood": btl.Bernoulli()},
            "takes those of kind 'numeric', 'count', such as btl.Gaussian",
        ),
        ({"task": "source", "model": "MultiTask"}, "`model` must be a bayestl model"),
    ],
)
def test_wrong_parameters_are_refused(frame, y, options, message):
    with pytest.raises(ValueError, match=message):
        TransferRegressor(**options).fit(frame, y)


def test_wrong_tables_are_refused(frame, y, labels, fitted):
    with pytest.raises(ValueError, match="task 'hse', of which the fit saw none"):
        fitted.predict(frame.assign(source="hse"))
    with pytest.raises(ValueError, match="names no task in rows 0, 4"):
        TransferRegressor(task="source", target="pbe").fit(frame.assign(source=frame["source"].replace("exp", None)), y)
    with pytest.raises(ValueError, match="no rows"):
        fitted.predict(frame[:0])
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame.drop(columns=["x0", "source"]))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TransferRegressor(task="source").fit(frame, y[:-1])
    with pytest.raises(ValueError, match="'task'"):  # would otherwise be taken for the column of the tasks
        TransferRegressor(task="source").fit(frame.rename(columns={"x0": "task"}), y)
    with pytest.raises(ValueError, match="`task` must be the name of a column of a DataFrame"):
        TransferRegressor(task="x1").fit(frame[["x0", "x1"]].to_numpy(), y)
    with pytest.raises(ValueError, match="could not convert string to float"):
        TransferRegressor(task=2).fit(frame.to_numpy(), y)
    with pytest.raises(ValueError, match="does not know the order"):
        TransferClassifier(task="source", likelihood=btl.Ordinal()).fit(frame, labels)
    with pytest.raises(ValueError, match="Bernoulli needs two classes"):
        TransferClassifier(task="source", likelihood=btl.Bernoulli()).fit(frame, labels)


def test_an_input_may_be_called_y(frame, y, fitted):
    renamed = TransferRegressor(task="source", random_state=0, method="map").fit(frame.rename(columns={"x0": "y"}), y)
    plain = TransferRegressor(task="source", random_state=0, method="map").fit(frame, y)
    np.testing.assert_array_equal(renamed.predict(frame.rename(columns={"x0": "y"})), plain.predict(frame))


def test_without_scikit_learn(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__",
        lambda name, *rest: real("no_such_module" if name.startswith("sklearn") else name, *rest),
    )  # fmt: skip
    with pytest.raises(ImportError, match=r"pip install 'bayestl\[sklearn\]'"):
        importlib.reload(importlib.import_module("bayestl.sklearn"))


def test_ordered_classes_stay_ordered():
    x = np.random.default_rng(0).random(45)
    grades = ["poor", "fair", "good"]
    y = pd.Series(pd.Categorical(np.array(grades)[np.digitize(x, [0.33, 0.66])], grades, ordered=True))
    frame = pd.DataFrame({"x": x})
    classifier = TransferClassifier(method="map").fit(frame, y)
    (task,) = classifier.posterior_.data.tasks
    assert task.levels == tuple(grades)
    assert isinstance(task.likelihood, btl.Ordinal)
    assert classifier.classes_.tolist() == sorted(grades)
    assert classifier.score(frame, y) > 0.9
    chance = classifier.predict_proba(pd.DataFrame({"x": [0.1, 0.9]}))
    assert chance[0, 2] > 0.9  # poor
    assert chance[1, 1] > 0.9  # good
