"""A posterior as plain arrays and settings (for `save` and `load`), and as labelled groups (for ArviZ)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyro
import torch
import xarray as xr
from numpy.typing import NDArray

from bayestl import features, kernels, likelihoods
from bayestl.columns import Input, Task, without_slash
from bayestl.condense import Inducing
from bayestl.errors import DataError
from bayestl.gaussian.exact import robust_cholesky
from bayestl.gaussian.sites import Site
from bayestl.inference.infer import FitRecord
from bayestl.materials import Materials
from bayestl.models.base import Model
from bayestl.models.difference import Difference
from bayestl.models.latent import LatentTask
from bayestl.models.multitask import MultiTask
from bayestl.models.problem import Problem
from bayestl.models.single import SingleTask
from bayestl.priors import Theta, pyro_alone
from bayestl.regression import Regression, low_rank_draws
from bayestl.scaling import Pairs, Scaling
from bayestl.table import TaskData

if TYPE_CHECKING:
    from bayestl.posterior import Posterior

DENSE, RANK = 4000, 300  # values drawn jointly by their whole covariance, and by how many of them beyond
PLAIN = (
    SingleTask, MultiTask, Difference, LatentTask, kernels.Matern52, kernels.RBF, kernels.MaternOrRBF,
    kernels.Identity, kernels.Nugget, kernels.Sum, kernels.Product,
    likelihoods.Bernoulli, likelihoods.Categorical, likelihoods.Censored, likelihoods.Gaussian, likelihoods.Hurdle,
    likelihoods.NegativeBinomial, likelihoods.Ordinal, likelihoods.Poisson, likelihoods.StudentT,
    likelihoods.Log, likelihoods.Softplus, likelihoods.Sqrt, likelihoods.YeoJohnson,
    features.Compositions, features.ElementFractions, features.Joined, features.Molecules, features.Surfaces,
    features.Valences,
)  # fmt: skip


# -- plain arrays and settings ----------------------------------------------------------------------------------------


def pack(posterior: Posterior) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Take a posterior apart."""
    data, record = posterior.data, posterior.record
    arrays = {f"theta/{i}": value.numpy() for i, value in enumerate(posterior.theta.values())}
    arrays |= {f"data/{name}": getattr(data, name) for name in ("x", "task_index", "values", "errors", "details")}
    arrays |= {
        f"scaling/{name}": np.asarray(getattr(posterior.scaling, name))
        for name in (f.name for f in dataclasses.fields(Scaling))
    }
    arrays |= {f"record/{name}": getattr(record, name) for name in FitRecord.ARRAYS}
    if data.descriptors is not None:
        arrays["data/descriptors"] = data.descriptors.to_numpy(dtype=float)
    arrays |= {f"sites/{name}": array for name, array in sites_written(posterior.sites).items()}
    held = posterior.inducing
    if held is not None:
        arrays |= {
            "inducing/x": held.pairs.x.numpy(), "inducing/output": held.pairs.output.numpy(),
            "inducing/gram": held.gram.numpy(), "inducing/moment": held.moment.numpy(), "inducing/bound": held.bound.numpy(),
            "inducing/owner": np.empty(0, np.int64) if held.owner is None else held.owner.numpy(),
        }  # fmt: skip
    settings = {
        "inducing": None
        if held is None
        else {name: getattr(held, name) for name in ("rows", "exact", "untold", "blur", "grown")},
        "condensed": posterior.condensed,
        "sites": None if posterior.sites is None else len(posterior.sites),
        "model": describe(posterior.model),
        "inputs": [{**dataclasses.asdict(i), "levels": _plain_list(i.levels)} for i in data.inputs],
        "tasks": [
            {
                "name": task.name,
                "unit": task.unit,
                "likelihood": describe(task.likelihood),
                "levels": _plain_list(task.levels),
            }
            for task in data.tasks
        ],
        "features": [[name, describe(own)] for name, own in data.features],
        "rows": _plain_list(data.rows),
        "components": posterior.components,
        "theta": list(posterior.theta),
        "descriptors": None if data.descriptors is None else [str(c) for c in data.descriptors.columns],
        "record": {
            f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in FitRecord.ARRAYS
        },
    }
    return {name.replace("/", "__"): array for name, array in arrays.items()}, settings


