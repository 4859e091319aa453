"""Correlation functions of the inputs: Matern-5/2, any GPyTorch kernel, and their sums and products."""

from __future__ import annotations

import copy
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import gpytorch
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from bayestl import distance
from bayestl.distance import MATERN52, Memory, Profile, mean_absolute, of_distance, same
from bayestl.errors import DataError, listed
from bayestl.priors import Theta, family_scales, full, length_scales, normal, share
from bayestl.scaling import Layout, singled

_IN_TURN = threading.Lock()  # for threads: GPyTorch's object holds the parameters while it is evaluated
Labels = dict[str, tuple[str, list[str]]]  # by site, what its last dimension is of, and the labels along it


class Kernel(ABC):
    """A covariance function ``k(x, x')`` whose parameters are Pyro sites under a name given by the model."""

    @abstractmethod
    def prior(self, name: str, layout: Layout) -> Theta:
        """Sample the parameters, as sites ``name.*``."""

    @abstractmethod
    def __call__(
        self,
        theta: Theta,
        name: str,
        a: Float[Tensor, "n columns"],
        b: Float[Tensor, "m columns"],
        layout: Layout,
    ) -> Float[Tensor, "*#draws n m"]:
        """Evaluate ``k(a, b)``, batched over the leading dimensions of theta."""

    @abstractmethod
    def diagonal(
        self, theta: Theta, name: str, a: Float[Tensor, "n columns"], layout: Layout
    ) -> Float[Tensor, "*#draws n"]:
        """Evaluate ``k(a_i, a_i)``."""

    def labels(self, name: str, layout: Layout) -> Labels:
        """Tell of sites with an entry for each of several inputs or families which these are."""
        return {}

    @property
    def unscaled(self) -> frozenset[str]:
        """Inputs that this kernel wants in the user's own units (bits and counts of a fingerprint, say)."""
        return frozenset()

    @property
    def candidates(self) -> tuple[Kernel, ...]:
        """What `fit` may choose from, by the evidence, in place of this kernel: a rougher kernel and a smoother one, or none."""
        return ()

    def __add__(self, other: Kernel | gpytorch.kernels.Kernel) -> Kernel:
        return Sum((*_parts(self, Sum), *_parts(as_kernel(other), Sum)))

    def __mul__(self, other: Kernel | gpytorch.kernels.Kernel) -> Kernel:
        return Product((*_parts(self, Product), *_parts(as_kernel(other), Product)))


def _parts(kernel: Kernel, kind: type[Sum | Product]) -> tuple[Kernel, ...]:
    return kernel.parts if isinstance(kernel, kind) else (kernel,)


def as_kernel(kernel: Kernel | gpytorch.kernels.Kernel | None) -> Kernel:
    """Accept what users may pass as `kernel`: nothing, one of ours, or any GPyTorch kernel."""
    if kernel is None:
        return MaternOrRBF()
    if isinstance(kernel, gpytorch.kernels.Kernel):
        return GPyTorchKernel(kernel)
    if isinstance(kernel, Kernel):
        return kernel
    made = f"the class: write {kernel.__name__}()" if isinstance(kernel, type) else type(kernel).__name__
    raise ValueError(f"`kernel` must be a bayestl or GPyTorch kernel; got {made}.")


