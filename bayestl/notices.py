"""What is said of a table that can be read, and is hardly meant as it stands."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bayestl.errors import listed, notice
from bayestl.likelihoods import Censored, Gaussian, Hurdle, Log
from bayestl.likelihoods.warps import Warp

if TYPE_CHECKING:
    from bayestl.table import TaskData

BENT = 1.3  # times that an error is larger one error away
FEW_LEVELS = 4  # that could be labels by chance
MOSTLY = 0.9  # of labels, that say what all are meant to be
FAR = 2.0  # widths between the ranges of an input in two parts of a table, beyond which it is hardly one input
ROUNDING = 1e-9  # of its size, that is no width
SPANNING = 20  # rows, whose range is what there is
OFTEN = 5  # rows, that are no slip
A_FEW = 3  # rows, that tell where a task was observed
COPIED = 0.05  # of the rows of a task, more than come about by chance
UNLIKELY = 1e-6
BEYOND = 3.0  # widths of what can be told beyond its limits, which is hardly meant
LIMITED = 0.05  # of the rows of a task, from which on a value that they share may be a limit
STRANGE, STRANGE_FROM = 1000.0, 20  # times what nine tenths of at least so many values span
_MEASURE = re.compile(r"\s*[-+]?\d[\d.,]*(?:[eE][-+]?\d+)?\s*([^\d\s.,].*?)\s*")


def warn_of_labels(labels: pd.Index, marks: NDArray[np.uint64]) -> None:
    """Say that labels of rows stand for several inputs, told apart by marks (n)."""
    if not labels.has_duplicates:
        return
    each = pd.DataFrame({"label": labels, "x": marks}).groupby("label", sort=False)["x"].agg(["min", "max"])
    if mixed := int((each["min"] != each["max"]).sum()):
        notice(
            f"{mixed} labels of rows stand for rows with different inputs, as after pandas.concat. leave_out(by='row') "
            "takes them for one. Number the rows anew, table.reset_index(drop=True), if they are not."
        )


def warn_of_twins(labels: Sequence[Any], what: str) -> None:
    """Say which labels differ only in case or spaces: they are taken as different, and may not be."""
    found: dict[str, list[str]] = {}
    for label in labels:
        if isinstance(label, str):
            found.setdefault(" ".join(label.split()).casefold(), []).append(label)
    if twins := [" and ".join(map(repr, group)) for group in found.values() if len(group) > 1]:
        notice(
            f"{what} differ only in case or spaces, and are taken as different: {'; '.join(twins[:5])}. Write them alike if "
            "they are one."
        )


def warn_of_slips(counts: Mapping[Any, int], what: str) -> None:
    """Say which names stand in a single row, and are nearly that of many."""
    many = [name for name, rows in counts.items() if isinstance(name, str) and rows >= OFTEN]
    for name in (name for name, rows in counts.items() if isinstance(name, str) and rows == 1):
        if near := difflib.get_close_matches(name, many, 1):
            notice(
                f"{what.format(repr(name))} has one row, {near[0]!r} has {counts[near[0]]}: is it a slip of the pen?"
            )


def warn_of_alike(groups: Sequence[Sequence[Any]], labels: pd.Series, others: pd.DataFrame, name: str) -> None:
    """Say which labels have the same numbers though they are not the same thing, and no other input tells them apart."""
    said = []
    for group in groups:
        rows = labels.isin(group)
        # A column tells them apart if no cell of it stands beside two of them.
        apart = any(labels[rows].groupby(others[column][rows].to_numpy()).nunique().max() == 1 for column in others)
        if not apart:
            said.append(" and ".join(map(str, group)))
    if said:
        notice(
            f"Labels of {name!r} that are told alike by their numbers: {'; '.join(said[:5])}. A further column that tells them "
            "apart (of surfaces, the facet), in `inputs`, helps."
        )


def codes_for_missing(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which numbers are all nines, as -99 or 999, and lie further from all others than these span."""
    size = np.abs(values)
    nines = np.isin(size, [10.0**k - 1 for k in range(2, 9)]) & ((size > 99) | (values < 0))
    rest = values[~nines]
    if not nines.any() or len(rest) < A_FEW or not np.ptp(rest) > 0:
        return np.zeros(len(values), dtype=bool)
    return nines & ((values < rest.min() - np.ptp(rest)) | (values > rest.max() + np.ptp(rest)))


def warn_of_units(labels: Sequence[Any], what: str, advice: str) -> bool:
    """Say where labels are numbers with a unit behind: they are taken as labels, and hardly meant so. Whether it was said."""
    found = [match.group(1) for label in labels if isinstance(label, str) and (match := _MEASURE.fullmatch(label))]
    measures = len(labels) > FEW_LEVELS and len(found) >= MOSTLY * len(labels) and len(set(found)) == 1
    if measures:
        notice(
            f"{what} holds numbers with {found[0]!r} behind them, {listed(labels, 3)}, and they are taken as labels. Take it "
            f"away, convert the column with pandas.to_numeric, and say the unit with units={{...}}; {advice}"
        )
    return measures


