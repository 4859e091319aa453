"""A posterior as plain arrays and settings (for `save` and `load`), and as labelled groups (for ArviZ)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyro
import torch
import xarray as xr
from numpy.typing import NDArray

from bayestl import kernels
from bayestl.errors import DataError
from bayestl.gaussian.exact import robust_cholesky
from bayestl.inference.infer import FitRecord
from bayestl.models.base import Model, Problem
from bayestl.models.difference import Difference
from bayestl.models.latent import LatentTask
from bayestl.models.multitask import MultiTask
from bayestl.models.single import SingleTask
from bayestl.priors import Theta
from bayestl.scaling import Scaling
from bayestl.table import Input, Task, TaskData

if TYPE_CHECKING:
    from bayestl.posterior import Posterior

PLAIN = (SingleTask, MultiTask, Difference, LatentTask, kernels.Matern52, kernels.Sum, kernels.Product)


# -- plain arrays and settings ----------------------------------------------------------------------------------------


def pack(posterior: Posterior) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Take a posterior apart."""
    data, record = posterior.data, posterior.record
    arrays = {f"theta/{i}": value.numpy() for i, value in enumerate(posterior.theta.values())}
    arrays |= {f"data/{name}": getattr(data, name) for name in ("x", "task_index", "values", "errors")}
    arrays |= {
        f"scaling/{name}": np.asarray(getattr(posterior.scaling, name))
        for name in (f.name for f in dataclasses.fields(Scaling))
    }
    arrays |= {"record/elbo": record.elbo, "record/modes": record.modes}
    if data.descriptors is not None:
        arrays["data/descriptors"] = data.descriptors.to_numpy(dtype=float)
    settings = {
        "model": _describe(posterior.model),
        "inputs": [{**dataclasses.asdict(i), "levels": _plain_list(i.levels)} for i in data.inputs],
        "tasks": [dataclasses.asdict(task) for task in data.tasks],
        "rows": _plain_list(data.rows),
        "components": posterior.components,
        "theta": list(posterior.theta),
        "descriptors": None if data.descriptors is None else [str(c) for c in data.descriptors.columns],
        "record": {
            f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in ("elbo", "modes")
        },
    }
    return {name.replace("/", "__"): array for name, array in arrays.items()}, settings


def unpack(
    arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], model: Model | None
) -> tuple[Model, TaskData, Scaling, Theta, FitRecord, int]:
    """Put the parts of a posterior together again."""

    def part(name: str) -> dict[str, Any]:
        return {key.removeprefix(f"{name}__"): value for key, value in arrays.items() if key.startswith(f"{name}__")}

    data = part("data")
    tasks = tuple(Task(**task) for task in settings["tasks"])
    table = data.pop("descriptors", None)
    rows = np.empty(len(settings["rows"]), dtype=object)
    rows[:] = settings["rows"]
    return (
        _restore_model(settings["model"], model),
        TaskData(
            inputs=tuple(
                Input(i["name"], None if i["levels"] is None else tuple(i["levels"]), i["unit"])
                for i in settings["inputs"]
            ),
            tasks=tasks,
            rows=rows,
            descriptors=None
            if table is None
            else pd.DataFrame(table, index=[task.name for task in tasks], columns=settings["descriptors"]),
            **data,
        ),
        Scaling(**(part("scaling") | {"levels": tuple(int(count) for count in part("scaling")["levels"])})),
        {name: torch.from_numpy(arrays[f"theta__{i}"].copy()) for i, name in enumerate(settings["theta"])},
        FitRecord(**settings["record"], **part("record")),
        settings["components"],
    )


