"""Prior distributions in float64, written as pushforwards of a standard normal wherever that is possible.

Every parameter that is ``T(v)`` with ``v ~ N(0, 1)`` can be inferred in the coordinate ``v``, in which the log prior is
``-v^2/2`` with curvature 1, whatever the parameter means.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

Theta = dict[str, Tensor]
FEW = 15  # inputs, each of which may have a length scale of its own and no other

_ALONE = threading.RLock()


@contextmanager
def pyro_alone() -> Iterator[None]:
    """Run a Pyro program: its handlers, its settings and torch's generator belong to the process, so one thread at a time."""
    with _ALONE, pyro.validation_enabled(False):
        yield


def full(value: float, shape: tuple[int, ...]) -> Tensor:
    """Constant float64 tensor."""
    return torch.full(shape, value, dtype=torch.float64)


def normal(loc: float, scale: float, *shape: int) -> TorchDistribution:
    """Independent ``N(loc, scale^2)`` of the given event shape."""
    return dist.Normal(full(loc, shape), full(scale, shape)).to_event(len(shape))


def log_normal(loc: float, scale: float, *shape: int) -> TorchDistribution:
    """Independent ``exp(N(loc, scale^2))`` of the given event shape."""
    return dist.LogNormal(full(loc, shape), full(scale, shape)).to_event(len(shape))


def partial_correlations(scale: float, *shape: int) -> TorchDistribution:
    """Independent ``tanh(N(0, scale^2))`` in (-1, 1)."""
    base = dist.Normal(full(0.0, shape), full(scale, shape))
    return dist.TransformedDistribution(base, [torch.distributions.transforms.TanhTransform(cache_size=1)]).to_event(
        len(shape)
    )


def share(centre: float, scale: float, *shape: int) -> TorchDistribution:
    """Shares in (0, 1) with ``logit ~ N(logit(centre), scale^2)``."""
    base = dist.Normal(full(math.log(centre / (1 - centre)), shape), full(scale, shape))
    return dist.TransformedDistribution(base, [torch.distributions.transforms.SigmoidTransform()]).to_event(len(shape))


def powers() -> TorchDistribution:
    """A power in (0, 2) with ``logit(power / 2) ~ N(0, 1)``: centred on one, the plain scale, and as ready to bend up as down."""
    maps = [torch.distributions.transforms.SigmoidTransform(), torch.distributions.transforms.AffineTransform(0.0, 2.0)]
    return dist.TransformedDistribution(normal(0.0, 1.0), maps)


def length_scales(inputs: int, *shape: int) -> TorchDistribution:
    """Length scales of `inputs` inputs of unit range: one each (``shape[-1] = inputs``) or one in common (``shape[-1] = 1``).

    Where each of several inputs has its own, ``log l = v + 0.4 (sqrt(1 + v^2) - 1)``, ``v ~ N(0, 1)``: median 1, from 0.22 to 12
    within two standard deviations. An input may matter little far more easily than it may matter a lot. Against a log-normal
    with the same lower end, and 5 at the upper, two idle ones of six inputs cost less: on simulated tables 0.017 to 0.025 nats a
    row at n = 100 and 0.006 to 0.009 at 400; a log-normal as wide as that at both ends overfits ten rows.

    Of more than 15 inputs most matter little: the median is ``3 (d/15)^(1/2)``, and 0.8 stands in place of 0.4.

    One length scale for all is ``LogNormal(log(d) / 2 - 0.3, 0.8)``: distances grow with the square root of the dimension, and so
    must it, or the functions it draws become white noise. That a single input matters little is for the amplitude to say.
    """
    if shape[-1] < inputs or inputs == 1:
        return log_normal(0.5 * math.log(inputs) - 0.3, 0.8, *shape)
    median, tail = (1.0, 0.4) if inputs <= FEW else (3 * math.sqrt(inputs / FEW), 0.8)
    base = dist.Normal(full(0.0, shape), full(1.0, shape))
    shift = torch.distributions.transforms.AffineTransform(math.log(median), 1.0)
    maps = [_TwoSlopes(1.0, tail), shift, torch.distributions.transforms.ExpTransform()]
    return dist.TransformedDistribution(base, maps).to_event(len(shape))


