"""What a posterior says, as labelled arrays in the users' units: predictions, draws, and functions of draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from bayestl.columns import Task, without_slash
from bayestl.errors import DataError, listed, notice
from bayestl.likelihoods import Censored, Hurdle
from bayestl.likelihoods.predictive import AnyMixture, Classes, NormalMixture, Predictive

QUANTILES = (0.05, 0.5, 0.95)

Function = Callable[[Mapping[str, xr.DataArray]], xr.DataArray]


def levels_of(quantiles: Sequence[float]) -> tuple[float, ...]:
    """Check levels of quantiles."""
    if isinstance(quantiles, float | int):
        raise ValueError(f"`quantiles` must be a list of levels; got {quantiles}. Write [{quantiles}].")
    levels = tuple(float(q) for q in quantiles)
    if not levels or any(not 0 < q < 1 for q in levels):
        raise ValueError(f"`quantiles` must be levels strictly between 0 and 1; got {levels}.")
    return levels


def predictions(
    tasks: Sequence[Task],
    index: pd.Index,
    levels: tuple[float, ...],
    laws: Iterable[tuple[slice, Sequence[Predictive]]],
    *,
    single: bool,
) -> xr.Dataset:
    """Each task in its own language, from the laws of all tasks at some of the rows after others: see `Posterior.predict`."""
    numeric = [task for task in tasks if task.likelihood.kind != "class"]
    place = {task.name: j for j, task in enumerate(numeric)}
    shape = len(index), len(numeric)
    arrays = {"mean": np.empty(shape), "std": np.empty(shape), "quantile": np.empty((len(levels), *shape))}
    limited = any(isinstance(task.likelihood, Censored | Hurdle) for task in tasks)
    if limited:
        arrays |= {f"latent_{name}": np.empty_like(array) for name, array in arrays.items()}
        arrays |= {"probability_lower": np.zeros(shape), "probability_upper": np.zeros(shape)}
    chances = {task.name: np.empty((len(index), len(task.levels or ()))) for task in tasks if task.name not in place}
    for part, each in laws:
        for task, law in zip(tasks, each, strict=True):
            if isinstance(law, Classes):
                chances[task.name][part] = law.probability.numpy()
                continue
            at = part, place[task.name]
            _fill(arrays, "", at, law, levels)
            if limited:
                _fill(arrays, "latent_", at, getattr(law, "latent", law), levels)
            if limited and isinstance(law, NormalMixture | AnyMixture):
                arrays["probability_lower"][at], arrays["probability_upper"][at] = (p.numpy() for p in law.at_limits())
    out = xr.Dataset(coords={"row": index})
    if numeric:
        out = out.assign_coords(task=list(place), quantile_level=list(levels))
        for name, array in arrays.items():
            out[name] = (["row", "task"] if array.ndim == 2 else ["quantile_level", "row", "task"], array)
        out = in_units(out, numeric, single)
    for task in tasks:
        if task.name in chances:
            known, suffix = np.array(task.levels, dtype=object), "" if single else f"_{without_slash(task.name)}"
            out = out.assign_coords({f"class{suffix}": known})
            out[f"probability{suffix}"] = (["row", f"class{suffix}"], chances[task.name])
            out[f"label{suffix}"] = ("row", known[chances[task.name].argmax(-1)])
    return out


def probability(
    task: Task,
    index: pd.Index,
    laws: Iterable[tuple[slice, Sequence[Predictive]]],
    above: float | None,
    below: float | None,
    latent: bool,
) -> xr.DataArray:
    """Probability that a numeric task lies above a value, below one, or between them; dim (row)."""
    if task.likelihood.kind == "class":
        raise ValueError(f"Task {task.name!r} holds classes; `predict` gives their probabilities.")
    if above is None and below is None:
        raise ValueError("Give `above`, `below`, or both.")
    for name, edge in (("above", above), ("below", below)):
        if edge is not None and np.isnan(edge):
            raise ValueError(f"`{name}` must be a number; got {edge!r}.")
    if above is not None and below is not None and not above < below:
        raise ValueError(f"`above` must be less than `below`; got {above} and {below}.")
    out, beyond = np.empty(len(index)), True
    for part, (whole,) in laws:
        law: Any = getattr(whole, "latent", whole) if latent else whole
        beyond = beyond and _beyond(law, above, below)
        like = torch.ones(part.stop - part.start, dtype=torch.float64)
        chance = like if below is None else law.below(like * float(below))
        if above is not None:
            chance = chance - law.cdf(like * float(above))
        out[part] = chance.clamp(0.0, 1.0).numpy()
    if beyond:
        notice(
            f"Nothing of task {task.name!r} is observed beyond its limit: the probability is zero. latent=True asks of the value "
            "without it."
        )
    return xr.DataArray(out, dims=["row"], coords={"row": index}, name="probability")


def _beyond(law: Any, above: float | None, below: float | None) -> bool:
    """Whether what is asked for lies beyond the limits of every row, where nothing is observed."""
    upper, lower = getattr(law, "upper", None), getattr(law, "lower", None)
    return bool(
        (above is not None and upper is not None and (upper <= above).all())
        or (below is not None and lower is not None and (lower >= below).all())
    )


def draws(
    tasks: Sequence[Task], index: pd.Index, drawn: Sequence[NDArray[np.float64]], *, noise: bool, single: bool
) -> xr.DataArray | xr.Dataset:
    """Joint draws (draw, row) of each task, or (draw, row, class): see `Posterior.sample`."""
    coords = {"draw": np.arange(len(drawn[0])), "row": index}
    arrays = {}
    for task, values in zip(tasks, drawn, strict=True):
        dims, own = ["draw", "row"], dict[str, Any](coords)
        if task.levels is not None:
            known = np.array(task.levels, dtype=object)
            if noise:
                values = known[values.astype(int)]
            else:
                dims.append("class" if single else f"class_{without_slash(task.name)}")
                own[dims[-1]] = known
        arrays[task.name] = xr.DataArray(values, dims=dims, coords=own, name=task.name)
        if task.unit is not None and task.levels is None:
            arrays[task.name].attrs["units"] = task.unit
    if any(task.levels is not None for task in tasks):
        return arrays[tasks[0].name] if single else xr.Dataset(arrays)
    whole = xr.DataArray(
        np.stack(drawn, -1), dims=["draw", "row", "task"], coords=coords | {"task": list(arrays)}, name="sample"
    )
    return in_units(whole, tasks, single)  # type: ignore[no-any-return]


def given_shown(values: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws (draw, row) of sizes as they are where there is something to be seen, which has a probability in each draw.

    Row by row each draw is replaced by the quantile, of the draws weighed by these probabilities, that it is of the draws as they
    were: so the law of each row is the conditional one, and rows and tasks go together as they did.
    """
    size, order = torch.from_numpy(values).sort(dim=0, stable=True)
    upto = torch.from_numpy(chance).clamp_min(1e-300).gather(0, order).cumsum(0)
    level = (torch.arange(len(size)).double() + 0.5).unsqueeze(-1) / len(size) * upto[-1]
    taken = torch.searchsorted(upto.mT.contiguous(), level.mT.contiguous()).clamp_max(len(size) - 1).mT
    return torch.empty_like(size).scatter_(0, order, size.gather(0, taken)).numpy()


