"""Difference: each fidelity is its cheaper parents, scaled, plus a correction."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import gpytorch
import numpy as np
import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl import priors
from bayestl.errors import DataError, listed, notice
from bayestl.kernels import Kernel, as_kernel
from bayestl.models.base import Model, Term, noise
from bayestl.priors import Theta
from bayestl.scaling import Layout, Scaling, share_a_scale, task_means, task_spreads
from bayestl.table import TaskData

ALIKE = 3.0  # times that spreads without a unit may differ by: next to too short a ruler noise looks like signal


@dataclass(frozen=True, init=False)
class Difference(Model):
    r"""A directed acyclic graph of fidelities: ``f_o(x) = sum_{p in parents(o)} rho_op f_p(x) + delta_o(x)``.

    ``delta_o ~ GP(m_o, s_o^2 k_o)``, ``m_o ~ N(0, 1)`` integrated out. With P the matrix of the rho and ``R = (I - P)^-1``,
    ``Cov[f_o(x), f_o'(x')] = sum_s R_os R_o's (s_s^2 k_s(x, x') + 1)``: closed form for any graph, whether or not the
    tasks were observed at the same x (Kennedy & O'Hagan 2000, doi 10.1093/biomet/87.1.1, generalised from a chain).

    Values of all tasks are measured with one ruler, the spread of the tasks without parents, so that ``rho = 1`` with a
    smooth delta is the difference architecture of Hutchinson et al. 2017; where declared units differ, or none are declared
    and spreads differ by more than a factor of three, each task has its own. Priors: ``rho = 0.28 sinh(1.6 v)``,
    ``v ~ N(0, 1)``, which peaks at 0, so that an irrelevant source is switched off, and has tails in which a source of
    either sign fits; of n > 5 parents ``0.28/n sinh((1.6 + 0.15 log n) v)``, for one or two of so many are supposed to matter;
    ``s ~ LogNormal(0.2, 0.8)`` for a task without parents and ``LogNormal(-0.4, 0.8)`` for a correction: two
    thirds of the spread, from an eighth (a good source leaves little to correct) to three times it (a useless one leaves all, and
    what it adds itself); ``noise ~ LogNormal(-2, 1)``.

    Parameters
    ----------
    parents : mapping from a task to the tasks it is built on, as ``{"exp": ["hse"], "hse": ["pbe"]}``; by default a chain
        of the tasks in the order of the data, the cheapest first
    kernel : of every delta, each with parameters of its own
    rho : a number fixes every rho (1.0: the paper's difference); None infers them

    Raises
    ------
    DataError
        For a cycle (named), and when fitting for a task that the data do not hold.

    Examples
    --------
    >>> import bayestl as btl
    >>> btl.Difference({"exp": ["hse"], "hse": ["pbe"]}) == btl.Difference.chain("pbe", "hse", "exp")
    True
    """

    parents: tuple[tuple[str, tuple[str, ...]], ...] | None
    kernel: Kernel
    rho: float | None

    def __init__(
        self,
        parents: Mapping[str, Sequence[str]] | None = None,
        kernel: Kernel | gpytorch.kernels.Kernel | None = None,
        rho: float | None = None,
    ) -> None:
        if parents is not None and not isinstance(parents, Mapping):
            raise DataError(
                "`parents` must map a task to those that it is built on, {'exp': ['pbe']}; for a chain write "
                f"Difference.chain('pbe', 'exp'). Got {parents!r}."
            )
        if rho is not None and not math.isfinite(rho):
            raise ValueError(f"`rho` must be a finite number, or None; got {rho}.")
        object.__setattr__(self, "parents", None if parents is None else _canonical(parents))
        object.__setattr__(self, "kernel", as_kernel(kernel))
        object.__setattr__(self, "rho", None if rho is None else float(rho))

    @classmethod
    def chain(
        cls, *tasks: str, kernel: Kernel | gpytorch.kernels.Kernel | None = None, rho: float | None = None
    ) -> Difference:
        """Build a chain of fidelities, the cheapest first."""
        if odd := [task for task in tasks if not isinstance(task, str)]:
            raise DataError(f"A chain takes its tasks one by one, Difference.chain('pbe', 'exp'); got {listed(odd)}.")
        return cls({child: [parent] for parent, child in itertools.pairwise(tasks)}, kernel, rho)

    def graph(self, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Parents of each task."""
        if self.parents is None:
            return {task: tuple(tasks[max(i - 1, 0) : i]) for i, task in enumerate(tasks)}
        given = dict(self.parents)
        return {task: given.get(task, ()) for task in tasks}

    def of_tasks(self, tasks: Sequence[str]) -> Difference:
        """Give the graph of some of the tasks: of one that is left out, its parents take the place."""
        if self.parents is None:
            return self
        graph = dict(self.parents)

        def nearest(task: str) -> list[str]:
            found = [[p] if p in tasks else nearest(p) for p in graph.get(task, ())]
            return list(dict.fromkeys(itertools.chain(*found)))

        return Difference({task: nearest(task) for task in tasks}, self.kernel, self.rho)

    def edges(self, layout: Layout) -> list[tuple[int, int]]:
        """(child, parent) index pairs of outputs, in task order.

        Tasks with as many functions as one another are linked function by function, others all to all.
        """
        graph = self.graph(layout.tasks)
        own = [layout.functions(t) for t in range(len(layout.tasks))]
        found = []
        for t, task in enumerate(layout.tasks):
            for p in (layout.tasks.index(name) for name in graph[task]):
                alike = len(own[t]) == len(own[p])
                found += list(zip(own[t], own[p], strict=True)) if alike else list(itertools.product(own[t], own[p]))
        return sorted(found)

    def check(self, data: TaskData) -> None:
        named = [name for child, parents in self.parents or () for name in (child, *parents)]
        if unknown := [name for name in dict.fromkeys(named) if name not in data.names]:
            raise DataError(
                f"The fidelity graph names tasks that the data do not hold: {listed(unknown)}. "
                f"The data hold {listed(data.names, 20)}."
            )
        graph = self.graph(data.names)
        between = [name for name in data.names if graph[name] and any(name in of for of in graph.values())]
        lone = [
            name for name in between
            if data.parts is None and len(np.unique(data.places[data.task_index == data.index_of(name)])) == 1
        ]  # fmt: skip
        if lone and self.rho is None:
            notice(
                f"Tasks {listed(lone)} lie between others in the fidelity graph and were observed at a single input, which does "
                "not tell whether they rise or fall with their parents: the fit takes one side. Leave them out, or fix rho."
            )
        if self.parents is not None and (alone := [name for name in data.names if name not in named]):
            notice(
                f"Tasks {listed(alone)} are not in the fidelity graph: they share nothing with the others. Put them in, or leave "
                "them out of the data."
            )
        units = {task.unit for task in data.tasks if task.likelihood.kind == "numeric"}
        if self.rho is not None and len(units) > 1:
            raise DataError(
                f"A fixed rho needs all tasks in one unit; the data declare {listed(sorted(map(str, units)))}."
            )

    def scaling(self, data: TaskData) -> Scaling:
        spreads = task_spreads(data, ALIKE)
        if self.rho is not None or share_a_scale(data, ALIKE):
            graph = self.graph(data.names)
            numeric = [o for o, task in enumerate(data.tasks) if task.likelihood.kind == "numeric"]
            roots = [o for o in numeric if not graph[data.names[o]]] or numeric or list(range(len(spreads)))
            spreads = np.full_like(spreads, np.sqrt(np.mean(spreads[roots] ** 2)))
        return Scaling.of_inputs(data, task_means(data), spreads, self.kernel.unscaled)

    def prior(self, layout: Layout) -> Theta:
        edges, count = self.edges(layout), len(layout.outputs)
        children = {o for o, _ in edges}
        loc = torch.tensor([-0.4 if o in children else 0.2 for o in range(count)], dtype=torch.float64)
        theta = {
            "amplitude": pyro.sample("amplitude", pyro.distributions.LogNormal(loc, 0.8).to_event(1)),
            **noise(layout),
        }
        if edges and self.rho is None:
            parents = Counter(child for child, _ in edges)
            theta["rho"] = pyro.sample("rho", priors.slopes([parents[child] for child, _ in edges]))
        for task in layout.tasks:
            theta |= self.kernel.prior(task, layout)
        return theta

    def terms(self, theta: Theta, layout: Layout) -> Iterator[Term]:
        r = self.propagation(theta, layout)
        yield Term(r @ r.mT)
        owned, edges = [layout.functions(t) for t in range(len(layout.tasks))], self.edges(layout)
        scaled = (r * theta["amplitude"].unsqueeze(-2)).split([len(own) for own in owned], -1)
        for task, own, columns in zip(layout.tasks, owned, scaled, strict=True):
            yield Term(columns @ columns.mT, self.kernel, task, _heirs(own, edges))

    def propagation(self, theta: Theta, layout: Layout) -> Float[Tensor, "*#draws T T"]:
        """Give ``R = (I - P)^-1``."""
        amplitude, edges = theta["amplitude"], self.edges(layout)
        eye = torch.eye(len(layout.outputs), dtype=amplitude.dtype, device=amplitude.device)
        p = amplitude.new_zeros(*amplitude.shape[:-1], *eye.shape)
        if edges:
            children, parents = torch.tensor(edges, device=amplitude.device).mT
            p[..., children, parents] = theta["rho"] if self.rho is None else self.rho
        return torch.linalg.inv_ex(eye - p).inverse  # never singular; where theta is not finite it must not raise

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        return {"amplitude": ("task",), "noise": ("task",), "rho": ("edge",)}


def _canonical(parents: Mapping[str, Sequence[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Sort the graph, so that equal graphs are equal models, and refuse cycles."""
    graph: dict[str, tuple[str, ...]] = {}
    for child, of in parents.items():
        if isinstance(of, str):
            raise DataError(f"The parents of {child!r} must be a list of tasks; got the string {of!r}. Write [{of!r}].")
        if len(set(of)) < len(of):
            raise DataError(f"The parents of {child!r} repeat a task: {listed(list(of))}.")
        graph[child] = tuple(of)
    done: set[str] = set()

    def visit(task: str, path: tuple[str, ...]) -> None:
        if task in path:
            cycle = " -> ".join(repr(t) for t in (*path[path.index(task) :], task))
            raise DataError(f"The fidelities form a cycle: {cycle}. A task cannot be built on itself; remove one link.")
        if task not in done:
            for parent in graph.get(task, ()):
                visit(parent, (*path, task))
            done.add(task)

    for task in graph:
        visit(task, ())
    return tuple(sorted((child, of) for child, of in graph.items() if of))


def _heirs(own: list[int], edges: list[tuple[int, int]]) -> tuple[int, ...]:
    """The outputs of a task and everything built on them: what its delta reaches."""
    reached = set(own)
    while grown := {o for o, p in edges if p in reached} - reached:
        reached |= grown
    return tuple(sorted(reached))