def family_scales(units: Sequence[float]) -> TorchDistribution:
    """Length scales of families of descriptors, whose distances are about the unit given for each between typical rows.

    The median grows with the square root of their number, as in `length_scales`; ``exp(0.3)`` and the width 0.7 let a family
    drop out, and the nearest rows of a table be near.
    """
    loc = [0.3 + 0.5 * math.log(len(units) * unit) for unit in units]
    return dist.LogNormal(torch.tensor(loc, dtype=torch.float64), 0.7).to_event(1)


def noise(*shape: int) -> TorchDistribution:
    """Noise standard deviation in units of the task's spread: median 0.14, and from 0.02 to 1 within two deviations.

    A prior on smaller noise (median ``exp(-4)``) makes intervals too narrow on ten to thirty rows.
    """
    return log_normal(-2.0, 1.0, *shape)


def amplitude(*shape: int) -> TorchDistribution:
    """Standard deviation of a function on standardised values: median 1.2, 0.25 to 6 within two deviations.

    Values of variance one are a function and noise, so the function is a little below one where the inputs tell most of the
    value, a third where they tell a tenth of its variance; above one where it goes on beyond the rows, which have seen part of
    it. A dozen of them tell their own spread badly: against ``LogNormal(-0.1, 0.5)`` on 23 real columns it gains 0.1 nats with 12
    rows (0.02 where none is far out), 0.01 with 25 and 0.004 with 60, at lower errors, and coverage of .87 instead of .86.
    """
    return log_normal(0.2, 0.8, *shape)


class _Bijection(torch.distributions.transforms.Transform):
    """A rising map of the real line onto itself, told by two constants, or two for each entry."""

    domain = codomain = torch.distributions.constraints.real
    bijective = True
    sign = 1

    def __init__(self, a: Any, b: Any) -> None:
        super().__init__()
        self.a, self.b = a, b

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (self.a, self.b) == (other.a, other.b)  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.a, self.b))


class _TwoSlopes(_Bijection):
    """``x -> a x + b (sqrt(1 + x^2) - 1)``: its slope is ``a - b`` far below zero and ``a + b`` far above."""

    def _call(self, x: Tensor) -> Tensor:
        return self.a * x + self.b * ((1 + x.square()).sqrt() - 1)

    def _inverse(self, y: Tensor) -> Tensor:
        product, y = self.a**2 - self.b**2, y + self.b
        return (self.a * y - self.b * (y.square() + product).sqrt()) / product

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.log(self.a + self.b * x / (1 + x.square()).sqrt())


class _Sinh(_Bijection):
    """``x -> a sinh(b x)``."""

    def _call(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.a) * torch.sinh(x.new_tensor(self.b) * x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.asinh(y / y.new_tensor(self.a)) / y.new_tensor(self.b)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = x.new_tensor(self.a), x.new_tensor(self.b)
        return torch.log(a * b * torch.cosh(b * x))


MANY = 5  # functions, beyond which few of them are supposed to matter


def slopes(among: Sequence[int]) -> TorchDistribution:
    """Factors between functions, ``0.28 sinh(1.6 N(0, 1))``, and smaller ones where each is chosen `among` more than five.

    Half lie within 0.4 of zero, a tenth beyond 1.9: nearly the law of ``N(0, 1) LogNormal(-0.3, 1)``, a shrinkage prior, but of
    one parameter instead of two on a ridge. Against ``N(1, 1)`` on the two-dimensional toys, it takes the error beside an
    irrelevant source from 4 % above that of no source to 2 % below, and coverage from 0.835 to 0.90, at no cost where the source
    is related.

    Of n > 5 one or two are supposed to matter, ``0.28/n sinh((1.6 + 0.15 log n) N(0, 1))``: the typical one is as much smaller as
    there are more of them (as the global scale of a horseshoe is, Piironen & Vehtari 2017, doi 10.1214/17-EJS1337SI), with
    heavier tails, for one that does. As wide each as a single one, ten irrelevant sources explain ten values of the target
    between them.
    """
    shape, count = (len(among),), [n if n > MANY else 1 for n in among]
    base = dist.Normal(full(0.0, shape), full(1.0, shape))
    a, b = tuple(0.28 / n for n in count), tuple(1.6 + 0.15 * math.log(n) for n in count)
    return dist.TransformedDistribution(base, [_Sinh(a, b)]).to_event(1)