def derived(
    function: Function, tasks: Sequence[Task], joint: xr.DataArray | xr.Dataset, levels: tuple[float, ...], seed: int
) -> xr.Dataset:
    """Sum up a function of joint draws, and its spread if the tasks were independent: see `Posterior.derive`."""
    parts = {
        task.name: joint[task.name] if isinstance(joint, xr.Dataset) else joint.sel(task=task.name, drop=True)
        for task in tasks
    }
    by_task = _ByTask({name: array.drop_attrs() for name, array in parts.items()})
    result = function(by_task)
    if not isinstance(result, xr.DataArray) or "draw" not in result.dims:
        raise ValueError("`function` must return an xarray.DataArray that keeps the dimension 'draw'.")
    if result.dtype == bool and any(str(dim).startswith("class_") for dim in result.dims) and not result.any():
        sure = {task.name: xr.ones_like(by_task[task.name]) if task.levels else by_task[task.name] for task in tasks}
        if not function(_ByTask(sure)).any():  # true of no probability at all
            raise ValueError(
                "`function` asks of probabilities of classes what none can be, their label perhaps: without noise, tasks of "
                "classes are their probabilities. Give noise=True to speak of labels."
            )
    truth, result = result.dtype == bool, result.astype(float)
    # Shuffling the draws of each task keeps its marginal law and breaks its link with the others.
    rng, count = np.random.default_rng(seed), joint.sizes["draw"]
    shuffled = {name: array.copy(data=array.values[rng.permutation(count)]) for name, array in by_task.items()}
    apart = function(_ByTask(shuffled))
    unit = result.attrs.get("units") or (None if truth else _unit_of(function, tasks, by_task, result))
    found = xr.Dataset(
        {
            "mean": result.mean("draw"),
            "std": result.std("draw"),
            "quantile": result.quantile(list(levels), dim="draw").rename(quantile="quantile_level"),
            "std_independent": apart.astype(float).std("draw"),
        }
    )
    for array in found.values():
        array.attrs = {} if unit is None else {"units": unit}
    return found


def in_units(out: Any, tasks: Sequence[Task], single: bool) -> Any:
    """Say the units of arrays (..., task); of a `single` task, without that dimension."""
    units = [task.unit for task in tasks]
    if single:
        out = out.isel(task=0)
    if len(set(units)) == 1 and units[0] is not None:
        for name, array in out.data_vars.items() if isinstance(out, xr.Dataset) else [("", out)]:
            if not str(name).startswith("probability"):
                array.attrs["units"] = units[0]
    elif not single:
        out = out.assign_coords(unit=("task", [unit or "" for unit in units]))
    return out


# -- inside -----------------------------------------------------------------------------------------------------------


class _ByTask(dict[str, xr.DataArray]):
    """Draws by the name of their task, which says what names there are."""

    def __missing__(self, name: object) -> xr.DataArray:
        raise DataError(f"Unknown task {name!r}. The tasks are {listed(list(self), 20)}.")


def _fill(
    arrays: Mapping[str, NDArray[np.float64]], prefix: str, at: tuple[slice, int], law: Any, levels: Sequence[float]
) -> None:
    mean, std = law.moments()
    arrays[f"{prefix}mean"][at], arrays[f"{prefix}std"][at] = mean.numpy(), std.numpy()
    arrays[f"{prefix}quantile"][:, at[0], at[1]] = law.quantiles(levels).numpy()


def _unit_of(
    function: Function, tasks: Sequence[Task], by_task: Mapping[str, xr.DataArray], result: xr.DataArray
) -> str | None:
    """The unit of a function of the tasks: theirs, where they have one and it is homogeneous of degree one."""
    units = {task.unit for task in tasks}
    if len(units) > 1 or units == {None} or any(task.levels for task in tasks):
        return None
    doubled = function(_ByTask({name: 2 * array for name, array in by_task.items()})).astype(float)
    return units.pop() if np.allclose(doubled, 2 * result, rtol=1e-9, atol=0, equal_nan=True) else None
