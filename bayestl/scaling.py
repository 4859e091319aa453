"""From the user's units to the model's and back: inputs to [-1/2, 1/2], values to zero mean and unit spread.

The values of a task may follow from several latent functions. A model speaks of *outputs*, all the latent functions of all
tasks; what the data see are *contrasts* of them, one for each output but for a categorical task, of whose functions only
the differences matter. Contrasts are what `Pairs.output` counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bayestl.columns import Input, extents
from bayestl.errors import DataError
from bayestl.likelihoods.numeric import warp_of
from bayestl.priors import FEW
from bayestl.table import TaskData


class Pairs(NamedTuple):
    """Points ``(x, output)`` at which latent functions (their contrasts) are evaluated, in the model's units."""

    x: Float[Tensor, "n columns"]
    output: Int[Tensor, " n"]

    def take(self, rows: Int[Tensor, " m"]) -> Pairs:
        """Select rows."""
        return Pairs(self.x[rows], self.output[rows])


MANY = 40  # inputs, each of which may have one beside the distance that all of them share
PLAIN = "inputs:"  # family of the numeric inputs whose names tell none; no name makes one that ends so
STATISTIC = re.compile(
    r"((\w+Data )?(minimum|maximum|range|mean|avg_dev|std_dev|mode|min|max|std))[ _]\S", re.IGNORECASE
)


def families(inputs: Sequence[Input]) -> tuple[str | None, ...]:
    """Sort many descriptors into families; None for an input that is to have a length scale of its own.

    Up to 15 inputs all have one. Beyond, names tell the families: what stands before a colon (``orbital: HOMO``), or before and
    with a statistic (``mean radius``, ``range_radius``, ``MagpieData avg_dev Electronegativity``). The other numeric inputs stay
    alone if they are at most 15, else they are one more family, `PLAIN`; categories stay alone.
    """
    if len(inputs) <= FEW:
        return (None,) * len(inputs)
    found: list[str | None] = []
    for column in inputs:
        match = STATISTIC.match(column.name)
        family = column.name.split(":")[0] if ":" in column.name else match[1] if match else None
        found.append(family if column.levels is None else None)
    rest = [j for j, family in enumerate(found) if family is None and inputs[j].levels is None]
    if len(rest) > FEW:
        for j in rest:
            found[j] = PLAIN
    return tuple(found)


def singled(labels: Sequence[str | None]) -> str | None:
    """Name the family whose members have length scales of their own too, in units of their ranges: `PLAIN`, up to 40 of them."""
    return PLAIN if 0 < sum(label == PLAIN for label in labels) <= MANY else None


@dataclass(frozen=True)
class Layout:
    """What a model must know of the data to write its prior: names and sizes, no values.

    Attributes
    ----------
    tasks : names of the tasks
    outputs : names of the latent functions: the task's, where it has one, else ``task[function]``
    owner : for each output the position of its task
    first : for each task the position of its first contrast, and at the end their number
    noisy : positions of the tasks that have a noise
    inputs : names of the inputs
    groups : for each encoded column the position of the input it encodes (categories take one column per level)
    families : for each input the family of descriptors that it belongs to, or None; see `families`
    counts : rows of the task of each output
    contrast : (contrasts, outputs) matrix, None for the identity
    descriptors : (outputs, p) standardised task descriptors as nested tuples, or None
    columns : for each input the caller's column that it is, or that it describes
    """

    tasks: tuple[str, ...]
    outputs: tuple[str, ...]
    owner: tuple[int, ...]
    first: tuple[int, ...]
    noisy: tuple[int, ...]
    inputs: tuple[str, ...]
    groups: tuple[int, ...]
    families: tuple[str | None, ...]
    counts: tuple[int, ...]
    contrast: Tensor | None = field(default=None, compare=False)
    descriptors: tuple[tuple[float, ...], ...] | None = None
    columns: tuple[str, ...] = ()

    @property
    def by_count(self) -> list[int]:
        """Outputs from the richest in rows to the poorest."""
        return sorted(range(len(self.counts)), key=lambda t: -self.counts[t])

    def functions(self, task: int) -> list[int]:
        """Positions of a task's outputs."""
        return [o for o, owner in enumerate(self.owner) if owner == task]

    def contrasts(self, task: int) -> list[int]:
        """Positions of a task's contrasts."""
        return list(range(self.first[task], self.first[task + 1]))