def unpack(
    arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], model: Model | None
) -> tuple[Model, TaskData, Scaling, Theta, FitRecord, int, list[Site] | None, Inducing | None, int]:
    """Put the parts of a posterior together again."""

    def part(name: str) -> dict[str, Any]:
        return {key.removeprefix(f"{name}__"): value for key, value in arrays.items() if key.startswith(f"{name}__")}

    data, columns = part("data"), read_columns(settings)
    table = data.pop("descriptors", None)
    return (
        _restore_model(settings["model"], model),
        TaskData(
            **columns,
            descriptors=None
            if table is None
            else pd.DataFrame(table, index=[task.name for task in columns["tasks"]], columns=settings["descriptors"]),
            **data,
        ),
        Scaling(**(part("scaling") | {"levels": tuple(int(count) for count in part("scaling")["levels"])})),
        {name: torch.from_numpy(arrays[f"theta__{i}"].copy()) for i, name in enumerate(settings["theta"])},
        FitRecord(**settings["record"], **part("record")),
        settings["components"],
        sites_read(part("sites"), settings["sites"]),
        None if settings["inducing"] is None else _restore_inducing(part("inducing"), settings["inducing"]),
        settings["condensed"],
    )


def sites_written(sites: Sequence[Site] | None) -> dict[str, NDArray[np.float64]]:
    """Sites as arrays."""
    named = [
        (f"{i}_{name}", value.numpy()) for i, own in enumerate(sites or []) for name, value in own._asdict().items()
    ]
    return dict(named)


def sites_read(arrays: Mapping[str, NDArray[Any]], count: int | None) -> list[Site] | None:
    """Sites from what `sites_written` gave of `count` of them; None of none."""
    if count is None:
        return None
    return [Site(*(torch.from_numpy(arrays[f"{i}_{name}"].copy()) for name in Site._fields)) for i in range(count)]


