"""Likelihoods: how the observations of a task follow from its latent functions."""

from bayestl.likelihoods.base import Likelihood
from bayestl.likelihoods.classes import Bernoulli, Categorical, Ordinal
from bayestl.likelihoods.counts import NegativeBinomial, Poisson
from bayestl.likelihoods.numeric import Censored, Gaussian, Hurdle, StudentT
from bayestl.likelihoods.warps import Log, Softplus, Sqrt, Warp, YeoJohnson

__all__ = [
    "Bernoulli", "Categorical", "Censored", "Gaussian", "Hurdle", "Likelihood", "Log", "NegativeBinomial", "Ordinal",
    "Poisson", "Softplus", "Sqrt", "StudentT", "Warp", "YeoJohnson",
]  # fmt: skip
