"""Other packages on the same tables, each at its sensible best: values standardised per task, inputs in the unit cube."""

from __future__ import annotations

import logging
import time
import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import bayestl as btl


class Prediction(NamedTuple):
    """Mean and standard deviation of the target's noise-free function, of a measurement, and seconds to fit."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    noisy_std: NDArray[np.float64]
    seconds: float


def standardised(data: btl.TaskData) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    location = np.array([data.values[data.task_index == t].mean() for t in range(len(data.tasks))])
    scale = np.array([data.values[data.task_index == t].std() for t in range(len(data.tasks))])
    return (data.values - location[data.task_index]) / scale[data.task_index], data.task_index, location, scale


def botorch_multitask(data: btl.TaskData, x: NDArray, task: NDArray) -> Prediction:
    """BoTorch's MultiTaskGP with its own defaults (its task kernel cannot represent a negative correlation)."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MultiTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    y, index, location, scale = standardised(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        inputs = torch.from_numpy(np.column_stack([data.x, index]))
        model = MultiTaskGP(inputs, torch.from_numpy(y).unsqueeze(-1), task_feature=-1)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        seconds = time.perf_counter() - began
        new = torch.from_numpy(np.column_stack([x, task]).astype(float))
        with torch.no_grad():
            quiet = model.posterior(new)
            noisy = model.posterior(new, observation_noise=True)
    mean, std, full = (p.squeeze(-1).numpy() for p in (quiet.mean, quiet.variance.sqrt(), noisy.variance.sqrt()))
    return Prediction(mean * scale[task] + location[task], std * scale[task], full * scale[task], seconds)


def smt_mfk(data: btl.TaskData, x: NDArray, task: NDArray) -> Prediction:
    """SMT's recursive multi-fidelity kriging, noise estimated (in units of a process's variance), in the source's units."""
    from smt.applications import MFK

    _, index, location, scale = standardised(data)
    raw = (data.values - location[0]) / scale[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        model = MFK(
            theta0=[1.0] * data.x.shape[1], theta_bounds=[1e-3, 100.0], corr="matern52", print_global=False,
            eval_noise=True, noise0=[[1e-4], [1e-4]], n_start=10,
        )  # fmt: skip
        model.set_training_values(data.x[index == 0], raw[index == 0], name=0)
        model.set_training_values(data.x[index == 1], raw[index == 1])
        model.train()
        seconds = time.perf_counter() - began
        mean = model.predict_values(x)[:, 0]
        std = np.sqrt(np.maximum(model.predict_variances(x)[:, 0], 1e-12))
        noise = float(np.ravel(model.optimal_noise_all[1])[0] * np.ravel(model.optimal_par[1]["sigma2"])[0])
    full = np.sqrt(std**2 + noise)
    return Prediction(mean * scale[0] + location[0], std * scale[0], full * scale[0], seconds)


def emukit_ar1(data: btl.TaskData, x: NDArray, task: NDArray) -> Prediction:
    """Emukit's linear auto-regressive model (Kennedy & O'Hagan), five restarts, both fidelities in the source's units."""
    import GPy
    from emukit.model_wrappers.gpy_model_wrappers import GPyMultiOutputWrapper
    from emukit.multi_fidelity.convert_lists_to_array import convert_x_list_to_array, convert_xy_lists_to_arrays
    from emukit.multi_fidelity.kernels import LinearMultiFidelityKernel
    from emukit.multi_fidelity.models import GPyLinearMultiFidelityModel

    logging.getLogger("GP").setLevel(logging.ERROR)
    logging.getLogger("paramz").setLevel(logging.ERROR)
    _, index, location, scale = standardised(data)
    raw = (data.values - location[0]) / scale[0]
    d = data.x.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        inputs, values = convert_xy_lists_to_arrays(
            [data.x[index == 0], data.x[index == 1]], [raw[index == 0][:, None], raw[index == 1][:, None]]
        )
        kernels = [GPy.kern.Matern52(d, ARD=True), GPy.kern.Matern52(d, ARD=True)]
        model = GPyLinearMultiFidelityModel(inputs, values, LinearMultiFidelityKernel(kernels), n_fidelities=2)
        wrapped = GPyMultiOutputWrapper(model, 2, n_optimization_restarts=5, verbose_optimization=False)
        wrapped.optimize()
        seconds = time.perf_counter() - began
        mean, variance = wrapped.predict(convert_x_list_to_array([x, x])[len(x) :])
    noise = float(model.mixed_noise.likelihoods_list[1].variance[0])
    full = np.sqrt(np.maximum(variance[:, 0], 1e-12))
    std = np.sqrt(np.maximum(variance[:, 0] - noise, 1e-12))
    return Prediction(mean[:, 0] * scale[0] + location[0], std * scale[0], full * scale[0], seconds)


RIVALS = {"BoTorch MultiTaskGP": botorch_multitask, "SMT MFK": smt_mfk, "Emukit AR1": emukit_ar1}