def read_columns(written: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs, tasks, features and labels of the rows, as `pack` writes them."""

    def levels(own: Mapping[str, Any]) -> tuple[Any, ...] | None:
        return None if own["levels"] is None else tuple(own["levels"])

    rows = np.empty(len(written["rows"]), dtype=object)
    rows[:] = written["rows"]
    return {
        "inputs": tuple(Input(i["name"], levels(i), i["unit"], i.get("source")) for i in written["inputs"]),
        "tasks": tuple(Task(t["name"], t["unit"], _restore(t["likelihood"]), levels(t)) for t in written["tasks"]),
        "features": tuple((name, _restore(own)) for name, own in written["features"]),
        "rows": rows,
    }


def _restore_inducing(arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Inducing:
    found: dict[str, Any] = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    pairs = Pairs(found.pop("x"), found.pop("output"))
    owner = found.pop("owner")
    return Inducing(pairs, **found, **settings, owner=owner if len(owner) else None)


def describe(thing: Any) -> Any:
    """Write a model or a kernel as JSON: its type and its fields, or its printed form where it is the user's own."""
    if isinstance(thing, PLAIN):
        fields = {
            f.name: describe(getattr(thing, f.name))
            for f in dataclasses.fields(thing)
            if f.init and not f.name.startswith("_")
        }
        return {"type": type(thing).__name__, **fields}
    if isinstance(thing, kernels.GPyTorchKernel):
        parts = [f"{name or 'kernel'}: {_printed(module)}" for name, module in thing.kernel.named_modules()]
        held = {name: raw.tolist() for name, raw in thing.kernel.named_parameters()}
        return {"foreign": f"{'; '.join(parts)}; on {thing.inputs}, scaled {thing.scaled}, from {held}"}
    if isinstance(thing, likelihoods.Likelihood | likelihoods.Warp):
        raise DataError(f"A likelihood or warp of your own, {type(thing).__name__}, cannot be stored without pickle.")
    if isinstance(thing, features.Features):
        raise DataError(
            f"Features of your own, {type(thing).__name__}, cannot be stored without pickle: describe the column first."
        )
    if isinstance(thing, kernels.Kernel | Model):
        return {"foreign": _printed(thing)}
    return [describe(item) for item in thing] if isinstance(thing, tuple) else thing


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
        if describe(given) != description:
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


def groups(posterior: Posterior, seed: int, whole: Regression) -> dict[str, xr.Dataset]:
    """Lay out everything as ArviZ names it; `whole` draws from all functions and leaves every row out."""
    problem, data = posterior._problem, posterior.data
    obs = {
        "obs": np.arange(len(data)),
        "obs_task": ("obs", np.array(data.names)[data.task_index]),
        "obs_row": ("obs", np.array([str(row) for row in data.rows])),
    }
    units = {task.name: task.unit or "" for task in data.tasks}
    attributes = {"units": next(iter(units.values())) if len(set(units.values())) == 1 else "see coordinate unit"}

    def observed(values: NDArray[np.float64], attributes: Mapping[str, str] = attributes) -> xr.Dataset:
        dims = ["chain", "draw", "obs"][3 - np.ndim(values) - (np.ndim(values) == 2) :]
        if "draw" in dims:
            values = values[None]
        coords = {**obs, "unit": ("obs", np.array([units[name] for name in np.array(data.names)[data.task_index]]))}
        if "draw" in dims:
            coords |= {"chain": [0], "draw": np.arange(values.shape[1])}
        return xr.Dataset({"y": (dims, values, attributes)}, coords=coords)

    generator = torch.Generator().manual_seed(seed)
    theta = whole.theta
    drawn = _posterior_functions(problem, posterior._materials or whole, generator)
    replicated = _replicated(problem, theta, drawn, generator)
    prior_theta = prior_draws(problem, len(replicated), seed)
    prior_y = _replicated(problem, prior_theta, _prior_functions(problem, prior_theta, generator), generator)
    log_likelihood = posterior.log_likelihood_given(whole).numpy()
    frame = data.decode(data.x)
    constant = xr.Dataset(
        {without_slash(name): ("obs", frame[name].to_numpy()) for name in frame}
        | {"known_error": ("obs", data.errors, attributes), "task_index": ("obs", data.task_index)},
        coords=obs | {"unit": observed(data.values)["unit"]},
    )
    for task in data.tasks:
        if task.levels is not None:
            constant.attrs[f"levels of {task.name}"] = [str(level) for level in task.levels]
    for column in data.inputs:
        constant[without_slash(column.name)].attrs["units"] = column.unit or ""
    return {
        "posterior": parameters(posterior, theta),
        "prior": parameters(posterior, prior_theta),
        "posterior_predictive": observed(replicated),
        "prior_predictive": observed(prior_y),
        "log_likelihood": observed(log_likelihood, {"units": "nat"}),
        **_log_prior(posterior, len(replicated)),
        "observed_data": observed(data.values),
        "constant_data": constant,
    }


def _log_prior(posterior: Posterior, draws: int) -> dict[str, xr.Dataset]:
    """Log prior density of the draws, for power-scaling; none where the draws are not those of the fit any more."""
    found = posterior.record.log_prior
    if len(found) != posterior.draws or posterior.draws < draws:
        return {}
    coords = {"chain": [0], "draw": np.arange(draws)}
    return {"log_prior": xr.Dataset({"theta": (("chain", "draw"), found[None, :draws])}, coords=coords)}


def prior_draws(problem: Problem, count: int, seed: int) -> Theta:
    """Draws of theta from the prior."""
    with pyro_alone(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with pyro.poutine.block(), pyro.plate("draws", count):
            theta = problem.prior()
    return {name: value.expand(count, *value.shape[1:]) for name, value in theta.items()}


def _rows_of_task(problem: Problem, task: int) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(problem.data.task_index == task))


def _posterior_functions(
    problem: Problem, regression: Regression | Materials, generator: torch.Generator
) -> list[torch.Tensor]:
    """Functions (draw, row, function) of every task at its own rows, each row drawn by itself."""
    found = []
    for t in range(len(problem.layout.tasks)):
        x = problem.scaling.inputs(problem.data.x[_rows_of_task(problem, t).numpy()])
        ((mean, cov),) = regression.marginals(x, [problem.layout.contrasts(t)])
        size = cov.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-12
        white = torch.randn(mean.shape, dtype=torch.float64, generator=generator)
        found.append(mean + (robust_cholesky(cov, size)[0] @ white.unsqueeze(-1)).squeeze(-1))
    return found


def _prior_functions(problem: Problem, theta: Theta, generator: torch.Generator) -> list[torch.Tensor]:
    """Functions (draw, row, function) of every task at its own rows, drawn jointly for each theta."""
    x, outputs, sizes = [], [], []
    for t in range(len(problem.layout.tasks)):
        at = problem.scaling.inputs(problem.data.x[_rows_of_task(problem, t).numpy()])
        own = problem.layout.contrasts(t)
        x.append(at.repeat(len(own), 1))
        outputs.append(torch.tensor(own).repeat_interleave(len(at)))
        sizes.append((len(own), len(at)))
    at_all = Pairs(torch.cat(x), torch.cat(outputs))
    draws = []
    for s in range(len(next(iter(theta.values())))):
        one = {name: value[s] for name, value in theta.items()}
        mean = problem.model.mean(one, at_all, problem.layout)
        if len(at_all.output) <= DENSE:
            factor, _ = robust_cholesky(problem.model.covariance(one, at_all, at_all, problem.layout))
            draws.append(mean + factor @ torch.randn(len(factor), dtype=torch.float64, generator=generator))
            continue

        def column(i: int, one: Theta = one) -> torch.Tensor:
            return problem.model.covariance(one, at_all.take(torch.tensor([i])), at_all, problem.layout)[0]

        size = problem.model.variance(one, at_all, problem.layout).expand(len(at_all.output))
        draws.append(mean + low_rank_draws(size[:, None, None], column, 1, RANK, generator)[0])
    parts = torch.stack(draws).split([c * n for c, n in sizes], -1)
    return [part.reshape(len(draws), c, n).mT for part, (c, n) in zip(parts, sizes, strict=True)]


def _replicated(
    problem: Problem, theta: Theta, functions: list[torch.Tensor], generator: torch.Generator
) -> NDArray[np.float64]:
    """Observations (draw, obs) at the functions given, in the tasks' units or codes."""
    out = np.empty((len(functions[0]), len(problem.data)))
    for t, f in enumerate(functions):
        index = _rows_of_task(problem, t)
        rows = problem.rows(t, index)
        noise = problem.measurement_noise(theta, t, rows).expand(len(f), len(index))
        law = problem.data.tasks[t].likelihood
        out[:, index.numpy()] = law.draw(f, noise, rows, problem.parameters_of(theta, t), generator).numpy()
    return out


def parameters(posterior: Posterior, theta: Theta) -> xr.Dataset:
    """Parameters with named dimensions; noise in the tasks' units, length scales of numeric inputs in theirs."""
    data, scaling, layout = posterior.data, posterior.scaling, posterior._problem.layout
    coords: dict[str, Any] = {
        "chain": [0],
        "draw": np.arange(len(next(iter(theta.values())))),
        "task": list(layout.outputs),
    }
    noisy = [data.names[t] for t in layout.noisy]
    coords |= {"noisy_task": noisy, "whole_task": list(data.names)}
    if isinstance(posterior.model, Difference):
        names = layout.outputs
        coords["edge"] = [f"{names[o]}<-{names[p]}" for o, p in posterior.model.edges(layout)]
    if data.descriptors is not None:
        coords["descriptor"] = [str(c) for c in data.descriptors.columns]
    widths = dict(zip(layout.inputs, _input_widths(scaling), strict=True))
    units = {column.name: column.unit for column in data.inputs}
    labels: kernels.Labels = {}
    for term in posterior.model.terms(theta, layout):
        if term.kernel is not None:
            labels |= term.kernel.labels(term.name, layout)
    variables: dict[str, xr.Variable] = {}
    for name, value in theta.items():
        array = value.numpy().copy()
        attributes = {"units": "1"}
        if name in posterior.model.dims:
            dims = posterior.model.dims[name]
            if dims == ("task",) and array.shape[1] != len(layout.outputs):
                dims = ("whole_task",)  # one for all functions of a task
        elif name in labels:
            kind, along = labels[name]
            dim = "input" if kind == "input" and along == list(layout.inputs) else f"{kind}_{without_slash(name)}"
            coords[dim], dims = along, (dim,)
            if kind == "input":
                array = array * np.array([widths[i] for i in along])
                attributes = {"units": ", ".join(units[i] or "1" for i in along)}
        else:
            dims = tuple(f"{without_slash(name)}_{i}" for i in range(array.ndim - 1))
        if name == "noise":  # the numeric function of a task is its last
            array = array * scaling.scale[[layout.first[t + 1] - 1 for t in layout.noisy]]
            attributes = {"units": ", ".join(data.tasks[t].unit or "1" for t in layout.noisy)}
            if any(likelihoods.numeric.warp_of(data.tasks[t].likelihood) is not None for t in layout.noisy):
                attributes["note"] = "of a task with a warp, on the warped scale"
            dims = ("task",) if noisy == list(layout.outputs) else ("noisy_task",)
        variables[without_slash(name)] = xr.Variable(("chain", "draw", *dims), array[None], attributes)
    first, second = np.triu_indices(len(layout.outputs), 1)  # each pair once: plots of what is constant fail
    if len(first) and not isinstance(posterior.model, SingleTask):
        correlation = posterior.model.task_correlation(theta, posterior._problem.points.x, layout).numpy()
        coords["task_pair"] = [f"{layout.outputs[i]}, {layout.outputs[j]}" for i, j in zip(first, second, strict=True)]
        variables["task_correlation"] = xr.Variable(
            ("chain", "draw", "task_pair"), correlation[None, :, first, second], {"units": "1"}
        )
    used = {dim for variable in variables.values() for dim in variable.dims}
    return xr.Dataset(variables, coords={name: value for name, value in coords.items() if name in used})


def _input_widths(scaling: Scaling) -> list[float]:
    return [1.0 if count else float(scaling.width[j]) for j, count in enumerate(scaling.levels)]
