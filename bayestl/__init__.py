"""Bayesian transfer learning for materials and chemistry data that are scarce and scattered over several sources."""

import importlib
from types import ModuleType

from bayestl.compare import TransferReport, compare, fit_best, pointwise, stack, transfer_report
from bayestl.crossvalidation import leave_out
from bayestl.decide.campaign import Campaign
from bayestl.decide.replay import replay
from bayestl.decide.suggest import suggest
from bayestl.diagnostics import Diagnosis, Finding, diagnose
from bayestl.errors import DataError, FitError
from bayestl.features import Compositions, ElementFractions, Features, Molecules, Surfaces, Valences
from bayestl.fitting import fit
from bayestl.kernels import RBF, GPyTorchKernel, Identity, Kernel, Matern52, MaternOrRBF, Nugget
from bayestl.likelihoods import (
    Bernoulli,
    Categorical,
    Censored,
    Gaussian,
    Hurdle,
    Likelihood,
    Log,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Softplus,
    Sqrt,
    StudentT,
    YeoJohnson,
)
from bayestl.models.base import Model
from bayestl.models.difference import Difference
from bayestl.models.latent import LatentTask
from bayestl.models.multitask import MultiTask
from bayestl.models.single import SingleTask
from bayestl.posterior import Posterior
from bayestl.scoring import calibration, reliability, scores
from bayestl.stacking import Stack, load
from bayestl.table import TaskData

__version__ = "0.1.0"

__all__ = [
    "RBF", "Bernoulli", "Campaign", "Categorical", "Censored", "Compositions", "DataError", "Diagnosis", "Difference",
    "ElementFractions", "Features", "Finding", "FitError", "GPyTorchKernel", "Gaussian", "Hurdle", "Identity", "Kernel",
    "LatentTask", "Likelihood", "Log", "Matern52", "MaternOrRBF", "Model", "Molecules", "MultiTask", "NegativeBinomial", "Nugget",
    "Ordinal", "Poisson", "Posterior", "SingleTask", "Softplus", "Sqrt", "Stack", "StudentT", "Surfaces", "TaskData",
    "TransferReport", "Valences", "YeoJohnson", "calibration", "compare", "diagnose", "fit", "fit_best", "leave_out", "load",
    "pointwise", "reliability", "replay", "scores", "stack", "suggest", "transfer_report",
]  # fmt: skip

MODULES = ("botorch", "datasets", "plots", "sklearn")  # loaded when asked for: some need extras


def __getattr__(name: str) -> ModuleType:
    if name in MODULES:
        return importlib.import_module(f"bayestl.{name}")
    raise AttributeError(f"module 'bayestl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *MODULES, "__version__"])