@dataclass(frozen=True, eq=False)
class Scaling:
    """The affine maps between the user's units and the model's, learned from the training rows only.

    Numeric inputs go to [-1/2, 1/2] by their training range, descriptors of a family (see `families`) without length scales of
    their own to unit standard deviation; where almost all rows agree that is at least a twentieth of the range. A categorical
    input becomes one column per level, at ``1/sqrt(2)``, so that two distinct levels are at unit distance. Numeric values become
    ``(w(y) - location) / scale``; where the observations are not numbers, ``location + scale f`` is the likelihood's natural
    parameter. Both have one entry for each contrast.
    """

    levels: tuple[int, ...]
    centre: NDArray[np.float64]
    width: NDArray[np.float64]
    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    descriptor_centre: NDArray[np.float64]
    descriptor_width: NDArray[np.float64]

    @classmethod
    def of_inputs(
        cls, data: TaskData, location: NDArray[np.float64], scale: NDArray[np.float64], unscaled: Set[str] = frozenset()
    ) -> Scaling:
        """Learn the inputs' ranges; those named in `unscaled` reach the kernel as they are.

        `location` and `scale` are those of the numeric values of each task.
        """
        location, scale = per_contrast(data, location, scale)
        centre, width, varies = extents(data.x)
        labels = families(data.inputs)
        described = np.array([label not in (None, singled(labels)) for label in labels])
        with np.errstate(over="ignore"):
            spread = np.maximum(data.x.std(0), width / 20)
        width = np.where(described & varies & np.isfinite(spread), spread, width)
        of_tasks = np.empty((1, 0)) if data.descriptors is None else data.descriptors.to_numpy(dtype=float)
        named = [not unscaled.isdisjoint((column.name, column.source)) for column in data.inputs]
        raw = np.array([column.levels is None for column in data.inputs]) & named
        return cls(
            levels=tuple(0 if column.levels is None else len(column.levels) for column in data.inputs),
            centre=np.where(raw, 0.0, centre),
            width=np.where(raw, 1.0, width),
            location=location,
            scale=scale,
            descriptor_centre=of_tasks.mean(0),
            descriptor_width=np.where(of_tasks.std(0) > 0, of_tasks.std(0), 1.0),
        )

    @property
    def groups(self) -> tuple[int, ...]:
        """Input that each encoded column belongs to."""
        return tuple(j for j, count in enumerate(self.levels) for _ in range(max(count, 1)))

    def inputs(self, x: NDArray[np.float64] | Tensor) -> Float[Tensor, "*n columns"]:
        """Encode (..., d) inputs in the user's units, differentiably."""
        columns = (x if isinstance(x, Tensor) else torch.tensor(x)).split(1, -1)
        blocks = []
        for j, (count, column) in enumerate(zip(self.levels, columns, strict=True)):
            if count:
                blocks.append((column == torch.arange(count)).double() / np.sqrt(2.0))
            else:
                blocks.append((column - self.centre[j]) / self.width[j])
        return torch.cat(blocks, -1)

    def layout(self, data: TaskData) -> Layout:
        """Names and sizes for the model."""
        names, owner, first, blocks = [], [], [0], []
        for t, task in enumerate(data.tasks):
            own = task.likelihood.functions(task.levels)
            names += [f"{task.name}[{name}]" if name else task.name for name in own]
            owner += [t] * len(own)
            matrix = task.likelihood.contrast(task.levels)
            blocks.append(np.eye(len(own)) if matrix is None else matrix)
            first.append(first[-1] + len(blocks[-1]))
        descriptors = None
        if data.descriptors is not None:
            table = (data.descriptors.to_numpy(dtype=float) - self.descriptor_centre) / self.descriptor_width
            descriptors = tuple(map(tuple, table[owner].tolist()))
        whole = len(names) == first[-1]
        return Layout(
            tasks=data.names,
            outputs=tuple(names),
            owner=tuple(owner),
            first=tuple(first),
            noisy=tuple(t for t, task in enumerate(data.tasks) if task.likelihood.noisy),
            inputs=tuple(column.name for column in data.inputs),
            groups=self.groups,
            families=families(data.inputs),
            counts=tuple(int(data.counts[t]) for t in owner),
            contrast=None if whole else torch.from_numpy(scipy.linalg.block_diag(*blocks)),
            descriptors=descriptors,
            columns=tuple(column.source or column.name for column in data.inputs),
        )


