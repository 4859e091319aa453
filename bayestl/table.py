"""TaskData: observations of any task anywhere, checked at the border and immutable inside."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayestl.columns import (
    DIGITS,
    SHARED,
    Column,
    Input,
    Table,
    Task,
    as_frame,
    by_name,
    describe,
    descriptors_of,
    distinct,
    extents,
    features_of,
    marks_of,
    named_likelihoods,
    places,
    read_codes,
    read_errors,
    read_finite,
    read_input,
    read_task,
    refuse_taken,
    repeated,
    require_columns,
    units_of,
    without_blanks,
)
from bayestl.errors import DataError, listed
from bayestl.features import Features
from bayestl.likelihoods import Likelihood
from bayestl.likelihoods.numeric import warp_of
from bayestl.notices import (
    spanned,
    warn_of_alike,
    warn_of_copies,
    warn_of_errors,
    warn_of_labels,
    warn_of_ranges,
    warn_of_slips,
    warn_of_twins,
)
from bayestl.stream import Loader, Want, loaders_of, reservoir

MANY = 40  # inputs, beyond which no repetitions are looked for
SAMPLE = 5000  # rows of each task that are kept of a table larger than memory


@dataclass(frozen=True, eq=False)
class Parts:
    """A table that is not in memory: how to load each of its parts, and how many observations each task has in all."""

    loaders: tuple[Loader, ...]
    read: Callable[[pd.DataFrame], TaskData]
    counts: tuple[int, ...]

    def sources(self) -> list[Callable[[], TaskData]]:
        """Give the parts, each read when it is called for."""
        return [PartSource(loader, self.read) for loader in self.loaders]

    def select(self, tasks: list[int], names: tuple[str, ...]) -> Parts:
        """Give the same of some tasks alone."""
        return Parts(self.loaders, partial(_read_some, self.read, names), tuple(self.counts[t] for t in tasks))


def _read_some(read: Callable[[pd.DataFrame], TaskData], names: tuple[str, ...], frame: pd.DataFrame) -> TaskData:
    return read(frame).select(names)


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
        if (table := self.descriptors) is not None:
            frozen = np.array(table, dtype=np.float64)
            frozen.setflags(write=False)
            object.__setattr__(self, "descriptors", pd.DataFrame(frozen, table.index, table.columns, copy=False))

    # -- building ---------------------------------------------------------------------------------------------

    @classmethod
    def from_long(
        cls,
        table: Table,
        *,
        inputs: Sequence[str],
        task: str,
        value: str,
        error: str | Mapping[str, float] | None = None,
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
            error; an empty error means that the noise of that row is inferred. Instead of the last, a number for some tasks
        tasks : the tasks and their order; by default all of them, in order of appearance
        units : unit of each task and input, by name
        likelihoods : how the values of a task are observed, by name. By default numbers are `Gaussian`, ordered pandas
            categoricals `Ordinal`, and other text and booleans `Bernoulli` (two classes) or `Categorical`, which is printed
        categorical : columns of numbers, or of text that reads as numbers, that are categories
        features : for a column of `inputs`, what describes its labels in numbers: `Compositions`, `Valences`,
            `ElementFractions`, `Molecules`, `Surfaces`, sums of these, or a `Features` of your own. Text in columns called
            formula, composition or smiles is described without asking, which is printed
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
            declared = {name: unit for name, unit in units_of(table, inputs, None).items() if unit is not None}
            units = declared | by_name(units, "units", "'eV'")
            options = {"inputs": inputs, "value": value, "error": error, "units": units, "likelihoods": likelihoods,
                       "categorical": categorical, "task": task, "task_descriptors": task_descriptors,
                       "features": features}  # fmt: skip
            return cls._of_parts(loaders, "long", options, None if tasks is None else list(tasks))
        inputs = distinct(inputs, "inputs")
        column = [error] if isinstance(error, str) else []
        frame = as_frame(table, [*inputs, task, value, *column, *_columns_of(likelihoods)], [value])
        if clash := [name for name in inputs if name in (task, value, *column)]:
            raise DataError(f"Columns used both as an input and as task, value or error: {listed(clash)}. Choose one.")
        require_columns(frame, [*inputs, task, value, *column])
        frame = without_blanks(frame, [*inputs, task, value, *column])
        features = features_of(frame, inputs, features, categorical)
        if len(frame) == 0:
            raise DataError("The table has no rows. Expected at least one observation.")
        labels = frame[task]
        if labels.isna().any():
            raise DataError(f"Column {task!r} names no task in rows {places(labels.isna(), frame)}. Fill or drop them.")
        present = list(dict.fromkeys(labels.tolist()))
        names = distinct(present if tasks is None else list(tasks), "tasks")
        warn_of_twins(names, f"Tasks in column {task!r}")
        warn_of_slips(labels.value_counts().to_dict(), f"Task {{}} of column {task!r}")
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
                f"Column {value!r} is empty in rows {places(missing, frame)} (tasks {which}). A long table holds one "
                f"observation per row: drop them with table.dropna(subset=[{value!r}])."
            )
        known: dict[str, str | float] = (
            dict.fromkeys(names, error) if isinstance(error, str) else by_name(error, "error", "0.1")
        )
        if unknown := [name for name in known if name not in names]:
            raise DataError(f"`error` names tasks that column {task!r} does not hold: {listed(unknown)}.")
        given = named_likelihoods(likelihoods, names)
        seen = [index == t for t in range(len(names))]
        read = [read_task(frame, value, own, name, given.get(name)) for name, own in zip(names, seen, strict=True)]
        return cls._build(
            frame, inputs, names, seen, read,
            [read_errors(frame.loc[own], known.get(name), name) for name, own in zip(names, seen, strict=True)],
            units_of(table, [*inputs, *names], units), categorical, features, task_descriptors, by_row=True,
        )  # fmt: skip

    @classmethod
    def from_wide(
        cls,
        table: Table,
        *,
        inputs: Sequence[str],
        tasks: Sequence[str],
        errors: Mapping[str, str | float] | None = None,
        units: Mapping[str, str] | None = None,
        likelihoods: Mapping[str, Likelihood] | None = None,
        categorical: Sequence[str] = (),
        features: Mapping[str, Features] | None = None,
        task_descriptors: pd.DataFrame | None = None,
    ) -> TaskData:
        """Read a table with one column per task; an empty cell is simply not an observation.

        `errors` maps a task to the column of its known standard errors, or to the number that holds for all its rows. For the
        rest see `from_long`.

        Examples
        --------
        >>> import pandas as pd, bayestl as btl
        >>> frame = pd.DataFrame({"x": [0.0, 0.5, 1.0], "pbe": [1.0, 1.4, 2.0], "exp": [None, 1.9, None]})
        >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"], units={"exp": "eV"})
        >>> data.counts.tolist()
        [3, 1]
        """
        if (loaders := loaders_of(table)) is not None:
            units = {n: u for n, u in units_of(table, [*inputs, *tasks], units).items() if u is not None}
            options = {"inputs": inputs, "errors": errors, "units": units, "likelihoods": likelihoods,
                       "categorical": categorical, "task_descriptors": task_descriptors, "features": features}  # fmt: skip
            return cls._of_parts(loaders, "wide", options, list(tasks))
        errors = by_name(errors, "errors", "'name_error'")
        inputs, names = distinct(inputs, "inputs"), distinct(tasks, "tasks")
        columns = [column for column in errors.values() if isinstance(column, str)]
        frame = as_frame(table, [*inputs, *names, *columns, *_columns_of(likelihoods)], names)
        if unknown := [t for t in errors if t not in names]:
            raise DataError(f"`errors` names tasks that `tasks` does not list: {listed(unknown)}.")
        require_columns(frame, [*inputs, *names, *columns])
        frame = without_blanks(frame, [*inputs, *names, *columns])
        features = features_of(frame, inputs, features, categorical)
        if len(frame) == 0:
            raise DataError("The table has no rows. Expected at least one observation.")
        given = named_likelihoods(likelihoods, names)
        masks, read, error = [], [], []
        for name in names:
            seen = frame[name].notna().to_numpy()
            if not seen.any():
                raise DataError(f"Task {name!r} has no value in any row. Leave it out of `tasks`.")
            known = read_errors(frame, errors.get(name), name)
            stray = ~np.isnan(known) & ~seen
            if stray.any() and not (known == known[0]).all():  # one number throughout says nothing of a cell
                raise DataError(
                    f"Column {errors[name]!r} gives an error where task {name!r} has no value, in rows "
                    f"{places(stray, frame)}. Clear those cells."
                )
            masks.append(seen)
            read.append(read_task(frame, name, seen, name, given.get(name)))
            error.append(known[seen])
        return cls._build(
            frame, inputs, names, masks, read, error, units_of(table, [*inputs, *names], units), categorical,
            features, task_descriptors,
        )  # fmt: skip

    @classmethod
    def _build(
        cls,
        frame: pd.DataFrame,
        inputs: Sequence[str],
        names: list[str],
        masks: list[NDArray[np.bool_]],
        columns: list[Column],
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
            if (warp := warp_of(column.likelihood)) is not None and (there := ~np.isnan(known)).any():
                warn_of_errors(column.values[there], known[there], warp, name)
        position = np.concatenate([np.flatnonzero(mask) for mask in masks])
        order = np.argsort(position, kind="stable") if by_row else np.arange(len(position))
        position = position[order]
        classes = [name for name, column in zip(names, columns, strict=True) if column.levels is not None]
        refuse_taken(inputs, names, classes)
        if stray := [name for name in categorical if name not in inputs]:
            raise DataError(f"`categorical` names columns that are not inputs: {listed(stray)}.")
        made = {name: describe(frame, name, own) for name, own in features.items()}
        read = tuple(
            column
            for name in inputs
            for column in (
                [Input(str(column), source=name) for column in made[name]]
                if name in made
                else [read_input(frame[name], name, name in categorical, units[name])]
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
            descriptors=descriptors_of(task_descriptors, names),
            features=tuple(features.items()),
        )
        whole = pd.concat([frame.drop(columns=list(made)), *made.values()], axis=1) if made else frame
        x = data.encode(whole)
        data = replace(data, x=x[position])
        warn_of_labels(frame.index, data.marks(x))
        for name, own in features.items():
            warn_of_alike(
                own.alike(list(frame[name].unique())), frame[name], frame[[n for n in inputs if n != name]], name
            )
        warn_of_ranges(data.x, data.task_index, data.numeric_inputs, data.names)
        numeric = {t: task.name for t, task in enumerate(data.tasks) if task.likelihood.kind == "numeric"}
        warn_of_copies(data.places, data.task_index, data.values, numeric)
        return data

    @classmethod
    def _of_parts(cls, loaders: list[Loader], shape: str, options: dict[str, Any], tasks: list[str] | None) -> TaskData:
        """Sample a table larger than memory, and note how to read the rest of it."""
        given = set(options["categorical"])
        if not loaders:
            raise DataError("The table has no parts. Expected at least one.")
        first = loaders[0]()
        require_columns(first, options["inputs"])
        told = features_of(first, options["inputs"], options["features"], options["categorical"])
        options = options | {"features": told}
        described = set(options["features"] or ())

        def wants(frame: pd.DataFrame) -> Iterator[Want]:
            named = (tasks or []) if shape == "wide" else [options["task"], options["value"]]
            errors = list((options.get("errors") or {}).values()) if shape == "wide" else [options["error"]]
            columns = [*options["inputs"], *named, *errors, *_columns_of(options["likelihoods"])]
            require_columns(frame, [column for column in columns if isinstance(column, str)])
            frame = without_blanks(frame, named)
            if shape == "long" and frame[options["task"]].isna().any():
                raise DataError(
                    f"Column {options['task']!r} names no task in rows {places(frame[options['task']].isna(), frame)} of a part. "
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
        if sample.index.has_duplicates:  # each part counts its own
            sample = sample.reset_index(drop=True)
        build: Any = cls.from_long if shape == "long" else cls.from_wide
        data = build(sample, tasks=tasks, **options)
        counts = tuple(found.get(("task", name), 0) for name in data.names)
        if sum(counts) == len(data):
            return data
        fixed = options | {
            "likelihoods": {task.name: task.likelihood for task in data.tasks}, "task_descriptors": None,
            "categorical": [column.name for column in data.inputs if column.levels is not None],
        }  # fmt: skip
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

    @property
    def columns(self) -> tuple[str, ...]:
        """The caller's input columns, of which some may be described by several inputs."""
        return tuple(dict.fromkeys(own.source or own.name for own in self.inputs))

    @property
    def numeric_inputs(self) -> dict[int, str]:
        """Positions and names of the inputs that are numbers of the caller's own."""
        return {i: own.name for i, own in enumerate(self.inputs) if own.levels is None and own.source is None}

    def made_of(self, column: str) -> list[int]:
        """Positions of the inputs that describe a column of the caller's, or of the one that it is."""
        return [i for i, own in enumerate(self.inputs) if (own.source or own.name) == column]

    def lacking(self, present: Container[str]) -> list[str]:
        """Which of the caller's columns are wanted that are not `present`, nor all that they are described by."""
        return [
            name for name in self.columns
            if name not in present and any(self.inputs[i].name not in present for i in self.made_of(name))
        ]  # fmt: skip

    @property
    def shared_inputs(self) -> int:
        """How many distinct inputs several tasks were observed at."""
        seen = pd.DataFrame({"place": self.places, "task": self.task_index}).groupby("place")["task"].nunique()
        return int((seen > 1).sum())

    @cached_property
    def repeated(self) -> tuple[str, ...]:
        """The columns that stay the same in several rows each while others vary, as a formula does at many temperatures.

        They make up half of the inputs at least, not of categories alone; empty where there are none. See `columns.repeated`.
        """
        return self.repeating(SHARED)

    def repeating(self, least: int) -> tuple[str, ...]:
        """As `repeated`, where at least so many materials stand in several rows."""
        own = [self.made_of(name) for name in self.columns]
        if not len(self) or len(own) > MANY:
            return ()
        codes = [pd.factorize(self.marks(self.x[:, i], i))[0] for i in own]
        found = repeated(codes, [len(i) > 1 for i in own], least)
        theirs = [i for j in found for i in own[j]]
        most = 2 * len(theirs) >= len(self.inputs) and any(self.inputs[i].levels is None for i in theirs)
        return tuple(self.columns[j] for j in found) if most else ()

    @property
    def materials(self) -> NDArray[np.int64]:
        """Number of the `repeated` inputs of each row, of all inputs where there are none."""
        return self.alike_in(self.repeated) if self.repeated else self.places

    def alike_in(self, columns: Sequence[str]) -> NDArray[np.int64]:
        """Number of what stands in some columns, for each row."""
        own = [i for name in columns for i in self.made_of(name)]
        return pd.factorize(self.marks(self.x[:, own], own))[0]

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Number of each row's inputs, the same for the same inputs."""
        return pd.factorize(self.marks(self.x))[0]

    def reads_as(self, other: TaskData) -> bool:
        """Whether a table's inputs are encoded as those of other data are."""
        return self.inputs == other.inputs and self.features == other.features

    def marks(self, x: NDArray[np.float64], of: Sequence[int] | slice = slice(None)) -> NDArray[np.uint64]:
        """Mark points (n, d), the same for the same inputs, however they were rounded; of some of the inputs, or all."""
        centre, width, _ = extents(self.x[:, of] if len(self) else x)
        return marks_of(((x - centre) / width).round(DIGITS))

    def index_of(self, task: str) -> int:
        """Position of a task; a `DataError` lists the known ones."""
        if task not in self.names:
            raise DataError(f"Unknown task {task!r}. The tasks are {listed(self.names, 20)}.")
        return self.names.index(task)

    def encode(self, table: Table) -> NDArray[np.float64]:
        """Check the input columns of `table` against these data and return them as (m, d) numbers."""
        names = [column.name for column in self.inputs]
        frame = as_frame(table, [*names, *(name for name, _ in self.features)])
        require_columns(frame, [*self.lacking(frame), *(name for name in (*self.columns, *names) if name in frame)])
        made = [describe(frame, name, own) for name, own in self.features if name in frame]
        if made:
            frame = pd.concat([frame.drop(columns=[c for part in made for c in part], errors="ignore"), *made], axis=1)
        x = np.empty((len(frame), len(names)))
        for j, column in enumerate(self.inputs):
            x[:, j] = read_finite(frame, column.name) if column.levels is None else read_codes(frame, column)
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
        """Give the observations as a long table: the inputs, `task`, `value`, `error`, indexed by the caller's rows.

        And the columns of limits and exposures that vary from row to row, of the tasks that have them.
        """
        frame = self.decode(self.x)
        frame.index = pd.Index(self.rows, name="row")
        levels = [task.levels for task in self.tasks]
        values: Any = self.values
        if any(levels):
            values = pd.Series(
                [y if (own := levels[t]) is None else own[int(y)] for t, y in zip(self.task_index, self.values, strict=True)],
                dtype=object, index=frame.index,
            )  # fmt: skip
        frame = frame.assign(task=[self.names[t] for t in self.task_index], value=values, error=self.errors)
        for t, task in enumerate(self.tasks):
            for j, name in enumerate(task.likelihood.columns()):
                if name is not None:
                    before = frame[name].to_numpy() if name in frame else np.full(len(frame), np.nan)
                    frame[name] = np.where(self.task_index == t, self.details[:, j], before)
        return frame

    def where(self, mask: NDArray[np.bool_], *, empty: bool = False) -> TaskData:
        """Keep the observations for which `mask` (n,) is true; unless `empty`, every task must keep at least one.

        Of a table larger than memory these are observations of the sample.

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
        """Keep only the named tasks, in that order, or a single one."""
        names = distinct([tasks] if isinstance(tasks, str) else list(tasks), "tasks")
        old = [self.index_of(name) for name in names]
        renumber = np.full(len(self.tasks), -1)
        renumber[old] = np.arange(len(old))
        mask = renumber[self.task_index] >= 0
        parts = None if self.parts is None else self.parts.select(old, tuple(names))
        if parts is not None and sum(parts.counts) == mask.sum():
            parts = None  # all of them are in the sample
        return replace(
            self, tasks=tuple(self.tasks[i] for i in old), x=self.x[mask],
            task_index=renumber[self.task_index[mask]], values=self.values[mask], errors=self.errors[mask],
            rows=self.rows[mask], details=self.details[mask], parts=parts,
            descriptors=None if self.descriptors is None else self.descriptors.iloc[old],
        )  # fmt: skip

    def append(self, more: TaskData) -> TaskData:
        """Add the observations of `more`, whose inputs, levels and tasks must all be known here."""
        if self.parts is not None or more.parts is not None:
            raise DataError(
                "Tables larger than memory cannot be appended to one another; concatenate them before reading."
            )
        if set(more.columns) != set(self.columns) and [i.name for i in more.inputs] != [i.name for i in self.inputs]:
            raise DataError(
                f"The new rows have inputs {listed(more.columns, 20)}; expected {listed(self.columns, 20)}."
            )
        index = np.array([self.index_of(name) for name in more.names], dtype=np.int64)
        self.check_units(more)
        frame = more.decode(more.x)
        frame.index = pd.Index(more.rows)
        values, details = self.recode(more)
        return replace(
            self,
            x=np.concatenate([self.x, self.encode(frame)]),
            task_index=np.concatenate([self.task_index, index[more.task_index]]),
            values=np.concatenate([self.values, values]),
            details=np.concatenate([self.details, details]),
            errors=np.concatenate([self.errors, more.errors]),
            rows=np.concatenate([self.rows, more.rows]),
        )

    def recode(self, other: TaskData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values and details of `other` as these data have them: classes in their codes, limits that hold for all rows.

        Refuses classes never seen, other kinds, and what the likelihood here does not allow.
        """
        values, details = other.values.copy(), other.details.copy()
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
            law, read = known.likelihood, task.likelihood
            absent = np.isnan(read.constants()) if read.kind != "count" else [True, True]
            if lost := [
                column
                for column, own_column, none in zip(law.columns(), read.columns(), absent, strict=True)
                if column is not None and own_column is None and none
            ]:
                raise DataError(
                    f"Task {task.name!r} is observed as {type(law).__name__}() with column {listed(lost)}, which the "
                    f"new rows were read without. Read them with likelihoods={{{task.name!r}: ...}} too."
                )
            if type(read) is not type(law) and not law.kind == read.kind == "count":
                blank = [1.0 if read.kind == "count" else np.nan, np.nan]
                if not np.array_equal(details[own], np.tile(blank, (own.sum(), 1)), equal_nan=True):
                    raise DataError(
                        f"Task {task.name!r} is observed as {law!r} here, and the new rows were read as {read!r}, whose "
                        "limits or exposures would be lost. Read both alike."
                    )
                details[own] = law.constants()
            law.check(values[own], details[own], task.name)
            values[own] = law.observed(values[own], details[own])
        return values, details

    def check_units(self, other: TaskData) -> None:
        """Refuse data that declare another unit for a task or an input than these do."""
        inputs = {column.name: column for column in self.inputs}
        pairs: list[tuple[str, Task | Input, Task | Input]]
        pairs = [("Task", task, self.tasks[self.index_of(task.name)]) for task in other.tasks]
        pairs += [("Input", column, inputs[column.name]) for column in other.inputs if column.name in inputs]
        for kind, new, known in pairs:
            if new.unit is not None and known.unit is not None and new.unit != known.unit:
                raise DataError(f"{kind} {new.name!r} has unit {new.unit!r} in the new rows; expected {known.unit!r}.")

    def summary(self) -> pd.DataFrame:
        """Rows, distinct inputs, replicates, known errors, range and overlaps, one line per task.

        ``shared with T`` counts the distinct inputs at which both tasks were observed.
        """
        shown = self.numeric_inputs if len(self.numeric_inputs) <= 8 else {}
        sets = [set(self.places[self.task_index == t].tolist()) for t in range(len(self.tasks))]
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
                **{name: spanned(self.x[own, j]) for j, name in shown.items()},
                **({"min": y.min(), "mean": y.mean(), "max": y.max(), "std": y.std()} if len(y) and not task.levels else {}),
                **{f"shared with {o.name}": len(sets[t] & sets[s]) for s, o in enumerate(self.tasks)},
            }  # fmt: skip
        return pd.DataFrame(lines).T.infer_objects().rename_axis("task")

    def __repr__(self) -> str:
        tasks = ", ".join(f"{name}: {count}" for name, count in zip(self.names, self.counts, strict=True))
        inputs = []
        for name in self.columns:
            own = [self.inputs[i] for i in self.made_of(name)]
            told = (
                f" ({len(own)} descriptors)"
                if own[0].source
                else f" ({listed(own[0].levels, 4)})"
                if own[0].levels
                else ""
            )
            inputs.append(name + told)
        shown = ", ".join(inputs[:8]) + (f" and {len(inputs) - 8} more" if len(inputs) > 8 else "")
        count = f"{len(self.tasks)} task" + "s" * (len(self.tasks) > 1)
        return f"TaskData({self.counts.sum()} observations of {count} ({tasks}); inputs: {shown})"