def _describe(thing: Any) -> Any:
    """Write a model or a kernel as JSON: its type and its fields, or its printed form where it is the user's own."""
    if isinstance(thing, PLAIN):
        fields = {f.name: _describe(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
        return {"type": type(thing).__name__, **fields}
    if isinstance(thing, kernels.GPyTorchKernel):
        parts = [f"{name or 'kernel'}: {_printed(module)}" for name, module in thing.kernel.named_modules()]
        return {"foreign": f"{'; '.join(parts)}; on {thing.inputs}, scaled {thing.scaled}"}
    if isinstance(thing, kernels.Kernel | Model):
        return {"foreign": _printed(thing)}
    return [_describe(item) for item in thing] if isinstance(thing, tuple) else thing


def _printed(thing: Any) -> str:
    """Type and plain attributes of an object of the user's own: what tells it from another."""
    plain = {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in sorted({**vars(thing), **dict(getattr(thing, "_buffers", {}))}.items())
        if name != "training" and isinstance(value, bool | int | float | str | tuple | torch.Tensor | None)
    }
    shapes = {
        name: tuple(value.shape) for name, value in getattr(thing, "_parameters", {}).items() if value is not None
    }
    return f"{type(thing).__module__}.{type(thing).__qualname__}({plain}, parameters {shapes})"


def _restore_model(description: Any, given: Model | None) -> Model:
    if given is not None:
        if _describe(given) != description:
            raise DataError(f"The file was saved from another model than `model`: it holds {description}.")
        return given
    if _is_foreign(description):
        raise DataError(
            "The file's model holds an object of your own, which cannot be stored without pickle. Give the same model again: "
            f"btl.load(path, model=...). The file says: {description}"
        )
    return _restore(description)  # type: ignore[no-any-return]


def _is_foreign(description: Any) -> bool:
    if isinstance(description, dict):
        return "foreign" in description or any(_is_foreign(value) for value in description.values())
    return isinstance(description, list) and any(_is_foreign(item) for item in description)


def _restore(description: Any) -> Any:
    if isinstance(description, dict):
        fields = {name: _restore(value) for name, value in description.items() if name != "type"}
        known = {cls.__name__: cls for cls in PLAIN}
        if description["type"] not in known:
            raise DataError(f"The file's model is of an unknown type {description['type']!r}. Upgrade bayestl.")
        if description["type"] == "Difference" and fields["parents"] is not None:
            fields["parents"] = dict(fields["parents"])
        return known[description["type"]](**fields)
    return tuple(_restore(item) for item in description) if isinstance(description, list) else description


def _plain_list(items: Any) -> list[Any] | None:
    """Labels as JSON keeps them: numbers, booleans and text as they are, anything else as text."""
    if items is None:
        return None
    native = [item.item() if isinstance(item, np.generic) else item for item in items]
    return [item if isinstance(item, str | bool | int | float) else str(item) for item in native]


# -- labelled groups --------------------------------------------------------------------------------------------------


def groups(posterior: Posterior, seed: int) -> dict[str, xr.Dataset]:
    """Lay out everything as ArviZ names it."""
    problem, data = posterior._problem, posterior.data
    scale, location = posterior.scaling.scale[data.task_index], posterior.scaling.location[data.task_index]
    obs = {
        "obs": np.arange(len(data)),
        "obs_task": ("obs", np.array(data.names)[data.task_index]),
        "obs_row": ("obs", np.array([str(row) for row in data.rows])),
    }
    units = {task.name: task.unit or "" for task in data.tasks}
    attributes = {"units": next(iter(units.values())) if len(set(units.values())) == 1 else "see coordinate unit"}

    def observed(values: NDArray[np.float64]) -> xr.Dataset:
        dims = ["chain", "draw", "obs"][3 - np.ndim(values) - (np.ndim(values) == 2) :]
        if "draw" in dims:
            values = values[None]
        coords = {**obs, "unit": ("obs", np.array([units[name] for name in np.array(data.names)[data.task_index]]))}
        if "draw" in dims:
            coords |= {"chain": [0], "draw": np.arange(values.shape[1])}
        return xr.Dataset({"y": (dims, values)}, coords=coords).map(lambda v: v.assign_attrs(attributes))

    everything = dataclasses.replace(posterior, components=posterior.draws)
    mean, variance = everything._marginals_at(problem.points)
    generator = torch.Generator().manual_seed(seed)
    noisy = (variance + problem.noise_variance(posterior.theta)).sqrt()
    replicated = mean + noisy * torch.randn(mean.shape, dtype=torch.float64, generator=generator)
    prior_theta, prior_y = _prior_draws(problem, posterior.draws, generator, seed)
    log_likelihood = posterior.log_likelihood().values
    frame = data.decode(data.x)
    constant = xr.Dataset(
        {name: ("obs", frame[name].to_numpy()) for name in frame}
        | {"known_error": ("obs", data.errors), "task_index": ("obs", data.task_index)},
        coords=obs,
    )
    for column in data.inputs:
        constant[column.name].attrs["units"] = column.unit or ""
    return {
        "posterior": _parameters(posterior, posterior.theta),
        "prior": _parameters(posterior, prior_theta),
        "posterior_predictive": observed(replicated.numpy() * scale + location),
        "prior_predictive": observed(prior_y.numpy() * scale + location),
        "log_likelihood": observed(log_likelihood),
        "observed_data": observed(data.values),
        "constant_data": constant,
    }


def _prior_draws(problem: Problem, count: int, generator: torch.Generator, seed: int) -> tuple[Theta, torch.Tensor]:
    """Draws of theta from the prior, and of the observed values given each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        each = []
        for _ in range(count):
            with pyro.poutine.block():
                each.append(problem.model.prior(problem.layout))
    theta = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    y = []
    for one in each:
        factor, _ = robust_cholesky(problem.observed_covariance(one))
        white = torch.randn(len(factor), dtype=torch.float64, generator=generator)
        y.append(problem.model.mean(one, problem.points, problem.layout) + factor @ white)
    return theta, torch.stack(y)


def _parameters(posterior: Posterior, theta: Theta) -> xr.Dataset:
    """Parameters with named dimensions; noise in the tasks' units, length scales of numeric inputs in theirs."""
    data, scaling, layout = posterior.data, posterior.scaling, posterior._problem.layout
    coords: dict[str, Any] = {"chain": [0], "draw": np.arange(posterior.draws), "task": list(data.names)}
    if isinstance(posterior.model, Difference):
        coords["edge"] = [f"{data.names[o]}<-{data.names[p]}" for o, p in posterior.model.edges(data.names)]
    if data.descriptors is not None:
        coords["descriptor"] = [str(c) for c in data.descriptors.columns]
    variables: dict[str, xr.Variable] = {}
    for name, value in theta.items():
        array = value.numpy()
        attributes = {"units": "1"}
        if name in posterior.model.dims:
            dims = posterior.model.dims[name]
        elif (
            name.endswith(".length_scale")
            and array.ndim > 1
            and (dim := _kernel_inputs(posterior, name, array.shape[1]))
        ):
            label, inputs = dim
            coords[label] = inputs
            dims = (label,)
            widths = dict(zip(layout.inputs, _input_widths(scaling), strict=True))
            array = array * np.array([widths.get(i, 1.0) for i in inputs])
            attributes = {"units": ", ".join(u or "1" for u in _input_units(data, inputs))}
        else:
            dims = tuple(f"{name}_{i}" for i in range(array.ndim - 1))
        if name == "noise":
            array = array * scaling.scale
            attributes = {"units": ", ".join(task.unit or "1" for task in data.tasks)}
        variables[name] = xr.Variable(("chain", "draw", *dims), array[None], attributes)
    correlation = posterior.model.task_covariance(theta, posterior._problem.points.x, layout)
    size = correlation.diagonal(dim1=-2, dim2=-1).sqrt()
    coords["other_task"] = list(data.names)
    variables["task_correlation"] = xr.Variable(
        ("chain", "draw", "task", "other_task"),
        (correlation / size.unsqueeze(-1) / size.unsqueeze(-2)).numpy()[None],
        {"units": "1"},
    )
    used = {dim for variable in variables.values() for dim in variable.dims}
    return xr.Dataset(variables, coords={name: value for name, value in coords.items() if name in used})


def _kernel_inputs(posterior: Posterior, name: str, size: int) -> tuple[str, list[str]] | None:
    """Dimension of a length scale and the inputs along it, when there is one for each input."""
    kernel = posterior.model.kernel
    for part in name.split(".")[1:-1]:
        kernel = kernel.parts[int(part)] if isinstance(kernel, kernels.Sum | kernels.Product) else kernel
    named = getattr(kernel, "inputs", None)
    if named is not None:
        return (f"input_{name}", list(named)) if size == len(named) else None
    inputs = list(posterior._problem.layout.inputs)
    return ("input", inputs) if size == len(inputs) else None


def _input_widths(scaling: Scaling) -> list[float]:
    return [1.0 if count else float(scaling.width[j]) for j, count in enumerate(scaling.levels)]


def _input_units(data: TaskData, inputs: list[str]) -> list[str | None]:
    units = {column.name: column.unit for column in data.inputs}
    return [units.get(name) for name in inputs]