def working_values(data: TaskData, task: int) -> NDArray[np.float64] | None:
    """Values of a task on the scale that is standardised; None where they are not numbers."""
    values, levels = data.values[data.task_index == task], data.tasks[task].levels
    if levels is not None and len(levels) == 1:
        raise DataError(
            f"Task {data.names[task]!r} holds a single class, {levels[0]!r}: nothing can be learned from it. Leave it out, or "
            "name its likelihood."
        )
    found = data.tasks[task].likelihood.working(values)
    if found is not None and len(found) == 0 < len(values):
        raise DataError(f"Task {data.names[task]!r} holds zeros only. Hurdle needs positive values too.")
    return found


def per_contrast(
    data: TaskData, means: NDArray[np.float64], spreads: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Location and scale of every contrast, given those of the numeric values of every task."""
    location: list[float] = []
    scale: list[float] = []
    for t, task in enumerate(data.tasks):
        own = data.task_index == t
        shift, size = task.likelihood.anchor(data.values[own], data.details[own], task.levels)
        location += shift
        scale += size
        if task.likelihood.working(data.values[own]) is not None:
            location.append(float(means[t]))
            scale.append(float(spreads[t]))
    return np.array(location), np.array(scale)


def task_means(data: TaskData) -> NDArray[np.float64]:
    """Mean value of each task on its working scale; 0 where the observations are not numbers."""
    found = [working_values(data, t) for t in range(len(data.tasks))]
    return np.array([0.0 if y is None else y.mean() for y in found])


ENOUGH = 5  # distinct inputs from which a spread can be told


def spread_of(y: NDArray[np.float64]) -> float:
    """Standard deviation, NaN where the values are equal up to rounding."""
    spread = float(y.std()) if len(y) else 0.0
    return spread if spread > 64 * np.finfo(np.float64).eps * np.abs(y).max(initial=0.0) else float("nan")


def _own_spreads(data: TaskData) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Standard deviation of each task (NaN where its values are equal up to rounding), and its distinct inputs."""
    spreads, distinct = np.full(len(data.tasks), np.nan), np.zeros(len(data.tasks), dtype=np.int64)
    for t in range(len(data.tasks)):
        own = data.task_index == t
        y = working_values(data, t)
        distinct[t] = len(np.unique(data.places[own]))
        if y is not None:
            spreads[t] = spread_of(y)
    return spreads, distinct


def task_spreads(data: TaskData, within: float = 10.0) -> NDArray[np.float64]:
    """Standard deviation of each task, never zero.

    The spread of a few values, or of replicates, says little. Where one ruler fits all tasks it is drawn towards the
    typical one, ``s^2 <- (d s^2 + 3 t^2) / (d + 3)`` with d the distinct inputs of the task and t the median spread of the
    tasks that have enough of them. Without a common ruler a task without a spread takes the size of its value, or 1.
    """
    spreads, distinct = _own_spreads(data)
    working = [working_values(data, t) for t in range(len(data.tasks))]
    sizes = np.array([0.0 if y is None else np.abs(y).max(initial=0.0) for y in working])
    known = np.isfinite(spreads)
    if share_a_scale(data, within) and known.any():
        rich = known & (distinct >= ENOUGH)
        typical = np.median(spreads[rich if rich.any() else known])
        return np.sqrt((distinct * np.nan_to_num(spreads) ** 2 + 3 * typical**2) / (distinct + 3))
    return np.where(known, spreads, np.where(sizes > 0, sizes, 1.0))


def share_a_scale(data: TaskData, within: float = 10.0) -> bool:
    """Whether the values of all tasks can be measured with one ruler.

    They can when all declare the same unit. When none declares any, what the values say decides: spreads `within` that factor
    of one another, or, for tasks with too few values to have one, a mean within ten spreads of the others'. Tasks whose
    values are not numbers have no ruler; numbers on differently warped scales share none.
    """
    numeric = np.array([task.likelihood.kind == "numeric" for task in data.tasks])
    units = {task.unit for task in data.tasks if task.likelihood.kind == "numeric"}
    if len({warp_of(task.likelihood) for task in data.tasks if task.likelihood.kind == "numeric"}) > 1:
        return False
    if units != {None}:
        return len(units) == 1
    spreads, distinct = _own_spreads(data)
    rich = np.isfinite(spreads) & (distinct >= ENOUGH)
    if not rich.any():
        rich = np.isfinite(spreads)
    if not rich.any():
        return True
    means = task_means(data)
    near = ~numeric | (np.abs(means - means[rich].mean()) <= 10 * spreads[rich].max())
    return bool(spreads[rich].max() <= within * spreads[rich].min() and near[~rich].all())
