"""TaskData: observations of any task anywhere, checked at the border and immutable inside."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayestl.errors import DataError, listed
from bayestl.features import BY_NAME, Features
from bayestl.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Ordinal
from bayestl.stream import Loader, Want, loaders_of, reservoir

RESERVED = frozenset(
    {"task", "value", "error", "obs", "obs_task", "obs_row", "unit", "known_error", "task_index", "chain", "draw"}
)  # names in `TaskData.to_frame` and in what ArviZ is handed
LARGEST = 1e150  # the square of a value must be a number still

SAMPLE = 5000  # rows of each task that are kept of a table larger than memory

Table = pd.DataFrame | xr.Dataset | Mapping[str, Any]


@dataclass(frozen=True)
class Input:
    """An input column: numeric (`levels` is None) or categorical with its levels, in the order of their codes."""

    name: str
    levels: tuple[Any, ...] | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Task:
    """A task (a property from one source), the unit of its values, and how they follow from latent functions.

    Where the values are classes, `levels` lists them in the order of their codes.
    """

    name: str
    unit: str | None = None
    likelihood: Likelihood = field(default_factory=Gaussian)
    levels: tuple[Any, ...] | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """A table that is not in memory: how to load each of its parts, and how many observations each task has in all."""

    loaders: tuple[Loader, ...]
    read: Callable[[pd.DataFrame], TaskData]
    counts: tuple[int, ...]

    def sources(self) -> list[Callable[[], TaskData]]:
        """Give the parts, each read when it is called for."""
        return [PartSource(loader, self.read) for loader in self.loaders]


@dataclass(frozen=True, eq=False)
class PartSource:
    """One part of a table."""

    loader: Loader
    read: Callable[[pd.DataFrame], TaskData]

    def __call__(self) -> TaskData:
        return self.read(self.loader())


@dataclass(frozen=True, eq=False)
class TaskData:
    """Observations ``(x_i, task_i, y_i)``, each with or without a known measurement error.

    Build it with `from_long` or `from_wide`. Arrays are read-only and the caller's table is never changed.

    Attributes
    ----------
    inputs, tasks : tuples of `Input` and of `Task`
    x : (n, d) inputs in the user's units; a categorical input holds the codes of its levels
    task_index : (n,) index into `tasks`
    values : (n,) values in the units of their task, or codes of its levels
    errors : (n,) known standard deviation of the measurement error, NaN where it is to be inferred
    rows : (n,) labels of the caller's rows
    descriptors : (T, p) table of task descriptors, or None
    details : (n, 2) lower and upper limit of a censored value (NaN for none), or the exposure of a count
    parts : of a table larger than memory, where the rest of it is; the arrays then hold a uniform sample, all rows of a scarce
        task and 5,000 of a rich one
    features : columns of the caller's that inputs are made of (a formula, say), and how
    """

    inputs: tuple[Input, ...]
    tasks: tuple[Task, ...]
    x: NDArray[np.float64]
    task_index: NDArray[np.int64]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    rows: NDArray[np.object_]
    descriptors: pd.DataFrame | None = None
    details: NDArray[np.float64] = None  # type: ignore[assignment]
    parts: Parts | None = None
    features: tuple[tuple[str, Features], ...] = ()

    def __post_init__(self) -> None:
        if self.details is None:
            constants = np.array([task.likelihood.constants() for task in self.tasks])
            object.__setattr__(self, "details", constants[self.task_index])
        for name in ("x", "task_index", "values", "errors", "rows", "details"):
            frozen = np.array(getattr(self, name))
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)
        if self.descriptors is not None:
            object.__setattr__(self, "descriptors", self.descriptors.copy())

    # -- building ---------------------------------------------------------------------------------------------

    @classmethod
    def from_long(
        cls,
        table: Table,
        *,
        inputs: Sequence[str],
        task: str,
        value: str,
        error: str | None = None,
        tasks: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        likelihoods: Mapping[str, Likelihood] | None = None,
        categorical: Sequence[str] = (),
        features: Mapping[str, Features] | None = None,
        task_descriptors: pd.DataFrame | None = None,
    ) -> TaskData:
        """Read one observation per row.

        Parameters
        ----------
        table : pandas DataFrame, xarray Dataset or mapping of columns; or a table larger than memory: a Dask DataFrame, a
            chunked xarray Dataset, or the path of a parquet file or folder. Of such a table a sample is kept, and the rest is
            read again by `fit`
        inputs : the input columns; text, boolean and pandas-categorical columns are categorical
        task, value, error : the columns that hold the task's name, the value, and (optionally) its known standard
            error; an empty error means that the noise of that row is inferred
        tasks : the tasks and their order; by default all of them, in order of appearance
        units : unit of each task and input, by name
        likelihoods : how the values of a task are observed, by name. By default numbers are `Gaussian`, ordered pandas
            categoricals `Ordinal`, and other text and booleans `Bernoulli` (two classes) or `Categorical`, which is printed
        categorical : columns of numbers, or of text that reads as numbers, that are categories
        features : for a column of `inputs`, what describes its labels in numbers: `Compositions`, `ElementFractions`,
            `Molecules`, `Surfaces`, or a `Features` of your own. Text in columns called formula, composition or smiles is
            described without asking, which is printed
        task_descriptors : numeric table indexed by task, for `LatentTask`

        Raises
        ------
        DataError
            Naming the column, the rows and the task, and what to do.

        Examples
        --------
        >>> import pandas as pd, bayestl as btl
        >>> frame = pd.DataFrame({"x": [0.0, 1.0, 0.5], "source": ["pbe", "pbe", "exp"], "gap": [1.0, 2.0, 1.9]})
        >>> data = btl.TaskData.from_long(frame, inputs=["x"], task="source", value="gap", units={"pbe": "eV"})
        >>> data.names
        ('pbe', 'exp')
        """
        if (loaders := loaders_of(table)) is not None:
            options = {"inputs": inputs, "value": value, "error": error, "units": units, "likelihoods": likelihoods,
                       "categorical": categorical, "task": task, "task_descriptors": task_descriptors,
                       "features": features}  # fmt: skip
            return cls._of_parts(loaders, "long", options, None if tasks is None else list(tasks))
        frame = _frame(table)
        inputs = _distinct(inputs, "inputs")
        if clash := [name for name in inputs if name in (task, value, error)]:
            raise DataError(f"Columns used both as an input and as task, value or error: {listed(clash)}. Choose one.")
        _require_columns(frame, [*inputs, task, value, *([error] if error else [])])
        features = _features(frame, inputs, features, categorical)
        if len(frame) == 0:
            raise DataError("The table has no rows. Expected at least one observation.")
        labels = frame[task]
        if labels.isna().any():
            raise DataError(f"Column {task!r} names no task in rows {_where(labels.isna(), frame)}. Fill or drop them.")
        present = list(dict.fromkeys(labels.tolist()))
        names = _distinct(present if tasks is None else list(tasks), "tasks")
        if unknown := [t for t in present if t not in names]:
            raise DataError(
                f"Column {task!r} holds tasks that `tasks` does not list: {listed(unknown)}. "
                "List them, or drop their rows."
            )
        if absent := [t for t in names if t not in present]:
            raise DataError(f"Tasks without a row in column {task!r}: {listed(absent)}. Leave them out of `tasks`.")
        index = labels.map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.int64)
        cells = frame[value]
        missing = cells.isna().to_numpy()
        if missing.any():
            which = listed([names[i] for i in np.unique(index[missing])])
            raise DataError(
                f"Column {value!r} is empty in rows {_where(missing, frame)} (tasks {which}). A long table holds one "
                f"observation per row: drop them with table.dropna(subset=[{value!r}])."
            )
        given = _named(likelihoods, names)
        seen = [index == t for t in range(len(names))]
        read = [_read_task(frame, value, own, name, given.get(name)) for name, own in zip(names, seen, strict=True)]
        return cls._build(
            frame, inputs, names, seen, read,
            [_errors(frame, error)[own] if error else np.full(own.sum(), np.nan) for own in seen],
            _units(table, [*inputs, *names], units), categorical, features, task_descriptors, by_row=True,
        )  # fmt: skip

    @classmethod
    def from_wide(
        cls,
        table: Table,
        *,
        inputs: Sequence[str],
        tasks: Sequence[str],
        errors: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
        likelihoods: Mapping[str, Likelihood] | None = None,
        categorical: Sequence[str] = (),
        features: Mapping[str, Features] | None = None,
        task_descriptors: pd.DataFrame | None = None,
    ) -> TaskData:
        """Read a table with one column per task; an empty cell is simply not an observation.

        `errors` maps a task to the column of its known standard errors. For the rest see `from_long`.

        Examples
        --------
        >>> import pandas as pd, bayestl as btl
        >>> frame = pd.DataFrame({"x": [0.0, 0.5, 1.0], "pbe": [1.0, 1.4, 2.0], "exp": [None, 1.9, None]})
        >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"], units={"exp": "eV"})
        >>> data.counts.tolist()
        [3, 1]
        """
        if (loaders := loaders_of(table)) is not None:
            units = {n: u for n, u in _units(table, [*inputs, *tasks], units).items() if u is not None}
            options = {"inputs": inputs, "errors": errors, "units": units, "likelihoods": likelihoods,
                       "categorical": categorical, "task_descriptors": task_descriptors, "features": features}  # fmt: skip
            return cls._of_parts(loaders, "wide", options, list(tasks))
        frame = _frame(table)
        errors = dict(errors or {})
        inputs, names = _distinct(inputs, "inputs"), _distinct(tasks, "tasks")
        if unknown := [t for t in errors if t not in names]:
            raise DataError(f"`errors` names tasks that `tasks` does not list: {listed(unknown)}.")
        _require_columns(frame, [*inputs, *names, *errors.values()])
        features = _features(frame, inputs, features, categorical)
        if len(frame) == 0:
            raise DataError("The table has no rows. Expected at least one observation.")
        given = _named(likelihoods, names)
        masks, read, error = [], [], []
        for name in names:
            seen = frame[name].notna().to_numpy()
            if not seen.any():
                raise DataError(f"Task {name!r} has no value in any row. Leave it out of `tasks`.")
            known = _errors(frame, errors[name]) if name in errors else np.full(len(frame), np.nan)
            if (stray := ~np.isnan(known) & ~seen).any():
                raise DataError(
                    f"Column {errors[name]!r} gives an error where task {name!r} has no value, in rows "
                    f"{_where(stray, frame)}. Clear those cells."
                )
            masks.append(seen)
            read.append(_read_task(frame, name, seen, name, given.get(name)))
            error.append(known[seen])
        return cls._build(
            frame, inputs, names, masks, read, error, _units(table, [*inputs, *names], units), categorical,
            features, task_descriptors,
        )  # fmt: skip

    @classmethod
    def _build(
        cls,
        frame: pd.DataFrame,
        inputs: Sequence[str],
        names: list[str],
        masks: list[NDArray[np.bool_]],
        columns: list[_Column],
        errors: list[NDArray[np.float64]],
        units: Mapping[str, str | None],
        categorical: Sequence[str],
        features: Mapping[str, Features],
        task_descriptors: pd.DataFrame | None,
        by_row: bool = False,
    ) -> TaskData:
        """Put together the columns of the tasks, in the order of the tasks or, `by_row`, of the table."""
        for name, column, known in zip(names, columns, errors, strict=True):
            if column.likelihood.kind != "numeric" and not np.isnan(known).all():
                raise DataError(
                    f"Task {name!r} is observed as {type(column.likelihood).__name__}(), which knows no measurement errors; "
                    "leave its errors empty."
                )
        position = np.concatenate([np.flatnonzero(mask) for mask in masks])
        order = np.argsort(position, kind="stable") if by_row else np.arange(len(position))
        position = position[order]
        if reserved := [name for name in inputs if name in RESERVED]:
            raise DataError(
                f"Inputs cannot be called {listed(reserved)}: the results use that name. Rename the column."
            )
        if clash := [name for name in inputs if name in names]:
            raise DataError(f"Columns used both as an input and as a task: {listed(clash)}. Choose one.")
        if stray := [name for name in categorical if name not in inputs]:
            raise DataError(f"`categorical` names columns that are not inputs: {listed(stray)}.")
        made = {name: describe(frame, name, own) for name, own in features.items()}
        read = tuple(
            column
            for name in inputs
            for column in (
                [Input(str(column)) for column in made[name]]
                if name in made
                else [_read_input(frame[name], name, name in categorical, units[name])]
            )
        )
        data = cls(
            inputs=read,
            tasks=tuple(
                Task(name, units[name], column.likelihood, column.levels)
                for name, column in zip(names, columns, strict=True)
            ),
            x=np.empty((0, len(read))),
            task_index=np.repeat(np.arange(len(names)), [len(column.values) for column in columns])[order],
            values=np.concatenate([column.values for column in columns])[order],
            errors=np.concatenate(errors)[order],
            details=np.concatenate([column.details for column in columns])[order],
            rows=np.asarray(frame.index, dtype=object)[position],
            descriptors=_descriptors(task_descriptors, names),
            features=tuple(features.items()),
        )
        whole = pd.concat([frame.drop(columns=list(made)), *made.values()], axis=1) if made else frame
        return replace(data, x=data.encode(whole)[position])

    @classmethod
    def _of_parts(cls, loaders: list[Loader], shape: str, options: dict[str, Any], tasks: list[str] | None) -> TaskData:
        """Sample a table larger than memory, and note how to read the rest of it."""
        given = set(options["categorical"])
        if any(name.lower() in BY_NAME for name in options["inputs"]) and options["features"] is None:
            options = options | {"features": _features(loaders[0](), options["inputs"], None, options["categorical"])}
        described = set(options["features"] or ())

        def wants(frame: pd.DataFrame) -> Iterator[Want]:
            named = (tasks or []) if shape == "wide" else [options["task"], options["value"]]
            errors = list((options.get("errors") or {}).values()) if shape == "wide" else [options["error"]]
            details = [c for law in (options["likelihoods"] or {}).values() for c in law.columns()]
            _require_columns(frame, [c for c in [*options["inputs"], *named, *errors, *details] if c is not None])
            if shape == "long" and frame[options["task"]].isna().any():
                raise DataError(
                    f"Column {options['task']!r} names no task in rows {_where(frame[options['task']].isna(), frame)} of a part. "
                    "Fill or drop them."
                )
            if shape == "long":
                for name in frame[options["task"]].unique().tolist():
                    yield Want(("task", name), (frame[options["task"]] == name).to_numpy(), SAMPLE)
            else:
                for name in tasks or []:
                    yield Want(("task", name), frame[name].notna().to_numpy(), SAMPLE)
            for name in (
                set(options["inputs"]) - described
            ):  # a level that is seen once in a million rows is a level all the same
                if name in given or not pd.api.types.is_numeric_dtype(frame[name]):
                    for level in frame[name].dropna().unique():
                        yield Want(("level", name, level), (frame[name] == level).to_numpy(), 1)

        sample, found = reservoir(loaders, wants)
        build: Any = cls.from_long if shape == "long" else cls.from_wide
        data = build(sample, tasks=tasks, **options)
        counts = tuple(found.get(("task", name), 0) for name in data.names)
        if sum(counts) == len(data):
            return data
        fixed = options | {"likelihoods": {task.name: task.likelihood for task in data.tasks}, "task_descriptors": None}
        return replace(
            data,
            parts=Parts(
                tuple(loaders), PartReader(data.where(np.zeros(len(data), bool), empty=True), shape, fixed), counts
            ),
        )

    # -- reading ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(task.name for task in self.tasks)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of observations of each task, in the whole table."""
        if self.parts is not None:
            return np.array(self.parts.counts)
        return np.bincount(self.task_index, minlength=len(self.tasks))

    def index_of(self, task: str) -> int:
        """Position of a task; a `DataError` lists the known ones."""
        if task not in self.names:
            raise DataError(f"Unknown task {task!r}. The tasks are {listed(self.names, 20)}.")
        return self.names.index(task)

    def encode(self, table: Table) -> NDArray[np.float64]:
        """Check the input columns of `table` against these data and return them as (m, d) numbers."""
        frame = _frame(table)
        names = [column.name for column in self.inputs]
        made = [describe(frame, name, own) for name, own in self.features if name in frame]
        if made:
            frame = pd.concat([frame.drop(columns=[c for part in made for c in part], errors="ignore"), *made], axis=1)
        elif self.features and not set(names) <= set(frame):
            _require_columns(frame, [name for name, _ in self.features])
        _require_columns(frame, names)
        x = np.empty((len(frame), len(names)))
        for j, column in enumerate(self.inputs):
            if column.levels is None:
                x[:, j] = _numbers(frame, column.name)
                bad = ~np.isfinite(x[:, j])
                if bad.any():
                    raise DataError(
                        f"Input {column.name!r} is missing or infinite in rows {_where(bad, frame)}. "
                        "Inputs must be finite: fill them or drop the rows."
                    )
            else:
                codes = {level: i for i, level in enumerate(column.levels)}
                cells = frame[column.name].astype(object)
                mapped = cells.map(codes)
                if cells.isna().any():
                    raise DataError(
                        f"Categorical input {column.name!r} is missing in rows {_where(cells.isna(), frame)}. "
                        "Give the missing value a level of its own, or drop the rows."
                    )
                if (new := mapped.isna()).any():
                    raise DataError(
                        f"Input {column.name!r} has levels never seen in the data: "
                        f"{listed(sorted(set(cells[new]), key=str))} in rows {_where(new, frame)}. "
                        f"The known levels are {listed(column.levels, 20)}."
                    )
                x[:, j] = mapped.to_numpy(dtype=float)
        return x

    def decode(self, x: NDArray[np.float64]) -> pd.DataFrame:
        """Inverse of `encode`: the input columns in the user's own terms."""
        return pd.DataFrame(
            {
                column.name: x[:, j] if column.levels is None else [column.levels[int(code)] for code in x[:, j]]
                for j, column in enumerate(self.inputs)
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """Give the observations as a long table: the inputs, `task`, `value`, `error`, indexed by the caller's rows."""
        frame = self.decode(self.x)
        frame.index = pd.Index(self.rows, name="row")
        levels = [task.levels for task in self.tasks]
        values: Any = self.values
        if any(levels):
            values = pd.Series(
                [y if (own := levels[t]) is None else own[int(y)] for t, y in zip(self.task_index, self.values, strict=True)],
                dtype=object, index=frame.index,
            )  # fmt: skip
        return frame.assign(task=[self.names[t] for t in self.task_index], value=values, error=self.errors)

    def where(self, mask: NDArray[np.bool_], *, empty: bool = False) -> TaskData:
        """Keep the observations for which `mask` (n,) is true; unless `empty`, every task must keep at least one.

        Examples
        --------
        >>> import pandas as pd, bayestl as btl
        >>> frame = pd.DataFrame({"x": [0.0, 0.5, 1.0], "pbe": [1.0, 1.4, 2.0], "exp": [0.9, 1.9, None]})
        >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
        >>> len(data.where(data.x[:, 0] > 0))
        3
        """
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (len(self),):
            raise DataError(f"`mask` must be boolean of shape ({len(self)},); got {mask.dtype} of shape {mask.shape}.")
        kept = replace(
            self, x=self.x[mask], task_index=self.task_index[mask], values=self.values[mask],
            errors=self.errors[mask], rows=self.rows[mask], details=self.details[mask], parts=None,
        )  # fmt: skip
        bare = [name for name, count in zip(self.names, kept.counts, strict=True) if count == 0]
        if bare and not empty:
            raise DataError(f"The selection leaves no row for tasks {listed(bare)}. Select those tasks away first.")
        return kept

    def select(self, tasks: Iterable[str]) -> TaskData:
        """Keep only the named tasks, in that order."""
        names = _distinct(list(tasks), "tasks")
        old = [self.index_of(name) for name in names]
        renumber = np.full(len(self.tasks), -1)
        renumber[old] = np.arange(len(old))
        mask = renumber[self.task_index] >= 0
        return replace(
            self, tasks=tuple(self.tasks[i] for i in old), x=self.x[mask],
            task_index=renumber[self.task_index[mask]], values=self.values[mask], errors=self.errors[mask],
            rows=self.rows[mask], details=self.details[mask], parts=None,
            descriptors=None if self.descriptors is None else self.descriptors.iloc[old],
        )  # fmt: skip

    def append(self, more: TaskData) -> TaskData:
        """Add the observations of `more`, whose inputs, levels and tasks must all be known here."""
        if self.parts is not None or more.parts is not None:
            raise DataError(
                "Tables larger than memory cannot be appended to one another; concatenate them before reading."
            )
        if [i.name for i in more.inputs] != [i.name for i in self.inputs]:
            raise DataError(
                f"The new rows have inputs {listed([i.name for i in more.inputs], 20)}; "
                f"expected {listed([i.name for i in self.inputs], 20)}."
            )
        index = np.array([self.index_of(name) for name in more.names], dtype=np.int64)
        self.check_units(more)
        frame = more.decode(more.x)
        frame.index = pd.Index(more.rows)
        return replace(
            self,
            x=np.concatenate([self.x, self.encode(frame)]),
            task_index=np.concatenate([self.task_index, index[more.task_index]]),
            values=np.concatenate([self.values, self.recode(more)]),
            details=np.concatenate([self.details, more.details]),
            errors=np.concatenate([self.errors, more.errors]),
            rows=np.concatenate([self.rows, more.rows]),
        )

    def recode(self, other: TaskData) -> NDArray[np.float64]:
        """Values of `other` with its classes in the codes of these data; refuses classes never seen and other kinds."""
        values = other.values.copy()
        for t, task in enumerate(other.tasks):
            known = self.tasks[self.index_of(task.name)]
            own = other.task_index == t
            if (known.levels is None) != (task.levels is None):
                raise DataError(
                    f"Task {task.name!r} holds {'classes' if task.levels else 'numbers'} in the new rows; expected "
                    f"{'classes' if known.levels else 'numbers'}."
                )
            if known.levels is not None and task.levels is not None:
                seen = [task.levels[int(code)] for code in np.unique(values[own])]
                if new := [level for level in seen if level not in known.levels]:
                    raise DataError(
                        f"Task {task.name!r} holds classes never seen in the data: {listed(new)}. The known ones are "
                        f"{listed(known.levels, 20)}."
                    )
                values[own] = [known.levels.index(task.levels[int(code)]) for code in values[own]]
        return values

    def check_units(self, other: TaskData) -> None:
        """Refuse data that declare another unit for a task than these do."""
        for task in other.tasks:
            known = self.tasks[self.index_of(task.name)]
            if task.unit is not None and known.unit is not None and task.unit != known.unit:
                raise DataError(f"Task {task.name!r} has unit {task.unit!r} in the new rows; expected {known.unit!r}.")

    def summary(self) -> pd.DataFrame:
        """Rows, distinct inputs, replicates, known errors, range and overlaps, one line per task.

        ``shared with T`` counts the distinct inputs at which both tasks were observed.
        """
        points = [np.unique(self.x[self.task_index == t], axis=0) for t in range(len(self.tasks))]
        sets = [{row.tobytes() for row in p} for p in points]
        lines = {}
        for t, task in enumerate(self.tasks):
            own = self.task_index == t
            y = self.values[own]
            lines[task.name] = {
                "unit": task.unit or "",
                "rows": int(self.counts[t]),
                **({} if self.parts is None else {"in the sample": len(y)}),
                "distinct inputs": len(sets[t]),
                "known errors": int((~np.isnan(self.errors[own])).sum()),
                "likelihood": _brief(task),
                **({"min": y.min(), "mean": y.mean(), "max": y.max(), "std": y.std()} if len(y) and not task.levels else {}),
                **{f"shared with {o.name}": len(sets[t] & sets[s]) for s, o in enumerate(self.tasks)},
            }  # fmt: skip
        return pd.DataFrame(lines).T.infer_objects().rename_axis("task")

    def __repr__(self) -> str:
        tasks = ", ".join(f"{name}: {count}" for name, count in zip(self.names, self.counts, strict=True))
        return f"TaskData({self.counts.sum()} observations of {len(self.tasks)} tasks ({tasks}); {len(self.inputs)} inputs)"


@dataclass(frozen=True, eq=False)
class PartReader:
    """Reads a part of a table as the sample of the whole was read: the same tasks, levels and likelihoods."""

    empty: TaskData
    shape: str
    options: Mapping[str, Any]

    def __call__(self, frame: pd.DataFrame) -> TaskData:
        if self.shape == "long":
            present = set(frame[self.options["task"]].unique().tolist())
        else:
            present = {name for name in self.empty.names if frame[name].notna().any()}
        tasks = [name for name in self.empty.names if name in present]
        if not tasks:
            return self.empty
        own = dict(self.options)
        own["likelihoods"] = {name: self.options["likelihoods"][name] for name in tasks}
        own["units"] = {name: unit for name, unit in (own["units"] or {}).items() if name in [*tasks, *own["inputs"]]}
        if self.shape == "wide":
            own["errors"] = {name: column for name, column in (own["errors"] or {}).items() if name in tasks}
        build: Any = TaskData.from_long if self.shape == "long" else TaskData.from_wide
        return self.empty.append(build(frame, tasks=tasks, **own))


class _Column(NamedTuple):
    """The observations of one task, read."""

    values: NDArray[np.float64]
    details: NDArray[np.float64]
    likelihood: Likelihood
    levels: tuple[Any, ...] | None


def _read_task(
    frame: pd.DataFrame, column: str, own: NDArray[np.bool_], task: str, given: Likelihood | None
) -> _Column:
    """Read the values of a task: numbers, or the codes of classes; choose its likelihood where none is given."""
    part = frame.loc[own]
    cells = part[column]
    dtype = cells.dtype
    ordered = isinstance(dtype, pd.CategoricalDtype) and bool(dtype.ordered)
    classes = given.kind == "class" if given is not None else _are_classes(cells)
    levels: tuple[Any, ...] | None = None
    if classes:
        present = cells.unique().tolist()
        if isinstance(dtype, pd.CategoricalDtype):
            levels = tuple(level for level in dtype.categories if level in present)
        else:
            levels = tuple(sorted(present, key=lambda level: (str(type(level)), level)))
        if isinstance(given, Ordinal) and not ordered and len(levels) > 2 and any(isinstance(v, str) for v in levels):
            raise DataError(
                f"The order of the classes {listed([str(v) for v in levels])} of task {task!r} is not known. Give the column as "
                "an ordered pandas categorical: pandas.Categorical(column, categories=[...], ordered=True)."
            )
        if given is None and len(levels) < 2:
            raise DataError(
                f"Task {task!r} holds a single class, {levels[0]!r}: nothing can be learned from it. Leave it out, or name its "
                "likelihood."
            )
        if len(levels) == 1:
            levels = (f"not {levels[0]}", levels[0])
        if given is None:
            given = Ordinal() if ordered and len(levels) > 2 else Bernoulli() if len(levels) == 2 else Categorical()
            print(
                f"{task}: {len(levels)} {'ordered ' if ordered else ''}classes ({listed([str(v) for v in levels], 4)}) -> "
                f"{type(given).__name__}(). Choose another with likelihoods={{{task!r}: ...}}."
            )
        codes = {level: code for code, level in enumerate(levels)}
        values = cells.astype(object).map(codes).to_numpy(dtype=np.float64)
    else:
        values = _numbers(part, column)
        given = given or Gaussian()
    details = np.tile(np.array(given.constants()), (len(part), 1))
    for j, name in enumerate(given.columns()):
        if name is not None:
            _require_columns(frame, [name])
            details[:, j] = _numbers(part, name)
    return _Column(values, details, given.resolve(values, details, task, levels), levels)


def _are_classes(cells: pd.Series) -> bool:
    """Whether the cells are text, booleans or pandas categories rather than numbers."""
    if isinstance(cells.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(cells.dtype):
        return True
    return all(isinstance(cell, str | bool | np.bool_) for cell in cells) and not _look_like_numbers(cells)


def _look_like_numbers(cells: pd.Series) -> bool:
    """Whether text is numbers that were read as text: an accident to be told, not classes."""
    text = [cell for cell in cells if isinstance(cell, str)]
    return bool(text) and bool(pd.to_numeric(pd.Series(text), errors="coerce").notna().mean() > 0.5)


def _named(likelihoods: Mapping[str, Likelihood] | None, names: list[str]) -> dict[str, Likelihood]:
    given = dict(likelihoods or {})
    if stray := [name for name in given if name not in names]:
        raise DataError(f"`likelihoods` names tasks that the data do not hold: {listed(stray)}.")
    if odd := [name for name, likelihood in given.items() if not isinstance(likelihood, Likelihood)]:
        raise DataError(f"`likelihoods` must hold objects such as btl.Gaussian(); check {listed(odd)}.")
    return given


def _brief(task: Task) -> str:
    name = type(task.likelihood).__name__
    return f"{name}, {len(task.levels)} classes" if task.levels else name


def describe(frame: pd.DataFrame, name: str, features: Features) -> pd.DataFrame:
    """Describe the labels of a column in numbers, each distinct one once; columns are called ``name family: descriptor``."""
    cells = frame[name]
    if cells.isna().any():
        raise DataError(f"Input {name!r} is empty in rows {_where(cells.isna(), frame)}. Fill or drop them.")
    codes, labels = pd.factorize(cells)
    try:
        table = features(list(labels))
    except DataError as error:
        raise DataError(f"Input {name!r}: {error}") from error
    return pd.DataFrame(
        table.to_numpy(dtype=float)[codes], columns=[f"{name} {column}" for column in table], index=frame.index
    )


def _features(
    frame: pd.DataFrame, inputs: Sequence[str], given: Mapping[str, Features] | None, categorical: Sequence[str]
) -> dict[str, Features]:
    """Give what describes each input that is to be described: as the caller says, or by its name."""
    found = dict(given or {})
    if stray := [name for name in found if name not in inputs]:
        raise DataError(f"`features` names columns that are not inputs: {listed(stray)}.")
    if odd := [name for name, own in found.items() if not isinstance(own, Features)]:
        raise DataError(f"`features` must hold objects such as btl.Compositions(); check {listed(odd)}.")
    for name in inputs:
        kind = BY_NAME.get(name.lower())
        if kind is None or name in found or name in categorical or pd.api.types.is_numeric_dtype(frame[name]):
            continue
        found[name] = kind()
        print(
            f"{name}: described by {kind.__name__}(). Choose another with features={{{name!r}: ...}}, or list it in "
            "`categorical` for a category."
        )
    return found


def _frame(table: Table) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, xr.Dataset):
        return table.to_dataframe().reset_index()
    if isinstance(table, Mapping):
        return pd.DataFrame(dict(table))
    if hasattr(table, "compute"):
        raise DataError("Expected a table in memory here; got a Dask one. Call its compute() first, or use predict.")
    raise DataError(
        f"Expected a pandas DataFrame, an xarray Dataset or a mapping of columns; got {type(table).__name__}. "
        "Columns need names: wrap an array as pandas.DataFrame(array, columns=[...])."
    )


def _where(mask: Any, frame: pd.DataFrame) -> str:
    return listed(frame.index[np.asarray(mask)].tolist())


def _distinct(names: Sequence[str], what: str) -> list[str]:
    if not isinstance(names, str) and len(names) == 0:
        raise DataError(f"`{what}` is empty. Expected at least one name.")
    if isinstance(names, str):
        raise DataError(f"`{what}` must be a list of names; got the single string {names!r}. Write [{names!r}].")
    names = list(names)
    if repeated := sorted({str(n) for n in names if names.count(n) > 1}):
        raise DataError(f"`{what}` repeats {listed(repeated)}.")
    if odd := [n for n in names if not isinstance(n, str)]:
        raise DataError(f"`{what}` must be strings; got {listed([repr(n) for n in odd])}. Rename them with str(...).")
    return names


def _require_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    if missing := [n for n in dict.fromkeys(names) if n not in frame.columns]:
        raise DataError(
            f"The table lacks columns {listed(missing)}. It has {listed(list(map(str, frame.columns)), 20)}."
        )
    if double := [n for n in dict.fromkeys(names) if (frame.columns == n).sum() > 1]:
        raise DataError(f"The table has several columns named {listed(double)}. Rename or drop the extra ones.")


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a numeric column as float64, NaN where empty; refuse text, dates, booleans, complex and infinities."""
    column = frame[name]
    if column.dtype == object:
        odd = column.map(lambda cell: not (pd.isna(cell) or isinstance(cell, int | float | np.number)))
        odd |= column.map(lambda cell: isinstance(cell, bool | np.bool_ | complex | np.complexfloating))
    else:
        real = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        odd = pd.Series(not (real and not pd.api.types.is_complex_dtype(column)), index=column.index) & column.notna()
    if np.asarray(odd).any():
        examples = listed([repr(v) for v in column[np.asarray(odd)].unique()[:3]])
        raise DataError(
            f"Column {name!r} must hold numbers; got {examples} in rows {_where(odd, frame)}. "
            "Convert it with pandas.to_numeric."
        )
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if (bad := np.isinf(values)).any():
        raise DataError(f"Column {name!r} is infinite in rows {_where(bad, frame)}. Correct or drop those cells.")
    if (bad := np.abs(values) > LARGEST).any():
        raise DataError(f"Column {name!r} exceeds {LARGEST:g} in rows {_where(bad, frame)}. Choose a larger unit.")
    return values + 0.0  # no negative zeros: equal inputs shall be equal bytes


def _errors(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    errors = _numbers(frame, name)
    if (bad := errors < 0).any():
        raise DataError(
            f"Column {name!r} holds negative errors in rows {_where(bad, frame)}. An error is a standard deviation, "
            "zero or more; leave the cell empty where it is unknown."
        )
    return errors


def _units(table: Table, names: Sequence[str], units: Mapping[str, str] | None) -> dict[str, str | None]:
    if stray := [name for name in (units or {}) if name not in names]:
        raise DataError(f"`units` names neither a task nor an input: {listed(stray)}.")
    attributes = {n: table[n].attrs.get("units") for n in names if n in table} if isinstance(table, xr.Dataset) else {}
    return {name: (units or {}).get(name, attributes.get(name)) for name in names}


def _read_input(column: pd.Series, name: str, forced: bool, unit: str | None) -> Input:
    """Numeric, or categorical: text, booleans, pandas categories, and whatever is named in `categorical`."""
    present = column.dropna().unique().tolist()
    boolean = all(isinstance(cell, bool | np.bool_) for cell in present)
    number = all(isinstance(cell, int | float | np.number) for cell in present) and not boolean
    if number and not forced and not isinstance(column.dtype, pd.CategoricalDtype):
        return Input(name, None, unit)
    if odd := [cell for cell in present if not isinstance(cell, str | bool | int | float | np.generic)]:
        raise DataError(
            f"Input {name!r} holds {type(odd[0]).__name__} objects ({listed([repr(cell) for cell in odd], 2)}). Convert it to "
            "numbers (days since a start, for dates) or to text, for categories."
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = [level for level in column.cat.categories if level in present]
    else:
        if (
            not forced
            and len(present) > 1
            and all(isinstance(cell, str) and _reads_as_number(cell) for cell in present)
        ):
            warnings.warn(
                f"Input {name!r} is text that reads as numbers, {listed(present, 3)}, and is taken as categories. If numbers "
                f"were meant, convert it with pandas.to_numeric; if not, say so with categorical=[{name!r}].",
                stacklevel=5,
            )
        levels = sorted(present, key=lambda level: (str(type(level)), level))
    return Input(name, tuple(levels), unit)


def _reads_as_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _descriptors(table: pd.DataFrame | None, names: list[str]) -> pd.DataFrame | None:
    if table is None:
        return None
    if missing := [name for name in names if name not in table.index]:
        raise DataError(f"`task_descriptors` has no row for tasks {listed(missing)}. Index it by task name.")
    chosen = table.loc[names]
    chosen = chosen.set_axis([str(column) for column in chosen.columns], axis=1)
    numbers = np.column_stack([_numbers(chosen, column) for column in chosen.columns])
    if not np.isfinite(numbers).all():
        raise DataError("`task_descriptors` must be finite; it holds missing or infinite cells.")
    return pd.DataFrame(numbers, index=pd.Index(names), columns=chosen.columns)