def _named(inputs: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(inputs, str):
        raise ValueError(f"`inputs` must be a list of names; got the single string {inputs!r}. Write [{inputs!r}].")
    return None if inputs is None else tuple(inputs)


@dataclass(frozen=True)
class _Stationary(Kernel):
    """A function of one squared distance, with unit variance: ``r^2 = sum_j d_j^2 / l_j^2 + sum_g D_g / l_g^2``.

    j are the inputs with a length scale of their own. Beyond 15 inputs the marginal likelihood of so many is multimodal; then
    descriptors go together in families g (see `scaling.families`), and ``D_g`` is the mean over the family of the absolute
    differences, in units of the spread of each descriptor. Its square root is a metric that embeds in a Hilbert space, so k is
    positive definite; an L1 distance does not let the one descriptor that differs most outweigh a hundred that agree. From 16
    to 40 inputs without a family are one, and have length scales of their own beside it, both in units of their ranges.
    """

    inputs: tuple[str, ...] | None = None
    _apart: Memory = field(default_factory=partial(Memory, mean_absolute), compare=False, repr=False)

    profile: ClassVar[Profile]

    def __init__(self, inputs: Sequence[str] | None = None) -> None:
        object.__setattr__(self, "inputs", _named(inputs))
        object.__setattr__(self, "_apart", Memory(mean_absolute))

    def prior(self, name: str, layout: Layout) -> Theta:
        alone, families = _parted(self.inputs, layout)
        theta = {}
        if alone:
            site = f"{name}.length_scale"
            theta[site] = pyro.sample(site, length_scales(len(alone), len(alone)))
        if families:
            site = f"{name}.family_scale"
            ranged = singled(layout.families)  # its spread is that of an even distribution over the range
            theta[site] = pyro.sample(site, family_scales([12**-0.5 if label == ranged else 1.0 for label in families]))
        return theta

    def __call__(self, theta: Theta, name: str, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        alone, families = _parted(self.inputs, layout)
        columns = [c for c, g in enumerate(layout.groups) if g in alone]
        smooth_a, smooth_b = (a, b) if len(columns) == len(layout.groups) else (a[..., columns], b[..., columns])
        if alone:
            scale = theta[f"{name}.length_scale"]
            order = [alone.index(layout.groups[c]) for c in columns]
            if order != list(range(len(alone))):
                scale = scale[..., order]
            smooth_a, smooth_b = smooth_a / scale[..., None, :], smooth_b / scale[..., None, :]
        if not families:
            return of_distance(self.profile, smooth_a, smooth_b)
        weights = theta[f"{name}.family_scale"].square().reciprocal()
        if not alone:
            smooth_a, smooth_b = (x.new_zeros(*weights.shape[:-1], len(x), 0) for x in (a, b))
        members = tuple(tuple(c for c, g in enumerate(layout.groups) if g in own) for own in families.values())
        return of_distance(self.profile, smooth_a, smooth_b, weights, self._apart(a, b, members))

    def labels(self, name: str, layout: Layout) -> Labels:
        alone, families = _parted(self.inputs, layout)
        found: Labels = {}
        if alone:
            found[f"{name}.length_scale"] = "input", [layout.inputs[g] for g in alone]
        if families:
            found[f"{name}.family_scale"] = "family", list(families)
        return found

    def diagonal(self, theta: Theta, name: str, a: Tensor, layout: Layout) -> Tensor:
        some = theta.get(f"{name}.length_scale", theta.get(f"{name}.family_scale"))
        assert some is not None
        return a.new_ones(some.shape[:-1] + a.shape[:1])


def _parted(names: tuple[str, ...] | None, layout: Layout) -> tuple[list[int], dict[str, list[int]]]:
    """Inputs with a length scale of their own, and the members of each family; the plain ones, up to 40, are both."""
    chosen = positions(names, layout)
    families: dict[str, list[int]] = {}
    for g in chosen:
        if (label := layout.families[g]) is not None:
            families.setdefault(label, []).append(g)
    return [g for g in chosen if layout.families[g] in (None, singled(layout.families))], families


@dataclass(frozen=True, init=False)
class Matern52(_Stationary):
    r"""Matern covariance of smoothness 5/2 with unit variance, for functions as rough as most measured properties.

    ``k(x, x') = (1 + r + r^2/3) exp(-r)``, ``r^2 = 5 sum_j (x_j - x'_j)^2 / l_j^2``
    (Rasmussen & Williams 2006, eq. 4.17, doi 10.7551/mitpress/3206.001.0001).

    Up to 15 inputs each have a length scale of their own. Beyond, descriptors go together in families, each with a length
    scale and an L1 distance (`bayestl.scaling.families`); up to 40 that have no family have both.

    Parameters
    ----------
    inputs : the inputs it depends on, where a column that is described stands for all its descriptors; all of them by default

    Examples
    --------
    >>> import bayestl as btl
    >>> kernel = btl.Matern52(["formula"]) * btl.Matern52(["temperature", "pressure"])  # all that describes the formula
    >>> model = btl.MultiTask(kernel=kernel)
    """

    profile = MATERN52


@dataclass(frozen=True, init=False)
class RBF(_Stationary):
    r"""Squared-exponential covariance (radial basis function) with unit variance, for functions as smooth as a simulator's.

    ``k(x, x') = exp(-r^2 / 2)``, ``r^2 = sum_j (x_j - x'_j)^2 / l_j^2`` (Rasmussen & Williams 2006, eq. 4.9). On infinitely
    smooth functions it learns faster than `Matern52`; on rougher ones its intervals are too narrow.

    Up to 15 inputs each have a length scale of their own. Beyond, descriptors go together in families, each with a length
    scale and an L1 distance (`bayestl.scaling.families`); up to 40 that have no family have both.

    Parameters
    ----------
    inputs : the inputs it depends on, where a column that is described stands for all its descriptors; all of them by default

    Examples
    --------
    >>> import bayestl as btl
    >>> model = btl.Difference.chain("pbe", "exp", kernel=btl.RBF())
    """

    profile = distance.RBF


@dataclass(frozen=True, init=False)
class MaternOrRBF(Matern52):
    """The default: `Matern52`, unless hundreds of measured numbers tell that the functions are smoother; then `fit` takes `RBF`.

    Which it is shows in the evidence: `fit` climbs from the mode of theta under the one to that under the other, and takes the
    smoother kernel where the posterior density there is 20 times (3 nats) higher. It asks above 80 observations, all of them
    normal, of up to 15 inputs. With fewer the data can hardly tell, and Matern-5/2 is the safer guess. Where joint tasks are
    observed on the same materials, it also puts a `Nugget` beside. The posterior's `model.kernel` says what was taken.

    Parameters
    ----------
    inputs : the inputs it depends on, where a column that is described stands for all its descriptors; all of them by default
    """

    @property
    def candidates(self) -> tuple[Kernel, ...]:
        return Matern52(self.inputs), RBF(self.inputs)


@dataclass(frozen=True, init=False)
class Identity(Kernel):
    r"""``k(x, x') = 1`` where the inputs are equal, else 0: what a material has of its own that the inputs do not tell.

    Added to a smooth kernel, ``Matern52() + Identity()``, it lets tasks share the deviation of a single material from the trend,
    which without it counts as noise of each: a compound whose measured gap is above that of its likes then has the colour of
    its own gap. It helps where tasks are observed on the same materials and descriptors are coarse; it cannot help at
    inputs where nothing was observed.

    Parameters
    ----------
    inputs : the inputs that must be equal; all of them by default
    """

    inputs: tuple[str, ...] | None = None
    _same: Memory = field(default_factory=partial(Memory, same), compare=False, repr=False)

    def __init__(self, inputs: Sequence[str] | None = None) -> None:
        object.__setattr__(self, "inputs", _named(inputs))
        object.__setattr__(self, "_same", Memory(same))

    def prior(self, name: str, layout: Layout) -> Theta:
        positions(self.inputs, layout)
        return {}

    def __call__(self, theta: Theta, name: str, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        chosen = positions(self.inputs, layout)
        return self._same(a, b, tuple(c for c, g in enumerate(layout.groups) if g in chosen))

    def diagonal(self, theta: Theta, name: str, a: Tensor, layout: Layout) -> Tensor:
        return a.new_ones(len(a))


@dataclass(frozen=True, init=False)
class Nugget(Kernel):
    r"""``k(x, x') ((1 - w) + w 1[m = m'])``: the nugget effect, beside a kernel k, of what a material has of its own.

    m are the inputs that tell materials apart. If that is all of them, it is ``(1 - w) k(x, x') + w k(x, x) 1[x = x']``; else
    what a material has of its own changes with the other inputs as k says. (As a constant of each material, ``w 1[m = m']``, it
    took the place of any effect that adds to that of the others, smooth or not, and new materials were told by their mean.)

    Inputs never tell all of a material. Where several tasks are observed on the same materials they share what is left: it is no
    noise, which is each task's own, and a model without it takes it for signal and is far too sure of new materials. Matheron's
    nugget (Chiles & Delfiner 2012, doi 10.1002/9781118136188, sec. 2.3), its covariance between tasks that of k.

    ``logit w ~ N(-6, 3.5^2)``: from nothing, where tasks are smooth functions of their inputs, to a half and more.

    Parameters
    ----------
    kernel : k; the default kernel if None
    inputs : m, those that must be equal; all of them by default
    """

    kernel: Kernel
    inputs: tuple[str, ...] | None = None
    _own: Identity = field(default_factory=Identity, compare=False, repr=False)

    def __init__(
        self, kernel: Kernel | gpytorch.kernels.Kernel | None = None, inputs: Sequence[str] | None = None
    ) -> None:
        object.__setattr__(self, "kernel", as_kernel(kernel))
        object.__setattr__(self, "inputs", _named(inputs))
        object.__setattr__(self, "_own", Identity(inputs))

    @property
    def unscaled(self) -> frozenset[str]:
        return self.kernel.unscaled

    @property
    def candidates(self) -> tuple[Kernel, ...]:
        return tuple(Nugget(kernel, self.inputs) for kernel in self.kernel.candidates)

    def prior(self, name: str, layout: Layout) -> Theta:
        site = f"{name}.nugget"
        return {site: pyro.sample(site, share(1 / (1 + math.exp(6.0)), 3.5))} | self.kernel.prior(name, layout)

    def labels(self, name: str, layout: Layout) -> Labels:
        return self.kernel.labels(name, layout)

    def __call__(self, theta: Theta, name: str, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        k = self.kernel(theta, name, a, b, layout)
        return torch.lerp(k, k * self._own(theta, name, a, b, layout), theta[f"{name}.nugget"][..., None, None])

    def diagonal(self, theta: Theta, name: str, a: Tensor, layout: Layout) -> Tensor:
        return self.kernel.diagonal(theta, name, a, layout)


@dataclass(frozen=True, eq=False)
class GPyTorchKernel(Kernel):
    """Any GPyTorch kernel, its hyperparameters joining theta.

    A hyperparameter takes the GPyTorch prior registered for it, if any. Otherwise a length scale that need only be positive
    takes the prior of `Matern52` on as many inputs as there are columns (`active_dims` are not counted); a parameter between
    two bounds is logit-normal, one with a single bound log-normal on its side of it, one without bounds normal, centred on the
    value that the object holds and one unit wide: a factor of e either way, which trusts that value to its order of magnitude.
    The object itself is never changed; a parameter that does not require a gradient stays at its value.

    Parameters
    ----------
    kernel : the GPyTorch kernel, built for the columns of `inputs`
    inputs : the inputs it depends on, where a column that is described stands for all its descriptors; all of them by default
    scaled : whether it wants the inputs scaled to unit range (False for counts and bits, Tanimoto kernels for example)
    """

    kernel: gpytorch.kernels.Kernel
    inputs: tuple[str, ...] | None = None
    scaled: bool = True

    def __init__(
        self, kernel: gpytorch.kernels.Kernel, inputs: Sequence[str] | None = None, scaled: bool = True
    ) -> None:
        if not scaled and inputs is None:
            raise ValueError("With scaled=False the inputs must be named: GPyTorchKernel(kernel, inputs=[...]).")
        if kernel.batch_shape:
            raise ValueError(
                f"The kernel has batch shape {tuple(kernel.batch_shape)}; draws of theta are batched here. Build it without."
            )
        object.__setattr__(self, "kernel", copy.deepcopy(kernel).double())
        object.__setattr__(self, "inputs", _named(inputs))
        object.__setattr__(self, "scaled", scaled)

    @property
    def unscaled(self) -> frozenset[str]:
        return frozenset() if self.scaled else frozenset(self.inputs or ())

    def _check(self, layout: Layout) -> None:
        """Refuse a kernel that was built for other columns, and priors that no parameter would take."""
        chosen = positions(self.inputs, layout)
        columns = sum(g in chosen for g in layout.groups)
        for part in self.kernel.modules():
            if not isinstance(part, gpytorch.kernels.Kernel):
                continue
            if part.active_dims is not None and int(part.active_dims.min()) < 0:
                raise ValueError(f"{type(part).__name__} counts its active_dims from the end; count them from 0.")
            if part.active_dims is not None and part.ard_num_dims not in (None, len(part.active_dims)):
                raise ValueError(
                    f"{type(part).__name__} has ard_num_dims={part.ard_num_dims} and {len(part.active_dims)} active_dims. Give "
                    "as many length scales as dimensions."
                )
            wanted = part.ard_num_dims if part.active_dims is None else int(part.active_dims.max()) + 1
            if wanted is not None and (wanted > columns or (part.active_dims is None and wanted != columns)):
                raise ValueError(
                    f"{type(part).__name__} was built for {wanted} columns, and its inputs make {columns}: a number makes one, a "
                    "category one for each of its levels."
                )
            taken = {f"{raw.replace('raw_', '')}_prior" for raw, _ in part.named_parameters(recurse=False)}
            if stray := [prior for prior in part._priors if prior not in taken]:
                raise ValueError(
                    f"{type(part).__name__} has priors {listed(stray)}, whose names are of no parameter: those are "
                    f"called {listed(sorted(taken))}. Give them in the constructor, or to register_prior under that name."
                )

    def prior(self, name: str, layout: Layout) -> Theta:
        self._check(layout)
        theta = {}
        for raw_name, raw in self._free():
            site = f"{name}.{raw_name.replace('raw_', '')}"
            theta[site] = pyro.sample(site, self._distribution(raw_name, raw.detach(), layout))
        return theta

    def _free(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The parameters that are inferred: not those that do not require a gradient."""
        return [(name, raw) for name, raw in self.kernel.named_parameters() if raw.requires_grad]

    def _distribution(self, raw_name: str, raw: Tensor, layout: Layout) -> dist.TorchDistribution:
        owner_name, _, short = raw_name.rpartition(".")
        owner = self.kernel.get_submodule(owner_name)
        registered = getattr(owner, short.replace("raw_", "") + "_prior", None)
        constraint = self.kernel.constraint_for_parameter_name(raw_name)
        if registered is not None:
            if isinstance(registered, torch.distributions.MultivariateNormal):
                raise ValueError(
                    f"The prior {type(registered).__name__} of {raw_name!r} links its entries, which is not supported. Give each "
                    "a prior of its own: NormalPrior or LogNormalPrior."
                )
            if constraint is not None and registered.support is torch.distributions.constraints.real:
                raise ValueError(
                    f"The prior {type(registered).__name__} of {raw_name!r} allows values that its constraint {constraint} "
                    "forbids. Use one on the positive numbers: GammaPrior or LogNormalPrior."
                )
            return registered.expand(raw.shape).to_event(raw.dim())
        shape = tuple(raw.shape)
        if short == "raw_lengthscale" and type(constraint) is gpytorch.constraints.Positive:
            inputs = len(positions(self.inputs, layout))
            return length_scales(inputs, *shape)
        if constraint is None:
            return dist.Normal(raw, full(1.0, shape)).to_event(len(shape))
        value, low, high = constraint.transform(raw), constraint.lower_bound, constraint.upper_bound
        maps = torch.distributions.transforms
        offset = low.double()
        if torch.isinf(low).all():
            centre, width, offset = (high - value).log(), -torch.ones((), dtype=torch.float64), high.double()
            squash: torch.distributions.Transform = maps.ExpTransform()
        elif torch.isinf(high).all():
            centre, width = (value - low).log(), torch.ones((), dtype=torch.float64)
            squash = maps.ExpTransform()
        else:
            centre, width = ((value - low) / (high - value)).log(), (high - low).double()
            squash = maps.SigmoidTransform()
        base = dist.Normal(centre, full(1.0, shape))
        return dist.TransformedDistribution(base, [squash, maps.AffineTransform(offset, width)]).to_event(len(shape))

    def __call__(self, theta: Theta, name: str, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        with _IN_TURN:
            return self._evaluate(theta, name, a, b, layout, diagonal=False)

    def diagonal(self, theta: Theta, name: str, a: Tensor, layout: Layout) -> Tensor:
        with _IN_TURN:
            return self._evaluate(theta, name, a, a, layout, diagonal=True)

    def _evaluate(self, theta: Theta, name: str, a: Tensor, b: Tensor, layout: Layout, diagonal: bool) -> Tensor:
        chosen = positions(self.inputs, layout)
        columns = [c for c, g in enumerate(layout.groups) if g in chosen]
        a, b = a[:, columns], b[:, columns]
        shapes = {raw_name: raw.shape for raw_name, raw in self._free()}
        raws = {}
        for raw_name in shapes:
            value = theta[f"{name}.{raw_name.replace('raw_', '')}"].double()
            constraint = self.kernel.constraint_for_parameter_name(raw_name)
            raws[f"kernel.{raw_name}"] = value if constraint is None else constraint.inverse_transform(value)
        module = _Dense(self.kernel)
        batch = next((raws[f"kernel.{n}"].shape[: -len(s) or None] for n, s in shapes.items()), torch.Size())
        if not batch:
            return torch.func.functional_call(module, raws, (a, b, diagonal))
        flat = {key: raw.reshape(-1, *raw.shape[len(batch) :]) for key, raw in raws.items()}
        draws = [
            torch.func.functional_call(module, {key: raw[s] for key, raw in flat.items()}, (a, b, diagonal))
            for s in range(batch.numel())
        ]
        return torch.stack(draws).reshape(*batch, *draws[0].shape)


class _Dense(torch.nn.Module):
    """Evaluates a kernel at once: GPyTorch would do so lazily, after the parameters have been put back."""

    def __init__(self, kernel: gpytorch.kernels.Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, a: Tensor, b: Tensor, diagonal: bool) -> Tensor:
        if diagonal:
            return self.kernel(a, b, diag=True)
        return _evaluated(self.kernel, a, b)


def _evaluated(kernel: gpytorch.kernels.Kernel, a: Tensor, b: Tensor) -> Tensor:
    """``k(a, b)``, sums term by term: GPyTorch would factorise one on the way, and warn where it cannot."""
    own = gpytorch.kernels
    if kernel.active_dims is None and isinstance(kernel, own.AdditiveKernel):
        return torch.stack([_evaluated(part, a, b) for part in kernel.kernels]).sum(0)
    if kernel.active_dims is None and isinstance(kernel, own.ScaleKernel):
        return kernel.outputscale * _evaluated(kernel.base_kernel, a, b)
    return kernel(a, b).to_dense()


@dataclass(frozen=True)
class Sum(Kernel):
    """``k = sum_i w_i k_i`` with ``w = softmax(N(0, 1.5^2))``, so that the sum of parts of unit variance has it too."""

    parts: tuple[Kernel, ...]

    @property
    def unscaled(self) -> frozenset[str]:
        return frozenset().union(*(part.unscaled for part in self.parts))

    def prior(self, name: str, layout: Layout) -> Theta:
        site = f"{name}.logit"
        theta = {site: pyro.sample(site, normal(0.0, 1.5, len(self.parts)))}
        for i, part in enumerate(self.parts):
            theta |= part.prior(f"{name}.{i}", layout)
        return theta

    def labels(self, name: str, layout: Layout) -> Labels:
        return _labels_of(self.parts, name, layout)

    def __call__(self, theta: Theta, name: str, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        weights = theta[f"{name}.logit"].softmax(-1)[..., None, None]
        return sum(  # type: ignore[return-value]
            weights[..., i, :, :] * part(theta, f"{name}.{i}", a, b, layout) for i, part in enumerate(self.parts)
        )

    def diagonal(self, theta: Theta, name: str, a: Tensor, layout: Layout) -> Tensor:
        weights = theta[f"{name}.logit"].softmax(-1)[..., None]
        return sum(  # type: ignore[return-value]
            weights[..., i, :] * part.diagonal(theta, f"{name}.{i}", a, layout) for i, part in enumerate(self.parts)
        )


@dataclass(frozen=True)
class Product(Kernel):
    """``k = prod_i k_i``."""

    parts: tuple[Kernel, ...]

    @property
    def unscaled(self) -> frozenset[str]:
        return frozenset().union(*(part.unscaled for part in self.parts))

    def prior(self, name: str, layout: Layout) -> Theta:
        theta: Theta = {}
        for i, part in enumerate(self.parts):
            theta |= part.prior(f"{name}.{i}", layout)
        return theta

    def labels(self, name: str, layout: Layout) -> Labels:
        return _labels_of(self.parts, name, layout)

    def __call__(self, theta: Theta, name: str, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
        k = self.parts[0](theta, f"{name}.0", a, b, layout)
        for i, part in enumerate(self.parts[1:], start=1):
            k = k * part(theta, f"{name}.{i}", a, b, layout)
        return k

    def diagonal(self, theta: Theta, name: str, a: Tensor, layout: Layout) -> Tensor:
        k = self.parts[0].diagonal(theta, f"{name}.0", a, layout)
        for i, part in enumerate(self.parts[1:], start=1):
            k = k * part.diagonal(theta, f"{name}.{i}", a, layout)
        return k


def _labels_of(parts: tuple[Kernel, ...], name: str, layout: Layout) -> Labels:
    return {site: own for i, part in enumerate(parts) for site, own in part.labels(f"{name}.{i}", layout).items()}


def positions(names: tuple[str, ...] | None, layout: Layout) -> list[int]:
    """Positions of the named inputs, a described column standing for all that describes it; all of them when None."""
    if names is None:
        return list(range(len(layout.inputs)))
    if unknown := [name for name in names if name not in (*layout.inputs, *layout.columns)]:
        known = list(dict.fromkeys(layout.columns or layout.inputs))
        raise DataError(f"The kernel names inputs {listed(unknown)}; the data have {listed(known, 20)}.")
    found = [
        [layout.inputs.index(name)]
        if name in layout.inputs
        else [g for g, own in enumerate(layout.columns) if own == name]
        for name in names
    ]
    return list(dict.fromkeys(g for own in found for g in own))
