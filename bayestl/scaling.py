"""From the user's units to the model's and back: inputs to [-1/2, 1/2], values to zero mean and unit spread."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bayestl.table import TaskData


class Pairs(NamedTuple):
    """Points ``(x, output)`` at which latent functions are evaluated, in the model's units."""

    x: Float[Tensor, "n columns"]
    output: Int[Tensor, " n"]

    def take(self, rows: Int[Tensor, " m"]) -> Pairs:
        """Select rows."""
        return Pairs(self.x[rows], self.output[rows])


@dataclass(frozen=True)
class Layout:
    """What a model must know of the data to write its prior: names and sizes, no values.

    Attributes
    ----------
    tasks : names of the tasks
    inputs : names of the inputs
    groups : for each encoded column the position of the input it encodes (categories take one column per level)
    counts : rows of each task
    descriptors : (T, p) standardised task descriptors as nested tuples, or None
    """

    tasks: tuple[str, ...]
    inputs: tuple[str, ...]
    groups: tuple[int, ...]
    counts: tuple[int, ...]
    descriptors: tuple[tuple[float, ...], ...] | None = None

    @property
    def by_count(self) -> list[int]:
        """Tasks from the richest in rows to the poorest."""
        return sorted(range(len(self.counts)), key=lambda t: -self.counts[t])


@dataclass(frozen=True, eq=False)
class Scaling:
    """The affine maps between the user's units and the model's, learned from the training rows only.

    Numeric inputs go to [-1/2, 1/2] by their training range. A categorical input becomes one column per level, at
    ``1/sqrt(2)``, so that two distinct levels are at unit distance. Values become ``(y - location) / scale`` per task.
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
        """Learn the inputs' ranges; those named in `unscaled` reach the kernel as they are."""
        low, high = data.x.min(0), data.x.max(0)
        centre, width = low + (high - low) / 2, high - low
        width = np.where(width > 0, width, np.where(centre != 0, np.abs(centre), 1.0))
        described = np.empty((1, 0)) if data.descriptors is None else data.descriptors.to_numpy(dtype=float)
        raw = np.array([column.levels is None and column.name in unscaled for column in data.inputs])
        return cls(
            levels=tuple(0 if column.levels is None else len(column.levels) for column in data.inputs),
            centre=np.where(raw, 0.0, centre),
            width=np.where(raw, 1.0, width),
            location=np.asarray(location, dtype=np.float64),
            scale=np.asarray(scale, dtype=np.float64),
            descriptor_centre=described.mean(0),
            descriptor_width=np.where(described.std(0) > 0, described.std(0), 1.0),
        )

    @property
    def groups(self) -> tuple[int, ...]:
        """Input that each encoded column belongs to."""
        return tuple(j for j, count in enumerate(self.levels) for _ in range(max(count, 1)))

    def inputs(self, x: NDArray[np.float64]) -> Float[Tensor, "n columns"]:
        """Encode (n, d) inputs in the user's units."""
        blocks = []
        for j, count in enumerate(self.levels):
            if count:
                blocks.append((x[:, [j]] == np.arange(count)) / np.sqrt(2.0))
            else:
                blocks.append((x[:, [j]] - self.centre[j]) / self.width[j])
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(blocks, axis=1)))

    def values(self, data: TaskData) -> Float[Tensor, " n"]:
        """Standardised values."""
        return torch.from_numpy((data.values - self.location[data.task_index]) / self.scale[data.task_index])

    def errors(self, data: TaskData) -> Float[Tensor, " n"]:
        """Known errors in standardised units, NaN where unknown."""
        return torch.from_numpy(data.errors / self.scale[data.task_index])

    def pairs(self, data: TaskData) -> Pairs:
        """Encode the observed points."""
        return Pairs(self.inputs(data.x), torch.from_numpy(data.task_index.copy()))

    def layout(self, data: TaskData) -> Layout:
        """Names and sizes for the model."""
        descriptors = None
        if data.descriptors is not None:
            table = (data.descriptors.to_numpy(dtype=float) - self.descriptor_centre) / self.descriptor_width
            descriptors = tuple(map(tuple, table.tolist()))
        return Layout(
            tasks=data.names,
            inputs=tuple(column.name for column in data.inputs),
            groups=self.groups,
            counts=tuple(int(count) for count in data.counts),
            descriptors=descriptors,
        )


def task_means(data: TaskData) -> NDArray[np.float64]:
    """Mean value of each task."""
    return np.array([data.values[data.task_index == t].mean() for t in range(len(data.tasks))])


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
        y = data.values[own]
        distinct[t] = len(np.unique(data.x[own], axis=0))
        spreads[t] = spread_of(y)
    return spreads, distinct


def task_spreads(data: TaskData) -> NDArray[np.float64]:
    """Standard deviation of each task, never zero.

    The spread of a few values, or of replicates, says little. Where one ruler fits all tasks it is drawn towards the
    typical one, ``s^2 <- (d s^2 + 3 t^2) / (d + 3)`` with d the distinct inputs of the task and t the median spread of the
    tasks that have enough of them. Without a common ruler a task without a spread takes the size of its value, or 1.
    """
    spreads, distinct = _own_spreads(data)
    sizes = np.array([np.abs(data.values[data.task_index == t]).max(initial=0.0) for t in range(len(data.tasks))])
    known = np.isfinite(spreads)
    if share_a_scale(data) and known.any():
        rich = known & (distinct >= ENOUGH)
        typical = np.median(spreads[rich if rich.any() else known])
        return np.sqrt((distinct * np.nan_to_num(spreads) ** 2 + 3 * typical**2) / (distinct + 3))
    return np.where(known, spreads, np.where(sizes > 0, sizes, 1.0))


def share_a_scale(data: TaskData) -> bool:
    """Whether the values of all tasks can be measured with one ruler.

    They can when all declare the same unit. When none declares any, what the values say decides: spreads within a factor
    of ten of one another, or, for tasks with too few values to have one, a mean within ten spreads of the others'.
    """
    units = {task.unit for task in data.tasks}
    if units != {None}:
        return len(units) == 1
    spreads, distinct = _own_spreads(data)
    rich = np.isfinite(spreads) & (distinct >= ENOUGH)
    if not rich.any():
        rich = np.isfinite(spreads)
    if not rich.any():
        return True
    means = task_means(data)
    near = np.abs(means - means[rich].mean()) <= 10 * spreads[rich].max()
    return bool(spreads[rich].max() <= 10 * spreads[rich].min() and near[~rich].all())