def spanned(x: NDArray[np.float64]) -> str:
    """From where to where some numbers lie."""
    if not len(x):
        return ""
    low, high = x.min(), x.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def warn_of_ranges(
    x: NDArray[np.float64], task_index: NDArray[np.int64], inputs: dict[int, str], tasks: Sequence[str]
) -> None:
    """Say which numeric inputs lie elsewhere in one task than in all others, as if they were in another unit."""
    for j, name in inputs.items():
        for t, task in enumerate(tasks):
            here, others = x[task_index == t, j], x[task_index != t, j]
            if min(len(here), len(others)) < A_FEW:
                continue
            width, gap = max(np.ptp(here), np.ptp(others)), max(here.min() - others.max(), others.min() - here.max())
            if width > ROUNDING * np.abs(x[:, j]).max() and gap > FAR * width:
                notice(
                    f"Input {name!r} is {spanned(here)} in task {task!r} and {spanned(others)} in the others: is it in another "
                    "unit? Where tasks were observed so far from one another, none tells of the others."
                )
                break


def repeats(places: NDArray[np.int64], task_index: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows have the inputs, the task and the value of an earlier one."""
    return pd.DataFrame({"at": places, "task": task_index, "value": values}).duplicated().to_numpy()


def warn_of_copies(
    places: NDArray[np.int64], task_index: NDArray[np.int64], values: NDArray[np.float64], tasks: dict[int, str]
) -> None:
    """Say which numeric tasks repeat many of their values to the last of four digits or more, at the same inputs."""
    with np.errstate(divide="ignore"):
        shift = np.where(values == 0, 1.0, 10 ** (2 - np.floor(np.log10(np.abs(values)))))
    exact = np.abs(values * shift - np.round(values * shift)) > ROUNDING * 1000
    again = exact & repeats(places, task_index, values)
    for t, name in tasks.items():
        copied, rows = int(again[task_index == t].sum()), int((task_index == t).sum())
        if copied >= max(A_FEW, COPIED * rows):
            notice(
                f"Task {name!r}: {copied} of {rows} rows repeat another to the last digit, inputs and value. "
                "They are taken as replicates, each a measurement of its own, and make the noise look small. If they are copies, "
                "as after a join, drop them: table.drop_duplicates()."
            )


def warn_of_known_rows(
    places: NDArray[np.int64], task_index: NDArray[np.int64], values: NDArray[np.float64], known: int
) -> None:
    """Say where all numbers but the first `known` repeat one of these, inputs and value."""
    new = len(values) - known
    if new > 1 and repeats(places, task_index, values)[known:].all():
        notice(f"All {new} new rows are in the data already, with the same values: from now on they count twice.")


def warn_of_extrapolation(
    x: NDArray[np.float64], seen: NDArray[np.float64], inputs: dict[int, str], rows: Sequence[Any]
) -> None:
    """Say which numeric inputs lie twice as far outside what was observed, in many rows, as that is wide."""
    if len(seen) < SPANNING:
        return
    for j, name in inputs.items():
        low, high = seen[:, j].min(), seen[:, j].max()
        off = np.flatnonzero((x[:, j] < low - FAR * (high - low)) | (x[:, j] > high + FAR * (high - low)))
        if high - low > ROUNDING * max(abs(low), abs(high)) and len(off):
            notice(
                f"Input {name!r} is {spanned(x[off, j])} in rows {listed([rows[int(i)] for i in off])}, and was observed from "
                f"{spanned(seen[:, j])}: is it in another unit? So far outside predictions say little, on the scale of a Log "
                "they may be absurd."
            )


def warn_of_surprises(task: str, rows: Sequence[Any], values: NDArray[np.float64], chance: NDArray[np.float64]) -> None:
    """Say which new values the model had held for all but impossible; `chance` is that of one at least so far out."""
    if (odd := np.flatnonzero(chance < UNLIKELY)).size:
        shown = listed([f"{values[i]:.4g} in row {rows[int(i)]}" for i in odd]).replace("'", "")
        notice(
            f"Task {task!r}: {shown} had a chance of less than one in a million. Look at the unit, and for slips; if what was "
            "measured is right, fit again with it."
        )


def warn_of_zeros(values: NDArray[np.float64], task: str) -> None:
    """Say where so many values are exactly zero that zero is hardly a value among others."""
    zeros = int((values == 0).sum())
    if zeros >= max(5, 0.2 * len(values)) and (values >= 0).all() and (values != np.floor(values)).any():
        notice(
            f"Task {task!r}: {zeros} of {len(values)} values are exactly 0, and none is below. If zero is a limit, or a state "
            f"of its own as the gap of a metal, say so with likelihoods={{{task!r}: btl.Hurdle()}} or btl.Censored(lower=0.0); "
            "if it is a value as others are, btl.Gaussian()."
        )


def warn_of_limits(values: NDArray[np.float64], task: str, warp: Warp | None) -> None:
    """Say where so many values are the largest, or the smallest, and hardly two others alike, that it is hardly a value."""
    found, counts = np.unique(values, return_counts=True)
    if len(found) < OFTEN:
        return
    most = max(OFTEN, LIMITED * len(values), 2 * counts[1:-1].max())
    ends = {"lower": (found[0], counts[0]), "upper": (found[-1], counts[-1])}
    held = {end: value for end, (value, count) in ends.items() if count >= most}
    if any(value != 0 for value in held.values()):
        scale = [] if warp is None else [f"warp=btl.{type(warp).__name__}(...)"]
        limits = ", ".join([*(f"{end}={value:g}" for end, value in held.items()), *scale])
        shown = " and ".join(f"{ends[end][1]} are {value:g}" for end, value in held.items())
        notice(
            f"Task {task!r}: of {len(values)} values {shown}, none is beyond, and others are hardly alike. If that is a limit of "
            f"what can be or can be told, say so with likelihoods={{{task!r}: btl.Censored({limits})}}: taken for a value it "
            "draws predictions in."
        )


def warn_of_beyond(
    values: NDArray[np.float64], held: NDArray[np.float64], details: NDArray[np.float64], task: str, rows: Sequence[Any]
) -> None:
    """Say which values lie so far beyond their limits, at which they are `held`, that they are hardly meant."""
    span = max(float(np.ptp(held)), float(np.nan_to_num(np.diff(details, axis=1)).max(initial=0.0)))
    far = np.flatnonzero(np.abs(values - held) > BEYOND * span) if 0 < span < np.inf else np.empty(0, int)
    if 0 < len(far) <= max(1, LIMITED * len(values)):
        shown = listed([f"{values[i]:g} in row {rows[int(i)]}" for i in far]).replace("'", "")
        notice(
            f"Task {task!r}: {shown} lie far beyond the limits of what can be told, and are held as these. Look at the unit, and "
            "for slips."
        )


def warn_of_errors(values: NDArray[np.float64], errors: NDArray[np.float64], warp: Warp, task: str) -> None:
    """Say where known errors on a warped scale, where they are taken to first order, depend much on the value itself."""
    y = torch.from_numpy(values)
    z, noise = (
        warp.forward(y, warp.usual).numpy(),
        (warp.log_slope(y, warp.usual).exp() * torch.from_numpy(errors)).numpy(),
    )
    fine = np.isfinite(z) & np.isfinite(noise) & (noise > 0)
    z, noise = z[fine], noise[fine]
    if len(z) < 5 or not np.ptp(z) > 0:
        return
    trend = np.polyfit(z - z.mean(), np.log(noise), 1)[0]  # none where errors are relative and the scale is logarithmic
    bent = int((np.abs(trend) * noise > math.log(BENT)).sum())
    if bent > 0.1 * len(values):
        notice(
            f"Task {task!r}: on the scale of {type(warp).__name__}, the known errors of {bent} of {len(values)} rows depend much "
            "on the very value that was measured, where they are taken to first order: small values count too little, and "
            "scores do not compare with those on another scale. Observe the task without a warp, or leave the errors out."
        )


def warn_of_strangers(data: TaskData) -> None:
    """Name numbers so far from all others of their column that they are likely codes for missing values, or in wrong units."""
    remedy = "give the input's logarithm", "observe the task with StudentT(), or on a Log() scale"
    every = np.arange(len(data))
    columns = [
        (f"Input {c.name!r}", every, data.x[:, j], remedy[0]) for j, c in enumerate(data.inputs) if c.levels is None
    ]
    for t, task in enumerate(data.tasks):
        hurdle = isinstance(task.likelihood, Hurdle)
        inner = task.likelihood.positive if isinstance(task.likelihood, Hurdle) else task.likelihood
        if isinstance(inner, Gaussian | Censored) and not isinstance(inner.warp, Log):
            own = np.flatnonzero((data.task_index == t) & ((data.values > 0) | (not hurdle)))
            columns.append((f"Task {task.name!r}", own, data.values[own], remedy[1]))
    for what, own, values, else_do in columns:
        if (codes := codes_for_missing(values)).any():
            shown = ", ".join(f"{value:g}" for value in np.unique(values[codes]))
            notice(
                f"{what} is {shown} in rows {listed(data.rows[own[codes]].tolist())}, and {spanned(values[~codes])} in all "
                "others: a code for what is missing? It is taken for a number, next to which all others are as one. Drop those "
                f"rows, or mend them; if they are right, {else_do}."
            )
        if len(values) < STRANGE_FROM or codes.any():
            continue
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
        strange = np.flatnonzero(np.abs(values - middle) > STRANGE * (high - low))
        if high > low and len(strange):
            shown = ", ".join(f"{data.rows[own[i]]} ({values[i]:g})" for i in strange[:5])
            more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
            notice(
                f"{what} holds values a thousand times as far from its median as nine tenths of them reach: rows "
                f"{shown}{more}. Are they codes for missing values, or in another unit? All others are seen next to them, as "
                f"one. Drop or mend them; if they are right, {else_do}."
            )
