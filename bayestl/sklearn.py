"""scikit-learn estimators: transfer in pipelines, cross-validation and grid searches.

The tasks are a column of X, so that whatever splits or permutes the rows takes their tasks along.
"""
# ruff: noqa: N803, N806 (scikit-learn calls its tables X)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayestl.errors import listed
from bayestl.features import Features
from bayestl.fitting import fit_whole
from bayestl.inference.infer import Method
from bayestl.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Ordinal
from bayestl.models.base import Model
from bayestl.models.multitask import MultiTask
from bayestl.models.single import SingleTask
from bayestl.posterior import Posterior
from bayestl.table import TaskData

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_consistent_length, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("bayestl.sklearn needs scikit-learn 1.6 or newer: pip install 'bayestl[sklearn]'.") from error

ONLY = "value"  # name of an only task: `TaskData` lets no input be called so


class _TransferEstimator(BaseEstimator):
    """What the regressor and the classifier share: a table whose rows name their tasks, and a posterior."""

    kinds: ClassVar[tuple[str, ...]]
    posterior_: Posterior

    def __init__(
        self,
        model: Model | None = None,
        *,
        task: str | int | None = None,
        target: Any = None,
        likelihood: Likelihood | Mapping[Any, Likelihood] | None = None,
        features: Mapping[str, Features] | None = None,
        method: Method = "variational",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.model = model
        self.task = task
        self.target = target
        self.likelihood = likelihood
        self.features = features
        self.method = method
        self.random_state = random_state

    def _learn(
        self, X: Any, y: NDArray, default: Likelihood, levels: Sequence[Any] | None = None, ordered: bool = False,
        error: NDArray | None = None,
    ) -> Self:  # fmt: skip
        """Fit to numbers, or to the codes of `levels`, which every task has even where it does not show them."""
        frame, labels = self._read(X, reset=True)
        check_consistent_length(frame, y)
        names = sorted(set(labels))
        if self.target is not None and _name(self.target) not in names:
            raise ValueError(
                f"`target` is {self.target!r}, but no row of X is of it. The tasks are {listed(names, 20)}."
            )
        laws = self._likelihoods(names, default)
        details = {column for law in laws.values() for column in law.columns()}
        task, value, known = _free(self.task if isinstance(self.task, str) else "task", frame), _free("y", frame), None
        columns = [frame, labels.rename(task), pd.Series(y, index=frame.index, name=value)]
        if error is not None:
            columns.append(pd.Series(error, index=frame.index, name=(known := _free("error", frame))))
        data = TaskData.from_long(
            pd.concat(columns, axis=1), error=known,
            inputs=[column for column in frame.columns if column not in details],
            task=task, value=value, tasks=names, features=self.features,
            likelihoods=laws if levels is None else dict.fromkeys(names, Gaussian()),  # codes, until they are classes
        )  # fmt: skip
        if levels is not None:
            data = _classes(data, laws, tuple(levels), ordered)
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        model = (SingleTask() if len(names) == 1 else MultiTask()) if self.model is None else self.model
        self.posterior_ = fit_whole(model, data, method=self.method, seed=int(seed), progress=False)
        return self

    def _likelihoods(self, names: list[str], default: Likelihood) -> dict[str, Likelihood]:
        """Give the likelihood of each task."""
        if isinstance(self.likelihood, Mapping):
            laws = dict.fromkeys(names, default) | {_name(task): law for task, law in self.likelihood.items()}
        else:
            laws = dict.fromkeys(names, default if self.likelihood is None else self.likelihood)
        if stray := [task for task in laws if task not in names]:
            raise ValueError(f"`likelihood` names {listed(stray)}; the tasks in X are {listed(names, 20)}.")
        for task, law in laws.items():
            if getattr(law, "kind", None) not in self.kinds:
                raise ValueError(
                    f"The likelihood of task {task!r} is {law!r}; {type(self).__name__} takes those of kind "
                    f"{listed(self.kinds)}, such as btl.{default!r}."
                )
        return laws

    def _read(self, X: Any, reset: bool) -> tuple[pd.DataFrame, pd.Series]:
        """Check X; give its columns, named, without that of the tasks, and the name of each row's task."""
        framed = isinstance(X, pd.DataFrame)
        target = None if reset or self.target is None else _name(self.target)
        if framed and target is not None and isinstance(self.task, str) and self.task not in X:
            X = X.copy(deep=False)
            X.insert(min(list(self.feature_names_in_).index(self.task), X.shape[1]), self.task, target)
        if framed and not reset and isinstance(self.task, str) and self.task not in X:
            raise ValueError(
                f"X lacks the column {self.task!r}, which names the task of each row. Add it, or give the estimator a `target`: "
                "the task of rows that name none."
            )
        if framed:
            check: dict[str, Any] = {"skip_check_array": True}  # TaskData checks it, and takes text
        elif self.task is not None:
            check = {"dtype": None, "ensure_all_finite": False}  # the tasks may be text, and missing
        else:
            check = {}
        X = validate_data(self, X, reset=reset, **check)
        columns = list(getattr(self, "feature_names_in_", [f"x{j}" for j in range(self.n_features_in_)]))
        frame = X.set_axis(columns, axis=1) if framed else pd.DataFrame(X, columns=columns)
        if len(frame) == 0:
            raise ValueError("X has no rows. Expected at least one.")
        if self.task is None:
            labels = pd.Series(ONLY if self.target is None else _name(self.target), index=frame.index)
        else:
            cells = frame.pop(self._column(columns)).astype(object)
            labels = cells.map({cell: _name(cell) for cell in cells.dropna().unique()}).astype(object)
            labels = labels if target is None else labels.fillna(target)
            if missing := labels.index[labels.isna()].tolist():
                raise ValueError(
                    f"Column {self.task!r} of X names no task in rows {listed(missing)}. Fill them; rows to be predicted may "
                    "name none when the estimator has a `target`."
                )
        return frame if framed else frame.astype(np.float64), labels

    def _column(self, columns: list[str]) -> str:
        """Name of the column of the tasks."""
        if isinstance(self.task, str) and self.task in columns and hasattr(self, "feature_names_in_"):
            return self.task
        if isinstance(self.task, Integral) and -len(columns) <= self.task < len(columns):
            return columns[int(self.task)]
        raise ValueError(
            f"`task` must be the name of a column of a DataFrame, or the index of a column; got {self.task!r}. X is a table of "
            f"{len(columns)} columns: {listed(columns, 20)}. A ColumnTransformer before it keeps names with "
            'verbose_feature_names_out=False and .set_output(transform="pandas").'
        )

    def _predicted(self, X: Any, *variables: str) -> list[NDArray]:
        """What `Posterior.predict` gives of each row's own task."""
        check_is_fitted(self)
        frame, labels = self._read(X, reset=False)
        rows, found = [], []
        names = self.posterior_.data.names
        if unseen := [task for task in labels.unique() if task not in names]:
            raise ValueError(
                f"Rows of X are of task {listed(unseen)}, of which the fit saw none; it saw {listed(names, 20)}. Where folds are "
                "made, shuffle the rows, or stratify them by task, so that each fit sees all tasks."
            )
        for task, own in labels.groupby(labels.to_numpy()).indices.items():
            predicted = self.posterior_.predict(frame.iloc[own], task=str(task), quantiles=(0.5,))
            rows.append(own)
            found.append([predicted[name].to_numpy() for name in variables])
        order = np.argsort(np.concatenate(rows))
        return [np.concatenate(parts)[order] for parts in zip(*found, strict=True)]


class TransferRegressor(RegressorMixin, _TransferEstimator):
    """Regression on several related tasks at once, each row of X naming its own.

    `predict` gives the posterior mean of a new measurement of each row's task, in the units of y. For anything more (quantiles,
    joint draws, correlations of the tasks) ask `posterior_`, whose inputs are the columns of X but that of the tasks.

    To be scored on one task alone, every row of the others serving as training data, give
    ``sklearn.model_selection.PredefinedSplit(fold)`` with -1 for those rows.

    Parameters
    ----------
    model : `SingleTask`, `MultiTask`, `Difference` or `LatentTask`; by default `MultiTask`, or `SingleTask` of an only task.
        The columns of an array are called ``x0``, ``x1``, ... in its kernels
    task : the column of X, by name (of a DataFrame) or by index, that names the task of each row, in text or in numbers (tasks
        ``"0"``, ``"1"``, ... to the model). None: there is but one
    target : the task of rows to be predicted that name none: their cell is missing, or their DataFrame lacks the column
    likelihood : how values are observed, of all tasks or a mapping by task; by default `Gaussian`. A column that one names
        (limits, exposures) is in X and no input
    features : what describes columns of labels, formulas for one, in numbers, as `TaskData.from_long` takes it
    method : ``"variational"``, ``"map"`` or ``"nuts"``, see `bayestl.fit`
    random_state : the seed of the fit; None draws it from NumPy's global state

    Attributes
    ----------
    posterior_ : `Posterior`
    n_features_in_, feature_names_in_ : columns of X, that of the tasks included

    Examples
    --------
    >>> import pandas as pd
    >>> from bayestl.sklearn import TransferRegressor
    >>> X = pd.DataFrame({"x": [0.0, 0.3, 0.6, 1.0, 0.2, 0.9], "source": ["pbe"] * 4 + ["exp"] * 2})
    >>> y = [1.0, 1.4, 1.8, 2.0, 1.7, 2.5]
    >>> model = TransferRegressor(task="source", target="exp", method="map").fit(X, y)
    >>> mean, std = model.predict(pd.DataFrame({"x": [0.1, 0.5]}), return_std=True)
    >>> mean.shape, std.shape
    ((2,), (2,))
    """

    kinds = ("numeric", "count")

    def fit(self, X: ArrayLike | pd.DataFrame, y: ArrayLike, error: ArrayLike | float | None = None) -> Self:
        """Fit to X, a DataFrame or an array of shape (n, d), and y of shape (n,).

        Parameters
        ----------
        error : known standard errors of y, (n,) or one for all, NaN where the noise is to be inferred. Through what splits the
            rows: ``cross_val_score(model, X, y, params={"error": error})`` after ``model.set_fit_request(error=True)`` with
            metadata routing, ``pipeline.fit(X, y, transferregressor__error=error)``

        Raises
        ------
        ValueError
            When a column, a cell, the task, an error or a likelihood is not what it must be (`DataError` among them).
        FitError
            When no usable posterior is found.
        """
        y = np.asarray(validate_data(self, "no_validation", y, y_numeric=True))
        known = None if error is None else np.asarray(error, dtype=float)
        if known is not None and known.shape not in ((), y.shape):
            raise ValueError(f"`error` must be a number or one for each of the {len(y)} rows; got shape {known.shape}.")
        return self._learn(X, y, Gaussian(), error=None if known is None else np.broadcast_to(known, y.shape))

    def predict(
        self, X: ArrayLike | pd.DataFrame, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict a new measurement of each row's task: mean (n,), and with `return_std` its standard deviation (n,).

        Raises
        ------
        ValueError
            For columns other than those of the fit, or a task that it did not see.
        """
        mean, std = self._predicted(X, "mean", "std")
        return (mean, std) if return_std else mean


class TransferClassifier(ClassifierMixin, _TransferEstimator):
    """Classification on several related tasks at once, each row of X naming its own; all tasks share their classes.

    A class that a task never showed has a probability there as well. For parameters and more see `TransferRegressor`.

    Parameters
    ----------
    model, task, target, features, method, random_state : see `TransferRegressor`
    likelihood : of all tasks, or a mapping by task; by default `Bernoulli` of two classes, `Categorical` of more, or `Ordinal`
        where y is an ordered pandas categorical. Of other classes `Ordinal` takes numbers, in their order

    Attributes
    ----------
    classes_ : (K,) the classes, sorted
    posterior_ : `Posterior`
    n_features_in_, feature_names_in_ : columns of X, that of the tasks included

    Examples
    --------
    >>> import numpy as np
    >>> from bayestl.sklearn import TransferClassifier
    >>> X = np.column_stack([np.linspace(0, 1, 12), np.arange(12) % 2])
    >>> model = TransferClassifier(task=1, method="map").fit(X, np.where(X[:, 0] > 0.5, "stable", "not"))
    >>> model.predict([[0.1, 0], [0.9, 1]]).tolist()
    ['not', 'stable']
    """

    kinds = ("class",)
    classes_: NDArray

    def fit(self, X: ArrayLike | pd.DataFrame, y: ArrayLike) -> Self:
        """Fit to X, a DataFrame or an array of shape (n, d), and classes y of shape (n,).

        Raises
        ------
        ValueError
            When a column, a cell, the task or a likelihood is not what it must be (`DataError` among them).
        FitError
            When no usable posterior is found.
        """
        dtype = getattr(y, "dtype", None)
        y = validate_data(self, "no_validation", y)
        check_classification_targets(y)
        ordered = isinstance(dtype, pd.CategoricalDtype) and bool(dtype.ordered)
        labels = np.asarray(y)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold two classes or more; got {len(self.classes_)} class: {self.classes_.tolist()}."
            )
        levels = [c for c in dtype.categories if c in self.classes_] if ordered else self.classes_.tolist()  # type: ignore
        many = Ordinal() if ordered else Categorical()
        self._place = pd.Index(levels).get_indexer(self.classes_)
        return self._learn(
            X, pd.Index(levels).get_indexer(labels), Bernoulli() if len(levels) == 2 else many, levels, ordered
        )

    def predict_proba(self, X: ArrayLike | pd.DataFrame) -> NDArray[np.float64]:
        """Probabilities (n, K) of the classes, in the order of `classes_`, each row's of its own task."""
        return self._predicted(X, "probability")[0][:, self._place]

    def predict(self, X: ArrayLike | pd.DataFrame) -> NDArray:
        """Predict the most probable class (n,) of each row's task."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(-1)]


def _classes(data: TaskData, laws: Mapping[str, Likelihood], levels: tuple[Any, ...], ordered: bool) -> TaskData:
    """Observe the values of every task as codes of the same classes."""
    tasks = []
    for t, task in enumerate(data.tasks):
        own, law = data.task_index == t, laws[task.name]
        if isinstance(law, Ordinal) and not ordered and len(levels) > 2 and isinstance(levels[0], str):
            raise ValueError(
                f"Ordinal does not know the order of the classes {listed(levels)}. Number them, or give y as an ordered pandas "
                "categorical."
            )
        law = law.resolve(data.values[own], data.details[own], task.name, levels)
        tasks.append(replace(task, likelihood=law, levels=levels))
    return replace(data, tasks=tuple(tasks))


def _free(name: str, frame: pd.DataFrame) -> str:
    """Give a name that no column of the caller's has."""
    while name in frame:
        name += "_"
    return name


def _name(task: Any) -> str:
    """Name of a task that may be a number, which is the same as an integer and as a float."""
    return str(int(task)) if isinstance(task, float) and task.is_integer() else str(task)