@dataclass(frozen=True, eq=False)
class PartReader:
    """Reads a part of a table as the sample of the whole was read: the same tasks, levels and likelihoods."""

    empty: TaskData
    shape: str
    options: Mapping[str, Any]

    def __call__(self, frame: pd.DataFrame) -> TaskData:
        frame = without_blanks(frame, self.empty.names if self.shape == "wide" else [self.options["task"]])
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
        key = "errors" if self.shape == "wide" else "error"
        if isinstance(own[key], Mapping):
            own[key] = {name: error for name, error in own[key].items() if name in tasks}
        build: Any = TaskData.from_long if self.shape == "long" else TaskData.from_wide
        return self.empty.append(build(frame, tasks=tasks, **own))


def _columns_of(likelihoods: Mapping[str, Likelihood] | None) -> list[str]:
    """Columns of limits and exposures that the likelihoods name."""
    given = likelihoods.values() if isinstance(likelihoods, Mapping) else ()
    return [name for law in given if isinstance(law, Likelihood) for name in law.columns() if name is not None]


def _brief(task: Task) -> str:
    name, warp = type(task.likelihood).__name__, warp_of(task.likelihood)
    if warp is not None:
        name += f" on {type(warp).__name__}"
    return f"{name}, {len(task.levels)} classes" if task.levels else name
