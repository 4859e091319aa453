"""Functions of a squared distance: of smooth inputs, and of families of descriptors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDED = 1e-6  # of an input's range, no difference to a kernel; rows and candidates are told apart by `columns.DIGITS`
FAR_OUT = 1e6  # squared distance from the mean, in length scales, from which sums of squares lose what matters between other rows


class Profile(NamedTuple):
    """A kernel as a function of r^2.

    `values` takes ``factor r^2``, which it may overwrite, and gives k, and a matrix and a number whose product is
    ``dk/d(factor r^2)``. What is beyond `far` is taken to be `far`: k is below 1e-39 there, and products of smaller numbers are
    subnormal, a hundred times slower.
    """

    values: Callable[[Tensor], tuple[Tensor, Tensor, float]]
    far: float
    factor: float


def _matern52(square: Tensor) -> tuple[Tensor, Tensor, float]:
    """``k = (1 + r + r^2/3) exp(-r)``, ``dk/d(r^2) = -(1/6)(1 + r) exp(-r)``, with five times the squared distance for r^2."""
    r = square.sqrt_()
    decay = torch.mul(r, -1.0).exp_()
    slope = torch.addcmul(decay, decay, r)
    return torch.addcmul(slope, decay.mul_(r), r, value=1 / 3, out=decay), slope, -1 / 6


def _rbf(exponent: Tensor) -> tuple[Tensor, Tensor, float]:
    """``k = exp(s)``, ``dk/ds = k``, with ``s = -r^2/2``."""
    k = exponent.exp_()
    return k, k, 1.0


MATERN52 = Profile(_matern52, 1e4, 5.0)
RBF = Profile(_rbf, -90.0, -0.5)


class _OfDistance(torch.autograd.Function):
    """A kernel of ``|a - b|^2 + sum_g w_g D_g``; its gradient goes through ``dk/d(r^2)``, finite at zero distance."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, w: Tensor | None, apart: Tensor | None, profile: Profile) -> Tensor:
        here, there, factor = a, b, profile.factor
        centre = b.mean(-2, keepdim=True)  # differences of large numbers lose digits
        a, b = a - centre, b - centre
        norm = b.square().sum(-1, keepdim=True)
        if norm.numel() and not norm.is_meta and float(norm.max()) > FAR_OUT:
            square = torch.cdist(here, there, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(factor)
            centre = there.median(-2, keepdim=True).values
            a, b = here - centre, there - centre
        else:
            # Few passes over the (n, m) array, in place: they, not the arithmetic, are what a kernel matrix costs. So the squared
            # norms ride along in the product, as two more columns.
            left = torch.cat([-2.0 * a, a.square().sum(-1, keepdim=True), a.new_ones(*a.shape[:-1], 1)], -1).mul_(
                factor
            )
            square = left @ torch.cat([b, b.new_ones(*b.shape[:-1], 1), norm], -1).mT
        if w is not None and apart is not None:
            square.flatten(-2).add_(w @ apart.flatten(1), alpha=factor)
        k, slope, scale = profile.values(square.clamp_(min(profile.far, 0.0), max(profile.far, 0.0)))
        ctx.save_for_backward(a, b, w, apart, slope)
        ctx.factor = scale * factor
        return k

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, w, apart, slope = ctx.saved_tensors
        push = gradient * slope  # dk/d(r^2) up to ctx.factor, and d(r^2)/da = 2 (a - b)
        d_a = d_b = d_w = d_apart = None
        if ctx.needs_input_grad[0]:
            d_a = (push @ b).sub_(push.sum(-1).unsqueeze(-1) * a).mul_(-2 * ctx.factor)
        if ctx.needs_input_grad[1]:
            d_b = (push.mT @ a).sub_(push.sum(-2).unsqueeze(-1) * b).mul_(-2 * ctx.factor)
        if ctx.needs_input_grad[2]:
            d_w = (push.flatten(-2) @ apart.flatten(1).mT).mul_(ctx.factor)
        if ctx.needs_input_grad[3]:
            d_apart = torch.einsum("...g,...nm->gnm", w, push).mul_(ctx.factor)
        return d_a, d_b, d_w, d_apart, None


def of_distance(
    profile: Profile,
    a: Float[Tensor, "*#draws n d"],
    b: Float[Tensor, "*#draws m d"],
    weights: Float[Tensor, "*#draws G"] | None = None,
    apart: Float[Tensor, "G n m"] | None = None,
) -> Float[Tensor, "*#draws n m"]:
    """Evaluate a kernel of ``r^2 = |a - b|^2 + sum_g weights_g apart_g``."""
    return _OfDistance.apply(a, b, weights, apart, profile)  # type: ignore[no-any-return]


def matern52(a: Float[Tensor, "*#draws n d"], b: Float[Tensor, "*#draws m d"]) -> Float[Tensor, "*#draws n m"]:
    """``(1 + r + r^2/3) exp(-r)`` with ``r = sqrt(5) |a - b|``."""
    return of_distance(MATERN52, a, b)


def rbf(a: Float[Tensor, "*#draws n d"], b: Float[Tensor, "*#draws m d"]) -> Float[Tensor, "*#draws n m"]:
    """``exp(-|a - b|^2 / 2)``."""
    return of_distance(RBF, a, b)


def mean_absolute(
    a: Float[Tensor, "n columns"], b: Float[Tensor, "m columns"], families: Sequence[Sequence[int]]
) -> Float[Tensor, "G n m"]:
    """Mean absolute difference over the columns of each family, for all pairs of rows.

    The square root of an L1 distance embeds in a Hilbert space (Schoenberg 1938), so it may stand where a kernel expects a
    squared distance.
    """
    if a.requires_grad or b.requires_grad:
        return torch.stack([torch.cdist(a[:, list(own)], b[:, list(own)], p=1.0) / len(own) for own in families])
    out = a.new_empty(len(families), len(a), len(b))  # filled in place: it may be large
    for apart, own in zip(out, families, strict=True):
        torch.div(torch.cdist(a[:, list(own)], b[:, list(own)], p=1.0), len(own), out=apart)
    return out


def same(a: Float[Tensor, "n columns"], b: Float[Tensor, "m columns"], columns: Sequence[int]) -> Float[Tensor, "n m"]:
    """1 where two rows agree in some columns, within a millionth of the range as after writing and reading a table; else 0."""
    chosen = list(columns)
    return (torch.cdist(a[:, chosen], b[:, chosen], p=math.inf) < ROUNDED).to(a.dtype)


class Memory:
    """The last results of `mean_absolute` or `same`, 64 and 320 MB at most: they do not depend on theta, and cost the most.

    Keys are where the rows lie in memory; the rows are kept, so that nothing else can come to lie there. Threads may share it.
    """

    LARGEST = 40_000_000  # numbers
    MOST = 64  # results

    def __init__(self, compare: Callable[[Tensor, Tensor, Any], Tensor]) -> None:
        self.compare = compare
        self._kept: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}
        self._lock = Lock()

    def __call__(self, a: Tensor, b: Tensor, columns: tuple[Any, ...]) -> Tensor:
        if a.requires_grad or b.requires_grad or a.is_inference() or b.is_inference():
            return self.compare(a, b, columns)
        key = (*_place(a), *_place(b), columns)
        with self._lock:
            found = self._kept.pop(key, None)
        found = found or (a, b, self.compare(a, b, columns))
        if found[2].numel() <= self.LARGEST:
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > self.MOST or sum(k.numel() for *_, k in self._kept.values()) > self.LARGEST:
                    self._kept.pop(next(iter(self._kept)))
        return found[2]

    def __reduce__(self) -> tuple[type[Memory], tuple[Any]]:
        return Memory, (self.compare,)


def _place(x: Tensor) -> tuple[Any, ...]:
    return x.data_ptr(), x._version, tuple(x.shape), x.stride()
