"""Run a Pyro program in prior-whitened coordinates, batched: the one door between Pyro and the optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import AbsTransform, Independent, Normal, TransformedDistribution, biject_to

from bayestl.errors import FitError
from bayestl.priors import Theta, pyro_alone

FAR = 30.0  # prior standard deviations: where rounding, not the posterior, may rule
MATRIX_BYTES = 16e6  # batches are cut so that one (particles, n, n) array stays near the size of the caches


@dataclass(frozen=True)
class Site:
    """Where a sample site lives in the flat vector, and how it is unwhitened when its prior is not a pushed normal."""

    columns: slice
    shape: tuple[int, ...]
    free: tuple[Tensor, Tensor] | None = None


class Coordinates:
    """The map ``theta = T(v)`` of a Pyro program, with ``v ~ N(0, I)`` a priori wherever the prior allows it.

    Sites whose prior is a bijection of a normal (all of ours but one) are whitened exactly, site by site as the program
    runs, so that hierarchical priors work. Other continuous sites live in their unconstrained space, centred and scaled
    by draws from their prior, with their exact density. So do sites marked ``infer={"fixed": True}``: whitening makes every
    hierarchy non-centred, which is the wrong geometry for a scale that the data determine through many loadings.
    """

    def __init__(self, program: Callable[[], Any], size: int = 1, prior: Callable[[], Any] | None = None) -> None:
        """Trace `prior`, the part of `program` that samples (all of it by default); `size` is that of its largest matrix."""
        self.program, self.prior = program, prior or program
        self.chunk = max(1, int(MATRIX_BYTES / (8 * size * size)))
        self.sites: dict[str, Site] = {}
        self.evaluations = 0
        start = 0
        with pyro_alone(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                nodes: dict[str, Any] = pyro.poutine.trace(self.prior).get_trace().nodes
            except ValueError:
                self.prior()  # the same error, without Pyro's list of shapes behind it
                raise
            for name, node in nodes.items():
                if node["type"] != "sample" or node["is_observed"] or (node["infer"] or {}).get("_deterministic"):
                    continue
                fn: Any = node["fn"]
                if (
                    not fn.support.is_discrete
                    and _pushed_normal(fn) is not None
                    and not (node["infer"] or {}).get("fixed")
                ):
                    site = Site(slice(start, start + node["value"].numel()), tuple(node["value"].shape))
                elif not fn.support.is_discrete:
                    free = biject_to(fn.support).inv(fn.sample((1000,)))
                    site = Site(
                        slice(start, start + free[0].numel()), tuple(free.shape[1:]), (free.mean(0), free.std(0))
                    )
                else:
                    raise FitError(f"Site {name!r} is discrete; only continuous parameters can be inferred.")
                self.sites[name] = site
                start = site.columns.stop
        self.dim = start

    def run(self, v: Float[Tensor, "S D"]) -> tuple[Theta, Float[Tensor, " S"]]:
        """Run the program at every row of v; returns the values of all sites and the log joint density in v."""
        with pyro_alone(), _Whitened(self, v) as handler:
            self.program()
        return handler.theta, handler.log_density

    def theta(self, v: Float[Tensor, "S D"]) -> Theta:
        """Values of all sites."""
        with torch.no_grad(), pyro_alone(), _Whitened(self, v) as handler:
            self.prior()
        return handler.theta

    def log_prior(self, v: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
        """Log prior density of v at every row."""
        with torch.no_grad(), pyro_alone(), _Whitened(self, v) as handler:
            self.prior()
        return handler.log_density

    def density(self, v: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
        """Log joint density at every row."""
        self.evaluations += len(v)
        with torch.no_grad():
            return torch.cat([self.run(part)[1] for part in v.split(self.chunk)])

    def gradient(self, v: Float[Tensor, "S D"]) -> tuple[Float[Tensor, " S"], Float[Tensor, "S D"]]:
        """Log joint density and its gradient at every row; both finite whatever v."""
        self.evaluations += len(v)
        values, gradients = [], []
        for part in v.split(self.chunk):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                value = self.run(leaf)[1]
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            values.append(value.detach())
            gradients.append(slope)
        value, slope = torch.cat(values), torch.cat(gradients)
        sound = value.isfinite() & slope.isfinite().all(-1) & (v.abs().amax(-1) < FAR)
        return torch.where(sound, value, -1e10), torch.where(sound[:, None], slope, 0.0)


class _Whitened(Messenger):
    def __init__(self, coordinates: Coordinates, v: Tensor) -> None:
        super().__init__()
        self.coordinates = coordinates
        # One split, not a slice for each site: the gradient then comes together in one pass.
        parts = v.split([site.columns.stop - site.columns.start for site in coordinates.sites.values()], -1)
        self.u = {
            name: part.reshape(-1, *site.shape)
            for (name, site), part in zip(coordinates.sites.items(), parts, strict=True)
        }
        self.theta: Theta = {}
        self.log_density = -0.5 * (v.square() + math.log(2 * math.pi)).sum(-1)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["infer"].get("_deterministic"):
            return
        site, fn = self.coordinates.sites[msg["name"]], msg["fn"]
        u = self.u[msg["name"]]
        if site.free is None:
            base, transforms = _pushed_normal(fn)  # type: ignore[misc]
            value = base.loc + base.scale * u
            for transform in transforms:
                value = transform(value)
        else:
            centre, width = site.free
            free = centre + width * u
            transform = biject_to(fn.support)
            value = transform(free)
            jacobian = transform.log_abs_det_jacobian(free, value)
            extra = fn.log_prob(value) - _normal_log_density(u)
            self.log_density = self.log_density + extra + jacobian.reshape(len(u), -1).sum(-1) + width.log().sum()
        msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or msg["infer"].get("_deterministic"):
            self.theta[msg["name"]] = msg["value"]
        else:
            self.log_density = self.log_density + msg["fn"].log_prob(msg["value"])


def _normal_log_density(u: Tensor) -> Tensor:
    return -0.5 * (u.square() + math.log(2 * math.pi)).reshape(len(u), -1).sum(-1)


def _pushed_normal(fn: Any) -> tuple[Normal, list[Any]] | None:
    """Write a distribution as bijections of a normal, if it is so written."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if isinstance(fn, Normal):
        return fn, []
    if isinstance(fn, TransformedDistribution):
        base = fn.base_dist
        while isinstance(base, Independent):
            base = base.base_dist
        if isinstance(base, Normal) and not any(isinstance(t, AbsTransform) for t in fn.transforms):
            return base, fn.transforms
    return None
