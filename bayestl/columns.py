"""What the columns of a user's table are, and how they are read and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayestl.errors import DataError, listed, naming_rows, notice
from bayestl.features import BY_NAME, Features
from bayestl.likelihoods import Bernoulli, Categorical, Censored, Gaussian, Likelihood, Ordinal, StudentT
from bayestl.notices import warn_of_beyond, warn_of_limits, warn_of_twins, warn_of_units, warn_of_zeros

LARGEST = 1e150  # the square of a value must be a number still
MANY = 20  # levels, beyond which half as many as there are rows are hardly meant
_PARTED = re.compile(r"[-+]?\d{1,3}([,' _\u00a0\u2009\u202f])\d{3}(?:\1\d{3})*(?:\.\d+)?")  # thousands

RESERVED = frozenset(
    {"task", "value", "error", "obs", "obs_task", "obs_row", "unit", "known_error", "task_index", "chain", "draw"}
)  # names in `TaskData.to_frame` and in what ArviZ is handed

TAKEN = frozenset(
    {"task", "row", "draw", "chain", "obs", "class", "quantile_level"}
)  # dimensions of what comes out, by task

Table = pd.DataFrame | xr.Dataset | Mapping[str, Any]


@dataclass(frozen=True)
class Input:
    """An input column: numeric (`levels` is None) or categorical with its levels, in the order of their codes.

    `source` is the caller's column that it describes, where it is one of several descriptors.
    """

    name: str
    levels: tuple[Any, ...] | None = None
    unit: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Task:
    """A task (a property from one source), the unit of its values, and how they follow from latent functions.

    Where the values are classes, `levels` lists them in the order of their codes.
    """

    name: str
    unit: str | None = None
    likelihood: Likelihood = field(default_factory=Gaussian)
    levels: tuple[Any, ...] | None = None


class Column(NamedTuple):
    """The observations of one task, read."""

    values: NDArray[np.float64]
    details: NDArray[np.float64]
    likelihood: Likelihood
    levels: tuple[Any, ...] | None


DIGITS = 9  # of scaled inputs, by which points are told apart


def marks_of(x: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Mark rows (n, d), the same for the same inputs."""
    return np.asarray(pd.util.hash_pandas_object(pd.DataFrame(x + 0.0), index=False), dtype=np.uint64)


