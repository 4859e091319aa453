"""Materials of a large table, told by their inputs: what was measured of one is conditioned on exactly where it is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bayestl.condense import Inducing
from bayestl.models.problem import Problem
from bayestl.priors import Theta
from bayestl.regression import Regression
from bayestl.selection import marks_at

NEAR, CORE = 400, 800  # condensed rows that are looked at in one go, beside those of scarce tasks
ALIKE = 50  # replicates of a task of one material that are conditioned on exactly
FRESH = 2000  # points beside a condensed table that are conditioned on exactly
MARKED = 100_000  # rows marked in one go

Marks = NDArray[np.uint64]
NONE: Marks = np.empty(0, dtype=np.uint64)


class Sight(NamedTuple):
    """Observations to leave out, the functions to leave them out of, which rows are in its sums, and what their sites settled in.

    None where that is what is in the sums.
    """

    chosen: NDArray[np.bool_]
    regression: Regression
    in_sums: NDArray[np.bool_]
    settled: Inducing | None = None


@dataclass(frozen=True, eq=False)
class Materials:
    """The condensed rows of a table, by material, where the inducing pairs leave much of them untold.

    Those that tell how the tasks differ (the `core`), and where a material is predicted of which something is known its own, are
    taken out of the sums and put beside those that came later, which are conditioned on exactly; the others are as uncertain as
    their noise and what the pairs do not tell of them: a partially independent conditional (Snelson & Ghahramani 2007,
    proceedings.mlr.press/v2/snelson07a.html).

    Attributes
    ----------
    problem : all observations, and the model
    theta : draws of the parameters
    inducing : the first `condensed` rows, condensed onto inducing pairs
    """

    problem: Problem
    theta: Theta
    inducing: Inducing
    condensed: int

    @cached_property
    def at(self) -> Marks:
        """A mark for the inputs of each row, the same for the same inputs."""
        x, parts = self.problem.data.x, range(0, max(len(self.problem.data), 1), MARKED)
        return np.concatenate([marks_at(self.problem.scaling.inputs(x[i : i + MARKED])) for i in parts])

    @cached_property
    def sites(self) -> NDArray[np.bool_]:
        """Condensed rows that are not normal, which stay in the sums."""
        out = np.zeros(len(self.at), dtype=bool)
        for piece in self.problem.sites:
            out[piece.at.numpy()] = True
        return out & self._old

    @cached_property
    def marks(self) -> Marks:
        """The mark of each condensed row that is normal; zero for others, and for more than ALIKE replicates."""
        out = np.where(self._old & ~self.sites, self.at, np.uint64(0))
        replicate = (
            pd.DataFrame({"mark": out, "task": self.problem.data.task_index}).groupby(["mark", "task"]).cumcount()
        )
        return np.where(replicate < ALIKE, out, np.uint64(0))

    @property
    def _exactly(self) -> NDArray[np.bool_]:
        """Rows that are conditioned on exactly where their material is looked at."""
        return (self.marks != 0) | ~self._old

    @property
    def _old(self) -> NDArray[np.bool_]:
        return np.arange(len(self.problem.data)) < self.condensed

    @cached_property
    def core(self) -> NDArray[np.bool_]:
        """Condensed rows of the scarcest tasks and of the same materials, up to CORE: what tells how the tasks differ."""
        data, core = self.problem.data, np.zeros(len(self.marks), dtype=bool)
        for t in np.argsort(data.counts, kind="stable"):
            more = core | np.isin(self.marks, np.setdiff1d(self.marks[data.task_index == t], [0]))
            if more.sum() <= CORE:
                core = more
        return core

    @cached_property
    def soft(self) -> Inducing:
        """The condensed rows where what the pairs do not tell of them counts as noise."""
        return self.inducing.softened(self._of(self._old), self.theta)

    def learn_from(self, fewer: Materials) -> None:
        """Take over the sums of the same condensed rows, where they were taken before more rows came."""
        if "soft" in fewer.__dict__:
            self.__dict__["soft"] = fewer.soft

    def parts(self, wanted: Marks) -> list[Marks]:
        """Split materials into parts of some NEAR condensed rows each."""
        distinct, counts = np.unique(self.marks[np.isin(self.marks, wanted)], return_counts=True)
        part = np.cumsum(counts) // NEAR
        return [distinct[part == one] for one in np.unique(part)]

    def rows_beside(self, wanted: Marks) -> NDArray[np.int64]:
        """The rows to condition on exactly: those of some materials, of the core, and those that came later."""
        return np.flatnonzero(self._condensed_beside(wanted) | ~self._old)

    def others(self, wanted: Marks) -> Inducing:
        """The rest, condensed."""
        return self.soft.without(self._of(self._condensed_beside(wanted)), self.theta)

    def beside(self, wanted: Marks) -> Regression:
        """The functions given all rows, of which those of some materials are conditioned on exactly."""
        exactly = np.isin(np.arange(len(self.marks)), self.rows_beside(wanted))
        return Regression(self._of(exactly), self.theta, None, self.others(wanted))

    @cached_property
    def elsewhere(self) -> Regression:
        """What to predict with where nothing is known of a material: by the pairs alone where nothing is exact beside them."""
        if not len(self.rows_beside(NONE)):
            return Regression(self._of(np.zeros(len(self.marks), dtype=bool)), self.theta, None, self.inducing)
        return self.beside(NONE)

    def marginals(
        self, x: Float[Tensor, "m columns"], groups: list[list[int]]
    ) -> list[tuple[Float[Tensor, "S m c"], Float[Tensor, "S m c c"]]]:
        """As `Regression.marginals`, each point given what was measured at its very inputs."""
        found = [(index, regression.marginals(x[index], groups)) for index, regression in self._near(x)]
        order = torch.from_numpy(np.argsort(np.concatenate([index for index, _ in found]), kind="stable"))
        return [
            (
                torch.cat([own[g][0] for _, own in found], 1)[:, order],
                torch.cat([own[g][1] for _, own in found], 1)[:, order],
            )
            for g in range(len(groups))
        ]

    def joint(self, x: Float[Tensor, "m columns"]) -> Regression:
        """What to draw all of some points from, jointly."""
        known = np.intersect1d(marks_at(x), self.marks)
        few = len(known) > 0 and np.isin(self.marks, known).sum() <= FRESH
        return self.beside(known) if few else self.elsewhere

    def accompanied(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows of groups at one point where something stays, of another group, that is conditioned on exactly."""
        rows = pd.DataFrame({"at": self.at, "code": codes})
        present = rows[self._exactly].groupby("at")["code"].nunique()
        mine = pd.Series(self._exactly).groupby([rows["at"], rows["code"]]).transform("any")
        others = rows["at"].map(present).fillna(0) - mine
        return ((rows.groupby("code")["at"].transform("nunique") == 1) & (others > 0)).to_numpy()

    def sights(self, codes: NDArray[np.int64], wanted: NDArray[np.bool_]) -> Iterator[Sight]:
        """What to leave the `wanted` observations out of, where one would be predicted from exact rows if it were new.

        Not among them are groups of several materials or of rows both exact and not, and more than ALIKE replicates: they are
        left out of the pairs.
        """

        def whole(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return pd.Series(rows).groupby(codes).transform("all").to_numpy()

        exact = np.isin(np.arange(len(codes)), self.rows_beside(NONE))
        sites = whole(self.sites) & (pd.Series(self.at).groupby(codes).transform("nunique") == 1).to_numpy()
        looked_up = np.isin(
            self.at, self.marks[~self.core & (self.marks != 0)]
        )  # where rows are exact that are not elsewhere
        near = wanted & looked_up & (sites | (self.accompanied(codes) & whole(self._exactly)))
        told = wanted & ~near & (sites | whole(exact))
        mine = [(NONE, told), *((some, near & np.isin(self.at, some)) for some in self.parts(np.unique(self.at[near])))]
        for some, chosen in mine:
            if chosen.any():
                regression = self.beside(some) if len(some) else self.elsewhere
                yield Sight(chosen, regression, ~np.isin(np.arange(len(codes)), self.rows_beside(some)), self.inducing)

    def _near(self, x: Tensor) -> Iterator[tuple[NDArray[np.int64], Regression]]:
        """Points, and what to predict them with."""
        own = marks_at(x)
        known = np.isin(own, self.marks)
        if not known.all():
            yield np.flatnonzero(~known), self.elsewhere
        for some in self.parts(np.unique(own[known])):
            yield np.flatnonzero(np.isin(own, some)), self.beside(some)

    def _condensed_beside(self, wanted: Marks) -> NDArray[np.bool_]:
        return np.isin(self.marks, wanted) | self.core

    def _of(self, rows: NDArray[np.bool_]) -> Problem:
        """The observations of some of the rows."""
        return Problem.of(self.problem.model, self.problem.data.where(rows, empty=True), self.problem.scaling)