def extents(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Centre and width of inputs (n, d), and which of them vary: of a constant the width is its size.

    Of sums that should agree, as of a composition's fractions, rounding is no variation.
    """
    low, high = x.min(0, initial=np.inf), x.max(0, initial=-np.inf)
    centre, width = low + (high - low) / 2, high - low
    varies = width > 16 * np.finfo(np.float64).eps * np.maximum(np.abs(low), np.abs(high))
    return centre, np.where(varies, width, np.where(centre != 0, np.abs(centre), 1.0)), varies


def labels_of(rows: Iterable[Any]) -> pd.Index:
    """Labels of rows as the caller has them where they are numbers or dates; others as text, as files hold them."""
    index = pd.Index(list(rows), tupleize_cols=False)
    plain = isinstance(index.dtype, np.dtype) and index.dtype.kind in "iufM"
    return index if plain else pd.Index([str(row) for row in index])


def read_task(frame: pd.DataFrame, column: str, own: NDArray[np.bool_], task: str, given: Likelihood | None) -> Column:
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
        if odd := [level for level in levels if not isinstance(level, str | bool | int | float | np.generic)]:
            raise DataError(
                f"Task {task!r} holds classes that are {type(odd[0]).__name__} objects ({listed(odd, 2)}). Convert them to text: "
                f"table[{column!r}].astype(str)."
            )
        warn_of_twins(levels, f"Classes of task {task!r}")
        if given is None:
            named = warn_of_units(levels, f"Task {task!r}", "if they are classes, name the likelihood.")
            text = not isinstance(dtype, pd.CategoricalDtype)
            if text and not named and len(levels) > max(MANY, len(part) / 2):
                notice(
                    f"Task {task!r} is text, {listed(levels, 3)}, with {len(levels)} different values in {len(part)} rows, and "
                    "is taken as classes, most of which are seen once. If numbers were meant, write them as numbers: no ranges, "
                    "no signs for about; if classes, name the likelihood."
                )
        if isinstance(given, Ordinal) and not ordered and len(levels) > 2 and any(isinstance(v, str) for v in levels):
            raise DataError(
                f"The order of the classes {listed([str(v) for v in levels])} of task {task!r} is not known. Give the column as "
                "an ordered pandas categorical: pandas.Categorical(column, categories=[...], ordered=True)."
            )
        if given is None and len(levels) == 1:  # new rows may be so; `scaling` refuses to learn from it
            given = Bernoulli()
        elif len(levels) == 1:
            levels = _with_the_other(levels[0], dtype)
        if given is None:
            given = Ordinal() if ordered and len(levels) > 2 else Bernoulli() if len(levels) == 2 else Categorical()
            print(
                f"{task}: {len(levels)} {'ordered ' if ordered else ''}classes ({listed([str(v) for v in levels], 4)}) -> "
                f"{type(given).__name__}(). Choose another with likelihoods={{{task!r}: ...}}."
            )
        codes = {level: code for code, level in enumerate(levels)}
        values = cells.astype(object).map(codes).to_numpy(dtype=np.float64)
    else:
        values = read_numbers(part, column, task)
        if given is None:
            warn_of_zeros(values, task)
            given = Gaussian()
            if set(values.tolist()) == {0.0, 1.0}:
                print(
                    f"{task}: zeros and ones -> Gaussian(). If they are two classes: likelihoods={{{task!r}: btl.Bernoulli()}}."
                )
    details = np.tile(np.array(given.constants()), (len(part), 1))
    for j, name in enumerate(given.columns()):
        if name is not None:
            require_columns(frame, [name])
            details[:, j] = read_numbers(part, name, task)
    with naming_rows(part.index.tolist()):
        likelihood = given.resolve(values, details, task, levels)
    held = likelihood.observed(values, details)
    if isinstance(given, Censored):
        warn_of_beyond(values, held, details, task, part.index.tolist())
    elif isinstance(given, Gaussian | StudentT):
        warn_of_limits(values, task, given.warp)
    return Column(held, details, likelihood, levels)


def _with_the_other(level: Any, dtype: Any) -> tuple[Any, ...]:
    """The one class that was seen and the other, which was not: what it is called where that is known."""
    if isinstance(dtype, pd.CategoricalDtype) and len(dtype.categories) == 2:
        return tuple(dtype.categories)
    if isinstance(level, bool | np.bool_) or level in (0, 1):
        return (type(level)(0), type(level)(1))
    return (f"not {level}", level)


def without_slash(name: object) -> str:
    """A name as variables of a netCDF file can have it: ``T\u2215K`` for ``T/K``, whose slash would part groups."""
    return str(name).replace("/", "\u2215")


def _are_classes(cells: pd.Series) -> bool:
    """Whether the cells are text, booleans or pandas categories rather than numbers."""
    if isinstance(cells.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(cells.dtype):
        return True
    return all(isinstance(cell, str | bool | np.bool_) for cell in cells) and not _look_like_numbers(cells)


def _look_like_numbers(cells: pd.Series) -> bool:
    """Whether text is numbers that were read as text: an accident to be told, not classes."""
    text = [cell for cell in cells if isinstance(cell, str)]
    return bool(text) and sum(map(_reads_as_number, text)) > len(text) / 2


def named_likelihoods(likelihoods: Mapping[str, Likelihood] | None, names: list[str]) -> dict[str, Likelihood]:
    """The likelihoods that were given, by task; each must be of a task that there is."""
    given = by_name(likelihoods, "likelihoods", "btl.Gaussian()")
    if stray := [name for name in given if name not in names]:
        raise DataError(f"`likelihoods` names tasks that the data do not hold: {listed(stray)}.")
    if odd := [name for name, likelihood in given.items() if not isinstance(likelihood, Likelihood)]:
        raise DataError(f"`likelihoods` must hold objects such as btl.Gaussian(); check {listed(odd)}.")
    return given


def describe(frame: pd.DataFrame, name: str, features: Features) -> pd.DataFrame:
    """Describe the labels of a column in numbers, each distinct one once; columns are called ``name family: descriptor``."""
    cells = frame[name]
    if cells.isna().any():
        raise DataError(f"Input {name!r} is empty in rows {places(cells.isna(), frame)}. Fill or drop them.")
    codes, labels = pd.factorize(cells)
    try:
        table = features(list(labels))
    except DataError as error:
        raise DataError(f"Input {name!r}: {error}") from error
    if not isinstance(table, pd.DataFrame) or len(table) != len(labels) or table.shape[1] == 0:
        made = (
            f"{len(table)} rows and {table.shape[1]} columns"
            if isinstance(table, pd.DataFrame)
            else type(table).__name__
        )
        raise DataError(
            f"Input {name!r}: {type(features).__name__} must give a DataFrame with a row for each of the {len(labels)} labels "
            f"and at least one column; got {made}."
        )
    if odd := [str(column) for column in table if not pd.api.types.is_numeric_dtype(table[column])]:
        raise DataError(
            f"Input {name!r}: {type(features).__name__} must give numbers; columns {listed(odd)} hold others."
        )
    return pd.DataFrame(
        table.to_numpy(dtype=float)[codes], columns=[f"{name} {column}" for column in table], index=frame.index
    )


def features_of(
    frame: pd.DataFrame, inputs: Sequence[str], given: Mapping[str, Features] | None, categorical: Sequence[str]
) -> dict[str, Features]:
    """Give what describes each input that is to be described: as the caller says, or by its name."""
    found = by_name(given, "features", "btl.Compositions()")
    if stray := [name for name in found if name not in inputs]:
        raise DataError(f"`features` names columns that are not inputs: {listed(stray)}.")
    if odd := [name for name, own in found.items() if not isinstance(own, Features)]:
        raise DataError(f"`features` must hold objects such as btl.Compositions(); check {listed(odd)}.")
    for name in inputs:
        kind = BY_NAME.get(name.lower())
        if kind is None or name in found or name in categorical or pd.api.types.is_numeric_dtype(frame[name]):
            continue
        found[name] = kind()
        said = [
            f"{name}: described by {kind.__name__}().", kind.advice,
            f"Choose another with features={{{name!r}: ...}}, or list it in `categorical` for a category.",
        ]  # fmt: skip
        print(" ".join(filter(None, said)))
    return found


def as_frame(table: Table, names: Sequence[str] | None = None, observed: Sequence[str] = ()) -> pd.DataFrame:
    """Any table that users may pass, as a pandas one.

    Of an xarray Dataset, the variables `names` (all by default): a row for each combination of the dimensions that these
    have. Those `observed` must have all of them, else an observation would be taken several times.
    """
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, xr.Dataset):
        kept = table if names is None else table[[name for name in dict.fromkeys(names) if name in table.variables]]
        for name in observed:
            if name in kept.variables and (lacking := [str(dim) for dim in kept.dims if dim not in kept[name].dims]):
                raise DataError(
                    f"Variable {name!r} does not depend on dimension {listed(lacking)}, as other variables do "
                    f"({listed([str(v) for v in kept.variables if set(kept[v].dims) & set(lacking)])}): each of its values would "
                    "be taken several times. Select one entry of that dimension with isel, or make a table of each and join them."
                )
        return kept.to_dataframe().reset_index()
    if isinstance(table, xr.DataArray):
        raise DataError("Expected a table of named columns; got an xarray DataArray. Use its to_dataset(name=...).")
    if isinstance(table, Mapping):
        sizes = {str(name): np.size(cells) if np.ndim(cells) else None for name, cells in table.items()}
        if len(set(sizes.values())) > 1 or None in sizes.values():
            told = ", ".join(f"{name!r}: {'a single value' if n is None else n}" for name, n in list(sizes.items())[:6])
            raise DataError(f"The columns of a table must be lists of one length, {{'x': [0.5]}}; got {told}.")
        return pd.DataFrame(dict(table))
    if hasattr(table, "compute"):
        raise DataError("Expected a table in memory here; got a Dask one. Call its compute() first, or use predict.")
    kind, advice = type(table), "Columns need names: wrap an array as pandas.DataFrame(array, columns=[...])."
    if hasattr(table, "to_pandas"):
        advice = "Convert it first: table.to_pandas()."
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]}."
    raise DataError(
        f"Expected a pandas DataFrame, an xarray Dataset or a mapping of columns; got {home}{kind.__name__}. {advice}"
    )


def by_name(given: Mapping[str, Any] | None, what: str, example: str) -> dict[str, Any]:
    """A mapping from names that the caller may have given."""
    if given is not None and not isinstance(given, Mapping):
        raise DataError(f"`{what}` must map names, as {{'name': {example}}}; got {given!r}.")
    return dict(given or {})


SHARED = 5  # materials seen by several tasks, or under several conditions, from which on they are reckoned with


def repeated(codes: Sequence[NDArray[np.int64]], described: Sequence[bool], least: int) -> list[int]:
    """Which columns, given by codes (n), make groups of rows that agree in them and differ in the others.

    They are those that one of them tells, or all but one; of several such the ones that make the most groups, where the points of
    all columns are twice as many at least, and at least `least` groups have two or more. Levels of factors, one column of
    numbers or most combinations of several, are no materials unless one is `described` by several numbers; nor are columns
    beside which others would do as well.
    """
    whole = pd.DataFrame(dict(enumerate(codes))).drop_duplicates()
    columns, found, most = list(whole), set[tuple[int, ...]](), 0
    if len(columns) < 2:
        return []
    levels = whole.nunique()
    for own in [*([c] for c in columns), *([c for c in columns if c != left] for left in columns)]:
        key = whole.groupby(own, sort=False).ngroup()
        count = key.nunique()
        if 2 * count > len(whole) or count < most or (key.value_counts() > 1).sum() < least:
            continue
        told = whole.groupby(key.to_numpy()).nunique().max() == 1
        theirs = tuple(told.index[told])
        if any(described[c] for c in theirs) or 2 * count <= math.prod(map(int, levels[list(theirs)])):
            found = {theirs} if count > most else found | {theirs}
            most = count
    return list(found.pop()) if len(found) == 1 else []


def places(mask: Any, frame: pd.DataFrame) -> str:
    """Labels of the rows of a mask, for a message."""
    return listed(frame.index[np.asarray(mask)].tolist())


def distinct(names: Sequence[str], what: str) -> list[str]:
    """Names that were given, as a list; refused are none at all, one string, repetitions, and what is no string."""
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


def require_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a table that lacks one of some columns, or has it twice."""
    if missing := [n for n in dict.fromkeys(names) if n not in frame.columns]:
        raise DataError(
            f"The table lacks columns {listed(missing)}. It has {listed(list(map(str, frame.columns)), 20)}."
        )
    if double := [n for n in dict.fromkeys(names) if (frame.columns == n).sum() > 1]:
        raise DataError(f"The table has several columns named {listed(double)}. Rename or drop the extra ones.")


def refuse_taken(inputs: Sequence[str], tasks: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse inputs and tasks (of which some are of classes) that are called as the results call something else."""
    if reserved := [name for name in inputs if name in RESERVED]:
        raise DataError(f"Inputs cannot be called {listed(reserved)}: the results use that name. Rename the column.")
    ours = {*TAKEN, *(f"class_{name}" for name in classes)}
    if taken := [name for name in tasks if name in ours or (name in classes and name in ("lower", "upper"))]:
        raise DataError(f"Tasks cannot be called {listed(taken)}: the results use that name. Rename them.")
    if clash := [name for name in inputs if name in tasks]:
        raise DataError(f"Columns used both as an input and as a task: {listed(clash)}. Choose one.")


def read_numbers(frame: pd.DataFrame, name: str, task: str | None = None) -> NDArray[np.float64]:
    """Return a numeric column as float64, NaN where empty; refuse text, dates, booleans, complex and infinities."""
    column, called = frame[name], f"Column {name!r}" + ("" if task in (None, name) else f" (task {task!r})")
    if column.dtype == object:
        odd = column.map(lambda cell: not (pd.isna(cell) or isinstance(cell, int | float | np.number)))
        odd |= column.map(lambda cell: isinstance(cell, bool | np.bool_ | complex | np.complexfloating))
    else:
        real = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        odd = pd.Series(not (real and not pd.api.types.is_complex_dtype(column)), index=column.index) & column.notna()
    if np.asarray(odd).any():
        strange = odd & ~column.map(lambda cell: isinstance(cell, str) and _reads_as_number(cell))
        advice = _how_to_read([cell for cell in column[np.asarray(odd & ~strange)] if isinstance(cell, str)])
        if any(hasattr(cell, "year") for cell in column[np.asarray(odd)]):
            advice = "A date is no value: give what was measured, as a number (a duration in days, say)."
        if np.asarray(strange).any() and not np.asarray(strange).all():  # those that keep the rest from being numbers
            odd, advice = strange, "Correct or drop those cells, then convert the column with pandas.to_numeric."
        cells = list(column[np.asarray(odd)].unique())
        if any(map(is_limit, cells)):
            advice = "Give the limit itself where a value lies beyond one, and observe the task with Censored()."
        raise DataError(f"{called} must hold numbers; got {listed(cells, 3)} in rows {places(odd, frame)}. {advice}")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if (bad := np.isinf(values)).any():
        raise DataError(f"{called} is infinite in rows {places(bad, frame)}. Correct or drop those cells.")
    if (bad := np.abs(values) > LARGEST).any():
        raise DataError(f"{called} exceeds {LARGEST:g} in rows {places(bad, frame)}. Choose a larger unit.")
    return values + 0.0  # no negative zeros: equal inputs shall be equal bytes


def read_finite(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a numeric input, refused where it is missing or infinite."""
    values = read_numbers(frame, name)
    if (bad := ~np.isfinite(values)).any():
        raise DataError(
            f"Input {name!r} is missing or infinite in rows {places(bad, frame)}. Inputs must be finite: fill them or drop the "
            "rows."
        )
    return values


def read_codes(frame: pd.DataFrame, column: Input) -> NDArray[np.float64]:
    """Return the codes of a categorical input; refused where it is missing, or a level that its data never had."""
    levels, cells = column.levels or (), frame[column.name].astype(object)
    codes = {level: i for i, level in enumerate(levels)}
    if all(isinstance(level, str) for level in levels):  # of a table that holds "111" alone 111 is read
        cells = cells.map(lambda cell: str(cell) if str(cell) in codes else cell, na_action="ignore")
    if cells.isna().any():
        raise DataError(
            f"Categorical input {column.name!r} is missing in rows {places(cells.isna(), frame)}. "
            "Give the missing value a level of its own, or drop the rows."
        )
    mapped = cells.map(codes)
    if (new := mapped.isna()).any():
        raise DataError(
            f"Input {column.name!r} has levels never seen in the data: "
            f"{listed(sorted(set(cells[new]), key=str))} in rows {places(new, frame)}. "
            f"The known levels are {listed(levels, 20)}{_but_for_spaces(cells[new], levels)}. Of "
            "others nothing can be said: leave them out, or describe all levels by numbers instead (features={...})."
        )
    return mapped.to_numpy(dtype=float)


def read_errors(frame: pd.DataFrame, given: str | float | None, task: str) -> NDArray[np.float64]:
    """Measurement errors of a task, of a column or one number: not negative, NaN where unknown."""
    if given is None:
        return np.full(len(frame), np.nan)
    if not isinstance(given, str):
        if isinstance(given, bool) or not isinstance(given, Real) or not 0 <= given <= LARGEST:
            raise DataError(
                f"The error of task {task!r} must be a column's name, or a standard deviation: a number, zero or more; got "
                f"{given!r}."
            )
        return np.full(len(frame), float(given))
    errors = read_numbers(frame, given, task)
    if (bad := errors < 0).any():
        raise DataError(
            f"Column {given!r} (task {task!r}) holds negative errors in rows {places(bad, frame)}. An error is a standard "
            "deviation, zero or more; leave the cell empty where it is unknown."
        )
    return errors


def units_of(table: Table, names: Sequence[str], units: Mapping[str, str] | None) -> dict[str, str | None]:
    """Units of tasks and inputs, as given, or as an xarray Dataset declares them."""
    units = by_name(units, "units", "'eV'")
    if stray := [name for name in units if name not in names]:
        raise DataError(f"`units` names neither a task nor an input: {listed(stray)}.")
    attributes = {n: table[n].attrs.get("units") for n in names if n in table} if isinstance(table, xr.Dataset) else {}
    return {name: units.get(name, attributes.get(name)) for name in names}


def read_input(column: pd.Series, name: str, forced: bool, unit: str | None) -> Input:
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
        text = [cell for cell in present if isinstance(cell, str)]
        numbers = [cell for cell in present if not isinstance(cell, str | bool | np.bool_)]
        odd = [cell for cell in text if not _reads_as_number(cell)]
        if not forced and text and (numbers or 0 < len(odd) < len(text) / 2):
            found = odd or text
            rows = listed(column.index[column.isin(found)].tolist())
            raise DataError(
                f"Input {name!r} holds numbers, and text in rows {rows}: {listed(found, 3)}. Correct those cells or drop their "
                f"rows; if all of it are labels, say so with categorical=[{name!r}]."
            )
        if not forced and not odd and len(text) == len(present) > 1:
            notice(
                f"Input {name!r} is text that reads as numbers, {listed(present, 3)}, and is taken as categories. If numbers "
                f"are meant, read them as such. {_how_to_read(text)} If categories are, say so with categorical=[{name!r}]."
            )
        levels = sorted(present, key=lambda level: (str(type(level)), level))
    warn_of_twins(levels, f"Levels of input {name!r}")
    if not forced and not isinstance(column.dtype, pd.CategoricalDtype):
        warn_of_units(levels, f"Input {name!r}", f"if they are labels, say so with categorical=[{name!r}].")
        if len(levels) > max(MANY, len(column) / 2):
            notice(
                f"Input {name!r} is text with {len(levels)} levels in {len(column)} rows, and is taken as categories: nothing "
                f"can be predicted of others. Formulas and molecules are described by features={{{name!r}: btl.Compositions()}} "
                f"or btl.Molecules(); a name of each row is no input. If it is meant, say so with categorical=[{name!r}]."
            )
    return Input(name, tuple(levels), unit)


def is_limit(cell: Any) -> bool:
    """Whether a cell says that a value lies beyond a limit, as ``<0.01``."""
    return isinstance(cell, str) and cell.strip().startswith(("<", ">"))


def _but_for_spaces(cells: Iterable[Any], levels: Sequence[Any]) -> str:
    """Say which level a cell would be, but for case or spaces."""
    known = {" ".join(level.split()).casefold(): level for level in levels if isinstance(level, str)}
    for cell in cells:
        if isinstance(cell, str) and (near := known.get(" ".join(cell.split()).casefold())) is not None:
            return f" ({cell!r} is {near!r} but for case or spaces)"
    return ""


def _reads_as_number(cell: str) -> bool:
    """Whether text is a number, with a decimal point or comma, its thousands parted or not."""
    try:
        return bool(_PARTED.fullmatch(cell.strip())) or bool(np.isfinite(float(cell.replace(",", ".", 1))))
    except ValueError:
        return False


def _how_to_read(cells: Sequence[str]) -> str:
    """Say how numbers that were read as text are to be read. ``3,550`` alone does not tell what its comma is."""
    commas = [cell.strip() for cell in cells if "," in cell]
    if not commas:
        if any(_PARTED.fullmatch(cell.strip()) for cell in cells):
            return "Take the separators of thousands away with str.replace, then convert it with pandas.to_numeric."
        return "Convert it with pandas.to_numeric."
    decimal = any(not _PARTED.fullmatch(cell) for cell in commas)
    thousands = any(cell.count(",") > 1 or "." in cell for cell in commas)
    if decimal != thousands:
        what, option = ("decimal commas", "decimal") if decimal else ("separators of thousands", "thousands")
        return f"Read the file with its {what}: pandas.read_csv(..., {option}=',')."
    return (
        "Read the file with pandas.read_csv(..., thousands=',') if the commas part thousands, with decimal=',' if they are "
        "decimal: which of the two must be known."
    )


def without_blanks(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The same table with cells of some columns that hold blank text empty, which is said."""
    blank = {}
    for name in dict.fromkeys(names):
        column = frame[name]
        if isinstance(column.dtype, np.dtype) and column.dtype != object:
            continue
        mask = column.astype(object).map(lambda cell: isinstance(cell, str) and not cell.strip()).to_numpy(dtype=bool)
        if mask.any():
            blank[name] = mask
    if not blank:
        return frame
    told = ", ".join(f"{mask.sum()} of {name!r}" for name, mask in blank.items())
    notice(f"Cells that hold blank text are taken as empty: {told}.")
    return frame.assign(**{name: frame[name].mask(mask) for name, mask in blank.items()})


def descriptors_of(table: pd.DataFrame | None, names: list[str]) -> pd.DataFrame | None:
    """Descriptors of the tasks, in their order."""
    if table is None:
        return None
    if not isinstance(table, pd.DataFrame) or not table.index.is_unique:
        raise DataError(
            "`task_descriptors` must be a pandas DataFrame of numbers with one row for each task, indexed by its name."
        )
    if missing := [name for name in names if name not in table.index]:
        raise DataError(f"`task_descriptors` has no row for tasks {listed(missing)}. Index it by task name.")
    chosen = table.loc[names]
    chosen = chosen.set_axis([str(column) for column in chosen.columns], axis=1)
    numbers = np.column_stack([read_numbers(chosen, column) for column in chosen.columns])
    if not np.isfinite(numbers).all():
        raise DataError("`task_descriptors` must be finite; it holds missing or infinite cells.")
    return pd.DataFrame(numbers, index=pd.Index(names), columns=chosen.columns)
